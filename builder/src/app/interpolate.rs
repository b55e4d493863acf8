//! `${NAME}` in a convox.yml: replaced in the raw text, comments included, before it is read as YAML.

use super::environment::Environment;

/// Replaces every `${…}` by the variable's value; one that is not set is replaced by nothing. There is no `$NAME`, no
/// default and no escape.
pub fn interpolate(text: &str, environment: &Environment) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        result.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            result.push_str("${");
            rest = after;
            continue;
        };
        result.push_str(environment.get(name).map_or("", String::as_str));
        rest = behind;
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::super::environment::parse;
    use super::*;

    #[test]
    fn names_in_braces_are_replaced() {
        let environment = parse("A=1\nB=two words\nC=${A}");
        for (text, result) in [
            ("a: ${A} # ${B}", "a: 1 # two words"),
            ("${NONE}x", "x"),
            ("$A ${A:-d} ${}", "$A  "),
            ("${A", "${A"),
            ("${C}", "${A}"),
            ("${A${A}", ""),
        ] {
            assert_eq!(interpolate(text, &environment), result, "{text}");
        }
    }
}
