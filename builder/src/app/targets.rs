//! Services → what has to be built and what has to be copied, each once. Pure.

use super::manifest::{BuildForm, Manifest, Source};

/// One build, and the services that run its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What is built.
    pub form: BuildForm,
    /// The services, in the order of the manifest.
    pub services: Vec<String>,
}

/// One image that is copied, and the services that run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its reference as written.
    pub image: String,
    /// The services, in the order of the manifest.
    pub services: Vec<String>,
}

/// The builds of an app: services whose `build` says the same share one.
pub fn builds(manifest: &Manifest) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for service in &manifest.services {
        let Source::Build(form) = &service.source else { continue };
        let form = normal(form);
        match targets.iter_mut().find(|target| target.form == form) {
            Some(target) => target.services.push(service.name.clone()),
            None => targets.push(Target { form, services: vec![service.name.clone()] }),
        }
    }
    targets
}

/// The images that are copied.
pub fn copies(manifest: &Manifest) -> Vec<Copied> {
    let mut copies: Vec<Copied> = Vec::new();
    for service in &manifest.services {
        let Source::Image(image) = &service.source else { continue };
        match copies.iter_mut().find(|known| known.image == *image) {
            Some(known) => known.services.push(service.name.clone()),
            None => copies.push(Copied { image: image.clone(), services: vec![service.name.clone()] }),
        }
    }
    copies
}

/// `./web/` and `web` are one place.
fn normal(form: &BuildForm) -> BuildForm {
    let parts: Vec<&str> = form.path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let rooted = if form.path.starts_with('/') { "/" } else { "" };
    let path = format!("{rooted}{}", parts.join("/"));
    BuildForm { path: if path.is_empty() { ".".to_owned() } else { path }, ..form.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::parse;
    use super::*;

    #[test]
    fn equal_builds_are_one() {
        let text = "services:\n  web: {build: ./web}\n  worker: {build: web/}\n  test: {build: {path: web, target: test}}\n  \
                    other: {build: {path: web, args: [A=1]}}\n  root: {}\n  cache: {image: redis}\n  queue: {image: redis}\n";
        let manifest = parse(text).unwrap();
        let services: Vec<String> = builds(&manifest).iter().map(|target| target.services.join("+")).collect();
        assert_eq!(services, ["web+worker", "test", "other", "root"]);
        let copied = copies(&manifest);
        assert_eq!((copied.len(), copied[0].services.join("+")), (1, "cache+queue".to_owned()));
    }
}
