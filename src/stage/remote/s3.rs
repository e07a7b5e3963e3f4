//! S3: listing, looking, reading by range, deleting. Uploads are in [`super::upload`].
//!
//! A listing is believed only as far as it goes: keys without the prefix, a page that leads to
//! itself, and pages that bring nothing end it with an error that names them.

use super::sdk::{Sdk, absent};
use super::{Chunks, Found, Pieces, Remote};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::{self, Algorithm};
use crate::stage::pace::Pace;
use crate::stage::plan::Entry;
use async_trait::async_trait;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, ServerSideEncryption};
use futures::{StreamExt, stream};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pages without a key that may follow each other.
const EMPTY_PAGES_MAX: u32 = 100;
/// How long a server may say nothing in the middle of a body.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A prefix of a bucket.
pub(crate) struct S3 {
    pub(super) sdk: Sdk,
    pub(super) bucket: String,
    /// Empty, or ends in `/`.
    pub(super) prefix: String,
    /// `s3://` or `s3+https://host/`.
    shown: String,
    /// What uploads are held to.
    pub(super) pace: Arc<Pace>,
    /// Whether the bucket was seen: a missing object then says nothing about it.
    bucket_seen: AtomicBool,
    /// Uploads whose whole will have a checksum of its own.
    pub(super) whole_sums: Mutex<BTreeSet<String>>,
}

impl S3 {
    /// `shown` is what stands before the bucket in URLs.
    pub(crate) fn new(
        sdk: Sdk,
        bucket: &str,
        prefix: &str,
        shown: String,
        pace: Arc<Pace>,
    ) -> Self {
        Self {
            sdk,
            bucket: bucket.into(),
            prefix: prefix.into(),
            shown,
            pace,
            bucket_seen: AtomicBool::new(false),
            whole_sums: Mutex::default(),
        }
    }

    /// The key of a path.
    pub(super) fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// What HEAD says, if the object is there.
    pub(super) async fn head(&self, path: &str) -> Outcome<Option<HeadObjectOutput>> {
        let head = self
            .sdk
            .s3
            .head_object()
            .bucket(&self.bucket)
            .key(self.key(path));
        match head.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(head) => Ok(Some(head)),
            Err(error) => {
                let what = format!("look at {}", self.url(path));
                absent(self.sdk.failure(&what, &error))
            }
        }
    }

    /// A missing bucket and a missing object answer HEAD alike.
    async fn bucket_is_there(&self) -> Outcome {
        if self.bucket_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let head = self.sdk.s3.head_bucket().bucket(&self.bucket).send().await;
        match head {
            Ok(_) => {
                self.bucket_seen.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                let failure = self
                    .sdk
                    .failure(&format!("find the bucket {}", self.bucket), &error);
                // Who may read an object need not be allowed to look at its bucket.
                if failure.exit() == Exit::NotFound {
                    let message = format!("no bucket {:?} at {}", self.bucket, self.sdk.endpoint);
                    return Err(Failure::new(Exit::NotFound, "bucket", message)
                        .hint("List them: infall bucket ls"));
                }
                Ok(())
            }
        }
    }
}

/// The checksums an object shows, as S3 writes them.
pub(super) fn sums(head: &HeadObjectOutput) -> Vec<(Algorithm, String)> {
    let shown = [
        (Algorithm::Crc64Nvme, head.checksum_crc64_nvme()),
        (Algorithm::Crc32, head.checksum_crc32()),
        (Algorithm::Crc32c, head.checksum_crc32_c()),
        (Algorithm::Sha256, head.checksum_sha256()),
    ];
    let mut sums: Vec<(Algorithm, String)> = shown
        .into_iter()
        .filter_map(|(algorithm, text)| text.map(|text| (algorithm, text.to_owned())))
        .collect();
    // The ETag is an MD5 of the content, but not under a key of KMS or of the customer (Amazon S3
    // User Guide, "Checking object integrity").
    let plain = matches!(
        head.server_side_encryption(),
        None | Some(ServerSideEncryption::Aes256)
    ) && head.sse_customer_algorithm().is_none();
    let md5 = head
        .e_tag()
        .filter(|_| plain)
        .and_then(checksum::base64_of_hex);
    sums.extend(
        md5.filter(|text| text.len() == 24)
            .map(|text| (Algorithm::Md5, text)),
    );
    sums
}

fn length(length: Option<i64>) -> Option<u64> {
    length.and_then(|length| u64::try_from(length).ok())
}

#[async_trait]
impl Remote for S3 {
    fn url(&self, path: &str) -> String {
        format!("{}{}/{}{path}", self.shown, self.bucket, self.prefix)
    }

    fn has_paths(&self) -> bool {
        false
    }

    async fn list(&self, found: &mut Found) -> Outcome {
        let what = format!("list {}", self.url(""));
        let wrong =
            |why: String| Failure::new(Exit::Invalid, "listing", format!("cannot {what}: {why}"));
        let mut token: Option<String> = None;
        let mut empty = 0;
        loop {
            let list = self
                .sdk
                .s3
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(&self.prefix);
            let page = list.set_continuation_token(token.clone()).send().await;
            let page = page.map_err(|error| self.sdk.failure(&what, &error))?;
            for object in page.contents() {
                let Some(key) = object.key() else { continue };
                let Some(path) = key.strip_prefix(&self.prefix) else {
                    found.refuse(key, "lies outside of what was listed")?;
                    continue;
                };
                // An empty object that ends in a slash is how some programs write a directory.
                if path.is_empty() || path.ends_with('/') && object.size() == Some(0) {
                    found.count()?;
                    continue;
                }
                found.add(Entry {
                    path: path.into(),
                    length_bytes: length(object.size()),
                    modified_ms: object
                        .last_modified()
                        .and_then(|time| time.to_millis().ok()),
                    etag: object.e_tag().map(str::to_owned),
                    sums: Vec::new(),
                    ranges: true,
                })?;
            }
            empty = if page.contents().is_empty() {
                empty + 1
            } else {
                0
            };
            if empty > EMPTY_PAGES_MAX {
                return Err(wrong(format!(
                    "{EMPTY_PAGES_MAX} pages without a key follow each other"
                )));
            }
            let next = page.next_continuation_token().map(str::to_owned);
            if page.is_truncated() != Some(true) || next.is_none() {
                return Ok(());
            }
            if next == token {
                return Err(wrong("a page leads to itself".into()));
            }
            token = next;
        }
    }

    async fn stat(&self, path: &str) -> Outcome<Option<Entry>> {
        let Some(head) = self.head(path).await? else {
            self.bucket_is_there().await?;
            return Ok(None);
        };
        Ok(Some(Entry {
            path: path.into(),
            length_bytes: length(head.content_length()),
            modified_ms: head.last_modified().and_then(|time| time.to_millis().ok()),
            etag: head.e_tag().map(str::to_owned),
            sums: sums(&head),
            ranges: true,
        }))
    }

    async fn read(&self, entry: &Entry, range: Option<Range<u64>>) -> Outcome<Chunks> {
        let url = self.url(&entry.path);
        let range =
            range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        let get = self
            .sdk
            .s3
            .get_object()
            .bucket(&self.bucket)
            .key(self.key(&entry.path));
        // The whole object must be the one that was looked at, even if it is replaced meanwhile.
        let get = get.set_if_match(entry.etag.clone()).set_range(range);
        let answer = get.send().await.map_err(|error| {
            let failure = self.sdk.failure(&format!("get {url}"), &error);
            if failure.exit() == Exit::Conflict {
                return failure.hint("It changed while it was read: run again when it is at rest");
            }
            failure
        })?;
        let chunks = stream::unfold(Some(answer.body), move |body| {
            let url = url.clone();
            async move {
                let mut body = body?;
                match tokio::time::timeout(SILENCE_MAX, body.try_next()).await {
                    Ok(Ok(None)) => None,
                    Ok(Ok(Some(bytes))) => Some((Ok(bytes), Some(body))),
                    Err(_) => {
                        let message = format!("{url} broke off");
                        let failure = Failure::new(Exit::Unavailable, "object", message);
                        Some((Err(failure.because("the server says nothing")), None))
                    }
                    Ok(Err(error)) => {
                        let message = format!("{url} broke off");
                        let failure = Failure::new(Exit::Unavailable, "object", message);
                        Some((Err(failure.because(super::sdk::deepest(&error))), None))
                    }
                }
            }
        });
        Ok(chunks.boxed())
    }

    async fn delete(&self, path: &str) -> Outcome {
        let delete = self
            .sdk
            .s3
            .delete_object()
            .bucket(&self.bucket)
            .key(self.key(path));
        let deleted = delete.send().await;
        deleted.map(drop).map_err(|error| {
            self.sdk
                .failure(&format!("delete {}", self.url(path)), &error)
        })
    }

    async fn part_bytes(&self, entry: &Entry) -> Option<u64> {
        let head = self
            .sdk
            .s3
            .head_object()
            .bucket(&self.bucket)
            .key(self.key(&entry.path));
        let first = head.part_number(1).send().await.ok()?;
        length(first.content_length())
    }

    fn pieces(&self) -> Option<&dyn Pieces> {
        Some(self)
    }
}
