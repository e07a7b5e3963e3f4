//! `infall check`: is what is stored what was written?
//!
//! A running server checks its own store; otherwise the data directory is opened here, as `serve`
//! would (so its recovery runs too), and closed again.

use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use crate::server_file::ServerFile;
use blockstore::{CheckReport, Store};
use clap::Args;
use gateway::api::CheckAsk;

/// How to check.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Compares maps with locations and pins, and names leaks in bytes. Ends with exit code 8 if anything
is wrong. Without a server it opens the data directory itself, like serve would.

Examples:
  infall check
  infall check --scrub                           also read and verify every live block
  infall --data /srv/infall check --json")]
pub(crate) struct Arguments {
    /// Also read and verify every live block
    #[arg(long)]
    scrub: bool,
}

/// Does it.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Outcome {
    let ask = CheckAsk {
        scrub: arguments.scrub,
    };
    let online = context.config.endpoint().is_some() || ServerFile::read(&context.data()?).is_ok();
    if online {
        let path = Path::new(["store", "check"]);
        match context.client()?.post::<CheckReport>(&path, &ask).await {
            Ok(report) => return conclude(context, &report),
            // A killed server leaves its server.json behind: look for ourselves.
            Err(gone)
                if gone.exit() == Exit::Unavailable && context.config.endpoint().is_none() => {}
            Err(failure) => return Err(failure),
        }
    }
    let data = context.data()?;
    if !data.is_dir() {
        let message = format!("no data directory {}", data.display());
        return Err(Failure::new(Exit::NotFound, "store", message).hint("Name one: --data DIR"));
    }
    let options = blockstore::Options {
        collector: false,
        ..context.config.store()?
    };
    let checked = tokio::task::spawn_blocking(move || {
        let store = Store::open(&data, options)?;
        let report = store.check(ask.scrub);
        store.close()?;
        report
    });
    let report = checked.await.map_err(|error| {
        Failure::new(Exit::Internal, "store", "the check did not come to its end").because(error)
    })??;
    conclude(context, &report)
}

/// Prints the findings; problems are a failure with exit code 8.
pub(crate) fn conclude(context: &Context, report: &CheckReport) -> Outcome {
    context.show(report, || {
        let mut text = format!(
            "{}, {}, {}, {} · leaked {}",
            render::count(report.maps, "map"),
            render::count(report.births, "birth"),
            render::count(report.segments, "segment"),
            render::count(report.pins, "pin"),
            render::bytes(report.leaked_bytes),
        );
        if report.scrubbed_bytes > 0 {
            text.push_str(&format!(
                " · read and verified {}",
                render::bytes(report.scrubbed_bytes)
            ));
        }
        text.push_str(if report.problems.is_empty() {
            " · sound\n"
        } else {
            "\n"
        });
        for problem in &report.problems {
            text.push_str(&format!("problem: {}\n", render::plain(problem)));
        }
        text
    });
    if report.problems.is_empty() {
        return Ok(());
    }
    let found = render::count(report.problems.len() as u64, "problem");
    Err(
        Failure::new(Exit::Corrupt, "store", format!("the check found {found}"))
            .hint("Keep the directory as it is, and restore what is named from a copy"),
    )
}
