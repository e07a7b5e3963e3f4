//! The store: a value log of blocks, an index of maps and locations, a catalog of names.
//!
//! Callers hold a [`Store`], a cheap handle that can be cloned and shared between threads. Every
//! call blocks its thread (file I/O, RocksDB, syncs) and none needs an async runtime.

mod catalog;
mod clock;
mod engine;
mod error;
mod id;
pub mod image;
mod index;
mod journal;
pub mod object;
mod peer;
mod records;
#[cfg(test)]
mod simulation;
mod store;
mod valuelog;
pub mod volume;

pub use catalog::Backup;
pub use engine::View;
pub use error::{Error, Kind, Result, Subject};
pub use id::{
    BLOCK, Birth, Epoch, LEAF, LEAF_BLOCKS, LogId, Lsn, MapId, NodeId, SealedMap, SegmentId,
};
pub use journal::{Entry, Event, Keep, Who};
pub use object::ObjectWriter;
pub use store::{CheckReport, Collected, Options, Stats, Store};
pub use volume::{Volume, Writer};
