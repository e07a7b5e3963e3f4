//! A server with a libvirt of its own, and people who speak to it with keys of their own.

use crate::harness::{Done, Server, program, run};
use crate::lab;
use serde_json::Value;
use sha2::Digest;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The exit code of a refusal.
pub(crate) const DENIED: i32 = 6;

/// A server.
pub(crate) struct Site {
    server: RefCell<Server>,
    folder: PathBuf,
    data: PathBuf,
    endpoint: String,
}

/// Somebody with a key.
pub(crate) struct Person {
    data: PathBuf,
    folder: PathBuf,
    endpoint: String,
    project: String,
    access_key: String,
    secret_key: String,
}

impl Site {
    pub(crate) fn start() -> Self {
        Self::start_under(|_| Vec::new())
    }

    /// The same with more variables of the server's environment, told once its folder is there.
    pub(crate) fn start_under(more: impl FnOnce(&Path) -> Vec<(String, String)>) -> Self {
        let server = Server::start_under(|folder| {
            // QEMU is another user and has to pass.
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
            let mut environment = more(folder);
            environment.push(("INFALL_VM_URI".into(), lab::libvirt().into()));
            environment
        });
        Self {
            folder: server.scratch().to_owned(),
            data: server.data(),
            endpoint: server.endpoint(),
            server: RefCell::new(server),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn root(&self) -> Person {
        let (access_key, secret_key) = self.server.borrow().credentials();
        self.person("root", access_key, secret_key)
    }

    /// A new user `PROJECT/NAME` with a managed policy, in a project that is made if need be.
    pub(crate) fn user(&self, name: &str, policy: &str) -> Person {
        let root = self.root();
        let (project, _) = name.split_once('/').unwrap();
        if project != "root" && root.infall(&["project", "show", project]).code != 0 {
            root.infall(&["project", "create", project]).ok();
        }
        let made = root.json(&["user", "create", name, "--key"]);
        root.infall(&["user", "attach", name, policy]).ok();
        let part = |name: &str| made["key"][name].as_str().unwrap().to_owned();
        self.person(project, part("id"), part("secret_key"))
    }

    fn person(&self, project: &str, access_key: String, secret_key: String) -> Person {
        Person {
            data: self.data.clone(),
            folder: self.folder.clone(),
            endpoint: self.endpoint.clone(),
            project: project.to_owned(),
            access_key,
            secret_key,
        }
    }

    /// The number of the newest event.
    pub(crate) fn last_event(&self) -> u64 {
        let events = self.events(0);
        events
            .last()
            .map_or(0, |event| event["seq"].as_u64().unwrap())
    }

    pub(crate) fn events(&self, after: u64) -> Vec<Value> {
        // The audit is written a moment after the decision.
        std::thread::sleep(Duration::from_millis(500));
        let text = self
            .root()
            .infall(&["events", "--json", "--after", &after.to_string()])
            .ok();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) fn denials(&self, after: u64) -> Vec<Value> {
        let mut events = self.events(after);
        events.retain(|event| event["kind"] == "access.denied");
        events
    }

    /// A file of an instance's seed.
    pub(crate) fn seed(&self, instance: &str, file: &str) -> String {
        let image = self.data.join("vms").join(instance).join("seed.iso");
        let mut isoinfo = Command::new("isoinfo");
        isoinfo
            .args(["-R", "-x", &format!("/{file}"), "-i"])
            .arg(image);
        run(&mut isoinfo).ok()
    }

    /// Ports of the host's loopback that lead into a guest.
    pub(crate) fn forwards(&self, instance: &str) -> usize {
        let mut virsh = Command::new("virsh");
        virsh.args([
            "-c",
            lab::libvirt(),
            "qemu-monitor-command",
            instance,
            "--hmp",
            "info usernet",
        ]);
        run(&mut virsh).ok().matches("HOST_FORWARD").count()
    }

    /// Stops the server and takes the authority's private key out of its catalog, to a file.
    pub(crate) fn authority(&mut self) -> PathBuf {
        assert!(self.server.borrow_mut().stop().success());
        let store = blockstore::Store::open(&self.data, blockstore::Options::default()).unwrap();
        let row = store.record_get("ssh-authority", "user").unwrap().unwrap();
        store.close().unwrap();
        let path = self.folder.join("authority");
        std::fs::write(&path, row["private_key"].as_str().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    pub(crate) fn until(&self, what: &str, limit: Duration, holds: impl FnMut() -> bool) {
        lab::eventually(what, limit, holds);
    }
}

impl Person {
    fn program(&self) -> Command {
        let mut command = program(&self.folder);
        command
            .env("INFALL_DATA", &self.data)
            .env("INFALL_ENDPOINT", &self.endpoint)
            .env("INFALL_ACCESS_KEY", &self.access_key)
            .env("INFALL_SECRET_KEY", &self.secret_key);
        command
    }

    pub(crate) fn infall<S: AsRef<str>>(&self, words: &[S]) -> Done {
        run(self.program().args(words.iter().map(AsRef::as_ref)))
    }

    #[track_caller]
    pub(crate) fn json<S: AsRef<str>>(&self, words: &[S]) -> Value {
        let done = run(self
            .program()
            .arg("--json")
            .args(words.iter().map(AsRef::as_ref)));
        serde_json::from_str(&done.ok()).unwrap()
    }

    /// An image of 1 MiB of zeroes in a bucket of one's own; its id.
    pub(crate) fn image(&self, name: &str) -> String {
        let bucket = format!("{}-images", self.project);
        self.infall(&["bucket", "create", &bucket]).ok();
        let file = self.folder.join(format!("{name}.raw"));
        std::fs::write(&file, vec![0; 1 << 20]).unwrap();
        let object = format!("s3://{bucket}/{name}.raw");
        self.infall(&["stage", "put", file.to_str().unwrap(), &object])
            .ok();
        let added = self.json(&["image", "add", &object, "--name", name]);
        added["image"]["id"].as_str().unwrap().to_owned()
    }

    /// Starts a command whose standard input stays open.
    pub(crate) fn begin(&self, words: &[&str]) -> Begun {
        let mut command = self.program();
        command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Begun(command.spawn().unwrap())
    }

    /// Types at a command until it has shown `wanted`, then leaves it by Ctrl-]; what it showed.
    pub(crate) fn typed(&self, words: &[&str], text: &str, wanted: &str) -> String {
        let mut begun = self.begin(words);
        let mut keys = begun.0.stdin.take().unwrap();
        let mut screen = begun.0.stdout.take().unwrap();
        let (sender, shown) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut all = Vec::new();
        let until = Instant::now() + Duration::from_secs(60);
        // A guest that is busy may lose what was typed before it looked.
        while Instant::now() < until && !String::from_utf8_lossy(&all).contains(wanted) {
            keys.write_all(text.as_bytes()).unwrap();
            let pause = Instant::now() + Duration::from_secs(3);
            while let Ok(bytes) =
                shown.recv_timeout(pause.saturating_duration_since(Instant::now()))
            {
                all.extend(bytes);
            }
        }
        keys.write_all(b"\x1d").unwrap();
        begun.ends_within(Duration::from_secs(10));
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// A command that runs.
pub(crate) struct Begun(Child);

impl Begun {
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    pub(crate) fn ends_within(mut self, limit: Duration) {
        lab::eventually("the end of a command", limit, || {
            self.0.try_wait().unwrap().is_some()
        });
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
