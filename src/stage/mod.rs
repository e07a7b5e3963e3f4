//! `infall stage`: files and trees between any two of: this machine, S3, WebDAV, CDMI, the web.
//!
//! ```text
//! location ─► side ─► remote::{local, s3, http, dav, cdmi}     who is spoken to
//!                         │ list, look
//!             filter ─► plan ◄─ verdict                       what to do: pure
//!                         │
//!                     transfer ◄─► journal                    pieces, proofs, going on
//!                         │
//!                  manifest, report                           what was done
//! ```
//!
//! 1. Memory is bounded, whatever is copied: 256 MiB of pieces in flight, and listings of at most
//!    `--entries-max` entries.
//! 2. A target appears whole and verified, or not at all; what breaks off is continued by the next
//!    run of the same copy.
//! 3. What is there already is never touched unless `--existing replace` or `sync` says so.
//! 4. The whole plan stands before the first byte travels; what it refuses, it refuses then.

mod arguments;
mod checksum;
mod copying;
mod filter;
mod journal;
mod location;
mod manifest;
mod names;
mod pace;
mod plan;
mod refusal;
mod remote;
mod report;
mod retry;
mod side;
mod transfer;
mod verdict;
mod verifying;

pub(crate) use arguments::Verb;

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use copying::copying;
pub(crate) use location::decode;
use plan::Policy;
use std::time::Instant;
use verifying::verifying;

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let began = Instant::now();
    let work = async {
        match verb {
            Verb::Put(copy) => {
                if copy.target.is_local() {
                    let message = format!(
                        "{} is no URL: put copies to one, such as s3://bucket/key",
                        copy.target
                    );
                    return Err(Failure::new(Exit::Usage, "stage", message)
                        .hint("From a URL: infall stage get"));
                }
                let places = (&copy.source, &copy.target);
                copying(context, places, copy.existing.into(), &copy.how).await
            }
            Verb::Get(copy) => {
                if copy.source.is_local() {
                    let message = format!(
                        "{} is no URL: get copies from one, such as s3://bucket/key",
                        copy.source
                    );
                    return Err(Failure::new(Exit::Usage, "stage", message)
                        .hint("To a URL: infall stage put"));
                }
                let places = (&copy.source, &copy.target);
                copying(context, places, copy.existing.into(), &copy.how).await
            }
            Verb::Sync(sync) => {
                let policy = Policy::Sync {
                    compare: sync.compare,
                    delete: sync.delete,
                };
                copying(context, (&sync.source, &sync.target), policy, &sync.how).await
            }
            Verb::Verify(verify) => verifying(context, &verify).await,
        }
    };
    let mut report = tokio::select! {
        outcome = Box::pin(work) => outcome?,
        () = told_to_end() => {
            let message = "interrupted; run it again, and only what is missing travels";
            return Err(Failure::new(Exit::Interrupted, "stage", message));
        }
    };
    report.seconds = began.elapsed().as_secs_f64();
    let outcome = report.outcome();
    // One file that failed says it all by its error.
    let alone = report.failed.len() == 1
        && report.copied.is_empty()
        && report.same.is_empty()
        && report.kept.is_empty();
    if !alone {
        context.show(&report, || report.lines());
    }
    outcome
}

async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
    }
}

/// A thread that did not come back is a defect of ours.
fn lost(error: tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Internal, "stage", "a thread of the copy broke off").because(error)
}
