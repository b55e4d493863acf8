//! `--output`: what it says, as data.

use std::path::PathBuf;
use std::str::FromStr;

use snapshot::Compression;

use super::compression::{self, CompressionError};

/// Where a file or stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To the registries that the names given with `-t` name.
    Push,
    /// Into the store alone, the layers of its base included.
    Store,
    /// An OCI image layout.
    Oci {
        /// The archive, or with `tar=false` the directory.
        destination: Destination,
        /// Whether it is an archive.
        tar: bool,
    },
    /// What `docker load` reads.
    Docker {
        /// The archive.
        destination: Destination,
    },
    /// The root file system as a directory.
    Local {
        /// The directory.
        destination: PathBuf,
    },
    /// The root file system as a tar archive.
    Tar {
        /// The archive.
        destination: Destination,
    },
}

/// One `--output`, with what it says about compression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Where it goes.
    pub output: Output,
    /// How its new layers are compressed; as the build's other outputs when absent.
    pub compression: Option<Compression>,
    /// Whether the layers of base images are compressed so too.
    pub force: bool,
}

/// An `--output` that says nothing rbuild does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// Not `key=value`.
    #[error("`{0}` is not `key=value`")]
    Pair(String),
    /// `type=` is missing.
    #[error("`type=` is missing: write `type=oci|docker|local|tar|registry`")]
    NoType,
    /// An unknown type.
    #[error("`type={0}` is not implemented: write `type=oci|docker|local|tar|registry`")]
    Type(String),
    /// The type that is the store itself.
    #[error("`type=image` is what `-t NAME` does: leave it out, or write `type=image,push=true` to push")]
    Image,
    /// A name for the image.
    #[error("`name=` is not implemented: names are given with `-t`, for all outputs")]
    Name,
    /// An unknown option.
    #[error("`{key}` is not an option of `type={kind}`")]
    Option {
        /// The option.
        key: String,
        /// The type.
        kind: String,
    },
    /// A boolean that is none.
    #[error("`{key}={value}` is neither `true` nor `false`")]
    Boolean {
        /// The option.
        key: String,
        /// Its value.
        value: String,
    },
    /// The compression.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// `dest=` is missing.
    #[error("`type={0}` needs `dest=PATH`")]
    NoDestination(String),
}

impl FromStr for OutputSpec {
    type Err = OutputError;

    fn from_str(text: &str) -> Result<Self, OutputError> {
        let mut options = Options(Vec::new());
        for pair in text.split(',') {
            match pair.split_once('=') {
                Some((key, value)) => options.0.push((key.trim().to_ascii_lowercase(), value.to_owned())),
                None if options.0.is_empty() && !text.contains(',') => {
                    return Ok(Self { output: Output::of_path(text), compression: None, force: false });
                }
                None => return Err(OutputError::Pair(pair.into())),
            }
        }
        let kind = options.take("type").ok_or(OutputError::NoType)?;
        let (mut compression, mut forced) = (None, false);
        if matches!(kind.as_str(), "oci" | "docker" | "registry" | "image") {
            let (name, level) = (options.take("compression"), options.take("compression-level"));
            compression = compression::read(name.as_deref(), level.as_deref())?;
            let force = options.take("force-compression");
            forced = boolean("force-compression", force.as_deref().unwrap_or("false"))?;
        }
        Ok(Self { output: Output::read(kind, options)?, compression, force: forced })
    }
}

/// The `key=value` pairs that nobody has taken yet.
struct Options(Vec<(String, String)>);

impl Options {
    fn take(&mut self, key: &str) -> Option<String> {
        self.0.iter().position(|(known, _)| known == key).map(|at| self.0.swap_remove(at).1)
    }
}

impl Output {
    /// Reads what is particular to the type `kind`, which has to be all of `options`.
    fn read(kind: String, mut options: Options) -> Result<Self, OutputError> {
        let destination = options.take("dest");
        let tar = if kind == "oci" { options.take("tar") } else { None };
        let push = if kind == "image" { options.take("push") } else { None };
        // Layers have the types of OCI anyway.
        if kind != "docker"
            && options.take("oci-mediatypes").is_some_and(|value| !matches!(value.as_str(), "true" | "1"))
        {
            return Err(OutputError::Option { key: "oci-mediatypes=false".into(), kind });
        }
        if options.take("name").is_some() {
            return Err(OutputError::Name);
        }
        if let Some((key, _)) = options.0.first() {
            return Err(OutputError::Option { key: key.clone(), kind });
        }
        let file = |destination: Option<String>| match destination.as_deref() {
            None | Some("") => Err(OutputError::NoDestination(kind.clone())),
            Some("-") => Ok(Destination::Stdout),
            Some(path) => Ok(Destination::File(path.into())),
        };
        match kind.as_str() {
            "oci" => {
                let tar = boolean("tar", tar.as_deref().unwrap_or("true"))?;
                Ok(Self::Oci { destination: file(destination)?, tar })
            }
            "docker" => Ok(Self::Docker { destination: file(destination)? }),
            "tar" => Ok(Self::Tar { destination: file(destination)? }),
            "local" => {
                let destination = destination
                    .filter(|path| !path.is_empty())
                    .ok_or_else(|| OutputError::NoDestination(kind.clone()))?;
                Ok(Self::Local { destination: destination.into() })
            }
            "registry" => Ok(Self::Push),
            "image" if boolean("push", push.as_deref().unwrap_or("false"))? => Ok(Self::Push),
            "image" => Err(OutputError::Image),
            _ => Err(OutputError::Type(kind)),
        }
    }

    /// `-o PATH` is short for `type=local`, `-o -` for a tar on standard output.
    fn of_path(path: &str) -> Self {
        if path == "-" {
            Self::Tar { destination: Destination::Stdout }
        } else {
            Self::Local { destination: path.into() }
        }
    }

    /// Whether it is made of the image's layers rather than of its files.
    pub fn wants_layers(&self) -> bool {
        !matches!(self, Self::Local { .. } | Self::Tar { .. })
    }

    /// Whether it writes to standard output, which then carries nothing else.
    pub fn is_stdout(&self) -> bool {
        matches!(
            self,
            Self::Oci { destination: Destination::Stdout, .. }
                | Self::Docker { destination: Destination::Stdout }
                | Self::Tar { destination: Destination::Stdout }
        )
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, OutputError> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(OutputError::Boolean { key: key.into(), value: value.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read() {
        let file = |path: &str| Destination::File(path.into());
        for (text, output) in [
            ("type=oci,dest=a.tar", Output::Oci { destination: file("a.tar"), tar: true }),
            ("type=oci,dest=d,tar=false", Output::Oci { destination: file("d"), tar: false }),
            ("type=docker,dest=-", Output::Docker { destination: Destination::Stdout }),
            ("dest=out,type=local", Output::Local { destination: "out".into() }),
            ("out", Output::Local { destination: "out".into() }),
            ("-", Output::Tar { destination: Destination::Stdout }),
            ("type=registry", Output::Push),
            ("type=image,push=true", Output::Push),
        ] {
            assert_eq!(text.parse(), Ok(OutputSpec { output, compression: None, force: false }), "{text}");
        }
    }

    #[test]
    fn outputs_of_layers_have_a_compression() {
        for text in [
            "type=oci,dest=x,compression=zstd",
            "type=docker,compression=zstd,compression-level=1,dest=x",
            "type=registry,compression=zstd,force-compression=false",
            "type=image,compression=zstd,push=true",
        ] {
            let spec: OutputSpec = text.parse().unwrap();
            assert_eq!(spec.compression, Some(Compression::Zstd { level: 1 }), "{text}");
        }
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (text, error) in [
            ("type=oci", OutputError::NoDestination("oci".into())),
            ("type=nydus,dest=x", OutputError::Type("nydus".into())),
            ("dest=x", OutputError::NoType),
            ("type=tar,dest=x,compression=zstd", OutputError::Option { key: "compression".into(), kind: "tar".into() }),
            ("type=registry,compression=estargz", CompressionError::Kind("estargz".into()).into()),
            ("type=oci,dest=x,tar=perhaps", OutputError::Boolean { key: "tar".into(), value: "perhaps".into() }),
            ("type=oci,nonsense", OutputError::Pair("nonsense".into())),
        ] {
            assert_eq!(text.parse::<OutputSpec>(), Err(error), "{text}");
        }
    }
}
