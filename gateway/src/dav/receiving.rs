//! A body on its way in: PUT, and what a third-party copy fetches.
//!
//! 1. At most two buffers of a mebibyte are held: one is filled while the other is hashed and written
//!    on a thread that may block.
//! 2. Nothing is committed before the body is whole, of the announced length, and what its checksums
//!    claim. Whoever drops it before forgets the bytes.
//! 3. The request's preconditions are judged again in the committing transaction.

use super::digest::{self, Algorithm, Hashing, Values};
use crate::blocking;
use blockstore::object::{Object, ObjectMeta, Precondition};
use blockstore::{Error, Kind, ObjectWriter, Result, Store, Subject, Who};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// Bytes handed to the store at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes of an object ("Amazon S3 multipart upload limits"): what S3 shows must fit there.
pub(super) const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Bodies on their way in at the same time.
pub(super) const INCOMING_MAX: usize = 64;
/// How long a body waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(20);

/// What a body becomes.
pub(super) struct Purpose {
    pub(super) who: Who,
    pub(super) bucket: String,
    pub(super) key: String,
    /// System headers of the object.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) condition: Precondition,
    /// What the bytes are said to hash to.
    pub(super) claims: Values,
    /// How many bytes there will be, where that is known.
    pub(super) announced: Option<u64>,
}

/// A body on its way in.
pub(super) struct Receiving {
    purpose: Purpose,
    /// `None` while a thread has it, or after an error.
    writing: Option<Writing>,
    under_way: Option<JoinHandle<Result<Writing>>>,
    buffer: BytesMut,
    arrived: u64,
    _turn: OwnedSemaphorePermit,
}

struct Writing {
    writer: ObjectWriter,
    hashing: Hashing,
}

impl Receiving {
    /// Begins. NotFound without the bucket, NoSpace beyond a quota, Unavailable while too many bodies
    /// are under way.
    pub(super) async fn begin(
        store: Store,
        turns: &Arc<Semaphore>,
        purpose: Purpose,
    ) -> Result<Self> {
        if let Some(announced) = purpose.announced.filter(|bytes| *bytes > OBJECT_BYTES_MAX) {
            return Err(too_large(announced));
        }
        let turn = tokio::time::timeout(TURN_PATIENCE, Arc::clone(turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            let text = format!(
                "too many bodies are under way; this one waited {} s: try again later",
                TURN_PATIENCE.as_secs()
            );
            return Err(Error::new(Kind::Unavailable, Subject::Store, text));
        };
        let (bucket, key) = (purpose.bucket.clone(), purpose.key.clone());
        let announced = purpose.announced;
        let writer = blocking::run(move || {
            store.quota_admit_object(&bucket, &key, announced.unwrap_or(0))?;
            store.object_writer_for(&bucket, &key)
        })
        .await?;
        let hashing = Hashing::new(purpose.claims.contains_key(&Algorithm::Sha256));
        Ok(Self {
            purpose,
            writing: Some(Writing { writer, hashing }),
            under_way: None,
            buffer: BytesMut::new(),
            arrived: 0,
            _turn: turn,
        })
    }

    /// Takes in the next bytes.
    pub(super) async fn take_in(&mut self, mut bytes: Bytes) -> Result<()> {
        self.arrived = self.arrived.saturating_add(bytes.len() as u64);
        if self.arrived > OBJECT_BYTES_MAX {
            return Err(too_large(self.arrived));
        }
        if let Some(announced) = self.purpose.announced.filter(|all| self.arrived > *all) {
            return Err(incomplete(self.arrived, announced));
        }
        while !bytes.is_empty() {
            let take = bytes.len().min(BUFFER_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(&bytes.split_to(take));
            if self.buffer.len() == BUFFER_BYTES {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    /// Commits, and tells what the bytes hashed to.
    pub(super) async fn commit(mut self) -> Result<(Object, Values)> {
        if let Some(announced) = self.purpose.announced.filter(|all| self.arrived != *all) {
            return Err(incomplete(self.arrived, announced));
        }
        if !self.buffer.is_empty() {
            self.hand_over().await?;
        }
        self.settle().await?;
        let writing = self.writing.take().ok_or_else(broken)?;
        let Purpose {
            who,
            key,
            headers,
            condition,
            claims,
            ..
        } = self.purpose;
        blocking::run(move || {
            let (values, etag) = writing.hashing.finish();
            if let Err(words) = digest::verify(&claims, &values) {
                return Err(Error::new(Kind::Invalid, Subject::Object, words));
            }
            let meta = ObjectMeta {
                properties: BTreeMap::from([digest::kept(&etag, &values)]),
                etag,
                headers,
                ..ObjectMeta::default()
            };
            let object = writing.writer.commit(&who, &key, meta, &condition)?;
            Ok((object, values))
        })
        .await
    }

    /// Gives the full buffer to a thread, after the one before it.
    async fn hand_over(&mut self) -> Result<()> {
        self.settle().await?;
        let mut writing = self.writing.take().ok_or_else(broken)?;
        let bytes = self.buffer.split().freeze();
        self.under_way = Some(tokio::task::spawn_blocking(move || {
            writing.hashing.update(&bytes);
            writing.writer.write(&bytes)?;
            Ok(writing)
        }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(under_way) = self.under_way.take() {
            let done = under_way.await.map_err(|cause| {
                Error::new(Kind::Internal, Subject::Store, "a write did not come back")
                    .because(cause)
            })?;
            self.writing = Some(done?);
        }
        Ok(())
    }
}

fn incomplete(arrived: u64, announced: u64) -> Error {
    let text = format!(
        "{announced} bytes were announced and {arrived} arrived; nothing was stored: send it again"
    );
    Error::new(Kind::Invalid, Subject::Object, text)
}

fn too_large(bytes: u64) -> Error {
    let text = format!("{bytes} bytes are more than an object holds, {OBJECT_BYTES_MAX}");
    Error::new(Kind::Invalid, Subject::Object, text)
}

fn broken() -> Error {
    let text = "the body broke off before; nothing was stored: send it again";
    Error::new(Kind::Unavailable, Subject::Object, text)
}
