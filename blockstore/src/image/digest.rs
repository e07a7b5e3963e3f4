//! Names an image by what a guest sees, so that a raw file and its qcow2 get one id.
//!
//! ```text
//! leaf digest = SHA-256(1 MiB of guest bytes; the last leaf ends with the disk, at a multiple of 4096)
//! root        = SHA-256(TAG, guest bytes as u64 little-endian, leaf digest 0, leaf digest 1, …)
//! id          = "img-" and the root in hex
//! ```
//!
//! 1. The disk's length counts rounded up to 4096, the bytes added are zeroes.
//! 2. Where runs say that a leaf is nothing but zeroes it is not read; a leaf of zeroes that are
//!    stored gets the same digest.
//! 3. Two threads read and hash; each holds two leaves and two clusters, and they are at most two
//!    chunks ahead of the root.

use crate::image::run::{ImageFile, Run, RunKind, RunReader, Slice};
use crate::{BLOCK, Error, Kind, LEAF, Result, Subject};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Tells this root from any other use of SHA-256, and carries the version.
const TAG: &[u8] = b"infall image digest 1\n";
/// What an id begins with.
pub const ID_PREFIX: &str = "img-";
const LEAF_BYTES: u64 = LEAF as u64;
const BLOCK_BYTES: u64 = BLOCK as u64;
/// Hashed by one thread at a time: two leaves, since the largest cluster of a qcow2 has 2 MiB and is
/// then unpacked once.
const CHUNK_BYTES: u64 = 2 * LEAF_BYTES;
const THREADS: usize = 2;
const CHUNKS_AHEAD: usize = 2 * THREADS;

type LeafDigest = [u8; 32];

/// The id of the image that shows `runs`, which adjoin and together have `guest_bytes`.
pub fn image_id(
    image: ImageFile<'_>,
    guest_bytes: u64,
    runs: impl Iterator<Item = Result<Run>>,
) -> Result<String> {
    let mut root = Root::new(guest_bytes.next_multiple_of(BLOCK_BYTES));
    let file_bytes = image.file.length_bytes();
    std::thread::scope(|scope| -> Result<()> {
        let mut hashers = Vec::new();
        for _ in 0..THREADS {
            let (jobs, inbox) = sync_channel::<Job>(CHUNKS_AHEAD);
            let (outbox, results) = sync_channel(CHUNKS_AHEAD);
            let reader = image.reader()?;
            std::thread::Builder::new()
                .name("image-digest".into())
                .spawn_scoped(scope, move || hash_jobs(reader, &inbox, &outbox))
                .map_err(|source| {
                    internal("cannot start a thread to hash an image").because(source)
                })?;
            hashers.push(Hasher { jobs, results });
        }
        let mut order = Order {
            hashers,
            waiting: VecDeque::new(),
            jobs_waiting: 0,
            next: 0,
            consumed: 0,
            file_bytes,
        };
        for chunk in (Chunks {
            runs,
            guest_bytes,
            at: 0,
            open: None,
        }) {
            match chunk? {
                Chunk::Zeroes { leaves } => order.push_zeroes(leaves, &mut root),
                Chunk::Data(job) => order.push_job(job, &mut root)?,
            }
        }
        while order.take(&mut root)? {}
        Ok(())
    })?;
    Ok(root.id())
}

/// Where the leaf digests come together, in order.
struct Root {
    hasher: Sha256,
    bytes: u64,
    next_leaf: u64,
    zero_leaf: LeafDigest,
}

impl Root {
    fn new(bytes: u64) -> Self {
        let hasher = Sha256::new()
            .chain_update(TAG)
            .chain_update(bytes.to_le_bytes());
        Self {
            hasher,
            bytes,
            next_leaf: 0,
            zero_leaf: digest_of_zeroes(LEAF_BYTES),
        }
    }

    fn push(&mut self, leaf: &LeafDigest) {
        self.hasher.update(leaf);
        self.next_leaf += 1;
    }

    fn push_zeroes(&mut self, leaves: u64) {
        for _ in 0..leaves {
            let left = self.bytes - self.next_leaf * LEAF_BYTES;
            let leaf = if left >= LEAF_BYTES {
                self.zero_leaf
            } else {
                digest_of_zeroes(left)
            };
            self.push(&leaf);
        }
    }

    fn id(self) -> String {
        assert_eq!(
            self.next_leaf,
            self.bytes.div_ceil(LEAF_BYTES),
            "every leaf is in the root"
        );
        format!("{ID_PREFIX}{}", hex::encode(self.hasher.finalize()))
    }
}

fn digest_of_zeroes(length: u64) -> LeafDigest {
    let mut hasher = Sha256::new();
    for _ in 0..length / BLOCK_BYTES {
        hasher.update([0; BLOCK]);
    }
    hasher.finalize().into()
}

/// A chunk to read and hash: `length` bytes (a multiple of 4096) from `offset` on.
struct Job {
    offset: u64,
    length: usize,
    slices: Vec<Slice>,
}

struct Hashed {
    leaves: Vec<LeafDigest>,
    consumed: u64,
}

struct Hasher {
    jobs: SyncSender<Job>,
    results: Receiver<Result<Hashed>>,
}

fn hash_jobs(
    mut reader: RunReader<'_>,
    inbox: &Receiver<Job>,
    outbox: &SyncSender<Result<Hashed>>,
) {
    let mut buffer = Vec::new();
    while let Ok(job) = inbox.recv() {
        let result = hash(&mut reader, &job, &mut buffer);
        let failed = result.is_err();
        if outbox.send(result).is_err() || failed {
            return;
        }
    }
}

fn hash(reader: &mut RunReader<'_>, job: &Job, buffer: &mut Vec<u8>) -> Result<Hashed> {
    buffer.resize(job.length, 0);
    let mut consumed = 0;
    let mut filled = 0;
    for slice in &job.slices {
        let start = to_usize(slice.guest_offset() - job.offset);
        let end = start + to_usize(slice.length);
        consumed += reader.read(&slice.run, slice.skip, &mut buffer[start..end])?;
        filled = end;
    }
    // Only behind the end of a disk that does not end with a block.
    buffer[filled..].fill(0);
    let leaves = buffer
        .chunks(LEAF)
        .map(|leaf| Sha256::digest(leaf).into())
        .collect();
    Ok(Hashed { leaves, consumed })
}

/// Hands chunks to the threads in turn, and takes their digests in the same order.
struct Order {
    hashers: Vec<Hasher>,
    /// Bounded: at most `CHUNKS_AHEAD` jobs, and zeroes between them.
    waiting: VecDeque<Waiting>,
    jobs_waiting: usize,
    next: usize,
    consumed: u64,
    file_bytes: u64,
}

enum Waiting {
    Zeroes(u64),
    Job { hasher: usize },
}

impl Order {
    fn push_zeroes(&mut self, leaves: u64, root: &mut Root) {
        match self.waiting.back_mut() {
            None => root.push_zeroes(leaves),
            Some(Waiting::Zeroes(count)) => *count += leaves,
            Some(Waiting::Job { .. }) => self.waiting.push_back(Waiting::Zeroes(leaves)),
        }
    }

    fn push_job(&mut self, job: Job, root: &mut Root) -> Result<()> {
        while self.jobs_waiting >= CHUNKS_AHEAD {
            self.take(root)?;
        }
        let hasher = self.next;
        self.next = (hasher + 1) % self.hashers.len();
        // A thread that failed takes no more; its error comes with its results.
        if self.hashers[hasher].jobs.send(job).is_err() {
            while self.take(root)? {}
            return Err(internal("a thread that hashes an image ended early"));
        }
        self.waiting.push_back(Waiting::Job { hasher });
        self.jobs_waiting += 1;
        Ok(())
    }

    /// Moves the next waiting chunk into the root; false if there is none.
    fn take(&mut self, root: &mut Root) -> Result<bool> {
        match self.waiting.pop_front() {
            None => return Ok(false),
            Some(Waiting::Zeroes(leaves)) => root.push_zeroes(leaves),
            Some(Waiting::Job { hasher }) => {
                self.jobs_waiting -= 1;
                let result = self.hashers[hasher].results.recv();
                let hashed =
                    result.map_err(|_| internal("a thread that hashes an image ended early"))??;
                self.consumed += hashed.consumed;
                if self.consumed > self.file_bytes {
                    return Err(Error::new(
                        Kind::Invalid,
                        Subject::Image,
                        format!(
                            "its compressed clusters overlap: they are more than the {} bytes of the file together",
                            self.file_bytes
                        ),
                    ));
                }
                for leaf in &hashed.leaves {
                    root.push(leaf);
                }
            }
        }
        Ok(true)
    }
}

enum Chunk {
    Zeroes { leaves: u64 },
    Data(Job),
}

/// Cuts runs into chunks; stretches of zeroes stay whole.
struct Chunks<I> {
    runs: I,
    guest_bytes: u64,
    at: u64,
    /// A run of which a part from `at` on is still to come.
    open: Option<Run>,
}

impl<I: Iterator<Item = Result<Run>>> Chunks<I> {
    fn chunk(&mut self) -> Result<Option<Chunk>> {
        if self.at >= self.guest_bytes {
            return Ok(None);
        }
        let first = self.at;
        let run = self.run()?;
        if run.kind == RunKind::Zero {
            let end = if run.end() == self.guest_bytes {
                run.end()
            } else {
                run.end() / CHUNK_BYTES * CHUNK_BYTES
            };
            if end > first {
                self.at = end;
                return Ok(Some(Chunk::Zeroes {
                    leaves: (end - first).div_ceil(LEAF_BYTES),
                }));
            }
        }
        let end = (first + CHUNK_BYTES).min(self.guest_bytes);
        let mut slices = Vec::new();
        while self.at < end {
            let slice = self.run()?.slice(self.at, end);
            self.at += slice.length;
            slices.push(slice);
        }
        if slices.iter().all(|slice| slice.run.kind == RunKind::Zero) {
            return Ok(Some(Chunk::Zeroes {
                leaves: (end - first).div_ceil(LEAF_BYTES),
            }));
        }
        let length = to_usize((end - first).next_multiple_of(BLOCK_BYTES));
        Ok(Some(Chunk::Data(Job {
            offset: first,
            length,
            slices,
        })))
    }

    /// The run that shows the byte at `at`.
    fn run(&mut self) -> Result<Run> {
        if let Some(run) = self.open.filter(|run| run.end() > self.at) {
            return Ok(run);
        }
        let next = self.runs.next().transpose()?;
        let run = next.filter(|run| {
            run.guest_offset == self.at && run.length > 0 && run.end() <= self.guest_bytes
        });
        self.open = run;
        run.ok_or_else(|| {
            internal("the runs of an image do not adjoin")
                .because(format!("at {}: {next:?}", self.at))
        })
    }
}

impl<I: Iterator<Item = Result<Run>>> Iterator for Chunks<I> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        self.chunk().transpose()
    }
}

fn internal(what: &str) -> Error {
    Error::new(Kind::Internal, Subject::Image, what)
}

fn to_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{LEAF_BYTES, TAG, digest_of_zeroes, image_id};
    use crate::image::run::tests::Bytes;
    use crate::image::run::{ImageFile, Run, RunKind};
    use crate::{Kind, LEAF};
    use sha2::{Digest as _, Sha256};

    fn id(file: &Bytes, guest_bytes: u64, runs: Vec<Run>) -> crate::Result<String> {
        image_id(
            ImageFile {
                file,
                packing: None,
            },
            guest_bytes,
            runs.into_iter().map(Ok),
        )
    }

    fn stored(guest_offset: u64, length: u64) -> Run {
        Run {
            guest_offset,
            length,
            kind: RunKind::Stored {
                file_offset: guest_offset,
            },
        }
    }

    fn zero(guest_offset: u64, length: u64) -> Run {
        Run {
            guest_offset,
            length,
            kind: RunKind::Zero,
        }
    }

    fn expected(bytes: &[u8]) -> String {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        let mut root = Sha256::new()
            .chain_update(TAG)
            .chain_update((bytes.len() as u64).to_le_bytes());
        for leaf in bytes.chunks(LEAF) {
            root.update(Sha256::digest(leaf));
        }
        format!("img-{}", hex::encode(root.finalize()))
    }

    #[test]
    fn the_id_is_the_documented_one_for_any_length() {
        for length in [
            1,
            511,
            4096,
            4097,
            LEAF - 1,
            LEAF,
            2 * LEAF,
            2 * LEAF + 1,
            9 * LEAF + 12345,
        ] {
            let bytes: Vec<u8> = (0..length)
                .map(|at| u8::try_from(at * 7 / 3 % 256).unwrap())
                .collect();
            let want = expected(&bytes);
            let length = length as u64;
            assert_eq!(
                id(&Bytes(bytes), length, vec![stored(0, length)]).unwrap(),
                want,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn holes_and_stored_zeroes_give_the_same_id() {
        let length = 11 * LEAF + 5 * 4096 + 512;
        let mut bytes = vec![0; length];
        bytes[3 * LEAF + 4000..3 * LEAF + 9000].fill(7);
        bytes[10 * LEAF - 1] = 1;
        let want = expected(&bytes);
        let file = Bytes(bytes);
        let length = length as u64;
        let at = 3 * LEAF_BYTES + 4000;
        let last = 10 * LEAF_BYTES - 1;
        let runs = vec![
            zero(0, at),
            stored(at, 5000),
            zero(at + 5000, last - at - 5000),
            stored(last, 1),
            zero(last + 1, length - last - 1),
        ];
        assert_eq!(id(&file, length, runs).unwrap(), want);
        assert_eq!(id(&file, length, vec![stored(0, length)]).unwrap(), want);
        let crumbs = (0..length.div_ceil(3000))
            .map(|at| stored(at * 3000, 3000.min(length - at * 3000)))
            .collect();
        assert_eq!(id(&file, length, crumbs).unwrap(), want);
    }

    #[test]
    fn a_large_hole_is_not_read() {
        let bytes = 1 << 40;
        let before = std::time::Instant::now();
        id(&Bytes(Vec::new()), bytes, vec![zero(0, bytes)]).unwrap();
        assert!(before.elapsed().as_secs() < 10);
        assert_eq!(
            digest_of_zeroes(LEAF_BYTES),
            <[u8; 32]>::from(Sha256::digest(vec![0; LEAF]))
        );
    }

    #[test]
    fn a_read_that_fails_is_the_result() {
        let error = id(
            &Bytes(vec![1; 4096]),
            64 * LEAF_BYTES,
            vec![stored(0, 64 * LEAF_BYTES)],
        )
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        let error = id(&Bytes(vec![1; 4096]), 8192, vec![stored(0, 4096)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
    }
}
