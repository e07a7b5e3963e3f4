//! Who asks: a principal, from where, under which request id.

use blockstore::Who;
use std::fmt;
use std::net::IpAddr;

/// An identity that decisions are made about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody showed a key.
    Anonymous,
    /// The operator: the root key, or the socket that only the server's own user can open.
    Root,
    /// A user of a project.
    User {
        /// The user.
        name: String,
        /// Their project, which owns what they make.
        project: String,
    },
    /// Somebody under a role, for a while.
    Session {
        /// The role.
        role: String,
        /// What the session was called when it was begun.
        session: String,
        /// The role's project.
        project: String,
        /// The access key of the session: finds its policy and its end.
        key: String,
    },
    /// A part of the system itself, e.g. a guest's disk that is served again after a restart.
    Service {
        /// What it is called.
        name: String,
    },
}

/// How a request reached us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The address at the other end of the connection; headers that claim another are not believed.
    pub address: Option<IpAddr>,
    /// Over TLS, or over a socket that never leaves this machine's kernel.
    pub secure: bool,
    /// What the client calls itself.
    pub agent: String,
}

/// Who asks, from where, under which id: one per request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// From where.
    pub origin: Origin,
    /// The request id that logs and replies carry too.
    pub request: String,
}

impl Principal {
    /// The project that owns what this principal makes. The operator's is `root`.
    pub fn project(&self) -> &str {
        match self {
            Self::User { project, .. } | Self::Session { project, .. } => project,
            Self::Anonymous | Self::Root | Self::Service { .. } => "root",
        }
    }

    /// As policies name it: `arn:aws:iam::<project>:user/<name>`.
    pub fn arn(&self) -> String {
        match self {
            Self::Anonymous => "*".to_owned(),
            Self::Root => "arn:aws:iam::root:root".to_owned(),
            Self::User { name, project } => format!("arn:aws:iam::{project}:user/{name}"),
            Self::Session {
                role,
                session,
                project,
                ..
            } => format!("arn:aws:sts::{project}:assumed-role/{role}/{session}"),
            Self::Service { name } => format!("arn:infall:iam::root:service/{name}"),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => out.write_str("anonymous"),
            Self::Root => out.write_str("root"),
            Self::User { name, .. } => write!(out, "user/{name}"),
            Self::Session { role, session, .. } => write!(out, "role/{role}/{session}"),
            Self::Service { name } => write!(out, "service/{name}"),
        }
    }
}

impl Caller {
    /// The operator, over a socket of this machine.
    pub fn root(request: impl Into<String>) -> Self {
        Self {
            principal: Principal::Root,
            origin: Origin {
                secure: true,
                ..Origin::default()
            },
            request: request.into(),
        }
    }

    /// As the store and its journal want it.
    pub fn who(&self) -> Who {
        Who {
            actor: self.principal.to_string(),
            request: self.request.clone(),
            project: self.principal.project().to_owned(),
        }
    }
}
