//! Names that no bucket gets, because a path that begins with them leads to another door.
//!
//! Making a bucket asks here, so that no door can make one that another cannot reach.

use crate::{Error, Kind, Result, Subject};

/// First segments of paths that are not S3's, now or by the standards we speak: a bucket of such a
/// name could be made and then not be reached.
const RESERVED_BUCKETS: &[&str] = &[
    "api",
    "cdmi",
    "cdmi_capabilities",
    "cdmi_domains",
    "cdmi_objectid",
    "dav",
    "healthz",
    "iam",
    "login",
    "metrics",
    "oauth2",
    "oidc",
    "readyz",
    "sts",
    "well-known",
];

/// Whether `name` is kept back.
pub fn reserved_bucket(name: &str) -> bool {
    RESERVED_BUCKETS.contains(&name) || name.starts_with('.')
}

/// Invalid for a name that is kept back.
pub(super) fn check(name: &str) -> Result<()> {
    if !reserved_bucket(name) {
        return Ok(());
    }
    let text = format!(
        "{name:?} cannot be a bucket's name: paths that begin with /{name} lead to another protocol here; choose another, such as {name}-data"
    );
    Err(Error::new(Kind::Invalid, Subject::Bucket, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_refused_and_its_neighbours_are_not() {
        for name in [
            "api", "cdmi", "dav", "metrics", "iam", "sts", "login", "oidc",
        ] {
            let error = check(name).unwrap_err();
            assert_eq!(
                (error.kind(), error.subject()),
                (Kind::Invalid, Subject::Bucket)
            );
        }
        for name in ["apis", "my-cdmi", "dave"] {
            assert!(check(name).is_ok(), "{name}");
        }
    }
}
