//! The instructions that exist, and the flags of one against those that it has.

use crate::dockerfile::ast::Node;
use crate::dockerfile::error::{ParseError, Problem, quoted};
use crate::dockerfile::instruction::{Span, Word};
use crate::dockerfile::suggest;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, `true` or `false`.
    Switch,
    /// One value.
    Value,
    /// A value each time it is given.
    Values,
}

/// The most flags of an instruction: each `--exclude` is held against each file.
const MOST: usize = 1000;

/// Every instruction with its flags.
pub(crate) const INSTRUCTIONS: [(&str, &[(&str, Takes)]); 18] = [
    (
        "ADD",
        &[
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("exclude", Takes::Values),
            ("checksum", Takes::Value),
            ("keep-git-dir", Takes::Switch),
            ("unpack", Takes::Switch),
        ],
    ),
    ("ARG", &[]),
    ("CMD", &[]),
    (
        "COPY",
        &[
            ("from", Takes::Value),
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("parents", Takes::Switch),
            ("exclude", Takes::Values),
        ],
    ),
    ("ENTRYPOINT", &[]),
    ("ENV", &[]),
    ("EXPOSE", &[]),
    ("FROM", &[("platform", Takes::Value)]),
    (
        "HEALTHCHECK",
        &[
            ("interval", Takes::Value),
            ("timeout", Takes::Value),
            ("start-period", Takes::Value),
            ("start-interval", Takes::Value),
            ("retries", Takes::Value),
        ],
    ),
    ("LABEL", &[]),
    ("MAINTAINER", &[]),
    ("ONBUILD", &[]),
    (
        "RUN",
        &[("mount", Takes::Values), ("network", Takes::Value), ("security", Takes::Value), ("device", Takes::Values)],
    ),
    ("SHELL", &[]),
    ("STOPSIGNAL", &[]),
    ("USER", &[]),
    ("VOLUME", &[]),
    ("WORKDIR", &[]),
];

/// The flags of one instruction.
#[derive(Debug)]
pub(super) struct Flags<'n> {
    pub(super) span: Span,
    given: Vec<(&'static str, Option<&'n str>)>,
}

impl<'n> Flags<'n> {
    /// Checks the flags against those that the instruction has.
    pub(super) fn parse(node: &'n Node, instruction: &'static str) -> Result<Self, ParseError> {
        if node.flags.len() > MOST {
            return Err(Problem::TooManyFlags { instruction, limit: MOST }.at(node.span));
        }
        let known =
            INSTRUCTIONS.iter().find(|(keyword, _)| *keyword == instruction).map_or(&[][..], |(_, flags)| flags);
        let mut flags = Flags { span: node.span, given: Vec::new() };
        for text in &node.flags {
            let text = text.strip_prefix("--").unwrap_or(text);
            let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            let Some((name, takes)) = known.iter().find(|(known, _)| *known == name).copied() else {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let suggestion = suggest::nearest(name, &names).map(|name| format!("--{name}"));
                let problem = Problem::UnknownFlag { instruction, flag: quoted(name) };
                return Err(problem.at(node.span).suggesting(suggestion.as_deref()));
            };
            flags.check(name, takes, value).map_err(|problem| problem.at(node.span))?;
            flags.given.push((name, value));
        }
        Ok(flags)
    }

    fn check(&self, name: &str, takes: Takes, value: Option<&str>) -> Result<(), Problem> {
        let flag = name.to_owned();
        if takes != Takes::Values && self.given.iter().any(|(given, _)| *given == name) {
            return Err(Problem::DuplicateFlag { flag });
        }
        match (takes, value) {
            (Takes::Switch, None) => Ok(()),
            (_, None | Some("")) => Err(Problem::FlagWithoutValue { flag }),
            (Takes::Switch, Some(value)) if truth(value).is_none() => {
                Err(Problem::NotBoolean { flag, value: quoted(value) })
            }
            _ => Ok(()),
        }
    }

    /// The value of a flag, if it is given.
    pub(super) fn value(&self, name: &str) -> Option<&'n str> {
        self.values(name).next()
    }

    /// The same, to be expanded.
    pub(super) fn word(&self, name: &str) -> Option<Word> {
        self.value(name).map(|value| Word(value.to_owned()))
    }

    /// All values of a flag.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &'n str> {
        self.given.iter().filter(move |(given, _)| *given == name).filter_map(|(_, value)| *value)
    }

    /// What a switch says, if it is given.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let (_, value) = self.given.iter().find(|(given, _)| *given == name)?;
        value.map_or(Some(true), truth)
    }
}

fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
