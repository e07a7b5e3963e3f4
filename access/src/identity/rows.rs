//! Identity records as the catalog keeps them: JSON rows, each under its kind and name.
//!
//! | kind | name | row |
//! |---|---|---|
//! | `project` | name | [`Project`] |
//! | `iam-user` | project `/` name | [`User`] |
//! | `iam-group` | project `/` name | [`Group`] |
//! | `iam-role` | project `/` name | [`Role`] |
//! | `iam-policy` | project `/` name | [`ManagedPolicy`] |
//! | `iam-key` | access key | [`KeyRow`] |
//! | `iam-session` | access key | [`SessionRow`](super::sessions::SessionRow) |

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What nobody may read but its owner; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(crate) String);

impl Secret {
    /// The secret itself, for whoever signs with it or hands it to its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

/// A project: the account that owns what its users make, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// What it is called.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// What it may use at most.
    #[serde(default)]
    pub quota: Quota,
}

/// The most of each that a project may use; absent: no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Bytes that its objects, volumes and images show.
    pub bytes: Option<u64>,
    /// Objects, versions included.
    pub objects: Option<u64>,
    /// Volumes.
    pub volumes: Option<u64>,
    /// VMs.
    pub vms: Option<u64>,
}

/// What a user, group or role was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Policies in line: their text by name.
    #[serde(default)]
    pub inline: BTreeMap<String, String>,
    /// Attached managed policies, by ARN.
    #[serde(default)]
    pub attached: Vec<String>,
}

/// Somebody, or a program, with keys of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Their project.
    pub project: String,
    /// What they are called there.
    pub name: String,
    /// As IAM has it: `/` or `/division/`.
    #[serde(default = "root_path")]
    pub path: String,
    /// Never reused: `AIDA…`.
    pub id: String,
    /// When they were made.
    pub created_ms: u64,
    /// A program rather than a person.
    #[serde(default)]
    pub service: bool,
    /// What they may do.
    #[serde(default)]
    pub given: Given,
    /// For people and for conditions.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// Users who are given the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its project.
    pub project: String,
    /// What it is called there.
    pub name: String,
    /// As IAM has it.
    #[serde(default = "root_path")]
    pub path: String,
    /// Never reused: `AGPA…`.
    pub id: String,
    /// When it was made.
    pub created_ms: u64,
    /// Users of its project.
    #[serde(default)]
    pub members: Vec<String>,
    /// What its members may do.
    #[serde(default)]
    pub given: Given,
}

/// What somebody may become for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its project.
    pub project: String,
    /// What it is called there.
    pub name: String,
    /// As IAM has it.
    #[serde(default = "root_path")]
    pub path: String,
    /// Never reused: `AROA…`.
    pub id: String,
    /// When it was made.
    pub created_ms: u64,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Who may become it: a policy's text.
    pub trust: String,
    /// Seconds that a session lasts at most.
    #[serde(default = "session_seconds_max")]
    pub session_seconds_max: u64,
    /// What it may do.
    #[serde(default)]
    pub given: Given,
}

/// A policy under a name, to be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedPolicy {
    /// Its project; `aws` for those that are built in.
    pub project: String,
    /// What it is called there.
    pub name: String,
    /// As IAM has it.
    #[serde(default = "root_path")]
    pub path: String,
    /// Never reused: `ANPA…`.
    pub id: String,
    /// When it was made.
    pub created_ms: u64,
    /// When its last version was made.
    #[serde(default)]
    pub updated_ms: u64,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Its texts, oldest first.
    pub versions: Vec<PolicyVersion>,
    /// The one that counts.
    pub default_version: String,
}

/// One text of a managed policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// `v1`, `v2`, …
    pub id: String,
    /// The policy.
    pub document: String,
    /// When it was made.
    pub created_ms: u64,
}

/// An access key as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// `INF4…`
    pub id: String,
    /// Its user's project.
    pub project: String,
    /// Its user.
    pub user: String,
    /// Whether it opens anything.
    pub active: bool,
    /// When it was made.
    pub created_ms: u64,
    /// What its owner signs with.
    pub secret: Secret,
}

fn root_path() -> String {
    "/".into()
}

fn session_seconds_max() -> u64 {
    3600
}

/// A row that belongs to a project and has a name there.
pub(crate) trait Row: serde::Serialize + serde::de::DeserializeOwned + Clone {
    /// Its kind of record.
    const KIND: &'static str;
    /// What people call it, and its ARN too.
    const SORT: &'static str;
    /// Its project.
    fn project(&self) -> &str;
    /// Its name there.
    fn name(&self) -> &str;
    /// As policies name it: `arn:aws:iam::<project>:user/<path><name>`.
    fn path(&self) -> &str;
    /// The ARN.
    fn arn(&self) -> String {
        arn(Self::SORT, self.project(), self.path(), self.name())
    }
}

/// `arn:aws:iam::<project>:<sort>/<path><name>`
pub(crate) fn arn(sort: &str, project: &str, path: &str, name: &str) -> String {
    format!("arn:aws:iam::{project}:{sort}{path}{name}")
}

macro_rules! rows {
    ($($row:ident: $kind:literal, $sort:literal;)*) => {
        $(impl Row for $row {
            const KIND: &'static str = $kind;
            const SORT: &'static str = $sort;
            fn project(&self) -> &str {
                &self.project
            }
            fn name(&self) -> &str {
                &self.name
            }
            fn path(&self) -> &str {
                &self.path
            }
        }
        impl $row {
            /// As policies name it.
            pub fn arn(&self) -> String {
                Row::arn(self)
            }
        })*
    };
}

rows! {
    User: "iam-user", "user";
    Group: "iam-group", "group";
    Role: "iam-role", "role";
    ManagedPolicy: "iam-policy", "policy";
}

impl ManagedPolicy {
    /// The text that counts.
    pub fn document(&self) -> &str {
        self.version(&self.default_version)
            .map_or("", |version| version.document.as_str())
    }

    /// A version by its id.
    pub fn version(&self, id: &str) -> Option<&PolicyVersion> {
        self.versions.iter().find(|version| version.id == id)
    }
}
