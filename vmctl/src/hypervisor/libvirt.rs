//! The driver for libvirt, through the crate `virt`.
//!
//! A call opens a connection of its own, on a thread of its own, and the caller waits for it until a
//! limit. On a local socket that costs some 10 ms, next to verbs that take a second; in return no
//! call ever has to guess whether an old connection still works, and a libvirtd that hangs holds up
//! nobody. [`CALLS_MAX`] bounds the threads left waiting for such a libvirtd.

use super::{HostFacts, Place, State, capabilities, usernet};
use blockstore::{Error, Kind, Result, Subject};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once, mpsc};
use std::time::Duration;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::{
    Domain, DomainPausedReason, DomainShutoffReason, DomainState, DomainStateReason,
};
use virt::enumutil::Enum;
use virt::error::{Error as VirtError, ErrorNumber};
use virt::sys;

/// Calls under way at most, those included whose caller has stopped waiting.
const CALLS_MAX: usize = 32;
/// For questions. A libvirtd that has just been started probes its QEMU first, which takes 8 s here.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// For what starts or ends a QEMU.
const ACT_LIMIT: Duration = Duration::from_secs(90);

/// A handle on the libvirtd behind a URI; nothing is opened before the first call.
#[derive(Clone, Debug)]
pub struct Hypervisor {
    uri: Arc<str>,
    calls: Arc<AtomicUsize>,
}

impl Hypervisor {
    /// For example `qemu:///system`.
    pub fn new(uri: &str) -> Self {
        // libvirt prints every error to stderr unless told otherwise; ours go where they are handled.
        static QUIET: Once = Once::new();
        QUIET.call_once(virt::error::clear_error_callback);
        Self {
            uri: uri.into(),
            calls: Arc::default(),
        }
    }

    /// The host, its capacity and versions.
    pub fn facts(&self) -> Result<HostFacts> {
        let uri = self.uri.to_string();
        self.call("describe the host", ASK_LIMIT, move |connection| {
            let node = connection.node_info()?;
            let (emulator, qemu_user) =
                capabilities::emulator_and_user(&connection.capabilities()?);
            Ok(HostFacts {
                name: connection.hostname()?,
                arch: node.model,
                cpus: node.cpus,
                memory_bytes: node.memory * 1024,
                memory_free_bytes: connection.free_memory()?,
                libvirt: version(connection.lib_version()?),
                qemu: version(connection.hyp_version()?),
                uri,
                emulator,
                qemu_user,
            })
        })
    }

    /// Defines a domain, or redefines the one with its UUID. The machine type it has got.
    pub fn define(&self, xml: &str) -> Result<Option<String>> {
        let xml = xml.to_owned();
        self.call("define the domain", ACT_LIMIT, move |connection| {
            let domain = connection.define_domain_xml(&xml)?;
            Ok(capabilities::machine(
                &domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?,
            ))
        })
    }

    /// Starts a defined domain; Conflict if it runs.
    pub fn start(&self, id: Uuid) -> Result<()> {
        self.with("start the domain", ACT_LIMIT, id, Domain::create)
    }

    /// Asks the guest to power off (ACPI); returns at once.
    pub fn shutdown(&self, id: Uuid) -> Result<()> {
        self.with("shut the domain down", ASK_LIMIT, id, Domain::shutdown)
    }

    /// Lets a paused or stalled guest go on.
    pub fn resume(&self, id: Uuid) -> Result<()> {
        self.with("resume the domain", ASK_LIMIT, id, Domain::resume)
    }

    /// Ends the guest's QEMU; nothing happens if there is none.
    pub fn destroy(&self, id: Uuid) -> Result<()> {
        self.with("end the domain", ACT_LIMIT, id, |domain| {
            match domain.destroy() {
                Err(error) if !domain.is_active()? => {
                    tracing::debug!(%error, "the domain had ended by itself");
                    Ok(())
                }
                done => done,
            }
        })
    }

    /// Removes the definition and what libvirt keeps with it; nothing happens if there is none.
    pub fn undefine(&self, id: Uuid) -> Result<()> {
        let with_all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
        let done = self.with("undefine the domain", ASK_LIMIT, id, move |domain| {
            domain.undefine_flags(with_all)
        });
        match done {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            done => done,
        }
    }

    /// What a domain does; [`State::Missing`] if libvirt does not know it.
    pub fn state(&self, id: Uuid) -> Result<State> {
        match self.with("tell the domain's state", ASK_LIMIT, id, state_of) {
            Err(error) if error.kind() == Kind::NotFound => Ok(State::Missing),
            answer => answer,
        }
    }

    /// What all domains do, those of others included.
    pub fn states(&self) -> Result<HashMap<Uuid, State>> {
        self.call("list the domains", ASK_LIMIT, |connection| {
            let mut states = HashMap::new();
            for domain in connection.list_all_domains(0)? {
                // One that went away since the list was made is just not there.
                if let (Ok(id), Ok(state)) = (domain.uuid(), state_of(&domain)) {
                    states.insert(id, state);
                }
            }
            Ok(states)
        })
    }

    /// The terminal (a pty of this host) of a running domain's serial console.
    pub fn terminal(&self, id: Uuid) -> Result<Option<PathBuf>> {
        self.with("tell the domain's console", ASK_LIMIT, id, |domain| {
            Ok(capabilities::terminal(&domain.xml_desc(0)?))
        })
    }

    /// Opens a port on 127.0.0.1 that leads to the guest's TCP `port` over the user-mode network, and
    /// says which. Calls for one guest must come one after another.
    pub fn forward(&self, id: Uuid, port: u16) -> Result<u16> {
        let network = usernet::NETWORK;
        let opened = self.with("open a way into the guest", ASK_LIMIT, id, move |domain| {
            let before = usernet::forwards(&monitor(domain, "info usernet")?, port);
            let said = monitor(
                domain,
                &format!("hostfwd_add {network} tcp:127.0.0.1:0-:{port}"),
            )?;
            let after = usernet::forwards(&monitor(domain, "info usernet")?, port);
            Ok(after.difference(&before).next().copied().ok_or(said))
        })?;
        opened.map_err(|said| {
            let text = "QEMU opens no way into the guest; its network may not be the user-mode one";
            Error::new(Kind::Unavailable, Subject::Record, text).because(said.trim().to_owned())
        })
    }

    /// Closes what [`Self::forward`] opened; connections that stand are not touched.
    pub fn forward_end(&self, id: Uuid, here: u16) -> Result<()> {
        let network = usernet::NETWORK;
        self.with("close a way into the guest", ASK_LIMIT, id, move |domain| {
            let words = format!("hostfwd_remove {network} tcp:127.0.0.1:{here}");
            monitor(domain, &words).map(drop)
        })
    }

    /// Where a running guest is on its bridge: as its agent says, libvirt's DHCP server, or the host's
    /// ARP table, in this order.
    pub fn place(&self, id: Uuid) -> Result<Place> {
        self.with("find the guest's address", ASK_LIMIT, id, |domain| {
            let (card, bridge) = capabilities::card(&domain.xml_desc(0)?);
            let sources = [
                sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
                sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
                sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
            ];
            // Without an agent, or on a bridge that is not libvirt's, one or the other asks in vain.
            let found = sources
                .into_iter()
                .filter_map(|source| domain.interface_addresses(source, 0).ok());
            // An agent tells of every card in the guest, those that it made up included.
            let ours = found
                .flatten()
                .filter(|interface| card.is_some() && is_same(&interface.hwaddr, &card));
            let addresses = ours
                .flat_map(|interface| interface.addrs)
                .filter_map(|address| address.addr.parse().ok());
            Ok(Place::new(bridge, addresses))
        })
    }

    fn with<T: Send + 'static>(
        &self,
        what: &'static str,
        limit: Duration,
        id: Uuid,
        work: impl FnOnce(&Domain) -> Result<T, VirtError> + Send + 'static,
    ) -> Result<T> {
        self.call(what, limit, move |connection| {
            work(&connection.lookup_domain_by_uuid(id)?)
        })
    }

    fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        limit: Duration,
        work: impl FnOnce(&Connect) -> Result<T, VirtError> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = mpsc::sync_channel(1);
        let slot = Slot::take(&self.calls)
            .ok_or_else(|| self.hangs(what, "too many calls wait for it"))?;
        if self.uri.contains('\0') {
            let context = format!("the libvirt URI {:?} holds a zero byte", self.uri);
            return Err(Error::new(Kind::Invalid, Subject::Record, context));
        }
        let uri = Arc::clone(&self.uri);
        let spawned = std::thread::Builder::new()
            .name("libvirt".into())
            .spawn(move || {
                let _slot = slot;
                let done = match Connect::open(Some(&uri)) {
                    Ok(connection) => work(&connection).map_err(|error| failed(what, &error)),
                    Err(error) => Err(refused(&uri, &error)),
                };
                // Nobody waits any more: what was asked for may have happened, and the next look at the
                // state will tell.
                if sender.send(done).is_err() {
                    tracing::warn!(what, "libvirt answered too late");
                }
            });
        spawned.map_err(|error| {
            Error::new(
                Kind::Unavailable,
                Subject::Record,
                "no thread for a call to libvirt",
            )
            .because(error)
        })?;
        match answer.recv_timeout(limit) {
            Ok(done) => done,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(self.hangs(what, &format!("no answer within {} s", limit.as_secs())))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(Error::new(
                Kind::Internal,
                Subject::Record,
                format!("the call to {what} broke down"),
            )),
        }
    }

    fn hangs(&self, what: &str, how: &str) -> Error {
        Error::new(
            Kind::Unavailable,
            Subject::Record,
            format!(
                "libvirtd at {} hangs, asked to {what}: {how}; look at its log, then restart it",
                self.uri
            ),
        )
    }
}

/// One of the [`CALLS_MAX`] calls under way.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(calls: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = Self(Arc::clone(calls));
        (calls.fetch_add(1, Ordering::AcqRel) < CALLS_MAX).then_some(taken)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A command of QEMU's own monitor, for what libvirt has no words for.
fn monitor(domain: &Domain, command: &str) -> Result<String, VirtError> {
    domain.qemu_monitor_command(command, sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
}

/// Hardware addresses are written in either case.
fn is_same(one: &Option<String>, other: &Option<String>) -> bool {
    let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_ascii_lowercase());
    lower(one) == lower(other)
}

fn state_of(domain: &Domain) -> Result<State, VirtError> {
    let (state, reason) = domain.state()?;
    let paused_by =
        |wanted| matches!(reason, Enum::Known(DomainStateReason::Paused(by)) if by.is(wanted));
    let ended_by =
        |wanted| matches!(reason, Enum::Known(DomainStateReason::Shutoff(by)) if by.is(wanted));
    Ok(match state.known() {
        // "unknown" is what it says when a guest stalls right after it was resumed.
        Some(DomainState::Paused)
            if paused_by(DomainPausedReason::IOError) || paused_by(DomainPausedReason::Unknown) =>
        {
            State::Stalled
        }
        Some(DomainState::Paused | DomainState::PMSuspended) => State::Paused,
        Some(DomainState::Crashed) => State::Crashed,
        Some(DomainState::Shutoff) if ended_by(DomainShutoffReason::Crashed) => State::Crashed,
        Some(DomainState::Shutoff) => State::ShutOff,
        // A state from a newer libvirt is one of a guest that is there.
        Some(
            DomainState::NoState
            | DomainState::Running
            | DomainState::Blocked
            | DomainState::Shutdown,
        )
        | None => State::Running,
    })
}

/// The connection did not come about.
fn refused(uri: &str, error: &VirtError) -> Error {
    let code = error.code().known();
    let denied = matches!(
        code,
        Some(
            ErrorNumber::AuthFailed
                | ErrorNumber::AuthCancelled
                | ErrorNumber::AuthUnavailable
                | ErrorNumber::AccessDenied
        )
    );
    let (kind, context) = if denied || error.message().contains("Permission denied") {
        (
            Kind::Denied,
            format!(
                "libvirtd at {uri} does not let this user in: add it to the group libvirt, or run as root"
            ),
        )
    } else if matches!(
        code,
        Some(ErrorNumber::NoConnect | ErrorNumber::InvalidArg | ErrorNumber::ConfigUnsupported)
    ) {
        (
            Kind::Invalid,
            format!("libvirt knows no hypervisor {uri:?}; qemu:///system is the usual one"),
        )
    } else {
        (
            Kind::Unavailable,
            format!(
                "libvirtd does not answer at {uri}: start it with \"systemctl start libvirtd\", or without \
                 systemd with \"virtlogd -d\" and \"libvirtd -d\""
            ),
        )
    };
    Error::new(kind, Subject::Record, context).because(error.message())
}

/// The connection stood, the call failed.
fn failed(what: &str, error: &VirtError) -> Error {
    let said = error.message();
    if said.contains("virtlogd-sock") {
        return Error::new(
            Kind::Unavailable,
            Subject::Record,
            format!(
                "libvirt cannot {what} without virtlogd: start it with \"systemctl start virtlogd\", or \
                 without systemd with \"virtlogd -d\""
            ),
        )
        .because(said);
    }
    if said.contains("already exists with uuid") {
        return Error::new(
            Kind::Conflict,
            Subject::Record,
            "libvirt has a domain of that name which is not ours: choose another name, or see \"virsh list --all\" \
             and undefine it",
        )
        .because(said);
    }
    let kind = match error.code().known() {
        Some(ErrorNumber::NoDomain) => Kind::NotFound,
        Some(ErrorNumber::OperationInvalid | ErrorNumber::DomExist | ErrorNumber::ResourceBusy) => {
            Kind::Conflict
        }
        Some(
            ErrorNumber::ConfigUnsupported
            | ErrorNumber::OperationUnsupported
            | ErrorNumber::NoSupport
            | ErrorNumber::ArgumentUnsupported,
        ) => Kind::Unsupported,
        Some(ErrorNumber::OperationDenied | ErrorNumber::AccessDenied) => Kind::Denied,
        Some(ErrorNumber::OperationTimeout | ErrorNumber::Rpc) => Kind::Unavailable,
        _ => Kind::Internal,
    };
    Error::new(kind, Subject::Record, format!("libvirt cannot {what}")).because(said)
}

/// `1_002_003` is 1.2.3 (libvirt, virConnectGetLibVersion).
fn version(number: u32) -> String {
    format!(
        "{}.{}.{}",
        number / 1_000_000,
        number / 1000 % 1000,
        number % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_libvirt_writes_them() {
        assert_eq!(version(11_003_000), "11.3.0");
        assert_eq!(version(10_000_002), "10.0.2");
    }

    #[test]
    fn without_a_libvirtd_the_error_says_how_to_start_it() {
        let directory = tempfile::tempdir().expect("tempdir");
        let uri = format!(
            "qemu:///system?socket={}/libvirt-sock",
            directory.path().display()
        );
        let error = Hypervisor::new(&uri).facts().expect_err("nobody listens");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(
            error.to_string().contains("systemctl start libvirtd"),
            "{error}"
        );
        assert!(error.to_string().contains("libvirtd -d"), "{error}");
    }

    #[test]
    fn a_uri_that_no_libvirt_can_open_is_refused() {
        for uri in ["qemu:///sys\0tem", "qemu+nonsense:///system"] {
            let error = Hypervisor::new(uri).facts().expect_err("not a URI");
            assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
        }
    }

    #[test]
    fn calls_beyond_the_bound_are_refused() {
        let calls = Arc::new(AtomicUsize::new(0));
        let slots: Vec<_> = (0..CALLS_MAX).map_while(|_| Slot::take(&calls)).collect();
        assert_eq!(slots.len(), CALLS_MAX);
        assert!(Slot::take(&calls).is_none());
        drop(slots);
        assert_eq!(calls.load(Ordering::Acquire), 0);
        assert!(Slot::take(&calls).is_some());
    }
}
