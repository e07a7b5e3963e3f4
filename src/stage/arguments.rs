//! What the command line of `infall stage` takes.

use super::checksum::Algorithm;
use super::filter::{Filter, Pattern, Rule};
use super::location::Place;
use super::plan::{Compare, Policy};
use super::transfer::{PIECE_BYTES_MAX, PIECE_BYTES_MIN};
use crate::units::parse_bytes;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What `--help` of each verb ends with.
const MORE: &str = "\
Places: a path; s3://bucket/key (this server, or --s3 URL); s3+https://host/bucket/key;
http:// https:// (reads; writes where the server takes PUT); dav:// davs:// (WebDAV);
cdmi:// cdmis:// (CDMI). A trailing slash, a bucket or a directory is a tree.
Keys: this server's own for it; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for another S3;
INFALL_SOURCE_… and INFALL_TARGET_… for one side: ACCESS_KEY, SECRET_KEY, SESSION_TOKEN for S3,
TOKEN or USER and PASSWORD for the others.
Killed in the middle: run it again, and only what is missing travels.
Exit codes: 0 all done, 3 no server, 4 no such source, 5 there already or in use, 6 denied,
7 no space, 8 not what it should be (checksum, manifest), 9 refused (names, values),
10 nothing matched, 11 partly done, 12 interrupted. More: docs/STAGING.md";

fn taught(examples: &str) -> String {
    format!("{examples}\n\n{MORE}")
}

/// Copies between places.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Copy a file or a tree to S3, WebDAV, CDMI or a web server
    #[command(after_help = taught("\
A directory becomes one object per regular file, named by its path below the prefix; links and
special files are left out and named. What is there already with the same content is left alone,
with another content refused before anything is sent (exit 5), unless --existing replace or keep.

Examples:
  infall stage put disk.qcow2 s3://images/
  infall stage put ./results s3://data/run-7/ --exclude '*.tmp' --manifest run-7.manifest
  infall stage put big.raw s3://images/big.raw --jobs 8 --part 32MiB --bandwidth 20MiB
  infall stage put ./results davs://dav.example.org/run-7/
  infall stage put disk.raw s3+https://s3.example.org/backup/disk.raw --region eu-1"))]
    Put(Copy),
    /// Copy an object or a tree from S3, WebDAV, CDMI or a web server
    #[command(after_help = taught("\
Target: for one object a file, or a directory that exists; for a tree a directory, made if needed.
Files appear whole and verified, or not at all. What is there already with the same content is left
alone, with another content refused (exit 5), unless --existing replace or keep.

Examples:
  infall stage get s3://images/web1-monday.raw .
  infall stage get s3://data/run-7/ ./results --against run-7.manifest
  infall stage get https://cloud.example.org/images/debian-12.qcow2 .
  infall stage get cdmi://127.0.0.1:9000/cdmi/data/ ./data --include '*.csv' --dry-run
  infall stage get s3://backup/disk.raw disk.raw --s3 https://s3.example.org --region eu-1 --json"))]
    Get(Copy),
    /// Make a target like its source: copy what differs, delete only with --delete
    #[command(after_help = taught("\
Both are trees. Same means as long, and the target not older; --compare checksum wants proof.
--delete takes away what the source does not have, after all copies succeeded; what --exclude
takes out is neither copied nor deleted.

Examples:
  infall stage sync ./site s3://site/ --delete --dry-run
  infall stage sync s3://data/ s3+https://s3.example.org/data-copy/ --compare checksum
  infall stage sync davs://dav.example.org/in/ ./in --exclude '*' --include '*.csv'"))]
    Sync(Sync),
    /// Read a place and compare it with a manifest
    #[command(after_help = taught("\
Every file is read and its SHA-256 compared; a file that is missing or not in the manifest is
named, as is one that differs (exit 8).

Examples:
  infall stage verify ./results --against run-7.manifest
  infall stage verify s3://data/run-7/ --against run-7.manifest --json"))]
    Verify(Verify),
}

/// Copies.
#[derive(Clone, Debug, Args)]
pub(crate) struct Copy {
    /// Where from
    pub(crate) source: Place,
    /// Where to
    pub(crate) target: Place,
    /// What to do where the target exists with another content
    #[arg(long, value_enum, default_value_t = Existing::Refuse)]
    pub(crate) existing: Existing,
    #[command(flatten)]
    pub(crate) how: How,
}

/// Copies what differs.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sync {
    /// Where from
    pub(crate) source: Place,
    /// Where to
    pub(crate) target: Place,
    /// What makes two files the same
    #[arg(long, value_enum, default_value_t = Compare::Time)]
    pub(crate) compare: Compare,
    /// Delete at the target what the source does not have
    #[arg(long)]
    pub(crate) delete: bool,
    #[command(flatten)]
    pub(crate) how: How,
}

/// Compares with a manifest.
#[derive(Clone, Debug, Args)]
pub(crate) struct Verify {
    /// What to read
    pub(crate) place: Place,
    /// The manifest
    #[arg(long, value_name = "FILE")]
    pub(crate) against: PathBuf,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// How to copy.
#[derive(Clone, Debug, Args)]
pub(crate) struct How {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Say what would be done, do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write path, size, SHA-256 and ETag of every file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Let nothing appear that a manifest does not name with this content
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Bytes of a part, 8MiB to 64MiB [default: by length]
    #[arg(long, value_parser = part_bytes)]
    pub(crate) part: Option<u64>,
    /// What S3 is to keep to verify by
    #[arg(long, value_enum, default_value_t = Keep::Crc32)]
    pub(crate) checksum: Keep,
    /// Begin anew, and leave nothing half done behind
    #[arg(long)]
    pub(crate) no_resume: bool,
    /// Do not read back what WebDAV, CDMI and web servers cannot prove
    #[arg(long)]
    pub(crate) no_read_back: bool,
    /// Let names differ in case or normalisation only, where the target is a file system
    #[arg(long)]
    pub(crate) similar_names: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// How to reach places, and how much of them.
#[derive(Clone, Debug, Args)]
pub(crate) struct Reach {
    /// Requests at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: u16,
    /// Bytes a second over all transfers, such as 20MiB
    #[arg(long, value_name = "BYTES", value_parser = bandwidth)]
    pub(crate) bandwidth: Option<u64>,
    /// How often to try again what may pass
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) retries: u32,
    /// Entries of a listing at most
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) entries_max: usize,
    /// Another S3 for s3:// than this server; its key comes from the environment
    #[arg(long, value_name = "URL")]
    pub(crate) s3: Option<String>,
    /// The region of another S3 [default: AWS_REGION, else us-east-1]
    #[arg(long)]
    pub(crate) region: Option<String>,
}

/// What to do where the target exists with another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Existing {
    /// Stop before anything is copied
    Refuse,
    /// Put the new one in its place
    Replace,
    /// Leave it as it is and go on
    Keep,
}

/// The checksum that an upload asks S3 to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Keep {
    /// CRC-32 over the whole object
    Crc32,
    /// SHA-256; over the parts' digests where there are several
    Sha256,
}

impl From<Existing> for Policy {
    fn from(existing: Existing) -> Self {
        match existing {
            Existing::Refuse => Self::Refuse,
            Existing::Replace => Self::Replace,
            Existing::Keep => Self::Keep,
        }
    }
}

impl From<Keep> for Algorithm {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::Crc32 => Self::Crc32,
            Keep::Sha256 => Self::Sha256,
        }
    }
}

fn part_bytes(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text)?;
    if (PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("a part has 8MiB to 64MiB".into())
    }
}

fn bandwidth(text: &str) -> Result<u64, String> {
    match parse_bytes(text.trim_end_matches("/s"))? {
        0 => Err("a limit of nothing would never end".into()),
        bytes => Ok(bytes),
    }
}

// The two flags count in the order they stand in together, which derived fields do not tell.
impl FromArgMatches for Filter {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut rules = Vec::new();
        for (id, include) in [("include", true), ("exclude", false)] {
            let places = matches.indices_of(id).into_iter().flatten();
            let patterns = matches.get_many::<Pattern>(id).into_iter().flatten();
            let rule = |pattern: &Pattern| Rule {
                include,
                pattern: pattern.clone(),
            };
            rules.extend(places.zip(patterns.map(rule)));
        }
        rules.sort_by_key(|(place, _)| *place);
        Ok(Self(rules.into_iter().map(|(_, rule)| rule).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Filter {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flag = |id: &'static str, help: &'static str| {
            Arg::new(id)
                .long(id)
                .value_name("GLOB")
                .help(help)
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(Pattern))
        };
        command
            .arg(flag(
                "include",
                "Take what matches, though an --exclude before took it out",
            ))
            .arg(flag(
                "exclude",
                "Leave out what matches; of all patterns the last that matches decides",
            ))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        verb: Verb,
    }

    fn parse(words: &[&str]) -> Result<Verb, clap::Error> {
        let all = std::iter::once("stage").chain(words.iter().copied());
        Line::try_parse_from(all).map(|line| line.verb)
    }

    #[test]
    fn patterns_keep_the_order_they_stand_in() {
        let words = [
            "sync",
            "a",
            "b",
            "--exclude",
            "*",
            "--include",
            "*.csv",
            "--exclude",
            "x*",
        ];
        let Verb::Sync(sync) = parse(&words).unwrap() else {
            panic!("no sync")
        };
        let includes: Vec<bool> = sync.how.filter.0.iter().map(|rule| rule.include).collect();
        assert_eq!(includes, [false, true, false]);
        assert!(sync.how.filter.takes("a.csv") && !sync.how.filter.takes("x.csv"));
    }

    #[test]
    fn values_without_sense_are_refused() {
        for words in [
            &["put", "a", "gopher://x"][..],
            &["put", "a", "s3://b", "--bandwidth", "0"],
            &["put", "a", "s3://b", "--part", "4MiB"],
            &["put", "a", "s3://b", "--exclude", "["],
            &["get", "http://u:p@h/x", "."],
            &["verify", "a"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
