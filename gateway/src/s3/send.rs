//! Bytes on their way out of the store.
//!
//! 1. A reply holds at most [`READ_AHEAD`] buffers of a mebibyte that the client has not taken yet.
//! 2. The first buffer is read before the reply begins, so that damaged bytes are an error reply;
//!    later ones can only break the connection off, never fill in for what could not be read.

use super::error::failed;
use super::{Door, slot};
use crate::blocking;
use blockstore::object::ReadAt;
use bytes::Bytes;
use futures::StreamExt;
use s3s::S3Result;
use s3s::dto::StreamingBlob;
use std::ops::Range;
use std::sync::Arc;

/// Bytes read at a time.
const BUFFER_BYTES: u64 = 1 << 20;
/// A body up to here needs no turn: as many of them as there are connections are no burden.
const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// Buffers that are read before the client asks for them.
const READ_AHEAD: usize = 2;

/// The bytes of a body as a stream.
pub(super) async fn send(
    door: &Door,
    body: Arc<dyn ReadAt>,
    bytes: Range<u64>,
) -> S3Result<StreamingBlob> {
    if bytes.is_empty() {
        return Ok(StreamingBlob::from(s3s::Body::from(Bytes::new())));
    }
    if bytes.end - bytes.start <= WHOLE_BYTES_MAX {
        let whole = read(body, bytes).await.map_err(failed)?;
        return Ok(StreamingBlob::from(s3s::Body::from(whole)));
    }
    let permit = slot(&door.outgoing).await?;
    let mut pieces = cut(bytes);
    let head = match pieces.next() {
        Some(piece) => read(Arc::clone(&body), piece).await.map_err(failed)?,
        None => Bytes::new(),
    };
    let tail = futures::stream::iter(pieces)
        .map(move |piece| {
            let _held_until_the_end = &permit;
            read(Arc::clone(&body), piece)
        })
        .buffered(READ_AHEAD)
        .inspect(|result| {
            if let Err(error) = result {
                // The status line is long gone, so this is the only place to tell.
                tracing::error!("a reply was broken off: {}", error.chain());
            }
        });
    Ok(StreamingBlob::wrap(
        futures::stream::iter([Ok(head)]).chain(tail),
    ))
}

fn cut(bytes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    // At multiples of the buffer, so that reads fall on whole leaves of the map.
    let mut next = bytes.start;
    std::iter::from_fn(move || {
        (next < bytes.end).then(|| {
            let start = next;
            next = bytes.end.min((start / BUFFER_BYTES + 1) * BUFFER_BYTES);
            start..next
        })
    })
}

async fn read(body: Arc<dyn ReadAt>, piece: Range<u64>) -> blockstore::Result<Bytes> {
    blocking::run(move || {
        let length = usize::try_from(piece.end - piece.start).unwrap_or(0);
        let mut buffer = vec![0; length];
        body.read_at(piece.start, &mut buffer)?;
        Ok(Bytes::from(buffer))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_leaves_and_covers_itself() {
        const LEAF: u64 = BUFFER_BYTES;
        assert_eq!(cut(0..1).count(), 1);
        assert_eq!(
            cut(0..2 * LEAF).collect::<Vec<_>>(),
            [0..LEAF, LEAF..2 * LEAF]
        );
        assert_eq!(
            cut(LEAF - 1..2 * LEAF + 1).collect::<Vec<_>>(),
            [LEAF - 1..LEAF, LEAF..2 * LEAF, 2 * LEAF..2 * LEAF + 1]
        );
        assert_eq!(cut(5..5).count(), 0);
    }
}
