//! Where a request may go: which hosts may be spoken to without TLS, and which addresses a registry may send us to.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::reference::authority;
use crate::{Error, Options};

/// The rules, made from [`Options::insecure`].
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// `host` or `host:port`, in lower case.
    insecure: Vec<String>,
}

impl Rules {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let mut insecure = Vec::new();
        for host in options.insecure.iter().chain(&options.registries.insecure()) {
            insecure
                .push(authority(host).ok_or_else(|| Error::InsecureHost { host: host.escape_default().to_string() })?);
        }
        Ok(Self { insecure })
    }

    /// Says whether a host may be spoken to over plain http.
    pub(crate) fn may_be_plain(&self, url: &Url) -> bool {
        is_loopback(url) || self.is_insecure(url)
    }

    /// Says whether the caller allowed plain http to a host.
    fn is_insecure(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        // 443 is the default port of an entry that a user writes without one, 80 that of plain http.
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        self.insecure.iter().any(|entry| entry == host || Some(entry) == with_port.as_ref())
    }

    /// Checks an address that a registry named (redirect, upload location, page, token realm) against the address that
    /// it was reached at. The error is the rule broken.
    pub(crate) fn may_follow(&self, from: &Url, to: &Url) -> Result<(), &'static str> {
        match to.scheme() {
            "https" => {}
            "http" if from.scheme() == "https" => return Err("it leaves https for http"),
            "http" if self.may_be_plain(to) => {}
            "http" => return Err("it is plain http, and the host is not among the insecure ones"),
            _ => return Err("it is neither https nor http"),
        }
        if to.host_str().is_none_or(str::is_empty) {
            return Err("it has no host");
        }
        if !to.username().is_empty() || to.password().is_some() {
            return Err("it holds a user name");
        }
        if is_local(to) && !is_local(from) {
            return Err("it is an address of this machine or link");
        }
        Ok(())
    }

    /// Checks the address of a token service, which is shown a password: beyond [`may_follow`](Self::may_follow), no
    /// address of a private network that the registry is not in.
    pub(crate) fn may_trust(&self, registry: &Url, realm: &Url) -> Result<(), &'static str> {
        self.may_follow(registry, realm)?;
        if is_private(realm) && !is_private(registry) && !is_local(registry) {
            return Err("it is an address of a private network, and the registry is not");
        }
        Ok(())
    }
}

/// Says whether a URL's host is an address of a private network (RFC 1918, RFC 4193).
fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_private(),
        Some(Host::Ipv6(address)) => to_v4(address).map_or(address.is_unique_local(), |v4| v4.is_private()),
        Some(Host::Domain(_)) | None => false,
    }
}

/// Says whether a URL's host is this machine's loopback, by name or address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => to_v4(address).map_or(address.is_loopback(), |v4| v4.is_loopback()),
        None => false,
    }
}

/// Says whether a URL's host can only be near: loopback, unspecified, or link-local, where clouds keep their metadata
/// services. Private networks are not: a registry there may well keep its blobs on its neighbour.
fn is_local(url: &Url) -> bool {
    let is_near = |v4: Ipv4Addr| v4.is_loopback() || v4.is_unspecified() || v4.is_link_local();
    is_loopback(url)
        || match url.host() {
            Some(Host::Ipv4(address)) => is_near(address),
            Some(Host::Ipv6(address)) => {
                to_v4(address).map_or(address.is_unspecified() || address.is_unicast_link_local(), is_near)
            }
            Some(Host::Domain(_)) | None => false,
        }
}

/// The IPv4 address that an IPv6 address stands for.
fn to_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    address.to_ipv4_mapped()
}

/// A URL as errors show it: no userinfo, query or fragment.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(insecure: &[&str]) -> Rules {
        let insecure = insecure.iter().map(|&host| host.to_owned()).collect();
        Rules::new(&Options { insecure, ..Options::default() }).unwrap()
    }

    fn follow(from: &str, to: &str) -> Result<(), &'static str> {
        rules(&["plain.test"]).may_follow(&from.parse().unwrap(), &to.parse().unwrap())
    }

    #[test]
    fn plain_http_is_for_loopback_and_named_hosts() {
        let rules = rules(&["Plain.test", "port.test:5000"]);
        for (url, plain) in [
            ("http://localhost:5000/", true),
            ("http://127.3.2.1/", true),
            ("http://[::1]:1/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://0x7f.1/", true),
            ("http://plain.test:80/", true),
            ("http://plain.test:5000/", true),
            ("http://port.test:5000/", true),
            ("http://port.test:5001/", false),
            ("http://localhost.evil.test/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(rules.may_be_plain(&url.parse().unwrap()), plain, "{url}");
        }
    }

    #[test]
    fn an_insecure_entry_is_a_host() {
        for entry in ["10.0.0.0/8", "http://x", "*", "x:y", ""] {
            let options = Options { insecure: vec![entry.to_owned()], ..Options::default() };
            assert!(Rules::new(&options).is_err(), "{entry}");
        }
    }

    #[test]
    fn a_registry_may_send_us_to_another_https_host_only() {
        assert_eq!(follow("https://r.test/", "https://cdn.test/x?sig=1"), Ok(()));
        assert_eq!(follow("https://r.test/", "https://10.0.0.7/x"), Ok(()));
        assert_eq!(follow("http://localhost/", "http://127.0.0.1:81/x"), Ok(()));
        assert_eq!(follow("http://plain.test/", "http://plain.test:81/x"), Ok(()));
        for (from, to) in [
            ("https://plain.test/", "http://plain.test/"),
            ("http://plain.test/", "http://other.test/"),
            ("https://r.test/", "https://u:p@r.test/"),
            ("https://r.test/", "https://localhost/"),
            ("https://r.test/", "https://127.0.0.1/"),
            ("https://r.test/", "https://[::1]/"),
            ("https://r.test/", "https://[::ffff:7f00:1]/"),
            ("https://r.test/", "https://0.0.0.0/"),
            ("https://r.test/", "https://169.254.169.254/latest"),
            ("https://r.test/", "https://[fe80::1]/"),
            ("https://r.test/", "file:///etc/passwd"),
            ("https://r.test/", "ftp://r.test/"),
        ] {
            assert!(follow(from, to).is_err(), "{from} → {to}");
        }
    }

    #[test]
    fn a_token_service_is_in_no_private_network_but_the_registrys() {
        let trust = |from: &str, to: &str| rules(&[]).may_trust(&from.parse().unwrap(), &to.parse().unwrap());
        assert_eq!(trust("https://r.test/", "https://auth.test/token"), Ok(()));
        assert_eq!(trust("https://10.0.0.1/", "https://192.168.0.1/token"), Ok(()));
        assert_eq!(trust("http://localhost/", "https://10.0.0.1/token"), Ok(()));
        for realm in ["https://10.0.0.1/", "https://192.168.1.1/", "https://[fd00::1]/", "https://[::ffff:10.0.0.1]/"] {
            assert!(trust("https://r.test/", realm).is_err(), "{realm}");
        }
    }

    #[test]
    fn a_shown_url_has_no_userinfo_and_no_query() {
        let url = "https://u:p@r.test:444/v2/x?token=secret#f".parse().unwrap();
        assert_eq!(shown(&url), "https://r.test:444/v2/x");
    }
}
