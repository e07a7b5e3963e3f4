//! S3 to files.

use super::checksum::{self, Algorithm, Proof, Running};
use super::{Existing, Item, Report, Run, location, lost, refuse_existing};
use crate::exit::{Exit, Failure, Outcome};
use aws_sdk_s3::types::ChecksumMode;
use futures::{StreamExt, TryStreamExt, stream};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A range that breaks off is fetched again so many times.
const TRIES: u32 = 4;
/// Bytes gathered before a write; the network brings them in smaller pieces.
const WRITE_BYTES: usize = 1 << 20;

/// One object to be fetched.
#[derive(Clone, Debug)]
struct Job {
    key: String,
    path: PathBuf,
}

/// Copies an object, or all below a prefix.
pub(crate) async fn get(run: &Run, source: &str, target: &Path) -> Outcome<Report> {
    let (bucket, key) = location(source)?;
    let many = key.is_empty() || key.ends_with('/');
    let mut jobs = if many {
        tree(run, bucket, key, target).await?
    } else {
        let last = key.rsplit('/').next().unwrap_or(key);
        let path = if target.is_dir() {
            target.join(relative(last)?)
        } else {
            target.to_owned()
        };
        vec![Job {
            key: key.to_owned(),
            path,
        }]
    };
    let is_there = |job: &Job| job.path.symlink_metadata().is_ok();
    let there: Vec<String> = jobs
        .iter()
        .filter(|job| is_there(job))
        .map(|job| job.path.display().to_string())
        .collect();
    let mut kept = Vec::new();
    match run.existing {
        Existing::Refuse if !there.is_empty() => return Err(refuse_existing(&there)),
        Existing::Keep => {
            jobs.retain(|job| !is_there(job));
            kept = there;
        }
        Existing::Refuse | Existing::Replace => {}
    }
    if many {
        for directory in jobs.iter().filter_map(|job| job.path.parent()) {
            std::fs::create_dir_all(directory).map_err(|error| {
                Failure::io(
                    format_args!("make the directory {}", directory.display()),
                    &error,
                )
            })?;
        }
    }
    let mut copied: Vec<Item> = stream::iter(&jobs)
        .map(|job| object(run, bucket, job))
        .buffer_unordered(run.jobs)
        .try_collect()
        .await?;
    copied.sort_by(|one, other| one.source.cmp(&other.source));
    let length_bytes = copied.iter().map(|item| item.length_bytes).sum();
    Ok(Report {
        copied,
        kept,
        left_out: Vec::new(),
        length_bytes,
        seconds: 0.0,
    })
}

async fn tree(run: &Run, bucket: &str, prefix: &str, target: &Path) -> Outcome<Vec<Job>> {
    let what = format!("list s3://{bucket}/{prefix}");
    let mut pages = run
        .remote
        .s3
        .list_objects_v2()
        .bucket(bucket)
        .prefix(prefix)
        .into_paginator()
        .send();
    let mut jobs = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| run.remote.failure(&what, &error))?;
        for object in page.contents() {
            let Some(key) = object.key() else { continue };
            // An empty object that ends in a slash is how some programs write a directory.
            if !key.ends_with('/') {
                let path = target.join(relative(key.strip_prefix(prefix).unwrap_or(key))?);
                jobs.push(Job {
                    key: key.to_owned(),
                    path,
                });
            }
        }
    }
    if jobs.is_empty() {
        let message = format!("nothing lies below s3://{bucket}/{prefix}");
        return Err(Failure::new(Exit::NotFound, "object", message));
    }
    Ok(jobs)
}

/// A key as a path that stays below the target, whoever wrote the key.
fn relative(key: &str) -> Outcome<PathBuf> {
    let path = Path::new(key);
    let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
    let same = path
        .components()
        .map(|part| part.as_os_str().len() + 1)
        .sum::<usize>()
        == key.len() + 1;
    if !key.is_empty() && !key.contains('\0') && same && path.components().all(plain) {
        return Ok(path.to_owned());
    }
    let message = format!("the key {key:?} is no path below a directory");
    Err(Failure::new(Exit::Invalid, "object", message).hint("Get it alone, to a file you name"))
}

async fn object(run: &Run, bucket: &str, job: &Job) -> Outcome<Item> {
    let url = format!("s3://{bucket}/{}", job.key);
    let head = run.remote.s3.head_object().bucket(bucket).key(&job.key);
    let head = head
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .map_err(|error| {
            let failure = run.remote.failure(&format!("look at {url}"), &error);
            if failure.exit() == Exit::NotFound {
                return failure.hint("A tree ends in a slash: s3://bucket/prefix/");
            }
            failure
        })?;
    let length = head
        .content_length()
        .and_then(|length| u64::try_from(length).ok());
    let length_bytes = length.ok_or_else(|| {
        Failure::new(Exit::Unavailable, "object", format!("{url} has no length")).hint("Try again")
    })?;
    let shown = [
        (Algorithm::Crc64Nvme, head.checksum_crc64_nvme()),
        (Algorithm::Crc32, head.checksum_crc32()),
        (Algorithm::Crc32c, head.checksum_crc32_c()),
        (Algorithm::Sha256, head.checksum_sha256()),
    ];
    let proof = checksum::proof(&shown, head.e_tag());
    run.progress.inc_length(length_bytes);
    let mut fetching = Fetching {
        run,
        bucket,
        job,
        url: &url,
        etag: head.e_tag().map(str::to_owned),
        length_bytes,
        part_bytes: run.part_bytes(length_bytes),
        proof,
    };
    fetching.know_parts().await;
    let fresh = Fresh::create(&job.path)?;
    let (verified, sum) = fetching.fetch(&fresh.file).await?;
    fresh.settle(run.existing)?;
    Ok(Item {
        source: url.clone(),
        target: job.path.display().to_string(),
        length_bytes,
        verified,
        checksum: sum,
    })
}

/// One object on its way.
struct Fetching<'a> {
    run: &'a Run,
    bucket: &'a str,
    job: &'a Job,
    url: &'a str,
    etag: Option<String>,
    length_bytes: u64,
    part_bytes: u64,
    proof: Proof,
}

impl Fetching<'_> {
    /// A checksum of parts' checksums can be proved only by parts of the same length.
    async fn know_parts(&mut self) {
        let Proof::Parts(_, _, count) = &self.proof else {
            return;
        };
        let s3 = &self.run.remote.s3;
        let first = s3
            .head_object()
            .bucket(self.bucket)
            .key(&self.job.key)
            .part_number(1)
            .send()
            .await;
        let length = first
            .ok()
            .and_then(|head| u64::try_from(head.content_length()?).ok());
        match length {
            Some(part @ 1..) if self.length_bytes.div_ceil(part) == *count => {
                self.part_bytes = part;
            }
            _ => self.proof = Proof::Nothing,
        }
    }

    /// All ranges into the file; then what proves them.
    async fn fetch(&self, file: &Arc<File>) -> Outcome<(String, Option<String>)> {
        let algorithm = match &self.proof {
            Proof::Whole(algorithm, _) if algorithm.combines() => Some(*algorithm),
            Proof::Parts(algorithm, _, _) => Some(*algorithm),
            Proof::Whole(_, _) | Proof::Nothing => None,
        };
        let count = self.length_bytes.div_ceil(self.part_bytes);
        let mut parts: Vec<(u64, Option<Running>)> = stream::iter(0..count)
            .map(|index| async move {
                let offset = index * self.part_bytes;
                let length = self.part_bytes.min(self.length_bytes - offset);
                let running = self.range(file, offset, length, algorithm).await?;
                Ok::<_, Failure>((index, running))
            })
            .buffer_unordered(self.run.jobs)
            .try_collect()
            .await?;
        parts.sort_by_key(|(index, _)| *index);
        let parts: Vec<Running> = parts
            .into_iter()
            .filter_map(|(_, running)| running)
            .collect();
        match &self.proof {
            Proof::Nothing => Ok(("length".into(), None)),
            Proof::Parts(algorithm, expected, count) => {
                let sums: Vec<Vec<u8>> = parts.into_iter().map(Running::bytes).collect();
                let found = checksum::composite(*algorithm, &sums);
                self.compare(
                    &format!("{} of {count} parts", algorithm.name()),
                    expected,
                    found,
                )
            }
            Proof::Whole(algorithm, expected) => {
                let mut whole = algorithm.begin();
                if algorithm.combines() {
                    parts.iter().for_each(|part| whole.append(part));
                } else {
                    whole = digest(file, *algorithm).await?;
                }
                let found = checksum::encode(&whole.bytes());
                self.compare(algorithm.name(), &checksum::encode(expected), found)
            }
        }
    }

    fn compare(
        &self,
        by: &str,
        expected: &str,
        found: String,
    ) -> Outcome<(String, Option<String>)> {
        if found == expected {
            return Ok((by.to_owned(), Some(found)));
        }
        let message = format!(
            "{}: what arrived has {by} {found}, the source says {expected}",
            self.url
        );
        Err(Failure::new(Exit::Corrupt, "object", message).hint("Nothing was kept; try again"))
    }

    async fn range(
        &self,
        file: &Arc<File>,
        offset: u64,
        length: u64,
        algorithm: Option<Algorithm>,
    ) -> Outcome<Option<Running>> {
        let _turn = self.run.flight.acquire().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut came = 0;
            match self.once(file, offset, length, algorithm, &mut came).await {
                Ok(running) => return Ok(running),
                // Only a body that broke off: the SDK has tried the request itself again already.
                Err(failure)
                    if failure.exit() == Exit::Unavailable && tries < TRIES && came > 0 =>
                {
                    self.run
                        .progress
                        .set_position(self.run.progress.position().saturating_sub(came));
                    tokio::time::sleep(Duration::from_millis(200 << tries)).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn once(
        &self,
        file: &Arc<File>,
        offset: u64,
        length: u64,
        algorithm: Option<Algorithm>,
        came: &mut u64,
    ) -> Outcome<Option<Running>> {
        let what = format!("get {}", self.url);
        let get = self
            .run
            .remote
            .s3
            .get_object()
            .bucket(self.bucket)
            .key(&self.job.key);
        // The whole object must be the one that was looked at, even if it is replaced meanwhile.
        let get = get
            .set_if_match(self.etag.clone())
            .range(format!("bytes={offset}-{}", offset + length - 1));
        let answer = get
            .send()
            .await
            .map_err(|error| self.run.remote.failure(&what, &error))?;
        let broke = |why: &dyn std::fmt::Display| {
            Failure::new(
                Exit::Unavailable,
                "object",
                format!("{} broke off", self.url),
            )
            .because(why)
        };
        let mut running = algorithm.map(Algorithm::begin);
        let mut body = answer.body;
        let mut gathered = Vec::with_capacity(WRITE_BYTES);
        loop {
            let piece = body.try_next().await.map_err(|error| broke(&error))?;
            let done = piece.is_none();
            if let Some(piece) = piece {
                if *came + (gathered.len() + piece.len()) as u64 > length {
                    return Err(broke(&"more bytes came than were asked for"));
                }
                if let Some(running) = &mut running {
                    running.update(&piece);
                }
                gathered.extend_from_slice(&piece);
            }
            if gathered.len() >= WRITE_BYTES || (done && !gathered.is_empty()) {
                let count = gathered.len() as u64;
                gathered = self.write(file, offset + *came, gathered).await?;
                *came += count;
                self.run.progress.inc(count);
            }
            if done {
                break;
            }
        }
        if *came == length {
            Ok(running)
        } else {
            Err(broke(&"fewer bytes came than were asked for"))
        }
    }

    /// Writes and gives the buffer back, empty.
    async fn write(&self, file: &Arc<File>, offset: u64, mut bytes: Vec<u8>) -> Outcome<Vec<u8>> {
        let file = Arc::clone(file);
        let written = tokio::task::spawn_blocking(move || {
            file.write_all_at(&bytes, offset)?;
            bytes.clear();
            Ok(bytes)
        });
        written
            .await
            .map_err(lost)?
            .map_err(|error: std::io::Error| {
                Failure::io(format_args!("write {}", self.job.path.display()), &error)
            })
    }
}

/// Digests what lies in the file now; such digests cannot be put together from parts.
async fn digest(file: &Arc<File>, algorithm: Algorithm) -> Outcome<Running> {
    let file = Arc::clone(file);
    let digested = tokio::task::spawn_blocking(move || {
        let mut running = algorithm.begin();
        let mut buffer = vec![0; WRITE_BYTES];
        let mut offset = 0;
        loop {
            let count = file.read_at(&mut buffer, offset)?;
            if count == 0 {
                return Ok(running);
            }
            running.update(&buffer[..count]);
            offset += count as u64;
        }
    });
    digested
        .await
        .map_err(lost)?
        .map_err(|error: std::io::Error| Failure::io("read back what was fetched", &error))
}

/// A file that grows beside its target and takes its name only when it is whole.
struct Fresh {
    file: Arc<File>,
    path: PathBuf,
    target: PathBuf,
}

impl Fresh {
    fn create(target: &Path) -> Outcome<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".infall-{}", std::process::id()));
        let path = target.with_file_name(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|error| Failure::io(format_args!("create {}", target.display()), &error))?;
        Ok(Self {
            file: Arc::new(file),
            path,
            target: target.to_owned(),
        })
    }

    /// Syncs and takes the target's name.
    fn settle(self, existing: Existing) -> Outcome {
        let target = self.target.display();
        let failed = |error: &std::io::Error| Failure::io(format_args!("write {target}"), error);
        self.file.sync_all().map_err(|error| failed(&error))?;
        if existing == Existing::Replace {
            std::fs::rename(&self.path, &self.target).map_err(|error| failed(&error))?;
        } else {
            // A link never replaces what somebody made since we looked.
            std::fs::hard_link(&self.path, &self.target).map_err(|error| failed(&error))?;
        }
        let parent = self
            .target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|error| failed(&error))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // After a rename there is nothing under this name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_key_does_not_leave_the_target() {
        for key in [
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a//b",
            "./a",
            "a/.",
            "",
            "a\0b",
            "a/",
        ] {
            let failure = relative(key).unwrap_err();
            assert_eq!(failure.exit(), Exit::Invalid, "{key:?}");
        }
        for key in ["a", "a/b c", "..a/b..", "ä/ö"] {
            assert_eq!(relative(key).unwrap(), Path::new(key));
        }
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("t");
        drop(Fresh::create(&target).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let fresh = Fresh::create(&target).unwrap();
        fresh.file.write_all_at(b"new", 0).unwrap();
        fresh.settle(Existing::Refuse).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        let again = Fresh::create(&target).unwrap();
        assert_eq!(
            again.settle(Existing::Refuse).unwrap_err().exit(),
            Exit::Conflict
        );
        let again = Fresh::create(&target).unwrap();
        again.settle(Existing::Replace).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_digest_is_of_what_lies_in_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &vec![7u8; 3 << 20]).unwrap();
        let mut expected = Algorithm::Sha256.begin();
        expected.update(&vec![7u8; 3 << 20]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let found = runtime
            .block_on(digest(&Arc::new(file), Algorithm::Sha256))
            .unwrap();
        assert_eq!(found.bytes(), expected.bytes());
    }
}
