//! What something is done to, as policies name it.

use std::fmt;

/// One thing that an action is done to. Displays as its ARN.
///
/// ```text
/// arn:aws:s3:::BUCKET[/KEY]
/// arn:infall:volume:::NAME      also snapshot, image, instance, network, host, project
/// arn:infall:store:::*          the store as a whole: check, collect, events
/// arn:aws:iam::PROJECT:user/NAME    also group, role, policy
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A bucket; its project decides, and its policy is asked.
    Bucket(&'a str),
    /// An object in a bucket.
    Object(&'a str, &'a str),
    /// A volume, by name.
    Volume(&'a str),
    /// A snapshot, by name or id.
    Snapshot(&'a str),
    /// An image, by name or id.
    Image(&'a str),
    /// An instance, by name.
    Instance(&'a str),
    /// A host, by name.
    Host(&'a str),
    /// A project.
    Project(&'a str),
    /// A user, group, role or policy: its kind, project and name.
    Identity(&'a str, &'a str, &'a str),
    /// The store as a whole.
    Store,
    /// Whatever the action concerns, where no single thing is named: lists across buckets.
    All,
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket(bucket) => write!(out, "arn:aws:s3:::{bucket}"),
            Self::Object(bucket, key) => write!(out, "arn:aws:s3:::{bucket}/{key}"),
            Self::Volume(name) => write!(out, "arn:infall:volume:::{name}"),
            Self::Snapshot(name) => write!(out, "arn:infall:snapshot:::{name}"),
            Self::Image(name) => write!(out, "arn:infall:image:::{name}"),
            Self::Instance(name) => write!(out, "arn:infall:instance:::{name}"),
            Self::Host(name) => write!(out, "arn:infall:host:::{name}"),
            Self::Project(name) => write!(out, "arn:infall:project:::{name}"),
            Self::Identity(kind, project, name) => {
                write!(out, "arn:aws:iam::{project}:{kind}/{name}")
            }
            Self::Store => out.write_str("arn:infall:store:::*"),
            Self::All => out.write_str("*"),
        }
    }
}
