//! Values as Go's `fmt` prints them: Docker's histories are made with it, and scanners read them.

use std::fmt::Write as _;

use crate::graph::config::Healthcheck;

/// `%q` of a list of strings: `["a" "b c"]`.
pub(super) fn list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", quoted.join(" "))
}

/// `%+v` of Docker's `HealthcheckConfig`: `{Test:[CMD-SHELL x] Interval:30s Timeout:0s … Retries:3}`.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    let mut text = format!("{{Test:[{}]", check.test.join(" "));
    let times = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    for (name, time) in times {
        let _ = write!(text, " {name}:{}", duration(time));
    }
    let _ = write!(text, " Retries:{}}}", check.retries);
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

/// `%q` of a string, but for characters above ASCII that cannot be printed.
fn quoted(text: &str) -> String {
    let mut shown = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => shown.extend(['\\', character]),
            '\x07' => shown.push_str("\\a"),
            '\x08' => shown.push_str("\\b"),
            '\t' => shown.push_str("\\t"),
            '\n' => shown.push_str("\\n"),
            '\x0b' => shown.push_str("\\v"),
            '\x0c' => shown.push_str("\\f"),
            '\r' => shown.push_str("\\r"),
            control if control.is_ascii_control() => _ = write!(shown, "\\x{:02x}", u32::from(control)),
            other => shown.push(other),
        }
    }
    shown + "\""
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
    fn strings() {
        for (text, shown) in [
            ("plain", r#""plain""#),
            ("a \"b\" \\", r#""a \"b\" \\""#),
            ("\x07\x08\t\n\x0b\x0c\r", r#""\a\b\t\n\v\f\r""#),
            ("\x1b\x7f", r#""\x1b\x7f""#),
            ("'한국어' ⚠\u{fe0f}", "\"'한국어' ⚠\u{fe0f}\""),
        ] {
            assert_eq!(quoted(text), shown);
        }
    }
}
