//! `rbuild debug`.

use anyhow::Context;
use builder::build::BuildError;

use crate::args::DebugCommand;
use crate::report::{Dockerfile, Failure};
use crate::ui;

pub(crate) fn run(command: &DebugCommand) -> Result<(), Failure> {
    match command {
        DebugCommand::Ast { file } => {
            let bytes = fs_err::read(file).context("cannot read the Dockerfile")?;
            let tree = builder::dockerfile::parse_tree(&bytes).map(|tree| tree.to_sexpr()).map_err(|error| {
                let (name, text) = (file.display().to_string(), String::from_utf8_lossy(&bytes).into_owned());
                Failure::Build { error: Box::new(BuildError::Parse(error)), dockerfile: Dockerfile { name, text } }
            })?;
            ui::print(&tree);
            Ok(())
        }
    }
}
