//! The catalog's rows on their way to a member that needs all of them.
//!
//! The leader's side reads one RocksDB snapshot on a thread of its own and hands pieces through a short
//! queue; the member's side gathers them in a file, checks it whole, and puts it in the place of its rows
//! in one step ([`crate::catalog::rows`]). Who stops asking ends the thread.

use super::codec::from_json;
use super::state::{Applied, own_rows, read_applied, read_members};
use super::types::{Snapshot, SnapshotMeta, StoredMembership};
use crate::catalog::rows::{self, Head, Reader, Replacing};
use crate::{Error, Kind, Result, Subject};
use bytes::Bytes;
use rocksdb::DB;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Bytes of a piece.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// Pieces read ahead.
const PIECES_AHEAD: usize = 2;

/// A snapshot's bytes, going or come.
pub(super) struct Transfer {
    kind: Kinds,
}

enum Kinds {
    None,
    Going(mpsc::Receiver<std::io::Result<Bytes>>),
    Come(PathBuf),
}

impl Transfer {
    pub(super) fn none() -> Self {
        Self { kind: Kinds::None }
    }

    /// A file that holds all pieces.
    pub(super) fn come(path: PathBuf) -> Self {
        Self {
            kind: Kinds::Come(path),
        }
    }

    /// The next piece of one that goes; `None` at its end.
    pub(super) async fn piece(&mut self) -> Option<std::io::Result<Bytes>> {
        match &mut self.kind {
            Kinds::Going(pieces) => pieces.recv().await,
            Kinds::None | Kinds::Come(_) => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct GroupHead {
    applied: Applied,
    members: StoredMembership,
}

pub(super) fn meta(applied: &Applied, members: StoredMembership) -> SnapshotMeta {
    let index = applied.at.map_or(0, |at| at.index);
    SnapshotMeta {
        last_log_id: applied.at,
        last_membership: members,
        snapshot_id: format!("{}-{index}", applied.version),
    }
}

/// Begins to read the rows as they are now.
pub(super) async fn begin(database: &Arc<DB>) -> Result<Snapshot> {
    let (first, begun) = oneshot::channel();
    let (pieces, going) = mpsc::channel(PIECES_AHEAD);
    let database = database.clone();
    std::thread::Builder::new()
        .name("catalog-rows".into())
        .spawn(move || read(&database, first, &pieces))
        .map_err(|cause| {
            let text = "cannot start the thread that reads the catalog for another node";
            Error::new(Kind::Internal, Subject::Store, text).because(cause)
        })?;
    let meta = begun.await.map_err(|cause| {
        let text = "the thread that reads the catalog for another node ended";
        Error::new(Kind::Internal, Subject::Store, text).because(cause)
    })??;
    Ok(Snapshot {
        meta,
        snapshot: Box::new(Transfer {
            kind: Kinds::Going(going),
        }),
    })
}

fn read(
    database: &DB,
    first: oneshot::Sender<Result<SnapshotMeta>>,
    pieces: &mpsc::Sender<std::io::Result<Bytes>>,
) {
    let rows = database.snapshot();
    let begin = || -> Result<(Head, SnapshotMeta)> {
        let (applied, members) = (read_applied(&rows)?, read_members(&rows)?);
        let meta = meta(&applied, members.clone());
        let group = serde_json::to_value(GroupHead { applied, members }).map_err(|cause| {
            let text = "the head of a snapshot cannot be written as JSON";
            Error::new(Kind::Internal, Subject::Store, text).because(cause)
        })?;
        let head = Head {
            time_ms: crate::clock::now_ms(),
            group,
            ..Head::default()
        };
        Ok((head, meta))
    };
    let head = match begin() {
        Ok((head, meta)) => {
            if first.send(Ok(meta)).is_err() {
                return;
            }
            head
        }
        Err(failure) => {
            let _ = first.send(Err(failure));
            return;
        }
    };
    let out = Pieces {
        pieces,
        filling: Vec::new(),
    };
    if let Err(failure) = rows::write(&rows, &head, out) {
        // Nobody hears it when nobody asks any more.
        let _ = pieces.blocking_send(Err(failure));
    }
}

/// Cuts what is written into pieces.
struct Pieces<'a> {
    pieces: &'a mpsc::Sender<std::io::Result<Bytes>>,
    filling: Vec<u8>,
}

impl Pieces<'_> {
    fn send(&mut self) -> std::io::Result<()> {
        let piece = std::mem::take(&mut self.filling);
        self.pieces
            .blocking_send(Ok(piece.into()))
            .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.filling.len());
        self.filling.extend_from_slice(&bytes[..taken]);
        if self.filling.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        self.send()
    }
}

/// Puts the rows of a transfer in the place of the database's.
pub(super) fn install(
    database: &DB,
    scratch: &Path,
    transfer: Transfer,
) -> Result<(Applied, StoredMembership)> {
    let path = match transfer.kind {
        Kinds::Come(path) => path,
        Kinds::Going(pieces) => gather(pieces, &scratch.join("gathered.rows"))?,
        Kinds::None => {
            let text = "a snapshot of the catalog came without its rows";
            return Err(Error::new(Kind::Internal, Subject::Store, text));
        }
    };
    let outcome = install_file(database, scratch, &path, &mut |_| ());
    if let Err(cause) = std::fs::remove_file(&path) {
        tracing::warn!(file = %path.display(), %cause, "a received snapshot was not removed");
    }
    outcome
}

pub(super) fn install_file(
    database: &DB,
    scratch: &Path,
    path: &Path,
    at: &mut dyn FnMut(Replacing),
) -> Result<(Applied, StoredMembership)> {
    let file = File::open(path).map_err(|cause| Error::io("open", path, cause))?;
    let mut reader = Reader::open(BufReader::new(file))?;
    let head = reader.head().group.to_string();
    let head: GroupHead = from_json("the head of a snapshot", head.as_bytes())?;
    let own = own_rows(&head.applied, &head.members)?;
    rows::replace(
        database,
        &scratch.join("installing.sst"),
        &mut reader,
        &own,
        at,
    )?;
    Ok((head.applied, head.members))
}

fn gather(mut pieces: mpsc::Receiver<std::io::Result<Bytes>>, path: &Path) -> Result<PathBuf> {
    let mut write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        while let Some(piece) = pieces.blocking_recv() {
            file.write_all(&piece?)?;
        }
        Ok(())
    };
    write().map_err(|cause| Error::io("write", path, cause))?;
    Ok(path.into())
}

/// Reads a file of rows to its end: Corrupt if it is not whole.
pub(super) fn check(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|cause| Error::io("open", path, cause))?;
    let mut reader = Reader::open(BufReader::new(file))?;
    let head = reader.head().group.to_string();
    let _: GroupHead = from_json("the head of a snapshot", head.as_bytes())?;
    while reader.row()?.is_some() {}
    Ok(())
}
