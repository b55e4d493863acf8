//! The image's files rather than its layers: as a directory or a tar archive.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use snapshot::{ChangeSink, Entry, Flavour, Kind, Metadata, TarWriter, TreeWriter, buffered};

use crate::solve::World;
use crate::solve::tree::Tree;

use super::ExportError;
use super::archive::{shown, with_writer};
use super::output::Destination;

/// Writes the tree into a directory, which is made when it is not there; what is there and not in the tree stays.
pub(super) fn directory(world: &World<'_>, tree: &Tree, destination: &Path) -> Result<(), ExportError> {
    let failed = |source| ExportError::Tree { path: destination.to_owned(), source: Box::new(source) };
    fs_err::create_dir_all(destination)
        .map_err(|source| ExportError::Write { path: destination.to_owned(), source })?;
    let writer = TreeWriter::new(destination, Flavour::Plain).map_err(failed)?;
    let single = world.store.snapshots().flavour() == Flavour::Single;
    if single {
        let shown = destination.display();
        world.reporter.warn(&format!(
            "all files in `{shown}` are yours, because you have no other ids here; `-o type=tar` keeps owners"
        ));
    }
    let mut writer = Given { writer, single };
    write(world, tree, &mut writer, failed)?;
    writer.writer.finish().map_err(failed)
}

/// A directory, in which a `single` id is given everything.
struct Given {
    writer: TreeWriter,
    single: bool,
}

impl ChangeSink for Given {
    type Error = snapshot::Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn io::BufRead) -> Result<(), snapshot::Error> {
        if !self.single {
            return self.writer.entry(path, entry, content);
        }
        let metadata = Metadata { uid: 0, gid: 0, ..entry.metadata.clone() };
        self.writer.entry(path, &Entry { kind: entry.kind.clone(), metadata }, content)
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), snapshot::Error> {
        self.writer.hard_link(path, target)
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), snapshot::Error> {
        self.writer.whiteout(path)
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), snapshot::Error> {
        self.writer.opaque(directory)
    }
}

/// Writes the tree as a tar archive.
pub(super) fn tar(world: &World<'_>, tree: &Tree, destination: &Destination) -> Result<(), ExportError> {
    let failed = |source| ExportError::Tree { path: shown(destination), source: Box::new(source) };
    with_writer(destination, |out| {
        let mut writer = TarWriter::new(out);
        write(world, tree, &mut writer, failed)?;
        let out = writer.finish().map_err(failed)?;
        io::Write::flush(out).map_err(|source| ExportError::Write { path: shown(destination), source })
    })
}

fn write(
    world: &World<'_>,
    tree: &Tree,
    sink: &mut impl ChangeSink<Error = snapshot::Error>,
    failed: impl Fn(snapshot::Error) -> ExportError,
) -> Result<(), ExportError> {
    let view = tree.view(world)?;
    // By the place of the bytes of a file with several names: under which name it is written.
    let mut firsts: HashMap<(usize, PathBuf), Option<PathBuf>> = view
        .walk(Path::new("."))
        .filter(|(path, found)| matches!(found.entry.kind, Kind::File { .. }) && found.file != *path)
        .map(|(_, found)| ((found.layer, found.file.to_path_buf()), None))
        .collect();
    for (path, found) in view.walk(Path::new(".")) {
        if !matches!(found.entry.kind, Kind::File { .. }) {
            sink.entry(&path, &found.entry, &mut io::empty()).map_err(&failed)?;
            continue;
        }
        // Most trees have no such file, and none of their paths need be copied to find that out.
        let several = if firsts.is_empty() { None } else { firsts.get_mut(&(found.layer, found.file.to_path_buf())) };
        if let Some(first) = several {
            if let Some(first) = first {
                sink.hard_link(&path, first).map_err(&failed)?;
                continue;
            }
            *first = Some(path.clone());
        }
        sink.entry(&path, &found.entry, &mut buffered(&found.entry, tree.open(&found, world)?)).map_err(&failed)?;
    }
    Ok(())
}
