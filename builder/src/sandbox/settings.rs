//! What every step of a build has that its Dockerfile does not say: names of hosts, limits, the size of `/dev/shm`, a
//! time. Nothing of it is in a key of the cache.

use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::spec::{Attempt, Failure};

/// More bytes than `/proc/vmstat` has.
const VMSTAT: usize = 16 << 10;

/// The settings of all steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Lines of `/etc/hosts` beside the usual ones: an address and its name.
    pub hosts: Vec<(IpAddr, String)>,
    /// The size of `/dev/shm` in bytes; 64 MiB when absent, as Docker has it.
    pub shm_size: Option<u64>,
    /// Limits of resources.
    pub limits: Vec<ResourceLimit>,
    /// How long a step may take.
    pub timeout: Option<Duration>,
    /// The most memory that a step may have, in bytes.
    pub memory: Option<u64>,
    /// The most processors that a step may keep busy, in thousandths.
    pub cpus: Option<u32>,
}

/// One limit of `setrlimit(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// Its name in `limits.conf(5)`.
    name: String,
    /// What applies; unlimited when absent.
    soft: Option<u64>,
    /// What the step may raise it to; unlimited when absent.
    hard: Option<u64>,
}

/// The names of `limits.conf(5)`.
const RESOURCES: &[(&str, Resource)] = &[
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Why a text is no limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Not of the form.
    #[error("`{0}` is not of the form `NAME=SOFT[:HARD]`")]
    Form(String),
    /// No such resource.
    #[error("there is no limit `{0}`; there are {names}", names = names())]
    Unknown(String),
    /// Not a number.
    #[error("`{0}` is neither a number nor `-1` or `unlimited`")]
    Number(String),
    /// A soft limit above the hard one.
    #[error("the soft limit of `{0}` is above its hard limit")]
    Order(String),
}

fn names() -> String {
    RESOURCES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl std::str::FromStr for ResourceLimit {
    type Err = LimitError;

    /// Reads `NAME=SOFT[:HARD]`; a limit alone is both; `-1` and `unlimited` are none.
    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (name, value) = text.split_once('=').ok_or_else(|| LimitError::Form(text.to_owned()))?;
        if RESOURCES.iter().all(|(known, _)| *known != name) {
            return Err(LimitError::Unknown(name.to_owned()));
        }
        let number = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            number => number.parse().map(Some).map_err(|_| LimitError::Number(text.to_owned())),
        };
        let (soft, hard) = value.split_once(':').unwrap_or((value, value));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
            return Err(LimitError::Order(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), soft, hard })
    }
}

impl Settings {
    /// Whether they need a cgroup.
    pub(super) fn need_group(&self) -> bool {
        self.memory.is_some() || self.cpus.is_some()
    }
}

impl ResourceLimit {
    fn resource(&self) -> Resource {
        RESOURCES.iter().find(|(name, _)| *name == self.name).expect("a limit is made with a known name").1
    }
}

/// Refuses what no step could have: limits are lowered alone, for a step must not have more than rbuild.
pub(super) fn check(settings: &Settings) -> Result<(), SandboxError> {
    for limit in &settings.limits {
        let most = getrlimit(limit.resource()).maximum;
        if let Some(most) = most.filter(|most| limit.hard.is_none_or(|hard| hard > *most)) {
            let wanted = limit.hard.map_or_else(|| "unlimited".to_owned(), |hard| hard.to_string());
            let name = &limit.name;
            let reason =
                format!("its limit `{name}`, {wanted}, is above that of rbuild itself, {most}: it can only be lowered");
            return Err(SandboxError::InvalidStep { reason });
        }
    }
    Ok(())
}

/// Sets the limits of this process.
pub(super) fn limit(settings: &Settings) -> Result<(), Failure> {
    for limit in &settings.limits {
        setrlimit(limit.resource(), Rlimit { current: limit.soft, maximum: limit.hard })
            .attempt(|| format!("set the limit `{}`", limit.name))?;
    }
    Ok(())
}

/// How many processes the kernel has killed for want of memory since the machine started; none where it does not say
/// (`/proc/vmstat`, Linux 4.13).
pub(super) fn memory_kills() -> Option<u64> {
    // The kernel counts anew for every read: some large ones are quicker than many small ones.
    let mut text = String::with_capacity(VMSTAT);
    fs_err::File::open("/proc/vmstat").ok()?.read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_name_and_one_or_two_numbers() {
        let limit = |soft, hard| ResourceLimit { name: "nofile".into(), soft, hard };
        for (text, expected) in [
            ("nofile=5", Ok(limit(Some(5), Some(5)))),
            ("nofile=5:6", Ok(limit(Some(5), Some(6)))),
            ("nofile=5:-1", Ok(limit(Some(5), None))),
            ("nofile=unlimited", Ok(limit(None, None))),
            ("nofile=6:5", Err(LimitError::Order("nofile".into()))),
            ("nofile=-1:5", Err(LimitError::Order("nofile".into()))),
            ("nofile", Err(LimitError::Form("nofile".into()))),
            ("files=5", Err(LimitError::Unknown("files".into()))),
            ("nofile=five", Err(LimitError::Number("five".into()))),
            ("nofile=-2", Err(LimitError::Number("-2".into()))),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn the_kernel_counts_what_it_kills() {
        assert!(memory_kills().is_some(), "/proc/vmstat of every kernel since 4.13 has `oom_kill`");
    }
}
