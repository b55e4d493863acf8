//! Which sandbox a command works in.

use builder::sandbox::{self, RootEmulation, Sandbox, SandboxError};

use crate::report::Failure;

/// How steps are isolated.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct IsolationArgs {
    /// How to isolate steps: `rbuild doctor` says what this machine gives
    #[arg(long, value_name = "RUNG", default_value = "auto")]
    isolation: String,
    /// With the isolation `single`, how root has other ids: `full`, exactly; `filter`, changes succeed and change
    /// nothing; `none`, changes fail [default: full]. With `chroot`, whether processes only seem to be their users', so
    /// that setuid programs work: `full`, in every step; `none`, in no step [default: after USER, in an image with `sudo`
    /// or `doas`]
    #[arg(long, value_name = "MODE", value_parser = root_emulation)]
    root_emulation: Option<RootEmulation>,
}

impl Default for IsolationArgs {
    fn default() -> Self {
        Self { isolation: "auto".into(), root_emulation: None }
    }
}

fn root_emulation(name: &str) -> Result<RootEmulation, String> {
    RootEmulation::of_name(name).ok_or_else(|| "there are `full`, `filter` and `none`".to_owned())
}

impl IsolationArgs {
    /// Chooses the rung and steps onto it; no thread may run yet.
    pub(crate) fn enter(&self) -> Result<Sandbox, Failure> {
        let home = super::home()?;
        super::make_home(&home)?;
        let requested = Some(self.isolation.as_str()).filter(|name| *name != "auto");
        sandbox::enter(requested, self.root_emulation, &home).map_err(|error| match error {
            SandboxError::UnknownRung { .. } => {
                Failure::Usage(format!("`--isolation`: {error}; `auto` is the best that works"))
            }
            error => Failure::Environment(error.into()),
        })
    }
}
