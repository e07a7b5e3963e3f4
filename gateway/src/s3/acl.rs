//! Access control lists: who besides the owner's project may do what to a bucket or an object.
//!
//! 1. Identities that a list names are projects: the `ID` of a canonical user is a project's name.
//! 2. A list only ever adds what a resource's own policy could add: the one policy engine is told
//!    that the list grants it, and an explicit Deny wins over that as over any Allow.
//! 3. In a bucket whose ownership is BucketOwnerEnforced lists say nothing and change nothing.
//!
//! ("Access control list (ACL) overview", Amazon S3 user guide.)

use http::HeaderMap;
use s3s::dto;
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// Grants of one list at most ("ACL overview", Amazon S3 user guide).
const GRANTS_MAX: usize = 100;
const EVERYONE: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// The list of a bucket or an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acl {
    /// The project that owns the bucket or the object.
    pub(super) owner: String,
    pub(super) grants: Vec<Grant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    to: Grantee,
    permission: Permission,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Grantee {
    Project(String),
    Everyone,
    Authenticated,
    LogDelivery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Permission {
    FullControl,
    Read,
    Write,
    ReadAcp,
    WriteAcp,
}

/// Whether a name is that of a project.
pub(super) type IsProject<'a> = &'a dyn Fn(&str) -> bool;

impl Permission {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "FULL_CONTROL" => Self::FullControl,
            "READ" => Self::Read,
            "WRITE" => Self::Write,
            "READ_ACP" => Self::ReadAcp,
            "WRITE_ACP" => Self::WriteAcp,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::FullControl => "FULL_CONTROL",
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::ReadAcp => "READ_ACP",
            Self::WriteAcp => "WRITE_ACP",
        }
    }
}

impl Acl {
    /// The owner may do all, nobody else anything.
    pub(super) fn private(owner: &str) -> Self {
        Self {
            owner: owner.to_owned(),
            grants: vec![Grant {
                to: Grantee::Project(owner.to_owned()),
                permission: Permission::FullControl,
            }],
        }
    }

    /// One of S3's own lists, by its name.
    pub(super) fn canned(name: &str, owner: &str, bucket_owner: &str) -> S3Result<Self> {
        use Permission::{FullControl, Read, ReadAcp, Write};
        let mut acl = Self::private(owner);
        let mut grant = |to: Grantee, permission| acl.grants.push(Grant { to, permission });
        let of_bucket = || Grantee::Project(bucket_owner.to_owned());
        match name {
            "private" => {}
            "public-read" => grant(Grantee::Everyone, Read),
            "public-read-write" => {
                grant(Grantee::Everyone, Read);
                grant(Grantee::Everyone, Write);
            }
            "authenticated-read" => grant(Grantee::Authenticated, Read),
            "log-delivery-write" => {
                grant(Grantee::LogDelivery, Write);
                grant(Grantee::LogDelivery, ReadAcp);
            }
            "bucket-owner-read" if owner != bucket_owner => grant(of_bucket(), Read),
            "bucket-owner-full-control" if owner != bucket_owner => {
                grant(of_bucket(), FullControl);
            }
            "bucket-owner-read" | "bucket-owner-full-control" => {}
            other => {
                return Err(s3_error!(
                    InvalidArgument,
                    "x-amz-acl is {other:?}: private, public-read, public-read-write, \
                     authenticated-read, log-delivery-write, bucket-owner-read and \
                     bucket-owner-full-control are known"
                ));
            }
        }
        Ok(acl)
    }

    /// What `x-amz-acl` or the `x-amz-grant-*` headers ask for; `None` if none is there.
    pub(super) fn of_headers(
        headers: &HeaderMap,
        owner: &str,
        bucket_owner: &str,
        is_project: IsProject<'_>,
    ) -> S3Result<Option<Self>> {
        let mut grants = Vec::new();
        for (header, permission) in [
            ("x-amz-grant-full-control", Permission::FullControl),
            ("x-amz-grant-read", Permission::Read),
            ("x-amz-grant-write", Permission::Write),
            ("x-amz-grant-read-acp", Permission::ReadAcp),
            ("x-amz-grant-write-acp", Permission::WriteAcp),
        ] {
            for value in headers.get_all(header) {
                let listed = value.to_str().unwrap_or_default().split(',');
                for one in listed {
                    grants.push(Grant {
                        to: of_header(one.trim(), is_project)?,
                        permission,
                    });
                }
            }
        }
        let canned = headers.get("x-amz-acl");
        match (canned, grants.is_empty()) {
            (None, true) => Ok(None),
            (Some(name), true) => {
                Self::canned(name.to_str().unwrap_or_default(), owner, bucket_owner).map(Some)
            }
            (Some(_), false) => Err(s3_error!(
                InvalidRequest,
                "Specifying both Canned ACLs and Header Grants is not allowed"
            )),
            (None, false) => Self {
                owner: owner.to_owned(),
                grants,
            }
            .bounded()
            .map(Some),
        }
    }

    /// A list as XML brings it. The owner stays who it is.
    pub(super) fn of_policy(
        policy: dto::AccessControlPolicy,
        owner: &str,
        is_project: IsProject<'_>,
    ) -> S3Result<Self> {
        let Some(named) = policy.owner.and_then(|owner| owner.id) else {
            return Err(s3_error!(
                MalformedACLError,
                "The XML you provided was not well-formed or did not validate against our \
                 published schema: the list names no owner"
            ));
        };
        if named != owner {
            return Err(s3_error!(
                AccessDenied,
                "Access Denied: the owner is {owner:?}, and a list cannot make it {named:?}"
            ));
        }
        let mut grants = Vec::new();
        for grant in policy.grants.unwrap_or_default() {
            let malformed = |what: &str| {
                s3_error!(
                    MalformedACLError,
                    "The XML you provided was not well-formed or did not validate against our \
                     published schema: {what}"
                )
            };
            let grantee = grant
                .grantee
                .ok_or_else(|| malformed("a grant has no grantee"))?;
            let permission = grant
                .permission
                .as_ref()
                .and_then(|permission| Permission::named(permission.as_str()))
                .ok_or_else(|| malformed("a grant has no permission that S3 knows"))?;
            let to = match grantee.type_.as_str() {
                "CanonicalUser" => project(grantee.id.as_deref().unwrap_or_default(), is_project)?,
                "Group" => group(grantee.uri.as_deref().unwrap_or_default())?,
                _ => {
                    return Err(by_email(
                        grantee.email_address.as_deref().unwrap_or_default(),
                    ));
                }
            };
            grants.push(Grant { to, permission });
        }
        Self {
            owner: owner.to_owned(),
            grants,
        }
        .bounded()
    }

    /// Whether the list grants `wanted` to somebody of `project` (`None`: to somebody who showed no
    /// key). Grants to groups are left out where `no_groups`.
    pub(super) fn grants(
        &self,
        project: Option<&str>,
        wanted: Permission,
        no_groups: bool,
    ) -> bool {
        if project == Some(self.owner.as_str()) {
            return true;
        }
        self.grants.iter().any(|grant| {
            let covers = grant.permission == wanted || grant.permission == Permission::FullControl;
            let names = match &grant.to {
                Grantee::Project(named) => project == Some(named.as_str()),
                Grantee::Everyone => !no_groups,
                Grantee::Authenticated => !no_groups && project.is_some(),
                Grantee::LogDelivery => false,
            };
            covers && names
        })
    }

    /// Whether the list grants anything to everybody ("Blocking public access to your Amazon S3
    /// storage", Amazon S3 user guide).
    pub(super) fn is_public(&self) -> bool {
        self.grants
            .iter()
            .any(|grant| matches!(grant.to, Grantee::Everyone | Grantee::Authenticated))
    }

    /// Whether anybody but the owner is named.
    pub(super) fn is_private(&self) -> bool {
        self.grants
            .iter()
            .all(|grant| matches!(&grant.to, Grantee::Project(project) if *project == self.owner))
    }

    /// Whether the bucket's owner may do all.
    pub(super) fn gives_all_to(&self, bucket_owner: &str) -> bool {
        self.grants.iter().any(|grant| {
            grant.permission == Permission::FullControl
                && matches!(&grant.to, Grantee::Project(project) if project == bucket_owner)
        })
    }

    /// As XML shows it, groups first.
    pub(super) fn shown(&self) -> (dto::Owner, Vec<dto::Grant>) {
        let is_project = |grant: &&Grant| matches!(grant.to, Grantee::Project(_));
        let groups = self.grants.iter().filter(|grant| !is_project(grant));
        let projects = self.grants.iter().filter(is_project);
        let grants = groups.chain(projects).map(|grant| dto::Grant {
            grantee: Some(grant.to.shown()),
            permission: Some(dto::Permission::from_static(grant.permission.name())),
        });
        (owner(&self.owner), grants.collect())
    }

    fn bounded(self) -> S3Result<Self> {
        if self.grants.len() > GRANTS_MAX {
            return Err(s3_error!(
                InvalidRequest,
                "A list has {GRANTS_MAX} grants at most, this one {}",
                self.grants.len()
            ));
        }
        Ok(self)
    }
}

impl Grantee {
    fn shown(&self) -> dto::Grantee {
        let grantee = |kind: &'static str| dto::Grantee {
            display_name: None,
            email_address: None,
            id: None,
            type_: dto::Type::from_static(kind),
            uri: None,
        };
        let group = |uri: &str| dto::Grantee {
            uri: Some(uri.to_owned()),
            ..grantee(dto::Type::GROUP)
        };
        match self {
            Self::Project(name) => dto::Grantee {
                display_name: Some(name.clone()),
                id: Some(name.clone()),
                ..grantee(dto::Type::CANONICAL_USER)
            },
            Self::Everyone => group(EVERYONE),
            Self::Authenticated => group(AUTHENTICATED),
            Self::LogDelivery => group(LOG_DELIVERY),
        }
    }
}

/// A project as owners are shown.
pub(super) fn owner(project: &str) -> dto::Owner {
    dto::Owner {
        display_name: Some(project.to_owned()),
        id: Some(project.to_owned()),
    }
}

fn of_header(text: &str, is_project: IsProject<'_>) -> S3Result<Grantee> {
    let (kind, value) = text.split_once('=').unwrap_or((text, ""));
    let value = value.trim().trim_matches('"');
    match kind.trim() {
        "id" => project(value, is_project),
        "uri" => group(value),
        "emailAddress" => Err(by_email(value)),
        _ => Err(s3_error!(
            InvalidArgument,
            "A grant is id=\"…\" or uri=\"…\", not {text:?}"
        )),
    }
}

fn project(name: &str, is_project: IsProject<'_>) -> S3Result<Grantee> {
    if is_project(name) {
        return Ok(Grantee::Project(name.to_owned()));
    }
    Err(s3_error!(
        InvalidArgument,
        "Invalid id: {name:?} is no project of this store"
    ))
}

fn group(uri: &str) -> S3Result<Grantee> {
    match uri {
        EVERYONE => Ok(Grantee::Everyone),
        AUTHENTICATED => Ok(Grantee::Authenticated),
        LOG_DELIVERY => Ok(Grantee::LogDelivery),
        other => Err(s3_error!(
            InvalidArgument,
            "Invalid group uri: {other:?} is no group that S3 knows"
        )),
    }
}

fn by_email(address: &str) -> s3s::S3Error {
    s3_error!(
        UnresolvableGrantByEmailAddress,
        "The email address you provided does not match any account on record: {address:?}. Grant \
         to a project by its name: id=\"…\""
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn asked(pairs: &[(&'static str, &str)]) -> Result<Option<Acl>, String> {
        Acl::of_headers(&headers(pairs), "alpha", "beta", &|name| name == "gamma")
            .map_err(|refused| refused.code().as_str().to_owned())
    }

    #[test]
    fn a_private_list_grants_to_its_owner_only() {
        let acl = Acl::private("alpha");
        assert!(acl.grants(Some("alpha"), Permission::WriteAcp, true));
        assert!(!acl.grants(Some("beta"), Permission::Read, false));
        assert!(!acl.grants(None, Permission::Read, false));
        assert!(acl.is_private() && !acl.is_public());
    }

    #[test]
    fn canned_lists_grant_what_s3_says_they_do() {
        let canned = |name| Acl::canned(name, "alpha", "beta").unwrap();
        let public = canned("public-read");
        assert!(public.is_public());
        assert!(public.grants(None, Permission::Read, false));
        assert!(!public.grants(None, Permission::Write, false));
        assert!(
            !public.grants(None, Permission::Read, true),
            "groups are ignored"
        );
        assert!(canned("public-read-write").grants(None, Permission::Write, false));
        let inside = canned("authenticated-read");
        assert!(inside.grants(Some("gamma"), Permission::Read, false));
        assert!(!inside.grants(None, Permission::Read, false));
        let shared = canned("bucket-owner-full-control");
        assert!(shared.gives_all_to("beta"));
        assert!(!shared.is_private());
        assert!(Acl::canned("public", "alpha", "beta").is_err());
    }

    #[test]
    fn header_grants_name_projects_and_groups_that_there_are() {
        let acl = asked(&[
            (
                "x-amz-grant-read",
                "id=\"gamma\", uri=http://acs.amazonaws.com/groups/global/AllUsers",
            ),
            ("x-amz-grant-write-acp", "id=gamma"),
        ]);
        let acl = acl.unwrap().unwrap();
        assert_eq!(acl.grants.len(), 3);
        assert!(acl.grants(Some("gamma"), Permission::WriteAcp, false));
        assert_eq!(asked(&[]), Ok(None));
        for (pairs, code) in [
            (&[("x-amz-grant-read", "id=delta")][..], "InvalidArgument"),
            (&[("x-amz-grant-read", "uri=x")], "InvalidArgument"),
            (&[("x-amz-grant-read", "gamma")], "InvalidArgument"),
            (
                &[("x-amz-grant-read", "emailAddress=a@b")],
                "UnresolvableGrantByEmailAddress",
            ),
            (
                &[("x-amz-acl", "private"), ("x-amz-grant-read", "id=gamma")],
                "InvalidRequest",
            ),
        ] {
            assert_eq!(asked(pairs), Err(code.to_owned()), "{pairs:?}");
        }
        let many = vec!["id=gamma"; GRANTS_MAX + 1].join(",");
        assert_eq!(
            asked(&[("x-amz-grant-read", &many)]),
            Err("InvalidRequest".into())
        );
    }

    #[test]
    fn a_list_cannot_change_the_owner() {
        let policy = |id: Option<&str>| dto::AccessControlPolicy {
            grants: None,
            owner: id.map(owner),
        };
        let code = |id| {
            Acl::of_policy(policy(id), "alpha", &|_| true)
                .map_err(|refused| refused.code().as_str().to_owned())
        };
        assert!(code(Some("alpha")).is_ok());
        assert_eq!(code(Some("beta")), Err("AccessDenied".into()));
        assert_eq!(code(None), Err("MalformedACLError".into()));
    }
}
