//! What of a layer counts as its content: everything but times.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{LayerIndex, Node};
use crate::digest::hex;
use crate::entry::{Content, Entry, Kind};

/// Changes when the framing does.
const DOMAIN: &[u8] = b"rbuild tree content 1";

/// Digests entries of a tree, in the order in which they are given: paths, types, modes, owners, attributes, link
/// targets, device numbers and bytes. Times are left out.
#[derive(Debug)]
pub struct ContentDigest {
    hasher: blake3::Hasher,
    frame: Vec<u8>,
    whole: bool,
}

impl Default for ContentDigest {
    fn default() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        Self { hasher, frame: Vec::new(), whole: true }
    }
}

impl ContentDigest {
    /// Adds what stands at `path`. A file whose bytes nobody has seen leaves the whole without a digest.
    pub fn entry(&mut self, path: &Path, entry: &Entry, content: Option<Content>) {
        self.tagged(path, &entry.kind);
        let metadata = &entry.metadata;
        for number in [metadata.mode, metadata.uid, metadata.gid] {
            self.number(number.into());
        }
        self.number(metadata.xattrs.len() as u64);
        for (name, value) in &metadata.xattrs {
            self.bytes(name);
            self.bytes(value);
        }
        match (&entry.kind, content) {
            (Kind::File { .. }, Some(Content(digest))) => self.frame.extend_from_slice(&digest),
            (Kind::File { .. }, None) => self.whole = false,
            _ => {}
        }
        self.flush();
    }

    /// Adds words of the caller.
    pub fn text(&mut self, text: &[u8]) {
        self.frame.push(b't');
        self.bytes(text);
        self.flush();
    }

    fn texts(&mut self, texts: &[&[u8]]) {
        for text in texts {
            self.text(text);
        }
    }

    /// The digest in hexadecimal digits; none when the bytes of a file are unknown.
    pub fn finish(mut self) -> Option<String> {
        self.hasher.update(&self.frame);
        self.whole.then(|| hex(self.hasher.finalize().as_bytes()))
    }

    fn tagged(&mut self, path: &Path, kind: &Kind) {
        let tag = match kind {
            Kind::Directory => b'd',
            Kind::File { .. } => b'f',
            Kind::Symlink { .. } => b'l',
            Kind::CharDevice { .. } => b'c',
            Kind::BlockDevice { .. } => b'b',
            Kind::Fifo => b'p',
        };
        self.frame.push(tag);
        self.bytes(path.as_os_str().as_bytes());
        match kind {
            Kind::Directory | Kind::Fifo => {}
            Kind::File { size } => self.number(*size),
            Kind::Symlink { target } => self.bytes(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.number((*major).into());
                self.number((*minor).into());
            }
        }
    }

    fn number(&mut self, number: u64) {
        self.frame.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.frame.extend_from_slice(bytes);
    }

    fn flush(&mut self) {
        if self.frame.len() >= 16 * 1024 {
            self.hasher.update(&self.frame);
            self.frame.clear();
        }
    }
}

impl Node {
    /// Whether the two differ in nothing but times.
    pub fn same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Entry { entry, content, opaque },
                Self::Entry { entry: other, content: other_content, opaque: other_opaque },
            ) => {
                let (one, two) = (&entry.metadata, &other.metadata);
                entry.kind == other.kind
                    && (one.mode, one.uid, one.gid, &one.xattrs) == (two.mode, two.uid, two.gid, &two.xattrs)
                    && (content, opaque) == (other_content, other_opaque)
            }
            _ => self == other,
        }
    }
}

impl LayerIndex {
    /// Returns the digest of the layer without its times, in hexadecimal digits; none when the bytes of a file are
    /// unknown.
    pub fn content(&self) -> Option<String> {
        let mut digest = ContentDigest::default();
        for (path, node) in &self.nodes {
            let bytes = path.as_os_str().as_bytes();
            match node {
                Node::Entry { entry, content, opaque } => {
                    digest.entry(path, entry, *content);
                    if *opaque {
                        digest.text(b"opaque");
                    }
                }
                Node::Opaque => digest.texts(&[b"only opaque", bytes]),
                Node::HardLink { target } => digest.texts(&[b"hard link", bytes, target.as_os_str().as_bytes()]),
                Node::Whiteout => digest.texts(&[b"whiteout", bytes]),
            }
        }
        digest.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::entry::{Metadata, Mtime, Xattrs};

    fn file(change: impl FnOnce(&mut Entry, &mut Option<Content>)) -> LayerIndex {
        let metadata = Metadata {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime { seconds: 1, nanoseconds: 0 },
            xattrs: Xattrs::new(),
        };
        let mut entry = Entry { kind: Kind::File { size: 1 }, metadata };
        let mut content = Some(Content([1; 32]));
        change(&mut entry, &mut content);
        BTreeMap::from([(PathBuf::from("f"), Node::Entry { entry, content, opaque: false })]).into()
    }

    #[test]
    fn everything_but_the_time_is_content() {
        type Change = fn(&mut Entry, &mut Option<Content>);
        let changes: [(&str, Change); 6] = [
            ("mode", |entry, _| entry.metadata.mode = 0o600),
            ("user", |entry, _| entry.metadata.uid = 1),
            ("group", |entry, _| entry.metadata.gid = 1),
            ("attribute", |entry, _| _ = entry.metadata.xattrs.insert(b"user.a".to_vec(), Vec::new())),
            ("bytes", |_, content| *content = Some(Content([2; 32]))),
            ("type", |entry, _| entry.kind = Kind::Symlink { target: b"x".to_vec() }),
        ];
        let plain = file(|_, _| ()).content();
        for (name, change) in changes {
            assert_ne!(file(change).content(), plain, "{name}");
        }
        assert_eq!(file(|entry, _| entry.metadata.mtime.seconds = 2).content(), plain);
        assert_eq!(file(|_, content| *content = None).content(), None);
    }

    #[test]
    fn what_is_removed_is_content_too() {
        let one = |node: Node| LayerIndex::from(BTreeMap::from([(PathBuf::from("f"), node)])).content();
        let link = |target: &str| one(Node::HardLink { target: target.into() });
        let all = [one(Node::Whiteout), one(Node::Opaque), link("a"), link("b"), LayerIndex::default().content()];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
