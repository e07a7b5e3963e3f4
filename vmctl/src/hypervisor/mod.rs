//! The hypervisor of this host: libvirt, or nothing.
//!
//! 1. Only `libvirt.rs` names the crate `virt`. Without the feature of that name `absent.rs` takes
//!    its place and every call is [`blockstore::Kind::Unsupported`].
//! 2. Domains are found by UUID, never by name: what others defined is not ours to touch.
//! 3. Every call ends within its limit, whatever libvirtd does.
//! 4. Nothing here starts a daemon.

#[cfg(not(feature = "virt"))]
mod absent;
mod capabilities;
#[cfg(feature = "virt")]
mod libvirt;
#[cfg(feature = "virt")]
mod usernet;

#[cfg(not(feature = "virt"))]
pub use absent::Hypervisor;
#[cfg(feature = "virt")]
pub use libvirt::Hypervisor;

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// What an instance does, as libvirt says.
///
/// ```text
///              start            guest or ACPI
///   missing ─────────▶ running ───────────────▶ shut off
///      ▲   define       │  ▲  ╲ crash              │
///      │                ▼  │   ╲▶ crashed          │ start
///      │ undefine     paused     (shut off too)    ▼
///      └────────────── any                       running
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It executes, or is on its way down.
    Running,
    /// Stopped in the middle by somebody; it can go on.
    Paused,
    /// Stopped in the middle because a disk did not answer; it can go on once the disk does.
    Stalled,
    /// Not executing.
    ShutOff,
    /// Not executing, and not by its own will.
    Crashed,
    /// libvirt does not know it: undefined by others, or another libvirt than before.
    Missing,
}

impl State {
    /// Whether there is a QEMU process.
    pub fn is_active(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Stalled => true,
            Self::ShutOff | Self::Crashed | Self::Missing => false,
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stalled => "stalled",
            Self::ShutOff => "shut off",
            Self::Crashed => "crashed",
            Self::Missing => "missing",
        })
    }
}

/// The host as libvirt sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its name.
    pub name: String,
    /// Its architecture, `x86_64`.
    pub arch: String,
    /// Logical processors.
    pub cpus: u32,
    /// All memory.
    pub memory_bytes: u64,
    /// Free memory now.
    pub memory_free_bytes: u64,
    /// `11.3.0`.
    pub libvirt: String,
    /// `10.0.2`.
    pub qemu: String,
    /// The connection.
    pub uri: String,
    /// The emulator for x86_64 guests, if there is one.
    pub emulator: Option<PathBuf>,
    /// The user and group QEMU runs as, if libvirt chooses one other than its own.
    pub qemu_user: Option<(u32, u32)>,
}

/// Where a guest is on a bridge of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The bridge its network card is a port of.
    pub bridge: Option<String>,
    /// Its addresses, each once; those of IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl Place {
    /// Without addresses that nobody can be reached at from outside, or not without naming a card.
    #[cfg_attr(not(feature = "virt"), allow(dead_code))]
    fn new(bridge: Option<String>, found: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found {
            let of_one_card =
                matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
            let nobody =
                address.is_loopback() || address.is_unspecified() || address.is_multicast();
            if !of_one_card && !nobody && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.sort_by_key(IpAddr::is_ipv6);
        Self { bridge, addresses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_only_addresses_to_reach_it_at() {
        let told = [
            "::1",
            "fe80::5054:ff:fe12:3456",
            "fd00::7",
            "127.0.0.1",
            "10.9.0.7",
            "0.0.0.0",
            "224.0.0.1",
            "10.9.0.7",
        ];
        let told = told.map(|text| text.parse().expect(text));
        let shown = Place::new(None, told).addresses;
        let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.9.0.7", "fd00::7"]);
    }
}
