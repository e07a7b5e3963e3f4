//! Disks in memory, with the store's manners: one writer token, allocation in blocks of 4 KiB, and
//! gates that hold a request up for as long as a test likes.

use crate::nbd::server::export::{Export, Exporter, Listed, Opened};
use blockstore::volume::Extent;
use blockstore::{Error, Kind, Result, Subject};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

const BLOCK: u64 = 4096;

#[derive(Default)]
pub(super) struct Disk {
    state: Mutex<State>,
    pub(super) read_only: bool,
    pub(super) flushes: AtomicU64,
    /// While shut, flushes wait.
    gate: Mutex<bool>,
    opened: Condvar,
    /// The next read panics.
    pub(super) panics: AtomicBool,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    allocated: Vec<bool>,
    writer: Option<(String, usize)>,
}

impl Disk {
    pub(super) fn new(length_bytes: u64) -> Self {
        let disk = Self::default();
        disk.resize(length_bytes);
        disk
    }

    pub(super) fn read_only(length_bytes: u64) -> Self {
        Self {
            read_only: true,
            ..Self::new(length_bytes)
        }
    }

    pub(super) fn resize(&self, length_bytes: u64) {
        let mut state = self.state.lock().unwrap();
        state.bytes.resize(length_bytes as usize, 0);
        state
            .allocated
            .resize(length_bytes.div_ceil(BLOCK) as usize, false);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }

    pub(super) fn holder(&self) -> Option<String> {
        self.state
            .lock()
            .unwrap()
            .writer
            .as_ref()
            .map(|(holder, _)| holder.clone())
    }

    pub(super) fn shut_gate(&self, shut: bool) {
        *self.gate.lock().unwrap() = shut;
        self.opened.notify_all();
    }
}

/// Exports by name.
#[derive(Default)]
pub(super) struct Disks(pub(super) BTreeMap<&'static str, Arc<Disk>>);

impl Exporter for Disks {
    fn list(&self) -> Result<Vec<Listed>> {
        Ok(self
            .0
            .keys()
            .map(|name| Listed {
                name: (*name).into(),
                description: format!("disk {name}"),
            })
            .collect())
    }

    fn open(&self, name: &str, holder: &str) -> Result<Opened> {
        let disk = self.0.get(name).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                Subject::Volume,
                format!("no volume \"{name}\""),
            )
        })?;
        Ok(Opened {
            listed: Listed {
                name: name.into(),
                description: format!("disk {name}"),
            },
            export: Box::new(Attachment {
                disk: Arc::clone(disk),
                holder: holder.into(),
                writes: AtomicBool::new(false),
            }),
        })
    }
}

/// A disk for one connection.
struct Attachment {
    disk: Arc<Disk>,
    holder: String,
    writes: AtomicBool,
}

impl Attachment {
    fn take_token(&self) -> Result<()> {
        let mut state = self.disk.state.lock().unwrap();
        if self.writes.load(Ordering::SeqCst) {
            return Ok(());
        }
        match &mut state.writer {
            Some((holder, count)) if *holder == self.holder => *count += 1,
            Some((holder, _)) => {
                let what = format!("{holder} writes this volume");
                return Err(Error::new(Kind::Conflict, Subject::Volume, what));
            }
            None => state.writer = Some((self.holder.clone(), 1)),
        }
        self.writes.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.writes.load(Ordering::SeqCst)
            && let Ok(mut state) = self.disk.state.lock()
            && let Some((_, count)) = &mut state.writer
        {
            *count -= 1;
            if *count == 0 {
                state.writer = None;
            }
        }
    }
}

impl Export for Attachment {
    fn length_bytes(&self) -> u64 {
        self.disk.state.lock().unwrap().bytes.len() as u64
    }

    fn read_only(&self) -> bool {
        self.disk.read_only
    }

    fn ready_to_write(&self) -> bool {
        self.writes.load(Ordering::SeqCst)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        assert!(
            !self.disk.panics.load(Ordering::SeqCst),
            "a panic made by the test"
        );
        let state = self.disk.state.lock().unwrap();
        buffer.copy_from_slice(&state.bytes[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.take_token()?;
        let mut state = self.disk.state.lock().unwrap();
        let end = offset + bytes.len() as u64;
        state.bytes[offset as usize..end as usize].copy_from_slice(bytes);
        state.allocated[(offset / BLOCK) as usize..end.div_ceil(BLOCK) as usize].fill(true);
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<()> {
        self.take_token()?;
        let mut state = self.disk.state.lock().unwrap();
        let end = offset + length;
        state.bytes[offset as usize..end as usize].fill(0);
        let (first, last) = (offset.div_ceil(BLOCK) as usize, (end / BLOCK) as usize);
        if first < last {
            state.allocated[first..last].fill(false);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let gate = self.disk.gate.lock().unwrap();
        drop(self.disk.opened.wait_while(gate, |shut| *shut).unwrap());
        self.disk.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    // Runs end at every 32nd block as well, so that merging is the server's, too.
    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        let state = self.disk.state.lock().unwrap();
        let mut runs: Vec<Extent> = Vec::new();
        for block in offset / BLOCK..(offset + length).div_ceil(BLOCK) {
            let data = state.allocated[block as usize];
            let full = runs.len() == max;
            match runs.last_mut() {
                Some(run) if run.data == data && block % 32 != 0 => run.length += BLOCK,
                _ if full => break,
                _ => runs.push(Extent {
                    offset: block * BLOCK,
                    length: BLOCK,
                    data,
                }),
            }
        }
        Ok(runs)
    }
}
