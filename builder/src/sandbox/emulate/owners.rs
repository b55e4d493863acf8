//! Whose a file is, and making one that is somebody's.

use rustix::io::Errno;
use snapshot::Owner;

use super::credentials::Credentials;
use super::guise::Guise;
use super::place::Place;
use super::record::{self, Records};

/// Where the owners of a step's files stand.
#[derive(Debug)]
pub(super) enum Owners {
    /// Beside them: the kernel takes all of them for root's.
    Recorded(Records),
    /// In them: the kernel gives a file to anybody, only the step's processes are all root's.
    Real,
}

impl Owners {
    /// Whose a file is; nothing if it is not there, or if nothing is recorded about it.
    pub(super) fn find(&self, place: &Place) -> Option<Owner> {
        match self {
            Self::Recorded(records) => records.find(place),
            Self::Real => {
                let found = record::status(place).ok()?;
                Some(Owner { uid: found.st_uid, gid: found.st_gid, device: None })
            }
        }
    }

    /// Whether the kernel knows them.
    pub(super) fn are_real(&self) -> bool {
        matches!(self, Self::Real)
    }

    /// Makes a file for `who`; it is `owner`'s where the kernel does not decide that.
    pub(super) fn make<T>(
        &mut self,
        (who, owner): (&Credentials, Owner),
        make: impl FnOnce() -> Result<(T, Place), Errno>,
    ) -> Result<T, Errno> {
        match self {
            Self::Recorded(records) => records.make(owner, make),
            Self::Real => {
                let _guise = Guise::of(who)?;
                make().map(|(made, _)| made)
            }
        }
    }
}
