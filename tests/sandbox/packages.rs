//! Packages whose programs care for owners, users and what is mounted while they are installed: the same files, with the
//! same owners, modes and contents, wherever rbuild runs. Where that is, `matrix` says.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use crate::common::{Bench, Image, Listing};

use super::matrix::{Place, only};

/// The last step needs a setuid program.
const PACKAGES: &str = "FROM {debian} AS installed\n\
    RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    nginx postgresql openssh-server sudo procps systemd-standalone-tmpfiles && ps -e >/dev/null && \
    systemd-tmpfiles --create && rm -rf /var/lib/apt/lists/*\n\
    FROM installed\n\
    RUN useradd -m app && echo 'app ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/app\n\
    USER app\nWORKDIR /home/app\n\
    RUN test \"$(id -un)\" = app && test \"$(sudo -n id -u)\" = 0 && touch mine && sudo -n touch roots && \
    sudo -n chown 33:34 /opt && sudo -n -u www-data touch /tmp/theirs\n";

/// What is different in every installation: the beginnings of paths.
const BY_CHANCE: &[&str] = &[
    // Keys that were just made.
    "etc/ssh/ssh_host_",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    // Times and numbers of files.
    "var/cache/apt/",
    "var/cache/ldconfig/aux-cache",
    "var/log/",
    // The number and the beginning of a database.
    "var/lib/postgresql/15/main/global/pg_control",
    "var/lib/postgresql/15/main/pg_stat/",
    "var/lib/postgresql/15/main/pg_wal/",
];

/// Links that are named after the digest of a certificate which was just made.
fn is_named_by_chance(path: &str) -> bool {
    path.starts_with("etc/ssl/certs/") && path.ends_with(".0")
}

/// What an image is, less the bytes themselves.
struct Summary {
    layers: Vec<Listing>,
    contents: BTreeMap<String, u64>,
}

impl Summary {
    fn of(image: &Image) -> Self {
        let digest = |bytes: &Vec<u8>| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        };
        let lasting = |path: &&String| !BY_CHANCE.iter().any(|prefix| path.starts_with(prefix));
        let without_chance = |layer: &Listing| {
            let lasting = layer.iter().filter(|(path, _)| !is_named_by_chance(path));
            lasting.map(|(path, line)| (path.clone(), line.clone())).collect()
        };
        let contents = image.contents().iter().filter(|(path, _)| lasting(path));
        Self {
            layers: image.layers.iter().map(without_chance).collect(),
            contents: contents.map(|(path, bytes)| (path.clone(), digest(bytes))).collect(),
        }
    }

    /// The image that root of the machine gets.
    fn of_root() -> &'static Self {
        static SUMMARY: OnceLock<Summary> = OnceLock::new();
        SUMMARY.get_or_init(|| Self::of(&Bench::with(PACKAGES).image(&[])))
    }

    /// Compares the layers that this image has with those of the same number in another.
    fn assert_begins(&self, root: &Self) {
        for (number, (theirs, ours)) in self.layers.iter().zip(&root.layers).enumerate() {
            let different = (only(theirs, ours), only(ours, theirs));
            assert_eq!(different, Default::default(), "layer {number}: theirs, root's");
        }
        let changed_above =
            |path: &String| root.layers.iter().skip(self.layers.len()).any(|layer| layer.contains_key(path));
        let other = |(path, digest): (&String, &u64)| root.contents.get(path) != Some(digest) && !changed_above(path);
        let others: Vec<&String> = self.contents.iter().filter(|entry| other(*entry)).map(|(path, _)| path).collect();
        assert_eq!(others, [""; 0], "files with other contents");
    }
}

/// Builds the image in a place, and compares it with that of root.
pub(super) fn assert_equal_to_root(place: Place) {
    let theirs = Bench::with(PACKAGES);
    place.own(&theirs);
    let run = place.build(&theirs, &[]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let image = Summary::of(&Image::read(&theirs.path("layout")));
    assert_eq!(image.layers.len(), Summary::of_root().layers.len());
    image.assert_begins(Summary::of_root());
}
