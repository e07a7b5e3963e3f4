//! A disk that logs every write and flush that reaches it, and images of it as a power cut leaves them.

use crate::harness;
use crate::nbd::{Client, Dice};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Sparse; the store keeps 256 MiB of it free.
pub(crate) const DISK_BYTES: u64 = 1 << 30;

/// Runs a tool of the machine to its end; gives its output.
#[track_caller]
pub(crate) fn tool(name: &str, arguments: &[&str]) -> String {
    let done = harness::run(Command::new(name).args(arguments));
    assert_eq!(
        done.code, 0,
        "{name} {arguments:?}: {}{}",
        done.stdout, done.stderr
    );
    done.stdout.trim().to_owned()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A loop device on a file.
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    pub(crate) fn new(file: &Path, more: &[&str]) -> Self {
        let words = [more, &["--find", "--show", text(file)]].concat();
        Self(tool("losetup", &words))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        harness::run(Command::new("losetup").args(["--detach", &self.0]));
    }
}

/// A file system on a loop device, taken down in this order.
pub(crate) struct Mounted {
    at: PathBuf,
    _device: Loop,
}

impl Mounted {
    pub(crate) fn new(device: Loop, at: &Path) -> Self {
        tool("mount", &["-t", "ext4", &device.0, text(at)]);
        let at = at.to_owned();
        Self {
            at,
            _device: device,
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if harness::run(Command::new("umount").arg(&self.at)).code != 0 {
            // A server holds it, for the test has failed: it goes when that has ended.
            harness::run(Command::new("umount").arg("--lazy").arg(&self.at));
        }
    }
}

/// A process of this test, ended with it.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("this test needs {command:?}: {error}")))
    }

    /// Waits until it has done what it is for.
    fn until(&mut self, what: &str, done: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !done() {
            let ended = self.0.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: ended with {ended:?}");
            assert!(Instant::now() < until, "{what}: not within 20 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok() {
            self.0.wait().unwrap();
        }
    }
}

/// A disk as a file, `device`, that logs what reaches it. Taken down in this order.
pub(crate) struct LoggedDisk {
    _file: Daemon,
    _storage: Daemon,
    pub(crate) device: PathBuf,
    pub(crate) log: PathBuf,
}

impl LoggedDisk {
    pub(crate) fn new(folder: &Path) -> Self {
        let [disk, log, device, socket] =
            ["disk.raw", "log.raw", "device", "nbd.sock"].map(|name| folder.join(name));
        File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
        for empty in [&log, &device] {
            File::create(empty).unwrap();
        }
        let file = |name: &str, path: &Path| {
            format!("driver=file,node-name={name},filename={}", path.display())
        };
        let logging = "driver=blklogwrites,node-name=both,file=disk,log=log,log-sector-size=512,\
                       log-super-update-interval=1";
        let mut storage = Daemon::start(
            Command::new("qemu-storage-daemon")
                .args(["--blockdev", &file("disk", &disk)])
                .args(["--blockdev", &file("log", &log)])
                .args(["--blockdev", logging])
                .arg("--nbd-server")
                .arg(format!("addr.type=unix,addr.path={}", socket.display()))
                .args([
                    "--export",
                    "type=nbd,id=disk,node-name=both,name=disk,writable=on",
                ]),
        );
        storage.until("qemu-storage-daemon", || {
            Client::connect(&socket, "disk").is_ok()
        });
        let uri = format!("nbd+unix:///disk?socket={}", socket.display());
        let mut forward = Daemon::start(Command::new("nbdfuse").arg(&device).arg(uri));
        forward.until("nbdfuse", || {
            device.metadata().is_ok_and(|file| file.len() == DISK_BYTES)
        });
        Self {
            _file: forward,
            _storage: storage,
            device,
            log,
        }
    }
}

/// An entry of the log (Linux, Documentation/admin-guide/device-mapper/log-writes.rst).
pub(crate) struct Entry {
    at: u64,
    length: u64,
    flags: u64,
    /// Where its bytes are in the log.
    data: u64,
}

const IS_FLUSH: u64 = 1;
const IS_FUA: u64 = 2;
const IS_DISCARD: u64 = 4;
const LOG_MAGIC: u64 = 0x006a_7366_7773_6872;

pub(crate) struct Log {
    file: File,
    pub(crate) entries: Vec<Entry>,
}

/// Entries in a log, by its superblock: magic, version and number of entries (8 bytes each).
pub(crate) fn length_of(log: &File) -> u64 {
    let [magic, version, entries] = words(log, 0);
    assert_eq!((magic, version), (LOG_MAGIC, 1), "no log of writes");
    entries
}

fn words<const N: usize>(file: &File, at: u64) -> [u64; N] {
    std::array::from_fn(|word| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at + 8 * word as u64)
            .unwrap();
        u64::from_le_bytes(bytes)
    })
}

impl Log {
    pub(crate) fn read(path: &Path) -> Self {
        const SECTOR: u64 = 512;
        let file = File::open(path).unwrap();
        let mut at = SECTOR;
        let entries = (0..length_of(&file))
            .map(|_| {
                let [sector, sectors, flags, _] = words(&file, at);
                let data = at + SECTOR;
                let length = sectors * SECTOR;
                at = if flags & IS_DISCARD == 0 {
                    data + length
                } else {
                    data
                };
                Entry {
                    at: sector * SECTOR,
                    length,
                    flags,
                    data,
                }
            })
            .collect();
        Self { file, entries }
    }

    pub(crate) fn apply(&self, entry: &Entry, image: &File) {
        let mut bytes = vec![0; entry.length as usize];
        if entry.flags & IS_DISCARD == 0 {
            self.file.read_exact_at(&mut bytes, entry.data).unwrap();
        }
        image.write_all_at(&bytes, entry.at).unwrap();
    }

    /// Up to `count` flushes between two lengths of the log, in order.
    pub(crate) fn flushes(&self, from: u64, to: u64, count: usize, dice: &mut Dice) -> Vec<usize> {
        let all: Vec<usize> = (from as usize..to as usize)
            .filter(|index| self.entries[*index].flags & IS_FLUSH != 0)
            .collect();
        assert!(
            all.len() >= count,
            "only {} flushes for {count} cuts",
            all.len()
        );
        let mut chosen = BTreeSet::new();
        while chosen.len() < count {
            chosen.insert(all[dice.below(all.len() as u64) as usize]);
        }
        chosen.into_iter().collect()
    }
}

/// Where the power fails.
pub(crate) struct Cut {
    /// Entries of the log that are on the disk for certain.
    pub(crate) kept: u64,
    /// Entries behind them that are there, too.
    pub(crate) more: Vec<usize>,
}

impl Cut {
    pub(crate) fn new(log: &Log, flush: usize, dice: &mut Dice) -> Self {
        let mut more = Vec::new();
        if dice.below(2) == 0 {
            let rest = log.entries.iter().enumerate().skip(flush + 1);
            let unflushed = rest.take_while(|(_, entry)| entry.flags & IS_FLUSH == 0);
            let there =
                unflushed.filter(|(_, entry)| entry.flags & IS_FUA != 0 || dice.below(2) == 0);
            more = there.map(|(index, _)| index).collect();
        }
        Self {
            kept: flush as u64 + 1,
            more,
        }
    }

    /// Makes `image` of the disk that has exactly the kept entries.
    pub(crate) fn image(&self, log: &Log, kept: &Path, image: &Path) {
        tool("cp", &["--sparse=auto", text(kept), text(image)]);
        let file = File::options().write(true).open(image).unwrap();
        for index in &self.more {
            log.apply(&log.entries[*index], &file);
        }
    }
}
