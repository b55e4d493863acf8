//! Changes → a directory.
use std::io::Read;
use std::path::Path;

use crate::{ChangeSink, Entry, Error};

/// How a directory writes down whiteouts and opaque directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// `trusted.overlay.*`.
    Trusted,
    /// `user.overlay.*`.
    UserXattr,
    /// No whiteout can occur.
    Plain,
}
/// Writes changes into a directory.
#[derive(Debug)]
pub struct TreeWriter {}
impl TreeWriter {
    /// Opens the existing directory `root`.
    pub fn new(_root: &Path, _flavour: Flavour) -> Result<Self, Error> {
        todo!()
    }
    /// Applies the directories' metadata.
    pub fn finish(self) -> Result<(), Error> {
        todo!()
    }
}
impl ChangeSink for TreeWriter {
    type Error = Error;
    fn entry(&mut self, _path: &Path, _entry: &Entry, _content: &mut dyn Read) -> Result<(), Error> {
        todo!()
    }
    fn hard_link(&mut self, _path: &Path, _target: &Path) -> Result<(), Error> {
        todo!()
    }
    fn whiteout(&mut self, _path: &Path) -> Result<(), Error> {
        todo!()
    }
    fn opaque(&mut self, _directory: &Path) -> Result<(), Error> {
        todo!()
    }
}
