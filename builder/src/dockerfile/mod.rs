//! The Dockerfile frontend: text in, typed instructions out. Pure: nothing here opens a file or knows an image.
//!
//! ```text
//! bytes ─ lines ─→ logical lines ─ ast ─→ Node ─ instructions ─→ Instruction, Stage, Dockerfile
//!                  (continuations,        (keyword, flags,       (typed, checked as far as that
//!                   comments, heredocs)    arguments)             needs no variable's value)
//! ```
//!
//! [`expand`] is apart: the graph calls it, once it knows the variables. Where builders differ, the rules are those of
//! BuildKit's Dockerfile frontend. Every error of a file is reported at once, each with its lines.

mod ast;
mod directive;
mod error;
pub mod expand;
mod heredoc;
mod instruction;
mod instructions;
mod lines;
pub mod lint;
mod mount;
mod ports;
mod sexpr;
pub mod suggest;
#[cfg(test)]
mod tests;
mod words;

pub use ast::{Arguments, Node, Separator, Tree, parse_tree};
pub use directive::{CheckOptionError, CheckOptions, Checks};
pub(crate) use error::quoted;
pub use error::{Errors, ParseError, Problem};
pub use expand::{ExpandError, Expanded};
pub use instruction::{
    Add, ArgDeclaration, Command, CommandLine, Copy, CopyFiles, CopySource, Dockerfile, Healthcheck, Heredoc,
    Instruction, Mount, MountKind, Network, Run, Sharing, Span, Stage, Word,
};
pub use instructions::parse_trigger;
pub(crate) use mount::csv_fields;
pub use mount::{MountError, MountOptions, read_size};
pub use ports::{PortError, Ports};

use lint::Rule;

/// A Dockerfile that was read, and what is to be said about its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The stages and their instructions.
    pub dockerfile: Dockerfile,
    /// What the `# check=` directive says.
    pub check: CheckOptions,
    /// What is accepted and should be written otherwise, in the order of the lines.
    pub warnings: Vec<Warning>,
}

/// A remark about text that the typed instructions no longer show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The lines it is about.
    pub span: Span,
    /// The check that it belongs to.
    pub rule: Rule,
    /// What is to be said, on one line.
    pub message: String,
}

/// Reads a Dockerfile: all of it, or all of its errors.
pub fn parse(text: &[u8]) -> Result<Parsed, Errors> {
    let (tree, errors) = ast::read(text);
    instructions::assemble(tree, errors)
}
