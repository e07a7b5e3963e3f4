//! `server.json` in the data directory: where the server that has it open can be reached.

use crate::exit::{Exit, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The key pair, in the data directory.
pub(crate) const CREDENTIALS_FILE: &str = "credentials";
/// This file, in the data directory.
pub(crate) const SERVER_FILE: &str = "server.json";

/// What a running server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerFile {
    /// `http://127.0.0.1:9000`, or `https://…`
    pub(crate) endpoint: String,
    /// Its process.
    pub(crate) pid: u32,
    /// NBD, unix socket.
    pub(crate) nbd_socket: PathBuf,
    /// NBD, TCP, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nbd_tcp: Option<String>,
    /// The CA that signed its certificate, where clients on this machine find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// The region that S3 clients sign for.
    pub(crate) region: String,
    /// Its release.
    pub(crate) version: String,
}

impl ServerFile {
    /// Reads what the server on `data` wrote.
    pub(crate) fn read(data: &Path) -> Outcome<Self> {
        let path = data.join(SERVER_FILE);
        let text = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let message = format!("no server runs on {}", data.display());
                Failure::new(Exit::Unavailable, "server", message)
                    .hint("Start it: infall serve; or name one: --endpoint URL")
            }
            _ => Failure::io(format_args!("read {}", path.display()), &error),
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            let message = format!("{} is not what a server writes", path.display());
            Failure::new(Exit::Corrupt, "server", message)
                .because(error)
                .hint("Restart infall serve")
        })
    }

    /// Writes it; a reader sees the old file or the new one, never half of it.
    pub(crate) fn write(&self, data: &Path) -> std::io::Result<()> {
        let path = data.join(SERVER_FILE);
        let fresh = data.join(format!("{SERVER_FILE}.{}", std::process::id()));
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut file = File::create(&fresh)?;
        file.write_all(&text)?;
        std::fs::rename(&fresh, &path)
    }

    /// Takes it away, if it is still this process's.
    pub(crate) fn remove(data: &Path) {
        if Self::read(data).is_ok_and(|found| found.pid == std::process::id()) {
            // Left behind it only costs a client one refused connection.
            let _ = std::fs::remove_file(data.join(SERVER_FILE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_writes_is_read_back_and_only_its_own_is_removed() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(
            ServerFile::read(data.path()).unwrap_err().exit(),
            Exit::Unavailable
        );
        let mut written = ServerFile {
            endpoint: "http://127.0.0.1:9".into(),
            pid: std::process::id() + 1,
            nbd_socket: "/x/nbd.sock".into(),
            nbd_tcp: None,
            ca: None,
            region: "us-east-1".into(),
            version: "0".into(),
        };
        written.write(data.path()).unwrap();
        assert_eq!(ServerFile::read(data.path()).unwrap(), written);
        ServerFile::remove(data.path());
        assert!(ServerFile::read(data.path()).is_ok());
        written.pid = std::process::id();
        written.write(data.path()).unwrap();
        ServerFile::remove(data.path());
        assert!(ServerFile::read(data.path()).is_err());
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join(SERVER_FILE), "{").unwrap();
        let failure = ServerFile::read(data.path()).unwrap_err();
        assert!(failure.to_string().contains("server.json"), "{failure}");
    }
}
