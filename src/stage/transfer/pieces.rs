//! A file in pieces: begun or found again, brought in parallel, finished.

use super::proof::sums;
use super::{Copied, PIECE_BYTES_MAX, Transfer};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::{Algorithm, Proof};
use crate::stage::journal::{Done, Journal};
use crate::stage::remote::{Piece, Pieces, There};
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

impl Transfer<'_> {
    pub(super) async fn many(
        &mut self,
        pieces: &dyn Pieces,
        length: Option<u64>,
    ) -> Outcome<Copied> {
        let (run, path) = (self.run, self.job.path.as_str());
        let (source, target) = (self.url(), run.target.url(path));
        let mut journal =
            Journal::open(&run.journals, &format!("{} {source}", run.scope), &target)?;
        let (token, there) = self.begin(pieces, &mut journal).await?;
        let known = journal.done.clone();
        let journal = Mutex::new(journal);
        let this: &Self = self;
        let copied = async {
            let one = |(number, bytes): (u64, Option<Bytes>)| {
                let (known, there) = (known.get(&number), there.get(&number));
                let (token, journal) = (token.as_str(), &journal);
                async move {
                    let done = this
                        .piece(pieces, token, number, bytes, known, there, journal)
                        .await?;
                    Ok((number, done))
                }
            };
            let done: BTreeMap<u64, Done> = this
                .feed(length)
                .await?
                .map_ok(one)
                .try_buffer_unordered(if this.entry.ranges { 64 } else { 2 })
                .try_collect()
                .await?;
            let arrived = done.values().map(|done| done.length).sum();
            let proven = this.prove(&done, arrived).await?;
            let finish = this.finish(arrived);
            let settled = run
                .retry
                .run(|| pieces.finish(&token, finish, &done))
                .await?;
            Ok::<_, Failure>(this.copied(arrived, proven, settled))
        };
        let copied = copied.await;
        let journal = journal.into_inner().unwrap_or_else(PoisonError::into_inner);
        // What is wrong stays wrong, and what cannot be continued is of no use.
        let wrong = matches!(&copied, Err(failure) if failure.exit() == Exit::Corrupt);
        let ended = wrong || (copied.is_err() && !run.resumes);
        if ended {
            let _ = pieces.abandon(path, &token).await;
        }
        if ended || copied.is_ok() {
            journal.remove();
        }
        copied
    }

    /// Finds the unfinished one again, or begins.
    async fn begin(
        &mut self,
        pieces: &dyn Pieces,
        journal: &mut Journal,
    ) -> Outcome<(String, BTreeMap<u64, There>)> {
        let (run, path) = (self.run, self.job.path.as_str());
        let stamp = self.entry.stamp();
        if let Some(about) = journal.about.clone() {
            // Composite proofs fix the length of pieces; else what was begun does.
            let fits = match &self.proof {
                Proof::Parts(_, _, _) => about.piece_bytes == self.piece_bytes,
                _ => (1..=PIECE_BYTES_MAX.max(self.piece_bytes)).contains(&about.piece_bytes),
            };
            let same = run.resumes && about.stamp == stamp && about.keep == run.keep.name() && fits;
            if same {
                let resumed = run
                    .retry
                    .run(|| pieces.resume(path, &about.token, about.piece_bytes))
                    .await?;
                if let Some(there) = resumed {
                    self.piece_bytes = about.piece_bytes;
                    return Ok((about.token, there));
                }
            } else {
                let _ = pieces.abandon(path, &about.token).await;
            }
        }
        let token = run.retry.run(|| pieces.begin(path, run.keep)).await?;
        let (source, target) = (self.url(), run.target.url(path));
        journal.begin(
            &source,
            &target,
            &stamp,
            self.piece_bytes,
            &token,
            run.keep.name(),
        )?;
        Ok((token, BTreeMap::new()))
    }

    /// Pieces in order: their numbers alone where the source gives ranges, else with their bytes.
    async fn feed(
        &self,
        length: Option<u64>,
    ) -> Outcome<BoxStream<'_, Outcome<(u64, Option<Bytes>)>>> {
        let piece_bytes = self.piece_bytes;
        if let Some(length) = length.filter(|_| self.entry.ranges) {
            let numbers = 0..length.div_ceil(piece_bytes);
            return Ok(stream::iter(numbers.map(|number| Ok((number, None)))).boxed());
        }
        let chunks = self.paced(self.run.source.read(&self.entry, None).await?);
        let state = (chunks, BytesMut::new(), 0u64, false);
        let cut = stream::try_unfold(
            state,
            move |(mut chunks, mut held, number, over)| async move {
                if over {
                    return Ok(None);
                }
                let wanted = usize::try_from(piece_bytes).unwrap_or(usize::MAX);
                let mut over = false;
                while held.len() < wanted && !over {
                    match chunks.try_next().await? {
                        Some(chunk) => held.extend_from_slice(&chunk),
                        None => over = true,
                    }
                }
                if held.is_empty() && number > 0 {
                    return Ok(None);
                }
                let piece = held.split_to(held.len().min(wanted)).freeze();
                Ok(Some((
                    (number, Some(piece)),
                    (chunks, held, number + 1, over),
                )))
            },
        );
        Ok(cut.boxed())
    }

    /// One piece: as it is there, or brought.
    #[allow(
        clippy::too_many_arguments,
        reason = "what is known of a piece comes from four places"
    )]
    async fn piece(
        &self,
        pieces: &dyn Pieces,
        token: &str,
        number: u64,
        bytes: Option<Bytes>,
        known: Option<&Done>,
        there: Option<&There>,
        journal: &Mutex<Journal>,
    ) -> Outcome<Done> {
        let run = self.run;
        let offset = number * self.piece_bytes;
        let length = match &bytes {
            Some(bytes) => bytes.len() as u64,
            None => self.piece_bytes.min(
                self.entry
                    .length_bytes
                    .unwrap_or_default()
                    .saturating_sub(offset),
            ),
        };
        // The turn comes before the memory: pieces waiting for it hold none.
        let _turn = run.flight.turn(length).await?;
        if let Some(there) = there.filter(|there| there.length == length)
            && let Some(done) = self
                .continued(pieces, token, number, length, bytes.clone(), known, there)
                .await?
        {
            self.resumed_bytes.fetch_add(length, Ordering::Relaxed);
            run.progress.inc(length);
            return Ok(done);
        }
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => self.fetch(offset..offset + length, true).await?,
        };
        let mut done = self.summed(number, &bytes).await?;
        let sum = done.sum(run.keep).unwrap_or_default();
        let piece = Piece {
            path: &self.job.path,
            number,
            offset,
            sum: (run.keep, &sum),
        };
        done.etag = run
            .retry
            .run(|| pieces.piece(token, piece, bytes.clone()))
            .await?;
        journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(done.clone())?;
        if run.source.is_local() {
            if run.target.is_local() {
                run.pace.take(length).await;
            }
            run.progress.inc(length);
        }
        Ok(done)
    }

    /// A piece that is there already, if it is what belongs there.
    #[allow(
        clippy::too_many_arguments,
        reason = "what is known of a piece comes from four places"
    )]
    async fn continued(
        &self,
        pieces: &dyn Pieces,
        token: &str,
        number: u64,
        length: u64,
        bytes: Option<Bytes>,
        known: Option<&Done>,
        there: &There,
    ) -> Outcome<Option<Done>> {
        let range = number * self.piece_bytes..number * self.piece_bytes + length;
        // What lies there, or what belongs there, where that costs no way.
        let back = pieces
            .read_back(&self.job.path, token, range.clone())
            .await?;
        let (read, is_target) = match (back, bytes) {
            (Some(back), _) => (Some(back), true),
            (None, Some(bytes)) => (Some(bytes), false),
            (None, None) if self.run.source.is_local() => {
                (Some(self.fetch_quietly(range.clone()).await?), false)
            }
            (None, None) => (None, false),
        };
        let known = known.filter(|known| known.length == length);
        let mut done = match (&read, known) {
            (Some(read), _) => sums(number, read, &self.by_piece),
            (None, Some(known)) if self.by_piece.iter().all(|by| known.sum(*by).is_some()) => {
                known.clone()
            }
            (None, _) => return Ok(None),
        };
        let same = if is_target {
            // The file's own bytes, against what came when it was written.
            known.is_some_and(|known| known.sum(Algorithm::Crc32) == done.sum(Algorithm::Crc32))
        } else {
            match (&there.sum, known) {
                (Some((algorithm, sum)), _) => done.sum(*algorithm).as_ref() == Some(sum),
                (None, Some(known)) => {
                    known.etag.is_some()
                        && known.etag == there.etag
                        && known.sum(Algorithm::Crc32) == done.sum(Algorithm::Crc32)
                }
                (None, None) => false,
            }
        };
        if !same {
            return Ok(None);
        }
        done.etag = there.etag.clone();
        if let Some(ordered) = &self.ordered {
            let bytes = match read {
                Some(read) => read,
                // Only from one server to another: to hash it, it must be read.
                None => self.fetch_quietly(range).await?,
            };
            ordered.add(number, &bytes).await;
        }
        Ok(Some(done))
    }
}
