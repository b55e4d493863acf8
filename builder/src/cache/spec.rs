//! `--cache-from` and `--cache-to`: `type=registry|local|inline`, with the keys that `docker buildx build` gave them. Pure.

use std::path::PathBuf;
use std::str::FromStr;

use registry::reference;

use super::place::Place;

/// Why a cache cannot be used as it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not `key=value`.
    #[error("`{0}` is not `key=value`")]
    Pair(String),
    /// A type that is not implemented.
    #[error("caches of `type={0}` are not implemented: they are `type=registry`, `type=local` and `type=inline`")]
    Type(String),
    /// `type=inline` where a cache is read.
    #[error("a cache that was written as `type=inline` is read as `type=registry,ref=` and the name of its image")]
    ReadInline,
    /// A key that the type does not have.
    #[error("a cache of `type={kind}` has no `{key}`")]
    Key {
        /// The key.
        key: String,
        /// The type.
        kind: String,
    },
    /// A key that is missing.
    #[error("a cache of `type={kind}` needs `{key}=…`")]
    Missing {
        /// The key.
        key: &'static str,
        /// The type.
        kind: String,
    },
    /// A value that a key cannot have.
    #[error("`{key}={value}` is none of {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it can be.
        allowed: &'static str,
    },
    /// `false` for what is always so.
    #[error(
        "`{key}=false` is not implemented: what rbuild keeps in a registry is image manifests with the types of OCI"
    )]
    Always {
        /// The key.
        key: &'static str,
    },
    /// A reference that is none.
    #[error("`{text}` is not the name of an image: {problem}")]
    Reference {
        /// As written.
        text: String,
        /// Why.
        problem: String,
    },
}

/// `--cache-from`: where steps are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFrom(pub Place);

/// `--cache-to`: where steps are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTo {
    /// Where; in the image's own manifest when absent.
    pub place: Option<Place>,
    /// `mode=max`: all steps, not only those of the image's own layers.
    pub all: bool,
    /// `mounts=true`: what cache mounts have, too.
    pub mounts: bool,
    /// `ignore-error=false`: a build whose cache could not be kept fails.
    pub strict: bool,
}

impl FromStr for CacheFrom {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        // As docker has it, a name alone is an image.
        if !text.contains('=') {
            return Ok(Self(Place::Registry(named(text)?)));
        }
        let mut keys = Keys::read(text)?;
        let place = keys.place("src")?;
        keys.end()?;
        place.map(Self).ok_or(SpecError::ReadInline)
    }
}

impl CacheTo {
    /// `type=inline`.
    pub fn inline() -> Self {
        Self { place: None, all: false, mounts: false, strict: false }
    }
}

impl FromStr for CacheTo {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if !text.contains('=') {
            return Ok(Self { place: Some(Place::Registry(named(text)?)), all: false, mounts: false, strict: false });
        }
        let mut keys = Keys::read(text)?;
        let place = keys.place("dest")?;
        let (mut all, mut mounts) = (false, false);
        if place.is_some() {
            all = match keys.take("mode").as_deref() {
                None | Some("min") => false,
                Some("max") => true,
                Some(other) => return Err(value("mode", other, "`min`, `max`")),
            };
            mounts = keys.boolean("mounts")?.unwrap_or(false);
            // What scripts write for registries that take nothing else, says what is done anyway.
            for key in ["image-manifest", "oci-mediatypes"] {
                if keys.boolean(key)? == Some(false) {
                    return Err(SpecError::Always { key });
                }
            }
        }
        let strict = keys.boolean("ignore-error")? == Some(false);
        keys.end()?;
        Ok(Self { place, all, mounts, strict })
    }
}

fn value(key: &'static str, value: &str, allowed: &'static str) -> SpecError {
    SpecError::Value { key, value: value.to_owned(), allowed }
}

fn named(text: &str) -> Result<registry::Reference, SpecError> {
    reference::parse(text).map_err(|error| SpecError::Reference { text: text.to_owned(), problem: error.to_string() })
}

/// The `key=value` pairs that nobody has taken yet.
struct Keys {
    kind: String,
    left: Vec<(String, String)>,
}

impl Keys {
    fn read(text: &str) -> Result<Self, SpecError> {
        let mut keys = Self { kind: String::new(), left: Vec::new() };
        for pair in text.split(',') {
            let (key, value) = pair.split_once('=').ok_or_else(|| SpecError::Pair(pair.to_owned()))?;
            keys.left.push((key.trim().to_ascii_lowercase(), value.to_owned()));
        }
        keys.kind = keys.take("type").unwrap_or_else(|| "registry".to_owned());
        Ok(keys)
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.left.iter().position(|(known, _)| known == key).map(|at| self.left.swap_remove(at).1)
    }

    fn needed(&mut self, key: &'static str) -> Result<String, SpecError> {
        self.take(key).ok_or_else(|| SpecError::Missing { key, kind: self.kind.clone() })
    }

    /// The place; none when it is the image itself.
    fn place(&mut self, directory: &'static str) -> Result<Option<Place>, SpecError> {
        match self.kind.as_str() {
            "registry" => Ok(Some(Place::Registry(named(&self.needed("ref")?)?))),
            "local" => Ok(Some(Place::Directory(PathBuf::from(self.needed(directory)?)))),
            "inline" => Ok(None),
            other => Err(SpecError::Type(other.to_owned())),
        }
    }

    fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, SpecError> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(value(key, other, "`true`, `false`")),
        }
    }

    fn end(self) -> Result<(), SpecError> {
        match self.left.into_iter().next() {
            Some((key, _)) => Err(SpecError::Key { key, kind: self.kind }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_buildx_takes_is_taken() {
        let to: CacheTo =
            "type=registry,ref=example.org/cache,mode=max,mounts=true,ignore-error=false".parse().unwrap();
        assert_eq!((to.all, to.mounts, to.strict), (true, true, true));
        assert_eq!(to.place, Some(Place::Registry(named("example.org/cache").unwrap())));
        let always: CacheTo =
            "mode=max,image-manifest=true,oci-mediatypes=true,type=registry,ref=example.org/cache".parse().unwrap();
        assert_eq!((always.place, always.all, always.strict), (to.place, true, false));
        let to: CacheTo = "type=local,dest=/c".parse().unwrap();
        assert_eq!(
            to,
            CacheTo { place: Some(Place::Directory("/c".into())), all: false, mounts: false, strict: false }
        );
        assert_eq!("type=inline".parse::<CacheTo>().unwrap().place, None);
        let from = |text: &str| text.parse::<CacheFrom>().map(|from| from.0);
        assert_eq!(from("type=local,src=/c"), Ok(Place::Directory("/c".into())));
        assert_eq!(from("example.org/cache"), from("type=registry,ref=example.org/cache"));
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (text, named) in [
            ("type=gha", "`type=gha`"),
            ("type=s3,bucket=x", "`type=s3`"),
            ("type=registry", "`ref=…`"),
            ("type=local,ref=x", "`dest=…`"),
            ("type=registry,ref=x,mode=most", "`mode=most`"),
            ("type=registry,ref=x,image-manifest=false", "`image-manifest=false`"),
            ("type=registry,ref=x,compression=zstd", "`compression`"),
            ("type=inline,mode=max", "`mode`"),
            ("type=registry,ref=UPPER", "`UPPER`"),
            ("type=registry,mode", "`mode`"),
        ] {
            let error = text.parse::<CacheTo>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        let error = "type=inline".parse::<CacheFrom>().unwrap_err().to_string();
        assert!(error.contains("`type=registry,ref=`"), "{error}");
    }
}
