//! Where a request came from: the other end of its connection, unless that is a proxy we were told
//! to trust.
//!
//! 1. Headers of strangers change nothing, whatever they claim.
//! 2. A trusted proxy's list counts from its end: the last hop that is no trusted proxy itself is the
//!    client, since everything before it may be the client's invention.
//! 3. A proxy writes one of the two headers and may pass the other one on as the client sent it. So
//!    where both are there and do not agree, neither is believed.

use access::Origin;
use axum::http::{HeaderMap, header};
use std::net::IpAddr;
use std::str::FromStr;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
/// What a client calls itself is kept up to here.
const AGENT_CHARS_MAX: usize = 200;
/// Hops of a list that are looked at.
const HOPS_MAX: usize = 32;

/// The proxies that are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proxies(Vec<Network>);

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

/// The text is no list of addresses and networks.
#[derive(Debug)]
pub(crate) struct NoNetwork;

impl FromStr for Proxies {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| NoNetwork)?,
            None => most,
        };
        if bits > most {
            return Err(NoNetwork);
        }
        Ok(Self { address, bits })
    }
}

impl Network {
    fn holds(&self, found: IpAddr) -> bool {
        match (self.address, found) {
            (IpAddr::V4(ours), IpAddr::V4(found)) => {
                let apart = ours.to_bits() ^ found.to_bits();
                apart.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(ours), IpAddr::V6(found)) => {
                let apart = ours.to_bits() ^ found.to_bits();
                apart.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl Proxies {
    /// Whether `address` is one of them.
    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.holds(address))
    }

    /// Who asks, by a request on a connection from `peer`; `tls` is whether that is encrypted.
    pub(crate) fn origin(&self, peer: IpAddr, tls: bool, headers: &HeaderMap) -> Origin {
        let peer = peer.to_canonical();
        let agent = headers.get(header::USER_AGENT);
        let mut origin = Origin {
            address: Some(peer),
            secure: tls || peer.is_loopback(),
            agent: agent.map_or_else(String::new, |agent| {
                String::from_utf8_lossy(agent.as_bytes())
                    .chars()
                    .filter(|letter| !letter.is_control())
                    .take(AGENT_CHARS_MAX)
                    .collect()
            }),
        };
        if !self.trust(peer) {
            return origin;
        }
        let one = self.client(peer, hops(headers, X_FORWARDED_FOR, plain_hop));
        let two = self.client(
            peer,
            hops(headers, header::FORWARDED.as_str(), forwarded_hop),
        );
        let client = match (one, two) {
            (Some(one), Some(two)) => (one == two).then_some(one),
            (one, two) => one.or(two),
        };
        if let Some(client) = client {
            origin.address = Some(client);
            // The way from the client to the proxy is a way, too.
            let last = headers.get_all(X_FORWARDED_PROTO).iter().next_back();
            let encrypted = last
                .and_then(|value| value.to_str().ok()?.rsplit(',').next())
                .is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"));
            origin.secure &= encrypted;
        }
        origin
    }

    /// The last hop that is no trusted proxy; where the list is trusted to its beginning, its first.
    /// A hop that is no address ends the list: what stands before it came from nobody we know.
    fn client(&self, peer: IpAddr, hops: Option<Vec<Option<IpAddr>>>) -> Option<IpAddr> {
        let mut client = peer;
        for hop in hops?.into_iter().rev().take(HOPS_MAX) {
            let Some(hop) = hop else { break };
            client = hop;
            if !self.trust(client) {
                break;
            }
        }
        Some(client)
    }
}

/// The hops of all headers called `name`, in order; `None` if there is no such header.
fn hops(
    headers: &HeaderMap,
    name: &str,
    read: fn(&str) -> Option<IpAddr>,
) -> Option<Vec<Option<IpAddr>>> {
    let mut found = None;
    for value in headers.get_all(name) {
        let hops: &mut Vec<_> = found.get_or_insert_default();
        match value.to_str() {
            Ok(text) => hops.extend(text.split(',').map(|hop| read(hop.trim()))),
            Err(_) => hops.push(None),
        }
    }
    found
}

fn plain_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    let address = if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else if let Ok(with_port) = text.parse::<std::net::SocketAddr>() {
        with_port.ip()
    } else {
        let bare = text.strip_prefix('[')?.strip_suffix(']')?;
        bare.parse().ok()?
    };
    Some(address.to_canonical())
}

/// `for=192.0.2.60;proto=http`, with IPv6 as `for="[2001:db8::1]:4711"` (RFC 7239, section 6).
fn forwarded_hop(text: &str) -> Option<IpAddr> {
    let mut found = text.split(';').filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    });
    let (first, second) = (found.next()?, found.next());
    second.is_none().then(|| plain_hop(first)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(proxies: &str, peer: &str, headers: &[(&'static str, &str)]) -> Origin {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let proxies: Proxies = proxies.parse().unwrap();
        proxies.origin(peer.parse().unwrap(), false, &map)
    }

    fn address(proxies: &str, peer: &str, headers: &[(&'static str, &str)]) -> String {
        origin(proxies, peer, headers).address.unwrap().to_string()
    }

    #[test]
    fn a_stranger_cannot_choose_its_address() {
        for header in [
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
        ] {
            assert_eq!(address("", "192.0.2.9", &[header]), "192.0.2.9");
            assert_eq!(address("10.0.0.0/8", "192.0.2.9", &[header]), "192.0.2.9");
        }
        let spoofed = [("x-forwarded-proto", "https")];
        assert!(!origin("", "192.0.2.9", &spoofed).secure);
    }

    #[test]
    fn a_trusted_proxy_names_the_client_and_the_client_cannot_prepend() {
        let headers = [("x-forwarded-for", "1.1.1.1, 192.0.2.9, 10.0.0.2")];
        assert_eq!(address("10.0.0.0/8", "10.0.0.1", &headers), "192.0.2.9");
        assert_eq!(address("10.0.0.1", "10.0.0.1", &headers), "10.0.0.2");
        let headers = [(
            "forwarded",
            "for=1.1.1.1, for=\"[2001:db8::9]:77\";proto=https",
        )];
        assert_eq!(address("10.0.0.1", "10.0.0.1", &headers), "2001:db8::9");
        let two = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "192.0.2.9"),
        ];
        assert_eq!(address("10.0.0.1", "::ffff:10.0.0.1", &two), "192.0.2.9");
    }

    #[test]
    fn a_list_that_makes_no_sense_leaves_the_proxy_responsible() {
        for value in ["unknown", "192.0.2.9, x", "", "_hidden", "999.1.1.1"] {
            let headers = [("x-forwarded-for", value)];
            assert_eq!(
                address("10.0.0.1", "10.0.0.1", &headers),
                "10.0.0.1",
                "{value}"
            );
        }
        let both = [
            ("x-forwarded-for", "192.0.2.9"),
            ("forwarded", "for=6.6.6.6"),
        ];
        assert_eq!(address("10.0.0.1", "10.0.0.1", &both), "10.0.0.1");
        let agreeing = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")];
        assert_eq!(address("10.0.0.1", "10.0.0.1", &agreeing), "6.6.6.6");
    }

    #[test]
    fn a_way_is_secure_only_if_all_of_it_is() {
        let headers = |proto| {
            [
                ("x-forwarded-for", "192.0.2.9"),
                ("x-forwarded-proto", proto),
            ]
        };
        assert!(origin("127.0.0.1", "127.0.0.1", &headers("https")).secure);
        assert!(!origin("127.0.0.1", "127.0.0.1", &headers("http")).secure);
        assert!(!origin("127.0.0.1", "127.0.0.1", &headers("https, http")).secure);
        assert!(!origin("10.0.0.1", "10.0.0.1", &headers("https")).secure);
        assert!(origin("", "127.0.0.1", &[]).secure);
    }

    #[test]
    fn networks_hold_what_begins_alike() {
        let networks: Proxies = "10.0.0.0/8, 192.168.1.7,2001:db8::/32,0.0.0.0/0"
            .parse()
            .unwrap();
        assert!(networks.trust("10.255.0.1".parse().unwrap()));
        assert!(networks.trust("2001:db8:1::1".parse().unwrap()));
        assert!(!networks.trust("2001:db9::1".parse().unwrap()));
        for wrong in ["10.0.0.0/33", "x", "10.0.0", "::/129", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Proxies>().is_err(), "{wrong}");
        }
    }
}
