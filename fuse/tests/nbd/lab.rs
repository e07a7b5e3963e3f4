//! A store, and an NBD server for it on a unix socket, in a directory of their own.

use blockstore::object::{ObjectMeta, Precondition};
use blockstore::volume::Origin;
use blockstore::{Options, Store, Who};
use fuse::nbd::{Exports, Listener, Server, serve};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub(crate) const MIB: u64 = 1 << 20;

/// Fields drop in this order: first the server, then the store, then their directory.
pub(crate) struct Lab {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::showing(Exports::All)
    }

    pub(crate) fn showing(exports: Exports) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            reserve_bytes: 16 << 20,
            ..Options::default()
        };
        let store = Store::open(&directory.path().join("data"), options).unwrap();
        let listener =
            Listener::unix(&directory.path().join("nbd.sock"), 0o600, None, exports).unwrap();
        let server = serve(store.clone(), listener).unwrap();
        Self {
            server,
            store,
            directory,
        }
    }

    pub(crate) fn volume(&self, name: &str, length_bytes: u64) -> String {
        self.store
            .volume_create(&who(), name, Some(length_bytes), &Origin::Empty)
            .unwrap();
        self.uri(name)
    }

    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        if self.store.bucket(bucket).is_err() {
            self.store.bucket_create(&who(), bucket).unwrap();
        }
        let mut writer = self.store.object_writer(bucket).unwrap();
        writer.write(bytes).unwrap();
        let meta = ObjectMeta {
            etag: "0".repeat(32),
            ..ObjectMeta::default()
        };
        writer
            .commit(&who(), key, meta, &Precondition::default())
            .unwrap();
    }

    pub(crate) fn socket(&self) -> &Path {
        self.server.path().unwrap()
    }

    /// What clients take for the export `name` (NBD URI specification).
    pub(crate) fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket().display())
    }

    /// A path in the lab's directory.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The bytes of the volume, past the server.
    pub(crate) fn read(&self, name: &str, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.store
            .volume_open(name)
            .unwrap()
            .read_at(offset, &mut bytes)
            .unwrap();
        bytes
    }

    /// Waits until nobody holds the token of `name`: the server sees a client leave a moment after.
    pub(crate) fn wait_for_release(&self, name: &str) {
        let volume = self.store.volume_open(name).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(holder) = volume.holder() {
            assert!(Instant::now() < deadline, "{holder} still holds {name}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub(crate) fn who() -> Who {
    Who {
        actor: "test".into(),
        request: "-".into(),
        project: "root".into(),
    }
}

/// Bytes that do not compress and differ by `seed`.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// 64 MiB with data, short holes and long ones.
pub(crate) fn sparse_file(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 20];
    for (seed, at, length) in [
        (1, 0, 3 << 20),
        (2, 10 << 20, 4096),
        (3, 20_000_000, 5 << 20),
        (4, (64 << 20) - 5000, 5000),
    ] {
        bytes[at..at + length].copy_from_slice(&noise(seed, length));
    }
    std::fs::write(path, &bytes).unwrap();
    bytes
}

/// Runs a program that must succeed; answers with what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = attempt(program, arguments);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{out}\n{err}",
        output.status
    );
    out.into_owned()
}

/// Runs a program and takes what it printed for JSON.
pub(crate) fn run_json(program: &str, arguments: &[&str]) -> serde_json::Value {
    let out = run(program, arguments);
    serde_json::from_str(&out)
        .unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}\n{out}"))
}

/// Runs a program that may fail.
pub(crate) fn attempt(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output();
    output.unwrap_or_else(|error| panic!("cannot run {program}: {error}; it is needed on the PATH"))
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
