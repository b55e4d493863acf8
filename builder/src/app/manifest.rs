//! convox.yml → services. Pure: the text is interpolated already.
//!
//! What building and running a service needs is read; other keys that Convox knows are left to what deploys the app, and
//! keys that nobody knows are told once each.

use super::id::is_name;
use super::yaml::{self, Key, Node, Value, YamlError};
use crate::pair::{NoName, Pair};

/// Keys of the top level that say how an app runs.
const TOP: [&str; 8] = ["appSettings", "balancers", "configs", "labels", "params", "resources", "timers", "volumes"];

/// Keys of a service that say how it runs.
const RUNNING: [&str; 45] = [
    "accessControlAllowOrigin",
    "agent",
    "annotations",
    "autoscale",
    "certificate",
    "configMounts",
    "deployment",
    "dnsConfig",
    "domain",
    "drain",
    "enabled",
    "grace",
    "grpcHealthEnabled",
    "health",
    "imageRef",
    "ingressAnnotations",
    "init",
    "initContainer",
    "internal",
    "internalRouter",
    "labels",
    "lifecycle",
    "links",
    "liveness",
    "nlb",
    "nodeSelectorLabels",
    "policies",
    "ports",
    "privileged",
    "protocol",
    "readiness",
    "replicas",
    "resources",
    "scale",
    "singleton",
    "startupProbe",
    "sticky",
    "termination",
    "test",
    "timeout",
    "tls",
    "volumeOptions",
    "volumes",
    "whitelist",
    "workload",
];

/// A convox.yml.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// Variables of all services.
    pub environment: Vec<Variable>,
    /// The services, in the order of the file.
    pub services: Vec<Service>,
    /// What is worth telling: unknown keys.
    pub warnings: Vec<String>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where its image comes from.
    pub source: Source,
    /// Its variables.
    pub environment: Vec<Variable>,
    /// What it runs instead of its image's command.
    pub command: Option<String>,
    /// The port that it listens on.
    pub port: Option<u16>,
}

/// Where a service's image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image that somebody else built.
    Image(String),
    /// A Dockerfile.
    Build(BuildForm),
}

/// `build:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildForm {
    /// The build context, relative to the directory of the app.
    pub path: String,
    /// The Dockerfile, relative to `path`.
    pub dockerfile: String,
    /// Build args.
    pub args: Vec<Pair>,
    /// The stage.
    pub target: Option<String>,
}

/// One entry of an `environment:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value where the app's environment has none; one without a default is required.
    pub default: Option<String>,
}

impl Manifest {
    /// The variables that services need and that neither a default nor `known` gives, sorted.
    pub fn missing(&self, known: impl Fn(&str) -> bool) -> Vec<String> {
        let all = self.services.iter().flat_map(|service| &service.environment).chain(&self.environment);
        let has_default = |name: &str| self.environment.iter().any(|v| v.name == name && v.default.is_some());
        let missing = all.filter(|v| v.default.is_none() && v.name != "*" && !known(&v.name) && !has_default(&v.name));
        let mut names: Vec<String> = missing.map(|variable| variable.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The service of a name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

/// Reads a convox.yml.
pub fn parse(text: &str) -> Result<Manifest, YamlError> {
    let root = yaml::parse(text)?;
    let mut manifest = Manifest::default();
    let mut unknown = Unknown::default();
    for (key, value) in mapping(&root, "a convox.yml")? {
        match key.text.as_str() {
            "environment" => manifest.environment = environment(value)?,
            "services" => {
                for (name, service) in optional_mapping(value, "`services`")? {
                    manifest.services.push(self::service(name, service, &mut unknown)?);
                }
            }
            name if TOP.contains(&name) => {}
            name => unknown.note(key, name),
        }
    }
    if manifest.services.is_empty() {
        return Err(error(root.line, "it has no `services`, so there is nothing to build"));
    }
    manifest.warnings = unknown.0;
    Ok(manifest)
}

/// Keys that nobody knows.
#[derive(Default)]
struct Unknown(Vec<String>);

impl Unknown {
    fn note(&mut self, key: &Key, path: &str) {
        self.0.push(format!("line {}: nothing knows the key `{path}`: it is kept and has no effect", key.line));
    }
}

fn service(name: &Key, node: &Node, unknown: &mut Unknown) -> Result<Service, YamlError> {
    if !is_name(&name.text) {
        let problem = "a service's name is lower-case letters, digits and `-`, and begins with a letter";
        return Err(error(name.line, format!("`{}`: {problem}", name.text)));
    }
    let (mut image, mut build, mut manifest) = (None, None, None);
    let (mut environment, mut command, mut port) = (Vec::new(), None, None);
    for (key, value) in optional_mapping(node, &format!("the service `{}`", name.text))? {
        match key.text.as_str() {
            // One that interpolation left empty; whoever builds says so.
            "image" if value.value == Value::Null => image = Some(String::new()),
            "image" => image = Some(text(value, "`image`")?),
            "build" => build = Some(self::build(value, &name.text, unknown)?),
            "manifest" => manifest = Some((text(value, "`manifest`")?, key.line)),
            "environment" => environment = self::environment(value)?,
            "command" => command = Some(command_line(value)?),
            "port" => port = self::port(value),
            running if RUNNING.contains(&running) => {}
            other => unknown.note(key, &format!("services.{}.{other}", name.text)),
        }
    }
    let source = source(image, build, manifest)?;
    Ok(Service { name: name.text.clone(), source, environment, command, port })
}

/// An image wins over a build; the Dockerfile may be named beside `build` or in it.
fn source(image: Option<String>, build: Option<Form>, beside: Option<(String, usize)>) -> Result<Source, YamlError> {
    if let Some(image) = image {
        return Ok(Source::Image(image));
    }
    let form = build.unwrap_or_default();
    let dockerfile = match (form.manifest, beside) {
        (Some(inner), Some((outer, line))) if inner != outer => {
            let problem = format!("`manifest: {outer}` contradicts `build.manifest: {inner}`: keep one of them");
            return Err(error(line, problem));
        }
        (Some(name), _) | (None, Some((name, _))) => name,
        (None, None) => "Dockerfile".to_owned(),
    };
    let path = form.path.unwrap_or_else(|| ".".to_owned());
    Ok(Source::Build(BuildForm { path, dockerfile, args: form.args, target: form.target }))
}

/// `build:` as it is written.
#[derive(Default)]
struct Form {
    path: Option<String>,
    manifest: Option<String>,
    args: Vec<Pair>,
    target: Option<String>,
}

fn build(node: &Node, service: &str, unknown: &mut Unknown) -> Result<Form, YamlError> {
    let entries = match &node.value {
        Value::Null => return Ok(Form::default()),
        Value::Text(path) => return Ok(Form { path: Some(path.clone()), ..Form::default() }),
        Value::Mapping(entries) => entries,
        Value::Sequence(_) => return Err(error(node.line, "`build` is a path or a map, and this is a list")),
    };
    let mut form = Form::default();
    for (key, value) in entries {
        match key.text.as_str() {
            "path" => form.path = Some(text(value, "`build.path`")?),
            "manifest" => form.manifest = Some(text(value, "`build.manifest`")?),
            "target" => form.target = Some(text(value, "`build.target`")?),
            "args" => form.args = arguments(value)?,
            other => unknown.note(key, &format!("services.{service}.build.{other}")),
        }
    }
    Ok(form)
}

fn arguments(node: &Node) -> Result<Vec<Pair>, YamlError> {
    let read = |text: String| text.parse().map_err(|wrong: NoName| error(node.line, format!("`build.args`: {wrong}")));
    pairs(node, "`build.args`")?.into_iter().map(read).collect()
}

fn environment(node: &Node) -> Result<Vec<Variable>, YamlError> {
    let read = |text: String| match text.split_once('=') {
        Some((name, default)) => Variable { name: name.trim().to_owned(), default: Some(default.to_owned()) },
        None => Variable { name: text.trim().to_owned(), default: None },
    };
    Ok(pairs(node, "`environment`")?.into_iter().map(read).collect())
}

/// A list of `NAME=VALUE` and `NAME`, or a map from names to values.
fn pairs(node: &Node, what: &str) -> Result<Vec<String>, YamlError> {
    match &node.value {
        Value::Null => Ok(Vec::new()),
        Value::Sequence(items) => items.iter().map(|item| text(item, &format!("an entry of {what}"))).collect(),
        Value::Mapping(entries) => entries
            .iter()
            .map(|(key, value)| match &value.value {
                Value::Null => Ok(key.text.clone()),
                _ => Ok(format!("{}={}", key.text, text(value, &format!("{what}.{}", key.text))?)),
            })
            .collect(),
        Value::Text(_) => Err(error(node.line, format!("{what} is a list of `NAME=VALUE`, and this is a text"))),
    }
}

/// `port: 3000`, `port: https:3000` or `port: {port: 3000}`.
fn port(node: &Node) -> Option<u16> {
    match &node.value {
        Value::Text(text) => text.rsplit(':').next()?.trim().parse().ok(),
        Value::Mapping(entries) => {
            entries.iter().find(|(key, _)| key.text == "port").and_then(|(_, value)| port(value))
        }
        Value::Null | Value::Sequence(_) => None,
    }
}

/// `command:`, a text or its words.
fn command_line(node: &Node) -> Result<String, YamlError> {
    match &node.value {
        Value::Sequence(words) => {
            let words: Vec<String> =
                words.iter().map(|word| text(word, "a word of `command`")).collect::<Result<_, _>>()?;
            Ok(words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect::<Vec<_>>().join(" "))
        }
        _ => text(node, "`command`"),
    }
}

fn text(node: &Node, what: &str) -> Result<String, YamlError> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        other => Err(error(node.line, format!("{what} has to be a text, and this is {}", other.kind()))),
    }
}

fn mapping<'n>(node: &'n Node, what: &str) -> Result<&'n [(Key, Node)], YamlError> {
    match &node.value {
        Value::Mapping(entries) => Ok(entries),
        other => Err(error(node.line, format!("{what} has to be a map, and this is {}", other.kind()))),
    }
}

fn optional_mapping<'n>(node: &'n Node, what: &str) -> Result<&'n [(Key, Node)], YamlError> {
    if node.value == Value::Null { Ok(&[]) } else { mapping(node, what) }
}

fn error(line: usize, problem: impl Into<String>) -> YamlError {
    YamlError { line, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(path: &str, dockerfile: &str) -> Source {
        Source::Build(BuildForm { path: path.into(), dockerfile: dockerfile.into(), args: Vec::new(), target: None })
    }

    #[track_caller]
    fn only(service: &str) -> Service {
        let manifest = parse(&format!("services:\n  web:\n{service}")).unwrap();
        assert_eq!((manifest.services.len(), &manifest.warnings[..]), (1, &[][..]));
        manifest.services.into_iter().next().unwrap()
    }

    #[test]
    fn a_service_is_built_in_every_form() {
        for (text, source) in [
            ("", form(".", "Dockerfile")),
            ("    build: ./web\n", form("./web", "Dockerfile")),
            ("    build: ./web\n    manifest: Dockerfile.production\n", form("./web", "Dockerfile.production")),
            ("    build: {path: web, manifest: D}\n", form("web", "D")),
            ("    build:\n      manifest: D\n", form(".", "D")),
            ("    build: {manifest: D}\n    manifest: D\n", form(".", "D")),
            ("    image: redis:7\n    build: x\n", Source::Image("redis:7".into())),
            ("    port: 3000\n    scale: {count: 2}\n    health: /check\n", form(".", "Dockerfile")),
        ] {
            assert_eq!(only(text).source, source, "{text}");
        }
        let Source::Build(full) = only("    build:\n      args: [A=1, B]\n      target: t\n").source else { panic!() };
        let pairs = ["A=1", "B"].map(|text| text.parse::<Pair>().unwrap());
        assert_eq!((full.args, full.target), (pairs.to_vec(), Some("t".to_owned())));
        let Source::Build(full) = only("    build:\n      args: {A: 1, B:}\n").source else { panic!() };
        assert_eq!(full.args, pairs);
    }

    #[test]
    fn variables_without_a_default_are_required() {
        let text = "environment:\n  - SHARED=1\n  - TOP\nservices:\n  web:\n    environment:\n      - A=x=y\n      - B\n      - SHARED\n      - '*'\n";
        let manifest = parse(text).unwrap();
        assert_eq!(manifest.services[0].environment[0].default.as_deref(), Some("x=y"));
        assert_eq!(manifest.missing(|_| false), ["B", "TOP"]);
        assert_eq!(manifest.missing(|name| name == "B"), ["TOP"]);
    }

    #[test]
    fn unknown_keys_are_told_with_their_line() {
        let manifest = parse("colour: 1\nservices:\n  web:\n    biuld: x\n    build: {contxt: y}\n").unwrap();
        let lines: Vec<&str> = manifest.warnings.iter().map(|warning| warning.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 1", "line 4", "line 5"]);
        assert!(manifest.warnings[1].contains("`services.web.biuld`"), "{:?}", manifest.warnings);
    }

    #[test]
    fn mistakes_have_lines() {
        for (text, told) in [
            ("", "line 1: a convox.yml has to be a map"),
            ("environment: []\n", "no `services`"),
            ("services: []\n", "line 1: `services` has to be a map, and this is a list"),
            ("services:\n  Web: {}\n", "line 2: `Web`"),
            ("services:\n  web:\n    build: [a]\n", "line 3: `build` is a path or a map"),
            ("services:\n  web:\n    image: [a]\n", "line 3: `image` has to be a text"),
            ("services:\n  web: x\n", "line 2: the service `web` has to be a map"),
            ("services:\n  web:\n    build: {manifest: A}\n    manifest: B\n", "line 4: `manifest: B` contradicts"),
            ("services:\n  web:\n    environment: A=1\n", "line 3: `environment` is a list"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }
}
