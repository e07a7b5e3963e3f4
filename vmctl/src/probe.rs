//! Does KVM really work here? Asked of a guest, not of a device node.
//!
//! /dev/kvm can be there and guests still hang (a paravirtual KVM inside another guest). So a tiny
//! guest (the host's own kernel, an initramfs with busybox made here) is booted under KVM; only the
//! word it prints within [`LIMIT`] makes the verdict `kvm`, everything else is `tcg` with its reason.
//!
//! The verdict is a record. It holds for one kernel release and one boot of the host.

use crate::cpio::Archive;
use crate::domain::Accelerator;
use blockstore::{Entry, Error, Kind, Result, Store, Subject, Who};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the guest may take to say its word.
pub const LIMIT: Duration = Duration::from_secs(10);
/// The record's kind; its name is [`RECORD_NAME`].
pub const RECORD_KIND: &str = "kvm-probe";
/// There is one host: this one.
pub const RECORD_NAME: &str = "local";
/// What the guest prints.
const WORD: &str = "INFALL-GUEST-UP";
/// Of the guest's console we keep the end.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
const EMULATOR: &str = "qemu-system-x86_64";

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How guests are executed.
    pub accelerator: Accelerator,
    /// Why, for people: `a guest booted in 1.2 s`, `a guest did not boot under KVM within 10 s`.
    pub why: String,
    /// The kernel release it holds for.
    pub kernel: String,
    /// The boot of the host it holds for.
    pub boot_id: String,
    /// How long it took.
    pub took_ms: u64,
}

/// The verdict for this boot of the host: the recorded one, or a new probe if there is none or it is
/// `forced`. Files of the probe go to `scratch` and away again.
pub fn verdict(store: &Store, who: &Who, scratch: &Path, forced: bool) -> Result<Verdict> {
    let (kernel, boot_id) = (host_fact("osrelease")?, host_fact("random/boot_id")?);
    if !forced
        && let Some(known) = recorded(store)?
        && known.kernel == kernel
        && known.boot_id == boot_id
    {
        return Ok(known);
    }
    let began = Instant::now();
    let (accelerator, why) = match try_kvm(scratch, &kernel)? {
        Ok(why) => (Accelerator::Kvm, why),
        Err(why) => (Accelerator::Tcg, why),
    };
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let verdict = Verdict {
        accelerator,
        why,
        kernel,
        boot_id,
        took_ms,
    };
    tracing::info!(%accelerator, why = %verdict.why, took_ms, "probed KVM");
    let value = serde_json::to_value(&verdict).map_err(|error| {
        Error::new(Kind::Internal, Subject::Record, "the verdict has no JSON").because(error)
    })?;
    let entry =
        Entry::new("host.probed", RECORD_NAME).detail(format!("{accelerator} ({})", verdict.why));
    store.record_put(who, RECORD_KIND, RECORD_NAME, &value, Some(entry))?;
    Ok(verdict)
}

/// A record we cannot read counts as none: the probe makes a new one.
fn recorded(store: &Store) -> Result<Option<Verdict>> {
    let value = store.record_get(RECORD_KIND, RECORD_NAME)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

fn host_fact(name: &str) -> Result<String> {
    let path = Path::new("/proc/sys/kernel").join(name);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    Ok(text.trim().to_owned())
}

/// The inner result is the verdict; the outer error is about our own disk.
fn try_kvm(scratch: &Path, release: &str) -> Result<std::result::Result<String, String>> {
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        return Ok(Err(format!("/dev/kvm: {error}")));
    }
    let Some(kernel) = find_kernel(Path::new("/boot"), release) else {
        return Ok(Err(
            "there is no kernel in /boot to probe KVM with; apt-get install \
                       linux-image-cloud-amd64, then probe again"
                .into(),
        ));
    };
    let Some(busybox) = find_busybox() else {
        return Ok(Err(
            "there is no static busybox to probe KVM with; apt-get install \
                       busybox-static, then probe again"
                .into(),
        ));
    };
    let path = scratch.join(format!("probe-{}.cpio", uuid::Uuid::new_v4().simple()));
    std::fs::write(&path, initramfs(&busybox)).map_err(|error| Error::io("write", &path, error))?;
    let booted = boot("kvm", &kernel, &path, LIMIT);
    std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
    Ok(match booted {
        Ok(took) => Ok(format!(
            "a guest booted under KVM in {:.1} s",
            took.as_secs_f64()
        )),
        Err(why) => Err(why),
    })
}

/// Debian's cloud kernel if there is one, else the running one, else any; the newest by name.
fn find_kernel(boot: &Path, release: &str) -> Option<PathBuf> {
    let mut names: Vec<String> = std::fs::read_dir(boot)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("vmlinuz-"))
        .collect();
    names.sort();
    let running = format!("vmlinuz-{release}");
    let cloud = names
        .iter()
        .rev()
        .find(|name| name.ends_with("-cloud-amd64"));
    let found = cloud
        .or_else(|| names.iter().find(|name| **name == running))
        .or(names.last());
    found.map(|name| boot.join(name))
}

fn find_busybox() -> Option<Vec<u8>> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .find(|bytes| is_static(bytes))
}

/// Whether a 64-bit little-endian ELF file asks for no interpreter (System V ABI, "Program Header":
/// `e_phoff` at 32, `e_phentsize` at 54, `e_phnum` at 56, `PT_INTERP` is 3).
fn is_static(elf: &[u8]) -> bool {
    let short = |at: usize| {
        Some(usize::from(u16::from_le_bytes(
            elf.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let program_headers = || {
        let start = u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?);
        let (start, size, count) = (usize::try_from(start).ok()?, short(54)?, short(56)?);
        (0..count)
            .map(|index| {
                let at = start.checked_add(index * size)?;
                Some(u32::from_le_bytes(
                    elf.get(at..at.checked_add(4)?)?.try_into().ok()?,
                ))
            })
            .collect::<Option<Vec<u32>>>()
    };
    elf.starts_with(b"\x7fELF\x02\x01")
        && program_headers().is_some_and(|kinds| !kinds.is_empty() && !kinds.contains(&3))
}

fn initramfs(busybox: &[u8]) -> Vec<u8> {
    let init = format!("#!/bin/busybox sh\necho {WORD}\nexec /bin/busybox poweroff -f\n");
    let mut archive = Archive::new();
    archive
        .directory("bin")
        .file("bin/busybox", 0o755, busybox)
        .file("init", 0o755, init.as_bytes());
    archive.finish()
}

/// Boots the guest without libvirt, so that the verdict stands where libvirt is not installed. How
/// long it took to say its word, or why it did not.
fn boot(
    accelerator: &str,
    kernel: &Path,
    initramfs: &Path,
    limit: Duration,
) -> Result<Duration, String> {
    let began = Instant::now();
    let child = Command::new(EMULATOR)
        .args([
            "-accel",
            accelerator,
            "-machine",
            "pc",
            "-m",
            "128",
            "-nodefaults",
            "-no-user-config",
        ])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut guest = match child {
        Ok(child) => Guest(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!(
                "{EMULATOR} is not installed; apt-get install qemu-system-x86"
            ));
        }
        Err(error) => return Err(format!("{EMULATOR} does not start: {error}")),
    };
    let (sender, heard) = std::sync::mpsc::sync_channel::<Vec<u8>>(16);
    for stream in guest.streams() {
        let sender = sender.clone();
        std::thread::spawn(move || listen(stream, &sender));
    }
    drop(sender);
    let mut output = Vec::new();
    loop {
        let left = limit.saturating_sub(began.elapsed());
        match heard.recv_timeout(left) {
            Ok(bytes) => {
                output.extend_from_slice(&bytes);
                if String::from_utf8_lossy(&output).contains(WORD) {
                    return Ok(began.elapsed());
                }
                output.drain(..output.len().saturating_sub(OUTPUT_BYTES_MAX));
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                return Err(format!(
                    "/dev/kvm is there, but a guest did not boot under KVM within {} s{}",
                    limit.as_secs(),
                    last_line(&output)
                ));
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                return Err(format!(
                    "a guest under KVM ended before it was up{}",
                    last_line(&output)
                ));
            }
        }
    }
}

fn listen(mut stream: Box<dyn Read + Send>, sender: &std::sync::mpsc::SyncSender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
            return;
        }
    }
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => format!("; it said last: {line}"),
        None => String::new(),
    }
}

/// A QEMU that ends with us.
struct Guest(Child);

impl Guest {
    fn streams(&mut self) -> Vec<Box<dyn Read + Send>> {
        let stdout = self
            .0
            .stdout
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Read + Send>);
        let stderr = self
            .0
            .stderr
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Read + Send>);
        stdout.into_iter().chain(stderr).collect()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself; then both are no-ops.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            tracing::warn!(%error, "the probe's guest could not be ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_of_the_probe_boots_under_tcg() {
        let directory = tempfile::tempdir().expect("tempdir");
        let kernel =
            find_kernel(Path::new("/boot"), "").expect("apt-get install linux-image-cloud-amd64");
        let busybox = find_busybox().expect("apt-get install busybox-static");
        let path = directory.path().join("probe.cpio");
        std::fs::write(&path, initramfs(&busybox)).expect("write");
        boot("tcg", &kernel, &path, Duration::from_secs(60)).expect("boots");
    }

    #[test]
    fn a_guest_that_says_nothing_is_ended_at_the_limit() {
        let directory = tempfile::tempdir().expect("tempdir");
        let kernel =
            find_kernel(Path::new("/boot"), "").expect("apt-get install linux-image-cloud-amd64");
        let path = directory.path().join("empty.cpio");
        let mut archive = Archive::new();
        archive.directory("proc");
        std::fs::write(&path, archive.finish()).expect("write");
        let began = Instant::now();
        let why = boot("tcg", &kernel, &path, Duration::from_millis(300)).expect_err("too short");
        assert!(
            why.contains("did not boot") || why.contains("ended before"),
            "{why}"
        );
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn the_newest_cloud_kernel_is_preferred() {
        let boot = tempfile::tempdir().expect("tempdir");
        assert_eq!(find_kernel(boot.path(), "6.1.0-1-amd64"), None);
        let names = [
            "vmlinuz-6.1.0-1-amd64",
            "vmlinuz-6.1.0-2-cloud-amd64",
            "vmlinuz-6.1.0-3-cloud-amd64",
            "initrd.img-9",
        ];
        for (count, expected) in [(1, names[0]), (2, names[1]), (4, names[2])] {
            for name in &names[..count] {
                std::fs::write(boot.path().join(name), "").expect("write");
            }
            assert_eq!(
                find_kernel(boot.path(), "6.1.0-1-amd64"),
                Some(boot.path().join(expected))
            );
        }
    }

    #[test]
    fn a_dynamic_or_broken_program_is_not_static() {
        assert!(find_busybox().is_some(), "apt-get install busybox-static");
        let dynamic = std::fs::read("/proc/self/exe").expect("ourselves");
        assert!(!is_static(&dynamic));
        for junk in [
            &b""[..],
            b"#!/bin/sh\n",
            b"\x7fELF\x02\x01",
            &[b"\x7fELF\x02\x01".as_slice(), &[0xff; 100]].concat(),
        ] {
            assert!(!is_static(junk));
        }
    }
}
