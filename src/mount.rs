//! `infall mount` and `infall umount`: the store as files. The server does the work; `mount` stays
//! in the foreground so that Ctrl-C takes away what it made.

use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use crate::serve::{MountAsk, MountList, MountShown};
use clap::Args;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// Where to mount, and how.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Shows volumes/NAME.raw (sparse, writable, bootable), buckets/ (written as directories), snapshots/
and images/ (read-only). A file in a bucket is published as an object when it is closed or synced.
The mount is the server's: it ends with the server, and the directory is one of its machine. It acts
as you, whoever uses it; --allow-other wants a grant of mount:Create with infall:AllowOther true.

Examples:
  infall mount /mnt/infall                       until Ctrl-C
  infall mount /mnt/infall --detach              until infall umount /mnt/infall
  infall mount /mnt/infall --allow-other         also for QEMU under libvirt, another user than you
  infall mount --list")]
pub(crate) struct Mount {
    /// An empty directory
    #[arg(required_unless_present = "list")]
    directory: Option<PathBuf>,
    /// Return at once and leave it mounted
    #[arg(long)]
    detach: bool,
    /// Let other users of this machine in, too
    #[arg(long)]
    allow_other: bool,
    /// Nothing can be written
    #[arg(long)]
    read_only: bool,
    /// List what is mounted
    #[arg(long, conflicts_with_all = ["directory", "detach", "allow_other", "read_only"])]
    list: bool,
}

/// What to take away.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Flushes what was written; files that programs still have open are cut off.

Examples:
  infall umount /mnt/infall")]
pub(crate) struct Umount {
    /// The directory
    directory: PathBuf,
}

/// Mounts.
pub(crate) async fn mount(context: &Context, arguments: Mount) -> Outcome {
    let client = context.client()?;
    let Some(directory) = arguments.directory else {
        let list: MountList = client.get(&Path::new(["mounts"])).await?;
        context.show(&list, || table(&list));
        return Ok(());
    };
    let ask = MountAsk {
        path: absolute(&directory)?,
        allow_other: arguments.allow_other,
        read_only: arguments.read_only,
    };
    let failed = |error: std::io::Error| Failure::io("listen for signals", &error);
    // Before the mount is there, so that no Ctrl-C in between leaves it behind.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let shown: MountShown = client.post(&Path::new(["mounts"]), &ask).await?;
    let path = shown.path.display().to_string();
    context.show(&shown, || {
        let until = if arguments.detach {
            format!("infall umount {path}")
        } else {
            "Ctrl-C".into()
        };
        format!("{path}  volumes/ snapshots/ images/ buckets/   until {until}\n")
    });
    if arguments.detach {
        return Ok(());
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let which = Path::new(["mounts"]).query([("path", Some(path))]);
    match client.delete(&which).await {
        // Somebody was quicker, or the server stopped and took it away itself.
        Err(gone) if matches!(gone.exit(), Exit::NotFound | Exit::Unavailable) => Ok(()),
        outcome => outcome,
    }
}

/// Unmounts.
pub(crate) async fn umount(context: &Context, arguments: Umount) -> Outcome {
    let path = absolute(&arguments.directory)?.display().to_string();
    let which = Path::new(["mounts"]).query([("path", Some(path.clone()))]);
    context.client()?.delete(&which).await?;
    context.show(&serde_json::json!({ "unmounted": path }), || {
        format!("{path}  unmounted\n")
    });
    Ok(())
}

fn table(list: &MountList) -> String {
    let mut table = Table::new(["DIRECTORY", "AS", "FOR", "OPEN FILES"]);
    for mount in &list.mounts {
        let whom = match (mount.allow_other, mount.read_only) {
            (true, true) => "all, read-only",
            (true, false) => "all",
            (false, true) => "its user, read-only",
            (false, false) => "its user",
        };
        table.row([
            mount.path.display().to_string(),
            mount.actor.clone(),
            whom.into(),
            mount.open_files.to_string(),
        ]);
    }
    table.to_string()
}

/// As the server, which has another working directory, must be told it.
fn absolute(directory: &std::path::Path) -> Outcome<PathBuf> {
    let shown = directory.display();
    std::fs::canonicalize(directory)
        .or_else(|_| std::path::absolute(directory))
        .map_err(|error| {
            Failure::io(
                format_args!("find {}", render::plain(&shown.to_string())),
                &error,
            )
        })
}
