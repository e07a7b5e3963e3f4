//! A file as one body: sent, looked at, read back, and only then given its name.

use super::{Copied, Transfer};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::{self, Algorithm, Proof, Running};
use crate::stage::remote::Held;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

impl Transfer<'_> {
    /// To a side that takes one body.
    pub(super) async fn whole(&mut self) -> Outcome<Copied> {
        let run = self.run;
        let Some(length) = self.entry.length_bytes else {
            let message = format!("{} does not tell its length", self.url());
            return Err(Failure::new(Exit::Invalid, "source", message)
                .hint("Get it to a file, and put that"));
        };
        let _turn = run.flight.turn(1).await?;
        let held = run.retry.run(|| self.send_whole(length)).await?;
        let (held, sums) = held;
        let settled = self.check_whole(&held, &sums, length).await;
        let checked = match settled {
            Ok(checked) => run
                .retry
                .run(|| run.target.settle(&held, &self.job.path, self.job.only_new))
                .await
                .map(|()| checked),
            Err(failure) => Err(failure),
        };
        match checked {
            Ok((by, checksum)) => {
                let etag = run
                    .target
                    .stat(&self.job.path)
                    .await
                    .ok()
                    .flatten()
                    .and_then(|entry| entry.etag);
                Ok(Copied {
                    length_bytes: length,
                    resumed_bytes: 0,
                    verified: by,
                    checksum,
                    sha256: sums.get(&Algorithm::Sha256).map(|sum| checksum::hex(sum)),
                    etag,
                })
            }
            Err(failure) => {
                let _ = run.target.give_up(&held).await;
                Err(failure)
            }
        }
    }

    async fn send_whole(&self, length: u64) -> Outcome<(Held, BTreeMap<Algorithm, Vec<u8>>)> {
        let run = self.run;
        let mut algorithms = vec![Algorithm::Sha256];
        if let Proof::Whole(algorithm, _) = &self.proof {
            algorithms.push(*algorithm);
        }
        algorithms.sort();
        algorithms.dedup();
        let running: Vec<(Algorithm, Running)> = algorithms
            .iter()
            .map(|algorithm| (*algorithm, algorithm.begin()))
            .collect();
        let running = Arc::new(Mutex::new((running, 0u64)));
        let position = run.progress.position();
        let chunks = run.source.read(&self.entry, None).await?;
        let hashing = Arc::clone(&running);
        let body = self.paced(chunks).map_ok(move |chunk| {
            let mut state = hashing.lock().unwrap_or_else(PoisonError::into_inner);
            state
                .0
                .iter_mut()
                .for_each(|(_, running)| running.update(&chunk));
            state.1 += chunk.len() as u64;
            chunk
        });
        let held = run
            .target
            .put(&self.job.path, length, body.boxed(), self.job.only_new)
            .await;
        let held = held.inspect_err(|_| run.progress.set_position(position))?;
        let (running, sent) = {
            let mut state = running.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut state.0), state.1)
        };
        if sent != length {
            let _ = run.target.give_up(&held).await;
            return Err(self.broke(&format!("{sent} of {length} bytes came")));
        }
        Ok((
            held,
            running
                .into_iter()
                .map(|(algorithm, running)| (algorithm, running.bytes()))
                .collect(),
        ))
    }

    /// What arrived against the source, the manifest, and what the target holds now.
    async fn check_whole(
        &self,
        held: &Held,
        sums: &BTreeMap<Algorithm, Vec<u8>>,
        length: u64,
    ) -> Outcome<(String, Option<String>)> {
        let run = self.run;
        self.unchanged().await?;
        let sha256 = sums
            .get(&Algorithm::Sha256)
            .map(|sum| checksum::hex(sum))
            .unwrap_or_default();
        if let Some(expected) = self
            .job
            .expected
            .as_ref()
            .filter(|expected| **expected != sha256)
        {
            let message = format!(
                "{} has the SHA-256 {sha256}, the manifest says {expected}",
                self.url()
            );
            return Err(Failure::new(Exit::Corrupt, "manifest", message));
        }
        let mut by = String::new();
        if let Proof::Whole(algorithm, expected) = &self.proof {
            let found = sums.get(algorithm).cloned().unwrap_or_default();
            if found != *expected {
                let (found, expected) = (checksum::encode(&found), checksum::encode(expected));
                let message = format!(
                    "{}: what arrived has {} {found}, the source says {expected}",
                    self.url(),
                    algorithm.name()
                );
                return Err(Failure::new(Exit::Corrupt, "source", message));
            }
            by = format!("{}, then ", algorithm.name());
        }
        let target = run.target.url(&self.job.path);
        let there = run.retry.run(|| run.target.stat(&held.path)).await?;
        let there = there.ok_or_else(|| {
            let message = format!("{target} was taken and is not there");
            Failure::new(Exit::Corrupt, "target", message)
        })?;
        if there.length_bytes.is_some_and(|there| there != length) {
            let message = format!(
                "{target} is not what was sent: sent {length} bytes, shown {}",
                there.length_bytes.unwrap_or_default()
            );
            return Err(Failure::new(Exit::Corrupt, "target", message));
        }
        let shown = there
            .sums
            .iter()
            .find(|(algorithm, _)| sums.contains_key(algorithm));
        let (how, name, shown) = match shown {
            Some((algorithm, text)) => (algorithm.name(), *algorithm, text.clone()),
            None if run.reads_back => {
                let back = super::sha256(run, run.target.as_ref(), &there).await?;
                let back = checksum::unhex(&back).unwrap_or_default();
                (
                    "sha256 read back",
                    Algorithm::Sha256,
                    checksum::encode(&back),
                )
            }
            None => return Ok((format!("{by}length"), None)),
        };
        let sent = sums
            .get(&name)
            .map(|sum| checksum::encode(sum))
            .unwrap_or_default();
        if sent != shown {
            let message =
                format!("{target} is not what was sent: {how} sent {sent}, shown {shown}");
            return Err(
                Failure::new(Exit::Corrupt, "target", message).hint("What arrived was taken away")
            );
        }
        Ok((format!("{by}{how}"), Some(shown)))
    }
}
