//! Whether two files hold the same, by checksums, without a body travelling: each side's own
//! checksums, or those of a file of this machine read for it.

use super::checksum::{self, Algorithm, Proof};
use super::plan::{Entry, Verdict};
use super::remote::Remote;
use super::transfer::Run;
use crate::exit::Outcome;
use bytes::BytesMut;
use futures::TryStreamExt;

/// What checksums say; nothing where the sides have none in common.
pub(crate) async fn verdict(run: &Run, source: &Entry, target: &Entry) -> Outcome<Option<Verdict>> {
    let looked = run.retry.run(|| run.source.stat(&source.path)).await?;
    let source = looked.unwrap_or_else(|| source.clone());
    let looked = run.retry.run(|| run.target.stat(&target.path)).await?;
    let target = looked.unwrap_or_else(|| target.clone());
    if source.length_bytes != target.length_bytes {
        return Ok(Some(Verdict::Differs));
    }
    let judged = |one: &str, other: &str| {
        Some(if one == other {
            Verdict::Same
        } else {
            Verdict::Differs
        })
    };
    let (from, to) = (run.source.as_ref(), run.target.as_ref());
    if from.is_local() && to.is_local() {
        let one = digest(from, &source, Algorithm::Sha256).await?;
        return Ok(judged(&one, &digest(to, &target, Algorithm::Sha256).await?));
    }
    if from.is_local() || to.is_local() {
        let ((here, file), (there, entry)) = if from.is_local() {
            ((from, &source), (to, &target))
        } else {
            ((to, &target), (from, &source))
        };
        return Ok(match checksum::proof(&entry.sums) {
            Proof::Whole(algorithm, sum) => judged(
                &digest(here, file, algorithm).await?,
                &checksum::encode(&sum),
            ),
            Proof::Parts(algorithm, sum, _) => match there.part_bytes(entry).await {
                Some(part) if part > 0 => {
                    judged(&composite(here, file, algorithm, part).await?, &sum)
                }
                _ => None,
            },
            Proof::Nothing => None,
        });
    }
    // The same kind of checksum at both; of parts it only proves sameness, as parts may differ.
    let common = source.sums.iter().find_map(|(algorithm, one)| {
        let (_, other) = target.sums.iter().find(|(other, _)| other == algorithm)?;
        (one == other || !(one.contains('-') || other.contains('-'))).then_some((one, other))
    });
    Ok(common.and_then(|(one, other)| judged(one, other)))
}

/// A file's digest in base64.
async fn digest(side: &dyn Remote, entry: &Entry, algorithm: Algorithm) -> Outcome<String> {
    let mut running = algorithm.begin();
    let mut chunks = side.read(entry, None).await?;
    while let Some(chunk) = chunks.try_next().await? {
        running.update(&chunk);
    }
    Ok(checksum::encode(&running.bytes()))
}

/// The checksum of its parts' checksums.
async fn composite(
    side: &dyn Remote,
    entry: &Entry,
    algorithm: Algorithm,
    part_bytes: u64,
) -> Outcome<String> {
    let mut chunks = side.read(entry, None).await?;
    let (mut sums, mut running, mut count) = (Vec::new(), algorithm.begin(), 0);
    while let Some(chunk) = chunks.try_next().await? {
        let mut chunk = BytesMut::from(chunk.as_ref());
        while !chunk.is_empty() {
            let left = usize::try_from(part_bytes - count).unwrap_or(usize::MAX);
            let piece = chunk.split_to(left.min(chunk.len()));
            running.update(&piece);
            count += piece.len() as u64;
            if count == part_bytes {
                sums.push(std::mem::replace(&mut running, algorithm.begin()).bytes());
                count = 0;
            }
        }
    }
    if count > 0 || sums.is_empty() {
        sums.push(running.bytes());
    }
    Ok(checksum::composite(algorithm, &sums))
}
