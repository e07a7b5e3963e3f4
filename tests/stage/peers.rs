//! Peers that are not ours: rclone's WebDAV and HTTP servers, python's HTTP server, a wire that
//! counts what travels over it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A server that is ended by its process id.
pub(crate) struct Peer {
    child: Child,
    /// `127.0.0.1:port`.
    pub(crate) address: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Peer {
    /// Starts it; the port stands behind `mark` in what it writes to standard error or output.
    fn start(command: &mut Command, mark: &'static str) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, found) = std::sync::mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for stream in streams {
            let send = send.clone();
            // Read to the end, so that the peer never waits for us.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if let Some((_, rest)) = line.split_once(mark) {
                        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                        let _ = send.send(port);
                    }
                }
            });
        }
        let port = found.recv_timeout(Duration::from_secs(20));
        match port {
            Ok(port) => Self {
                child,
                address: format!("127.0.0.1:{port}"),
            },
            Err(_) => {
                let _ = child.kill();
                panic!("{command:?} named no port");
            }
        }
    }

    /// rclone's WebDAV server, with a user `u` and the password `p`.
    pub(crate) fn webdav(folder: &Path) -> Self {
        let mut command = Command::new("rclone");
        command
            .args([
                "serve",
                "webdav",
                "--addr",
                "127.0.0.1:0",
                "--user",
                "u",
                "--pass",
                "p",
            ])
            .arg(folder);
        Self::start(
            command.env("RCLONE_CONFIG", "/dev/null"),
            "http://127.0.0.1:",
        )
    }

    /// rclone's HTTP server: index pages, ranges, no digests.
    pub(crate) fn rclone_http(folder: &Path) -> Self {
        // It never says which port it took, so it is given one that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut command = Command::new("rclone");
        command
            .args(["serve", "http", "--addr", &address])
            .arg(folder)
            .env("RCLONE_CONFIG", "/dev/null");
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let peer = Self { child, address };
        wait_until("rclone listens", || {
            TcpStream::connect(&peer.address).is_ok()
        });
        peer
    }

    /// python's HTTP server: index pages, no ranges.
    pub(crate) fn python_http(folder: &Path) -> Self {
        let mut command = Command::new("python3");
        command
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"])
            .current_dir(folder);
        Self::start(&mut command, "port ")
    }

    /// A server of a few lines of python; `body` is the inside of a request handler's class.
    pub(crate) fn python(folder: &Path, body: &str) -> Self {
        let script = format!(
            "import http.server, os, hashlib, base64, time\n\
             class Handler(http.server.BaseHTTPRequestHandler):\n\
             \x20   protocol_version = 'HTTP/1.1'\n\
             \x20   def log_message(self, *words): pass\n\
             \x20   def say(self, status, body=b'', **headers):\n\
             \x20       self.send_response(status)\n\
             \x20       for name, value in headers.items(): self.send_header(name.replace('_', '-'), value)\n\
             \x20       self.send_header('Content-Length', str(len(body)))\n\
             \x20       self.end_headers()\n\
             \x20       if self.command != 'HEAD': self.wfile.write(body)\n\
             {body}\n\
             server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)\n\
             print('port', server.server_port, flush=True)\n\
             server.serve_forever()\n"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]).current_dir(folder);
        Self::start(&mut command, "port ")
    }
}

/// A way to a server that counts the bytes of both directions.
pub(crate) struct Wire {
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Wire {
    /// To `127.0.0.1:port`.
    pub(crate) fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (target, counts) = (target.to_owned(), (Arc::clone(&up), Arc::clone(&down)));
        // It ends with the test's process; who connects no more makes no more threads.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&target) else {
                    continue;
                };
                let (up, down) = counts.clone();
                pump(client.try_clone().unwrap(), server.try_clone().unwrap(), up);
                pump(server, client, down);
            }
        });
        Self { address, up, down }
    }

    /// Bytes that went to the server since the last time.
    pub(crate) fn up(&self) -> u64 {
        self.up.swap(0, Ordering::SeqCst)
    }

    /// Bytes that came from it since the last time.
    pub(crate) fn down(&self) -> u64 {
        self.down.swap(0, Ordering::SeqCst)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, count: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            count.fetch_add(length as u64, Ordering::SeqCst);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

/// Waits until it holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes without a pattern that a mistake in offsets could hide in.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}
