//! One file on its way, whatever the sides are.
//!
//! 1. Pieces travel in parallel; memory is bounded over all files together ([`Flight`]).
//! 2. A piece that the target has, and that is what the journal or the source says it is, does not
//!    travel again.
//! 3. Nothing appears at the target before all of it was compared with what the source says of it,
//!    and with the manifest if there is one.

mod pieces;
mod proof;
mod whole;

use super::checksum::{self, Algorithm, Proof};
use super::journal::Done;
use super::pace::Pace;
use super::plan::Entry;
use super::remote::{Chunks, Finish, Pieces, Remote, Settled};
use super::retry::Retry;
use crate::exit::{Exit, Failure, Outcome};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use proof::{Ordered, Proven, sums};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Parts are at least this long, so that requests cost little beside their bytes.
pub(crate) const PIECE_BYTES_MIN: u64 = 8 << 20;
/// Parts are at most this long unless 10,000 of them would not hold the file.
pub(crate) const PIECE_BYTES_MAX: u64 = 64 << 20;
/// S3 takes no shorter part but the last (Amazon S3 User Guide, "Multipart upload limits").
const S3_PIECE_BYTES_MIN: u64 = 5 << 20;
/// Parts of one object at most (the same place).
const PIECES_MAX: u64 = 10_000;
/// Pieces in flight together hold at most this many MiB.
const FLIGHT_MIB: u32 = 256;

/// What all files of a run share.
pub(crate) struct Run {
    /// Where bytes come from.
    pub(crate) source: Arc<dyn Remote>,
    /// Where they go.
    pub(crate) target: Arc<dyn Remote>,
    /// What is told apart by, when two servers go by one URL.
    pub(crate) scope: String,
    /// Requests at once.
    pub(crate) flight: Flight,
    /// How fast.
    pub(crate) pace: Arc<Pace>,
    /// What is tried again.
    pub(crate) retry: Retry,
    /// Bytes of a piece, if told.
    pub(crate) piece_bytes: Option<u64>,
    /// What S3 is to keep.
    pub(crate) keep: Algorithm,
    /// Whether a SHA-256 of every file is needed.
    pub(crate) wants_sha256: bool,
    /// Whether to read back what the target cannot prove.
    pub(crate) reads_back: bool,
    /// Where journals lie.
    pub(crate) journals: PathBuf,
    /// Whether what was begun is continued, and what breaks off kept for that.
    pub(crate) resumes: bool,
    /// For people.
    pub(crate) progress: ProgressBar,
}

/// Requests and memory in flight.
pub(crate) struct Flight {
    jobs: Semaphore,
    mebibytes: Semaphore,
}

impl Flight {
    /// So many requests at once.
    pub(crate) fn new(jobs: usize) -> Self {
        Self {
            jobs: Semaphore::new(jobs),
            mebibytes: Semaphore::new(FLIGHT_MIB as usize),
        }
    }

    /// A turn for a piece. Turns come in the order they were asked for.
    async fn turn(&self, bytes: u64) -> Outcome<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        let mebibytes = u32::try_from(bytes.div_ceil(1 << 20))
            .unwrap_or(FLIGHT_MIB)
            .clamp(1, FLIGHT_MIB);
        let closed = |_| Failure::new(Exit::Internal, "stage", "the run is over");
        let job = self.jobs.acquire().await.map_err(closed)?;
        let memory = self
            .mebibytes
            .acquire_many(mebibytes)
            .await
            .map_err(closed)?;
        Ok((job, memory))
    }
}

/// What a file to be copied is.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The path at the target.
    pub(crate) path: String,
    /// What the source has.
    pub(crate) source: Entry,
    /// Whether what somebody made meanwhile must stay.
    pub(crate) only_new: bool,
    /// The SHA-256 it must have, hex.
    pub(crate) expected: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copied {
    /// All its bytes.
    pub(crate) length_bytes: u64,
    /// Those of them that were there already.
    pub(crate) resumed_bytes: u64,
    /// What proved that both sides hold the same.
    pub(crate) verified: String,
    /// The checksum that did.
    pub(crate) checksum: Option<String>,
    /// SHA-256 in hex, if it was needed.
    pub(crate) sha256: Option<String>,
    /// What the target calls it.
    pub(crate) etag: Option<String>,
}

/// Copies one file.
pub(crate) async fn copy(run: &Run, job: &Job) -> Outcome<Copied> {
    // A listing tells less than a look does.
    let entry = run.retry.run(|| run.source.stat(&job.source.path)).await?;
    let entry = entry.ok_or_else(|| gone(run, job))?;
    let Some(pieces) = run.target.pieces() else {
        return Transfer::new(run, job, entry).await.whole().await;
    };
    if entry.ranges {
        // Each piece is tried again by itself.
        return Transfer::new(run, job, entry).await.in_pieces(pieces).await;
    }
    let attempt = || async {
        Transfer::new(run, job, entry.clone())
            .await
            .in_pieces(pieces)
            .await
    };
    run.retry.run(attempt).await
}

fn gone(run: &Run, job: &Job) -> Failure {
    let message = format!("{} is gone", run.source.url(&job.source.path));
    Failure::new(Exit::NotFound, "source", message)
}

/// SHA-256 of a file at a side, in hex.
pub(crate) async fn sha256(run: &Run, side: &dyn Remote, entry: &Entry) -> Outcome<String> {
    let hash = || async {
        let mut running = Algorithm::Sha256.begin();
        let mut chunks = side.read(entry, None).await?;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            if !side.is_local() {
                run.pace.take(chunk.len() as u64).await;
            }
            running.update(&chunk);
        }
        Ok(checksum::hex(&running.bytes()))
    };
    run.retry.run(hash).await
}

/// Bytes of a piece of a file so long: as told, else enough to keep the pieces few.
pub(crate) fn piece_bytes(length_bytes: u64, asked: Option<u64>) -> u64 {
    let needed = length_bytes.div_ceil(PIECES_MAX).next_multiple_of(1 << 20);
    // About a hundred: few requests, and still something to do in parallel.
    let few = (length_bytes / 100)
        .next_multiple_of(1 << 20)
        .clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
    asked.unwrap_or(few).max(needed)
}

/// One file on its way.
struct Transfer<'a> {
    run: &'a Run,
    job: &'a Job,
    entry: Entry,
    proof: Proof,
    piece_bytes: u64,
    /// By which each piece is summed.
    by_piece: Vec<Algorithm>,
    /// By which the whole is, in order.
    ordered: Option<Ordered>,
    resumed_bytes: AtomicU64,
}

impl<'a> Transfer<'a> {
    async fn new(run: &'a Run, job: &'a Job, entry: Entry) -> Self {
        let mut proof = checksum::proof(&entry.sums);
        let length = entry.length_bytes.unwrap_or(u64::MAX / 2);
        let mut piece_bytes = match entry.length_bytes {
            Some(length) => self::piece_bytes(length, run.piece_bytes),
            None => PIECE_BYTES_MAX,
        };
        // A checksum of parts' checksums can be proved only by parts of the same length.
        if let Proof::Parts(_, _, count) = &proof {
            let least = if run.target.is_local() {
                1
            } else {
                S3_PIECE_BYTES_MIN
            };
            match run.source.part_bytes(&entry).await {
                Some(part)
                    if (least..=PIECE_BYTES_MAX).contains(&part)
                        && length.div_ceil(part) == *count =>
                {
                    piece_bytes = part;
                }
                _ => proof = Proof::Nothing,
            }
        }
        let mut by_piece = vec![Algorithm::Crc32, run.keep];
        let mut in_order = Vec::new();
        match &proof {
            Proof::Whole(algorithm, _) if !algorithm.combines() => in_order.push(*algorithm),
            Proof::Whole(algorithm, _) | Proof::Parts(algorithm, _, _) => by_piece.push(*algorithm),
            Proof::Nothing => {}
        }
        if run.wants_sha256 || job.expected.is_some() {
            in_order.push(Algorithm::Sha256);
        }
        by_piece.sort();
        by_piece.dedup();
        in_order.sort();
        in_order.dedup();
        Self {
            run,
            job,
            entry,
            proof,
            piece_bytes,
            by_piece,
            ordered: (!in_order.is_empty()).then(|| Ordered::new(&in_order)),
            resumed_bytes: AtomicU64::new(0),
        }
    }

    fn url(&self) -> String {
        self.run.source.url(&self.entry.path)
    }

    /// To a side that takes pieces.
    async fn in_pieces(&mut self, pieces: &dyn Pieces) -> Outcome<Copied> {
        match self.entry.length_bytes {
            Some(length) if length <= self.piece_bytes => self.small(pieces, length).await,
            length => self.many(pieces, length).await,
        }
    }

    async fn small(&mut self, pieces: &dyn Pieces, length: u64) -> Outcome<Copied> {
        let run = self.run;
        let _turn = run.flight.turn(length).await?;
        let bytes = if length == 0 {
            Bytes::new()
        } else {
            self.fetch(0..length, self.entry.ranges).await?
        };
        let done = self.summed(0, &bytes).await?;
        let done = BTreeMap::from([(0, done)]);
        let proven = self.prove(&done, length).await?;
        let sum = done[&0].sum(run.keep).unwrap_or_default();
        let finish = self.finish(length);
        let settled = run
            .retry
            .run(|| pieces.small(finish, &sum, bytes.clone()))
            .await?;
        Ok(self.copied(length, proven, settled))
    }

    fn finish(&self, length_bytes: u64) -> Finish<'a> {
        Finish {
            path: &self.job.path,
            length_bytes,
            keep: self.run.keep,
            only_new: self.job.only_new,
            modified_ms: self.entry.modified_ms,
        }
    }

    /// Reads a range of the source, held to the pace and shown.
    async fn fetch(&self, range: Range<u64>, ranged: bool) -> Outcome<Bytes> {
        let came = AtomicU64::new(0);
        let attempt = || async {
            // A try that broke off has been shown already.
            let shown = came.swap(0, Ordering::Relaxed);
            let progress = &self.run.progress;
            progress.set_position(progress.position().saturating_sub(shown));
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let mut whole = BytesMut::with_capacity(length);
            let mut chunks = self
                .run
                .source
                .read(&self.entry, ranged.then(|| range.clone()))
                .await?;
            while let Some(chunk) = chunks.try_next().await? {
                if whole.len() + chunk.len() > length {
                    return Err(self.broke("more bytes came than were asked for"));
                }
                if !self.run.source.is_local() {
                    self.run.pace.take(chunk.len() as u64).await;
                    came.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    self.run.progress.inc(chunk.len() as u64);
                }
                whole.extend_from_slice(&chunk);
            }
            if whole.len() == length {
                Ok(whole.freeze())
            } else {
                Err(self.broke("fewer bytes came than were asked for"))
            }
        };
        self.run.retry.run(attempt).await
    }

    /// The same for bytes that do not count as travelling.
    async fn fetch_quietly(&self, range: Range<u64>) -> Outcome<Bytes> {
        let attempt = || async {
            let mut whole = BytesMut::new();
            let mut chunks = self
                .run
                .source
                .read(&self.entry, Some(range.clone()))
                .await?;
            while let Some(chunk) = chunks.try_next().await? {
                whole.extend_from_slice(&chunk);
            }
            Ok(whole.freeze())
        };
        let bytes = self.run.retry.run(attempt).await?;
        if bytes.len() as u64 == range.end - range.start {
            Ok(bytes)
        } else {
            Err(self.broke("another count of bytes came than was asked for"))
        }
    }

    fn broke(&self, why: &str) -> Failure {
        let failure = Failure::new(
            Exit::Unavailable,
            "source",
            format!("{} broke off", self.url()),
        );
        failure.because(why)
    }

    /// A source's body at the run's pace.
    fn paced(&self, chunks: Chunks) -> Chunks {
        let (pace, progress) = (Arc::clone(&self.run.pace), self.run.progress.clone());
        let paced = chunks.then(move |chunk| {
            let (pace, progress) = (Arc::clone(&pace), progress.clone());
            async move {
                if let Ok(chunk) = &chunk {
                    pace.take(chunk.len() as u64).await;
                    progress.inc(chunk.len() as u64);
                }
                chunk
            }
        });
        paced.boxed()
    }

    async fn summed(&self, number: u64, bytes: &Bytes) -> Outcome<Done> {
        let done = sums(number, bytes, &self.by_piece);
        if let Some(ordered) = &self.ordered {
            ordered.add(number, bytes).await;
        }
        Ok(done)
    }

    fn copied(&self, length_bytes: u64, proven: Proven, settled: Settled) -> Copied {
        let (verified, checksum) = match (proven.by, settled.verified) {
            (Some(source), Some(target)) if source != target => {
                (format!("{source}, then {target}"), settled.checksum)
            }
            (_, Some(target)) => (target, settled.checksum),
            (Some(source), None) => (source, proven.checksum),
            (None, None) if self.job.expected.is_some() => ("manifest".into(), None),
            (None, None) if self.run.source.is_local() => ("crc32 read back".into(), None),
            (None, None) => ("length".into(), None),
        };
        Copied {
            length_bytes,
            resumed_bytes: self.resumed_bytes.load(Ordering::Relaxed),
            verified,
            checksum,
            sha256: proven.sha256,
            etag: settled.etag,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_few_bounded_and_never_more_than_s3_takes() {
        assert_eq!(piece_bytes(0, None), PIECE_BYTES_MIN);
        assert_eq!(piece_bytes(1 << 30, None), 11 << 20);
        assert_eq!(piece_bytes(100 << 30, None), PIECE_BYTES_MAX);
        for length in [1u64 << 20, 5 << 30, 640 << 30, 5 << 40] {
            for asked in [None, Some(PIECE_BYTES_MIN), Some(PIECE_BYTES_MAX)] {
                let piece = piece_bytes(length, asked);
                assert!(length.div_ceil(piece) <= PIECES_MAX, "{length} {asked:?}");
                assert!(piece >= PIECE_BYTES_MIN);
            }
        }
    }
}
