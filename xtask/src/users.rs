//! The plain user with subordinate uids and gids that the tests of rootless builds run as.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::unistd::{Uid, User};

use crate::command::{command, quiet};

/// The name of the user.
pub(crate) const PLAIN_USER: &str = "rbuild-test";

/// How many subordinate ids a rootless build needs: an image may use every id up to 65535.
const RANGE: u64 = 65536;

/// Creates the user and the ranges where they are missing.
pub(crate) fn ensure_plain_user() -> Result<()> {
    let known = User::from_name(PLAIN_USER).with_context(|| format!("looking up the user {PLAIN_USER}"))?.is_some();
    let files = [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")];
    if known && files.iter().all(|(file, _)| range(Path::new(file)).is_ok_and(|owned| owned)) {
        return Ok(());
    }
    ensure!(Uid::effective().is_root(), "only root can create the user {PLAIN_USER}: run `cargo xtask setup` as root");
    if !known {
        println!("creating the user {PLAIN_USER}: tests run rootless builds as this user");
        quiet(&mut command(
            "useradd",
            ["--create-home", "--shell", "/bin/sh", "--comment", "tests of rbuild", PLAIN_USER],
        ))?;
    }
    // useradd gives ranges by itself where login.defs(5) says so.
    for (file, option) in files {
        if !range(Path::new(file))? {
            let first = first_free(Path::new(file))?;
            let range = format!("{first}-{}", first + RANGE - 1);
            quiet(&mut command("usermod", [option, &range, PLAIN_USER]))?;
        }
    }
    Ok(())
}

/// Whether a file in the format of subuid(5) gives the user a range that is long enough.
fn range(file: &Path) -> Result<bool> {
    Ok(entries(file)?.iter().any(|(user, _, count)| user == PLAIN_USER && *count >= RANGE))
}

/// The first id above all ranges that are given already.
fn first_free(file: &Path) -> Result<u64> {
    // 100000 is SUB_UID_MIN of login.defs(5).
    Ok(entries(file)?.iter().map(|(_, first, count)| first + count).fold(100_000, u64::max))
}

fn entries(file: &Path) -> Result<Vec<(String, u64, u64)>> {
    let text = if file.exists() { fs_err::read_to_string(file)? } else { String::new() };
    let entry = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_be_the_user_s_own_and_long_enough() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let given = |text: &str| {
            fs_err::write(file.path(), text).unwrap();
            (range(file.path()).unwrap(), first_free(file.path()).unwrap())
        };
        assert_eq!(given(""), (false, 100_000));
        assert_eq!(given("other:100000:65536\n"), (false, 165_536));
        assert_eq!(given("other:100000:65536\nrbuild-test:165536:1000\n"), (false, 166_536));
        assert_eq!(given("rbuild-test:165536:65536\nother:100000:65536\n"), (true, 231_072));
    }
}
