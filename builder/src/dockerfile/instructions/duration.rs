//! Durations in Go's syntax: `1h30m`, `1.5s`, `-2ms`, `0`.

/// The duration in nanoseconds; nothing when the text is none or does not fit Go's 64 bits.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if unsigned == "0" {
        return Some(0);
    }
    let mut rest = unsigned;
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (part, behind) = component(rest)?;
        total = total.checked_add(part)?;
        rest = behind;
    }
    if unsigned.is_empty() {
        return None;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// One number with its unit, in nanoseconds, and what is behind it.
fn component(text: &str) -> Option<(i128, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    let (number, rest) = text.split_at(end);
    let unit_end = rest.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(rest.len());
    let (unit, behind) = rest.split_at(unit_end);
    let unit: i128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { i128::from(whole.parse::<i64>().ok()?) };
    // More digits than these are less than a nanosecond, even of an hour.
    let fraction = &fraction[..fraction.len().min(15)];
    let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some((whole.checked_mul(unit)?.checked_add(parts * unit / scale)?, behind))
}

#[cfg(test)]
mod tests {
    use super::nanoseconds;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let rows: [(&str, Option<i64>); 17] = [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("100us", Some(100_000)),
            ("3µs", Some(3_000)),
            ("-2ms", Some(-2_000_000)),
            ("+1ns", Some(1)),
            ("5", None),
            ("", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("9999999999999999999h", None),
        ];
        for (text, expected) in rows {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
