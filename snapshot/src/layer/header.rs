//! The tar headers of a layer: POSIX ustar, with a PAX header (POSIX.1-2017, pax, "Extended Header") only where ustar
//! cannot say it. Owner names are empty and times are whole seconds, so that equal trees give equal bytes.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{EntryType, Header};

use crate::Error;
use crate::entry::{Entry, Kind, Metadata, Mtime, Xattrs};

/// The unit of a tar stream.
pub(super) const BLOCK: usize = 512;

/// The end of a tar stream: two blocks of zeros.
pub(super) const TRAILER: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What a whiteout's name begins with (OCI image spec, layer.md, "Whiteouts").
pub(super) const WHITEOUT: &str = ".wh.";

/// The name of the file that makes its directory opaque.
pub(super) const OPAQUE: &str = ".wh..wh..opq";

// What the octal fields of ustar hold at most.
const SIZE_MAX: u64 = 0o777_7777_7777;
const ID_MAX: u32 = 0o777_7777;
const NAME: usize = 100;
const PREFIX: usize = 155;

/// Returns how many zeros follow `size` bytes of content.
pub(super) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).expect("less than a block");
    (BLOCK - over) % BLOCK
}

/// Appends the header of `entry`, after its PAX header if it needs one.
pub(super) fn entry(out: &mut Vec<u8>, path: &Path, entry: &Entry) -> Result<(), Error> {
    refuse_reserved(path)?;
    let mut name = Cow::Borrowed(path.as_os_str().as_bytes());
    let mut header = Header::new_ustar();
    let mut pax = Pax::default();
    for (key, value) in &entry.metadata.xattrs {
        if key.contains(&b'=') {
            return Err(unrepresentable(path, "tar cannot hold `=` in the name of an extended attribute"));
        }
        pax.record(&[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    match &entry.kind {
        Kind::Directory => {
            name.to_mut().push(b'/');
            header.set_entry_type(EntryType::Directory);
        }
        Kind::File { .. } => header.set_entry_type(EntryType::Regular),
        Kind::Symlink { .. } => header.set_entry_type(EntryType::Symlink),
        Kind::CharDevice { .. } => header.set_entry_type(EntryType::Char),
        Kind::BlockDevice { .. } => header.set_entry_type(EntryType::Block),
        Kind::Fifo => header.set_entry_type(EntryType::Fifo),
    }
    if let Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } = entry.kind {
        if major > ID_MAX || minor > ID_MAX {
            return Err(unrepresentable(path, "tar cannot hold a device number above 2097151"));
        }
        let failed = |_| unrepresentable(path, "tar cannot hold its device number");
        header.set_device_major(major).and_then(|()| header.set_device_minor(minor)).map_err(failed)?;
    }
    let size = if let Kind::File { size } = entry.kind { size } else { 0 };
    let target = if let Kind::Symlink { target } = &entry.kind { target.as_slice() } else { &[] };
    finish(out, &mut header, pax, &Fields { name: &name, target, size, metadata: &entry.metadata });
    Ok(())
}

/// Appends the header of a hard link. It repeats the target's mode, owner and time: containerd applies them.
pub(super) fn hard_link(out: &mut Vec<u8>, path: &Path, target: &Path, metadata: &Metadata) -> Result<(), Error> {
    refuse_reserved(path)?;
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Link);
    let fields = Fields { name: path.as_os_str().as_bytes(), target: target.as_os_str().as_bytes(), size: 0, metadata };
    finish(out, &mut header, Pax::default(), &fields);
    Ok(())
}

/// Appends the whiteout of `path`.
pub(super) fn whiteout(out: &mut Vec<u8>, path: &Path) -> Result<(), Error> {
    refuse_reserved(path)?;
    let name = path.file_name().ok_or_else(|| unrepresentable(path, "the root cannot be removed"))?;
    let mut hidden = WHITEOUT.as_bytes().to_vec();
    hidden.extend(name.as_bytes());
    marker(out, &path.with_file_name(OsStr::from_bytes(&hidden)));
    Ok(())
}

/// Appends the file that makes `directory` opaque.
pub(super) fn opaque(out: &mut Vec<u8>, directory: &Path) -> Result<(), Error> {
    refuse_reserved(directory)?;
    marker(out, &directory.join(OPAQUE));
    Ok(())
}

/// Appends an empty file without owner, mode or time.
fn marker(out: &mut Vec<u8>, path: &Path) {
    let metadata = Metadata { mode: 0, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Xattrs::new() };
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    let name = path.as_os_str().as_bytes();
    finish(out, &mut header, Pax::default(), &Fields { name, target: &[], size: 0, metadata: &metadata });
}

/// Whether layers give a file's name another meaning.
pub(crate) fn is_reserved(name: &OsStr) -> bool {
    name.as_bytes().starts_with(WHITEOUT.as_bytes())
}

fn refuse_reserved(path: &Path) -> Result<(), Error> {
    if path.iter().any(is_reserved) {
        return Err(Error::ReservedName { path: path.to_owned() });
    }
    Ok(())
}

fn unrepresentable(path: &Path, reason: &'static str) -> Error {
    Error::Unrepresentable { path: path.to_owned(), reason }
}

/// What every header says; those of a link have no attributes.
struct Fields<'a> {
    name: &'a [u8],
    target: &'a [u8],
    size: u64,
    metadata: &'a Metadata,
}

/// Fills in the common fields, moving to `pax` what does not fit, in the bytewise order of the keywords.
fn finish(out: &mut Vec<u8>, header: &mut Header, mut pax: Pax, fields: &Fields<'_>) {
    let Metadata { mode, uid, gid, mtime, .. } = fields.metadata;
    let ustar = header.as_ustar_mut().expect("made by new_ustar");
    octal(&mut ustar.mode, u64::from(mode & 0o7777));
    octal(&mut ustar.gid, pax.id(b"gid", *gid));
    if fields.target.len() <= NAME {
        ustar.linkname[..fields.target.len()].copy_from_slice(fields.target);
    } else {
        pax.record(b"linkpath", fields.target);
    }
    let seconds = u64::try_from(mtime.seconds).ok().filter(|seconds| *seconds <= SIZE_MAX).unwrap_or_else(|| {
        pax.number(b"mtime", &mtime.seconds);
        0
    });
    octal(&mut ustar.mtime, seconds);
    let (prefix, name) = split_name(fields.name).unwrap_or_else(|| {
        pax.record(b"path", fields.name);
        (&[], &fields.name[..NAME])
    });
    ustar.prefix[..prefix.len()].copy_from_slice(prefix);
    ustar.name[..name.len()].copy_from_slice(name);
    let size = if fields.size <= SIZE_MAX { fields.size } else { 0 };
    if size != fields.size {
        pax.number(b"size", &fields.size);
    }
    octal(&mut ustar.size, size);
    octal(&mut ustar.uid, pax.id(b"uid", *uid));
    seal(header);
    pax.write(out);
    out.extend(header.as_bytes());
}

/// Writes a number as ustar has it: octal digits, filled up with zeros, and a NUL.
fn octal(field: &mut [u8], mut number: u64) {
    let Some((end, digits)) = field.split_last_mut() else { return };
    *end = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number & 7).to_le_bytes()[0];
        number >>= 3;
    }
}

/// Writes the sum of all bytes, its own counted as spaces.
fn seal(header: &mut Header) {
    let field = header.as_ustar_mut().expect("made by new_ustar");
    field.cksum = [b' '; 8];
    let sum: u32 = header.as_bytes().iter().map(|byte| u32::from(*byte)).sum();
    octal(&mut header.as_ustar_mut().expect("made by new_ustar").cksum, u64::from(sum));
}

/// Splits a name into ustar's prefix and name; `None` when it does not fit.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= NAME {
        return Some((&[], name));
    }
    let earliest = name.len().checked_sub(NAME + 1)?;
    let at = (earliest..=PREFIX.min(name.len() - 2)).find(|at| name[*at] == b'/')?;
    (at > 0).then(|| (&name[..at], &name[at + 1..]))
}

/// The records of one PAX header.
#[derive(Default)]
struct Pax {
    records: Vec<u8>,
}

impl Pax {
    /// Appends `LENGTH KEY=VALUE\n`, where LENGTH counts its own digits.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.records.extend(length.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.records.extend(part);
        }
    }

    fn number(&mut self, key: &[u8], value: &impl ToString) {
        self.record(key, value.to_string().as_bytes());
    }

    /// What ustar's field says of an owner: nobody, where a record has to.
    fn id(&mut self, key: &[u8], id: u32) -> u64 {
        if id > ID_MAX {
            self.number(key, &id);
            return 0;
        }
        u64::from(id)
    }

    fn write(self, out: &mut Vec<u8>) {
        if self.records.is_empty() {
            return;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.as_ustar_mut().expect("made by new_ustar").name[..10].copy_from_slice(b"PaxHeaders");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.records.len() as u64);
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(&self.records);
        out.resize(out.len() + padding(self.records.len() as u64), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        for length in [0, 1, 80, 89, 90, 91, 92, 980, 985, 989, 990, 9990] {
            let mut pax = Pax::default();
            pax.record(b"path", &vec![b'x'; length]);
            let digits = pax.records.iter().position(|byte| *byte == b' ').unwrap();
            let announced: usize = std::str::from_utf8(&pax.records[..digits]).unwrap().parse().unwrap();
            assert_eq!(announced, pax.records.len());
        }
    }

    #[test]
    fn long_names_are_split_at_a_slash() {
        let part = |count: usize| "x".repeat(count);
        assert_eq!(split_name(part(100).as_bytes()), Some((&b""[..], part(100).as_bytes())));
        assert_eq!(split_name(part(101).as_bytes()), None);
        for (prefix, name, fits) in
            [(1, 100, true), (155, 100, true), (156, 100, false), (155, 101, false), (155, 1, true)]
        {
            let (prefix, name) = (part(prefix), part(name));
            let joined = format!("{prefix}/{name}");
            let expected = fits.then_some((prefix.as_bytes(), name.as_bytes()));
            assert_eq!(split_name(joined.as_bytes()), expected, "{} / {}", prefix.len(), name.len());
        }
        // The slash that ends a directory's name is no place to split.
        assert_eq!(split_name(format!("{}/", part(100)).as_bytes()), None);
        let directory = format!("a/{}/", part(99));
        assert_eq!(split_name(directory.as_bytes()), Some((&b"a"[..], &directory.as_bytes()[2..])));
    }

    #[test]
    fn sizes_beyond_ustar_go_to_pax() {
        for (size, in_pax) in [(SIZE_MAX, false), (SIZE_MAX + 1, true)] {
            let metadata = Metadata { mode: 0o644, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Xattrs::new() };
            let mut bytes = Vec::new();
            entry(&mut bytes, Path::new("f"), &Entry { kind: Kind::File { size }, metadata }).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert_eq!(text.contains(&format!("size={size}\n")), in_pax);
            let header = Header::from_byte_slice(bytes.last_chunk::<BLOCK>().unwrap());
            assert_eq!(header.entry_size().unwrap(), if in_pax { 0 } else { size });
        }
    }

    #[test]
    fn reserved_names_are_refused() {
        let file = Entry {
            kind: Kind::File { size: 0 },
            metadata: Metadata { mode: 0o644, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Xattrs::new() },
        };
        for path in [".wh.x", "a/.wh.x", "a/.wh.x/b", "a/.wh..wh..opq"] {
            assert!(matches!(entry(&mut Vec::new(), Path::new(path), &file), Err(Error::ReservedName { .. })));
        }
        entry(&mut Vec::new(), Path::new("a/x.wh.x"), &file).unwrap();
    }
}
