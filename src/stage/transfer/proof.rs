//! What must hold before a file may appear: what its source says of it, and a manifest.

use super::Transfer;
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::{self, Algorithm, Proof, Running};
use crate::stage::journal::Done;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

impl Transfer<'_> {
    /// Everything that must hold before it may appear.
    pub(super) async fn prove(
        &self,
        pieces: &BTreeMap<u64, Done>,
        arrived: u64,
    ) -> Outcome<Proven> {
        if let Some(length) = self.entry.length_bytes.filter(|length| *length != arrived) {
            return Err(self.broke(&format!("{arrived} of {length} bytes came")));
        }
        self.unchanged().await?;
        let ordered = self.ordered.as_ref().map(Ordered::sums).unwrap_or_default();
        let sha256 = ordered
            .get(&Algorithm::Sha256)
            .map(|sum| checksum::hex(sum));
        if let Some(expected) = &self.job.expected
            && sha256.as_ref() != Some(expected)
        {
            let found = sha256.unwrap_or_default();
            let message = format!(
                "{} has the SHA-256 {found}, the manifest says {expected}",
                self.url()
            );
            return Err(
                Failure::new(Exit::Corrupt, "manifest", message).hint("Nothing of it was kept")
            );
        }
        let (by, expected, found) = match &self.proof {
            Proof::Nothing => {
                return Ok(Proven {
                    by: None,
                    checksum: None,
                    sha256,
                });
            }
            Proof::Whole(algorithm, expected) => {
                let sums: Vec<Vec<u8>> = pieces
                    .values()
                    .filter_map(|done| done.sum(*algorithm))
                    .collect();
                let lengths = pieces.values().map(|done| done.length);
                let found = match ordered.get(algorithm) {
                    Some(sum) => Some(sum.clone()),
                    None => algorithm.combined(sums.iter().map(Vec::as_slice).zip(lengths)),
                };
                let found = checksum::encode(&found.unwrap_or_default());
                (
                    algorithm.name().to_owned(),
                    checksum::encode(expected),
                    found,
                )
            }
            Proof::Parts(algorithm, expected, count) => {
                let sums: Vec<Vec<u8>> = pieces
                    .values()
                    .filter_map(|done| done.sum(*algorithm))
                    .collect();
                let found = checksum::composite(*algorithm, &sums);
                (
                    format!("{} of {count} parts", algorithm.name()),
                    expected.clone(),
                    found,
                )
            }
        };
        if found != expected {
            let message = format!(
                "{}: what arrived has {by} {found}, the source says {expected}",
                self.url()
            );
            return Err(Failure::new(Exit::Corrupt, "source", message)
                .hint("Nothing of it was kept; try again"));
        }
        Ok(Proven {
            by: Some(by),
            checksum: Some(found),
            sha256,
        })
    }

    /// A source written to meanwhile would arrive half old, half new.
    pub(super) async fn unchanged(&self) -> Outcome {
        if !self.run.source.is_local() {
            // Each read asked for the same content by its ETag.
            return Ok(());
        }
        let now = self.run.source.stat(&self.entry.path).await?;
        if now.is_some_and(|now| now.stamp() == self.entry.stamp()) {
            return Ok(());
        }
        let message = format!("{} changed while it was read", self.url());
        Err(Failure::new(Exit::Conflict, "source", message).hint("Try again when it is at rest"))
    }
}

/// What was proven before it appeared.
pub(super) struct Proven {
    pub(super) by: Option<String>,
    pub(super) checksum: Option<String>,
    pub(super) sha256: Option<String>,
}

pub(super) fn sums(piece: u64, bytes: &Bytes, algorithms: &[Algorithm]) -> Done {
    let sum = |algorithm: &Algorithm| {
        (
            algorithm.name().to_owned(),
            checksum::hex(&algorithm.of(bytes)),
        )
    };
    Done {
        piece,
        length: bytes.len() as u64,
        sums: algorithms.iter().map(sum).collect(),
        etag: None,
    }
}

/// Digests that cannot be put together from pieces: pieces wait for those before them.
pub(super) struct Ordered {
    turn: watch::Sender<u64>,
    running: Mutex<Vec<(Algorithm, Running)>>,
}

impl Ordered {
    pub(super) fn new(algorithms: &[Algorithm]) -> Self {
        Self {
            turn: watch::Sender::new(0),
            running: Mutex::new(
                algorithms
                    .iter()
                    .map(|algorithm| (*algorithm, algorithm.begin()))
                    .collect(),
            ),
        }
    }

    /// Waits for all pieces before. Turns for pieces are given in order, so they are on their way.
    pub(super) async fn add(&self, number: u64, bytes: &Bytes) {
        let mut turn = self.turn.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = turn.wait_for(|turn| *turn >= number).await;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .iter_mut()
            .for_each(|(_, running)| running.update(bytes));
        drop(running);
        self.turn.send_replace(number + 1);
    }

    pub(super) fn sums(&self) -> BTreeMap<Algorithm, Vec<u8>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .iter()
            .map(|(algorithm, running)| (*algorithm, running.clone().bytes()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_of_the_pieces_in_order_whenever_they_come() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let ordered = Ordered::new(&[Algorithm::Md5, Algorithm::Sha256]);
        let pieces: Vec<Bytes> = (0..20u8).map(|n| Bytes::from(vec![n; 100])).collect();
        runtime.block_on(async {
            let late_first = pieces.iter().enumerate().rev();
            futures::future::join_all(late_first.map(|(n, piece)| ordered.add(n as u64, piece)))
                .await;
        });
        let whole: Vec<u8> = pieces.concat();
        assert_eq!(ordered.sums()[&Algorithm::Md5], Algorithm::Md5.of(&whole));
        assert_eq!(
            ordered.sums()[&Algorithm::Sha256],
            Algorithm::Sha256.of(&whole)
        );
    }
}
