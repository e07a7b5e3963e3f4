//! `infall stage verify`: everything is read, and compared with a manifest.

use super::arguments::Verify;
use super::copying::{failed, listed};
use super::pace::Pace;
use super::plan::Entry;
use super::report::{self, Report};
use super::retry::Retry;
use super::side::{Opener, Role};
use super::transfer::{self, Flight, Run};
use super::{checksum, manifest};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use futures::{StreamExt, stream};
use std::sync::Arc;

/// Does it.
pub(super) async fn verifying(context: &Context, verify: &Verify) -> Outcome<Report> {
    let against = manifest::read(&verify.against, verify.reach.entries_max)?;
    let place = verify.place.clone().into_tree();
    let pace = Arc::new(Pace::new(verify.reach.bandwidth));
    let opener = Opener {
        context,
        s3: verify.reach.s3.as_deref(),
        region: verify.reach.region.as_deref(),
        pace: &pace,
    };
    let side = opener.open(Role::Source, &place, None)?;
    let run = Run {
        source: Arc::clone(&side),
        target: Arc::clone(&side),
        scope: String::new(),
        flight: Flight::new(usize::from(verify.reach.jobs)),
        pace,
        retry: Retry {
            times: verify.reach.retries,
        },
        piece_bytes: None,
        keep: checksum::Algorithm::Crc32,
        wants_sha256: true,
        reads_back: false,
        journals: std::path::PathBuf::new(),
        resumes: false,
        progress: report::progress(context.json),
    };
    let (found, _) = listed(&run, &side, &verify.filter, false, verify.reach.entries_max).await?;
    let mut report = Report {
        left_out: found.left_out,
        compared: true,
        ..Report::default()
    };
    let compare = |path: String, entry: Entry| {
        let (run, side, against) = (&run, &side, &against);
        async move {
            let url = side.url(&path);
            let Some(line) = against.get(&path) else {
                let message = format!("{path:?} is not in the manifest");
                return Err((url, Failure::new(Exit::Corrupt, "manifest", message)));
            };
            // As it was looked at, with the ETag that its reading is held to.
            let entry = match run.retry.run(|| side.stat(&path)).await {
                Ok(looked) => looked.unwrap_or(entry),
                Err(failure) => return Err((url, failure)),
            };
            match transfer::sha256(run, side.as_ref(), &entry).await {
                Ok(sha256) if sha256 == line.sha256 => Ok((url, line.size)),
                Ok(sha256) => {
                    let message = format!(
                        "{url} has the SHA-256 {sha256}, the manifest says {}",
                        line.sha256
                    );
                    Err((url, Failure::new(Exit::Corrupt, "manifest", message)))
                }
                Err(failure) => Err((url, failure)),
            }
        }
    };
    let missing: Vec<String> = against
        .keys()
        .filter(|path| verify.filter.takes(path) && !found.entries.contains_key(*path))
        .map(|path| side.url(path))
        .collect();
    let jobs = usize::from(verify.reach.jobs);
    let mut compared = stream::iter(found.entries)
        .map(|(path, entry)| compare(path, entry))
        .buffer_unordered(jobs);
    while let Some(one) = compared.next().await {
        match one {
            Ok((url, size)) => {
                report.length_bytes += size;
                report.same.push(url);
            }
            Err((url, failure)) => report.failed.push(failed(url, failure)),
        }
    }
    for url in missing {
        let failure = Failure::new(Exit::Corrupt, "manifest", format!("{url} is missing"));
        report.failed.push(failed(url, failure));
    }
    if report.same.is_empty() && report.failed.is_empty() {
        let message = format!("no file of {place} is left by the patterns");
        return Err(Failure::new(Exit::Nothing, "stage", message));
    }
    report.same.sort();
    report
        .failed
        .sort_by(|one, other| one.path.cmp(&other.path));
    Ok(report)
}
