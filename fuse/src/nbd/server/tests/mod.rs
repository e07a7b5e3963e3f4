//! The server over disks in memory, spoken to byte by byte.

mod client;
mod disk;
mod haggling;
mod transmission;

use super::listener::{Exports, Listener};
use super::{Server, serve_exporter};
use disk::{Disk, Disks};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server on a unix socket of its own, and the disk `a` behind it.
struct Setup {
    server: Server,
    disk: Arc<Disk>,
    path: std::path::PathBuf,
    _directory: TempDir,
}

fn serve_disk(disk: Disk) -> Setup {
    serve_disk_as(disk, Exports::All)
}

fn serve_disk_as(disk: Disk, exports: Exports) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let disk = Arc::new(disk);
    let mut disks = Disks::default();
    disks.0.insert("a", Arc::clone(&disk));
    disks.0.insert("ro", Arc::new(Disk::read_only(1 << 20)));
    let listener = Listener::unix(&path, 0o600, None, exports).unwrap();
    let server = serve_exporter(Box::new(disks), listener).unwrap();
    Setup {
        server,
        disk,
        path,
        _directory: directory,
    }
}

/// Waits until `done`, for what happens a moment after a client leaves.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
