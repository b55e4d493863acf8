//! "Did you mean": the known name that is nearest to what was written.

/// Words longer than this have no suggestion: the work grows with the product of the lengths.
const LONGEST: usize = 64;

/// The candidate nearest to `word`, letter case aside, if it is near enough to be what was meant: one edit for every
/// three letters, rounded, at least one and at most three.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let written: Vec<char> = word.chars().take(LONGEST + 1).flat_map(char::to_lowercase).collect();
    if written.is_empty() || written.len() > LONGEST {
        return None;
    }
    let limit = ((written.len() + 1) / 3).clamp(1, 3);
    candidates
        .iter()
        .map(|candidate| (distance(&written, &candidate.to_lowercase().chars().collect::<Vec<_>>()), *candidate))
        .filter(|(edits, candidate)| *edits <= limit && *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// The edit distance: insertions, deletions, replacements and exchanges of neighbours.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; right.len() + 1];
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, &from) in left.iter().enumerate() {
        let mut current = vec![row + 1; right.len() + 1];
        for (column, &to) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(from != to);
            let mut best = replaced.min(previous[column + 1] + 1).min(current[column] + 1);
            let exchanged = row > 0 && column > 0 && from == right[column - 1] && left[row - 1] == to;
            if exchanged {
                best = best.min(before[column - 1] + 1);
            }
            current[column + 1] = best;
        }
        before = previous;
        previous = current;
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let known = ["RUN", "COPY", "ENTRYPOINT", "ENV"];
        assert_eq!(nearest("rnu", &known), Some("RUN"));
        assert_eq!(nearest("ENTRYPIONT", &known), Some("ENTRYPOINT"));
        assert_eq!(nearest("COPPY", &known), Some("COPY"));
        assert_eq!(nearest("WORKDIR", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest(&"RUN".repeat(1_000_000), &known), None);
    }
}
