//! A libvirtd of the tests' own, and what their guests are made of.

#![allow(clippy::unwrap_used)]

use blockstore::{Error, Kind, Result, Store, Subject, Who};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use vmctl::cpio::Archive;
use vmctl::{Machines, Sockets, probe};

/// In mount and process namespaces of its own, it sees a fresh /run and fresh libvirt directories;
/// when its standard input closes (with the tests), process 1 of the namespace ends and everything
/// in it, guests included, goes with it. Process 1 waits for any child: libvirt waits until a QEMU it
/// has ended is gone, and that one is an orphan.
const ENTER: &str = r#"
set -e
for d in run lib log cache; do mkdir -p "$1/$d"; done
cp -a /etc/libvirt "$1/etc"
rm -rf "$1"/etc/qemu/*.xml "$1"/etc/qemu/autostart/* "$1"/etc/qemu/networks/autostart/*
mkdir -p /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
mount --bind "$1/run" /run
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/cache" /var/cache/libvirt
virtlogd -d -p /run/virtlogd.pid
libvirtd -d -p /run/libvirtd.pid
echo up
exec 3<&0
cat <&3 >/dev/null &
wait $!
"#;

struct Libvirtd {
    uri: String,
    _directory: tempfile::TempDir,
    _input: Option<ChildStdin>,
    _child: Option<Child>,
}

/// The URI of a libvirtd for the tests: `INFALL_TEST_LIBVIRT` if set, else one of their own (as root).
pub(crate) fn libvirt() -> &'static str {
    static ONE: OnceLock<Libvirtd> = OnceLock::new();
    &ONE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        if let Ok(uri) = std::env::var("INFALL_TEST_LIBVIRT") {
            return Libvirtd { uri, _directory: directory, _input: None, _child: None };
        }
        open_to_all(directory.path());
        let mut child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", ENTER, "enter"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare: apt-get install util-linux");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(
            line.trim(),
            "up",
            "no libvirtd of our own: run as root with libvirt-daemon-system installed, or set INFALL_TEST_LIBVIRT"
        );
        let uri = format!("qemu:///system?socket={}/run/libvirt/libvirt-sock", directory.path().display());
        Libvirtd { uri, _directory: directory, _input: child.stdin.take(), _child: Some(child) }
    })
    .uri
}

pub(crate) fn who() -> Who {
    Who {
        actor: "tester".into(),
        request: "r-1".into(),
        project: "root".into(),
    }
}

pub(crate) fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A store, a state directory, and handles on them that can be made again.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    store: Option<Store>,
    pub(crate) sockets: Arc<Served>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        open_to_all(directory.path());
        let store = open(directory.path());
        // One probe for all tests: where KVM hangs, each takes its full ten seconds.
        static VERDICT: OnceLock<probe::Verdict> = OnceLock::new();
        let verdict = VERDICT
            .get_or_init(|| probe::verdict(&store, &who(), directory.path(), false).unwrap());
        let value = serde_json::to_value(verdict).unwrap();
        store
            .record_put(&who(), probe::RECORD_KIND, probe::RECORD_NAME, &value, None)
            .unwrap();
        let sockets = Arc::new(Served::new(directory.path()));
        Self {
            directory,
            store: Some(store),
            sockets,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn machines(&self, uri: &str) -> Machines {
        Machines::new(
            self.store().clone(),
            self.directory.path().join("vm"),
            uri,
            self.sockets.clone(),
        )
        .unwrap()
    }

    /// As after a restart of the server.
    pub(crate) fn reopen(&mut self) {
        self.store.take().unwrap().close().unwrap();
        self.store = Some(open(self.directory.path()));
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn journal(&self) -> Vec<(String, String)> {
        let events = self.store().journal_after(0, 1000).unwrap();
        let of_instances = events
            .into_iter()
            .filter(|event| event.kind.starts_with("instance."));
        of_instances
            .map(|event| (event.kind, event.subject))
            .collect()
    }
}

fn open(directory: &Path) -> Store {
    Store::open(&directory.join("store"), blockstore::Options::default()).unwrap()
}

/// Exports of raw files by qemu-storage-daemon, in place of the NBD server.
pub(crate) struct Served {
    directory: PathBuf,
    servers: Mutex<HashMap<String, Child>>,
    pub(crate) refuse: std::sync::atomic::AtomicBool,
}

impl Served {
    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.into(),
            servers: Mutex::default(),
            refuse: false.into(),
        }
    }

    pub(crate) fn kill(&self, instance: &str) {
        if let Some(mut server) = self.servers.lock().unwrap().remove(instance) {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
}

impl Sockets for Served {
    fn open(&self, instance: &str, exports: &[String]) -> Result<PathBuf> {
        if self.refuse.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::new(
                Kind::Unavailable,
                Subject::Store,
                "no sockets today",
            ));
        }
        self.close(instance);
        let socket = self.directory.join(format!("{instance}.sock"));
        let mut command = Command::new("qemu-storage-daemon");
        command.args([
            "--nbd-server",
            &format!("addr.type=unix,addr.path={}", socket.display()),
        ]);
        for (index, export) in exports.iter().enumerate() {
            let file = self
                .directory
                .join(format!("{}.raw", export.replace(['/', ':'], "-")));
            command.args([
                "--blockdev",
                &format!("driver=file,node-name=n{index},filename={}", file.display()),
            ]);
            command.args([
                "--export",
                &format!("type=nbd,id=e{index},node-name=n{index},name={export},writable=on"),
            ]);
        }
        let server = command
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-storage-daemon: apt-get install qemu-utils");
        self.servers.lock().unwrap().insert(instance.into(), server);
        eventually("the socket", Duration::from_secs(10), || socket.exists());
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        Ok(socket)
    }

    fn close(&self, instance: &str) {
        self.kill(instance);
        let _ = std::fs::remove_file(self.directory.join(format!("{instance}.sock")));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        for server in self.servers.lock().unwrap().values_mut() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
}

pub(crate) fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !holds() {
        assert!(
            Instant::now() < until,
            "{what} did not come within {limit:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Debian's cloud kernel: its path and its modules.
fn kernel() -> (PathBuf, PathBuf) {
    let hint = "a cloud kernel: apt-get install linux-image-cloud-amd64";
    let names = std::fs::read_dir("/lib/modules")
        .expect(hint)
        .map(|entry| entry.unwrap().file_name());
    let mut releases: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    releases.retain(|release| release.ends_with("-cloud-amd64"));
    releases.sort();
    let release = releases.pop().expect(hint);
    (
        PathBuf::from(format!("/boot/vmlinuz-{release}")),
        Path::new("/lib/modules").join(release).join("kernel"),
    )
}

/// A guest that says GUEST-UP, what it sees of its disks, writes a record to vda ten times a second,
/// and powers off when the button is pressed.
pub(crate) fn guest(site: &Site) -> (PathBuf, PathBuf) {
    const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in $(cat /modules); do insmod /$m.ko; done
sleep 0.5
for e in /dev/input/event*; do (head -c 1 $e >/dev/null && echo BUTTON && poweroff -f) & done
for d in vda vdb; do [ -b /dev/$d ] && echo "DISK $d ro=$(cat /sys/block/$d/ro) sectors=$(cat /sys/block/$d/size)"; done
echo GUEST-UP
n=0
while :; do
  n=$((n+1))
  printf 'TICK %08d\n' $n > /tick
  [ -b /dev/vda ] && dd if=/tick of=/dev/vda conv=fsync,notrunc 2>/dev/null && echo "TICK $n"
  usleep 100000
done
"#;
    let (kernel, modules) = kernel();
    let mut archive = Archive::new();
    archive.directory("bin").file(
        "bin/busybox",
        0o755,
        &std::fs::read("/bin/busybox").unwrap(),
    );
    archive.file("init", 0o755, INIT.as_bytes());
    let mut order = String::new();
    for module in [
        "drivers/virtio/virtio_ring",
        "drivers/virtio/virtio",
        "drivers/virtio/virtio_pci_modern_dev",
        "drivers/virtio/virtio_pci_legacy_dev",
        "drivers/virtio/virtio_pci",
        "drivers/block/virtio_blk",
        "drivers/acpi/button",
        "drivers/input/evdev",
    ] {
        let name = module.rsplit('/').next().unwrap();
        let bytes = std::fs::read(modules.join(format!("{module}.ko"))).expect(module);
        archive.file(&format!("{name}.ko"), 0o644, &bytes);
        order += name;
        order.push('\n');
    }
    archive.file("modules", 0o644, order.as_bytes());
    let initrd = site.directory.path().join("guest.cpio");
    let mut file = std::fs::File::create(&initrd).unwrap();
    file.write_all(&archive.finish()).unwrap();
    (kernel, initrd)
}
