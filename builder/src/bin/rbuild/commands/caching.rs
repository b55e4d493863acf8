//! The arguments of `rbuild build` that are about caches.

use builder::build::Caching;
use builder::cache::{CacheFrom, CacheTo};
use builder::context::Modes;
use clap::{Args, ValueEnum};

/// What the cache is used for, and what is told of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct CachingArgs {
    /// Run every step of these stages, whatever the cache has
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Look steps up in a cache besides the store, `type=registry,ref=NAME` or `type=local,src=PATH`; may be given several
    /// times
    #[arg(long, value_name = "SPEC", value_parser = |text: &str| text.parse::<CacheFrom>())]
    cache_from: Vec<CacheFrom>,
    /// Keep steps in a cache besides the store, `type=registry,ref=NAME[,mode=min|max][,mounts=true]`,
    /// `type=local,dest=PATH[,…]` or `type=inline`; may be given several times
    #[arg(long, value_name = "SPEC", value_parser = |text: &str| text.parse::<CacheTo>())]
    cache_to: Vec<CacheTo>,
    /// Run so many of a hundred steps that the cache has all the same, `N%`, and fail where that makes something else
    #[arg(long, value_name = "N%", value_parser = percentage, default_value = "0%")]
    cache_verify: u8,
    /// Which permissions the files of the build context have
    #[arg(long, value_name = "MODE", default_value = "keep")]
    context_mode: ContextMode,
    /// Fail when a cache cannot be written
    #[arg(long)]
    cache_strict: bool,
    /// Say of each step that runs why the cache did not have it
    #[arg(long)]
    explain: bool,
    /// After a failure, finish the steps that do not depend on the one that failed
    #[arg(long)]
    keep_going: bool,
}

/// `--context-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ContextMode {
    /// Their own
    Keep,
    /// Those that git keeps, whatever the umask of the check-out: 0644, 0755 for directories and programs
    Git,
}

/// `N%`, from 0 to 100.
fn percentage(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|number| *number <= 100);
    number.ok_or_else(|| "write a number from 0 to 100 with a `%`".to_owned())
}

impl CachingArgs {
    /// What the arguments say.
    pub(crate) fn caching(&self) -> Caching {
        let mut to = self.cache_to.clone();
        for to in &mut to {
            to.strict |= self.cache_strict;
        }
        Caching {
            verify: self.cache_verify,
            modes: match self.context_mode {
                ContextMode::Keep => Modes::Kept,
                ContextMode::Git => Modes::Git,
            },
            from: self.cache_from.clone(),
            to,
            no_cache_stages: self.no_cache_filter.clone(),
            keep_going: self.keep_going,
            explain: self.explain,
        }
    }
}
