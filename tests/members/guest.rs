//! A guest that does what cloud-init would with the seed's vendor data, and runs Debian's own sshd. Its
//! address is that of QEMU's user-mode network unless the kernel's command line says `guest_at=ADDRESS/BITS
//! guest_via=ROUTER`; it says a word to its router.

use crate::harness::run;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use vmctl::cpio::Archive;

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
chmod 755 /
mkdir -p /proc /sys /dev /run/sshd /seed /var/empty /root /tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts; mount -t devpts devpts /dev/pts
while read -r m; do insmod /modules/$m || echo "no module $m"; done < /modules/order
for i in 1 2 3 4 5 6 7 8 9 10; do mount -t iso9660 -o ro /dev/sr0 /seed 2>/dev/null && break; usleep 300000; done
hostname "$(sed -n 's/^local-hostname: *"\(.*\)"/\1/p' /seed/meta-data)"
told() { sed -n "s/.*\<$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
at=$(told guest_at); via=$(told guest_via); via=${via:-10.0.2.2}
ip link set lo up; ip link set eth0 up; ip addr add ${at:-10.0.2.15/24} dev eth0; ip route add default via $via
ping -c 1 -W 3 $via >/dev/null || echo "$via does not answer"
sh /seed/vendor-data || echo VENDOR-DATA-FAILED
/usr/sbin/sshd -E /dev/ttyS0 && echo SSHD-UP || echo SSHD-FAILED
exec setsid -c sh </dev/ttyS0 >/dev/ttyS0 2>&1
"#;

/// As Debian's, as far as it matters here.
const SSHD_CONFIG: &str = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM no\nPasswordAuthentication no\nLogLevel VERBOSE\n";

/// Kernel and initramfs.
pub(crate) fn with_sshd(folder: &Path) -> (String, String) {
    let kernel = kernel();
    let release = kernel.strip_prefix("/boot/vmlinuz-").unwrap().to_owned();
    let mut archive = Archive::new();
    let mut made = BTreeSet::new();
    let host_key = folder.join("ssh_host_ed25519_key");
    super::sshd::key_pair(&host_key);
    add(
        &mut archive,
        &mut made,
        "bin/busybox",
        0o755,
        &read(Path::new("/bin/busybox")),
    );
    add(&mut archive, &mut made, "init", 0o755, INIT.as_bytes());
    add(&mut archive, &mut made, "etc/passwd", 0o644, b"root:*:0:0:root:/root:/bin/sh\nsshd:*:100:65534::/run/sshd:/bin/false\nnobody:*:65534:65534::/:/bin/false\n");
    add(
        &mut archive,
        &mut made,
        "etc/group",
        0o644,
        b"root:x:0:\nnogroup:x:65534:\n",
    );
    add(
        &mut archive,
        &mut made,
        "etc/ssh/sshd_config",
        0o644,
        SSHD_CONFIG.as_bytes(),
    );
    add(
        &mut archive,
        &mut made,
        "etc/ssh/ssh_host_ed25519_key",
        0o600,
        &read(&host_key),
    );
    let sshd = Path::new("/usr/sbin/sshd");
    assert!(sshd.exists(), "no sshd: apt-get install openssh-server");
    add(&mut archive, &mut made, "usr/sbin/sshd", 0o755, &read(sshd));
    for library in libraries(sshd) {
        let inside = library.trim_start_matches('/').to_owned();
        add(
            &mut archive,
            &mut made,
            &inside,
            0o755,
            &read(Path::new(&library)),
        );
    }
    let mut order = String::new();
    for file in modules(&release) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        add(
            &mut archive,
            &mut made,
            &format!("modules/{name}"),
            0o644,
            &read(&file),
        );
        order += &(name + "\n");
    }
    add(
        &mut archive,
        &mut made,
        "modules/order",
        0o644,
        order.as_bytes(),
    );
    let initrd = folder.join("sshd.cpio");
    std::fs::write(&initrd, archive.finish()).unwrap();
    (kernel, initrd.display().to_string())
}

/// A file, and the folders above it that are not there yet.
fn add(archive: &mut Archive, made: &mut BTreeSet<String>, path: &str, mode: u32, bytes: &[u8]) {
    for (end, _) in path.match_indices('/') {
        if made.insert(path[..end].to_owned()) {
            archive.directory(&path[..end]);
        }
    }
    archive.file(path, mode, bytes);
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn kernel() -> String {
    let boot = std::fs::read_dir("/boot").unwrap();
    let names = boot.map(|entry| entry.unwrap().path().display().to_string());
    let mut kernels: Vec<String> = names
        .filter(|name| name.starts_with("/boot/vmlinuz-") && name.ends_with("-cloud-amd64"))
        .collect();
    kernels.sort();
    kernels
        .pop()
        .expect("a cloud kernel: apt-get install linux-image-cloud-amd64")
}

/// What ldd names, at the places it names.
fn libraries(program: &Path) -> Vec<String> {
    let shown = run(Command::new("ldd").arg(program)).ok();
    let words = shown
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    words.map(str::to_owned).collect()
}

/// The modules for disk, CD and network, each after those it needs.
fn modules(release: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for module in [
        "virtio_pci",
        "virtio_blk",
        "ata_piix",
        "sr_mod",
        "isofs",
        "virtio_net",
        "virtio_rng",
    ] {
        let mut modprobe = Command::new("/usr/sbin/modprobe");
        modprobe.args(["-S", release, "--show-depends", module]);
        let shown = run(&mut modprobe).ok();
        for line in shown.lines() {
            if let Some(path) = line.strip_prefix("insmod ") {
                let path = PathBuf::from(path.trim());
                if !all.contains(&path) {
                    all.push(path);
                }
            }
        }
    }
    all
}
