//! Which image of an index suits a platform.
//!
//! The rules are those of containerd's `platforms` package, which docker and BuildKit follow: operating system and
//! architecture must be equal; an older variant of the same architecture will do, the nearest is best.

use oci_spec::image::{Arch, Os, Platform};

/// How well `offered` suits `wanted`: 0 is best, none is not at all.
pub fn rank(wanted: &Platform, offered: &Platform) -> Option<u32> {
    if wanted.os() != offered.os() || wanted.architecture() != offered.architecture() {
        return None;
    }
    let level = |platform: &Platform| variant_level(platform.architecture(), platform.variant().as_deref());
    match (level(wanted), level(offered)) {
        (Some(wanted), Some(offered)) => wanted.checked_sub(offered),
        // A variant that is not a number suits itself alone.
        _ => (wanted.variant() == offered.variant()).then_some(0),
    }
}

/// The number of a variant, the one meant where none is written included: `arm64` is v8, `arm` v7, `amd64` v1.
fn variant_level(architecture: &Arch, variant: Option<&str>) -> Option<u32> {
    let default = match architecture {
        Arch::ARM64 => 80,
        Arch::ARM => 70,
        Arch::Amd64 => 10,
        _ => return if variant.is_none_or(str::is_empty) { Some(0) } else { None },
    };
    let Some(variant) = variant.filter(|variant| !variant.is_empty()) else { return Some(default) };
    let digits = variant.strip_prefix('v').unwrap_or(variant);
    let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
    let level = |text: &str| text.parse::<u32>().ok().filter(|number| *number < 10);
    Some(level(major)? * 10 + level(minor)?)
}

/// Says whether a platform is the placeholder that BuildKit gives to attestations in an index.
pub(crate) fn is_unknown(platform: &Platform) -> bool {
    let unknown = "unknown";
    *platform.os() == Os::from(unknown) && *platform.architecture() == Arch::from(unknown)
}

/// A platform as people write it: `linux/arm64/v8`.
pub(crate) fn shown(platform: &Platform) -> String {
    let mut text = format!("{}/{}", platform.os(), platform.architecture());
    if let Some(variant) = platform.variant() {
        text.push('/');
        text.push_str(variant);
    }
    text.chars().filter(char::is_ascii_graphic).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/');
        let mut platform = Platform::default();
        platform.set_os(parts.next().unwrap().into());
        platform.set_architecture(parts.next().unwrap().into());
        platform.set_variant(parts.next().map(str::to_owned));
        platform
    }

    #[track_caller]
    fn check(wanted: &str, offered: &str, expected: Option<u32>) {
        assert_eq!(rank(&platform(wanted), &platform(offered)), expected, "{wanted} {offered}");
    }

    #[test]
    fn system_and_architecture_are_equal() {
        check("linux/amd64", "linux/amd64", Some(0));
        check("linux/amd64", "linux/arm64", None);
        check("linux/amd64", "windows/amd64", None);
        check("linux/s390x", "linux/s390x", Some(0));
    }

    #[test]
    fn an_older_variant_will_do_and_a_newer_one_will_not() {
        check("linux/arm64", "linux/arm64/v8", Some(0));
        check("linux/arm64/v8", "linux/arm64", Some(0));
        check("linux/arm64", "linux/arm64/v9", None);
        check("linux/arm64/v8.2", "linux/arm64/v8", Some(2));
        check("linux/arm/v7", "linux/arm/v6", Some(10));
        check("linux/arm/v6", "linux/arm/v7", None);
        check("linux/arm", "linux/arm/v7", Some(0));
        check("linux/amd64/v3", "linux/amd64", Some(20));
        check("linux/amd64", "linux/amd64/v3", None);
    }

    #[test]
    fn an_odd_variant_suits_itself() {
        check("linux/arm64/odd", "linux/arm64/odd", Some(0));
        check("linux/arm64/odd", "linux/arm64/v8", None);
        check("linux/riscv64", "linux/riscv64/rva", None);
        check("linux/arm/v99999999999", "linux/arm", None);
    }
}
