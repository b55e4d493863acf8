//! The build arguments of an app: managed ones, those of the command line, of `build.args` and of the app's environment.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::environment::Environment;
use crate::dockerfile::{Command, Dockerfile};
use crate::pair::Pair;

/// The name of the one whose value is a secret.
pub const BUILD_AUTH: &str = "BUILD_AUTH";

/// What `BUILD_GENERATION` is.
const GENERATION: &str = "2";

/// The values of the managed arguments, but for `BUILD_AUTH`, which is a secret.
#[derive(Debug, Clone, Default)]
pub struct Managed {
    /// `BUILD_APP`.
    pub app: String,
    /// `BUILD_DEVELOPMENT`.
    pub development: bool,
    /// `BUILD_ID`.
    pub id: String,
    /// `BUILD_MANIFEST`.
    pub manifest: String,
    /// `BUILD_RACK`.
    pub rack: String,
    /// `BUILD_GIT_SHA`; empty without a repository.
    pub git_sha: String,
}

impl Managed {
    fn get(&self, name: &str) -> Option<String> {
        Some(match name {
            "BUILD_APP" => self.app.clone(),
            "BUILD_DEVELOPMENT" => self.development.to_string(),
            "BUILD_GENERATION" => GENERATION.to_owned(),
            "BUILD_ID" => self.id.clone(),
            "BUILD_MANIFEST" => self.manifest.clone(),
            "BUILD_RACK" => self.rack.clone(),
            "BUILD_GIT_SHA" => self.git_sha.clone(),
            _ => return None,
        })
    }
}

/// One `--build-args` as given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The name.
    pub name: String,
    /// What stands behind the `=`, or what the caller's environment has for a bare name.
    pub value: Option<String>,
    /// Whether the name stands alone.
    pub bare: bool,
}

impl Given {
    /// Looks up with `variable` what a bare name has.
    pub fn of(Pair { name, value }: &Pair, variable: impl Fn(&str) -> Option<String>) -> Self {
        let bare = value.is_none();
        let value = value.clone().or_else(|| variable(name));
        Self { name: name.clone(), value, bare }
    }
}

/// What a build gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// Values by name.
    pub values: BTreeMap<String, String>,
    /// Names whose values are secrets.
    pub secrets: BTreeSet<String>,
}

/// Puts the arguments of one build together: `--build-args` win over `build.args`, these over the app's environment.
pub fn resolve(given: &[Given], form: &[Pair], environment: &Environment, managed: &Managed) -> Resolved {
    let mut resolved = Resolved { values: environment.clone(), secrets: BTreeSet::new() };
    resolved.values.remove(BUILD_AUTH);
    let form: Vec<Given> = form.iter().map(|pair| Given::of(pair, |name| environment.get(name).cloned())).collect();
    for Given { name, value, bare } in form.iter().chain(given) {
        resolved.set(name, value.clone(), managed, *bare);
    }
    resolved
}

impl Resolved {
    fn set(&mut self, name: &str, value: Option<String>, managed: &Managed, bare: bool) {
        if name == BUILD_AUTH {
            self.secrets.insert(name.to_owned());
            return;
        }
        let value = if bare { managed.get(name).or(value) } else { value };
        self.values.extend(value.map(|value| (name.to_owned(), value)));
    }
}

/// The names that a Dockerfile declares with ARG.
pub fn declared(dockerfile: &Dockerfile) -> BTreeSet<String> {
    let stages = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let mut names = BTreeSet::new();
    for instruction in dockerfile.global_args.iter().chain(stages) {
        if let Command::Arg(declarations) = &instruction.command {
            names.extend(declarations.iter().map(|declaration| declaration.name.clone()));
        }
    }
    names
}

/// What is worth telling of the command line's arguments when the Dockerfiles of the app declare `declared`.
pub fn warnings(given: &[Given], declared: &BTreeSet<String>) -> Vec<String> {
    let managed = |name: &str| name == BUILD_AUTH || Managed::default().get(name).is_some();
    let mut warnings = Vec::new();
    for Given { name, value, bare } in given {
        if *bare && value.is_none() && !managed(name) {
            warnings.push(format!("--build-args {name}: nobody gives it a value, so it has none"));
        } else if !declared.contains(name) {
            warnings.push(format!("--build-args {name}: no Dockerfile of the app declares it with ARG"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::environment;
    use super::*;

    fn given(texts: &[&str]) -> Vec<Given> {
        texts
            .iter()
            .map(|text| Given::of(&text.parse().unwrap(), |name| (name == "HOSTED").then(|| "from the caller".into())))
            .collect()
    }

    fn managed() -> Managed {
        let (app, id, rack) = ("myapp".into(), "BABC".into(), "local".into());
        Managed { app, id, rack, manifest: "convox.yml".into(), development: true, git_sha: "0123".into() }
    }

    #[test]
    fn the_command_line_wins_over_the_manifest_and_that_over_the_app() {
        let environment = environment::parse("A=env\nB=env\nC=env\nBUILD_AUTH=env");
        let form = ["B=form", "C=form", "D", "A"].map(|text| text.parse().unwrap());
        let resolved = resolve(&given(&["C=line with  spaces", "HOSTED", "NOBODY"]), &form, &environment, &managed());
        let values: Vec<String> = resolved.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(values, ["A=env", "B=form", "C=line with  spaces", "HOSTED=from the caller"]);
        assert!(resolved.secrets.is_empty());
    }

    #[test]
    fn bare_managed_names_have_values_and_build_auth_is_a_secret() {
        let names = ["APP", "DEVELOPMENT", "GENERATION", "ID", "MANIFEST", "RACK", "GIT_SHA"];
        let names: Vec<String> = names.iter().map(|name| format!("BUILD_{name}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.push("BUILD_AUTH");
        let resolved = resolve(&given(&names), &[], &Environment::new(), &managed());
        let values: Vec<&str> = resolved.values.values().map(String::as_str).collect();
        assert_eq!(values, ["myapp", "true", "2", "0123", "BABC", "convox.yml", "local"]);
        assert_eq!(resolved.secrets, BTreeSet::from(["BUILD_AUTH".to_owned()]));
        let custom = resolve(&given(&["BUILD_ID=mine"]), &[], &Environment::new(), &managed());
        assert_eq!(custom.values["BUILD_ID"], "mine");
    }

    #[test]
    fn what_nobody_declares_is_told() {
        let dockerfile = crate::dockerfile::parse(b"ARG TOP\nFROM x\nARG A B=1\nFROM y\narg c\n").unwrap();
        let declared = declared(&dockerfile.dockerfile);
        assert_eq!(declared.iter().map(String::as_str).collect::<Vec<_>>(), ["A", "B", "TOP", "c"]);
        let warnings = warnings(&given(&["A=1", "X=1", "c", "BUILD_ID", "TOP"]), &declared);
        let names: Vec<&str> = warnings.iter().map(|warning| &warning[13..14]).collect();
        assert_eq!(names, ["X", "c", "B", "T"]);
    }
}
