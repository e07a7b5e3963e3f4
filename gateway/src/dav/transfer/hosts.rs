//! Which other servers this one may be told to speak to. Nobody is, until the operator lists them.
//!
//! ```text
//! tpc_hosts = "storage.example.org, *.grid.example:8443, 10.20.0.0/16, [::1]:9000"
//! ```
//! 1. A URL's host is looked up in the list before its name is resolved, and the address that is
//!    connected to is judged after: a listed name that resolves to a loopback or private address is
//!    refused unless that address is listed itself.
//! 2. The address judged is the address connected to; nothing is resolved twice.

use std::fmt;
use std::net::IpAddr;
use url::{Host, Url};

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    what: What,
    /// Any port without.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Name(String),
    /// `*.example.org`, kept as `.example.org`.
    Below(String),
    /// An address and the bits of it that count.
    Network(IpAddr, u8),
}

/// An entry that is no host.
#[derive(Debug, thiserror::Error)]
#[error(
    "dav.tpc_hosts: {0:?} is no host: write NAME, *.DOMAIN, ADDRESS or NETWORK/BITS, each with :PORT \
     if only that one is meant"
)]
pub struct BadHost(String);

impl std::str::FromStr for Hosts {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let entries = text
            .split([',', ' ', '\t', '\n'])
            .filter(|entry| !entry.is_empty())
            .map(|entry| Entry::read(entry).ok_or_else(|| BadHost(entry.to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return out.write_str("nobody");
        }
        write!(out, "{} entries", self.entries.len())
    }
}

impl Hosts {
    /// Whether a URL may be spoken to, as far as its name tells. The text is why not.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), String> {
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(format!("{} names no host", shown(url)));
        };
        let listed = self.entries.iter().any(|entry| {
            let named = match (&entry.what, &host) {
                (What::Name(name), Host::Domain(host)) => name.eq_ignore_ascii_case(host),
                (What::Below(tail), Host::Domain(host)) => {
                    host.to_ascii_lowercase().ends_with(tail.as_str())
                }
                (What::Network(..), Host::Ipv4(address)) => entry.holds((*address).into()),
                (What::Network(..), Host::Ipv6(address)) => entry.holds((*address).into()),
                (What::Name(_) | What::Below(_), _) | (What::Network(..), Host::Domain(_)) => false,
            };
            named && entry.port.is_none_or(|only| only == port)
        });
        if listed {
            return Ok(());
        }
        Err(format!(
            "{host}:{port} is not among the hosts that third-party copies may reach: the operator \
             lists them under dav.tpc_hosts"
        ))
    }

    /// Whether an address may be connected to. The text is why not.
    pub(super) fn check_address(&self, address: IpAddr, port: u16) -> Result<(), String> {
        let address = address.to_canonical();
        if !is_inside(address) {
            return Ok(());
        }
        let listed = self
            .entries
            .iter()
            .any(|entry| entry.holds(address) && entry.port.is_none_or(|only| only == port));
        if listed {
            return Ok(());
        }
        Err(format!(
            "{address} is a loopback, private or special address, which third-party copies reach \
             only if dav.tpc_hosts lists the address itself"
        ))
    }
}

impl Entry {
    fn read(text: &str) -> Option<Self> {
        // `[::1]:9000` and `::1`, `10.0.0.0/8:9000`, `name:9000`.
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':')?.parse().ok()?),
            };
            (host, port)
        } else if text.matches(':').count() == 1 {
            let (host, port) = text.split_once(':')?;
            (host, Some(port.parse().ok()?))
        } else {
            (text, None)
        };
        let (address, bits) = match host.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (host, None),
        };
        if let Ok(address) = address.parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.unwrap_or(most);
            return (bits <= most).then_some(Self {
                what: What::Network(address, bits),
                port,
            });
        }
        let name = host.to_ascii_lowercase();
        let (what, plain) = match name.strip_prefix("*.") {
            Some(tail) => (What::Below(format!(".{tail}")), tail),
            None => (What::Name(name.clone()), name.as_str()),
        };
        let fits = bits.is_none()
            && !plain.is_empty()
            && plain
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
        fits.then_some(Self { what, port })
    }

    fn holds(&self, address: IpAddr) -> bool {
        let What::Network(network, bits) = &self.what else {
            return false;
        };
        let same = |own: u128, other: u128, width: u32| {
            let dropped = width - u32::from(*bits).min(width);
            dropped >= 128 || own >> dropped == other >> dropped
        };
        match (network, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(own.to_bits().into(), other.to_bits().into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Whether an address is one that only this machine or its own network can reach, or no host's at all.
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_broadcast()
                || address.is_multicast()
                || address.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a, b, c) == (192, 0, 0)
                || (a == 198 && matches!(b, 18 | 19))
        }
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                // Translations that may hide an inner IPv4 address, and documentation.
                || first == 0x64
                || first == 0x2002
                || (first, second) == (0x2001, 0)
                || (first, second) == (0x2001, 0xdb8)
                || address.segments()[..6] == [0; 6]
        }
    }
}

/// A URL without what may be a secret in it: its user, its query.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> Hosts {
        text.parse().unwrap()
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn nobody_is_reached_who_is_not_listed() {
        let list = hosts("storage.example.org, *.grid.example:8443 10.20.0.0/16,[::1]:9000");
        for fine in [
            "https://storage.example.org/a",
            "http://STORAGE.example.org:81/a",
            "https://a.b.grid.example:8443/",
            "http://10.20.255.1/",
            "http://[::1]:9000/",
        ] {
            assert_eq!(list.check_url(&url(fine)), Ok(()), "{fine}");
            assert!(Hosts::default().check_url(&url(fine)).is_err());
        }
        for other in [
            "https://storage.example.org.evil.example/",
            "https://evilgrid.example:8443/",
            "https://grid.example:8443/",
            "https://a.grid.example/",
            "http://10.21.0.1/",
            "http://[::1]:9001/",
            "http://0x0a.21.0.1/",
        ] {
            assert!(list.check_url(&url(other)).is_err(), "{other}");
        }
        // The same address however it is written.
        assert_eq!(list.check_url(&url("http://0x0a140001/")), Ok(()));
    }

    #[test]
    fn a_name_that_resolves_inward_is_refused_unless_the_address_is_listed() {
        let list = hosts("storage.example.org, 127.0.0.2, 10.20.0.0/16:80");
        for inside in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            let address = inside.parse().unwrap();
            assert!(list.check_address(address, 80).is_err(), "{inside}");
        }
        for fine in [
            "127.0.0.2",
            "::ffff:127.0.0.2",
            "10.20.3.4",
            "193.0.6.139",
            "2606:4700::1",
        ] {
            assert_eq!(
                list.check_address(fine.parse().unwrap(), 80),
                Ok(()),
                "{fine}"
            );
        }
        assert!(
            list.check_address("10.20.3.4".parse().unwrap(), 443)
                .is_err()
        );
    }

    #[test]
    fn an_entry_that_is_no_host_is_named() {
        for bad in [
            "http://a/",
            "a:b",
            "10.0.0.0/33",
            "a/8",
            "*",
            "a_b",
            "[::1]x",
            "*.",
        ] {
            let error = bad.parse::<Hosts>().unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
        assert_eq!(hosts(" , "), Hosts::default());
    }

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        let text = shown(&url("https://u:p@h.example/a?token=s#f"));
        assert_eq!(text, "https://h.example/a");
    }
}
