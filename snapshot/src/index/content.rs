//! What of a layer counts as its content: everything but times.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{LayerIndex, Node};
use crate::digest::hex;
use crate::entry::{Content, Entry, Kind};
use crate::framed::Framed;

/// Changes when the framing does.
const DOMAIN: &[u8] = b"rbuild tree content 1";

/// Digests entries of a tree, in the order in which they are given: paths, types, modes, owners, attributes, link
/// targets, device numbers and bytes. Times are left out.
#[derive(Debug)]
pub struct ContentDigest {
    framed: Framed,
    whole: bool,
}

impl Default for ContentDigest {
    fn default() -> Self {
        Self { framed: Framed::new(DOMAIN), whole: true }
    }
}

impl ContentDigest {
    /// Adds what stands at `path`. A file whose bytes nobody has seen leaves the whole without a digest.
    pub fn entry(&mut self, path: &Path, entry: &Entry, content: Option<Content>) {
        let Entry { kind, metadata } = entry;
        self.framed.entry(path, kind);
        self.framed.kind(kind);
        for number in [metadata.mode, metadata.uid, metadata.gid] {
            self.framed.number(number.into());
        }
        self.framed.xattrs(&metadata.xattrs);
        match (kind, content) {
            (Kind::File { .. }, Some(content)) => self.framed.content(content),
            (Kind::File { .. }, None) => self.whole = false,
            _ => {}
        }
    }

    /// Adds words of the caller.
    pub fn text(&mut self, text: &[u8]) {
        self.framed.tag(b't');
        self.framed.bytes(text);
    }

    fn texts(&mut self, texts: &[&[u8]]) {
        for text in texts {
            self.text(text);
        }
    }

    /// The digest in hexadecimal digits; none when the bytes of a file are unknown.
    pub fn finish(self) -> Option<String> {
        self.whole.then(|| hex(self.framed.finish().as_bytes()))
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
