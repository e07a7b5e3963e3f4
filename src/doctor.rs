//! `infall doctor`: looks at this machine and says what is missing and how to get it.

use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use crate::server_file::ServerFile;
use gateway::api::StoreStatus;
use serde::Serialize;
use std::fs::File;
use std::path::{Path as FilePath, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use vmctl::api::HostList;
use vmctl::hypervisor::Hypervisor;

/// Less free space than this and the store soon refuses writes.
const FREE_BYTES_MIN: u64 = 2 << 30;
/// The day this was written, in seconds since the Unix epoch: a clock before it is wrong.
const WRITTEN_S: u64 = 1_760_000_000;
/// Programs that commands and examples use: name, what for, Debian package.
const TOOLS: [(&str, &str, &str); 5] = [
    ("qemu-system-x86_64", "runs guests", "qemu-system-x86"),
    ("qemu-img", "makes and reads disk images", "qemu-utils"),
    ("nbdinfo", "looks at NBD exports", "libnbd-bin"),
    ("aws", "S3 from the shell", "awscli"),
    ("rclone", "S3 from the shell, with sync", "rclone"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Good,
    /// Something is left out, the rest works.
    Lacking,
    Bad,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    grade: Grade,
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    next: String,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            what,
            grade: Grade::Good,
            found: found.into(),
            next: String::new(),
        }
    }

    fn lacking(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            what,
            grade: Grade::Lacking,
            found: found.into(),
            next: next.into(),
        }
    }

    fn bad(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            what,
            grade: Grade::Bad,
            found: found.into(),
            next: next.into(),
        }
    }
}

/// Looks at everything; exit code 3 if something is bad.
pub(crate) async fn run(context: &Context) -> Outcome {
    let data = context.data()?;
    let mut findings = vec![directory(&data), space(&data)];
    findings.push(server(context, &data).await);
    findings.push(libvirt(context.config.vm_uri().to_owned()).await);
    findings.push(kvm(context, &data).await);
    findings.push(fuse());
    findings.extend(TOOLS.map(|(name, purpose, package)| tool(name, purpose, package)));
    findings.push(clock());
    context.show(&findings, || lines(&findings));
    let bad = findings
        .iter()
        .filter(|finding| finding.grade == Grade::Bad)
        .count();
    if bad == 0 {
        return Ok(());
    }
    let message = format!("{} in the way", render::count(bad as u64, "thing"));
    Err(Failure::new(Exit::Unavailable, "machine", message))
}

fn lines(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.grade {
            Grade::Good => "ok     ",
            Grade::Lacking => "lacking",
            Grade::Bad => "bad    ",
        };
        text.push_str(&format!(
            "{mark}  {:<18}  {}\n",
            finding.what,
            render::plain(&finding.found)
        ));
        if !finding.next.is_empty() {
            text.push_str(&format!("{:27}  → {}\n", "", finding.next));
        }
    }
    text
}

fn directory(data: &FilePath) -> Finding {
    const WHAT: &str = "data directory";
    let shown = data.display();
    match std::fs::metadata(data) {
        Ok(about) if !about.is_dir() => Finding::bad(
            WHAT,
            format!("{shown} is not a directory"),
            "choose another: --data DIR",
        ),
        Ok(_) => match rustix::fs::access(data, rustix::fs::Access::WRITE_OK) {
            Ok(()) => Finding::good(WHAT, shown.to_string()),
            Err(error) => Finding::bad(
                WHAT,
                format!("{shown} cannot be written: {error}"),
                "run as its owner, or choose another: --data DIR",
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match existing(data) {
            Some(parent) if rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK).is_err() => {
                Finding::bad(
                    WHAT,
                    format!("{shown} cannot be made in {}", parent.display()),
                    "make it, or choose another: --data DIR",
                )
            }
            _ => Finding::good(WHAT, format!("{shown} (infall serve will make it)")),
        },
        Err(error) => Finding::bad(
            WHAT,
            format!("{shown}: {error}"),
            "choose another: --data DIR",
        ),
    }
}

/// The nearest directory above that exists.
fn existing(path: &FilePath) -> Option<PathBuf> {
    path.ancestors()
        .find(|ancestor| ancestor.is_dir())
        .map(FilePath::to_owned)
}

fn space(data: &FilePath) -> Finding {
    const WHAT: &str = "disk space";
    let Some(place) = existing(data) else {
        return Finding::bad(
            WHAT,
            "no directory to look at",
            "choose another: --data DIR",
        );
    };
    match rustix::fs::statvfs(&place) {
        Ok(about) => {
            let free = about.f_bavail.saturating_mul(about.f_frsize);
            let found = format!("{} free at {}", render::bytes(free), place.display());
            if free >= FREE_BYTES_MIN {
                Finding::good(WHAT, found)
            } else {
                Finding::bad(WHAT, found, "free some, or choose another disk: --data DIR")
            }
        }
        Err(error) => Finding::bad(
            WHAT,
            format!("{}: {error}", place.display()),
            "look at the disk",
        ),
    }
}

async fn server(context: &Context, data: &FilePath) -> Finding {
    const WHAT: &str = "server";
    if context.config.endpoint().is_none() && ServerFile::read(data).is_err() {
        return Finding::good(
            WHAT,
            "none runs on this data directory (start: infall serve)",
        );
    }
    let asked = match context.client() {
        Ok(client) => client.get::<StoreStatus>(&Path::new(["store"])).await,
        Err(failure) => Err(failure),
    };
    match asked {
        Ok(status) => match status.stats.refusing {
            None => Finding::good(
                WHAT,
                format!("infall {} on {}", status.version, status.directory),
            ),
            Some(why) => Finding::bad(
                WHAT,
                format!("refuses writes: {why}"),
                "look at the disk, then restart infall serve",
            ),
        },
        Err(failure) if failure.exit() == Exit::Unavailable => {
            Finding::lacking(WHAT, failure.to_string(), "start it: infall serve")
        }
        Err(failure) => Finding::bad(WHAT, failure.to_string(), "name its key, or another server"),
    }
}

async fn libvirt(uri: String) -> Finding {
    const WHAT: &str = "libvirt";
    let asked = tokio::task::spawn_blocking(move || Hypervisor::new(&uri).facts()).await;
    match asked {
        Ok(Ok(facts)) => Finding::good(
            WHAT,
            format!(
                "libvirt {}, QEMU {} at {}",
                facts.libvirt, facts.qemu, facts.uri
            ),
        ),
        Ok(Err(error)) => Finding::lacking(
            WHAT,
            error.chain(),
            "VMs need it: apt-get install libvirt-daemon-system, systemctl start libvirtd; \
             or name another: INFALL_VM_URI",
        ),
        Err(error) => Finding::lacking(WHAT, error.to_string(), "report this, it is a defect"),
    }
}

/// A device node proves nothing: a guest must have booted. The server has that done.
async fn kvm(context: &Context, data: &FilePath) -> Finding {
    const WHAT: &str = "KVM";
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        let found = format!("/dev/kvm: {error}; guests run under TCG, some ten times slower");
        return Finding::lacking(WHAT, found, "enable virtualization, and join the group kvm");
    }
    let runs = context.config.endpoint().is_some() || ServerFile::read(data).is_ok();
    let hosts: Option<HostList> = match context.client() {
        Ok(client) if runs => client.get(&Path::new(["hosts"])).await.ok(),
        _ => None,
    };
    match hosts
        .and_then(|list| list.hosts.into_iter().next())
        .map(|host| host.verdict)
    {
        Some(verdict) if verdict.accelerator == vmctl::domain::Accelerator::Kvm => {
            Finding::good(WHAT, verdict.why)
        }
        Some(verdict) => Finding::lacking(
            WHAT,
            format!(
                "{}; guests run under TCG, some ten times slower",
                verdict.why
            ),
            "nested virtualization may be off or paravirtual here",
        ),
        None => Finding::good(
            WHAT,
            "/dev/kvm opens; whether guests boot under it is tried at the first infall vm run",
        ),
    }
}

fn fuse() -> Finding {
    const WHAT: &str = "FUSE";
    if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
        let next = "infall mount needs it: modprobe fuse, or pass the device into the container";
        return Finding::lacking(WHAT, format!("/dev/fuse: {error}"), next);
    }
    match find("fusermount3") {
        Some(path) => Finding::good(WHAT, format!("/dev/fuse, {}", path.display())),
        None if rustix::process::geteuid().is_root() => Finding::good(WHAT, "/dev/fuse, as root"),
        None => Finding::lacking(
            WHAT,
            "/dev/fuse, but no fusermount3",
            "infall mount needs it without root: apt-get install fuse3",
        ),
    }
}

fn tool(name: &'static str, purpose: &str, package: &str) -> Finding {
    match find(name) {
        Some(path) => Finding::good(name, path.display().to_string()),
        None => Finding::lacking(
            name,
            format!("not found; {purpose}"),
            format!("apt-get install {package}"),
        ),
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Administrators' programs, which a user's PATH may lack.
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(name))
        .find(|file| {
            file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
        })
}

/// S3 signatures are refused when the clocks of both sides are 15 minutes apart.
fn clock() -> Finding {
    const WHAT: &str = "clock";
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let shown = render::time(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    if now.as_secs() < WRITTEN_S {
        return Finding::bad(
            WHAT,
            format!("{shown} is before this release was made"),
            "set it: signatures and events carry the time",
        );
    }
    let marks = [
        "/run/systemd/timesync/synchronized",
        "/run/chrony/chronyd.pid",
        "/run/ntpd.pid",
    ];
    match marks.iter().find(|mark| FilePath::new(mark).exists()) {
        Some(_) => Finding::good(WHAT, format!("{shown}, kept by a time service")),
        None => Finding::good(
            WHAT,
            format!("{shown}; no time service seen (S3 clients may differ by 15 minutes)"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_good_says_what_to_do() {
        let missing = directory(FilePath::new("/proc/version"));
        assert_eq!(missing.grade, Grade::Bad);
        let text = lines(&[
            missing,
            tool("no-such-program", "shows this", "some-package"),
        ]);
        assert!(text.contains("--data DIR"), "{text}");
        assert!(text.contains("apt-get install some-package"), "{text}");
    }

    #[test]
    fn a_directory_that_can_be_made_is_good() {
        let directory_above = tempfile::tempdir().unwrap();
        let finding = directory(&directory_above.path().join("a/b"));
        assert_eq!(finding.grade, Grade::Good, "{}", finding.found);
        assert_eq!(
            space(&directory_above.path().join("a/b")).what,
            "disk space"
        );
    }
}
