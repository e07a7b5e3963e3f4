//! What the server needs from a block device, so that the protocol can be tested without a store.

use super::counters::Tally;
use blockstore::volume::Extent;
use blockstore::{Error, Kind, Result, Subject};
use std::sync::Arc;

/// One export, opened for one connection. All calls block and may run at the same time.
pub(crate) trait Export: Send + Sync {
    /// Visible bytes now; a resize can change it while clients are connected.
    fn length_bytes(&self) -> u64;

    /// Whether it never takes writes.
    fn read_only(&self) -> bool;

    /// Whether a write can go ahead now. Otherwise the first one may have to wait for the writer token.
    fn ready_to_write(&self) -> bool;

    /// Fills `buffer` from `offset`, all within the length.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Writes `bytes` at `offset`, all within the length.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Makes the range read as zeroes; touches metadata only.
    fn zero(&self, offset: u64, length: u64) -> Result<()>;

    /// Makes everything answered before, on any connection, durable.
    fn flush(&self) -> Result<()>;

    /// Allocation from `offset` on, in order and adjoining: at most `max` runs, so that they may cover
    /// less than `length`, but never nothing.
    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>>;
}

/// Who knows the exports by name.
pub(crate) trait Exporter: Send + Sync {
    /// What LIST shows.
    fn list(&self) -> Result<Vec<Listed>>;

    /// Opens `name` for a connection of `holder`, the name under which it would write.
    fn open(&self, name: &str, holder: &str) -> Result<Opened>;
}

/// An export in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The name clients ask for.
    pub(crate) name: String,
    /// What it is, for people.
    pub(crate) description: String,
}

/// An export, opened.
pub(crate) struct Opened {
    /// Its canonical name and what it is.
    pub(crate) listed: Listed,
    /// Its bytes.
    pub(crate) export: Box<dyn Export>,
}

/// An export that takes no writes here, whatever it would take elsewhere.
pub(super) struct ReadOnly(pub(super) Box<dyn Export>);

impl Export for ReadOnly {
    fn length_bytes(&self) -> u64 {
        self.0.length_bytes()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn ready_to_write(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Err(refused())
    }

    fn zero(&self, _offset: u64, _length: u64) -> Result<()> {
        Err(refused())
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        self.0.extents(offset, length, max)
    }
}

fn refused() -> Error {
    Error::new(
        Kind::Denied,
        Subject::Range,
        "the ticket is for reading only: make another with infall volume attach, without --read-only",
    )
}

/// An export as one session of the transmission phase uses it.
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) export: Box<dyn Export>,
    pub(super) tally: Arc<Tally>,
}
