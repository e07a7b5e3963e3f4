//! Files to S3.

use super::checksum::{self, Algorithm};
use super::{Existing, Item, Keep, Report, Run, location, lost, refuse_existing};
use crate::exit::{Exit, Failure, Outcome};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file to be sent.
#[derive(Clone, Debug)]
struct Job {
    path: PathBuf,
    key: String,
    length_bytes: u64,
}

/// Copies a file or a tree.
pub(crate) async fn put(run: &Run, source: &Path, target: &str, keep: Keep) -> Outcome<Report> {
    let (bucket, below) = location(target)?;
    let (mut jobs, left_out) = {
        let (source, below) = (source.to_owned(), below.to_owned());
        tokio::task::spawn_blocking(move || plan(&source, &below))
            .await
            .map_err(lost)??
    };
    let there = existing(run, bucket, &jobs).await?;
    let mut kept = Vec::new();
    match run.existing {
        Existing::Refuse if !there.is_empty() => return Err(refuse_existing(&there)),
        Existing::Keep => {
            jobs.retain(|job| !there.contains(&url(bucket, &job.key)));
            kept = there;
        }
        Existing::Refuse | Existing::Replace => {}
    }
    run.progress
        .set_length(jobs.iter().map(|job| job.length_bytes).sum());
    let mut copied: Vec<Item> = stream::iter(&jobs)
        .map(|job| file(run, bucket, job, keep))
        .buffer_unordered(run.jobs)
        .try_collect()
        .await?;
    copied.sort_by(|one, other| one.source.cmp(&other.source));
    let length_bytes = copied.iter().map(|item| item.length_bytes).sum();
    Ok(Report {
        copied,
        kept,
        left_out,
        length_bytes,
        seconds: 0.0,
    })
}

/// Which files go where, and what is left out.
fn plan(source: &Path, below: &str) -> Outcome<(Vec<Job>, Vec<String>)> {
    let read = |path: &Path, error: &std::io::Error| {
        Failure::io(format_args!("read {}", path.display()), error)
    };
    let top = std::fs::metadata(source).map_err(|error| read(source, &error))?;
    if top.is_file() {
        let name = source.file_name().map(PathBuf::from).unwrap_or_default();
        let key = match below {
            "" => text(&name)?.to_owned(),
            prefix if prefix.ends_with('/') => format!("{prefix}{}", text(&name)?),
            key => key.to_owned(),
        };
        return Ok((
            vec![Job {
                path: source.into(),
                key,
                length_bytes: top.len(),
            }],
            Vec::new(),
        ));
    }
    if !top.is_dir() {
        let message = format!("{} is neither a file nor a directory", source.display());
        return Err(Failure::new(Exit::Invalid, "file", message));
    }
    let prefix = if below.is_empty() || below.ends_with('/') {
        below.to_owned()
    } else {
        format!("{below}/")
    };
    let (mut jobs, mut left_out, mut open) = (Vec::new(), Vec::new(), vec![source.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).map_err(|error| read(&directory, &error))? {
            let path = entry.map_err(|error| read(&directory, &error))?.path();
            // Of the entry itself: a link could lead out of the tree or round in circles.
            let about = std::fs::symlink_metadata(&path).map_err(|error| read(&path, &error))?;
            if about.is_dir() {
                open.push(path);
            } else if about.is_file() {
                let relative = path.strip_prefix(source).unwrap_or(&path);
                let key = format!("{prefix}{}", text(relative)?);
                jobs.push(Job {
                    path,
                    key,
                    length_bytes: about.len(),
                });
            } else {
                left_out.push(path.display().to_string());
            }
        }
    }
    jobs.sort_by(|one, other| one.key.cmp(&other.key));
    left_out.sort();
    Ok((jobs, left_out))
}

fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| {
        let message = format!(
            "{} has no name in UTF-8, so no key can hold it",
            path.display()
        );
        Failure::new(Exit::Invalid, "file", message).hint("Rename it")
    })
}

/// Which targets are there.
async fn existing(run: &Run, bucket: &str, jobs: &[Job]) -> Outcome<Vec<String>> {
    let mut there: Vec<String> = stream::iter(jobs)
        .map(|job| async move {
            let head = run
                .remote
                .s3
                .head_object()
                .bucket(bucket)
                .key(&job.key)
                .send()
                .await;
            match head {
                Ok(_) => Ok(Some(url(bucket, &job.key))),
                Err(error) => {
                    let failure = run
                        .remote
                        .failure(&format!("look at {}", url(bucket, &job.key)), &error);
                    if failure.exit() == Exit::NotFound {
                        Ok(None)
                    } else {
                        Err(failure)
                    }
                }
            }
        })
        .buffer_unordered(run.jobs)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await?;
    there.sort();
    Ok(there)
}

async fn file(run: &Run, bucket: &str, job: &Job, keep: Keep) -> Outcome<Item> {
    let failed =
        |error: &std::io::Error| Failure::io(format_args!("read {}", job.path.display()), error);
    let opened = Arc::new(File::open(&job.path).map_err(|error| failed(&error))?);
    let before = opened.metadata().map_err(|error| failed(&error))?;
    let length_bytes = before.len();
    let part_bytes = run.part_bytes(length_bytes);
    let algorithm = match keep {
        Keep::Crc32 => Algorithm::Crc32,
        Keep::Sha256 => Algorithm::Sha256,
    };
    let sending = Sending {
        run,
        bucket,
        job,
        opened: &opened,
        before: &before,
        algorithm,
    };
    let (verified, checksum) = if length_bytes <= part_bytes {
        sending.whole(length_bytes).await?
    } else {
        sending.parts(length_bytes, part_bytes).await?
    };
    Ok(Item {
        source: job.path.display().to_string(),
        target: url(bucket, &job.key),
        length_bytes,
        verified,
        checksum: Some(checksum),
    })
}

/// One file on its way.
struct Sending<'a> {
    run: &'a Run,
    bucket: &'a str,
    job: &'a Job,
    opened: &'a Arc<File>,
    before: &'a Metadata,
    algorithm: Algorithm,
}

/// A part that has arrived.
struct Sent {
    number: u64,
    etag: Option<String>,
    running: checksum::Running,
}

impl Sending<'_> {
    /// In one request.
    async fn whole(&self, length_bytes: u64) -> Outcome<(String, String)> {
        let _turn = self.run.flight.acquire().await;
        let body = self.read(0, length_bytes).await?;
        let mut running = self.algorithm.begin();
        running.update(&body);
        let sum = checksum::encode(&running.bytes());
        self.unchanged()?;
        let (crc32, sha256) = self.headers(&sum);
        let put = self
            .run
            .remote
            .s3
            .put_object()
            .bucket(self.bucket)
            .key(&self.job.key);
        let put = put.set_checksum_crc32(crc32).set_checksum_sha256(sha256);
        let put = put
            .set_if_none_match(self.only_new())
            .body(ByteStream::from(body));
        let answer = put.send().await.map_err(|error| self.refused(&error))?;
        let shown = match self.algorithm {
            Algorithm::Sha256 => answer.checksum_sha256(),
            _ => answer.checksum_crc32(),
        };
        self.run.progress.inc(length_bytes);
        match shown {
            // The header alone already made the target compare.
            None => Ok((self.algorithm.name().into(), sum)),
            Some(shown) if shown == sum => Ok((self.algorithm.name().into(), sum)),
            Some(shown) => Err(self.differs(&sum, shown)),
        }
    }

    /// As a multipart upload.
    async fn parts(&self, length_bytes: u64, part_bytes: u64) -> Outcome<(String, String)> {
        let s3 = &self.run.remote.s3;
        let whole_crc = self.algorithm.combines();
        let create = s3
            .create_multipart_upload()
            .bucket(self.bucket)
            .key(&self.job.key);
        let create = create.checksum_algorithm(match self.algorithm {
            Algorithm::Sha256 => ChecksumAlgorithm::Sha256,
            _ => ChecksumAlgorithm::Crc32,
        });
        let create = create.checksum_type(if whole_crc {
            ChecksumType::FullObject
        } else {
            ChecksumType::Composite
        });
        let created = create.send().await.map_err(|error| self.refused(&error))?;
        let id = created.upload_id().unwrap_or_default().to_owned();
        // A target that does not say so keeps a checksum of the parts' checksums.
        let full = created.checksum_type() == Some(&ChecksumType::FullObject);
        let upload = (self.bucket.to_owned(), self.job.key.clone(), id.clone());
        self.run.remote.opened(upload.clone());

        let count = length_bytes.div_ceil(part_bytes);
        let mut sent: Vec<Sent> = stream::iter(0..count)
            .map(|index| {
                let offset = index * part_bytes;
                self.part(
                    &id,
                    index + 1,
                    offset,
                    part_bytes.min(length_bytes - offset),
                )
            })
            .buffer_unordered(self.run.parts_in_flight(part_bytes))
            .try_collect()
            .await?;
        sent.sort_by_key(|part| part.number);
        self.unchanged()?;

        let sums: Vec<Vec<u8>> = sent
            .iter()
            .map(|part| part.running.clone().bytes())
            .collect();
        let composite = checksum::composite(self.algorithm, &sums);
        let whole = whole_crc.then(|| {
            let mut whole = self.algorithm.begin();
            sent.iter().for_each(|part| whole.append(&part.running));
            checksum::encode(&whole.bytes())
        });
        let parts = sent.iter().zip(&sums).map(|(part, sum)| {
            let (crc32, sha256) = self.headers(&checksum::encode(sum));
            CompletedPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .set_e_tag(part.etag.clone())
                .set_checksum_crc32(crc32)
                .set_checksum_sha256(sha256)
                .build()
        });
        let list = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.collect()))
            .build();
        let complete = s3
            .complete_multipart_upload()
            .bucket(self.bucket)
            .key(&self.job.key);
        let complete = complete
            .upload_id(&id)
            .multipart_upload(list)
            .set_if_none_match(self.only_new());
        let complete = match &whole {
            Some(whole) if full => complete
                .checksum_type(ChecksumType::FullObject)
                .checksum_crc32(whole),
            _ => complete,
        };
        complete
            .send()
            .await
            .map_err(|error| self.refused(&error))?;
        self.run.remote.closed(&upload);
        self.settled(length_bytes, count, whole.as_deref(), &composite)
            .await
    }

    async fn part(&self, id: &str, number: u64, offset: u64, length: u64) -> Outcome<Sent> {
        // The turn comes before the memory: parts waiting for it hold none.
        let _turn = self.run.flight.acquire().await;
        let body = self.read(offset, length).await?;
        let mut running = self.algorithm.begin();
        running.update(&body);
        let (crc32, sha256) = self.headers(&checksum::encode(&running.clone().bytes()));
        let upload = self
            .run
            .remote
            .s3
            .upload_part()
            .bucket(self.bucket)
            .key(&self.job.key);
        let upload = upload
            .upload_id(id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX));
        let upload = upload.set_checksum_crc32(crc32).set_checksum_sha256(sha256);
        let answer = upload
            .body(ByteStream::from(body))
            .send()
            .await
            .map_err(|error| self.refused(&error))?;
        self.run.progress.inc(length);
        Ok(Sent {
            number,
            etag: answer.e_tag().map(str::to_owned),
            running,
        })
    }

    /// What the target now shows under the key must be what was sent.
    async fn settled(
        &self,
        length_bytes: u64,
        count: u64,
        whole: Option<&str>,
        composite: &str,
    ) -> Outcome<(String, String)> {
        let s3 = &self.run.remote.s3;
        let head = s3.head_object().bucket(self.bucket).key(&self.job.key);
        let head = head.checksum_mode(ChecksumMode::Enabled).send().await;
        let head = head.map_err(|error| self.refused(&error))?;
        let length = head
            .content_length()
            .and_then(|length| u64::try_from(length).ok());
        if length != Some(length_bytes) {
            let shown =
                length.map_or_else(|| "no length".into(), |length| format!("{length} bytes"));
            return Err(self.differs(&format!("{length_bytes} bytes"), &shown));
        }
        let name = self.algorithm.name();
        let shown = match self.algorithm {
            Algorithm::Sha256 => head.checksum_sha256(),
            _ => head.checksum_crc32(),
        };
        match shown {
            Some(shown) if Some(shown) == whole => Ok((name.into(), shown.into())),
            Some(shown) if shown == composite => {
                Ok((format!("{name} of {count} parts"), shown.into()))
            }
            // It compared each part on its way in, and shows nothing now.
            None => Ok((format!("{name} of each part"), composite.into())),
            Some(shown) => Err(self.differs(whole.unwrap_or(composite), shown)),
        }
    }

    async fn read(&self, offset: u64, length: u64) -> Outcome<Bytes> {
        let (opened, path) = (Arc::clone(self.opened), self.job.path.clone());
        tokio::task::spawn_blocking(move || {
            let length = usize::try_from(length).map_err(std::io::Error::other)?;
            let mut buffer = vec![0; length];
            opened.read_exact_at(&mut buffer, offset)?;
            Ok(Bytes::from(buffer))
        })
        .await
        .map_err(lost)?
        .map_err(|error: std::io::Error| {
            Failure::io(format_args!("read {}", path.display()), &error)
        })
    }

    /// A file written to meanwhile would be sent half old, half new.
    fn unchanged(&self) -> Outcome {
        let path = self.job.path.display();
        let now = std::fs::metadata(&self.job.path)
            .map_err(|error| Failure::io(format_args!("read {path}"), &error))?;
        let stamp =
            |about: &Metadata| (about.ino(), about.len(), about.mtime(), about.mtime_nsec());
        if stamp(&now) == stamp(self.before) {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Conflict,
            "file",
            format!("{path} changed while it was read"),
        )
        .hint("Try again when it is at rest"))
    }

    fn headers(&self, sum: &str) -> (Option<String>, Option<String>) {
        match self.algorithm {
            Algorithm::Sha256 => (None, Some(sum.to_owned())),
            _ => (Some(sum.to_owned()), None),
        }
    }

    /// Somebody may have made the object since we looked.
    fn only_new(&self) -> Option<String> {
        (self.run.existing != Existing::Replace).then(|| "*".to_owned())
    }

    fn refused<E>(&self, error: &aws_sdk_s3::error::SdkError<E>) -> Failure
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.run
            .remote
            .failure(&format!("put {}", url(self.bucket, &self.job.key)), error)
    }

    fn differs(&self, sent: &str, shown: &str) -> Failure {
        let target = url(self.bucket, &self.job.key);
        let message = format!("{target} is not what was sent: sent {sent}, shown {shown}");
        Failure::new(Exit::Corrupt, "object", message).hint("Remove it and put it again")
    }
}

fn url(bucket: &str, key: &str) -> String {
    format!("s3://{bucket}/{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_its_own_name_below_a_prefix_and_the_given_one_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disk.raw");
        std::fs::write(&file, "x").unwrap();
        for (below, key) in [("", "disk.raw"), ("a/", "a/disk.raw"), ("a/b", "a/b")] {
            assert_eq!(plan(&file, below).unwrap().0[0].key, key);
        }
    }

    #[test]
    fn a_tree_becomes_its_regular_files_and_links_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("d/empty")).unwrap();
        std::fs::write(directory.path().join("d/one"), "1").unwrap();
        std::fs::write(directory.path().join("two"), "22").unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("d/link")).unwrap();
        let (jobs, left_out) = plan(directory.path(), "p").unwrap();
        let keys: Vec<&str> = jobs.iter().map(|job| job.key.as_str()).collect();
        assert_eq!(keys, ["p/d/one", "p/two"]);
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].ends_with("d/link"));
    }

    #[test]
    fn a_missing_source_is_not_found() {
        let failure = plan(Path::new("/nowhere/at/all"), "").unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        assert!(failure.to_string().contains("/nowhere/at/all"));
    }
}
