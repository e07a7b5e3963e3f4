//! The door on a free loopback port over a store of its own, and clients to drive it.

use access::{Access, Credentials};
use blockstore::{Options, Store};
use gateway::dav::{TransferSettings, TransferTimes, router};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;
use tokio::runtime::Runtime;

/// A running door.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) credentials: Credentials,
    pub(crate) store: Store,
    pub(crate) access: Access,
    // Ends the server's tasks before the store's directory goes.
    _runtime: Runtime,
    pub(crate) directory: tempfile::TempDir,
}

/// What curl got.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// A header's value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next()
            .unwrap_or_default()
    }

    /// The same reply, which must have this status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        self
    }
}

impl Server {
    /// One that reaches no other server.
    pub(crate) fn start() -> Self {
        Self::reaching("")
    }

    /// One that may reach these.
    pub(crate) fn reaching(hosts: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::on(directory, Credentials::generate(), hosts)
    }

    /// One on a store that is there.
    pub(crate) fn on(directory: tempfile::TempDir, credentials: Credentials, hosts: &str) -> Self {
        Self::trusting(directory, credentials, hosts, None)
    }

    /// One that trusts the certificates of these authorities only.
    pub(crate) fn trusting(
        directory: tempfile::TempDir,
        credentials: Credentials,
        hosts: &str,
        authorities: Option<Vec<u8>>,
    ) -> Self {
        let transfers = TransferSettings {
            hosts: hosts.parse().unwrap(),
            authorities,
            ..TransferSettings::default()
        };
        Self::with(directory, credentials, transfers)
    }

    /// One that may reach these, and waits for them no longer than so many seconds: for a word, and
    /// for all of a copy.
    pub(crate) fn waiting(hosts: &str, silence: u64, lasts: u64) -> Self {
        let transfers = TransferSettings {
            hosts: hosts.parse().unwrap(),
            times: TransferTimes {
                silence_max: Duration::from_secs(silence),
                lasts_max: Duration::from_secs(lasts),
            },
            ..TransferSettings::default()
        };
        let directory = tempfile::tempdir().unwrap();
        Self::with(directory, Credentials::generate(), transfers)
    }

    fn with(
        directory: tempfile::TempDir,
        credentials: Credentials,
        transfers: TransferSettings,
    ) -> Self {
        let store = Store::open(directory.path(), Options::default()).unwrap();
        let runtime = Runtime::new().unwrap();
        let access = Access::open(store.clone(), credentials.clone()).unwrap();
        let door = router(store.clone(), access.clone(), transfers).unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, door).await });
        Self {
            address,
            credentials,
            store,
            access,
            _runtime: runtime,
            directory,
        }
    }

    /// Stops it and starts another one on the same store.
    pub(crate) fn restarted(self) -> Self {
        let Self {
            credentials,
            store,
            access,
            _runtime,
            directory,
            ..
        } = self;
        drop(_runtime);
        access.flush().unwrap();
        store.close().unwrap();
        // The last handles: the directory is another's to open after them.
        drop((store, access));
        Self::on(directory, credentials, "")
    }

    /// The URL of a path below `/dav`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/dav/{path}", self.address)
    }

    /// curl with the root key.
    pub(crate) fn curl(&self, method: &str, path: &str, more: &[&str]) -> Reply {
        let pair = format!(
            "{}:{}",
            self.credentials.access_key, self.credentials.secret_key
        );
        let mut words = vec!["-u", &pair];
        words.extend(more);
        curl(method, &self.url(path), &words)
    }

    /// A MKCOL that must succeed.
    pub(crate) fn make(&self, path: &str) {
        self.curl("MKCOL", path, &[]).is(201);
    }

    /// A PUT that must succeed.
    pub(crate) fn put(&self, path: &str, text: &str) -> Reply {
        let reply = self.curl("PUT", path, &["--data-binary", text]);
        assert!(matches!(reply.status, 201 | 204), "{reply:?}");
        reply
    }

    /// What is at a path, as text.
    pub(crate) fn get(&self, path: &str) -> String {
        self.curl("GET", path, &[]).is(200).body
    }

    /// The Authorization header's value of the root key.
    pub(crate) fn bearer(&self) -> String {
        format!(
            "Bearer {}:{}",
            self.credentials.access_key, self.credentials.secret_key
        )
    }

    /// A raw connection on which `text` was sent; nothing is added to it.
    pub(crate) fn raw(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }
}

/// The status line of what comes back on a raw connection.
pub(crate) fn status_line(mut stream: TcpStream) -> String {
    let mut bytes = vec![0; 64];
    let count = stream.read(&mut bytes).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

/// curl on any URL.
pub(crate) fn curl(method: &str, url: &str, more: &[&str]) -> Reply {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--path-as-is", "--max-time", "120"]);
    match method {
        "HEAD" => command.arg("--head"),
        method => command.args(["-X", method]),
    };
    // Otherwise curl waits a second for a 100 that it may not get.
    command.args(["-H", "Expect:"]);
    let ran = command.args(more).arg(url).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok());
    Reply {
        status: status.unwrap_or_else(|| {
            panic!(
                "{method} {url}: no reply; {}",
                String::from_utf8_lossy(&ran.stderr)
            )
        }),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// A command that must be installed and must succeed; its output.
pub(crate) fn run(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let ran: Output = command
        .output()
        .unwrap_or_else(|error| panic!("{name} is missing ({error}). Run scripts/packages"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(ran.status.success(), "{name}: {}\n{text}", ran.status);
    text
}
