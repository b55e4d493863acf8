//! What the flags say of every step of a build: `--add-host`, `--shm-size`, `--ulimit`, `--timeout`, `--memory`, `--cpus`,
//! `--network`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use builder::dockerfile::read_size;
use builder::graph::references::StepNetwork;
use builder::sandbox::{ResourceLimit, Settings};
use clap::{Args, ValueEnum};

use crate::report::Failure;

/// The address that stands for the machine itself.
const HOST_GATEWAY: &str = "host-gateway";

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    /// The network of the machine
    #[value(alias = "host")]
    Default,
    /// A loopback interface and nothing else
    None,
    /// A network of its own with a way out; addresses of the machine's loopback are out of reach
    Private,
}

impl From<NetworkMode> for StepNetwork {
    fn from(mode: NetworkMode) -> Self {
        match mode {
            NetworkMode::Default => Self::Host,
            NetworkMode::None => Self::None,
            NetworkMode::Private => Self::Private,
        }
    }
}

/// Flags of `rbuild build`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SettingsArgs {
    /// A name for steps to find in /etc/hosts, `NAME:ADDRESS`; the address `host-gateway` is the machine
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    hosts: Vec<String>,
    /// The size of /dev/shm of each step, as `64m` or `1g` [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = read_size)]
    shm_size: Option<u64>,
    /// A limit of each step, `NAME=SOFT[:HARD]`, as `nofile=1024:4096`; it cannot be above that of rbuild
    #[arg(long = "ulimit", value_name = "LIMIT", value_parser = |text: &str| text.parse::<ResourceLimit>())]
    limits: Vec<ResourceLimit>,
    /// The most that a step may take, as `90s`, `10m` or `1h`; one that takes longer fails
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// The most memory that a step may have, as `512m` or `2g`; needs a delegated cgroup, else there is a warning
    #[arg(long, value_name = "SIZE", value_parser = read_size)]
    memory: Option<u64>,
    /// The most processors that a step may keep busy, as `2` or `1.5`; needs a delegated cgroup, else there is a warning
    #[arg(long, value_name = "NUMBER", value_parser = thousandths)]
    cpus: Option<u32>,
}

impl SettingsArgs {
    /// The settings; `network` says what `host-gateway` is.
    pub(crate) fn read(&self, network: NetworkMode) -> Result<Settings, Failure> {
        let hosts: Result<_, Failure> = self.hosts.iter().map(|text| host(text, network)).collect();
        let (limits, timeout) = (self.limits.clone(), self.timeout);
        let Self { shm_size, memory, cpus, .. } = *self;
        Ok(Settings { hosts: hosts?, shm_size, limits, timeout, memory, cpus })
    }
}

/// `NAME:ADDRESS` and, as Docker has it since 25.0, `NAME=ADDRESS`; an IPv6 address may stand in brackets.
fn host(text: &str, network: NetworkMode) -> Result<(IpAddr, String), Failure> {
    let wrong = |reason: &str| Failure::Usage(format!("`--add-host {text}`: {reason}"));
    let (name, address) = text
        .find(['=', ':'])
        .map(|at| (&text[..at], &text[at + 1..]))
        .ok_or_else(|| wrong("write `--add-host NAME:ADDRESS`"))?;
    if name.is_empty() || name.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '#') {
        return Err(wrong("this is no name of a host"));
    }
    if address == HOST_GATEWAY {
        return match network {
            NetworkMode::Default => Ok((Ipv4Addr::LOCALHOST.into(), name.to_owned())),
            _ => Err(wrong("steps reach the machine in its own network alone: leave out `--network`")),
        };
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse().map_err(|_| wrong("this is no IP address"))?;
    Ok((address, name.to_owned()))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let seconds = match &text[split..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write a number with `s`, `m` or `h` behind it".to_owned()),
    };
    let number: u64 = text[..split].parse().map_err(|_| "write a number with `s`, `m` or `h` behind it".to_owned())?;
    let time = number.checked_mul(seconds).filter(|seconds| (1..=u64::from(u32::MAX)).contains(seconds));
    time.map(Duration::from_secs).ok_or_else(|| "the time is too short or too long".to_owned())
}

/// A positive number with at most three decimals, in thousandths.
fn thousandths(text: &str) -> Result<u32, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.chars().all(|digit| digit.is_ascii_digit());
    let number = (digits(whole) && digits(part) && part.len() <= 3).then(|| format!("{whole}{part:0<3}"));
    let number = number.and_then(|number| number.parse().ok()).filter(|&number| number >= 10);
    number.ok_or_else(|| "write a number of processors from 0.01 on, as `2` or `1.5`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_a_name_and_an_address() {
        let shared = |text| host(text, NetworkMode::Default).map_err(|_| ());
        let known = |address: &str| Ok((address.parse().unwrap(), "db".to_owned()));
        assert_eq!(shared("db:10.0.0.1"), known("10.0.0.1"));
        assert_eq!(shared("db=10.0.0.1"), known("10.0.0.1"));
        assert_eq!(shared("db:::1"), known("::1"));
        assert_eq!(shared("db:[::1]"), known("::1"));
        assert_eq!(shared("db:host-gateway"), known("127.0.0.1"));
        assert!(host("db:host-gateway", NetworkMode::Private).is_err());
        for wrong in ["db", "db:", ":10.0.0.1", "d b:10.0.0.1", "db:10.0.0", "db\n:10.0.0.1"] {
            assert_eq!(shared(wrong), Err(()), "{wrong}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        let seconds = |text| duration(text).map(|time| time.as_secs());
        assert_eq!([seconds("5"), seconds("90s"), seconds("2m"), seconds("1h")], [Ok(5), Ok(90), Ok(120), Ok(3600)]);
        for wrong in ["", "s", "-1s", "1d", "0s", "1.5m", "99999999999999999999h", "9999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_of_processors_have_three_decimals() {
        let known = ["2", "1.5", "0.01", ".125"].map(thousandths);
        assert_eq!(known, [Ok(2000), Ok(1500), Ok(10), Ok(125)]);
        for wrong in ["", ".", "0", "0.001", "-1", "+1", "1.2345", "1e3", "x", "99999999999"] {
            assert!(thousandths(wrong).is_err(), "{wrong}");
        }
    }
}
