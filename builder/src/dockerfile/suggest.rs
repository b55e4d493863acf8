//! "Did you mean": the known name that is nearest to what was written.

/// Words longer than this have no suggestion: the work grows with the product of the lengths.
const LONGEST: usize = 64;

/// The candidate nearest to `word`, ASCII letter case aside, if it is near enough to be what was meant: one edit for
/// every three letters, rounded, at least one and at most three.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let written: Vec<char> = word.chars().take(LONGEST + 1).collect();
    if written.is_empty() || written.len() > LONGEST {
        return None;
    }
    let limit = ((written.len() + 1) / 3).clamp(1, 3);
    let mut rows = Rows::default();
    let mut best = None;
    for &candidate in candidates {
        let length = candidate.chars().count();
        if length.abs_diff(written.len()) > limit || length <= 1 {
            continue;
        }
        let edits = rows.distance(&written, candidate);
        if edits <= limit && best.is_none_or(|(least, _)| edits < least) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Three rows of the table of edit distances, kept between candidates.
#[derive(Default)]
struct Rows {
    before: Vec<usize>,
    previous: Vec<usize>,
    current: Vec<usize>,
}

impl Rows {
    /// The edit distance: insertions, deletions, replacements and exchanges of neighbours.
    fn distance(&mut self, left: &[char], right: &str) -> usize {
        self.previous.clear();
        self.previous.extend(0..=left.len());
        let mut above = '\0';
        for (row, to) in right.chars().enumerate() {
            self.current.clear();
            self.current.push(row + 1);
            for (column, from) in left.iter().enumerate() {
                let replaced = self.previous[column] + usize::from(!from.eq_ignore_ascii_case(&to));
                let mut best = replaced.min(self.previous[column + 1] + 1).min(self.current[column] + 1);
                let exchanged = row > 0
                    && column > 0
                    && from.eq_ignore_ascii_case(&above)
                    && left[column - 1].eq_ignore_ascii_case(&to);
                if exchanged {
                    best = best.min(self.before[column - 1] + 1);
                }
                self.current.push(best);
            }
            above = to;
            std::mem::swap(&mut self.before, &mut self.previous);
            std::mem::swap(&mut self.previous, &mut self.current);
        }
        self.previous[left.len()]
    }
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
