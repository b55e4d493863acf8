//! Values as Go's `fmt` prints them: Docker's histories are made with it, and scanners read them.

use std::fmt::Write as _;

use crate::graph::config::Healthcheck;

/// `%q` of a list of strings: `["a" "b c"]`.
pub(super) fn list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// `%q` of a pointer to Docker's `HealthConfig`: `&{["CMD-SHELL" "x"] "30s" "0s" "0s" "0s" '\x03'}`.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    let mut text = format!("&{{{}", list(&check.test));
    for time in [check.interval, check.timeout, check.start_period, check.start_interval] {
        let _ = write!(text, " {:?}", duration(time));
    }
    let _ = write!(text, " {}}}", character(check.retries));
    text
}

/// `time.Duration.String()` of nanoseconds: `1h30m0s`, `1.5s`, `20ms`.
fn duration(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    for (unit, name) in [(1, "ns"), (1_000, "µs"), (1_000_000, "ms")] {
        if (unit..unit * 1000).contains(&nanoseconds) {
            return format!("{}{name}", decimal(nanoseconds, unit));
        }
    }
    let (minutes, rest) = (nanoseconds / SECOND / 60, nanoseconds % (60 * SECOND));
    let mut text = String::new();
    if minutes >= 60 {
        let _ = write!(text, "{}h", minutes / 60);
    }
    if minutes > 0 {
        let _ = write!(text, "{}m", minutes % 60);
    }
    let _ = write!(text, "{}s", decimal(rest, SECOND));
    text
}

/// `count / unit` with as many decimals as it needs.
fn decimal(count: u64, unit: u64) -> String {
    let digits = unit.ilog10() as usize;
    let (whole, rest) = (count / unit, count % unit);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:0digits$}").trim_end_matches('0').to_owned() }
}

/// `%q` of an integer: the character of that number.
fn character(number: u64) -> String {
    let character = u32::try_from(number).ok().and_then(char::from_u32);
    match character.unwrap_or(char::REPLACEMENT_CHARACTER) {
        '\x07' => "'\\a'".into(),
        '\x08' => "'\\b'".into(),
        '\x0b' => "'\\v'".into(),
        '\x0c' => "'\\f'".into(),
        '\n' => "'\\n'".into(),
        '\r' => "'\\r'".into(),
        '\t' => "'\\t'".into(),
        low if low < ' ' || low == '\x7f' => format!("'\\x{:02x}'", u32::from(low)),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (nanoseconds, shown) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (20_000_000, "20ms"),
            (999_999_999, "999.999999ms"),
            (1_000_000_000, "1s"),
            (90_500_000_000, "1m30.5s"),
            (300_000_000_000, "5m0s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(nanoseconds), shown);
        }
    }

    #[test]
    fn numbers_as_characters() {
        let shown: Vec<String> = [0, 3, 7, 10, 39, 65, 127, u64::MAX].into_iter().map(character).collect();
        let expected = [r"'\x00'", r"'\x03'", r"'\a'", r"'\n'", r"'\''", "'A'", r"'\x7f'", "'\u{fffd}'"];
        assert_eq!(shown, expected);
    }
}
