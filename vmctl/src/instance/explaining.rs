//! Why an instance is where it is: its disks' bytes, and the hosts that were to choose from.
//!
//! One node is one host, and every byte of the store lies on it, so there is nothing to weigh yet:
//! what is told is what holds, not a choice that nobody made.

use super::Machines;
use crate::domain::{Accelerator, DiskSource};
use crate::record::Record;
use blockstore::object::ReadAt;
use blockstore::{Kind, Result, Store};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;

/// Runs asked for at once while bytes are counted.
const RUNS_PER_CALL: usize = 65536;

/// Where an instance runs, and why there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Its name.
    pub instance: String,
    /// The host it is on.
    pub host: String,
    /// Its disks, the root disk first.
    pub disks: Vec<DiskBytes>,
    /// The hosts that could have taken it, the chosen one first.
    pub candidates: Vec<Candidate>,
    /// The reason in one sentence.
    pub reason: String,
}

/// Where the bytes of one disk are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskBytes {
    /// The export or the file.
    pub source: String,
    /// Length the guest sees.
    pub length_bytes: u64,
    /// Bytes stored for it on the instance's host.
    pub here_bytes: u64,
    /// Bytes that would have to be fetched from elsewhere.
    pub elsewhere_bytes: u64,
    /// Bytes that were copied to make it.
    pub copied_bytes: u64,
    /// Set where it is gone, or does not read, since the instance was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A host that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// The host.
    pub host: String,
    /// Whether it is the one.
    pub chosen: bool,
    /// Stored bytes of the instance's disks that lie there.
    pub here_bytes: u64,
    /// Processors, and how many the instance wants.
    pub cpus: (u32, u32),
    /// Free memory now, bytes, and how many the instance wants.
    pub memory_bytes: (u64, u64),
    /// How guests are executed there, where the instance was started.
    pub accelerator: Option<Accelerator>,
}

impl Machines {
    /// Why the instance is where it is.
    pub fn explain(&self, name: &str) -> Result<Explanation> {
        let record = Record::get(&self.inner.store, name)?;
        let facts = self.inner.hypervisor.facts()?;
        let disks = footprint(&self.inner.store, &record)?;
        let here_bytes = disks.iter().map(|disk| disk.here_bytes).sum();
        let candidate = Candidate {
            host: facts.name.clone(),
            chosen: true,
            here_bytes,
            cpus: (facts.cpus, record.spec.vcpus),
            memory_bytes: (facts.memory_free_bytes, record.spec.memory_mib << 20),
            accelerator: record.accelerator,
        };
        let reason = format!(
            "{} is the only host of this provider, and every stored byte of the disks is on it: \
             nothing had to be moved or copied to start there",
            facts.name
        );
        Ok(Explanation {
            instance: name.into(),
            host: facts.name,
            disks,
            candidates: vec![candidate],
            reason,
        })
    }
}

fn footprint(store: &Store, record: &Record) -> Result<Vec<DiskBytes>> {
    let disks = record.disks.iter().enumerate();
    disks
        .map(|(index, disk)| {
            let copied = record.copied.as_ref().filter(|_| index == 0);
            let mut shown = DiskBytes {
                source: String::new(),
                length_bytes: 0,
                here_bytes: 0,
                elsewhere_bytes: 0,
                copied_bytes: copied.map_or(0, |copied| copied.rewritten_bytes),
                missing: None,
            };
            match &disk.source {
                DiskSource::File(path) => {
                    shown.source = path.display().to_string();
                    match std::fs::metadata(path) {
                        Ok(file) => {
                            shown.length_bytes = file.len();
                            shown.here_bytes = file.blocks() * 512;
                        }
                        Err(error) => shown.missing = Some(error.to_string()),
                    }
                }
                DiskSource::Export(export) => {
                    shown.source.clone_from(export);
                    match opened(store, export)
                        .and_then(|body| Ok((body.length_bytes(), stored_bytes(body.as_ref())?)))
                    {
                        Ok((length, stored)) => {
                            (shown.length_bytes, shown.here_bytes) = (length, stored);
                        }
                        Err(error) if error.kind() == Kind::NotFound => {
                            shown.missing = Some(error.to_string());
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok(shown)
        })
        .collect()
}

/// What stands behind the name of an export (see [`super::Sockets`]).
fn opened(store: &Store, export: &str) -> Result<std::sync::Arc<dyn ReadAt>> {
    if let Some(snapshot) = export.strip_prefix("snapshot:") {
        let sealed = store.snapshot(snapshot)?.sealed;
        return Ok(std::sync::Arc::new(store.sealed_open(sealed)?));
    }
    if let Some((bucket, key)) = export
        .strip_prefix("object:")
        .and_then(|path| path.split_once('/'))
    {
        return Ok(store.object_open(bucket, key)?.1);
    }
    Ok(std::sync::Arc::new(store.volume_open(export)?))
}

fn stored_bytes(body: &dyn ReadAt) -> Result<u64> {
    let length = body.length_bytes();
    let (mut at, mut stored) = (0, 0);
    while at < length {
        let runs = body.extents(at, length - at, RUNS_PER_CALL)?;
        let Some(last) = runs.last() else { break };
        at = last.offset + last.length;
        let data = runs.iter().filter(|run| run.data);
        stored += data.map(|run| run.length).sum::<u64>();
    }
    Ok(stored)
}
