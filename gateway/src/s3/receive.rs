//! Bytes on their way into the store.
//!
//! 1. A request holds at most two buffers of a mebibyte: one is filled from the wire while the
//!    other is hashed and written on a thread that may block.
//! 2. Nothing is committed here. The writer comes back only when the body was whole, of the
//!    announced length, and what its checksums claim; dropping it forgets the bytes.

use super::body::{incomplete, sha256_mismatch};
use super::checksum::{Algorithm, Digests, Sums};
use super::claims::Claims;
use super::error::failed;
use super::{Door, admission, slot};
use crate::blocking;
use blockstore::ObjectWriter;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::HeaderMap;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3Result, TrailingHeaders, s3_error};

/// Bytes of a single PUT or part at most ("Amazon S3 multipart upload limits").
const BODY_BYTES_MAX: u64 = 5 << 30;
/// Bytes handed to the store at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// How long a body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// As long as its headers say, neither more nor less.
    Announced,
    /// Nobody said; at most this.
    AtMost(u64),
}

/// A body and what its request says of it.
pub(super) struct Incoming<'a> {
    pub(super) body: Option<StreamingBlob>,
    pub(super) length: Length,
    pub(super) headers: &'a HeaderMap,
    pub(super) trailers: Option<TrailingHeaders>,
    pub(super) claims: &'a Claims,
    /// The key whose object it will replace; nothing for a part.
    pub(super) key: Option<&'a str>,
}

/// A body that arrived as it was announced.
pub(super) struct Received {
    pub(super) writer: ObjectWriter,
    pub(super) sums: Sums,
}

/// Takes the body in and computes `wanted`, beside what the claims need.
pub(super) async fn receive(
    door: &Door,
    bucket: &str,
    incoming: Incoming<'_>,
    wanted: &[Algorithm],
) -> S3Result<Received> {
    let (announced, exact) = match incoming.length {
        Length::Announced => (announced_bytes(incoming.headers)?, true),
        Length::AtMost(most) => (most.min(BODY_BYTES_MAX), false),
    };
    let mut algorithms = wanted.to_vec();
    algorithms.extend(
        incoming
            .claims
            .algorithm()
            .filter(|claimed| !wanted.contains(claimed)),
    );

    let _slot = slot(&door.incoming).await?;
    let (store, bucket) = (door.store.clone(), bucket.to_owned());
    let key = incoming.key.map(str::to_owned);
    // Before the first look at the body: a client that waits for "100 Continue" then never sends
    // a body that has nowhere to go.
    let writer = blocking::run(move || {
        let told = if exact { announced } else { 0 };
        let Some(key) = key else {
            store.quota_admit_bucket(&bucket, told)?;
            return store.object_writer(&bucket);
        };
        store.quota_admit_object(&bucket, &key, told)?;
        store.object_writer_for(&bucket, &key)
    })
    .await
    .map_err(failed)?;
    let mut writing = Writing {
        writer,
        digests: Digests::new(&algorithms),
    };
    let mut wire = Wire {
        body: incoming.body,
        rest: Bytes::new(),
        announced,
        exact,
        arrived: 0,
    };

    let mut buffer = wire.fill().await?;
    while let Some(bytes) = buffer {
        let (written, next) =
            futures::join!(blocking::run(move || writing.take_in(&bytes)), wire.fill());
        writing = written.map_err(failed)?;
        buffer = next?;
    }
    if exact && wire.arrived < announced {
        return Err(incomplete(&format!(
            "{announced} announced, {} arrived",
            wire.arrived
        )));
    }
    let trailers = incoming.trailers.and_then(|trailers| trailers.take());
    let sums = writing.digests.finish();
    incoming.claims.check(&sums, trailers.as_ref())?;
    Ok(Received {
        writer: writing.writer,
        sums,
    })
}

/// The store's side of a body.
struct Writing {
    writer: ObjectWriter,
    digests: Digests,
}

impl Writing {
    fn take_in(mut self, bytes: &[u8]) -> blockstore::Result<Self> {
        self.digests.update(bytes);
        self.writer.write(bytes)?;
        Ok(self)
    }
}

/// The client's side of a body.
struct Wire {
    /// `None` once its end was seen.
    body: Option<StreamingBlob>,
    /// Of the last piece, what did not fit into a buffer.
    rest: Bytes,
    announced: u64,
    /// Whether it was announced, or is only a bound.
    exact: bool,
    arrived: u64,
}

impl Wire {
    /// The next buffer, full but for the last; `None` at the end.
    async fn fill(&mut self) -> S3Result<Option<Bytes>> {
        let mut buffer = BytesMut::new();
        while buffer.len() < BUFFER_BYTES {
            if self.rest.is_empty() {
                let Some(body) = &mut self.body else { break };
                match body.next().await {
                    Some(piece) => self.rest = piece.map_err(|error| broken(&error.to_string()))?,
                    None => self.body = None,
                }
                self.arrived += self.rest.len() as u64;
                if self.arrived > self.announced && !self.exact {
                    return Err(s3_error!(
                        EntityTooLarge,
                        "Your proposed upload exceeds the maximum allowed size: more than {} bytes",
                        self.announced
                    ));
                }
                if self.arrived > self.announced {
                    return Err(incomplete(&format!(
                        "more than the {} announced",
                        self.announced
                    )));
                }
                continue;
            }
            if buffer.is_empty() {
                let left = if self.exact {
                    self.announced - self.arrived + self.rest.len() as u64
                } else {
                    self.rest.len() as u64
                };
                buffer.reserve(
                    usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(BUFFER_BYTES),
                );
            }
            let take = self.rest.len().min(BUFFER_BYTES - buffer.len());
            buffer.extend_from_slice(&self.rest.split_to(take));
        }
        Ok((!buffer.is_empty()).then(|| buffer.freeze()))
    }
}

fn announced_bytes(headers: &HeaderMap) -> S3Result<u64> {
    let name = match admission::framing(headers) {
        Some(_) => "x-amz-decoded-content-length",
        None => "content-length",
    };
    let value = headers.get(name).ok_or_else(|| {
        s3_error!(
            MissingContentLength,
            "You must provide the {name} HTTP header."
        )
    })?;
    let announced = value
        .to_str()
        .ok()
        .and_then(|value| value.parse::<u64>().ok());
    match announced {
        Some(announced) if announced <= BODY_BYTES_MAX => Ok(announced),
        Some(announced) => Err(s3_error!(
            EntityTooLarge,
            "Your proposed upload exceeds the maximum allowed size: {announced} bytes, at most \
             {BODY_BYTES_MAX} go in one piece. Use a multipart upload."
        )),
        None => Err(s3_error!(
            InvalidArgument,
            "{name} is not a number: {value:?}"
        )),
    }
}

/// What the protocol layer found wrong with a body. It tells by words only; what the watch in
/// front of it found is told by the front instead.
fn broken(words: &str) -> S3Error {
    if words.contains("too slow") {
        s3_error!(
            RequestTimeout,
            "Your socket connection to the server was not read from or written to within the \
             timeout period. Idle connections will be closed."
        )
    } else if words.contains("Sha256Mismatch") {
        sha256_mismatch()
    } else if words.contains("SignatureMismatch") {
        s3_error!(
            SignatureDoesNotMatch,
            "The signature of a chunk of the body does not match. Nothing was stored."
        )
    } else if words.contains("FormatError") || words.contains("Trailer") {
        s3_error!(InvalidRequest, "The body is malformed: {words}")
    } else {
        incomplete(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(pieces: &[&'static [u8]], announced: u64) -> Wire {
        let pieces: Vec<Result<Bytes, std::io::Error>> = pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece)))
            .collect();
        let body = Some(StreamingBlob::wrap(futures::stream::iter(pieces)));
        Wire {
            body,
            rest: Bytes::new(),
            announced,
            exact: true,
            arrived: 0,
        }
    }

    static LARGE: [u8; 5 << 19] = [7; 5 << 19];

    #[tokio::test]
    async fn pieces_of_any_size_are_gathered_into_even_buffers() {
        let mut wire = wire(&[b"ab", &LARGE, b"", b"c"], LARGE.len() as u64 + 3);
        let mut sizes = Vec::new();
        while let Some(buffer) = wire.fill().await.unwrap() {
            sizes.push(buffer.len());
        }
        assert_eq!(sizes, [1 << 20, 1 << 20, (1 << 19) + 3]);
        assert_eq!(wire.arrived, LARGE.len() as u64 + 3);
        assert!(
            wire.fill().await.unwrap().is_none(),
            "the end stays the end"
        );
    }

    #[tokio::test]
    async fn one_byte_too_many_is_refused() {
        let mut wire = wire(&[b"abc", b"d"], 3);
        assert_eq!(
            wire.fill().await.unwrap_err().code().as_str(),
            "IncompleteBody"
        );
    }

    #[test]
    fn the_announced_length_is_that_of_the_bytes_not_of_their_framing() {
        let told = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect();
            announced_bytes(&headers).map_err(|refused| refused.code().as_str().to_owned())
        };
        let framed = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        assert_eq!(told(&[("content-length", "5")]), Ok(5));
        assert_eq!(
            told(&[
                framed,
                ("content-length", "50"),
                ("x-amz-decoded-content-length", "5")
            ]),
            Ok(5)
        );
        assert_eq!(
            told(&[framed, ("content-length", "50")]),
            Err("MissingContentLength".into())
        );
        assert_eq!(told(&[]), Err("MissingContentLength".into()));
        assert_eq!(
            told(&[("content-length", "5368709121")]),
            Err("EntityTooLarge".into())
        );
        assert_eq!(told(&[("content-length", "5368709120")]), Ok(5 << 30));
        assert_eq!(
            told(&[("content-length", "-1")]),
            Err("InvalidArgument".into())
        );
    }
}
