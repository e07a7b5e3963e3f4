//! `infall stage`: files and trees to and from any S3, in parallel parts, verified end to end.
//!
//! 1. Memory is bounded by `--jobs` times the part size, whatever is copied.
//! 2. A target appears whole and verified, or not at all: a failed or interrupted upload is
//!    aborted, a download grows beside its target and is renamed at the end.
//! 3. What is there already is never touched unless `--existing replace` says so.

mod checksum;
mod get;
mod put;
mod remote;

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use crate::units::parse_bytes;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use remote::Remote;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Parts are at least this long, so that requests cost little beside their bytes.
const PART_BYTES_MIN: u64 = 8 << 20;
/// Parts are at most this long unless 10,000 of them would not hold the file.
const PART_BYTES_MAX: u64 = 64 << 20;
/// Parts of one object at most (Amazon S3 User Guide, "Multipart upload limits").
const PARTS_MAX: u64 = 10_000;
/// Parts in flight together hold at most this many bytes.
const FLIGHT_BYTES_MAX: u64 = 256 << 20;

/// Copies to and from S3.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Copy a file or a tree to S3
    #[command(after_help = "\
Target: s3://bucket/key names the object of a file; s3://bucket or s3://bucket/prefix/ takes the
file's own name below it. A directory becomes one object per regular file, named by its path below
the prefix; links and special files inside are left out and named, empty directories have no form
in S3.
Existing objects: refused before anything is sent (exit 5), unless --existing replace or keep.
Verified: every part and the whole object carry a checksum that the target compares.

Examples:
  infall stage put disk.qcow2 s3://images/
  infall stage put ./results s3://data/run-7/ --existing keep
  infall stage put big.raw s3://images/big.raw --jobs 8 --part 32MiB --checksum sha256
  AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… \\
    infall stage put disk.raw s3://backup/disk.raw --s3 https://s3.example.org --region eu-1")]
    Put(Put),
    /// Copy an object or everything below a prefix to files
    #[command(after_help = "\
Source: s3://bucket/key names one object; s3://bucket or s3://bucket/prefix/ names everything below.
Target: for one object a file, or a directory that exists; for many a directory, made if needed.
Existing files: refused before anything is fetched (exit 5), unless --existing replace or keep.
Verified: against the object's checksum (CRC, SHA-256, or the MD5 in its ETag); the output names
which, or \"length\" where the source has none.

Examples:
  infall stage get s3://images/web1-monday.raw .
  infall stage get s3://data/run-7/ ./results --existing keep
  infall stage get s3://backup/disk.raw disk.raw --s3 https://s3.example.org --region eu-1 --json")]
    Get(Get),
}

/// Copies to S3.
#[derive(Clone, Debug, Args)]
pub(crate) struct Put {
    /// A file or a directory
    source: PathBuf,
    /// s3://bucket/key, s3://bucket/prefix/ or s3://bucket
    target: String,
    /// What the target keeps to verify by
    #[arg(long, value_enum, default_value_t = Keep::Crc32)]
    checksum: Keep,
    #[command(flatten)]
    how: How,
}

/// Copies from S3.
#[derive(Clone, Debug, Args)]
pub(crate) struct Get {
    /// s3://bucket/key, s3://bucket/prefix/ or s3://bucket
    source: String,
    /// A file or a directory
    target: PathBuf,
    #[command(flatten)]
    how: How,
}

/// How to copy, and with which S3.
#[derive(Clone, Debug, Args)]
pub(crate) struct How {
    /// What to do where the target exists
    #[arg(long, value_enum, default_value_t = Existing::Refuse)]
    existing: Existing,
    /// Requests at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Bytes of a part, 8MiB to 64MiB [default: by length]
    #[arg(long, value_parser = part_bytes)]
    part: Option<u64>,
    /// Another S3 than this server; its key comes from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_name = "URL")]
    s3: Option<String>,
    /// Its region [default: AWS_REGION, else us-east-1]
    #[arg(long, requires = "s3")]
    region: Option<String>,
}

/// What to do where the target exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Existing {
    /// Stop before anything is copied
    Refuse,
    /// Put the new one in its place
    Replace,
    /// Leave it as it is and go on
    Keep,
}

/// The checksum that an upload asks its target to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Keep {
    /// CRC-32 over the whole object
    Crc32,
    /// SHA-256; over the parts' digests where there are several
    Sha256,
}

/// One file copied.
#[derive(Clone, Debug, Serialize)]
struct Item {
    source: String,
    target: String,
    length_bytes: u64,
    /// What proved that both sides hold the same bytes: `crc32`, `sha256`, `crc32 of 12 parts`, `length`.
    verified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

/// What a copy did.
#[derive(Debug, Serialize)]
struct Report {
    copied: Vec<Item>,
    /// Targets that were there and stayed.
    kept: Vec<String>,
    /// Links and special files that were left out.
    left_out: Vec<String>,
    length_bytes: u64,
    seconds: f64,
}

/// What all copies of one run share.
struct Run {
    remote: Remote,
    existing: Existing,
    part: Option<u64>,
    jobs: usize,
    flight: Arc<Semaphore>,
    progress: ProgressBar,
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let began = Instant::now();
    let how = match &verb {
        Verb::Put(put) => &put.how,
        Verb::Get(get) => &get.how,
    };
    let run = Run {
        remote: Remote::new(context, how.s3.as_deref(), how.region.as_deref())?,
        existing: how.existing,
        part: how.part,
        jobs: usize::from(how.jobs),
        flight: Arc::new(Semaphore::new(usize::from(how.jobs))),
        progress: progress(context.json),
    };
    let copy = async {
        match &verb {
            Verb::Put(put) => put::put(&run, &put.source, &put.target, put.checksum).await,
            Verb::Get(get) => get::get(&run, &get.source, &get.target).await,
        }
    };
    let outcome = tokio::select! {
        outcome = copy => outcome,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Exit::Internal, "stage", "interrupted; nothing half done is left behind"))
        }
    };
    run.progress.finish_and_clear();
    run.remote.abort_open_uploads().await;
    let mut report = outcome?;
    report.seconds = began.elapsed().as_secs_f64();
    context.show(&report, || lines(&report));
    Ok(())
}

impl Run {
    /// Bytes of a part of a file so long: as told, else enough to keep the parts few.
    fn part_bytes(&self, length_bytes: u64) -> u64 {
        part_for(length_bytes, self.part)
    }

    /// How many parts of this size may be in memory together.
    fn parts_in_flight(&self, part_bytes: u64) -> usize {
        let fits = usize::try_from(FLIGHT_BYTES_MAX / part_bytes.max(1)).unwrap_or(usize::MAX);
        self.jobs.min(fits).max(1)
    }
}

fn part_for(length_bytes: u64, asked: Option<u64>) -> u64 {
    let needed = length_bytes.div_ceil(PARTS_MAX).next_multiple_of(1 << 20);
    // About a hundred parts: few requests, and still something to do in parallel.
    let few = (length_bytes / 100)
        .next_multiple_of(1 << 20)
        .clamp(PART_BYTES_MIN, PART_BYTES_MAX);
    asked.unwrap_or(few).max(needed)
}

fn part_bytes(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text)?;
    if (PART_BYTES_MIN..=PART_BYTES_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("a part has 8MiB to 64MiB".into())
    }
}

/// A bar for people; nothing where nobody looks.
fn progress(json: bool) -> ProgressBar {
    use std::io::IsTerminal;
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    let template = "{bar:30} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  \
                    {binary_bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar
}

fn lines(report: &Report) -> String {
    let mut text = String::new();
    // A tree is summed up; its files are in --json.
    if let [one] = report.copied.as_slice() {
        text.push_str(&format!(
            "{} → {}  ",
            render::plain(&one.source),
            render::plain(&one.target)
        ));
    } else {
        text.push_str(&format!(
            "{}  ",
            render::count(report.copied.len() as u64, "file")
        ));
    }
    let time = Duration::from_secs_f64(report.seconds);
    text.push_str(&format!(
        "{}  {}",
        render::bytes(report.length_bytes),
        render::duration(time)
    ));
    if report.seconds > 0.0 && report.length_bytes > 0 {
        let megabytes = report.length_bytes as f64 / 1e6 / report.seconds;
        text.push_str(&format!("  {megabytes:.0} MB/s"));
    }
    let mut proofs: Vec<&str> = report
        .copied
        .iter()
        .map(|item| item.verified.as_str())
        .collect();
    proofs.sort_unstable();
    proofs.dedup();
    match proofs.as_slice() {
        [] => {}
        [.., _, _, _, _] => text.push_str("  verified"),
        few => text.push_str(&format!("  verified by {}", few.join(", "))),
    }
    text.push('\n');
    if !report.kept.is_empty() {
        text.push_str(&format!(
            "{} kept as they were\n",
            render::count(report.kept.len() as u64, "target")
        ));
    }
    for name in &report.left_out {
        text.push_str(&format!(
            "left out, neither file nor directory: {}\n",
            render::plain(name)
        ));
    }
    text
}

/// Bucket and key or prefix of `s3://bucket[/key]`.
fn location(url: &str) -> Outcome<(&str, &str)> {
    gateway::api::s3_url(url).ok_or_else(|| {
        let message = format!("{url:?} is not s3://bucket/key");
        Failure::new(Exit::Usage, "object", message)
    })
}

/// A thread that did not come back is a defect of ours.
fn lost(error: tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Internal, "stage", "a thread of the copy broke off").because(error)
}

/// What `existing` refuses, with a few of the names.
fn refuse_existing(there: &[String]) -> Failure {
    let few: Vec<&str> = there.iter().take(3).map(String::as_str).collect();
    let more = there.len() - few.len();
    let mut names = few.join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    Failure::new(
        Exit::Conflict,
        "stage",
        format!("there already: {names}; nothing was copied"),
    )
    .hint("Choose: --existing replace, --existing keep, or another target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_bounded_and_never_more_than_s3_takes() {
        assert_eq!(part_for(0, None), PART_BYTES_MIN);
        assert_eq!(part_for(1 << 30, None), 11 << 20);
        assert_eq!(part_for(100 << 30, None), PART_BYTES_MAX);
        for length in [1u64 << 20, 5 << 30, 640 << 30, 5 << 40] {
            for asked in [None, Some(PART_BYTES_MIN), Some(PART_BYTES_MAX)] {
                let part = part_for(length, asked);
                assert!(length.div_ceil(part) <= PARTS_MAX, "{length} {asked:?}");
                assert!(part >= PART_BYTES_MIN);
            }
        }
        assert!(part_bytes("4MiB").is_err());
        assert_eq!(part_bytes("32MiB"), Ok(32 << 20));
    }

    #[test]
    fn what_is_there_already_is_named() {
        let names: Vec<String> = (1..=5).map(|number| format!("f{number}")).collect();
        let text = refuse_existing(&names).to_string();
        assert!(text.contains("f1, f2, f3 and 2 more"), "{text}");
        assert!(text.contains("--existing replace"), "{text}");
    }
}
