//! Rows whose builds begin on a new machine and find their steps in a registry: the options with which each builder writes its own
//! kind of cache there, and reads it.

use std::ffi::OsString;

use super::builders::Builder;
use super::measure::Words;

/// The build that keeps its steps in `cache`, a repository, as well.
pub(super) fn writing(builder: &Builder, commands: Vec<Words>, cache: &str) -> Vec<Words> {
    let options = match builder {
        Builder::Rbuild(_) => ["--cache-to".to_owned(), format!("type=registry,ref={cache},mode=max")],
        Builder::Buildah | Builder::Hand => ["--cache-to".to_owned(), cache.to_owned()],
    };
    with(commands, options)
}

/// The build that looks its steps up in `cache`.
pub(super) fn reading(builder: &Builder, commands: Vec<Words>, cache: &str) -> Vec<Words> {
    let options = match builder {
        Builder::Rbuild(_) => ["--cache-from".to_owned(), format!("type=registry,ref={cache}")],
        Builder::Buildah | Builder::Hand => ["--cache-from".to_owned(), cache.to_owned()],
    };
    with(commands, options)
}

/// The first command builds, and its last word is the context.
fn with(mut commands: Vec<Words>, options: [String; 2]) -> Vec<Words> {
    if let Some(build) = commands.first_mut() {
        let context = build.len().saturating_sub(1);
        build.splice(context..context, options.map(OsString::from));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_before_the_context_of_the_build() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Words>();
        let commands = vec![words(&["buildah", "bud", "context"]), words(&["buildah", "push"])];
        let read = reading(&Builder::Buildah, commands, "host/cache");
        assert_eq!(
            read,
            [words(&["buildah", "bud", "--cache-from", "host/cache", "context"]), words(&["buildah", "push"])]
        );
    }
}
