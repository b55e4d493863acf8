//! Digests of content, by the algorithms that the OCI image specification registers.

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::{Action, Error};

/// A digest that is being computed.
#[derive(Clone)]
pub(crate) enum Digester {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Digester {
    pub(crate) fn new(algorithm: &DigestAlgorithm, action: &Action) -> Result<Self, Error> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Self::Sha256(Sha256::new())),
            DigestAlgorithm::Sha384 => Ok(Self::Sha384(Sha384::new())),
            DigestAlgorithm::Sha512 => Ok(Self::Sha512(Sha512::new())),
            other => Err(Error::Algorithm { action: Box::new(action.clone()), algorithm: other.to_string() }),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Sha384(state) => state.update(bytes),
            Self::Sha512(state) => state.update(bytes),
        }
    }

    /// Compares what was seen with what was promised.
    pub(crate) fn check(self, expected: &Digest, action: &Action) -> Result<(), Error> {
        let actual = self.finish();
        if actual == *expected {
            return Ok(());
        }
        Err(Error::WrongDigest { action: Box::new(action.clone()), expected: expected.clone(), actual })
    }

    pub(crate) fn finish(self) -> Digest {
        let (name, bytes) = match self {
            Self::Sha256(state) => ("sha256", state.finalize().to_vec()),
            Self::Sha384(state) => ("sha384", state.finalize().to_vec()),
            Self::Sha512(state) => ("sha512", state.finalize().to_vec()),
        };
        let mut text = format!("{name}:");
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text.parse().expect("hexadecimal digits of the algorithm's length are a digest")
    }
}

/// The SHA-256 digest of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digester::Sha256(Sha256::new_with_prefix(bytes)).finish()
}

/// Compares bytes with a promised digest.
pub(crate) fn check(bytes: &[u8], expected: &Digest, action: &Action) -> Result<(), Error> {
    let mut digester = Digester::new(expected.algorithm(), action)?;
    digester.update(bytes);
    digester.check(expected, action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        // FIPS 180-4, example "abc".
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc").as_ref(), abc);
        let action = Action::ListTags("x".into());
        assert!(check(b"abc", &abc.parse().unwrap(), &action).is_ok());
        let error = check(b"abd", &abc.parse().unwrap(), &action).unwrap_err();
        assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
        let error = check(b"abc", &"md5:0123".parse().unwrap(), &action).unwrap_err();
        assert!(matches!(error, Error::Algorithm { .. }), "{error}");
    }
}
