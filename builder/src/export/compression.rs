//! How layers are compressed: what `--compression` and `-o …,compression=` say, as data.
//!
//! The keys and values are those of buildx. One build has one compression: its layers are made while it runs.

use snapshot::Compression;

use super::output::OutputSpec;

/// A compression that rbuild does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// An unknown kind.
    #[error("compression `{0}` is not implemented: write `gzip`, `zstd` or `uncompressed`")]
    Kind(String),
    /// A level that the kind does not have.
    #[error("compression level `{level}` of {kind} is not implemented: {levels}")]
    Level {
        /// The kind.
        kind: &'static str,
        /// The level as written.
        level: String,
        /// Which there are.
        levels: &'static str,
    },
    /// Outputs that want different layers.
    #[error(
        "one build with several compressions is not implemented: give all outputs the same `compression` and \
         `force-compression`"
    )]
    Several,
}

/// Reads a kind and a level; `None` when neither is said.
pub fn read(kind: Option<&str>, level: Option<&str>) -> Result<Option<Compression>, CompressionError> {
    let number = level.map(|level| level.parse::<u32>().ok());
    let wrong = |kind, levels| CompressionError::Level { kind, level: level.unwrap_or_default().into(), levels };
    let compression = match kind {
        None if level.is_none() => return Ok(None),
        None | Some("gzip") => match number.unwrap_or(Some(Compression::GZIP_LEVEL)) {
            Some(level @ 0..=9) => Compression::Gzip { level },
            _ => return Err(wrong("gzip", "levels are 0 to 9")),
        },
        Some("zstd") => match number.unwrap_or(Some(Compression::ZSTD_LEVEL)) {
            Some(Compression::ZSTD_LEVEL) => Compression::Zstd { level: Compression::ZSTD_LEVEL },
            _ => return Err(wrong("zstd", "the only level is 1")),
        },
        Some("uncompressed") if level.is_none() => Compression::None,
        Some("uncompressed") => return Err(wrong("uncompressed layers", "there is none")),
        Some(other) => return Err(CompressionError::Kind(other.to_owned())),
    };
    Ok(Some(compression))
}

/// The compression of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chosen {
    /// How new layers are compressed.
    pub compression: Compression,
    /// Whether the layers of base images are too, where they are compressed otherwise.
    pub force: bool,
}

/// Returns the compression of a build: what its outputs say, or `general` where they say nothing.
pub fn choose(general: Option<Compression>, outputs: &[OutputSpec]) -> Result<Chosen, CompressionError> {
    let general = general.unwrap_or_default();
    let of_layers = outputs.iter().filter(|spec| spec.output.wants_layers());
    let chosen = |spec: &OutputSpec| Chosen { compression: spec.compression.unwrap_or(general), force: spec.force };
    let mut wanted = of_layers.map(chosen);
    let first = wanted.next().unwrap_or(Chosen { compression: general, force: false });
    if wanted.all(|other| other == first) { Ok(first) } else { Err(CompressionError::Several) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions_are_read() {
        for (kind, level, compression) in [
            (None, None, None),
            (Some("gzip"), None, Some(Compression::Gzip { level: 6 })),
            (None, Some("9"), Some(Compression::Gzip { level: 9 })),
            (Some("zstd"), None, Some(Compression::Zstd { level: 1 })),
            (Some("zstd"), Some("1"), Some(Compression::Zstd { level: 1 })),
            (Some("uncompressed"), None, Some(Compression::None)),
        ] {
            assert_eq!(read(kind, level), Ok(compression), "{kind:?} {level:?}");
        }
        for (kind, level) in [
            (Some("estargz"), None),
            (Some("GZIP"), None),
            (Some("gzip"), Some("10")),
            (None, Some("-1")),
            (Some("gzip"), Some("")),
            (Some("zstd"), Some("3")),
            (Some("uncompressed"), Some("1")),
        ] {
            let error = read(kind, level).unwrap_err().to_string();
            assert!(error.contains("not implemented") && error.contains(level.or(kind).unwrap()), "{error}");
        }
    }

    #[test]
    fn a_build_has_one_compression() {
        let outputs = |texts: &[&str]| -> Vec<OutputSpec> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let zstd = Compression::Zstd { level: 1 };
        let in_zstd = "type=oci,dest=a,compression=zstd";
        for (general, texts, chosen) in [
            (None, &[][..], Ok(Compression::default())),
            (Some(zstd), &[], Ok(zstd)),
            (None, &[in_zstd], Ok(zstd)),
            (None, &[in_zstd, "type=local,dest=b"], Ok(zstd)),
            (Some(zstd), &[in_zstd, "type=registry"], Ok(zstd)),
            (None, &[in_zstd, "type=registry"], Err(CompressionError::Several)),
            (None, &["type=registry", "type=docker,dest=b,compression=gzip"], Ok(Compression::default())),
        ] {
            let chosen = chosen.map(|compression| Chosen { compression, force: false });
            assert_eq!(choose(general, &outputs(texts)), chosen, "{texts:?}");
        }
        let forced = "type=oci,dest=a,compression=zstd,force-compression=true";
        assert_eq!(choose(None, &outputs(&[forced])), Ok(Chosen { compression: zstd, force: true }));
        assert_eq!(choose(None, &outputs(&[forced, in_zstd])), Err(CompressionError::Several));
    }
}
