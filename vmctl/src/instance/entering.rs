//! Ways into a guest: its serial console, and its ssh server behind its network.
//!
//! 1. A way is opened only for whoever the engine has let in; nothing here decides.
//! 2. At most [`WAYS_MAX`] ways are open, and one at a console: two who type would garble each other.
//! 3. Over the user-mode network a port of the host's loopback leads to the guest only from just before
//!    the connection is made until the guest has spoken; what others connect to meanwhile is the guest's
//!    sshd, which asks for a key.
//! 4. On a bridge a guest's address is what the guest says it is. A connection leaves the host over that
//!    bridge or not at all, so a guest that names a stranger's address opens no way that it had not itself.

use super::{Inner, Machines, POLL, now_ms};
use crate::console::{self, Console};
use crate::hypervisor::State;
use crate::record::Record;
use crate::spec::Network;
use crate::ssh::{Authority, SshAsk, SshCertificate};
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// Consoles and connections to guests at once.
const WAYS_MAX: usize = 64;
/// Where sshd listens (RFC 4253, 4.1).
const SSH_PORT: u16 = 22;
/// How long a guest may take to accept, and its sshd to greet (RFC 4253, 4.2: both sides send at once).
pub(crate) const GREETING_LIMIT: Duration = Duration::from_secs(15);
/// The same where somebody only asks, and asks again.
pub(crate) const KNOCK_LIMIT: Duration = Duration::from_secs(5);
/// How long one address of several is tried.
const TRY_LIMIT: Duration = Duration::from_secs(5);
/// A greeting at most (RFC 4253, 4.2: 255 characters with the end of the line).
const GREETING_BYTES_MAX: usize = 255;

/// What is open.
pub(super) struct Ways {
    room: Arc<Semaphore>,
    /// Names of instances whose console somebody types at.
    consoles: Mutex<BTreeSet<String>>,
    /// Held while a way through QEMU's network is opened: one is told from another by its being new.
    opening: Mutex<()>,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(WAYS_MAX)),
            consoles: Mutex::default(),
            opening: Mutex::default(),
        }
    }
}

/// The right to one way; it ends when dropped.
pub(crate) struct Pass {
    _place: OwnedSemaphorePermit,
    console: Option<(Arc<Inner>, String)>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some((inner, name)) = &self.console {
            inner
                .ways
                .consoles
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(name);
        }
    }
}

/// Where a guest's ssh server is reached.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// To be tried in this order.
    addresses: Vec<SocketAddr>,
    /// The bridge that a connection has to leave the host by.
    bridge: Option<String>,
    /// A port of ours that leads there, to be closed again.
    forwarded: Option<(Uuid, u16)>,
}

/// Where a running instance is on the host's networks, and whether its ssh server is up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// On its bridge, as far as they are known; none on a network of its own.
    pub addresses: Vec<IpAddr>,
    /// What its ssh server says first, `SSH-2.0-…`; none if it was not asked, or does not answer.
    pub greeting: Option<String>,
}

impl Machines {
    /// Its serial console: log, terminal, and the last `lines` lines; or, with `after`, what its log
    /// says behind that byte.
    pub fn console(&self, name: &str, lines: usize, after: Option<u64>) -> Result<Console> {
        let record = Record::get(&self.inner.store, name)?;
        let log = self.console_log(name);
        let (lines, end) = match after {
            Some(after) => console::since(&log, after)?,
            None => console::tail(&log, lines)?,
        };
        let terminal = match self.inner.hypervisor.terminal(record.uuid) {
            // The log outlives the guest and libvirt.
            Err(error)
                if matches!(
                    error.kind(),
                    Kind::NotFound | Kind::Unavailable | Kind::Unsupported
                ) =>
            {
                None
            }
            terminal => terminal?,
        };
        Ok(Console {
            log,
            terminal,
            lines,
            end,
        })
    }

    /// A certificate for one login of the instance, and its entry in the journal.
    pub fn ssh_certificate(&self, who: &Who, name: &str, ask: &SshAsk) -> Result<SshCertificate> {
        let record = Record::get(&self.inner.store, name)?;
        let now_ms = now_ms();
        let authority = Authority::of(&self.inner.store, now_ms)?;
        let named = format!(
            "{} of {} on {name}, {}",
            who.actor, who.project, who.request
        );
        let given = authority.certify(ask, record.uuid, &named, now_ms)?;
        let entry = Entry::new("instance.certified", name).detail(format!(
            "login {}, key {}, serial {}, until {}",
            given.login, given.fingerprint, given.serial, given.expires_ms
        ));
        self.inner.store.journal_append(who, entry)?;
        Ok(given)
    }

    /// The terminal of a running guest, for one who types.
    pub(crate) fn enter_console(&self, who: &Who, name: &str) -> Result<(PathBuf, Pass)> {
        let record = self.running(name)?;
        let terminal = self.inner.hypervisor.terminal(record.uuid)?;
        let terminal = terminal.ok_or_else(|| {
            let text = format!("instance {name:?} has no terminal now; is it on its way down?");
            Error::new(Kind::Unavailable, Subject::Record, text)
        })?;
        let mut pass = self.pass()?;
        let mut consoles = self
            .inner
            .ways
            .consoles
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !consoles.insert(name.to_owned()) {
            drop(consoles);
            let text = format!(
                "somebody types at the console of {name:?} already; watch it: infall vm console {name} --follow"
            );
            return Err(Error::new(Kind::Conflict, Subject::Record, text));
        }
        drop(consoles);
        pass.console = Some((Arc::clone(&self.inner), name.to_owned()));
        let entry = Entry::new("instance.entered", name).detail("console");
        self.inner.store.journal_append(who, entry)?;
        Ok((terminal, pass))
    }

    /// Where the ssh server of a running guest is. To be given back by [`Self::leave_ssh`].
    pub(crate) fn enter_ssh(&self, who: &Who, name: &str) -> Result<(Guest, Pass)> {
        let record = self.running(name)?;
        let pass = self.pass()?;
        let guest = self.find(&record)?;
        let entry = Entry::new("instance.entered", name).detail("ssh");
        if let Err(error) = self.inner.store.journal_append(who, entry) {
            self.leave_ssh(&guest);
            return Err(error);
        }
        Ok((guest, pass))
    }

    /// Closes the way to a guest; a connection that stands goes on.
    pub(crate) fn leave_ssh(&self, guest: &Guest) {
        let Some((instance, port)) = guest.forwarded else {
            return;
        };
        if let Err(error) = self.inner.hypervisor.forward_end(instance, port)
            && error.kind() != Kind::NotFound
        {
            tracing::warn!(%instance, port, error = %error.chain(), "a way into a guest stays open until it stops");
        }
    }

    /// Where a running guest is.
    pub(crate) fn addresses(&self, name: &str) -> Result<Vec<IpAddr>> {
        let record = self.running(name)?;
        match record.spec.network {
            Network::None | Network::User => Ok(Vec::new()),
            Network::Bridge(_) | Network::Named(_) => {
                Ok(self.inner.hypervisor.place(record.uuid)?.addresses)
            }
        }
    }

    /// A way to the ssh server of a running guest, to hear whether it is up. To be given back by
    /// [`Self::leave_ssh`]; nobody enters by it, so no entry tells of it.
    pub(crate) fn knock_ssh(&self, name: &str) -> Result<(Guest, Pass)> {
        let record = self.running(name)?;
        let pass = self.pass()?;
        Ok((self.find(&record)?, pass))
    }

    fn find(&self, record: &Record) -> Result<Guest> {
        let name = record.name();
        match &record.spec.network {
            Network::None => {
                let text = format!(
                    "instance {name:?} has no network; its console is there: infall vm console {name} --attach"
                );
                Err(Error::new(Kind::Conflict, Subject::Record, text))
            }
            Network::User => {
                let opening = &self.inner.ways.opening;
                let _one = opening.lock().unwrap_or_else(PoisonError::into_inner);
                let port = self.inner.hypervisor.forward(record.uuid, SSH_PORT)?;
                Ok(Guest {
                    addresses: vec![(IpAddr::from(Ipv4Addr::LOCALHOST), port).into()],
                    bridge: None,
                    forwarded: Some((record.uuid, port)),
                })
            }
            Network::Bridge(_) | Network::Named(_) => {
                let place = self.inner.hypervisor.place(record.uuid)?;
                // libvirt names it for every kind of network that ends on a bridge.
                let bridge = place.bridge.ok_or_else(|| {
                    let text = format!(
                        "{} of instance {name:?} has no bridge on this host: give its address with --address",
                        record.spec.network
                    );
                    Error::new(Kind::Unsupported, Subject::Record, text)
                })?;
                if place.addresses.is_empty() {
                    let text = format!(
                        "no address of instance {name:?} on {bridge} is known: it may be booting still; without \
                         qemu-guest-agent in it, a lease of libvirt's DHCP server or a word with this host nobody \
                         can tell, then give it with --address"
                    );
                    return Err(Error::new(Kind::Unavailable, Subject::Record, text));
                }
                let addresses = place.addresses.into_iter();
                Ok(Guest {
                    addresses: addresses
                        .map(|address| (address, SSH_PORT).into())
                        .collect(),
                    bridge: Some(bridge),
                    forwarded: None,
                })
            }
        }
    }

    fn pass(&self) -> Result<Pass> {
        let place = Arc::clone(&self.inner.ways.room).try_acquire_owned();
        let place = place.map_err(|_| {
            let text =
                format!("{WAYS_MAX} consoles and connections to guests are open: close some");
            Error::new(Kind::Unavailable, Subject::Record, text)
        })?;
        Ok(Pass {
            _place: place,
            console: None,
        })
    }

    fn running(&self, name: &str) -> Result<Record> {
        let record = Record::get(&self.inner.store, name)?;
        let state = self.inner.hypervisor.state(record.uuid)?;
        if state == State::Running {
            return Ok(record);
        }
        let text =
            format!("instance {name:?} is {state}, so nobody is there: infall vm start {name}");
        Err(Error::new(Kind::Conflict, Subject::Record, text))
    }
}

impl Guest {
    /// A connection on which the guest's ssh server has greeted; the greeting is still to be read.
    pub(crate) async fn connect(&self, name: &str, patience: Duration) -> Result<TcpStream> {
        let greeted = async {
            loop {
                for address in &self.addresses {
                    // QEMU's network accepts for the guest and hangs up if nobody listens there yet.
                    let tried = tokio::time::timeout(TRY_LIMIT, self.greeted(*address)).await;
                    if let Ok(Ok(stream)) = tried {
                        return stream;
                    }
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let greeted = tokio::time::timeout(patience, greeted).await;
        greeted.map_err(|_| {
            let text = format!(
                "no ssh server answers in instance {name:?} within {} s: it may be booting still, or have none; \
                 look: infall vm console {name}",
                patience.as_secs()
            );
            Error::new(Kind::Unavailable, Subject::Record, text)
        })
    }

    async fn greeted(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(bridge) = &self.bridge {
            socket.bind_device(Some(bridge.as_bytes()))?;
        }
        let stream = socket.connect(address).await?;
        match stream.peek(&mut [0]).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(stream),
        }
    }
}

/// The first line of an ssh server, without its end (RFC 4253, 4.2).
pub(crate) async fn greeting(stream: &TcpStream) -> Option<String> {
    let mut line = [0; GREETING_BYTES_MAX];
    let count = stream.peek(&mut line).await.ok()?;
    let text = String::from_utf8_lossy(&line[..count]);
    Some(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_is_reached_over_its_bridge_or_not_at_all() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let words = b"SSH-2.0-Test\r\nmore";
                tokio::io::AsyncWriteExt::write_all(&mut stream, words)
                    .await
                    .expect("write");
                kept.push(stream);
            }
        });
        let guest = |bridge: Option<&str>| Guest {
            addresses: vec![address],
            bridge: bridge.map(Into::into),
            forwarded: None,
        };
        let patience = Duration::from_millis(500);
        for bridge in [None, Some("lo")] {
            let stream = guest(bridge).connect("g", patience).await.expect("greeted");
            assert_eq!(greeting(&stream).await.as_deref(), Some("SSH-2.0-Test"));
        }
        let error = guest(Some("infall-none")).connect("g", patience).await;
        assert_eq!(error.expect_err("no such way").kind(), Kind::Unavailable);
    }
}
