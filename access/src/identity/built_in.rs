//! Policies that every project has: AWS's own names where there is such a policy, ours otherwise.
//! Their ARN is `arn:aws:iam::aws:policy/<name>`; nobody can change them.

use super::rows::{ManagedPolicy, PolicyVersion};

/// The account that owns them.
pub const BUILT_IN_PROJECT: &str = "aws";

const TABLE: &[(&str, &str, &str)] = &[
    (
        "AdministratorAccess",
        "Everything in the project.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"Everything","Effect":"Allow","Action":"*","Resource":"*"}]}"#,
    ),
    (
        "ReadOnlyAccess",
        "Reads everything in the project, changes nothing.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"Read","Effect":"Allow","Action":["s3:Get*","s3:List*","volume:Describe","volume:List","volume:AttachReadOnly","snapshot:Describe","snapshot:List","snapshot:Read","image:Describe","image:List","image:Read","vm:List","vm:Describe","host:List","mount:List","project:Describe","project:List","iam:Get*","iam:List*","sts:GetCallerIdentity"],"Resource":"*"}]}"#,
    ),
    (
        "PowerUserAccess",
        "Everything in the project but identities and quotas.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"AllButIdentity","Effect":"Allow","NotAction":["iam:*","project:*","store:*"],"Resource":"*"},{"Sid":"LookAtOwn","Effect":"Allow","Action":["project:Describe","project:List","iam:GetUser"],"Resource":"*"}]}"#,
    ),
    (
        "AmazonS3FullAccess",
        "All buckets and objects of the project.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"S3","Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#,
    ),
    (
        "AmazonS3ReadOnlyAccess",
        "Reads all buckets and objects of the project.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"S3Read","Effect":"Allow","Action":["s3:Get*","s3:List*"],"Resource":"*"}]}"#,
    ),
    (
        "IAMFullAccess",
        "Users, groups, roles, policies and keys of the project.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"Identity","Effect":"Allow","Action":"iam:*","Resource":"*"}]}"#,
    ),
    (
        "IAMReadOnlyAccess",
        "Reads users, groups, roles and policies of the project.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"IdentityRead","Effect":"Allow","Action":["iam:Get*","iam:List*","iam:Simulate*"],"Resource":"*"}]}"#,
    ),
    (
        "ManageOwnKeys",
        "Makes, lists, switches and removes one's own access keys.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"OwnKeys","Effect":"Allow","Action":["iam:GetUser","iam:CreateAccessKey","iam:ListAccessKeys","iam:UpdateAccessKey","iam:DeleteAccessKey","iam:ListSSHPublicKeys","iam:UploadSSHPublicKey","iam:DeleteSSHPublicKey"],"Resource":"arn:aws:iam::*:user/${aws:username}"}]}"#,
    ),
    (
        "ProjectAdmin",
        "Everything in the project, its identities included.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"ProjectAdmin","Effect":"Allow","Action":"*","Resource":"*"}]}"#,
    ),
    (
        "ProjectMember",
        "Data, disks, images and VMs of the project, and one's own keys.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"Work","Effect":"Allow","Action":["s3:*","volume:*","snapshot:*","image:*","vm:*","project:Describe","project:List"],"Resource":"*"},{"Sid":"OwnKeys","Effect":"Allow","Action":["iam:GetUser","iam:CreateAccessKey","iam:ListAccessKeys","iam:UpdateAccessKey","iam:DeleteAccessKey","iam:ListSSHPublicKeys","iam:UploadSSHPublicKey","iam:DeleteSSHPublicKey"],"Resource":"arn:aws:iam::*:user/${aws:username}"}]}"#,
    ),
    (
        "ProjectReader",
        "Reads data, disks, images and VMs of the project.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"Look","Effect":"Allow","Action":["s3:Get*","s3:List*","volume:Describe","volume:List","volume:AttachReadOnly","snapshot:Describe","snapshot:List","snapshot:Read","image:Describe","image:List","image:Read","vm:List","vm:Describe","project:Describe","project:List"],"Resource":"*"}]}"#,
    ),
    (
        "VMOperator",
        "Runs, stops, removes and enters VMs of the project, with their disks.",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"VMs","Effect":"Allow","Action":["vm:*","volume:*","snapshot:*","image:Describe","image:List","image:Use"],"Resource":"*"}]}"#,
    ),
];

/// All of them, by name.
pub(super) fn all() -> Vec<ManagedPolicy> {
    let mut all: Vec<ManagedPolicy> = TABLE
        .iter()
        .map(|(name, description, document)| ManagedPolicy {
            project: BUILT_IN_PROJECT.into(),
            name: (*name).into(),
            path: "/".into(),
            id: format!("ANPA{}", name.to_ascii_uppercase()),
            created_ms: 0,
            updated_ms: 0,
            description: (*description).into(),
            versions: vec![PolicyVersion {
                id: "v1".into(),
                document: (*document).into(),
                created_ms: 0,
            }],
            default_version: "v1".into(),
        })
        .collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Form, IDENTITY_BYTES_MAX, Policy};

    #[test]
    fn every_built_in_policy_reads() {
        for policy in all() {
            let read = Policy::parse(policy.document(), Form::Identity, IDENTITY_BYTES_MAX);
            assert!(read.is_ok(), "{}: {read:?}", policy.name);
        }
    }
}
