//! After a restart of the server: disks are served again, and guests that stalled for want of them go on.

use super::{Inner, Machines};
use crate::hypervisor::State;
use crate::record::Record;
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long stalled guests are woken after the server is back.
const WAKE_LIMIT: Duration = Duration::from_secs(60);
const WAKE_POLL: Duration = Duration::from_secs(1);

/// What [`Machines::resume`] did.
#[derive(Debug, Default)]
pub struct Resumed {
    /// Instances whose disks are served again.
    pub opened: Vec<String>,
    /// Instances whose disks could not be served, and why.
    pub failed: Vec<(String, Error)>,
}

impl Machines {
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
            let inner = Arc::downgrade(&self.inner);
            let spawned = std::thread::Builder::new()
                .name("wake".into())
                .spawn(move || Self::wake(&inner));
            spawned.map_err(|error| {
                Error::new(
                    Kind::Unavailable,
                    Subject::Record,
                    "no thread to wake instances",
                )
                .because(error)
            })?;
        }
        Ok(resumed)
    }

    /// QEMU tries to reconnect after 1, 2, 4, 8, then every 16 seconds, and fails what a guest asks in
    /// between: one that is woken too early stalls again, and one can still stall after the server is
    /// back. So all are looked at for a while.
    fn wake(inner: &Weak<Inner>) {
        let until = Instant::now() + WAKE_LIMIT;
        let mut woken = BTreeSet::new();
        while Instant::now() < until {
            // No longer than anyone else has the store open.
            let Some(inner) = inner.upgrade() else { return };
            if let Err(error) = (Self { inner }).wake_once(&mut woken) {
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
            if let Err(error) = self.inner.hypervisor.resume(record.uuid) {
                // It may have been stopped meanwhile; if not, its turn comes again.
                tracing::debug!(instance = record.name(), error = %error.chain(), "not woken");
            } else if woken.insert(record.uuid) {
                let entry = Entry::new("instance.resumed", record.name())
                    .detail("its disks are served again");
                self.inner.store.journal_append(&Who::server(), entry)?;
            }
        }
        Ok(())
    }
}
