//! A bridge of this host for one guest, with four addresses that nobody else has (RFC 2544, Appendix C,
//! keeps 198.18.0.0/15 for tests).

use crate::harness::run;
use std::process::Command;

/// Goes when dropped.
pub(crate) struct Bridge {
    pub(crate) name: String,
    /// The host's address on it.
    pub(crate) host: String,
    /// For the guest.
    pub(crate) guest: String,
}

impl Bridge {
    pub(crate) fn new() -> Self {
        let id = std::process::id();
        let (third, fourth) = (id / 64 % 256, id % 64 * 4);
        let bridge = Self {
            name: format!("infall{id}"),
            host: format!("198.18.{third}.{}", fourth + 1),
            guest: format!("198.18.{third}.{}", fourth + 2),
        };
        let at = format!("{}/30", bridge.host);
        ip(&["link", "add", &bridge.name, "type", "bridge"]);
        ip(&["address", "add", &at, "dev", &bridge.name]);
        ip(&["link", "set", &bridge.name, "up"]);
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // A test that has failed already must not fail again.
        let _ = Command::new("ip")
            .args(["link", "delete", &self.name])
            .status();
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    run(Command::new("ip").args(words)).ok();
}
