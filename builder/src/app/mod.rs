//! Apps: the services of a `convox.yml`, built together, and what is remembered of their builds.
//!
//! [`manifest`], [`interpolate`], [`environment`], [`arguments`], [`targets`], [`words`] and the record types are data
//! in, data out. [`records`] and [`rack`] keep files below the state directory; [`steps`] watches a build for its record;
//! [`published`] keeps records in a registry; [`archive`] reads and writes what `builds export` makes; [`transfer`] moves
//! images that are not built.
//!
//! A *rack* is a profile on this machine: a registry to push to, credentials, settings. An *app* is a name in a rack. A
//! *build* is a record, a log and one image a service; a *release* is a build with an environment.

pub mod archive;
pub mod arguments;
pub mod build;
pub mod environment;
mod files;
pub mod git;
pub mod id;
pub mod interpolate;
pub mod manifest;
pub mod published;
pub mod rack;
pub mod record;
pub mod records;
pub mod run;
pub mod steps;
pub mod targets;
pub mod transfer;
pub mod words;
pub mod yaml;
