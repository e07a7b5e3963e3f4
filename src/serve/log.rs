//! Structured logs to stderr.

use crate::exit::{Exit, Failure, Outcome};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. `filter` is a level, or directives such as `info,blockstore=debug`.
pub(crate) fn start(filter: &str, json: bool) -> Outcome {
    // fuser warns of each optional operation that the kernel asks for once; s3s logs every request that
    // it refuses as an error, which the client was told and nobody must look at.
    let parsed = EnvFilter::try_new(format!("fuser=error,s3s=off,{filter}")).map_err(|error| {
        Failure::new(
            Exit::Usage,
            "config",
            format!("log.level = {filter:?} is not a log filter"),
        )
        .because(error)
        .hint("Write error, warn, info, debug, trace, or info,blockstore=debug")
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    let started = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .try_init()
    };
    started
        .map_err(|error| Failure::new(Exit::Internal, "log", "cannot start logging").because(error))
}
