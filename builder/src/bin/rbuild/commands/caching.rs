//! The arguments of `rbuild build` that are about caches.

use builder::build::Caching;
use clap::Args;

/// What the cache is used for, and what is told of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct CachingArgs {
    /// Run every step of these stages, whatever the cache has
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Say of each step that runs why the cache did not have it
    #[arg(long)]
    explain: bool,
    /// After a failure, finish the steps that do not depend on the one that failed
    #[arg(long)]
    keep_going: bool,
}

impl CachingArgs {
    /// What the arguments say.
    pub(crate) fn caching(&self) -> Caching {
        Caching { no_cache_stages: self.no_cache_filter.clone(), keep_going: self.keep_going, explain: self.explain }
    }
}
