//! What `COPY` and `ADD` do to a stage.

use crate::dockerfile::{Add, Copy, CopyFiles, CopySource as Source, Instruction, Word};
use crate::graph::chmod::Chmod;
use crate::graph::instructions::{absolute, refuse};
use crate::graph::lower::{Lowering, StageState};
use crate::graph::references::Base;
use crate::graph::{CopyOp, CopySource, Op, Problem};
use crate::remote::location::{GitSource, Location, without_user};

impl Lowering<'_> {
    pub(super) fn copy(
        &mut self,
        state: &mut StageState,
        copy: &Copy,
        instruction: &Instruction,
    ) -> Result<(), Problem> {
        let op = CopyOp { parents: copy.parents, ..copy_op(state, &copy.files, false)? };
        refuse_urls(&op)?;
        let crossed = op.parents && op.exclude.iter().any(|pattern| pattern.starts_with('!'));
        refuse(crossed, "`--exclude=!…` together with `--parents`")?;
        let (mut op, mut from) = (op, None);
        if let Some(Word(word)) = &copy.from {
            // The files of a named context are read where they are.
            match self.selection.from(state.index, word)? {
                Base::Context(name) if self.selection.contexts.contains(&name) => op.context = Some(name),
                Base::Context(_) | Base::Scratch | Base::Stage(_) | Base::Image(_) => {
                    from = Some(self.from(state, word, instruction.span)?);
                }
            }
        }
        let text = history_of_copy(state, "COPY", &copy.files, &op)?;
        self.layer(state, Op::Copy(op), from, instruction);
        state.layer_history(&text);
        Ok(())
    }

    pub(super) fn add(&mut self, state: &mut StageState, add: &Add, instruction: &Instruction) -> Result<(), Problem> {
        let mut op = copy_op(state, &add.files, add.unpack.unwrap_or(true))?;
        locate(state, add, &mut op)?;
        let text = history_of_copy(state, "ADD", &add.files, &op)?;
        self.layer(state, Op::Copy(op), None, instruction);
        state.layer_history(&text);
        Ok(())
    }
}

/// COPY fetches nothing: a URL is no path of the build context.
fn refuse_urls(op: &CopyOp) -> Result<(), Problem> {
    let is_url = |text: &str| matches!(Location::parse(text), Ok(Location::Http(_) | Location::Git(_)));
    let url = op.sources.iter().find_map(|source| match source {
        CopySource::Path(text) if !is_path(text) && is_url(text) => Some(text.clone()),
        _ => None,
    });
    let wrong = |value| Problem::BadValue { what: "a source of COPY", value, reason: "ADD takes URLs, COPY does not" };
    url.map_or(Ok(()), |url| Err(wrong(url)))
}

/// Whether a source is a path though it would be a repository where a context is named (BuildKit does the same).
fn is_path(source: &str) -> bool {
    source.starts_with("github.com/")
}

/// Tells the URLs among the sources of an ADD from its files, and gives them the flags that are about them.
fn locate(state: &StageState, add: &Add, op: &mut CopyOp) -> Result<(), Problem> {
    let checksum = add.checksum.as_ref().map(|word| state.scope.expand(word)).transpose()?;
    let checksum = checksum.filter(|checksum| !checksum.is_empty());
    let several = op.sources.len() > 1;
    let mut is_git = false;
    for source in &mut op.sources {
        let CopySource::Path(text) = source else { continue };
        if is_path(text) {
            continue;
        }
        match Location::parse(text)? {
            Location::Directory(_) | Location::Stdin => {}
            Location::Git(git) => {
                is_git = true;
                let git = checksum.as_ref().map_or(Ok(git.clone()), |checksum| git.with_checksum(checksum))?;
                let keep_git_dir = git.keep_git_dir || add.keep_git_dir;
                *source = CopySource::Git(GitSource { keep_git_dir, ..git });
            }
            Location::Http(url) => {
                let checksum = checksum.as_ref().map(|checksum| sha256(checksum)).transpose()?;
                *source = CopySource::Http { url, checksum, unpack: add.unpack.unwrap_or(false) };
            }
        }
    }
    let remote = op.sources.iter().all(|source| matches!(source, CopySource::Http { .. } | CopySource::Git(_)));
    if let Some(value) = checksum.filter(|_| several || !remote) {
        let reason = "it is for a single source, which is a URL";
        return Err(Problem::BadValue { what: "--checksum", value, reason });
    }
    if add.keep_git_dir && !is_git {
        let reason = "no source is a git repository";
        return Err(Problem::BadValue { what: "--keep-git-dir", value: "true".into(), reason });
    }
    Ok(())
}

fn sha256(checksum: &str) -> Result<String, Problem> {
    let lower = checksum.to_ascii_lowercase();
    let hex = lower.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(lower);
    }
    let (value, reason) = (checksum.to_owned(), "of a file it is `sha256:` and 64 hexadecimal digits");
    Err(Problem::BadValue { what: "--checksum", value, reason })
}

fn copy_op(state: &StageState, files: &CopyFiles, unpack: bool) -> Result<CopyOp, Problem> {
    let mut sources = Vec::new();
    for source in &files.sources {
        sources.push(match source {
            Source::Path(word) => CopySource::Path(state.scope.expand(word)?),
            Source::Heredoc(heredoc) => {
                let content =
                    if heredoc.expand { state.scope.expand_heredoc(&heredoc.body)? } else { heredoc.body.clone() };
                CopySource::Inline { name: heredoc.name.clone(), content }
            }
        });
    }
    let given = state.scope.expand(&files.destination)?;
    let mut destination = absolute(state, &given);
    if (given.ends_with('/') || given == "." || given.ends_with("/.")) && destination != "/" {
        destination.push('/');
    }
    if sources.len() > 1 && !destination.ends_with('/') {
        let reason = "with several sources it has to be a directory and end with `/`";
        return Err(Problem::BadValue { what: "the destination", value: given, reason });
    }
    let chown = files.chown.as_ref().map(|word| state.scope.expand(word)).transpose()?;
    let chown = chown.filter(|owner| !owner.is_empty());
    let chmod = files.chmod.as_ref().map(|word| state.scope.expand(word)).transpose()?;
    let chmod = chmod.filter(|text| !text.is_empty()).map(|text| mode(&text)).transpose()?;
    let exclude = files.exclude.iter().map(|word| state.scope.expand(word)).collect::<Result<Vec<_>, _>>()?;
    let link = files.link;
    Ok(CopyOp { context: None, sources, destination, chown, chmod, exclude, parents: false, unpack, link })
}

fn mode(text: &str) -> Result<Chmod, Problem> {
    Chmod::parse(text).ok_or_else(|| Problem::BadValue {
        what: "--chmod",
        value: text.to_owned(),
        reason: "write an octal mode such as `0755`, or a symbolic one such as `u=rwX,go=rX`",
    })
}

/// `COPY --chown=1:2 a .`: the words as written, expanded; not the resolved destination, and no passwords.
fn history_of_copy(state: &StageState, verb: &str, files: &CopyFiles, op: &CopyOp) -> Result<String, Problem> {
    let mut words = vec![verb.to_owned()];
    words.extend(op.parents.then(|| "--parents".to_owned()));
    words.extend(op.chown.as_ref().map(|owner| format!("--chown={owner}")));
    words.extend(op.chmod.as_ref().map(|mode| format!("--chmod={}", mode.text())));
    words.extend(op.sources.iter().map(|source| match source {
        CopySource::Path(path) => path.clone(),
        CopySource::Inline { name, .. } => format!("<<{name}"),
        CopySource::Http { url, .. } => without_user(url),
        CopySource::Git(source) => source.to_string(),
    }));
    words.push(state.scope.expand(&files.destination)?);
    Ok(words.join(" "))
}
