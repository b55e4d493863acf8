//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"), read strictly: what two readers could take for two
//! different archives is refused.

use super::sparse::{Part, Sparse};
use crate::entry::{Mtime, Xattrs};

/// What a PAX header says about the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Mtime>,
    /// Raw: which of them belong in a layer is decided later.
    pub(super) xattrs: Xattrs,
    /// What `S` or the `GNU.sparse` records say.
    pub(super) sparse: Option<Sparse>,
}

/// Reads the records of a header for one entry. Keywords that say nothing about a layer (atime, uname, comment, those
/// of other vendors) are skipped, as POSIX has it.
pub(super) fn parse(records: &[u8]) -> Result<Extended, &'static str> {
    let mut extended = Extended::default();
    let mut sparse = SparseRecords::default();
    for record in Records(records) {
        let (key, value) = record?;
        match key {
            b"path" => extended.path = Some(name(value)?),
            b"linkpath" => extended.linkpath = Some(name(value)?),
            b"size" => extended.size = Some(decimal(value)?),
            b"uid" => extended.uid = Some(id(value)?),
            b"gid" => extended.gid = Some(id(value)?),
            b"mtime" => extended.mtime = Some(time(value)?),
            _ if is_sparse(key) => sparse.take(key, value)?,
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    if attribute.is_empty() || attribute.contains(&0) {
                        return Err("an extended attribute without a proper name");
                    }
                    extended.xattrs.insert(attribute.to_vec(), value.to_vec());
                }
            }
        }
    }
    if sparse != SparseRecords::default() {
        // The name of the entry itself is for readers that know of no sparse files.
        extended.path = sparse.name.take().or(extended.path);
        extended.sparse = Some(sparse.finish()?);
    }
    Ok(extended)
}

/// Checks the records of a global header: only comments and the like, nothing that would change entries.
pub(super) fn check_global(records: &[u8]) -> Result<(), &'static str> {
    for record in Records(records) {
        let (key, _) = record?;
        let changes = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" | b"hdrcharset");
        if changes || is_sparse(key) || key.starts_with(b"SCHILY.xattr.") {
            return Err("a global header that changes entries");
        }
    }
    Ok(())
}

fn is_sparse(key: &[u8]) -> bool {
    key.starts_with(b"GNU.sparse.") || key == b"SCHILY.realsize"
}

/// What the records say of a sparse file, in any of GNU tar's three forms (its manual, "PAX Format, Versions 0.0, 0.1
/// and 1.0").
#[derive(Debug, Default, PartialEq, Eq)]
struct SparseRecords {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    count: Option<u64>,
    /// Offsets and lengths in turn.
    map: Vec<u64>,
}

impl SparseRecords {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"GNU.sparse.major" => self.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.name = Some(name(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.size = Some(decimal(value)?),
            b"GNU.sparse.numblocks" => self.count = Some(decimal(value)?),
            b"GNU.sparse.offset" if self.map.len().is_multiple_of(2) => self.map.push(decimal(value)?),
            b"GNU.sparse.numbytes" if !self.map.len().is_multiple_of(2) => self.map.push(decimal(value)?),
            b"GNU.sparse.map" if self.map.is_empty() => {
                let numbers = value.split(|byte| *byte == b',').filter(|_| !value.is_empty());
                self.map = numbers.map(decimal).collect::<Result<_, _>>()?;
            }
            _ => return Err("a sparse file of an unknown form"),
        }
        Ok(())
    }

    fn finish(self) -> Result<Sparse, &'static str> {
        let has_map = match (self.major, self.minor) {
            (Some(1), Some(0)) => false,
            (None, None) | (Some(0), Some(0 | 1)) => true,
            _ => return Err("a sparse file of an unknown form"),
        };
        let size = self.size.ok_or("a sparse file without its size")?;
        let pairs = self.map.chunks_exact(2);
        let is_whole = pairs.remainder().is_empty() && self.count.unwrap_or(0) == pairs.len() as u64;
        if !is_whole || has_map != self.count.is_some() {
            return Err("a sparse file without its whole map");
        }
        let parts = pairs.map(|pair| Part { offset: pair[0], length: pair[1] }).collect();
        Ok(Sparse { size, parts: has_map.then_some(parts) })
    }
}

/// The `LENGTH KEY=VALUE\n` records of a header.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record.ok_or("a malformed PAX record"))
    }
}

impl<'a> Records<'a> {
    fn record(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().take(21).position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(&self.0[..space]).ok()?).ok()?;
        let (record, rest) = self.0.split_at_checked(length)?;
        let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = body.iter().position(|byte| *byte == b'=')?;
        self.0 = rest;
        (equals > 0).then(|| (&body[..equals], &body[equals + 1..]))
    }
}

fn name(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    if value.is_empty() || value.contains(&0) { Err("an empty path or one with a NUL") } else { Ok(value.to_vec()) }
}

fn id(value: &[u8]) -> Result<u32, &'static str> {
    decimal(value)?.try_into().map_err(|_| "an owner above 4294967295")
}

pub(super) fn decimal(value: &[u8]) -> Result<u64, &'static str> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = if digits { std::str::from_utf8(value).ok() } else { None };
    text.and_then(|text| text.parse().ok()).ok_or("a number that is none")
}

/// `[-]SECONDS[.FRACTION]`; digits beyond nanoseconds are cut off.
fn time(value: &[u8]) -> Result<Mtime, &'static str> {
    const WRONG: &str = "a time that is none";
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| WRONG)?;
    let nanoseconds = (0..9).fold(0, |sum, place| sum * 10 + u32::from(fraction.get(place).map_or(0, |d| d - b'0')));
    Ok(match (negative, nanoseconds) {
        (false, _) => Mtime { seconds, nanoseconds },
        (true, 0) => Mtime { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Mtime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a record with its right length.
    fn record(body: &str) -> Vec<u8> {
        let rest = body.len() + 2;
        let length = (rest + 1..rest + 9).find(|length| length.to_string().len() + rest == *length).unwrap();
        format!("{length} {body}\n").into_bytes()
    }

    #[test]
    fn records_are_read() {
        let records = ["path=a", "size=12", "mtime=-1.5", "SCHILY.xattr.user.a=\n\n=", "atime=1.", "comment="];
        let extended = parse(&records.map(record).concat()).unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(extended.size, Some(12));
        assert_eq!(extended.mtime, Some(Mtime { seconds: -2, nanoseconds: 500_000_000 }));
        assert_eq!(extended.xattrs[&b"user.a"[..]], b"\n\n=");
    }

    #[test]
    fn times_are_cut_to_nanoseconds() {
        let read = |text: &str| time(text.as_bytes()).map(|mtime| (mtime.seconds, mtime.nanoseconds));
        assert_eq!(read("1"), Ok((1, 0)));
        assert_eq!(read("1."), Ok((1, 0)));
        assert_eq!(read("1.0000000019"), Ok((1, 1)));
        assert_eq!(read("-1"), Ok((-1, 0)));
        assert_eq!(read("-0.25"), Ok((-1, 750_000_000)));
        for wrong in ["", "-", ".5", "--1", "1e3", "1.x", "99999999999999999999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        let bodies =
            ["=", "=x", "path", "path=", "path=a\0", "linkpath=", "size=-1", "size=0x1", "size=", "uid=4294967296"];
        let more = ["mtime=x", "SCHILY.xattr.=", "GNU.sparse.major=1", "SCHILY.realsize=5"];
        for body in bodies.iter().chain(&more) {
            assert!(parse(&record(body)).is_err(), "{body}");
        }
        let good = record("path=a");
        assert!(parse(&good).is_ok());
        for (at, wrong) in [(0, b'8'), (0, b'x'), (0, b' '), (1, b'0'), (good.len() - 1, b' ')] {
            let mut bad = good.clone();
            bad[at] = wrong;
            assert!(parse(&bad).is_err(), "{}", bad.escape_ascii());
        }
        for wrong in [&good[..good.len() - 1], &[&good, &b"\0"[..]].concat(), b"x", b"0 \n", b"3 \n", b"+9 path=a\n"] {
            assert!(parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
        assert!(parse(b"99999999999999999999 path=a\n").is_err());
    }

    #[test]
    fn global_headers_may_comment() {
        check_global(&record("comment=abc")).unwrap();
        for body in ["path=a", "size=1", "uid=0", "GNU.sparse.name=x", "SCHILY.xattr.user.x=1"] {
            assert!(check_global(&record(body)).is_err(), "{body}");
        }
        assert!(check_global(b"junk").is_err());
    }
}
