//! Records of builds in a rack's registry: made with `--publish-record`, looked for by `rbuild builds`.

use std::time::Duration;

use builder::app::published::{self, Published};
use builder::app::rack::Rack;
use builder::app::records::Records;
use builder::build as building;

use super::{Outcome, app_failure, refuse, registry_options};
use crate::commands::registries::RegistryArgs;
use crate::ui;

/// Longest wait for a registry that a listing only asks for more.
const PATIENCE: Duration = Duration::from_secs(3);

/// Refuses a rack that has nowhere to publish.
pub(crate) fn check(rack: &Rack) -> Outcome {
    if rack.pushes().map_err(app_failure)? {
        return Ok(());
    }
    let name = &rack.name;
    Err(refuse(format!(
        "`--publish-record` needs a registry: `rbuild rack params set -r {name} registry=…` gives the rack one"
    )))
}

/// Publishes the record of a build that has ended.
pub(crate) fn publish(rack: &Rack, records: &Records, id: &str, args: &RegistryArgs) -> Outcome {
    let client = building::client(&registry_options(rack, args)?).map_err(app_failure)?;
    let build = records.build(id).map_err(app_failure)?;
    let images = records.images(id).map_err(app_failure)?;
    let steps = records.steps(id).map_err(app_failure)?;
    let log = fs_err::read(records.log(id).map_err(app_failure)?).map_err(app_failure)?;
    let repository = build.repository.clone();
    published::publish(&client, &repository, &Published { build, images, steps, log }).map_err(app_failure)
}

/// Keeps the records here that were published from elsewhere: all, or the one of a build that is not known. A registry
/// that does not answer keeps nobody from what is here.
pub(crate) fn bring(rack: &Rack, records: &Records, app: &str, id: Option<&str>) -> Outcome {
    if !rack.pushes().map_err(app_failure)? || id.is_some_and(|id| records.build(id).is_ok()) {
        return Ok(());
    }
    let mut options = registry_options(rack, &RegistryArgs::default())?;
    (options.retry.attempts, options.timeouts.connect, options.timeouts.answer) = (1, PATIENCE, PATIENCE);
    let client = building::client(&options).map_err(app_failure)?;
    let repository = rack.repository(app).map_err(app_failure)?;
    if let Err(error) = published::bring(&client, &repository, records, id) {
        ui::note(&format!("warning: builds of other machines may be missing: {:#}", anyhow::Error::from(error)));
    }
    Ok(())
}
