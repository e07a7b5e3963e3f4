//! Bytes on their way in and out.
//!
//! 1. A request holds at most two buffers of a mebibyte, whatever the object's size.
//! 2. What comes in is hashed on the way, and committed by nobody here.
//! 3. What goes out is read and verified by the store piece by piece; a piece that cannot be read
//!    breaks the reply off, it is never filled in.

use super::failure::{Failure, Reply};
use super::metadata::Encoding;
use crate::blocking;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use blockstore::object::ReadAt;
use blockstore::{Error, Kind, ObjectWriter, Result, Subject};
use bytes::BytesMut;
use futures::{Stream, StreamExt};
use md5::{Digest, Md5};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes handed to the store, or read from it, at a time; a multiple of three, so that base64 of
/// the pieces is base64 of the whole.
pub(super) const PIECE_BYTES: usize = 3 << 18;
/// Pieces that are read before the client asks for them.
const READ_AHEAD: usize = 2;
/// How long a body waits for its turn among the others.
const TURN_PATIENCE: Duration = Duration::from_secs(20);
/// A client that sends nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A turn among the bodies under way.
pub(super) async fn turn(turns: &Arc<Semaphore>) -> Reply<OwnedSemaphorePermit> {
    match tokio::time::timeout(TURN_PATIENCE, Arc::clone(turns).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Failure::new(
            Kind::Unavailable,
            "body",
            format!(
                "too many bodies are under way; this one waited {} s: try again later",
                TURN_PATIENCE.as_secs()
            ),
        )),
    }
}

/// The digests of a value, and whether it is text.
pub(super) struct Digests {
    md5: Md5,
    sha256: Sha256,
    text: Text,
}

/// What the digests of a whole value say.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    /// MD5 in hexadecimal, as S3 has it.
    pub(super) etag: String,
    /// As [`blockstore::object::ObjectMeta::checksums`] keeps them.
    pub(super) checksums: BTreeMap<String, String>,
    /// Whether the value is UTF-8.
    pub(super) is_text: bool,
}

impl Digests {
    pub(super) fn new() -> Self {
        Self {
            md5: Md5::new(),
            sha256: Sha256::new(),
            text: Text::default(),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sha256.update(bytes);
        self.text.look(bytes);
    }

    pub(super) fn finish(self) -> Sums {
        Sums {
            etag: hex::encode(self.md5.finalize()),
            checksums: BTreeMap::from([
                ("sha256".to_owned(), BASE64.encode(self.sha256.finalize())),
                ("type".to_owned(), "FULL_OBJECT".to_owned()),
            ]),
            is_text: self.text.is_text(),
        }
    }
}

/// Whether bytes that come in pieces are UTF-8.
#[derive(Default)]
struct Text {
    broken: bool,
    /// The beginning of a character whose rest is to come.
    begun: Vec<u8>,
}

impl Text {
    fn look(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        let mut bytes = bytes;
        // A character that was cut is completed byte by byte: at most three steps.
        while !self.begun.is_empty() && !bytes.is_empty() {
            self.begun.push(bytes[0]);
            bytes = &bytes[1..];
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(bad) if bad.error_len().is_some() => {
                    self.broken = true;
                    return;
                }
                Err(_) => {}
            }
        }
        if let Err(bad) = std::str::from_utf8(bytes) {
            match bad.error_len() {
                Some(_) => self.broken = true,
                None => self.begun.extend_from_slice(&bytes[bad.valid_up_to()..]),
            }
        }
    }

    fn is_text(&self) -> bool {
        !self.broken && self.begun.is_empty()
    }
}

/// What takes bytes in order.
pub(super) trait Sink: Send + 'static {
    /// Takes the next ones.
    fn take(&mut self, bytes: &[u8]) -> Result<()>;
}

/// A new value.
pub(super) struct NewValue {
    pub(super) writer: ObjectWriter,
    pub(super) digests: Digests,
}

impl Sink for NewValue {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.digests.update(bytes);
        self.writer.write(bytes)
    }
}

/// Takes a body into a sink; `announced` is its `Content-Length`, if there is one.
pub(super) async fn receive<S: Sink>(body: Body, announced: Option<u64>, sink: S) -> Reply<S> {
    let mut wire = Wire {
        body: Some(body.into_data_stream()),
        rest: Bytes::new(),
        arrived: 0,
    };
    let mut sink = sink;
    let mut buffer = wire.fill().await?;
    while let Some(bytes) = buffer {
        let taking = blocking::run(move || {
            sink.take(&bytes)?;
            Ok::<_, Failure>(sink)
        });
        let (taken, next) = futures::join!(taking, wire.fill());
        sink = taken?;
        buffer = next?;
    }
    if announced.is_some_and(|announced| announced != wire.arrived) {
        return Err(Failure::invalid(
            "body",
            format!(
                "{} bytes arrived, {} were announced",
                wire.arrived,
                announced.unwrap_or(0)
            ),
        ));
    }
    Ok(sink)
}

struct Wire {
    /// `None` once its end was seen.
    body: Option<BodyDataStream>,
    /// Of the last frame, what did not fit.
    rest: Bytes,
    arrived: u64,
}

impl Wire {
    /// The next full buffer, or what is left; `None` behind the end.
    async fn fill(&mut self) -> Reply<Option<Bytes>> {
        let mut buffer = BytesMut::new();
        loop {
            let room = PIECE_BYTES - buffer.len();
            let next = self.rest.split_to(room.min(self.rest.len()));
            buffer.extend_from_slice(&next);
            if buffer.len() == PIECE_BYTES {
                break;
            }
            match self.frame().await? {
                Some(frame) => {
                    self.arrived += frame.len() as u64;
                    self.rest = frame;
                }
                None => break,
            }
        }
        Ok((!buffer.is_empty()).then(|| buffer.freeze()))
    }

    async fn frame(&mut self) -> Reply<Option<Bytes>> {
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        let broken =
            |status, text: String| Failure::new(Kind::Invalid, "body", text).with_status(status);
        match tokio::time::timeout(SILENCE, body.next()).await {
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(Some(Err(error))) => Err(broken(
                StatusCode::BAD_REQUEST,
                format!("the body broke off: {error}"),
            )),
            Ok(None) => {
                self.body = None;
                Ok(None)
            }
            Err(_) => Err(broken(
                StatusCode::REQUEST_TIMEOUT,
                format!("nothing arrived for {} s", SILENCE.as_secs()),
            )),
        }
    }
}

/// A whole body of at most `most` bytes, in memory.
pub(super) async fn collect(body: Body, most: usize) -> Reply<Bytes> {
    let mut wire = Wire {
        body: Some(body.into_data_stream()),
        rest: Bytes::new(),
        arrived: 0,
    };
    let mut whole = BytesMut::new();
    while let Some(frame) = wire.frame().await? {
        if whole.len() + frame.len() > most {
            return Err(Failure::invalid(
                "body",
                format!(
                    "a CDMI body has at most {most} bytes: write larger values without CDMI's \
                     content type, or in ranges"
                ),
            )
            .with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        whole.extend_from_slice(&frame);
    }
    Ok(whole.freeze())
}

/// Bytes of a value, on a thread that may block.
pub(super) fn read_now(body: &dyn ReadAt, bytes: &Range<u64>) -> Result<Vec<u8>> {
    let length = usize::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; length];
    body.read_at(bytes.start, &mut buffer)?;
    Ok(buffer)
}

/// Bytes of a value as they are.
pub(super) fn send_raw(
    body: Arc<dyn ReadAt>,
    bytes: Range<u64>,
    permit: Option<OwnedSemaphorePermit>,
) -> Body {
    Body::from_stream(pieces(body, bytes, permit))
}

/// A JSON document whose last member is a value too large for memory: `head` up to the value,
/// the value in its encoding, `tail`.
pub(super) fn send_json(
    head: Vec<u8>,
    body: Arc<dyn ReadAt>,
    bytes: Range<u64>,
    encoding: Encoding,
    tail: &'static [u8],
    permit: Option<OwnedSemaphorePermit>,
) -> Body {
    let mut carried = Vec::new();
    let last = bytes.end;
    let mut at = bytes.start;
    let value = pieces(body, bytes, permit).map(move |piece| {
        let piece = piece?;
        at += piece.len() as u64;
        encoded(&piece, encoding, &mut carried, at == last)
    });
    let head = futures::stream::iter([Ok(Bytes::from(head))]);
    let tail = futures::stream::iter([Ok(Bytes::from_static(tail))]);
    Body::from_stream(head.chain(value).chain(tail))
}

/// A piece of a value as it stands in JSON, without quotes. `carried` holds the beginning of a
/// character that was cut.
fn encoded(
    piece: &[u8],
    encoding: Encoding,
    carried: &mut Vec<u8>,
    is_last: bool,
) -> Result<Bytes> {
    match encoding {
        Encoding::Json => Ok(Bytes::copy_from_slice(piece)),
        Encoding::Base64 => Ok(Bytes::from(BASE64.encode(piece))),
        Encoding::Utf8 => {
            carried.extend_from_slice(piece);
            let whole = match std::str::from_utf8(carried) {
                Ok(_) => carried.len(),
                Err(cut) if cut.error_len().is_none() && !is_last => cut.valid_up_to(),
                Err(_) => return Err(not_text()),
            };
            let rest = carried.split_off(whole);
            let text =
                String::from_utf8(std::mem::replace(carried, rest)).map_err(|_| not_text())?;
            Ok(Bytes::from(in_json(&text)?.into_bytes()))
        }
    }
}

/// A text as it stands between the quotes of a JSON string.
pub(super) fn in_json(text: &str) -> Result<String> {
    let quoted = serde_json::to_string(text).map_err(|cause| not_text().because(cause))?;
    let length = quoted.len();
    Ok(quoted.get(1..length - 1).unwrap_or_default().to_owned())
}

fn not_text() -> Error {
    Error::new(
        Kind::Corrupt,
        Subject::Object,
        "the value is not the UTF-8 that it was when it was written",
    )
}

fn pieces(
    body: Arc<dyn ReadAt>,
    bytes: Range<u64>,
    permit: Option<OwnedSemaphorePermit>,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let mut next = bytes.start;
    let cut = std::iter::from_fn(move || {
        (next < bytes.end).then(|| {
            let start = next;
            next = bytes.end.min(start + PIECE_BYTES as u64);
            start..next
        })
    });
    futures::stream::iter(cut)
        .map(move |piece| {
            let _held_until_the_end = &permit;
            let body = Arc::clone(&body);
            blocking::run(move || read_now(body.as_ref(), &piece).map(Bytes::from))
        })
        .buffered(READ_AHEAD)
        .inspect(|result| {
            if let Err(error) = result {
                // The status line is long gone, so this is the only place to tell.
                tracing::error!("a reply was broken off: {}", error.chain());
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Memory(Vec<u8>);

    impl ReadAt for Memory {
        fn length_bytes(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            let start = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
            Ok(())
        }
    }

    async fn sent(bytes: &[u8], range: Range<u64>, encoding: Encoding) -> Vec<u8> {
        let body = Arc::new(Memory(bytes.to_vec()));
        let body = send_json(b"[\"".to_vec(), body, range, encoding, b"\"]", None);
        axum::body::to_bytes(body, usize::MAX)
            .await
            .unwrap()
            .to_vec()
    }

    #[tokio::test]
    async fn a_large_value_is_one_json_string_whatever_the_pieces_cut() {
        // Characters of three bytes, so that pieces cut them; quotes and line ends are escaped.
        let text: String = "\u{20ac}\"\n".repeat(PIECE_BYTES / 2);
        let length = text.len() as u64;
        let json = sent(text.as_bytes(), 0..length, Encoding::Utf8).await;
        let read: Vec<String> = serde_json::from_slice(&json).unwrap();
        assert_eq!(read, [text.as_str()]);
        let json = sent(text.as_bytes(), 1..length - 1, Encoding::Base64).await;
        let read: Vec<String> = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            BASE64.decode(&read[0]).unwrap(),
            &text.as_bytes()[1..text.len() - 1]
        );
    }

    #[tokio::test]
    async fn pieces_of_any_size_are_gathered_and_a_short_body_is_refused() {
        struct Count(Vec<usize>);
        impl Sink for Count {
            fn take(&mut self, bytes: &[u8]) -> Result<()> {
                self.0.push(bytes.len());
                Ok(())
            }
        }
        let frames = || {
            let sizes = [3, PIECE_BYTES * 2, 0, 5];
            let frames = sizes.map(|size| Ok::<_, std::io::Error>(Bytes::from(vec![7; size])));
            Body::from_stream(futures::stream::iter(frames))
        };
        let announced = PIECE_BYTES as u64 * 2 + 8;
        let count = receive(frames(), Some(announced), Count(Vec::new()))
            .await
            .unwrap();
        assert_eq!(count.0, [PIECE_BYTES, PIECE_BYTES, 8]);
        assert!(
            receive(frames(), Some(announced + 1), Count(Vec::new()))
                .await
                .is_err()
        );
        assert!(collect(frames(), 1000).await.is_err());
    }

    proptest! {
        #[test]
        fn text_is_known_however_it_is_cut(
            bytes in prop_oneof![
                "\\PC{0,40}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..40),
            ],
            cuts in proptest::collection::vec(0_usize..8, 0..20),
        ) {
            let mut text = Text::default();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                text.look(piece);
                rest = later;
            }
            text.look(rest);
            prop_assert_eq!(text.is_text(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
