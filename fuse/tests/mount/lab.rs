//! A store, and a mount of it, in a directory of its own.

use access::{Access, Caller, Credentials};
use blockstore::object::{ObjectMeta, Precondition};
use blockstore::volume::Origin;
use blockstore::{Options, Store, Volume, Who};
use fuse::mount::{MountError, MountOptions, Mounted};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub(crate) const MIB: u64 = 1 << 20;

/// Fields drop in this order: first the mount, then the store, then their directory.
pub(crate) struct Lab {
    pub(crate) mounted: Option<Mounted>,
    pub(crate) store: Store,
    pub(crate) directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(MountOptions::default())
    }

    pub(crate) fn with(options: MountOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open_store(&directory.path().join("data"));
        let path = directory.path().join("mnt");
        std::fs::create_dir(&path).unwrap();
        let mounted = Some(mount(store.clone(), &path, options).unwrap());
        Self {
            mounted,
            store,
            directory,
        }
    }

    /// A path in the mount.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.directory.path().join("mnt").join(inside)
    }

    /// A path beside the mount.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes an empty volume and answers with its file.
    pub(crate) fn volume(&self, name: &str, length_bytes: u64) -> PathBuf {
        self.store
            .volume_create(&who(), name, Some(length_bytes), &Origin::Empty)
            .unwrap();
        self.path(&format!("volumes/{name}.raw"))
    }

    pub(crate) fn opened(&self, name: &str) -> Volume {
        self.store.volume_open(name).unwrap()
    }

    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        put(&self.store, bucket, key, bytes);
    }

    /// Waits until nobody holds the token of `name`: the kernel tells of a last close by itself,
    /// but after close(2) has returned.
    pub(crate) fn wait_for_release(&self, name: &str) {
        let volume = self.opened(name);
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(holder) = volume.holder() {
            assert!(Instant::now() < deadline, "{holder} still holds {name}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Mounts as the operator.
pub(crate) fn mount(
    store: Store,
    path: &Path,
    options: MountOptions,
) -> Result<Mounted, MountError> {
    mount_as(store, Caller::root("test"), path, options)
}

pub(crate) fn mount_as(
    store: Store,
    caller: Caller,
    path: &Path,
    options: MountOptions,
) -> Result<Mounted, MountError> {
    let access = Access::open(store.clone(), Credentials::generate()).unwrap();
    fuse::mount::mount(store, access, caller, path, options)
}

pub(crate) fn open_store(directory: &Path) -> Store {
    let options = Options {
        reserve_bytes: 16 << 20,
        ..Options::default()
    };
    Store::open(directory, options).unwrap()
}

pub(crate) fn put(store: &Store, bucket: &str, key: &str, bytes: &[u8]) {
    let mut writer = store.object_writer(bucket).unwrap();
    writer.write(bytes).unwrap();
    // The mount knows versions by what the doors put here, so each body needs an ETag of its own.
    let sum = bytes.iter().fold(0u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let meta = ObjectMeta {
        etag: format!("{sum:032x}"),
        ..ObjectMeta::default()
    };
    writer
        .commit(&who(), key, meta, &Precondition::default())
        .unwrap();
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

/// Runs a program that may fail.
pub(crate) fn attempt(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output();
    output.unwrap_or_else(|error| panic!("cannot run {program}: {error}; it is needed on the PATH"))
}

/// The errno an operation ended with.
pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
