//! The one record of comma-separated values that `--mount=` is: a field may be quoted to hold a comma.

/// The fields; nothing when a quote is not where a quote may be (RFC 4180, as Go's `encoding/csv` reads it).
pub(crate) fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => plain_field(rest)?,
        };
        fields.push(field);
        if behind.is_empty() {
            return Some(fields);
        }
        rest = behind.strip_prefix(',')?;
    }
}

/// The text up to the next comma, which has no quote in it, and what is behind it.
fn plain_field(text: &str) -> Option<(String, &str)> {
    let (field, behind) = text.split_at(text.find(',').unwrap_or(text.len()));
    (!field.contains('"')).then(|| (field.to_owned(), behind))
}

/// The text up to the closing quote, `""` standing for one quote, and what is behind it.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, behind) = rest.split_once('"')?;
        field.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, behind)),
        }
    }
}
