//! Uploads to S3, continued after a kill: what arrived is what ListParts says.
//!
//! 1. A part counts only if its length and its checksum (or, where the server keeps none, its
//!    ETag) are those of the bytes that belong there.
//! 2. The whole is compared with what HEAD shows before the upload counts as done; a server that
//!    shows no checksum has compared each part on its way in.
//! 3. An answer that got lost is asked for again: a completed upload that is gone is looked at.

use super::s3::S3;
use super::sdk::absent;
use super::{Finish, Piece, Pieces, Remote, Settled, There};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::{self, Algorithm};
use crate::stage::journal::Done;
use crate::stage::pace::Pace;
use async_trait::async_trait;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, Part,
};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::time::Sleep;

/// S3 has parts 1 to 10,000, 1,000 to a page; twice that is a server that does not end.
const PAGES_MAX: u32 = 20;
/// Bytes that go at once under a bandwidth limit.
const SIP_BYTES: usize = 64 << 10;

fn number(piece: u64) -> i32 {
    i32::try_from(piece + 1).unwrap_or(i32::MAX)
}

/// The fields for CRC-32 and SHA-256, of which one is kept.
fn headers(keep: Algorithm, sum: &[u8]) -> (Option<String>, Option<String>) {
    let text = checksum::encode(sum);
    match keep {
        Algorithm::Sha256 => (None, Some(text)),
        _ => (Some(text), None),
    }
}

fn there(part: &Part) -> There {
    let sum = |algorithm, text: Option<&str>| Some((algorithm, checksum::decode(text?)?));
    let crc32 = sum(Algorithm::Crc32, part.checksum_crc32());
    There {
        length: part
            .size()
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or_default(),
        etag: part.e_tag().map(str::to_owned),
        sum: crc32.or_else(|| sum(Algorithm::Sha256, part.checksum_sha256())),
    }
}

impl S3 {
    fn body(&self, bytes: Bytes) -> ByteStream {
        if !self.pace.limits() {
            return ByteStream::from(bytes);
        }
        let pace = Arc::clone(&self.pace);
        ByteStream::new(SdkBody::retryable(move || {
            SdkBody::from_body_1_x(Paced {
                rest: bytes.clone(),
                pace: Arc::clone(&pace),
                pause: None,
            })
        }))
    }

    fn refused<E>(&self, path: &str, error: &aws_sdk_s3::error::SdkError<E>) -> Failure
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let failure = self.sdk.failure(&format!("put {}", self.url(path)), error);
        match failure.exit() {
            Exit::Conflict => {
                failure.hint("Somebody made it meanwhile: choose --existing replace or keep")
            }
            _ => failure,
        }
    }

    fn differs(&self, path: &str, sent: &str, shown: &str) -> Failure {
        let message = format!(
            "{} is not what was sent: sent {sent}, shown {shown}",
            self.url(path)
        );
        Failure::new(Exit::Corrupt, "object", message).hint("Put it again: --existing replace")
    }

    /// A server that does not say so keeps a checksum of the parts' checksums.
    fn remember(&self, upload: &str, kind: Option<&ChecksumType>) {
        if kind == Some(&ChecksumType::FullObject) {
            let mut sums = self
                .whole_sums
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            sums.insert(upload.to_owned());
        }
    }

    /// What the target now shows under the key must be what was sent.
    async fn compare(&self, finish: &Finish<'_>, pieces: &BTreeMap<u64, Done>) -> Outcome<Settled> {
        let Some(head) = self.head(finish.path).await? else {
            return Err(self.differs(finish.path, "an object", "nothing"));
        };
        let shown = head
            .content_length()
            .and_then(|length| u64::try_from(length).ok());
        if shown != Some(finish.length_bytes) {
            let shown =
                shown.map_or_else(|| "no length".into(), |length| format!("{length} bytes"));
            return Err(self.differs(
                finish.path,
                &format!("{} bytes", finish.length_bytes),
                &shown,
            ));
        }
        let sums: Vec<Vec<u8>> = pieces
            .values()
            .filter_map(|done| done.sum(finish.keep))
            .collect();
        let lengths = pieces.values().map(|done| done.length);
        let whole = finish
            .keep
            .combined(sums.iter().map(Vec::as_slice).zip(lengths));
        let whole = whole.map(|whole| checksum::encode(&whole));
        let composite = checksum::composite(finish.keep, &sums);
        let shown = match finish.keep {
            Algorithm::Sha256 => head.checksum_sha256(),
            _ => head.checksum_crc32(),
        };
        let name = finish.keep.name();
        let (verified, checksum) = match shown {
            Some(shown) if Some(shown) == whole.as_deref() => (name.to_owned(), shown.to_owned()),
            Some(shown) if shown == composite => {
                (format!("{name} of {} parts", sums.len()), composite)
            }
            // It compared each part on its way in, and shows nothing now.
            None => (format!("{name} of each part"), composite),
            Some(shown) => {
                return Err(self.differs(
                    finish.path,
                    whole.as_deref().unwrap_or(&composite),
                    shown,
                ));
            }
        };
        Ok(Settled {
            verified: Some(verified),
            checksum: Some(checksum),
            etag: head.e_tag().map(str::to_owned),
        })
    }
}

#[async_trait]
impl Pieces for S3 {
    async fn begin(&self, path: &str, keep: Algorithm) -> Outcome<String> {
        let (algorithm, kind) = match keep {
            Algorithm::Sha256 => (ChecksumAlgorithm::Sha256, ChecksumType::Composite),
            _ => (ChecksumAlgorithm::Crc32, ChecksumType::FullObject),
        };
        let create = self
            .sdk
            .s3
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(path));
        let create = create.checksum_algorithm(algorithm).checksum_type(kind);
        let created = create
            .send()
            .await
            .map_err(|error| self.refused(path, &error))?;
        let Some(id) = created.upload_id() else {
            let message = format!("{} began an upload without an id", self.sdk.endpoint);
            return Err(Failure::new(Exit::Invalid, "server", message));
        };
        self.remember(id, created.checksum_type());
        Ok(id.to_owned())
    }

    async fn resume(
        &self,
        path: &str,
        token: &str,
        piece_bytes: u64,
    ) -> Outcome<Option<BTreeMap<u64, There>>> {
        let key = self.key(path);
        // One that was completed or aborted is in no listing of uploads.
        let uploads = self
            .sdk
            .s3
            .list_multipart_uploads()
            .bucket(&self.bucket)
            .prefix(&key);
        let uploads = uploads
            .send()
            .await
            .map_err(|error| self.refused(path, &error))?;
        let known = uploads
            .uploads()
            .iter()
            .any(|upload| upload.upload_id() == Some(token));
        if !known && uploads.is_truncated() != Some(true) {
            return Ok(None);
        }
        let mut pieces = BTreeMap::new();
        let mut marker: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let list = self
                .sdk
                .s3
                .list_parts()
                .bucket(&self.bucket)
                .key(&key)
                .upload_id(token);
            let page = match list.set_part_number_marker(marker.clone()).send().await {
                Ok(page) => page,
                Err(error) => return absent(self.refused(path, &error)),
            };
            self.remember(token, page.checksum_type());
            for part in page.parts() {
                let piece = part
                    .part_number()
                    .and_then(|number| u64::try_from(number).ok());
                let Some(piece) = piece.and_then(|number| number.checked_sub(1)) else {
                    continue;
                };
                let there = there(part);
                if there.length <= piece_bytes {
                    pieces.insert(piece, there);
                }
            }
            let next = page.next_part_number_marker().map(str::to_owned);
            if page.is_truncated() != Some(true) || next.is_none() || next == marker {
                return Ok(Some(pieces));
            }
            marker = next;
        }
        Ok(Some(pieces))
    }

    async fn read_back(
        &self,
        _path: &str,
        _token: &str,
        _range: Range<u64>,
    ) -> Outcome<Option<Bytes>> {
        Ok(None)
    }

    async fn piece(&self, token: &str, piece: Piece<'_>, bytes: Bytes) -> Outcome<Option<String>> {
        let (crc32, sha256) = headers(piece.sum.0, piece.sum.1);
        let upload = self
            .sdk
            .s3
            .upload_part()
            .bucket(&self.bucket)
            .key(self.key(piece.path));
        let upload = upload.upload_id(token).part_number(number(piece.number));
        let upload = upload.set_checksum_crc32(crc32).set_checksum_sha256(sha256);
        let length = i64::try_from(bytes.len()).ok();
        let answer = upload
            .set_content_length(length)
            .body(self.body(bytes))
            .send()
            .await;
        let answer = answer.map_err(|error| self.refused(piece.path, &error))?;
        Ok(answer.e_tag().map(str::to_owned))
    }

    async fn finish(
        &self,
        token: &str,
        finish: Finish<'_>,
        pieces: &BTreeMap<u64, Done>,
    ) -> Outcome<Settled> {
        let parts = pieces.values().map(|done| {
            let (crc32, sha256) = headers(finish.keep, &done.sum(finish.keep).unwrap_or_default());
            CompletedPart::builder()
                .part_number(number(done.piece))
                .set_e_tag(done.etag.clone())
                .set_checksum_crc32(crc32)
                .set_checksum_sha256(sha256)
                .build()
        });
        let list = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.collect()))
            .build();
        let sums: Vec<Vec<u8>> = pieces
            .values()
            .filter_map(|done| done.sum(finish.keep))
            .collect();
        let lengths = pieces.values().map(|done| done.length);
        let whole = finish
            .keep
            .combined(sums.iter().map(Vec::as_slice).zip(lengths));
        let complete = self.sdk.s3.complete_multipart_upload().bucket(&self.bucket);
        let complete = complete
            .key(self.key(finish.path))
            .upload_id(token)
            .multipart_upload(list);
        let complete = complete.set_if_none_match(finish.only_new.then(|| "*".to_owned()));
        let keeps = self
            .whole_sums
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(token);
        let complete = match whole.filter(|_| keeps) {
            Some(whole) => complete
                .checksum_type(ChecksumType::FullObject)
                .checksum_crc32(checksum::encode(&whole)),
            None => complete,
        };
        if let Err(error) = complete.send().await {
            let gone =
                aws_sdk_s3::error::ProvideErrorMetadata::code(&error) == Some("NoSuchUpload");
            if !gone {
                return Err(self.refused(finish.path, &error));
            }
            // Completed by a try whose answer got lost, or aborted by somebody: the object tells.
            return self
                .compare(&finish, pieces)
                .await
                .map_err(|_| self.refused(finish.path, &error));
        }
        self.compare(&finish, pieces).await
    }

    async fn abandon(&self, path: &str, token: &str) -> Outcome {
        let abort = self.sdk.s3.abort_multipart_upload().bucket(&self.bucket);
        let aborted = abort.key(self.key(path)).upload_id(token).send().await;
        match aborted {
            Ok(_) => Ok(()),
            Err(error) => {
                let what = format!("abort the upload of {}", self.url(path));
                absent::<()>(self.sdk.failure(&what, &error)).map(drop)
            }
        }
    }

    async fn small(&self, finish: Finish<'_>, sum: &[u8], bytes: Bytes) -> Outcome<Settled> {
        let (crc32, sha256) = headers(finish.keep, sum);
        let put = self
            .sdk
            .s3
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(finish.path));
        let put = put.set_checksum_crc32(crc32).set_checksum_sha256(sha256);
        let put = put.set_if_none_match(finish.only_new.then(|| "*".to_owned()));
        let put = put
            .set_content_length(i64::try_from(bytes.len()).ok())
            .body(self.body(bytes));
        let answer = match put.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let failure = self.refused(finish.path, &error);
                if failure.exit() != Exit::Conflict {
                    return Err(failure);
                }
                // Made by a try of ours whose answer got lost?
                let done = Done {
                    piece: 0,
                    length: finish.length_bytes,
                    sums: BTreeMap::from([(finish.keep.name().to_owned(), checksum::hex(sum))]),
                    etag: None,
                };
                let pieces = BTreeMap::from([(0, done)]);
                let compared = self.compare(&finish, &pieces).await;
                return compared.map_err(|_| failure);
            }
        };
        let shown = match finish.keep {
            Algorithm::Sha256 => answer.checksum_sha256(),
            _ => answer.checksum_crc32(),
        };
        let sent = checksum::encode(sum);
        // Without one in the answer, the header alone already made the target compare.
        if let Some(shown) = shown.filter(|shown| *shown != sent) {
            return Err(self.differs(finish.path, &sent, shown));
        }
        Ok(Settled {
            verified: Some(finish.keep.name().into()),
            checksum: Some(sent),
            etag: answer.e_tag().map(str::to_owned),
        })
    }
}

/// A body that goes no faster than it may.
struct Paced {
    rest: Bytes,
    pace: Arc<Pace>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let count = SIP_BYTES.min(self.rest.len());
        if self.pause.is_none() {
            let wait = self.pace.wait(count as u64);
            self.pause = Some(Box::pin(tokio::time::sleep(wait)));
        }
        if let Some(pause) = self.pause.as_mut() {
            ready!(pause.as_mut().poll(context));
        }
        self.pause = None;
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(count)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
