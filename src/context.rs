//! What every command needs: settings, the way to the server, and how to print.

use crate::cli::Global;
use crate::client::Client;
use crate::config::Config;
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use crate::server_file::{CREDENTIALS_FILE, ServerFile};
use access::Credentials;
use serde::Serialize;
use std::path::PathBuf;

/// Settings and output.
#[derive(Debug)]
pub(crate) struct Context {
    /// All settings.
    pub(crate) config: Config,
    /// Whether results are JSON.
    pub(crate) json: bool,
}

impl Context {
    /// Reads the settings; `flags` are those of the command itself.
    pub(crate) fn new(global: &Global, flags: &[(&'static str, String)]) -> Outcome<Self> {
        let mut all = global.settings();
        all.extend_from_slice(flags);
        let config = Config::load(global.config.as_deref(), &variable, &all)?;
        Ok(Self {
            config,
            json: global.json,
        })
    }

    /// The data directory.
    pub(crate) fn data(&self) -> Outcome<PathBuf> {
        self.config
            .data(&variable, rustix::process::geteuid().is_root())
    }

    /// The way to the server, and whose key is shown there.
    pub(crate) fn client(&self) -> Outcome<Client> {
        let server = self.server_url()?;
        let credentials = self.credentials(&server)?;
        Client::new(&server, &credentials, self.ca().as_deref())
    }

    /// Where the server is: as named, else as the one on the data directory wrote it down.
    pub(crate) fn server_url(&self) -> Outcome<String> {
        if let Some(endpoint) = self.config.endpoint() {
            return Ok(endpoint.trim_end_matches('/').to_owned());
        }
        Ok(ServerFile::read(&self.data()?)?.endpoint)
    }

    /// Whose certificates are trusted, where it is not the system that knows: as named, else the CA
    /// of the server that runs on the data directory.
    pub(crate) fn ca(&self) -> Option<PathBuf> {
        self.config.ca().or_else(|| {
            let data = self.data().ok()?;
            ServerFile::read(&data).ok()?.ca
        })
    }

    /// Whether `server` is the one that runs on the data directory.
    fn is_own(&self, server: &str) -> bool {
        let own = self.data().and_then(|data| ServerFile::read(&data));
        own.is_ok_and(|own| own.endpoint == server)
    }

    /// The key: from the environment, else from a login that has not ended, else from the data directory.
    pub(crate) fn credentials(&self, server: &str) -> Outcome<Credentials> {
        match (variable("INFALL_ACCESS_KEY"), variable("INFALL_SECRET_KEY")) {
            (Some(access_key), Some(secret_key)) => {
                return Ok(Credentials {
                    access_key,
                    secret_key,
                    session_token: variable("INFALL_SESSION_TOKEN"),
                });
            }
            (None, None) => {}
            _ => {
                let message = "only one of INFALL_ACCESS_KEY and INFALL_SECRET_KEY is set";
                return Err(Failure::new(Exit::Usage, "credentials", message)
                    .hint("Set both, or neither to use those of the data directory"));
            }
        }
        if let Some(saved) = crate::login::of_server(server)? {
            return Ok(Credentials {
                access_key: saved.access_key,
                secret_key: saved.secret_key,
                session_token: Some(saved.session_token),
            });
        }
        let data = self.data()?;
        // The key of this machine's server is not shown to whoever listens elsewhere.
        if !render::is_loopback(server) && !self.is_own(server) {
            let message = format!(
                "no key for {server}: that of {} stays on this machine",
                data.display()
            );
            return Err(Failure::new(Exit::Denied, "credentials", message)
                .hint("Log in: infall login; or set INFALL_ACCESS_KEY and INFALL_SECRET_KEY"));
        }
        let path = data.join(CREDENTIALS_FILE);
        if !path.exists() {
            let message = format!("no credentials in {}", data.display());
            return Err(Failure::new(Exit::Unavailable, "credentials", message).hint(
                "The first infall serve makes them; or set INFALL_ACCESS_KEY and INFALL_SECRET_KEY",
            ));
        }
        load_credentials(&path).map(|(credentials, _)| credentials)
    }

    /// Prints a result: as JSON, or as `human` writes it.
    pub(crate) fn show<T: Serialize + ?Sized>(&self, result: &T, human: impl FnOnce() -> String) {
        if self.json {
            let text = serde_json::to_string_pretty(result).unwrap_or_default();
            render::print(&format!("{text}\n"));
        } else {
            render::print(&human());
        }
    }
}

/// Reads the pair, or makes it; the flag says whether it was made now.
pub(crate) fn load_credentials(path: &std::path::Path) -> Outcome<(Credentials, bool)> {
    Credentials::load_or_create(path).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let failure = Failure::new(Exit::Denied, "credentials", error.to_string());
        match cause {
            Some(cause) => failure.because(cause),
            None => failure,
        }
    })
}

pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
