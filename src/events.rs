//! `infall events`: the journal, from any point, and onwards.

use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Outcome};
use crate::render;
use blockstore::Event;
use clap::Args;
use gateway::api::{EVENTS_MAX, EventPage, WAIT_MS_MAX};
use std::time::Duration;

/// What to read.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Every event has a number; --after goes on behind one, so that a reader misses nothing and reads
nothing twice. With --json each event is one line.

Examples:
  infall events
  infall events --follow
  infall events --after 1041 --max 100
  infall events --follow --json | jq -r 'select(.kind == \"volume.created\") | .subject'")]
pub(crate) struct Arguments {
    /// Go on with what comes; also over a restart of the server
    #[arg(long, short)]
    follow: bool,
    /// Only events behind this number
    #[arg(
        long,
        value_name = "SEQ",
        default_value_t = 0,
        hide_default_value = true
    )]
    after: u64,
    /// Stop after so many
    #[arg(long, value_name = "COUNT")]
    max: Option<usize>,
}

/// Does it.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Outcome {
    let mut cursor = arguments.after;
    let mut left = arguments.max.unwrap_or(usize::MAX);
    let mut client = context.client()?;
    let mut reached = false;
    while left > 0 {
        let path = Path::new(["events"]).query([
            ("after", Some(cursor.to_string())),
            ("max", Some(left.min(EVENTS_MAX).to_string())),
            ("wait_ms", arguments.follow.then(|| WAIT_MS_MAX.to_string())),
        ]);
        let page: EventPage = match client.get(&path).await {
            Ok(page) => page,
            // The cursor is ours, so nothing is lost while the server restarts, also elsewhere.
            Err(gone) if arguments.follow && reached && gone.exit() == Exit::Unavailable => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Ok(again) = context.client() {
                    client = again;
                }
                continue;
            }
            Err(failure) => return Err(failure),
        };
        reached = true;
        for event in &page.events {
            render::print(&line(context, event));
        }
        left -= page.events.len().min(left);
        cursor = page.cursor;
        if page.events.is_empty() && !arguments.follow {
            break;
        }
    }
    Ok(())
}

fn line(context: &Context, event: &Event) -> String {
    if context.json {
        return format!("{}\n", serde_json::to_string(event).unwrap_or_default());
    }
    let mut text = format!(
        "{:>6}  {}  {:<20}  {}  by {}",
        event.seq,
        render::time(event.time_ms),
        event.kind,
        render::plain(&event.subject),
        render::plain(&event.actor),
    );
    for (cause, count) in &event.bytes {
        text.push_str(&format!("  {cause} {}", render::bytes(*count)));
    }
    if !event.detail.is_empty() {
        text.push_str(&format!("  {}", render::plain(&event.detail)));
    }
    text.push('\n');
    text
}
