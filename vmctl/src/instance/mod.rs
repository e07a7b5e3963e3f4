//! Instances: from a spec to a running guest, and back.
//!
//! 1. A record says what is wanted; libvirt says what is. No state is kept here.
//! 2. `run` writes its record first, marked incomplete, and undoes everything it made if a later step
//!    fails. If the server ends in between, the record is what `remove` goes by.
//! 3. Only what was made for an instance goes with it: its root clone and only if asked, never a
//!    volume that was there before.
//! 4. One operation at a time per instance; another is refused, not queued.
//! 5. Its domain is defined anew from the record at each start, so that a changed socket directory or
//!    an undefined domain heals by `start`.

pub(crate) mod entering;
mod explaining;
mod making;
mod waking;

pub use entering::Addresses;
pub(crate) use entering::Pass;
pub use explaining::{Candidate, DiskBytes, Explanation};
pub use waking::Resumed;

use crate::disks;
use crate::hypervisor::{HostFacts, Hypervisor, State};
use crate::probe::{self, Verdict};
use crate::record::{Instance, Record};
use crate::spec::InstanceSpec;
use blockstore::{Entry, Error, Kind, Result, Store, Subject, Who};
use entering::Ways;
use making::started;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use uuid::Uuid;

/// A guest that is still booting misses the power button; we press again.
const ACPI_AGAIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(200);

/// Serves disks of instances over NBD, one unix socket each.
///
/// QEMU connects as the user libvirt gives it (`libvirt-qemu` with the group `kvm` on Debian), not as
/// ours: the socket must be readable and writable for it, which is mode 0660 and the group `kvm`, and
/// every directory above must let it pass (`o+x`). Other users are not to get at it, for whoever can
/// connect can write the disks.
///
/// Exports are named as the NBD server names them: `NAME` is a volume, `snapshot:NAME` a snapshot,
/// `object:BUCKET/KEY` an object; the last two are read-only.
pub trait Sockets: Send + Sync {
    /// Serves `exports` on the socket of `instance` and says where it is: the same path each time,
    /// below 108 bytes. If it is open already, `exports` are served from now on.
    fn open(&self, instance: &str, exports: &[String]) -> Result<PathBuf>;

    /// Ends its connections, lets its writer tokens go and removes the socket. Nothing happens if
    /// there is none.
    fn close(&self, instance: &str);
}

/// A handle on the instances of this host; clones share it. All calls block.
#[derive(Clone)]
pub struct Machines {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    state: PathBuf,
    hypervisor: Hypervisor,
    sockets: Arc<dyn Sockets>,
    /// Names of instances under an operation.
    busy: Mutex<BTreeSet<String>>,
    /// Held while a project's VMs are counted and one is added.
    admitting: Mutex<()>,
    /// Held while KVM is probed: two guests at once would slow each other down.
    probing: Mutex<()>,
    /// Consoles and ways into guests that are open.
    ways: Ways,
}

/// This host: its capacity, and how it executes guests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// What libvirt says.
    #[serde(flatten)]
    pub facts: HostFacts,
    /// What a real boot said.
    pub verdict: Verdict,
}

impl Machines {
    /// `state` keeps seeds and console logs; it is made (0711) and must lie where QEMU's user may
    /// pass. `uri` is libvirt's, for example `qemu:///system`; nothing is connected yet.
    pub fn new(store: Store, state: PathBuf, uri: &str, sockets: Arc<dyn Sockets>) -> Result<Self> {
        make_directory(&state)?;
        let inner = Inner {
            store,
            state,
            hypervisor: Hypervisor::new(uri),
            sockets,
            busy: Mutex::default(),
            admitting: Mutex::default(),
            probing: Mutex::default(),
            ways: Ways::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Makes and starts an instance.
    pub fn run(&self, who: &Who, spec: InstanceSpec) -> Result<Instance> {
        spec.validate()?;
        let _claim = self.claim(&spec.name)?;
        // Asked first, so that nothing is made where nothing can run.
        let host = self.host_facts()?;
        let others = Record::list(&self.inner.store)?;
        let disks = disks::resolve(&self.inner.store, &spec, &others)?;
        let mut record = Record {
            uuid: Uuid::new_v4(),
            created_ms: now_ms(),
            spec,
            disks,
            complete: false,
            root_made: false,
            copied: None,
            machine: None,
            accelerator: None,
            project: who.project.clone(),
        };
        self.admit(who, &record)?;
        if let Err(error) = self.make(who, &mut record, &host) {
            let undone = self
                .unmake(&record, true)
                .and_then(|_| record.remove(&self.inner.store, who, None));
            if let Err(left) = undone {
                tracing::warn!(instance = record.name(), error = %left.chain(), "a failed run is not undone; remove it");
            }
            return Err(error);
        }
        Ok(record.shown(State::Running, self.console_log(record.name())))
    }

    /// Writes the first record of a new instance; NoSpace if its project may have no more.
    fn admit(&self, who: &Who, record: &Record) -> Result<()> {
        let store = &self.inner.store;
        // Two at once must not both take the last place.
        let _one = self
            .inner
            .admitting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(most) = store.quota(&record.project)?.vms {
            let others = Record::list(store)?;
            let has = others
                .iter()
                .filter(|other| other.project == record.project)
                .count() as u64;
            if has >= most {
                let context = format!(
                    "project {:?} has {has} VMs and may have {most}: remove one, or ask for more",
                    record.project
                );
                return Err(Error::new(Kind::NoSpace, Subject::Project, context));
            }
        }
        record.create(store, who)
    }

    /// All instances, by name.
    pub fn list(&self) -> Result<Vec<Instance>> {
        let records = Record::list(&self.inner.store)?;
        let states = self.inner.hypervisor.states()?;
        let shown = records.iter().map(|record| {
            let state = states.get(&record.uuid).copied().unwrap_or(State::Missing);
            record.shown(state, self.console_log(record.name()))
        });
        Ok(shown.collect())
    }

    /// One instance.
    pub fn get(&self, name: &str) -> Result<Instance> {
        let record = Record::get(&self.inner.store, name)?;
        let state = self.inner.hypervisor.state(record.uuid)?;
        Ok(record.shown(state, self.console_log(name)))
    }

    /// Starts it, or lets it go on if it is paused. Nothing happens if it runs.
    pub fn start(&self, who: &Who, name: &str) -> Result<Instance> {
        let _claim = self.claim(name)?;
        let mut record = Record::get(&self.inner.store, name)?;
        if !record.complete {
            return Err(Error::new(
                Kind::Conflict,
                Subject::Record,
                format!(
                    "instance {name:?} was never finished (the server ended meanwhile): remove it, then run it again"
                ),
            ));
        }
        let entry = match self.inner.hypervisor.state(record.uuid)? {
            State::Running => None,
            State::Paused | State::Stalled => {
                self.inner.hypervisor.resume(record.uuid)?;
                Some(Entry::new("instance.resumed", name))
            }
            State::ShutOff | State::Crashed | State::Missing => {
                let host = self.host_facts()?;
                self.boot(who, &mut record, &host)?;
                Some(started(&record))
            }
        };
        if entry.is_some() {
            record.put(&self.inner.store, who, entry)?;
        }
        Ok(record.shown(State::Running, self.console_log(name)))
    }

    /// Asks the guest to power off and waits up to `patience`; then ends it if `force`.
    ///
    /// [`Kind::Unavailable`] if it did not and `force` is not given; [`Kind::Conflict`] if it is paused
    /// and so cannot hear. Nothing happens if it does not run.
    pub fn stop(&self, who: &Who, name: &str, patience: Duration, force: bool) -> Result<Instance> {
        let _claim = self.claim(name)?;
        let record = Record::get(&self.inner.store, name)?;
        let state = self.inner.hypervisor.state(record.uuid)?;
        if !state.is_active() {
            return Ok(record.shown(state, self.console_log(name)));
        }
        let hears = state == State::Running;
        if !hears && !force {
            return Err(Error::new(
                Kind::Conflict,
                Subject::Record,
                format!(
                    "instance {name:?} is {state} and cannot power off by itself: start it, or stop it with force"
                ),
            ));
        }
        let detail = if hears && self.power_off(&record, patience, force)? {
            "by the guest"
        } else {
            self.inner.hypervisor.destroy(record.uuid)?;
            "forced"
        };
        let entry = Entry::new("instance.stopped", name).detail(detail);
        self.inner.store.journal_append(who, entry)?;
        Ok(record.shown(State::ShutOff, self.console_log(name)))
    }

    /// Removes an instance; with `disks` also the root volume that was made for it. Says which volumes
    /// went.
    ///
    /// With `disks` a running guest is ended as it stands. Without, its disk lives on, so it must be
    /// stopped first: [`Kind::Conflict`].
    pub fn remove(&self, who: &Who, name: &str, disks: bool) -> Result<Vec<String>> {
        let _claim = self.claim(name)?;
        let record = Record::get(&self.inner.store, name)?;
        let state = self.inner.hypervisor.state(record.uuid)?;
        if state.is_active() && !disks && record.complete {
            return Err(Error::new(
                Kind::Conflict,
                Subject::Record,
                format!(
                    "instance {name:?} is {state} and its disk stays: stop it first, or remove it with its disks"
                ),
            ));
        }
        let volumes = self.unmake(&record, disks)?;
        let entry = Entry::new("instance.removed", name).detail(match volumes.as_slice() {
            [] => "disks kept".into(),
            gone => format!("with {}", gone.join(", ")),
        });
        record.remove(&self.inner.store, who, Some(entry))?;
        Ok(volumes)
    }

    /// This host; KVM is probed if it was not since the host booted.
    pub fn host(&self, who: &Who) -> Result<Host> {
        let facts = self.inner.hypervisor.facts()?;
        Ok(Host {
            facts,
            verdict: self.verdict(who, false)?,
        })
    }

    /// Probes KVM anew.
    pub fn probe(&self, who: &Who) -> Result<Verdict> {
        self.verdict(who, true)
    }

    /// Whether it powered off in time; an error if not and it may not be forced.
    fn power_off(&self, record: &Record, patience: Duration, force: bool) -> Result<bool> {
        let hypervisor = &self.inner.hypervisor;
        if force && patience.is_zero() {
            return Ok(false);
        }
        let until = Instant::now() + patience;
        let mut press_at = Instant::now();
        loop {
            if !hypervisor.state(record.uuid)?.is_active() {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= press_at {
                match hypervisor.shutdown(record.uuid) {
                    // It went between the two calls.
                    Err(error) if error.kind() == Kind::Conflict => {}
                    done => done?,
                }
                press_at = now + ACPI_AGAIN;
            }
            if now >= until {
                break;
            }
            std::thread::sleep(POLL.min(until - now));
        }
        if force {
            return Ok(false);
        }
        Err(Error::new(
            Kind::Unavailable,
            Subject::Record,
            format!(
                "instance {:?} did not power off within {} s (a guest without ACPI never does): wait longer, \
                 or stop it with force",
                record.name(),
                patience.as_secs()
            ),
        ))
    }

    fn host_facts(&self) -> Result<HostFacts> {
        let facts = self.inner.hypervisor.facts()?;
        if facts.arch == "x86_64" {
            return Ok(facts);
        }
        let context = format!(
            "host {} is {}; instances are x86_64 only",
            facts.name, facts.arch
        );
        Err(Error::new(Kind::Unsupported, Subject::Record, context))
    }

    fn verdict(&self, who: &Who, forced: bool) -> Result<Verdict> {
        let _one = self
            .inner
            .probing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        probe::verdict(&self.inner.store, who, &self.inner.state, forced)
    }

    fn claim(&self, name: &str) -> Result<Claim> {
        let mut busy = self
            .inner
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if busy.insert(name.into()) {
            return Ok(Claim {
                inner: Arc::clone(&self.inner),
                name: name.into(),
            });
        }
        let context = format!(
            "another operation on instance {name:?} is under way; try again when it is done"
        );
        Err(Error::new(Kind::Conflict, Subject::Record, context))
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.inner.state.join(name)
    }

    fn console_log(&self, name: &str) -> PathBuf {
        self.directory(name).join("console.log")
    }
}

/// The sole right to operate on an instance.
struct Claim {
    inner: Arc<Inner>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.inner
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}

/// QEMU's user passes through; nobody else lists it.
fn make_directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|error| Error::io("make the directory", path, error))
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
