//! The set-up as a whole: packages, registry, base images, and the plain user of the tests.

use anyhow::{Context, Result};

use crate::bases::{self, Base};
use crate::rbuild::Profile;
use crate::registry::{self, Registry};
use crate::state::State;
use crate::{apt, users};

/// The chores that need different things of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Demo,
    Test,
    Bench,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Demo, Self::Test, Self::Bench];

    fn bases(self) -> &'static [Base] {
        match self {
            Self::Demo => &[Base::Debian, Base::Busybox],
            Self::Test => &Base::ALL,
            Self::Bench => &[Base::Debian],
        }
    }
}

/// Makes whatever of the parts is not made yet. `profile` is how rbuild is compiled if a base must be built with it.
pub(crate) fn run(state: &State, parts: &[Part], profile: Profile) -> Result<Registry> {
    let lock = state.lock()?;
    apt::install(state, parts)?;
    let registry = registry::start(state)?;
    for base in Base::ALL {
        if parts.iter().any(|part| part.bases().contains(&base)) {
            bases::ensure(state, registry, base, profile)
                .with_context(|| format!("making the base image {}", base.image()))?;
        }
    }
    if parts.contains(&Part::Test) {
        users::ensure_plain_user()?;
    }
    drop(lock);
    Ok(registry)
}
