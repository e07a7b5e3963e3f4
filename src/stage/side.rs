//! From a place to a side that can be spoken to: which server, whose key, whose certificates.
//!
//! 1. The key of this machine's server goes to it alone, by whatever protocol it is spoken to.
//! 2. Another server's key comes from the environment: `INFALL_SOURCE_…` and `INFALL_TARGET_…`
//!    for one side, `AWS_…` for either S3. Never from the command line, which others can see.

use super::location::{Place, Protocol};
use super::pace::Pace;
use super::remote::Remote;
use super::remote::cdmi::Cdmi;
use super::remote::dav::Dav;
use super::remote::http::Http;
use super::remote::local::Local;
use super::remote::s3::S3;
use super::remote::sdk::Sdk;
use super::remote::web::{Login, Web};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::server_file::ServerFile;
use aws_sdk_s3::config::Credentials;
use std::path::PathBuf;
use std::sync::Arc;

/// Which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// What is read.
    Source,
    /// What is written.
    Target,
}

/// How sides are opened.
pub(crate) struct Opener<'a> {
    /// Settings.
    pub(crate) context: &'a Context,
    /// The S3 that `s3://` means, if not this server's.
    pub(crate) s3: Option<&'a str>,
    /// The region of another S3.
    pub(crate) region: Option<&'a str>,
    /// What uploads to S3 are held to.
    pub(crate) pace: &'a Arc<Pace>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn of_side(role: Role, name: &str) -> Option<String> {
    let side = match role {
        Role::Source => "SOURCE",
        Role::Target => "TARGET",
    };
    variable(&format!("INFALL_{side}_{name}"))
}

impl Opener<'_> {
    /// The side whose root is `tree`; `one` is the one file in it that was named.
    pub(crate) fn open(
        &self,
        role: Role,
        tree: &Place,
        one: Option<&Place>,
    ) -> Outcome<Arc<dyn Remote>> {
        match tree {
            Place::Local(root) => Ok(Arc::new(Local::new(root))),
            Place::S3 {
                endpoint,
                bucket,
                key,
            } => {
                let other = endpoint.as_deref().or(self.s3);
                let sdk = self.sdk(role, other)?;
                let shown = match endpoint {
                    Some(endpoint) => format!("s3+{}/", endpoint.trim_end_matches('/')),
                    None => "s3://".into(),
                };
                Ok(Arc::new(S3::new(
                    sdk,
                    bucket,
                    key,
                    shown,
                    Arc::clone(self.pace),
                )))
            }
            Place::Web {
                protocol, server, ..
            } => {
                let login = self.login(role, server)?;
                let tls = crate::client::trust(
                    self.ca(server).as_deref(),
                    server.starts_with("https://"),
                )?;
                let web = Web::new(tree, one, &login, tls)?;
                let place = tree.clone();
                Ok(match protocol {
                    Protocol::Http => Arc::new(Http::new(web, place)),
                    Protocol::Dav => Arc::new(Dav::new(web, place)),
                    Protocol::Cdmi => Arc::new(Cdmi::new(web, place)),
                })
            }
        }
    }

    /// Where the S3 behind `s3://` is, as far as that is known without asking: two runs that mean
    /// different servers by the same URL must not take each other's work for theirs.
    pub(crate) fn server_of(&self, place: &Place) -> String {
        match place {
            Place::S3 { endpoint: None, .. } => match self.s3 {
                Some(other) => other.to_owned(),
                None => self.context.server_url().unwrap_or_default(),
            },
            _ => String::new(),
        }
    }

    /// This server, or another S3 with the key from the environment.
    fn sdk(&self, role: Role, other: Option<&str>) -> Outcome<Sdk> {
        let Some(endpoint) = other else {
            let endpoint = self.context.server_url()?;
            let pair = self.context.credentials(&endpoint)?;
            let pair = Credentials::new(
                pair.access_key,
                pair.secret_key,
                pair.session_token,
                None,
                "infall",
            );
            let server = ServerFile::read(&self.context.data()?);
            let region = server.map_or_else(
                |_| self.context.config.region().to_owned(),
                |server| server.region,
            );
            return Sdk::new(&endpoint, pair, region, self.ca(&endpoint).as_deref());
        };
        let own = of_side(role, "ACCESS_KEY").zip(of_side(role, "SECRET_KEY"));
        let (pair, token) = match own {
            Some(pair) => (Some(pair), of_side(role, "SESSION_TOKEN")),
            None => (
                variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY")),
                variable("AWS_SESSION_TOKEN"),
            ),
        };
        let (access, secret) = pair.ok_or_else(|| {
            Failure::new(
                Exit::Denied,
                "credentials",
                format!("no key for {endpoint}"),
            )
            .hint("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        })?;
        let region = self
            .region
            .map(str::to_owned)
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .unwrap_or_else(|| "us-east-1".into());
        let pair = Credentials::new(access, secret, token, None, "environment");
        Sdk::new(endpoint, pair, region, self.ca(endpoint).as_deref())
    }

    fn login(&self, role: Role, server: &str) -> Outcome<Login> {
        if let Some(token) = of_side(role, "TOKEN") {
            return Ok(Login::Bearer(token));
        }
        if let Some((user, password)) = of_side(role, "USER").zip(of_side(role, "PASSWORD")) {
            return Ok(Login::Basic(user, password));
        }
        // Only where no answer depends on it is our own server's absence no error.
        let ours = self.context.server_url().is_ok_and(|ours| ours == server);
        if !ours {
            return Ok(Login::Nobody);
        }
        let pair = self.context.credentials(server)?;
        Ok(Login::Bearer(pair.bearer()))
    }

    /// Our own server's CA for it, that of `--ca` for others; without one, the system's.
    fn ca(&self, server: &str) -> Option<PathBuf> {
        let data = self.context.data().ok();
        let own = data.and_then(|data| ServerFile::read(&data).ok());
        let own = own
            .filter(|own| own.endpoint == server)
            .and_then(|own| own.ca);
        own.or_else(|| self.context.config.ca())
    }
}
