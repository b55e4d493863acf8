//! What patterns select and what a walk visits, on real trees.

use std::os::unix::fs::{PermissionsExt, symlink};

use expect_test::{Expect, expect};
use rustix::fs::{CWD, FileType, Mode};
use snapshot::Kind;

use super::*;

struct Tree(tempfile::TempDir);

impl Tree {
    /// Makes files (`a/b`), directories (`a/`) and links (`a -> b`).
    fn new(entries: &[&str]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for entry in entries {
            tree.add(entry);
        }
        tree
    }

    fn add(&self, entry: &str) {
        let (name, target) = entry.split_once(" -> ").map_or((entry, None), |(name, target)| (name, Some(target)));
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, path).unwrap(),
            None if name.ends_with('/') => fs::create_dir_all(path).unwrap(),
            None => fs::write(path, name).unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn context(&self, rules: &str) -> LocalContext {
        LocalContext::open(self.0.path(), Ignore::parse(rules).unwrap()).unwrap()
    }

    /// One line for each match: the name, and the path where it differs.
    fn select(&self, rules: &str, pattern: &str) -> Result<String, ContextError> {
        let selected = self.context(rules).select(pattern)?;
        let lines = selected.into_iter().map(|selected| {
            let slash = if selected.directory { "/" } else { "" };
            format!("{}={}{slash}", selected.name.display(), selected.path.display())
        });
        Ok(lines.collect::<Vec<_>>().join(" "))
    }

    fn walk(&self, rules: &str, pattern: &str, exclude: &str) -> String {
        let context = self.context(rules);
        let exclude = Ignore::parse(exclude).unwrap();
        let mut lines = Vec::new();
        for selected in context.select(pattern).unwrap() {
            let visited: Result<(), ContextError> = context.walk(&selected, &exclude, &mut |path, entry| {
                let suffix = match &entry.kind {
                    Kind::Directory => "/".to_owned(),
                    Kind::Symlink { target } => format!(" -> {}", String::from_utf8_lossy(target)),
                    Kind::Fifo => "|".to_owned(),
                    Kind::File { .. } | Kind::CharDevice { .. } | Kind::BlockDevice { .. } => String::new(),
                };
                lines.push(format!("{}{suffix}", path.display()));
                Ok(())
            });
            visited.unwrap();
        }
        lines.join(" ")
    }
}

fn error(result: Result<impl std::fmt::Debug, ContextError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn literal_paths_select_themselves() {
    let tree = Tree::new(&["a", "d/b", "d/e/c", "x*y", "sp ace"]);
    let rows = [
        ("a", "a=a"),
        ("/a", "a=a"),
        ("./a", "a=a"),
        ("../../a", "a=a"),
        ("d/../a", "a=a"),
        ("missing/../a", "a=a"),
        ("a/", "a=a"),
        ("d", "=d/"),
        ("d/", "=d/"),
        ("d//e/./c", "c=d/e/c"),
        (".", "=/"),
        ("/", "=/"),
        ("", "=/"),
        ("..", "=/"),
        ("x\\*y", "x*y=x*y"),
        ("sp ace", "sp ace=sp ace"),
    ];
    for (pattern, expected) in rows {
        assert_eq!(tree.select("", pattern).unwrap(), expected, "{pattern}");
    }
}

#[test]
fn wildcards_select_sorted_matches() {
    let tree = Tree::new(&["b.txt", "a.txt", "c.md", "d/a.txt", "d/e/f.txt", "é.txt", "[1].txt", "link -> d", "k/"]);
    let rows = [
        ("*.txt", "[1].txt=[1].txt a.txt=a.txt b.txt=b.txt é.txt=é.txt"),
        ("[ab].txt", "a.txt=a.txt b.txt=b.txt"),
        ("?.md", "c.md=c.md"),
        ("*/a.txt", "a.txt=d/a.txt"),
        ("d/*", "a.txt=d/a.txt =d/e/"),
        ("*/*/*", "f.txt=d/e/f.txt"),
        ("link/*.txt", "a.txt=d/a.txt"),
        ("l*", "=d/"),
        ("[[]1].txt", "[1].txt=[1].txt"),
        ("*\\].txt", "[1].txt=[1].txt"),
        ("nothing*", ""),
        ("a.txt/*", ""),
        ("**", "[1].txt=[1].txt a.txt=a.txt b.txt=b.txt c.md=c.md =d/ =k/ =d/ é.txt=é.txt"),
    ];
    for (pattern, expected) in rows {
        assert_eq!(tree.select("", pattern).unwrap(), expected, "{pattern}");
    }
    assert_eq!(error(tree.select("", "absent/*")), "`absent`: no such file or directory in the build context");
    assert_eq!(error(tree.select("", "a[")), "the pattern `a[` is malformed");
    assert_eq!(error(tree.select("", "a\\")), "the pattern `a\\` is malformed");
}

#[test]
fn links_are_followed_inside_the_root() {
    let tree = Tree::new(&[
        "d/e/f",
        "up/x",
        "file -> d/e/f",
        "directory -> d",
        "absolute -> /d/e/f",
        "chain -> file",
        "d/back -> ../up/x",
        "d/e/far -> ../../../../../d/e/f",
        "through -> directory/e/../e/f",
        "root -> /",
        "slash -> d/e/",
    ]);
    let rows = [
        ("file", "file=d/e/f"),
        ("directory", "=d/"),
        ("directory/e/f", "f=d/e/f"),
        ("absolute", "absolute=d/e/f"),
        ("chain", "chain=d/e/f"),
        ("d/back", "back=up/x"),
        ("d/e/far", "far=d/e/f"),
        ("through", "through=d/e/f"),
        ("root", "=/"),
        ("root/root/d/e/f", "f=d/e/f"),
        ("slash/f", "f=d/e/f"),
    ];
    for (pattern, expected) in rows {
        assert_eq!(tree.select("", pattern).unwrap(), expected, "{pattern}");
    }
}

#[test]
fn no_link_leads_out() {
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("secret"), "s").unwrap();
    let tree = Tree::new(&["d/a", "up -> ../../../../../../../../etc/passwd", "host -> /etc"]);
    symlink(secret.path(), tree.path("out")).unwrap();
    symlink(secret.path().join("secret"), tree.path("d/secret")).unwrap();
    for pattern in ["up", "host/passwd", "host", "out/secret", "out", "d/secret", "out/*", "hos[t]"] {
        let missing = "no such file or directory in the build context";
        assert!(error(tree.select("", pattern)).ends_with(missing), "{pattern}");
    }
    let context = tree.context("");
    for path in ["up", "host/passwd", "out/secret", "../etc/passwd", "/etc/passwd", "d/../../x", "d/secret", "", ".."] {
        assert!(context.open_file(Path::new(path)).is_err(), "{path}");
    }
}

#[test]
fn a_match_that_becomes_a_link_is_not_followed() {
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("a"), "secret").unwrap();
    let tree = Tree::new(&["d/a"]);
    let context = tree.context("");
    let selected = context.select("d").unwrap();
    fs::rename(tree.path("d"), tree.path("old")).unwrap();
    symlink(secret.path(), tree.path("d")).unwrap();
    let mut seen = Vec::new();
    for listed in context.list(&selected, &Ignore::default(), &Memo::default()).unwrap().entries(0) {
        seen.push((listed.path().to_owned(), listed.entry().kind.clone()));
        assert!(listed.content().is_none());
    }
    let target = secret.path().as_os_str().as_encoded_bytes().to_vec();
    assert_eq!(seen, [(PathBuf::new(), Kind::Symlink { target })]);
}

#[test]
fn loops_of_links_are_errors() {
    let tree = Tree::new(&["a -> b", "b -> a", "self -> self", "d/down -> ../d/down/x"]);
    for pattern in ["a", "self", "self/x", "d/down", "sel*"] {
        assert!(error(tree.select("", pattern)).ends_with("too many levels of symbolic links in the build context"));
    }
    let tree = Tree::new(&["end"]);
    for link in 0..300 {
        tree.add(&format!("l{link} -> {}", if link == 0 { "end".to_owned() } else { format!("l{}", link - 1) }));
    }
    assert_eq!(tree.select("", "l254").unwrap(), "l254=end");
    assert!(tree.select("", "l255").is_err());
}

#[test]
fn missing_and_ignored_paths_are_told_apart() {
    let tree = Tree::new(&["a", "d/b", "d/c", "l -> d/b", "h/x", "dangling -> nowhere"]);
    let missing = |path: &str| format!("`{path}`: no such file or directory in the build context");
    let ignored = |path: &str| missing(path) + ": it is excluded by .dockerignore";
    let rows = [
        ("", "x", missing("x")),
        ("", "/x/y", missing("x/y")),
        ("", "a/b", missing("a/b")),
        ("", "dangling", missing("dangling")),
        ("", "dang*", missing("dangling")),
        ("x", "x", missing("x")),
        ("a", "a", ignored("a")),
        ("d", "d/b", ignored("d/b")),
        ("d", "d", ignored("d")),
        ("d/b", "l", ignored("l")),
        ("l", "l", ignored("l")),
        ("h\n!h/nothing", "h", ignored("h")),
        ("**", "a", ignored("a")),
    ];
    for (rules, pattern, expected) in rows {
        assert_eq!(error(tree.select(rules, pattern)), expected, "{rules:?} {pattern}");
    }
    assert_eq!(tree.select("d\n!d/b", "d").unwrap(), "=d/");
    assert_eq!(tree.select("d\n!d/b", "d/b").unwrap(), "b=d/b");
    assert_eq!(tree.select("a\nd\nh\ndangling\nl", "*").unwrap(), "");
    assert_eq!(tree.select("d\n!d/b\na\nl\nh\n!h/no\ndang*", "*").unwrap(), "=d/");
    assert_eq!(tree.select("d\n!d/b", "*/*").unwrap(), "b=d/b x=h/x");
    assert_eq!(tree.select("**", ".").unwrap(), "=/");
}

fn check_walk(rules: &str, pattern: &str, exclude: &str, expected: &Expect) {
    let tree = Tree::new(&[
        "Dockerfile",
        "a.md",
        "src/lib.rs",
        "src/bin/main.rs",
        "src/bin/b.md",
        "src/empty/",
        "src-x",
        "target/debug/x",
        "target/keep/y",
        "link -> src",
    ]);
    expected.assert_eq(&tree.walk(rules, pattern, exclude));
}

#[test]
fn a_walk_visits_parents_first_sorted_by_name() {
    check_walk("", "src", "", &expect!["/ bin/ bin/b.md bin/main.rs empty/ lib.rs"]);
    check_walk("", "a.md", "", &expect![""]);
    check_walk("", "link", "", &expect!["/ bin/ bin/b.md bin/main.rs empty/ lib.rs"]);
    check_walk(
        "",
        ".",
        "",
        &expect![[
            "/ Dockerfile a.md link -> src src/ src/bin/ src/bin/b.md src/bin/main.rs src/empty/ src/lib.rs src-x target/ target/debug/ target/debug/x target/keep/ target/keep/y"
        ]],
    );
}

#[test]
fn a_walk_leaves_out_what_is_ignored() {
    check_walk(
        "target\n**/*.md",
        ".",
        "",
        &expect!["/ Dockerfile link -> src src/ src/bin/ src/bin/main.rs src/empty/ src/lib.rs src-x"],
    );
    check_walk("**\n!target/keep", ".", "", &expect!["/ target/ target/keep/ target/keep/y"]);
    check_walk("**\n!**/*.rs", ".", "", &expect!["/ src/ src/bin/ src/bin/main.rs src/lib.rs"]);
    check_walk("src/*\n!src/lib.rs", "src", "", &expect!["/ lib.rs"]);
    check_walk("**", ".", "", &expect!["/"]);
    check_walk("src/bin", "src", "", &expect!["/ empty/ lib.rs"]);
}

#[test]
fn a_walk_leaves_out_what_is_excluded() {
    check_walk("", "src", "**/*.md", &expect!["/ bin/ bin/main.rs empty/ lib.rs"]);
    check_walk("", "src", "bin", &expect!["/ empty/ lib.rs"]);
    check_walk("", "src", "src", &expect!["/ bin/ bin/b.md bin/main.rs empty/ lib.rs"]);
    check_walk("", "src", "*\n!bin/b.md", &expect!["/ bin/ bin/b.md"]);
    check_walk(
        "",
        "*",
        "*.md\nsrc*",
        &expect![
            " / bin/ bin/b.md bin/main.rs empty/ lib.rs / bin/ bin/b.md bin/main.rs empty/ lib.rs / debug/ debug/x keep/ keep/y"
        ],
    );
    check_walk("src/lib.rs", "src", "bin", &expect!["/ empty/"]);
}

#[test]
fn entries_say_what_a_layer_needs() {
    let tree = Tree::new(&["d/file", "d/link -> /abs"]);
    let context = tree.context("");
    let path = tree.path("d/file");
    fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4751)).unwrap();
    rustix::fs::setxattr(&path, "user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&path, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&path, "user.rbuild.owner", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    let time = rustix::fs::Timespec { tv_sec: -5, tv_nsec: 7 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    fs::hard_link(&path, tree.path("d/same")).unwrap();
    let mut entries = Vec::new();
    let selected = context.select("d").unwrap();
    let visited: Result<(), ContextError> = context.walk(&selected[0], &Ignore::default(), &mut |path, entry| {
        entries.push((path.to_owned(), entry.clone()));
        Ok(())
    });
    visited.unwrap();
    let (name, file) = &entries[1];
    assert_eq!(name, Path::new("file"));
    assert_eq!(file.kind, Kind::File { size: 6 });
    assert_eq!((file.metadata.mode, file.metadata.uid, file.metadata.gid), (0o4751, 0, 0));
    assert_eq!(file.metadata.mtime, snapshot::Mtime { seconds: -5, nanoseconds: 7 });
    let xattrs: Vec<_> = file.metadata.xattrs.iter().collect();
    assert_eq!(xattrs, [(&b"user.k".to_vec(), &b"v".to_vec())]);
    assert_eq!(entries[2].1.kind, Kind::Symlink { target: b"/abs".to_vec() });
    assert_eq!(entries[3].1, *file, "a hard link is one more file");
}

#[test]
fn the_root_is_a_plain_directory_whatever_the_host_made_it() {
    let tree = Tree::new(&["a"]);
    fs::set_permissions(tree.0.path(), std::fs::Permissions::from_mode(0o2700)).unwrap();
    let context = tree.context("");
    let mut modes = Vec::new();
    let selected = context.select(".").unwrap();
    let visited: Result<(), ContextError> = context.walk(&selected[0], &Ignore::default(), &mut |_, entry| {
        modes.push(entry.metadata.mode);
        Ok(())
    });
    visited.unwrap();
    assert_eq!(modes[0], 0o755);
}

#[test]
fn special_files_are_never_opened() {
    let tree = Tree::new(&["d/a"]);
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("d/socket")).unwrap();
    rustix::fs::mknodat(CWD, tree.path("d/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(tree.walk("", "d", ""), "/ a fifo|");
    assert_eq!(tree.walk("", "d/*", ""), " |");
    let context = tree.context("");
    let selected = context.select(".").unwrap();
    context.list(&selected, &Ignore::default(), &Memo::default()).unwrap();
    assert_eq!(error(context.open_file(Path::new("d/fifo"))), "`d/fifo` in the build context is not a regular file");
    assert_eq!(error(context.open_file(Path::new("d"))), "`d` in the build context is not a regular file");
    assert_eq!(error(tree.select("", "d/socket")), "`d/socket` in the build context is not a regular file");
}

#[test]
fn a_file_is_opened_by_its_literal_path_even_if_ignored() {
    let tree = Tree::new(&["d/a"]);
    let mut text = String::new();
    tree.context("**").open_file(Path::new("d/a")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "d/a");
    let missing = tree.context("").open_file(Path::new("d/x"));
    assert_eq!(error(missing), "`d/x`: no such file or directory in the build context");
}

/// Makes directories in one another, each with an empty `e` beside the next; returns the innermost.
fn nest(mut directory: OwnedFd, name: &str, depth: usize) -> OwnedFd {
    for _ in 0..depth {
        rustix::fs::mkdirat(&directory, name, Mode::RWXU).unwrap();
        rustix::fs::mkdirat(&directory, "e", Mode::RWXU).unwrap();
        directory = rustix::fs::openat(&directory, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    directory
}

#[test]
fn deep_trees_are_walked_and_endless_ones_refused() {
    let tree = Tree::new(&[]);
    let root = || rustix::fs::open(tree.0.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    nest(root(), "d", 300);
    assert_eq!(tree.walk("", ".", "").matches("e/").count(), 300);
    assert_eq!(tree.walk("d\n!d/d/e", ".", ""), "/ d/ d/d/ d/d/e/ e/");
    let list = || {
        let context = tree.context("");
        context.list(&context.select(".").unwrap(), &Ignore::default(), &Memo::default())
    };
    list().unwrap();
    fs::remove_dir(tree.path("e")).unwrap();
    nest(root(), &"n".repeat(200), 25);
    assert!(error(list()).ends_with("is longer than 4095 bytes"));
}

#[test]
fn the_root_must_be_a_directory() {
    let tree = Tree::new(&["a"]);
    for name in ["a", "missing"] {
        let opened = LocalContext::open(&tree.path(name), Ignore::default());
        assert!(error(opened).starts_with("cannot open the build context `"));
    }
}

#[test]
fn the_ignore_file_of_the_dockerfile_goes_first() {
    let tree = Tree::new(&["app/Dockerfile", "real", "etc -> /etc"]);
    let ignored = |dockerfile: Option<&str>| {
        let dockerfile = dockerfile.map(|name| tree.path(name));
        let ignore = load_ignore(tree.0.path(), dockerfile.as_deref()).unwrap();
        ["a", "b", "c"].map(|name| ignore.is_ignored(Path::new(name)))
    };
    assert_eq!(ignored(Some("app/Dockerfile")), [false, false, false]);
    fs::write(tree.path(".dockerignore"), "a\n.dockerignore\n").unwrap();
    assert_eq!(ignored(None), [true, false, false]);
    assert_eq!(ignored(Some("app/Dockerfile")), [true, false, false]);
    fs::write(tree.path("app/Dockerfile.dockerignore"), "\u{feff}b\r\n").unwrap();
    assert_eq!(ignored(Some("app/Dockerfile")), [false, true, false]);
    assert_eq!(ignored(Some("other")), [true, false, false]);
    fs::remove_file(tree.path(".dockerignore")).unwrap();
    fs::write(tree.path("real"), "c").unwrap();
    tree.add(".dockerignore -> /real");
    assert_eq!(ignored(None), [false, false, true]);
    fs::write(tree.path(".containerignore"), "b").unwrap();
    assert_eq!(ignored(None), [false, false, true]);
    fs::remove_file(tree.path(".dockerignore")).unwrap();
    assert_eq!(ignored(None), [false, true, false]);
    fs::write(tree.path("other.containerignore"), "a").unwrap();
    assert_eq!(ignored(Some("other")), [true, false, false]);
}

#[test]
fn a_bad_ignore_file_is_an_error_that_names_it() {
    let tree = Tree::new(&["Dockerfile"]);
    let load = || load_ignore(tree.0.path(), Some(&tree.path("Dockerfile"))).unwrap_err();
    fs::write(tree.path(".dockerignore"), "a\n[\n").unwrap();
    let malformed = load();
    assert!(malformed.to_string().ends_with("/.dockerignore` is malformed"), "{malformed}");
    assert_eq!(std::error::Error::source(&malformed).unwrap().to_string(), "line 2: `[`");
    fs::write(tree.path(".dockerignore"), b"\xff").unwrap();
    assert!(load().to_string().starts_with("cannot read the ignore file"));
    fs::write(tree.path(".dockerignore"), vec![b'\n'; 5 << 20]).unwrap();
    assert!(load().to_string().starts_with("cannot read the ignore file"));
    fs::create_dir(tree.path("Dockerfile.dockerignore")).unwrap();
    assert!(load().to_string().ends_with("Dockerfile.dockerignore`"));
    fs::remove_dir(tree.path("Dockerfile.dockerignore")).unwrap();
    fs::remove_file(tree.path(".dockerignore")).unwrap();
    fs::create_dir(tree.path(".dockerignore")).unwrap();
    assert_eq!(load().to_string(), "`.dockerignore` in the build context is not a regular file");
}
