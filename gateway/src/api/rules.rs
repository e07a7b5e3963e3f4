//! What each route of the JSON API needs: one table, and nothing that is not in it is answered.
//!
//! A route's first need is always asked; a further one is asked if the request names what it is about
//! (a volume's image, a snapshot's object). docs/SECURITY.md has the same table for people; a test
//! holds both against each other and against `openapi.json`.

/// Where a request says a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// In the path: `{volume}`.
    Path(&'static str),
    /// In the query.
    Query(&'static str),
    /// In the JSON body, as a pointer (RFC 6901).
    Body(&'static str),
}

/// What a need is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    /// Nothing is needed but a key.
    Nothing,
    /// Whatever the action concerns.
    All,
    /// The store as a whole.
    Store,
    /// This host.
    Host,
    /// A bucket.
    Bucket(Name),
    /// An object.
    Object(Name, Name),
    /// An object, as `s3://bucket/key`.
    ObjectUrl(Name),
    /// A volume.
    Volume(Name),
    /// A snapshot.
    Snapshot(Name),
    /// An image.
    Image(Name),
    /// An image, if it is said (by `true`) that it may be a deprecated one.
    DeprecatedImage(Name, Name),
    /// An instance.
    Instance(Name),
    /// The disks that an instance is asked to have: objects, volumes, snapshots.
    Disks(Name),
    /// What NBD serves under this name.
    Export(Name),
    /// Something of the host itself that an instance is asked to use: a file, a bridge.
    HostPart(Name),
    /// A project.
    Project(Name),
    /// A user, group, role or policy, as `NAME` or `PROJECT/NAME`.
    Identity(&'static str, Name),
    /// All users, groups, roles or policies of a project; the asker's own where none is named.
    Identities(&'static str, Name),
}

/// A route and what it needs.
pub(super) struct Rule {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) action: &'static str,
    pub(super) on: On,
    /// Asked where the request names it.
    pub(super) also: &'static [(&'static str, On)],
    /// Condition keys that say whether the request asks for something: `true` or `false`.
    pub(super) flags: &'static [(&'static str, Name)],
}

const fn rule(method: &'static str, path: &'static str, action: &'static str, on: On) -> Rule {
    Rule {
        method,
        path,
        action,
        on,
        also: &[],
        flags: &[],
    }
}

const fn with(
    method: &'static str,
    path: &'static str,
    action: &'static str,
    on: On,
    also: &'static [(&'static str, On)],
) -> Rule {
    Rule {
        method,
        path,
        action,
        on,
        also,
        flags: &[],
    }
}

use Name::{Body, Path, Query};

const BUCKET: On = On::Bucket(Path("bucket"));
const IMAGE: On = On::Image(Path("image"));
const VOLUME: On = On::Volume(Path("volume"));
const SNAPSHOT: On = On::Snapshot(Path("snapshot"));
const VM: On = On::Instance(Path("name"));
const USER: On = On::Identity("user", Path("user"));
const GROUP: On = On::Identity("group", Path("group"));
const ROLE: On = On::Identity("role", Path("role"));
const POLICY: On = On::Identity("policy", Path("policy"));
const PROJECT: On = On::Project(Path("project"));

/// Every route of the API, those that the program adds included.
pub(super) const RULES: &[Rule] = &[
    rule("get", "/openapi.json", "api:Describe", On::Nothing),
    rule("get", "/identity", "sts:GetCallerIdentity", On::Nothing),
    rule("get", "/buckets", "s3:ListAllMyBuckets", On::All),
    rule(
        "post",
        "/buckets",
        "s3:CreateBucket",
        On::Bucket(Body("/name")),
    ),
    rule("get", "/buckets/{bucket}", "s3:ListBucket", BUCKET),
    rule("delete", "/buckets/{bucket}", "s3:DeleteBucket", BUCKET),
    rule("get", "/buckets/{bucket}/objects", "s3:ListBucket", BUCKET),
    rule("get", "/images", "image:List", On::All),
    with(
        "post",
        "/images",
        "image:Add",
        On::Image(Body("/name")),
        &[("s3:GetObject", On::Object(Body("/bucket"), Body("/key")))],
    ),
    rule("get", "/images/{image}", "image:Describe", IMAGE),
    rule("delete", "/images/{image}", "image:Delete", IMAGE),
    with(
        "put",
        "/images/{image}/deprecation",
        "image:Deprecate",
        IMAGE,
        &[("image:Describe", On::Image(Body("/replacement")))],
    ),
    rule(
        "delete",
        "/images/{image}/deprecation",
        "image:Deprecate",
        IMAGE,
    ),
    rule("put", "/images/{image}/expiry", "image:Expire", IMAGE),
    rule("delete", "/images/{image}/expiry", "image:Expire", IMAGE),
    rule(
        "post",
        "/images/{image}/endorsements",
        "image:Endorse",
        IMAGE,
    ),
    rule(
        "delete",
        "/images/{image}/endorsements/{key}",
        "image:Endorse",
        IMAGE,
    ),
    rule("get", "/volumes", "volume:List", On::All),
    with(
        "post",
        "/volumes",
        "volume:Create",
        On::Volume(Body("/name")),
        &[
            ("image:Use", On::Image(Body("/origin/image"))),
            (
                "image:UseDeprecated",
                On::DeprecatedImage(Body("/origin/image"), Body("/deprecated")),
            ),
            ("snapshot:Read", On::Snapshot(Body("/origin/snapshot"))),
        ],
    ),
    rule("get", "/volumes/{volume}", "volume:Describe", VOLUME),
    rule("delete", "/volumes/{volume}", "volume:Delete", VOLUME),
    rule("post", "/volumes/{volume}/resize", "volume:Resize", VOLUME),
    with(
        "post",
        "/volumes/{volume}/snapshot",
        "volume:Snapshot",
        VOLUME,
        &[("s3:PutObject", On::ObjectUrl(Body("/publish")))],
    ),
    rule(
        "post",
        "/volumes/{volume}/tickets",
        "volume:AttachReadOnly",
        On::Export(Path("volume")),
    ),
    rule("get", "/tickets", "volume:List", On::All),
    rule(
        "post",
        "/tickets",
        "volume:AttachReadOnly",
        On::Export(Body("/export")),
    ),
    rule("delete", "/tickets/{ticket}", "volume:List", On::All),
    rule("get", "/snapshots", "snapshot:List", On::All),
    rule(
        "get",
        "/snapshots/{snapshot}",
        "snapshot:Describe",
        SNAPSHOT,
    ),
    rule(
        "delete",
        "/snapshots/{snapshot}",
        "snapshot:Delete",
        SNAPSHOT,
    ),
    rule("get", "/store", "store:Status", On::Store),
    rule("get", "/store/tree", "store:Tree", On::Store),
    rule("post", "/store/collect", "store:Collect", On::Store),
    rule("post", "/store/check", "store:Check", On::Store),
    rule("get", "/events", "store:Events", On::Store),
    rule("get", "/vms", "vm:List", On::All),
    with(
        "post",
        "/vms",
        "vm:Run",
        On::Instance(Body("/name")),
        &[
            ("image:Use", On::Image(Body("/image"))),
            (
                "image:UseDeprecated",
                On::DeprecatedImage(Body("/image"), Body("/deprecated")),
            ),
            ("volume:Attach", On::Volume(Body("/root_volume"))),
            ("volume:Attach", On::Disks(Body("/volumes"))),
            ("host:Use", On::HostPart(Body("/boot_file"))),
            ("host:Use", On::HostPart(Body("/kernel"))),
            ("host:Use", On::HostPart(Body("/initrd"))),
            ("host:Use", On::HostPart(Body("/network"))),
        ],
    ),
    rule("get", "/vms/{name}", "vm:Describe", VM),
    rule("get", "/vms/{name}/explain", "vm:Describe", VM),
    rule("delete", "/vms/{name}", "vm:Remove", VM),
    rule("post", "/vms/{name}/start", "vm:Start", VM),
    rule("post", "/vms/{name}/stop", "vm:Stop", VM),
    rule("get", "/vms/{name}/console", "vm:Console", VM),
    rule("get", "/vms/{name}/console/attach", "vm:Console", VM),
    rule("post", "/vms/{name}/ssh", "vm:Ssh", VM),
    rule("get", "/vms/{name}/ssh", "vm:Ssh", VM),
    rule("get", "/vms/{name}/addresses", "vm:Describe", VM),
    rule("get", "/vms/{name}/disks", "vm:Describe", VM),
    rule("get", "/hosts", "host:List", On::Host),
    rule("post", "/hosts/probe", "host:Probe", On::Host),
    rule("get", "/mounts", "mount:List", On::Host),
    Rule {
        flags: &[("infall:AllowOther", Body("/allow_other"))],
        ..rule("post", "/mounts", "mount:Create", On::Host)
    },
    rule("delete", "/mounts", "mount:Remove", On::Host),
    rule(
        "get",
        "/users",
        "iam:ListUsers",
        On::Identities("user", Query("project")),
    ),
    rule(
        "post",
        "/users",
        "iam:CreateUser",
        On::Identity("user", Body("/name")),
    ),
    rule("get", "/users/{user}", "iam:GetUser", USER),
    rule("delete", "/users/{user}", "iam:DeleteUser", USER),
    rule("get", "/users/{user}/keys", "iam:ListAccessKeys", USER),
    rule("post", "/users/{user}/keys", "iam:CreateAccessKey", USER),
    rule(
        "post",
        "/users/{user}/keys/{key}",
        "iam:UpdateAccessKey",
        USER,
    ),
    with(
        "post",
        "/users/{user}/keys/{key}/rotate",
        "iam:CreateAccessKey",
        USER,
        &[("iam:DeleteAccessKey", USER)],
    ),
    rule(
        "delete",
        "/users/{user}/keys/{key}",
        "iam:DeleteAccessKey",
        USER,
    ),
    rule(
        "get",
        "/users/{user}/ssh-keys",
        "iam:ListSSHPublicKeys",
        USER,
    ),
    rule(
        "post",
        "/users/{user}/ssh-keys",
        "iam:UploadSSHPublicKey",
        USER,
    ),
    rule(
        "delete",
        "/users/{user}/ssh-keys/{key}",
        "iam:DeleteSSHPublicKey",
        USER,
    ),
    rule(
        "put",
        "/users/{user}/policies/{policy}",
        "iam:PutUserPolicy",
        USER,
    ),
    rule(
        "delete",
        "/users/{user}/policies/{policy}",
        "iam:DeleteUserPolicy",
        USER,
    ),
    rule(
        "put",
        "/users/{user}/attached/{policy}",
        "iam:AttachUserPolicy",
        USER,
    ),
    rule(
        "delete",
        "/users/{user}/attached/{policy}",
        "iam:DetachUserPolicy",
        USER,
    ),
    rule(
        "get",
        "/groups",
        "iam:ListGroups",
        On::Identities("group", Query("project")),
    ),
    rule(
        "post",
        "/groups",
        "iam:CreateGroup",
        On::Identity("group", Body("/name")),
    ),
    rule("get", "/groups/{group}", "iam:GetGroup", GROUP),
    rule("delete", "/groups/{group}", "iam:DeleteGroup", GROUP),
    rule(
        "put",
        "/groups/{group}/members/{user}",
        "iam:AddUserToGroup",
        GROUP,
    ),
    rule(
        "delete",
        "/groups/{group}/members/{user}",
        "iam:RemoveUserFromGroup",
        GROUP,
    ),
    rule(
        "put",
        "/groups/{group}/policies/{policy}",
        "iam:PutGroupPolicy",
        GROUP,
    ),
    rule(
        "delete",
        "/groups/{group}/policies/{policy}",
        "iam:DeleteGroupPolicy",
        GROUP,
    ),
    rule(
        "put",
        "/groups/{group}/attached/{policy}",
        "iam:AttachGroupPolicy",
        GROUP,
    ),
    rule(
        "delete",
        "/groups/{group}/attached/{policy}",
        "iam:DetachGroupPolicy",
        GROUP,
    ),
    rule("get", "/issuers", "iam:ListOpenIDConnectProviders", On::All),
    rule(
        "post",
        "/issuers",
        "iam:CreateOpenIDConnectProvider",
        On::All,
    ),
    rule(
        "delete",
        "/issuers/{issuer}",
        "iam:DeleteOpenIDConnectProvider",
        On::All,
    ),
    rule(
        "get",
        "/roles",
        "iam:ListRoles",
        On::Identities("role", Query("project")),
    ),
    rule(
        "post",
        "/roles",
        "iam:CreateRole",
        On::Identity("role", Body("/name")),
    ),
    rule("get", "/roles/{role}", "iam:GetRole", ROLE),
    rule("delete", "/roles/{role}", "iam:DeleteRole", ROLE),
    rule(
        "put",
        "/roles/{role}/trust",
        "iam:UpdateAssumeRolePolicy",
        ROLE,
    ),
    rule(
        "put",
        "/roles/{role}/policies/{policy}",
        "iam:PutRolePolicy",
        ROLE,
    ),
    rule(
        "delete",
        "/roles/{role}/policies/{policy}",
        "iam:DeleteRolePolicy",
        ROLE,
    ),
    rule(
        "put",
        "/roles/{role}/attached/{policy}",
        "iam:AttachRolePolicy",
        ROLE,
    ),
    rule(
        "delete",
        "/roles/{role}/attached/{policy}",
        "iam:DetachRolePolicy",
        ROLE,
    ),
    rule(
        "get",
        "/policies",
        "iam:ListPolicies",
        On::Identities("policy", Query("project")),
    ),
    rule(
        "post",
        "/policies",
        "iam:CreatePolicy",
        On::Identity("policy", Body("/name")),
    ),
    rule("get", "/policies/{policy}", "iam:GetPolicy", POLICY),
    rule(
        "put",
        "/policies/{policy}",
        "iam:CreatePolicyVersion",
        POLICY,
    ),
    rule("delete", "/policies/{policy}", "iam:DeletePolicy", POLICY),
    rule("post", "/policy-check", "iam:ValidatePolicy", On::All),
    rule(
        "post",
        "/policy-test",
        "iam:SimulatePrincipalPolicy",
        On::Identity("user", Body("/as")),
    ),
    rule("get", "/projects", "project:List", On::All),
    rule(
        "post",
        "/projects",
        "project:Create",
        On::Project(Body("/name")),
    ),
    rule("get", "/projects/{project}", "project:Describe", PROJECT),
    rule("delete", "/projects/{project}", "project:Delete", PROJECT),
    rule(
        "put",
        "/projects/{project}/quota",
        "project:SetQuota",
        PROJECT,
    ),
];

/// The rule of a route, if it has one.
pub(super) fn find(method: &str, path: &str) -> Option<&'static Rule> {
    RULES
        .iter()
        .find(|rule| rule.path == path && rule.method.eq_ignore_ascii_case(method))
}

/// Whether a path has a rule for any method.
pub(super) fn knows(path: &str) -> bool {
    RULES.iter().any(|rule| rule.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operation and action of each row of one door in docs/SECURITY.md.
    fn rows(door: &str) -> Vec<(String, String)> {
        let document = include_str!("../../../docs/SECURITY.md");
        let start = format!("| {door} | ");
        let rows = document.lines().filter_map(|line| {
            let mut cells = line.strip_prefix(&start)?.split(" | ");
            let operation = cells.next()?.trim_matches('`').to_owned();
            Some((operation, cells.next()?.trim_matches('`').to_owned()))
        });
        rows.collect()
    }

    #[test]
    fn the_documents_table_says_what_the_api_asks_for() {
        let mut written = rows("api");
        let mut asked = Vec::new();
        for rule in RULES {
            let operation = format!("{} {}", rule.method, rule.path);
            asked.push((operation.clone(), rule.action.to_owned()));
            for (action, _) in rule.also {
                asked.push((operation.clone(), (*action).to_owned()));
            }
            // What a disk or an export is decides which action it needs.
            let needs = std::iter::once(&rule.on).chain(rule.also.iter().map(|(_, on)| on));
            for on in needs {
                let others: &[&str] = match on {
                    On::Disks(_) => &["volume:AttachReadOnly", "snapshot:Read", "s3:GetObject"],
                    On::Export(Body(_)) => &[
                        "volume:Attach",
                        "snapshot:Read",
                        "image:Read",
                        "s3:GetObject",
                    ],
                    On::Export(_) => &["volume:Attach"],
                    _ => &[],
                };
                let others = others
                    .iter()
                    .map(|action| (operation.clone(), (*action).to_owned()));
                asked.extend(others);
            }
        }
        written.sort();
        asked.sort();
        for row in &asked {
            assert!(written.contains(row), "docs/SECURITY.md lacks {row:?}");
        }
        for row in &written {
            assert!(
                asked.contains(row),
                "nobody asks for {row:?} of docs/SECURITY.md"
            );
        }
    }
}
