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

use crate::domain::{Disk, DiskSource, Facts, domain_xml};
use crate::hypervisor::{HostFacts, Hypervisor, State};
use crate::probe::{self, Verdict};
use crate::reach::Account;
use crate::record::{Instance, Record};
use crate::seed::Seed;
use crate::spec::{DataVolume, InstanceSpec, Root};
use blockstore::volume::Origin;
use blockstore::{Entry, Error, Kind, Result, Store, Subject, Who};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use uuid::Uuid;

/// How long a writer token may take to come back after its guest and its socket are gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// A guest that is still booting misses the power button; we press again.
const ACPI_AGAIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(200);
/// How long stalled guests are woken after the server is back.
const WAKE_LIMIT: Duration = Duration::from_secs(60);
const WAKE_POLL: Duration = Duration::from_secs(1);
/// Of a console log's end at most, in bytes.
const TAIL_BYTES_MAX: u64 = 1 << 20;

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
    /// Held while KVM is probed: two guests at once would slow each other down.
    probing: Mutex<()>,
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

/// A guest's serial console.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Console {
    /// The file all output is appended to.
    pub log: PathBuf,
    /// The terminal to read and type at, while it runs.
    pub terminal: Option<PathBuf>,
    /// The last lines of the log.
    pub lines: Vec<String>,
}

/// What [`Machines::resume`] did.
#[derive(Debug, Default)]
pub struct Resumed {
    /// Instances whose disks are served again.
    pub opened: Vec<String>,
    /// Instances whose disks could not be served, and why.
    pub failed: Vec<(String, Error)>,
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
            probing: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Serves the disks of all recorded instances again and wakes guests that stalled for want of
    /// them. To be called when the server starts: QEMU waits [`crate::domain::RECONNECT_S`] seconds.
    pub fn resume(&self) -> Result<Resumed> {
        let mut resumed = Resumed::default();
        for record in Record::list(&self.inner.store)? {
            let exports = record.exports();
            if exports.is_empty() {
                continue;
            }
            match self.inner.sockets.open(record.name(), &exports) {
                Ok(_) => resumed.opened.push(record.name().into()),
                Err(error) => resumed.failed.push((record.name().into(), error)),
            }
        }
        if !resumed.opened.is_empty() {
            let machines = self.clone();
            let spawned = std::thread::Builder::new().name("wake".into()).spawn(move || machines.wake());
            spawned.map_err(|error| {
                Error::new(Kind::Unavailable, Subject::Record, "no thread to wake instances").because(error)
            })?;
        }
        Ok(resumed)
    }

    /// Makes and starts an instance.
    pub fn run(&self, who: &Who, spec: InstanceSpec) -> Result<Instance> {
        spec.validate()?;
        let _claim = self.claim(&spec.name)?;
        // Asked first, so that nothing is made where nothing can run.
        let host = self.host_facts()?;
        let others = Record::list(&self.inner.store)?;
        let disks = self.resolve(&spec, &others)?;
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
        };
        record.create(&self.inner.store, who)?;
        if let Err(error) = self.make(who, &mut record, &host) {
            let undone = self.unmake(&record, true).and_then(|_| record.remove(&self.inner.store, who, None));
            if let Err(left) = undone {
                tracing::warn!(instance = record.name(), error = %left.chain(), "a failed run is not undone; remove it");
            }
            return Err(error);
        }
        Ok(record.shown(State::Running, self.console_log(record.name())))
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
                format!("instance {name:?} was never finished (the server ended meanwhile): remove it, then run it again"),
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
                format!("instance {name:?} is {state} and cannot power off by itself: start it, or stop it with force"),
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
                format!("instance {name:?} is {state} and its disk stays: stop it first, or remove it with its disks"),
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

    /// Its serial console: log, terminal, and the last `lines` lines.
    pub fn console(&self, name: &str, lines: usize) -> Result<Console> {
        let record = Record::get(&self.inner.store, name)?;
        let log = self.console_log(name);
        let lines = tail(&log, lines)?;
        let terminal = match self.inner.hypervisor.terminal(record.uuid) {
            // The log outlives the guest and libvirt.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unavailable | Kind::Unsupported) => None,
            terminal => terminal?,
        };
        Ok(Console { log, terminal, lines })
    }

    /// This host; KVM is probed if it was not since the host booted.
    pub fn host(&self, who: &Who) -> Result<Host> {
        let facts = self.inner.hypervisor.facts()?;
        Ok(Host { facts, verdict: self.verdict(who, false)? })
    }

    /// Probes KVM anew.
    pub fn probe(&self, who: &Who) -> Result<Verdict> {
        self.verdict(who, true)
    }

    /// Steps of `run` behind its record, in order.
    fn make(&self, who: &Who, record: &mut Record, host: &HostFacts) -> Result<()> {
        let store = &self.inner.store;
        if let Root::Image(image) = record.spec.root()? {
            let volume = format!("{}-root", record.name());
            let origin = Origin::Image(image.into());
            let (_, copied) = store.volume_create(who, &volume, record.spec.root_bytes, &origin)?;
            record.root_made = true;
            record.copied = Some(copied);
            record.put(store, who, None)?;
        }
        self.boot(who, record, host)?;
        record.complete = true;
        let mut entry = Entry::new("instance.created", record.name());
        if let Some(copied) = &record.copied {
            entry = entry.bytes("shared", copied.shared_bytes).bytes("rewritten", copied.rewritten_bytes);
        }
        record.put(store, who, Some(entry))?;
        store.journal_append(who, started(record))?;
        Ok(())
    }

    /// Seed, socket, domain, start.
    fn boot(&self, who: &Who, record: &mut Record, host: &HostFacts) -> Result<()> {
        let directory = self.directory(record.name());
        make_directory(&directory)?;
        let seed = directory.join("seed.iso");
        if !exists(&seed)? {
            let instance_id = record.uuid.to_string();
            Seed {
                instance_id: &instance_id,
                hostname: &record.spec.name,
                user_data: record.spec.user_data.as_deref(),
                network_config: record.spec.network_config.as_deref(),
                ssh_keys: &record.spec.ssh_keys,
            }
            .write(&seed)?;
        }
        let console_log = self.console_log(record.name());
        // Made here so that it is ours to read, whoever appends to it.
        std::fs::File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&console_log)
            .map_err(|error| Error::io("make", &console_log, error))?;
        let exports = record.exports();
        let socket = match exports.is_empty() {
            true => PathBuf::new(),
            false => self.inner.sockets.open(record.name(), &exports)?,
        };
        self.check_reach(record, host, &seed, &socket)?;
        let verdict = self.verdict(who, false)?;
        let xml = domain_xml(
            &record.spec,
            &Facts {
                uuid: record.uuid,
                accelerator: verdict.accelerator,
                machine: record.machine.as_deref(),
                emulator: host.emulator.as_deref(),
                disks: &record.disks,
                socket: &socket,
                seed: &seed,
                console_log: &console_log,
            },
        )?;
        record.machine = self.inner.hypervisor.define(&xml)?.or(record.machine.take());
        record.accelerator = Some(verdict.accelerator);
        self.inner.hypervisor.start(record.uuid)
    }

    /// Removes all that belongs to an instance but its record; every step may have been done already.
    fn unmake(&self, record: &Record, disks: bool) -> Result<Vec<String>> {
        let name = record.name();
        if self.inner.hypervisor.state(record.uuid)?.is_active() {
            self.inner.hypervisor.destroy(record.uuid)?;
        }
        self.inner.hypervisor.undefine(record.uuid)?;
        self.inner.sockets.close(name);
        let mut removed = Vec::new();
        if disks && record.root_made {
            let volume = format!("{name}-root");
            if self.remove_volume(&volume)? {
                removed.push(volume);
            }
        }
        let directory = self.directory(name);
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &directory, error))
            }
            _ => Ok(removed),
        }
    }

    /// Whether there was one. A token just released may take a moment to come back.
    fn remove_volume(&self, volume: &str) -> Result<bool> {
        let until = Instant::now() + RELEASE_LIMIT;
        loop {
            match self.inner.store.volume_remove(&Who::server(), volume) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == Kind::NotFound => return Ok(false),
                Err(error) if error.kind() == Kind::Conflict && Instant::now() < until => {
                    std::thread::sleep(POLL);
                }
                Err(error) => return Err(error),
            }
        }
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

    /// The disks of a spec, looked up; [`Kind::Conflict`] where another writes what this one is to write.
    fn resolve(&self, spec: &InstanceSpec, others: &[Record]) -> Result<Vec<Disk>> {
        let export = |name: String, writable| Disk { source: DiskSource::Export(name), writable };
        let root = match spec.root()? {
            Root::Image(image) => {
                self.inner.store.image(image)?;
                export(format!("{}-root", spec.name), true)
            }
            Root::Volume(volume) => {
                self.check_free(volume, others)?;
                export(volume.into(), true)
            }
            Root::File(path) => {
                if !std::fs::metadata(path).map_err(|error| missing(path, error))?.is_file() {
                    let context = format!("{} is not a regular file; boot_file names a raw image", path.display());
                    return Err(Error::new(Kind::Invalid, Subject::Record, context));
                }
                Disk { source: DiskSource::File(path.into()), writable: true }
            }
        };
        for path in [&spec.kernel, &spec.initrd].into_iter().flatten() {
            std::fs::metadata(path).map_err(|error| missing(path, error))?;
        }
        let mut disks = vec![root];
        for volume in &spec.volumes {
            let disk = match volume {
                DataVolume::Object { bucket, key } => {
                    self.inner.store.object_head(bucket, key)?;
                    export(format!("object:{bucket}/{key}"), false)
                }
                DataVolume::Named { name, writable } => self.resolve_named(name, *writable, others)?,
            };
            if disks.contains(&disk) || disks[0].source == disk.source {
                let context = format!("data volume {volume} is the root disk already");
                return Err(Error::new(Kind::Invalid, Subject::Record, context));
            }
            disks.push(disk);
        }
        Ok(disks)
    }

    fn resolve_named(&self, name: &str, writable: bool, others: &[Record]) -> Result<Disk> {
        let source = match self.inner.store.volume_info(name) {
            Ok(_) => {
                if writable {
                    self.check_free(name, others)?;
                }
                DiskSource::Export(name.into())
            }
            Err(error) if error.kind() == Kind::NotFound => {
                match self.inner.store.snapshot(name) {
                    Err(other) if other.kind() == Kind::NotFound => {
                        let context = format!("no volume and no snapshot {name:?}; list them: infall volume ls");
                        return Err(Error::new(Kind::NotFound, Subject::Volume, context));
                    }
                    found => found?,
                };
                if writable {
                    let context = format!("snapshot {name:?} cannot be written; clone a volume from it, or attach it :ro");
                    return Err(Error::new(Kind::Invalid, Subject::Snapshot, context));
                }
                DiskSource::Export(format!("snapshot:{name}"))
            }
            Err(error) => return Err(error),
        };
        Ok(Disk { source, writable })
    }

    /// The store's writer token would stop the second writer too, but as an I/O error inside QEMU.
    fn check_free(&self, volume: &str, others: &[Record]) -> Result<()> {
        let conflict = |by: &str| {
            let context = format!("volume {volume:?} is written by {by}; stop that first, or clone a snapshot of it");
            Err(Error::new(Kind::Conflict, Subject::Volume, context))
        };
        let info = self.inner.store.volume_info(volume)?;
        if let Some(holder) = info.writer {
            return conflict(&holder);
        }
        let source = DiskSource::Export(volume.into());
        let other = others.iter().find(|other| other.disks.iter().any(|disk| disk.writable && disk.source == source));
        match other {
            Some(other) => conflict(&format!("instance {:?}", other.name())),
            None => Ok(()),
        }
    }

    fn check_reach(&self, record: &Record, host: &HostFacts, seed: &Path, socket: &Path) -> Result<()> {
        let Some((user, group)) = host.qemu_user else { return Ok(()) };
        let account = Account::of(user, group);
        account.check_passage(seed)?;
        if !socket.as_os_str().is_empty() {
            account.check_use(socket)?;
        }
        if let Some(file) = &record.spec.boot_file {
            account.check_use(file)?;
        }
        [&record.spec.kernel, &record.spec.initrd].into_iter().flatten().try_for_each(|path| account.check_passage(path))
    }

    fn host_facts(&self) -> Result<HostFacts> {
        let facts = self.inner.hypervisor.facts()?;
        if facts.arch == "x86_64" {
            return Ok(facts);
        }
        let context = format!("host {} is {}; instances are x86_64 only", facts.name, facts.arch);
        Err(Error::new(Kind::Unsupported, Subject::Record, context))
    }

    fn verdict(&self, who: &Who, forced: bool) -> Result<Verdict> {
        let _one = self.inner.probing.lock().unwrap_or_else(PoisonError::into_inner);
        probe::verdict(&self.inner.store, who, &self.inner.state, forced)
    }

    /// QEMU tries to reconnect after 1, 2, 4, 8, then every 16 seconds, and fails what a guest asks in
    /// between: one that is woken too early stalls again, and one can still stall after the server is
    /// back. So all are looked at for a while.
    fn wake(&self) {
        let until = Instant::now() + WAKE_LIMIT;
        let mut woken = BTreeSet::new();
        while Instant::now() < until {
            if let Err(error) = self.wake_once(&mut woken) {
                return tracing::warn!(error = %error.chain(), "stalled instances are not woken; start them");
            }
            std::thread::sleep(WAKE_POLL);
        }
    }

    fn wake_once(&self, woken: &mut BTreeSet<Uuid>) -> Result<()> {
        let states = self.inner.hypervisor.states()?;
        for record in Record::list(&self.inner.store)? {
            if states.get(&record.uuid) != Some(&State::Stalled) {
                continue;
            }
            self.inner.hypervisor.resume(record.uuid)?;
            if woken.insert(record.uuid) {
                let entry = Entry::new("instance.resumed", record.name()).detail("its disks are served again");
                self.inner.store.journal_append(&Who::server(), entry)?;
            }
        }
        Ok(())
    }

    fn claim(&self, name: &str) -> Result<Claim> {
        let mut busy = self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.insert(name.into()) {
            return Ok(Claim { inner: Arc::clone(&self.inner), name: name.into() });
        }
        let context = format!("another operation on instance {name:?} is under way; try again when it is done");
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
        self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

fn started(record: &Record) -> Entry {
    let entry = Entry::new("instance.started", record.name());
    match record.accelerator {
        Some(accelerator) => entry.detail(format!("by {accelerator}")),
        None => entry,
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

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|error| Error::io("look at", path, error))
}

fn missing(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Kind::NotFound, Subject::Record, format!("there is no file {}", path.display()))
        }
        _ => Error::io("look at", path, error),
    }
}

/// Consoles say anything: bytes that are not UTF-8 are shown as such, carriage returns left out.
fn tail(path: &Path, lines: usize) -> Result<Vec<String>> {
    let mut file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(|error| Error::io("open", path, error))?,
    };
    let failed = |error| Error::io("read", path, error);
    let length = file.metadata().map_err(failed)?.len();
    let cut = length > TAIL_BYTES_MAX;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX))).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut all: Vec<&str> = text.lines().map(|line| line.trim_matches('\r')).collect();
    if cut && all.len() > 1 {
        all.remove(0);
    }
    Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_whole_lines() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("console.log");
        assert!(tail(&path, 10).expect("no file yet").is_empty());
        std::fs::write(&path, b"one\r\ntwo\r\n\xff three\npart").expect("write");
        assert_eq!(tail(&path, 2).expect("tail"), ["\u{fffd} three", "part"]);
        assert_eq!(tail(&path, 100).expect("tail").len(), 4);
        assert!(tail(&path, 0).expect("tail").is_empty());
        let line = "x".repeat(1023) + "\n";
        std::fs::write(&path, line.repeat(2000)).expect("write");
        let lines = tail(&path, usize::MAX).expect("tail");
        assert!(lines.len() <= 1024 && lines.iter().all(|line| line.len() == 1023));
    }
}
