//! What root of a step may do.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

use super::spec::{Attempt, Failure};

/// The capabilities that Docker gives by default (moby, `oci/caps/defaults.go`).
pub(super) const STEP: CapabilitySet = CapabilitySet::AUDIT_WRITE
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_CHROOT);

/// Lets no program regain what a step may not have: takes it out of the bounding set. What this process holds, it keeps.
pub(super) fn bound() -> Result<(), Failure> {
    let attempt = || -> Result<(), Errno> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if STEP.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                Err(Errno::INVAL) => break, // beyond the last one that the kernel knows
                result => result?,
            }
        }
        match clear_ambient_capability_set() {
            Ok(()) | Err(Errno::INVAL) => Ok(()), // before Linux 4.3 there are none
            Err(error) => Err(error),
        }
    };
    attempt().attempt(|| "bound capabilities".to_owned())
}

/// Gives up every capability but those of a step, for good, in a process that is [bounded](bound). What is `kept` beside them
/// stays with this process, and with no program that it executes.
pub(super) fn confine(kept: CapabilitySet) -> Result<(), Failure> {
    let attempt = || -> Result<(), Errno> {
        let held = capabilities(None)?.permitted.intersection(STEP | kept);
        set_capabilities(None, CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() })
    };
    attempt().attempt(|| "give up capabilities".to_owned())
}
