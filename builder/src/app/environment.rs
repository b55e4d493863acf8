//! The environment of an app as releases hold it: `KEY=VALUE` lines.

use std::collections::BTreeMap;

/// The variables of an app.
pub type Environment = BTreeMap<String, String>;

/// Reads lines: the name ends at the first `=` and is trimmed, the value is kept as it is but for carriage returns at its
/// end, other lines mean nothing.
pub fn parse(text: &str) -> Environment {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim_end_matches('\r').to_owned()));
    pairs.filter(|(name, _)| !name.is_empty()).collect()
}

/// Writes the variables, sorted, a line each, none after the last.
pub fn render(environment: &Environment) -> String {
    let lines: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    lines.join("\n")
}

/// Says what changed, as a release's description does: `env add:A change:B remove:C`.
pub fn describe(before: &Environment, after: &Environment) -> String {
    let mut words = vec!["env".to_owned()];
    let added = after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("add:{name}"));
    let changed = after.iter().filter(|(name, value)| before.get(*name).is_some_and(|old| old != *value));
    words.extend(added);
    words.extend(changed.map(|(name, _)| format!("change:{name}")));
    words.extend(before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("remove:{name}")));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_written() {
        let environment = parse("B=2\n A =x=y \nnothing\n=empty\nC=");
        assert_eq!(render(&environment), "A=x=y \nB=2\nC=");
        assert_eq!(parse(&render(&environment)), environment);
        assert_eq!(parse("A=1\r\r\nB=\r2\r"), parse("A=1\nB=\r2"));
    }

    #[test]
    fn changes_are_told_in_order() {
        let (before, after) = (parse("A=1\nB=1\nC=1"), parse("B=2\nC=1\nD=1"));
        assert_eq!(describe(&before, &after), "env add:D change:B remove:A");
    }
}
