//! Why the cache did not have a step: the first field that differs from the nearest record, in a sentence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use snapshot::LayerIndex;

use crate::graph::{CopyOp, CopySource, Graph, Op, Vertex, VertexId};

use super::cache::{self, Record};
use super::error::Cause;
use super::key::{self, Field, Key};
use super::tree::Tree;
use super::{World, relative};

/// The field of an image that a step stands on or reads from.
const IMAGE: &str = "image";

/// Longest value in a sentence, in characters.
const SHOWN: usize = 60;

/// Why a step runs.
#[derive(Debug)]
pub(super) struct Reason {
    /// In a sentence.
    pub(super) sentence: String,
    /// It copies other files than this record's step: which, is known when it has run.
    copied: Option<Record>,
}

/// What a record keeps of a step's key.
pub(super) fn fields(graph: &Graph, vertex: &Vertex, key: &Key) -> Vec<Field> {
    let mut fields = key.own.short();
    for input in key::inputs(vertex) {
        if let Op::Source(image) = &graph.vertices[input.id.0].op {
            let chain = key::chain(image).map_or_else(|| "no layers".to_owned(), |chain| chain.to_string());
            fields.push(Field { name: IMAGE.into(), value: format!("{} {chain}", image.reference.whole()) });
        }
    }
    fields
}

/// Says why the cache did not have `id`.
pub(super) fn explain(world: &World<'_>, graph: &Graph, id: usize, key: &Key, on: &[Option<String>]) -> Reason {
    let vertex = &graph.vertices[id];
    // Before a value is cut: half a secret is not found any more.
    let hidden = |fields: Vec<Field>| -> Vec<Field> {
        fields.into_iter().map(|field| Field { value: world.reporter.hide(&field.value), ..field }).collect()
    };
    let fields = hidden(fields(graph, vertex, key));
    let likeness = |record: &Record| {
        let same = fields.iter().filter(|field| record.fields.contains(field)).count();
        (record.fields.first() == fields.first(), same)
    };
    // Of equals the first, which is the likeliest.
    let records = cache::nearest(world.store, &vertex.name).into_iter();
    let records = records.map(|record| Record { fields: hidden(record.fields), ..record });
    let nearest = records.rev().max_by_key(likeness).filter(|record| likeness(record).0);
    let Some(record) = nearest else {
        return Reason { sentence: "no step like it has run here before".into(), copied: None };
    };
    let sentence = difference(&record.fields, &fields).or_else(|| input(graph, vertex, &record, on));
    let sentence = sentence.unwrap_or_else(|| "it ran before, but its layer is no longer in the store".into());
    let copied = matches!(&vertex.op, Op::Copy(_)) && first_difference(&record.fields, &fields) == Some("content");
    Reason { sentence, copied: copied.then_some(record) }
}

impl Reason {
    /// The sentence, with the file that changed when the step is a COPY that has run by now.
    pub(super) fn complete(self, world: &World<'_>, vertex: &Vertex, tree: &Tree) -> String {
        let (Op::Copy(op), Some(record)) = (&vertex.op, &self.copied) else { return self.sentence };
        match changed(world, record, tree) {
            Ok(Some((path, how))) => match in_context(world, op, &path) {
                Some(file) => format!("context file `{}` {how}", file.display()),
                None => format!("what becomes `/{}` {how}", path.display()),
            },
            // What cannot be told now takes nothing from the sentence.
            Ok(None) | Err(_) => self.sentence,
        }
    }

    /// Whether the step has to have run before all is known.
    pub(super) fn is_incomplete(&self) -> bool {
        self.copied.is_some()
    }
}

/// Values by name, in order.
fn by_name(fields: &[Field]) -> BTreeMap<&str, Vec<&str>> {
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for field in fields {
        named.entry(&field.name).or_default().push(&field.value);
    }
    named
}

/// The name of the first field that differs.
fn first_difference<'a>(old: &'a [Field], new: &'a [Field]) -> Option<&'a str> {
    let (olds, news) = (by_name(old), by_name(new));
    let differs = |name: &&str| olds.get(name) != news.get(name);
    new.iter().chain(old).map(|field| field.name.as_str()).find(differs)
}

/// The first difference, in a sentence.
fn difference(old: &[Field], new: &[Field]) -> Option<String> {
    let name = first_difference(old, new)?;
    let (olds, news) = (by_name(old), by_name(new));
    let (old, new) = (olds.get(name).cloned().unwrap_or_default(), news.get(name).cloned().unwrap_or_default());
    let change = || arrow(&old.join(" "), &new.join(" "));
    Some(match name {
        "variable" => variable(&old, &new),
        "argv" => format!("the command changed: {}", arrow(&command(&old), &command(&new))),
        "script" => "the text of the script changed".into(),
        "cwd" => format!("WORKDIR: {}", change()),
        "user" => format!("USER: {}", change()),
        "network" => format!("`--network`: {}", change().to_lowercase()),
        "content" => "the files that it reads changed".into(),
        "inline" => "the heredoc changed".into(),
        "http" => "the file behind the URL changed".into(),
        "git" => format!("the commit of the repository: {}", change()),
        "epoch" => format!("SOURCE_DATE_EPOCH: {}", change()),
        "chown" | "chmod" | "exclude" => format!("`--{name}`: {}", change()),
        "parents" | "link" | "unpack" => format!("`--{name}` was added or taken away"),
        "path" | "tree" | "name" => format!("what it copies: {}", change()),
        "destination" => format!("the destination: {}", change()),
        "target" | "mount" | "id" | "sharing" | "mode" | "uid" | "gid" | "readonly" | "source" | "size" | "env"
        | "required" | "owner" | "writable" => {
            format!("its mounts changed (`{name}`: {})", change())
        }
        IMAGE => image(&old, &new),
        other => format!("`{other}` changed"),
    })
}

/// `argv` as a person wrote it: a shell's alone is the command.
fn command(argv: &[&str]) -> String {
    match argv {
        [_, "-c", command] => (*command).to_owned(),
        argv => argv.join(" "),
    }
}

/// ARG and ENV: the first that differs.
fn variable(old: &[&str], new: &[&str]) -> String {
    fn pairs<'a>(variables: &[&'a str]) -> BTreeMap<&'a str, &'a str> {
        variables.iter().map(|variable| variable.split_once('=').unwrap_or((variable, ""))).collect()
    }
    let (olds, news) = (pairs(old), pairs(new));
    for (name, value) in &news {
        match olds.get(name) {
            None => return format!("the variable `{name}` is new"),
            Some(before) if before != value => return format!("the variable `{name}`: {}", arrow(before, value)),
            Some(_) => {}
        }
    }
    match olds.keys().find(|name| !news.contains_key(*name)) {
        Some(name) => format!("the variable `{name}` is gone"),
        None => "the order of its variables changed".into(),
    }
}

/// Images that the step reads: name and chain_id.
fn image(old: &[&str], new: &[&str]) -> String {
    let changed = old.iter().zip(new).find(|(old, new)| old != new);
    let Some(((old_name, old_chain), (name, chain))) =
        changed.and_then(|(old, new)| Some((old.split_once(' ')?, new.split_once(' ')?)))
    else {
        return "it reads other images".into();
    };
    if old_chain == chain {
        return format!("the image: {}", arrow(old_name, name));
    }
    format!("the layers of the image `{name}`: {old_chain:.19}… → {chain:.19}…")
}

fn arrow(old: &str, new: &str) -> String {
    format!("`{}` → `{}`", cut(old), cut(new))
}

fn cut(text: &str) -> String {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = flat.chars().take(SHOWN).collect();
    if short.len() < flat.len() { format!("{short}…") } else { short }
}

/// Which of the inputs made something else.
fn input(graph: &Graph, vertex: &Vertex, record: &Record, on: &[Option<String>]) -> Option<String> {
    let inputs = key::inputs(vertex);
    let differs =
        |(place, _): &(usize, &key::Input<'_>)| on.get(*place).is_none_or(|on| on.as_ref() != record.on.get(*place));
    let (_, input) = inputs.iter().enumerate().find(differs)?;
    let VertexId(id) = input.id;
    Some(format!("`{}` made something else than before", graph.vertices[id].name))
}

/// The first path of a layer that is not as it was in the layer of `record`, and how it differs.
fn changed(world: &World<'_>, record: &Record, tree: &Tree) -> Result<Option<(PathBuf, &'static str)>, Cause> {
    let Some(old) = world.store.index(&record.made.0) else { return Ok(None) };
    let new = tree.index(tree.layers().len() - 1, world)?;
    Ok(first_change(&old, &new))
}

/// The first path that two layers differ in, times aside, and how.
pub(super) fn first_change(old: &LayerIndex, new: &LayerIndex) -> Option<(PathBuf, &'static str)> {
    let (old, new) = (old.nodes(), new.nodes());
    for (path, node) in new {
        match (old.get(path), node) {
            (None, _) => return Some((path.clone(), "is new")),
            (Some(before), node) if !node.same_content(before) => return Some((path.clone(), "changed")),
            _ => {}
        }
    }
    old.keys().find(|path| !new.contains_key(*path)).map(|path| (path.clone(), "is gone"))
}

/// The file of the context that a COPY brings to `path`, where that can be told.
fn in_context(world: &World<'_>, op: &CopyOp, path: &Path) -> Option<PathBuf> {
    let context = world.context_of(op);
    let below = path.strip_prefix(relative(Path::new(&op.destination))).ok();
    for source in &op.sources {
        let CopySource::Path(source) = source else { return None };
        let source = relative(Path::new(source));
        let inside = below.map(|below| source.join(below));
        let itself =
            (source.file_name() == path.file_name() || below == Some(Path::new(""))).then(|| source.to_owned());
        let known = |candidate: &PathBuf| context.find(candidate).is_ok();
        if let Some(found) = itself.into_iter().chain(inside).find(known) {
            let clean: PathBuf = found.components().filter(|part| part.as_os_str() != ".").collect();
            return Some(clean);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Vec<Field> {
        list.iter().map(|(name, value)| Field { name: (*name).into(), value: (*value).into() }).collect()
    }

    #[test]
    fn the_first_difference_is_told_in_a_sentence() {
        let old =
            fields(&[("operation", "run"), ("argv", "/bin/sh"), ("argv", "-c"), ("argv", "make"), ("variable", "V=1")]);
        let with = |name: &str, value: &str| {
            let mut new = old.clone();
            let place = new.iter().rposition(|field| field.name == name).unwrap();
            new[place].value = value.into();
            difference(&old, &new)
        };
        assert_eq!(with("variable", "V=2").unwrap(), "the variable `V`: `1` → `2`");
        assert_eq!(with("variable", "W=1").unwrap(), "the variable `W` is new");
        assert_eq!(with("argv", "make all").unwrap(), "the command changed: `make` → `make all`");
        assert_eq!(difference(&old, &old[..4]).unwrap(), "the variable `V` is gone");
        assert_eq!(difference(&old, &old), None);
        let image = |chain: &str| fields(&[("image", &format!("example.org/a:1 sha256:{chain}"))]);
        let told = difference(&image(&"a".repeat(64)), &image(&"b".repeat(64))).unwrap();
        assert_eq!(told, "the layers of the image `example.org/a:1`: sha256:aaaaaaaaaaaa… → sha256:bbbbbbbbbbbb…");
    }
}
