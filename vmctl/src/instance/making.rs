//! The steps by which an instance is made and unmade.
//!
//! ```text
//! record, incomplete ─▶ root clone ─▶ seed ─▶ socket ─▶ domain ─▶ start ─▶ record, complete
//! ```
//! Each step of unmaking may have been done already.

use super::{Machines, POLL, make_directory, now_ms};
use crate::domain::{Facts, domain_xml};
use crate::hypervisor::HostFacts;
use crate::reach::Account;
use crate::record::Record;
use crate::seed::Seed;
use crate::spec::Root;
use crate::ssh::{self, Authority};
use blockstore::volume::Origin;
use blockstore::{Entry, Error, Kind, Result, Who};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a writer token may take to come back after its guest and its socket are gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

impl Machines {
    /// Steps of `run` behind its record, in order.
    pub(super) fn make(&self, who: &Who, record: &mut Record, host: &HostFacts) -> Result<()> {
        let store = &self.inner.store;
        if let Root::Image(image) = record.spec.root()? {
            let volume = format!("{}-root", record.name());
            let origin = match record.spec.deprecated {
                true => Origin::DeprecatedImage(image.into()),
                false => Origin::Image(image.into()),
            };
            let (_, copied) = store.volume_create(who, &volume, record.spec.root_bytes, &origin)?;
            record.root_made = true;
            record.copied = Some(copied);
            record.put(store, who, None)?;
        }
        self.boot(who, record, host)?;
        record.complete = true;
        let mut entry = Entry::new("instance.created", record.name());
        if let Some(copied) = &record.copied {
            entry = entry
                .bytes("shared", copied.shared_bytes)
                .bytes("rewritten", copied.rewritten_bytes);
        }
        record.put(store, who, Some(entry))?;
        store.journal_append(who, started(record))?;
        Ok(())
    }

    /// Seed, socket, domain, start.
    pub(super) fn boot(&self, who: &Who, record: &mut Record, host: &HostFacts) -> Result<()> {
        let directory = self.directory(record.name());
        make_directory(&directory)?;
        let seed = directory.join("seed.iso");
        if !exists(&seed)? {
            let instance_id = record.uuid.to_string();
            let authority = Authority::of(&self.inner.store, now_ms())?.public_key()?;
            let script = ssh::guest_script(&authority, record.uuid);
            Seed {
                instance_id: &instance_id,
                hostname: &record.spec.name,
                user_data: record.spec.user_data.as_deref(),
                vendor_data: Some(&script),
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
                gives_files_away: host.qemu_user.is_some(),
                seed: &seed,
                console_log: &console_log,
            },
        )?;
        record.machine = self
            .inner
            .hypervisor
            .define(&xml)?
            .or(record.machine.take());
        record.accelerator = Some(verdict.accelerator);
        self.inner.hypervisor.start(record.uuid)
    }

    /// Removes all that belongs to an instance but its record; every step may have been done already.
    pub(super) fn unmake(&self, record: &Record, disks: bool) -> Result<Vec<String>> {
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

    fn check_reach(
        &self,
        record: &Record,
        host: &HostFacts,
        seed: &Path,
        socket: &Path,
    ) -> Result<()> {
        let Some((user, group)) = host.qemu_user else {
            return Ok(());
        };
        let account = Account::of(user, group);
        account.check_passage(seed)?;
        if !socket.as_os_str().is_empty() {
            account.check_use(socket)?;
        }
        if let Some(file) = &record.spec.boot_file {
            account.check_use(file)?;
        }
        [&record.spec.kernel, &record.spec.initrd]
            .into_iter()
            .flatten()
            .try_for_each(|path| account.check_passage(path))
    }
}

pub(super) fn started(record: &Record) -> Entry {
    let entry = Entry::new("instance.started", record.name());
    match record.accelerator {
        Some(accelerator) => entry.detail(format!("by {accelerator}")),
        None => entry,
    }
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists()
        .map_err(|error| Error::io("look at", path, error))
}
