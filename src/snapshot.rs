//! `infall snapshot`: sealed maps of volumes. They are made by `infall volume snapshot`.

use crate::client::Path;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{self, Table};
use blockstore::volume::SnapshotInfo;
use clap::Subcommand;
use gateway::api::SnapshotList;

/// Snapshots.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// List snapshots
    #[command(after_help = "\
Examples:
  infall snapshot ls
  infall snapshot ls --json | jq -r '.snapshots[].published'")]
    Ls,
    /// Show one snapshot
    #[command(after_help = "\
Examples:
  infall snapshot show monday")]
    Show {
        /// Name or id
        snapshot: String,
    },
    /// Remove a snapshot
    #[command(after_help = "\
An object that it was published as stays, and so do volumes cloned from it.

Examples:
  infall snapshot rm monday
  infall store collect --wait              gives the bytes back now")]
    Rm {
        /// Name or id
        snapshot: String,
    },
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Ls => {
            let list: SnapshotList = client.get(&Path::new(["snapshots"])).await?;
            context.show(&list, || {
                let mut table = Table::new(["NAME", "ID", "VOLUME", "LENGTH", "MADE", "PUBLISHED"]);
                for snapshot in &list.snapshots {
                    table.row([
                        snapshot.name.as_str(),
                        &snapshot.id,
                        &snapshot.volume,
                        &render::bytes(snapshot.sealed.length_bytes),
                        &render::time(snapshot.created_ms),
                        snapshot.published.as_deref().unwrap_or("-"),
                    ]);
                }
                table.to_string()
            });
        }
        Verb::Show { snapshot } => {
            let snapshot: SnapshotInfo = client.get(&Path::new(["snapshots", &snapshot])).await?;
            context.show(&snapshot, || {
                let mut table = Table::new(["id", &snapshot.id]);
                table.row(["name", &snapshot.name]);
                table.row(["volume", &snapshot.volume]);
                table.row([
                    "length",
                    &crate::volume::length(snapshot.sealed.length_bytes),
                ]);
                table.row(["published", snapshot.published.as_deref().unwrap_or("-")]);
                table.row(["made", &render::time(snapshot.created_ms)]);
                table.to_string()
            });
        }
        Verb::Rm { snapshot } => {
            client.delete(&Path::new(["snapshots", &snapshot])).await?;
            context.show(&serde_json::json!({ "removed": snapshot }), || {
                format!("{snapshot}  removed\n")
            });
        }
    }
    Ok(())
}
