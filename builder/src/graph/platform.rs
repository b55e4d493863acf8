//! Platforms: `os/arch[/variant]`, as `--platform` and the platform arguments write them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// An operating system and a processor architecture, in Go's names as the OCI image spec wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7` and the like.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this binary runs on.
    pub fn host() -> Self {
        let (architecture, variant) = normalise(std::env::consts::ARCH, None);
        Self { os: "linux".into(), architecture, variant }
    }

    /// Whether a command built for `self` runs on this machine without emulation.
    pub fn runs_here(&self) -> bool {
        let host = Self::host();
        self.os == host.os && self.architecture == host.architecture
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl From<&Platform> for oci_spec::image::Platform {
    fn from(platform: &Platform) -> Self {
        let mut oci = Self::default();
        oci.set_os(platform.os.as_str().into());
        oci.set_architecture(platform.architecture.as_str().into());
        oci.set_variant(platform.variant.clone());
        oci
    }
}

/// A platform that is not `os/arch[/variant]`, or whose system rbuild cannot build for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// Not a platform, or not one of Linux.
    #[error("`{0}` is not a platform that rbuild builds for: write `linux/<architecture>[/<variant>]`")]
    Unknown(String),
    /// A list.
    #[error("`{0}` is more than one platform, which is not implemented: build each by itself, under a name of its own")]
    Several(String),
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        if text.contains(',') {
            return Err(PlatformError::Several(text.into()));
        }
        let parts: Vec<String> = text.split('/').map(str::to_ascii_lowercase).collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [one] if one == "linux" || one == "local" => return Ok(Self::host()),
            [one] => ("linux", one.as_str(), None),
            [os, architecture] => (os.as_str(), architecture.as_str(), None),
            [os, architecture, variant] => (os.as_str(), architecture.as_str(), Some(variant.as_str())),
            _ => return Err(PlatformError::Unknown(text.into())),
        };
        let plain = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if os != "linux" || !plain(architecture) || !variant.is_none_or(plain) {
            return Err(PlatformError::Unknown(text.into()));
        }
        let (architecture, variant) = normalise(architecture, variant);
        Ok(Self { os: os.into(), architecture, variant })
    }
}

/// Maps the usual other names of an architecture to Go's (containerd's `platforms` package documents the same).
fn normalise(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let (architecture, implied) = match architecture {
        "x86_64" | "x86-64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v6")),
        "i386" | "i686" | "x86" => ("386", None),
        other => (other, None),
    };
    let variant = variant.or(implied).filter(|v| !matches!((architecture, *v), ("arm64", "v8") | ("amd64", "v1")));
    (architecture.to_owned(), variant.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_shown() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("armhf", "linux/arm/v7"),
            ("local", &Platform::host().to_string()),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn other_systems_and_nonsense_are_refused() {
        for text in ["windows/amd64", "", "linux/", "a/b/c/d", "linux/amd64/../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        let several = "linux/amd64,linux/arm64".parse::<Platform>().unwrap_err().to_string();
        assert!(several.contains("not implemented: build each by itself"), "{several}");
    }
}
