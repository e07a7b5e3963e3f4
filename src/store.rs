//! `infall store`: the store's inside.

use crate::client::Path;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{self, Table};
use blockstore::{CheckReport, Collected};
use clap::Subcommand;
use gateway::api::{CheckAsk, StoreStatus};

/// The store.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Figures: bytes stored, live, dead, written by cause
    #[command(after_help = "\
Examples:
  infall store status
  infall store status --json | jq .stats.physical_bytes")]
    Status,
    /// Databases, segments and ratios
    #[command(after_help = "\
Examples:
  infall store tree
  infall store tree --json | jq")]
    Tree,
    /// Give back what nothing shows any more
    #[command(after_help = "\
Removed volumes, snapshots and objects are collected in the background by and by; this does it now
and waits until nothing worth it is left.

Examples:
  infall store collect --wait
  infall store collect --json | jq .freed_bytes")]
    Collect {
        /// Wait until it is done (it always does; for scripts that want to say so)
        #[arg(long)]
        wait: bool,
    },
    /// Compare maps, locations and pins while the server runs
    #[command(after_help = "\
Ends with exit code 8 if anything is wrong.

Examples:
  infall store check
  infall store check --scrub                    also read and verify every live block")]
    Check {
        /// Also read and verify every live block
        #[arg(long)]
        scrub: bool,
    },
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Status => {
            let status: StoreStatus = client.get(&Path::new(["store"])).await?;
            context.show(&status, || figures(&status));
        }
        Verb::Tree => {
            let tree: serde_json::Value = client.get(&Path::new(["store", "tree"])).await?;
            context.show(&tree, || {
                let mut text = String::new();
                branches(&tree, "", &mut text);
                text
            });
        }
        Verb::Collect { wait: _ } => {
            let path = Path::new(["store", "collect"]);
            let collected: Collected = client.post(&path, &serde_json::json!({})).await?;
            context.show(&collected, || {
                format!(
                    "freed {} in {}, moved {}, swept {}\n",
                    render::bytes(collected.freed_bytes),
                    render::count(collected.segments_freed, "segment"),
                    render::bytes(collected.moved_bytes),
                    render::count(collected.maps_swept, "map"),
                )
            });
        }
        Verb::Check { scrub } => {
            let path = Path::new(["store", "check"]);
            let report: CheckReport = client.post(&path, &CheckAsk { scrub }).await?;
            return crate::check::conclude(context, &report);
        }
    }
    Ok(())
}

fn figures(status: &StoreStatus) -> String {
    let stats = &status.stats;
    let mut table = Table::new(["directory", &status.directory]);
    let rows = [
        ("stored", stats.physical_bytes),
        ("  segments", stats.segment_bytes),
        ("  index", stats.index_bytes),
        ("  catalog", stats.catalog_bytes),
        ("live", stats.live_bytes),
        ("dead", stats.dead_bytes),
        ("free on disk", stats.free_bytes),
        ("written by clients", stats.written_client_bytes),
        ("written by copies", stats.written_copy_bytes),
        ("moved by collection", stats.written_collect_bytes),
        ("read", stats.read_bytes),
    ];
    for (name, count) in rows {
        table.row([name, &render::bytes(count)]);
    }
    table.row(["syncs", &stats.syncs.to_string()]);
    let counts = [
        (stats.buckets, "bucket"),
        (stats.objects, "object"),
        (stats.volumes, "volume"),
        (stats.snapshots, "snapshot"),
        (stats.images, "image"),
    ];
    let counts = counts
        .map(|(number, noun)| render::count(number, noun))
        .join(", ");
    table.row(["holds", &counts]);
    if let Some(why) = &stats.refusing {
        table.row(["refusing writes", why]);
    }
    table.to_string()
}

/// One line for each leaf and each branch, indented below its parent; bytes read as bytes.
fn branches(value: &serde_json::Value, indent: &str, text: &mut String) {
    let children: Vec<(String, &serde_json::Value)> = match value {
        serde_json::Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        serde_json::Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("{}", index + 1), value))
            .collect(),
        leaf => {
            text.push_str(&format!("{indent}{leaf}\n"));
            return;
        }
    };
    for (key, child) in children {
        match child {
            serde_json::Value::Object(map) if map.is_empty() => {}
            serde_json::Value::Array(items) if items.is_empty() => {}
            serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
                text.push_str(&format!("{indent}{}\n", render::plain(&key)));
                branches(child, &format!("{indent}  "), text);
            }
            leaf => {
                let shown = match (leaf.as_u64(), leaf.as_str()) {
                    (Some(count), _) if key.ends_with("bytes") => render::bytes(count),
                    (_, Some(word)) => render::plain(word),
                    _ => leaf.to_string(),
                };
                let name = key.strip_suffix("_bytes").unwrap_or(&key).replace('_', " ");
                text.push_str(&format!("{indent}{}: {shown}\n", render::plain(&name)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_shows_every_leaf_with_its_bytes_readable() {
        let tree = serde_json::json!({
            "segments": [{ "id": "seg-1", "file_bytes": 67_108_864 }],
            "live_ratio": 0.5,
            "index": {},
        });
        let mut text = String::new();
        branches(&tree, "", &mut text);
        assert!(
            text.contains("segments\n  1\n    file: 64 MiB\n    id: seg-1\n"),
            "{text}"
        );
        assert!(text.contains("live ratio: 0.5\n"), "{text}");
    }
}
