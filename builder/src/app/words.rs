//! Times as the listings show them.

use jiff::Timestamp;

/// How long ago a time was, in the words of the `go-humanize` package; empty for no time.
pub fn ago(then: Option<Timestamp>, now: Timestamp) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const WEEK: i64 = 7 * DAY;
    const MONTH: i64 = 30 * DAY;
    const YEAR: i64 = 12 * MONTH;
    let Some(then) = then else { return String::new() };
    let seconds = now.duration_since(then).as_secs();
    let (distance, side) = if now < then { (-seconds, "from now") } else { (seconds, "ago") };
    let many = |unit: i64, name: &str| format!("{} {name} {side}", distance / unit);
    match distance {
        ..1 => "now".into(),
        1 => format!("1 second {side}"),
        2..MINUTE => many(1, "seconds"),
        MINUTE..120 => format!("1 minute {side}"),
        120..HOUR => many(MINUTE, "minutes"),
        HOUR..7200 => format!("1 hour {side}"),
        7200..DAY => many(HOUR, "hours"),
        DAY..172_800 => format!("1 day {side}"),
        172_800..WEEK => many(DAY, "days"),
        WEEK..1_209_600 => format!("1 week {side}"),
        1_209_600..MONTH => many(WEEK, "weeks"),
        MONTH..5_184_000 => format!("1 month {side}"),
        5_184_000..YEAR => many(MONTH, "months"),
        _ if distance < 18 * MONTH => format!("1 year {side}"),
        _ if distance < 2 * YEAR => format!("2 years {side}"),
        _ if distance < 37 * YEAR => many(YEAR, "years"),
        _ => format!("a long while {side}"),
    }
}

/// How long something took: `12s`, `75m12s`, never hours; empty where one end is missing.
pub fn elapsed(start: Option<Timestamp>, end: Option<Timestamp>) -> String {
    let (Some(start), Some(end)) = (start, end) else { return String::new() };
    let seconds = end.duration_since(start).as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_go_humanize_tells_them() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let day = 86_400;
        for (seconds, text) in [
            (0, "now"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (119, "1 minute ago"),
            (3599, "59 minutes ago"),
            (3600, "1 hour ago"),
            (7200, "2 hours ago"),
            (day, "1 day ago"),
            (2 * day, "2 days ago"),
            (7 * day, "1 week ago"),
            (14 * day, "2 weeks ago"),
            (29 * day, "4 weeks ago"),
            (30 * day, "1 month ago"),
            (59 * day, "1 month ago"),
            (60 * day, "2 months ago"),
            (359 * day, "11 months ago"),
            (360 * day, "1 year ago"),
            (540 * day, "2 years ago"),
            (720 * day, "2 years ago"),
            (36 * 360 * day, "36 years ago"),
            (37 * 360 * day, "a long while ago"),
            (-120, "2 minutes from now"),
        ] {
            let then = Timestamp::from_second(now.as_second() - seconds).unwrap();
            assert_eq!(ago(Some(then), now), text);
        }
        assert_eq!(ago(None, now), "");
    }

    #[test]
    fn spans_have_minutes_and_seconds() {
        let start = Timestamp::from_second(1000).unwrap();
        for (seconds, text) in [(0, "0s"), (59, "59s"), (120, "2m0s"), (4512, "75m12s")] {
            assert_eq!(elapsed(Some(start), Timestamp::from_second(1000 + seconds).ok()), text);
        }
        assert_eq!(elapsed(Some(start), None), "");
    }
}
