//! A real sshd on loopback that trusts the authority, as a guest's seed has it.

use crate::harness::{Done, run};
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const INSTALL: &str = "apt-get install openssh-server openssh-client";

pub(crate) struct Sshd {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Sshd {
    /// `script` is the seed's, of which the sshd's settings are taken word for word.
    pub(crate) fn start(folder: &Path, script: &str) -> Self {
        std::fs::create_dir(folder).unwrap();
        let host_key = folder.join("host");
        key_pair(&host_key);
        let between = |start: &str, end: &str| {
            let (_, rest) = script.split_once(start).expect(start);
            rest.split_once(end).expect(end).0.to_owned()
        };
        let authority = between("echo '", "' > /etc/ssh/infall_ca.pub\n");
        std::fs::write(folder.join("ca.pub"), authority + "\n").unwrap();
        let settings = between("<<'CONF'\n", "CONF\n");
        let ours = folder.join("ca.pub").display().to_string();
        let settings = settings.replace("/etc/ssh/infall_ca.pub", &ours);
        // sshd wants its privilege separation directory, which Debian's unit makes.
        std::fs::create_dir_all("/run/sshd").unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nPidFile none\nUsePAM no\n\
             PasswordAuthentication no\nLogLevel VERBOSE\n{settings}",
            host_key.display()
        );
        let file = folder.join("sshd_config");
        std::fs::write(&file, text).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(File::create(folder.join("log")).unwrap())
            .spawn()
            .expect(INSTALL);
        crate::lab::eventually("sshd", Duration::from_secs(10), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            child,
            port,
            folder: folder.to_owned(),
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// The stock client with a key and the certificate beside it.
    pub(crate) fn login(&self, key: &Path, user: &str) -> Done {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-oBatchMode=yes",
            "-oStrictHostKeyChecking=no",
        ])
        .args([
            "-oUserKnownHostsFile=/dev/null",
            "-oIdentitiesOnly=yes",
            "-i",
        ])
        .arg(key)
        .args([&format!("-p{}", self.port), "-l", user, "127.0.0.1", "true"]);
        run(&mut ssh)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a key; its file and the line of its .pub.
pub(crate) fn key_pair(file: &Path) -> (PathBuf, String) {
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f"])
        .arg(file);
    run(&mut keygen).ok();
    let line = std::fs::read_to_string(file.with_extension("pub")).unwrap();
    (file.to_owned(), line.trim().to_owned())
}

/// Certifies a key by the stock tool.
pub(crate) fn sign(authority: &Path, key: &Path, principal: &str, validity: &str) {
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-I", "test", "-n", principal, "-V", validity, "-s"])
        .arg(authority)
        .arg(key.with_extension("pub"));
    run(&mut keygen).ok();
}
