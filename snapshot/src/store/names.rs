//! Keys of records as names of files.

/// Makes a file name of a key: what is not a plain character becomes `%XX`, as does a leading dot.
pub(super) fn escape(key: &str) -> Option<String> {
    let mut name = String::with_capacity(key.len());
    for (at, byte) in key.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => name.push(char::from(byte)),
            _ => {
                name.push('%');
                name.push_str(&crate::digest::hex(&[byte]));
            }
        }
    }
    (1..=255).contains(&name.len()).then_some(name)
}

/// Takes back [`escape`].
pub(super) fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
