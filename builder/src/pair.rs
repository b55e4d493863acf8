//! `NAME=VALUE`, as options and lists have it.

use std::str::FromStr;

/// A name, and the value that may come with it, which may hold anything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// What stands before the first `=`; never empty.
    pub name: String,
    /// What stands behind it; none where the name stands alone.
    pub value: Option<String>,
}

/// There is nothing before the `=`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` has no name: write `NAME=VALUE`")]
pub struct NoName {
    text: String,
}

impl FromStr for Pair {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return Err(NoName { text: text.to_owned() });
        }
        Ok(Self { name: name.to_owned(), value: value.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_a_name_and_perhaps_a_value() {
        for (text, name, value) in [("A", "A", None), ("A=", "A", Some("")), ("A=b=c ", "A", Some("b=c "))] {
            let value = value.map(str::to_owned);
            assert_eq!(text.parse(), Ok(Pair { name: name.into(), value }), "{text}");
        }
        for text in ["", "=", "=x"] {
            let said = format!("`{text}` has no name: write `NAME=VALUE`");
            assert_eq!(text.parse::<Pair>().unwrap_err().to_string(), said);
        }
    }
}
