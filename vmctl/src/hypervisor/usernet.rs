//! QEMU's user-mode network, as its monitor shows and changes it.
//!
//! ```text
//! (qemu) info usernet
//! Hub -1 (hostnet0):
//!   Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
//!   TCP[HOST_FORWARD]  31       127.0.0.1 42007       10.0.2.15    22     0     0
//! ```

use std::collections::BTreeSet;

/// The network card of an instance, as libvirt names its host side.
pub(super) const NETWORK: &str = "hostnet0";

/// Ports on 127.0.0.1 that lead to the guest's `port`.
pub(super) fn forwards(shown: &str, port: u16) -> BTreeSet<u16> {
    shown
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, _, address, here, _, there, ..] = words.as_slice() else {
                return None;
            };
            let ours = *kind == "TCP[HOST_FORWARD]"
                && *address == "127.0.0.1"
                && there.parse() == Ok(port);
            ours.then(|| here.parse().ok()).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_the_hosts_ports_that_lead_to_the_guests() {
        let shown = "Hub -1 (hostnet0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
            TCP[HOST_FORWARD]  31       127.0.0.1 42007       10.0.2.15    22     0     0\r\n  \
            TCP[ESTABLISHED]   32       127.0.0.1 42008       10.0.2.15    22     0     0\r\n  \
            TCP[HOST_FORWARD]  33       127.0.0.1 42009       10.0.2.15    80     0     0\r\n  \
            UDP[236 sec]       34       10.0.2.15 34567        10.0.2.3    53     0     0\r\n";
        assert_eq!(forwards(shown, 22), BTreeSet::from([42007]));
        assert!(forwards("", 22).is_empty());
    }
}
