//! Where an image may be, as people write it: the transports of containers-transports(5), and a bare name.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use registry::Reference;

/// Where an image is, or shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `docker://NAME`, or just `NAME`: a repository of a registry.
    Registry(Reference),
    /// `oci:PATH[:TAG|@DIGEST]`: an OCI layout in a directory.
    Layout {
        /// The directory.
        path: PathBuf,
        /// Which of its images.
        pick: Option<String>,
    },
    /// `oci-archive:PATH[:TAG|@DIGEST]`: an OCI layout in a tar archive.
    OciArchive {
        /// The archive.
        path: PathBuf,
        /// Which of its images.
        pick: Option<String>,
    },
    /// `docker-archive:PATH[:NAME]`: an archive of `docker save`, for `docker load`.
    DockerArchive {
        /// The archive.
        path: PathBuf,
        /// Which of its images.
        pick: Option<String>,
    },
    /// `store:NAME`: rbuild's own store.
    Store(Reference),
}

/// A text that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the place of an image: {problem}")]
pub struct PlaceError {
    text: String,
    problem: String,
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let wrong = |problem: String| PlaceError { text: text.escape_default().to_string(), problem };
        let reference = |name| registry::reference::parse(name).map_err(|error| wrong(error.to_string()));
        let file = |rest: &str| match split(rest) {
            (path, pick) if !path.is_empty() && pick.is_none_or(|pick| !pick.is_empty()) => {
                Ok((PathBuf::from(path), pick.map(str::to_owned)))
            }
            _ => Err(wrong("write `TRANSPORT:PATH` or `TRANSPORT:PATH:TAG`".into())),
        };
        match text.split_once(':') {
            Some(("docker", rest)) if rest.starts_with("//") => reference(&rest[2..]).map(Self::Registry),
            Some(("oci", rest)) => file(rest).map(|(path, pick)| Self::Layout { path, pick }),
            Some(("oci-archive", rest)) => file(rest).map(|(path, pick)| Self::OciArchive { path, pick }),
            Some(("docker-archive", rest)) => file(rest).map(|(path, pick)| Self::DockerArchive { path, pick }),
            Some(("store", rest)) => reference(rest).map(Self::Store),
            Some((transport @ ("dir" | "docker-daemon" | "containers-storage" | "ostree" | "sif" | "atomic"), _)) => {
                Err(wrong(format!(
                    "`{transport}:` is not implemented in this version; rbuild has `docker://`, `oci:`, `oci-archive:`, \
                     `docker-archive:` and `store:`"
                )))
            }
            _ => reference(text).map(Self::Registry),
        }
    }
}

/// Splits `PATH[:TAG|@DIGEST]`; as the containers tools have it, a path has no colon.
fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((path, digest)) = text.split_once('@') {
        return (path, Some(digest));
    }
    text.split_once(':').map_or((text, None), |(path, pick)| (path, Some(pick)))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, pick) = match self {
            Self::Registry(reference) => return write!(f, "docker://{}", reference.whole()),
            Self::Store(reference) => return write!(f, "store:{}", reference.whole()),
            Self::Layout { path, pick } => ("oci", path, pick),
            Self::OciArchive { path, pick } => ("oci-archive", path, pick),
            Self::DockerArchive { path, pick } => ("docker-archive", path, pick),
        };
        write!(f, "{transport}:{}", path.display())?;
        match pick {
            Some(digest) if digest.starts_with("sha256:") => write!(f, "@{digest}"),
            Some(pick) => write!(f, ":{pick}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_the_containers_tools_write_it() {
        for (text, shown) in [
            ("busybox", "docker://docker.io/library/busybox:latest"),
            ("docker://localhost:5000/x", "docker://localhost:5000/x:latest"),
            ("localhost:5000/x:1", "docker://localhost:5000/x:1"),
            ("oci:some/dir", "oci:some/dir"),
            ("oci:some/dir:v1", "oci:some/dir:v1"),
            ("oci-archive:a.tar:v1", "oci-archive:a.tar:v1"),
            ("docker-archive:a.tar:host/x:v1", "docker-archive:a.tar:host/x:v1"),
            ("store:app:1", "store:docker.io/library/app:1"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), shown);
        }
        let digest = format!("oci:a@sha256:{}", "0".repeat(64));
        assert_eq!(digest.parse::<Place>().unwrap().to_string(), digest);
        for text in ["", "oci:", "oci::x", "oci:a:", "docker://", "dir:/x", "docker-daemon:x:1", "UPPER", "store:"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
