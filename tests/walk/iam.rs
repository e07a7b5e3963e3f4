//! IAM and STS, signed as AWS's clients sign.

use super::client::{Answer, Ask};
use super::identities::{document, trust};
use super::steps::{Site, Step, Try};
use serde_json::json;

/// IAM and STS say AccessDenied.
pub(crate) fn refused(answer: &Answer) -> bool {
    answer.status == 403 && answer.body.contains("<Code>AccessDenied</Code>")
}

fn call(action: &'static str, on: &str, fields: &[(&str, &str)]) -> Try {
    let on = format!("arn:aws:iam::root:{on}");
    Ask::call("iam", action, fields).needs(&[(&format!("iam:{action}"), &on)])
}

const LOOK: (&str, &str) = ("PolicyArn", "arn:aws:iam::root:policy/look");
const OWN: (&str, &str) = ("PolicyName", "own");
const ANN: (&str, &str) = ("UserName", "ann");
const CREW: (&str, &str) = ("GroupName", "crew");
const CLERK: (&str, &str) = ("RoleName", "clerk");

fn key(site: &Site) -> String {
    let listed = site.root(&Ask::call("iam", "ListAccessKeys", &[ANN]));
    if listed.body.contains("<AccessKeyId>") {
        return listed.tag("AccessKeyId");
    }
    let made = Ask::call("iam", "CreateAccessKey", &[ANN]);
    site.root(&made).tag("AccessKeyId")
}

/// Something of the operator's, made for a step.
fn make(site: &Site, action: &str, fields: &[(&str, &str)]) {
    site.root(&Ask::call("iam", action, fields));
}

fn version(site: &Site) {
    make(
        site,
        "CreatePolicyVersion",
        &[LOOK, ("PolicyDocument", &document())],
    );
}

pub(crate) const STEPS: &[Step] = &[
    ("CreateUser", |_| {
        call("CreateUser", "user/bob", &[("UserName", "bob")])
    }),
    ("GetUser", |_| call("GetUser", "user/ann", &[ANN])),
    ("ListUsers", |_| call("ListUsers", "user/*", &[])),
    ("UpdateUser", |_| {
        let names = [("UserName", "bob"), ("NewUserName", "rob")];
        Ask::call("iam", "UpdateUser", &names).needs(&[
            ("iam:UpdateUser", "arn:aws:iam::root:user/bob"),
            ("iam:UpdateUser", "arn:aws:iam::root:user/rob"),
        ])
    }),
    ("DeleteUser", |_| {
        call("DeleteUser", "user/rob", &[("UserName", "rob")])
    }),
    ("CreateAccessKey", |_| {
        call("CreateAccessKey", "user/ann", &[ANN])
    }),
    ("ListAccessKeys", |_| {
        call("ListAccessKeys", "user/ann", &[ANN])
    }),
    ("UpdateAccessKey", |site| {
        let fields = [ANN, ("AccessKeyId", &key(site)), ("Status", "Inactive")];
        call("UpdateAccessKey", "user/ann", &fields)
    }),
    ("DeleteAccessKey", |site| {
        call(
            "DeleteAccessKey",
            "user/ann",
            &[ANN, ("AccessKeyId", &key(site))],
        )
    }),
    ("CreateGroup", |_| {
        call("CreateGroup", "group/new", &[("GroupName", "new")])
    }),
    ("GetGroup", |_| call("GetGroup", "group/crew", &[CREW])),
    ("ListGroups", |_| call("ListGroups", "group/*", &[])),
    ("DeleteGroup", |_| {
        call("DeleteGroup", "group/new", &[("GroupName", "new")])
    }),
    ("AddUserToGroup", |_| {
        call("AddUserToGroup", "group/crew", &[CREW, ANN])
    }),
    ("ListGroupsForUser", |_| {
        call("ListGroupsForUser", "user/ann", &[ANN])
    }),
    ("RemoveUserFromGroup", |_| {
        call("RemoveUserFromGroup", "group/crew", &[CREW, ANN])
    }),
    ("CreateRole", |_| {
        let trust = trust().to_string();
        let fields = [("RoleName", "new"), ("AssumeRolePolicyDocument", &trust)];
        call("CreateRole", "role/new", &fields)
    }),
    ("GetRole", |_| call("GetRole", "role/clerk", &[CLERK])),
    ("ListRoles", |_| call("ListRoles", "role/*", &[])),
    ("DeleteRole", |_| {
        call("DeleteRole", "role/new", &[("RoleName", "new")])
    }),
    ("UpdateAssumeRolePolicy", |_| {
        let trust = trust().to_string();
        call(
            "UpdateAssumeRolePolicy",
            "role/clerk",
            &[CLERK, ("PolicyDocument", &trust)],
        )
    }),
    ("UpdateRole", |_| {
        call("UpdateRole", "role/clerk", &[CLERK, ("Description", "d")])
    }),
    ("CreatePolicy", |_| {
        let fields = [("PolicyName", "new"), ("PolicyDocument", &document())];
        call("CreatePolicy", "policy/new", &fields)
    }),
    ("GetPolicy", |_| call("GetPolicy", "policy/look", &[LOOK])),
    ("ListPolicies", |_| call("ListPolicies", "policy/*", &[])),
    ("DeletePolicy", |_| {
        let arn = ("PolicyArn", "arn:aws:iam::root:policy/new");
        call("DeletePolicy", "policy/new", &[arn])
    }),
    ("CreatePolicyVersion", |_| {
        let fields = [LOOK, ("PolicyDocument", &document())];
        call("CreatePolicyVersion", "policy/look", &fields)
    }),
    ("GetPolicyVersion", |_| {
        call(
            "GetPolicyVersion",
            "policy/look",
            &[LOOK, ("VersionId", "v1")],
        )
    }),
    ("ListPolicyVersions", |_| {
        call("ListPolicyVersions", "policy/look", &[LOOK])
    }),
    ("SetDefaultPolicyVersion", |_| {
        call(
            "SetDefaultPolicyVersion",
            "policy/look",
            &[LOOK, ("VersionId", "v1")],
        )
    }),
    ("DeletePolicyVersion", |site| {
        version(site);
        call(
            "DeletePolicyVersion",
            "policy/look",
            &[LOOK, ("VersionId", "v2")],
        )
    }),
    ("ListEntitiesForPolicy", |_| {
        call("ListEntitiesForPolicy", "policy/look", &[LOOK])
    }),
    ("PutUserPolicy", |_| put("PutUserPolicy", "user/ann", ANN)),
    ("PutGroupPolicy", |_| {
        put("PutGroupPolicy", "group/crew", CREW)
    }),
    ("PutRolePolicy", |_| {
        put("PutRolePolicy", "role/clerk", CLERK)
    }),
    ("GetUserPolicy", |_| {
        call("GetUserPolicy", "user/ann", &[ANN, OWN])
    }),
    ("GetGroupPolicy", |_| {
        call("GetGroupPolicy", "group/crew", &[CREW, OWN])
    }),
    ("GetRolePolicy", |_| {
        call("GetRolePolicy", "role/clerk", &[CLERK, OWN])
    }),
    ("ListUserPolicies", |_| {
        call("ListUserPolicies", "user/ann", &[ANN])
    }),
    ("ListGroupPolicies", |_| {
        call("ListGroupPolicies", "group/crew", &[CREW])
    }),
    ("ListRolePolicies", |_| {
        call("ListRolePolicies", "role/clerk", &[CLERK])
    }),
    ("DeleteUserPolicy", |_| {
        call("DeleteUserPolicy", "user/ann", &[ANN, OWN])
    }),
    ("DeleteGroupPolicy", |_| {
        call("DeleteGroupPolicy", "group/crew", &[CREW, OWN])
    }),
    ("DeleteRolePolicy", |_| {
        call("DeleteRolePolicy", "role/clerk", &[CLERK, OWN])
    }),
    ("AttachUserPolicy", |_| {
        call("AttachUserPolicy", "user/ann", &[ANN, LOOK])
    }),
    ("AttachGroupPolicy", |_| {
        call("AttachGroupPolicy", "group/crew", &[CREW, LOOK])
    }),
    ("AttachRolePolicy", |_| {
        call("AttachRolePolicy", "role/clerk", &[CLERK, LOOK])
    }),
    ("ListAttachedUserPolicies", |_| {
        call("ListAttachedUserPolicies", "user/ann", &[ANN])
    }),
    ("ListAttachedGroupPolicies", |_| {
        call("ListAttachedGroupPolicies", "group/crew", &[CREW])
    }),
    ("ListAttachedRolePolicies", |_| {
        call("ListAttachedRolePolicies", "role/clerk", &[CLERK])
    }),
    ("DetachUserPolicy", |_| {
        call("DetachUserPolicy", "user/ann", &[ANN, LOOK])
    }),
    ("DetachGroupPolicy", |_| {
        call("DetachGroupPolicy", "group/crew", &[CREW, LOOK])
    }),
    ("DetachRolePolicy", |_| {
        call("DetachRolePolicy", "role/clerk", &[CLERK, LOOK])
    }),
];

fn put(action: &'static str, on: &str, holder: (&str, &str)) -> Try {
    call(action, on, &[holder, OWN, ("PolicyDocument", &document())])
}

/// A role that trusts the walker's whole project, which leaves it to their own policies.
pub(crate) fn open_role(site: &Site) {
    let trust = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "arn:aws:iam::root:root"}
    }]});
    site.api("post", "/roles", &json!({"name": "open", "trust": trust}));
}

pub(crate) const STS: &[Step] = &[
    ("GetCallerIdentity", |_| {
        Ask::call("sts", "GetCallerIdentity", &[]).needs(&[])
    }),
    ("GetSessionToken", |_| {
        Ask::call("sts", "GetSessionToken", &[]).needs(&[])
    }),
    ("AssumeRole", |_| {
        let on = "arn:aws:iam::root:role/open";
        let fields = [("RoleArn", on), ("RoleSessionName", "walk")];
        Ask::call("sts", "AssumeRole", &fields).needs(&[("sts:AssumeRole", on)])
    }),
];
