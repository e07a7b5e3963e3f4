//! The real program on a data directory of its own: started, killed, restarted, spoken to.
//!
//! A server listens on a free loopback port and is ended by its process id when dropped.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its exit code; -1 for a signal.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

impl Done {
    /// Its output, which must be that of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its error text, which must come with this exit code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// A server and its data directory.
pub(crate) struct Server {
    folder: TempDir,
    child: Option<Child>,
    listen: String,
    more: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Server {
    /// Starts one on an empty data directory.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more arguments for `serve`.
    pub(crate) fn start_with(more: &[&str]) -> Self {
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            child: None,
            listen: "127.0.0.1:0".into(),
            more: more.iter().map(|word| (*word).to_owned()).collect(),
            environment: Vec::new(),
        };
        server.begin();
        // A restart comes back at the same address, as clients expect it.
        server.listen = server.address();
        server
    }

    /// The same with variables of its environment, told once its folder is there.
    pub(crate) fn start_under(environment: impl FnOnce(&Path) -> Vec<(String, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self {
            environment: environment(folder.path()),
            folder,
            child: None,
            listen: "127.0.0.1:0".into(),
            more: Vec::new(),
        };
        server.begin();
        server.listen = server.address();
        server
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A place for files beside it.
    pub(crate) fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// What the server wrote to its standard output and error, over all its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }

    /// `server.json`.
    pub(crate) fn file(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.data().join("server.json")).ok()?).ok()
    }

    /// `http://127.0.0.1:port`.
    pub(crate) fn endpoint(&self) -> String {
        self.file().unwrap()["endpoint"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// `127.0.0.1:port`.
    pub(crate) fn address(&self) -> String {
        let endpoint = self.endpoint();
        let address = endpoint.split_once("://").map(|(_, address)| address);
        address.unwrap_or_default().to_owned()
    }

    /// Access key and secret key.
    pub(crate) fn credentials(&self) -> (String, String) {
        let text = std::fs::read(self.data().join("credentials")).unwrap();
        let pair: Value = serde_json::from_slice(&text).unwrap();
        let part = |name: &str| pair[name].as_str().unwrap().to_owned();
        (part("access_key"), part("secret_key"))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A command of the program on this data directory.
    pub(crate) fn infall<S: AsRef<str>>(&self, words: &[S]) -> Done {
        let mut command = program(self.folder.path());
        command.arg("--data").arg(self.data());
        run(command.args(words.iter().map(AsRef::as_ref)))
    }

    /// A command that must succeed, and its JSON.
    #[track_caller]
    pub(crate) fn json<S: AsRef<str>>(&self, words: &[S]) -> Value {
        let mut words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        words.push("--json");
        serde_json::from_str(&self.infall(&words).ok()).unwrap()
    }

    /// SIGKILL: no chance to put anything in order.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let child = self.child.take().unwrap();
        end(child)
    }

    /// Starts again after `kill` or `stop`.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "it still runs");
        self.begin();
    }

    fn begin(&mut self) {
        let log = self.folder.path().join("serve.log");
        let sink = || {
            File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap()
        };
        let mut command = program(self.folder.path());
        command
            .arg("--data")
            .arg(self.data())
            .args(["serve", "--listen", &self.listen]);
        command
            .args(&self.more)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(sink())
            .stderr(sink());
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        // A killed server left its file; ours carries our process id.
        while self.file().is_none_or(|file| file["pid"] != child.id()) {
            if let Some(ended) = child.try_wait().unwrap() {
                panic!("serve ended with {ended}:\n{}", self.log());
            }
            if Instant::now() > until {
                end(child);
                panic!("serve was not ready within {PATIENCE:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child);
        }
    }
}

/// The program with nothing of the caller's environment but its PATH.
pub(crate) fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infall"));
    command.env_clear().env("HOME", home);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs it to its end.
pub(crate) fn run(command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Asks it to end; kills it if it does not.
fn end(mut child: Child) -> ExitStatus {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap()
}
