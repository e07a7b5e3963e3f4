//! The JSON API's users, keys, groups, roles, policies, projects and issuers.

use super::api::{delete, get, send};
use super::client::encoded;
use super::guests::ssh_key;
use super::steps::{Site, Step};
use serde_json::{Value, json};

const IAM: &str = "arn:aws:iam::root";
const USER: &str = "arn:aws:iam::root:user/ann";
const GROUP: &str = "arn:aws:iam::root:group/crew";
const ROLE: &str = "arn:aws:iam::root:role/clerk";
const POLICY: &str = "arn:aws:iam::root:policy/look";
const PROVIDERS: &str = "arn:aws:iam::root:*";
const PROJECT: &str = "arn:infall:project:::lab";

pub(crate) fn document() -> String {
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::box/*"}
    ]})
    .to_string()
}

pub(crate) fn trust() -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": USER}}
    ]})
}

fn body() -> Value {
    json!({"document": document()})
}

/// A user, a group with them in it, a role and a policy.
pub(crate) fn prepare(site: &Site) {
    site.api("post", "/users", &json!({"name": "ann"}));
    site.api("post", "/groups", &json!({"name": "crew"}));
    site.api("put", "/groups/crew/members/ann", &json!({}));
    site.api(
        "post",
        "/roles",
        &json!({"name": "clerk", "trust": trust()}),
    );
    site.api(
        "post",
        "/policies",
        &json!({"name": "look", "document": document()}),
    );
    site.api("post", "/projects", &json!({"name": "lab"}));
}

/// A new key of hers; its path.
fn key(site: &Site) -> String {
    let made = site.api("post", "/users/ann/keys", &json!({})).json();
    format!("/users/ann/keys/{}", made["id"].as_str().unwrap())
}

/// Takes all her keys away, that there is room for more.
fn no_keys(site: &Site) {
    let listed = site.api("get", "/users/ann/keys", &json!({})).json();
    for key in listed["keys"].as_array().unwrap() {
        let path = format!("/users/ann/keys/{}", key["id"].as_str().unwrap());
        site.api("delete", &path, &json!({}));
    }
}

/// A policy in line, and one attached, of every holder.
fn given(site: &Site) {
    for holder in ["/users/ann", "/groups/crew", "/roles/clerk"] {
        site.api("put", &format!("{holder}/policies/own"), &body());
        site.api(
            "put",
            &format!("{holder}/attached/ReadOnlyAccess"),
            &json!({}),
        );
    }
}

fn issuer() -> Value {
    json!({"name": "idp", "url": "http://127.0.0.1:9", "audiences": ["infall"]})
}

pub(crate) const STEPS: &[Step] = &[
    ("get /users", |_| {
        get("/users", "iam:ListUsers", &format!("{IAM}:user/*"))
    }),
    ("post /users", |_| {
        let on = format!("{IAM}:user/bob");
        send(
            "post",
            "/users",
            &json!({"name": "bob"}),
            &[("iam:CreateUser", &on)],
        )
    }),
    ("get /users/{user}", |_| {
        get("/users/ann", "iam:GetUser", USER)
    }),
    ("delete /users/{user}", |_| {
        delete("/users/bob", "iam:DeleteUser", &format!("{IAM}:user/bob"))
    }),
    ("get /users/{user}/keys", |_| {
        get("/users/ann/keys", "iam:ListAccessKeys", USER)
    }),
    ("post /users/{user}/keys", |site| {
        no_keys(site);
        send(
            "post",
            "/users/ann/keys",
            &json!({}),
            &[("iam:CreateAccessKey", USER)],
        )
    }),
    ("post /users/{user}/keys/{key}", |site| {
        let body = json!({"active": false});
        send("post", &key(site), &body, &[("iam:UpdateAccessKey", USER)])
    }),
    ("post /users/{user}/keys/{key}/rotate", |site| {
        let path = format!("{}/rotate", key(site));
        let needs = [("iam:CreateAccessKey", USER), ("iam:DeleteAccessKey", USER)];
        send("post", &path, &json!({}), &needs)
    }),
    ("delete /users/{user}/keys/{key}", |site| {
        delete(&key(site), "iam:DeleteAccessKey", USER)
    }),
    ("get /users/{user}/ssh-keys", |_| {
        get("/users/ann/ssh-keys", "iam:ListSSHPublicKeys", USER)
    }),
    ("post /users/{user}/ssh-keys", |site| {
        let body = json!({"public_key": ssh_key(&site.server.scratch().join("ann"))});
        send(
            "post",
            "/users/ann/ssh-keys",
            &body,
            &[("iam:UploadSSHPublicKey", USER)],
        )
    }),
    ("delete /users/{user}/ssh-keys/{key}", |site| {
        let listed = site.api("get", "/users/ann/ssh-keys", &json!({})).json();
        let id = encoded(listed["keys"][0]["fingerprint"].as_str().unwrap());
        delete(
            &format!("/users/ann/ssh-keys/{id}"),
            "iam:DeleteSSHPublicKey",
            USER,
        )
    }),
    ("put /users/{user}/policies/{policy}", |_| {
        send(
            "put",
            "/users/ann/policies/own",
            &body(),
            &[("iam:PutUserPolicy", USER)],
        )
    }),
    ("delete /users/{user}/policies/{policy}", |site| {
        given(site);
        delete("/users/ann/policies/own", "iam:DeleteUserPolicy", USER)
    }),
    ("put /users/{user}/attached/{policy}", |_| {
        let path = "/users/ann/attached/ReadOnlyAccess";
        send("put", path, &json!({}), &[("iam:AttachUserPolicy", USER)])
    }),
    ("delete /users/{user}/attached/{policy}", |_| {
        delete(
            "/users/ann/attached/ReadOnlyAccess",
            "iam:DetachUserPolicy",
            USER,
        )
    }),
    ("get /groups", |_| {
        get("/groups", "iam:ListGroups", &format!("{IAM}:group/*"))
    }),
    ("post /groups", |_| {
        let on = format!("{IAM}:group/new");
        send(
            "post",
            "/groups",
            &json!({"name": "new"}),
            &[("iam:CreateGroup", &on)],
        )
    }),
    ("get /groups/{group}", |_| {
        get("/groups/crew", "iam:GetGroup", GROUP)
    }),
    ("delete /groups/{group}", |_| {
        delete(
            "/groups/new",
            "iam:DeleteGroup",
            &format!("{IAM}:group/new"),
        )
    }),
    ("put /groups/{group}/members/{user}", |_| {
        let path = "/groups/crew/members/ann";
        send("put", path, &json!({}), &[("iam:AddUserToGroup", GROUP)])
    }),
    ("delete /groups/{group}/members/{user}", |_| {
        delete("/groups/crew/members/ann", "iam:RemoveUserFromGroup", GROUP)
    }),
    ("put /groups/{group}/policies/{policy}", |_| {
        send(
            "put",
            "/groups/crew/policies/own",
            &body(),
            &[("iam:PutGroupPolicy", GROUP)],
        )
    }),
    ("delete /groups/{group}/policies/{policy}", |_| {
        delete("/groups/crew/policies/own", "iam:DeleteGroupPolicy", GROUP)
    }),
    ("put /groups/{group}/attached/{policy}", |_| {
        let path = "/groups/crew/attached/ReadOnlyAccess";
        send("put", path, &json!({}), &[("iam:AttachGroupPolicy", GROUP)])
    }),
    ("delete /groups/{group}/attached/{policy}", |_| {
        delete(
            "/groups/crew/attached/ReadOnlyAccess",
            "iam:DetachGroupPolicy",
            GROUP,
        )
    }),
    ("get /issuers", |_| {
        get("/issuers", "iam:ListOpenIDConnectProviders", PROVIDERS)
    }),
    ("post /issuers", |_| {
        send(
            "post",
            "/issuers",
            &issuer(),
            &[("iam:CreateOpenIDConnectProvider", PROVIDERS)],
        )
    }),
    ("delete /issuers/{issuer}", |_| {
        delete("/issuers/idp", "iam:DeleteOpenIDConnectProvider", PROVIDERS)
    }),
    ("get /roles", |_| {
        get("/roles", "iam:ListRoles", &format!("{IAM}:role/*"))
    }),
    ("post /roles", |_| {
        let body = json!({"name": "new", "trust": trust()});
        send(
            "post",
            "/roles",
            &body,
            &[("iam:CreateRole", &format!("{IAM}:role/new"))],
        )
    }),
    ("get /roles/{role}", |_| {
        get("/roles/clerk", "iam:GetRole", ROLE)
    }),
    ("delete /roles/{role}", |_| {
        delete("/roles/new", "iam:DeleteRole", &format!("{IAM}:role/new"))
    }),
    ("put /roles/{role}/trust", |_| {
        let body = json!({"trust": trust()});
        send(
            "put",
            "/roles/clerk/trust",
            &body,
            &[("iam:UpdateAssumeRolePolicy", ROLE)],
        )
    }),
    ("put /roles/{role}/policies/{policy}", |_| {
        send(
            "put",
            "/roles/clerk/policies/own",
            &body(),
            &[("iam:PutRolePolicy", ROLE)],
        )
    }),
    ("delete /roles/{role}/policies/{policy}", |_| {
        delete("/roles/clerk/policies/own", "iam:DeleteRolePolicy", ROLE)
    }),
    ("put /roles/{role}/attached/{policy}", |_| {
        let path = "/roles/clerk/attached/ReadOnlyAccess";
        send("put", path, &json!({}), &[("iam:AttachRolePolicy", ROLE)])
    }),
    ("delete /roles/{role}/attached/{policy}", |_| {
        delete(
            "/roles/clerk/attached/ReadOnlyAccess",
            "iam:DetachRolePolicy",
            ROLE,
        )
    }),
    ("get /policies", |_| {
        get("/policies", "iam:ListPolicies", &format!("{IAM}:policy/*"))
    }),
    ("post /policies", |_| {
        let body = json!({"name": "new", "document": document()});
        send(
            "post",
            "/policies",
            &body,
            &[("iam:CreatePolicy", &format!("{IAM}:policy/new"))],
        )
    }),
    ("get /policies/{policy}", |_| {
        get("/policies/look", "iam:GetPolicy", POLICY)
    }),
    ("put /policies/{policy}", |_| {
        send(
            "put",
            "/policies/look",
            &body(),
            &[("iam:CreatePolicyVersion", POLICY)],
        )
    }),
    ("delete /policies/{policy}", |_| {
        delete(
            "/policies/new",
            "iam:DeletePolicy",
            &format!("{IAM}:policy/new"),
        )
    }),
    ("post /policy-check", |_| {
        send(
            "post",
            "/policy-check",
            &body(),
            &[("iam:ValidatePolicy", PROVIDERS)],
        )
    }),
    ("post /policy-test", |_| {
        let body = json!({"as": "ann", "action": "s3:GetObject", "on": "s3://box/k"});
        send(
            "post",
            "/policy-test",
            &body,
            &[("iam:SimulatePrincipalPolicy", USER)],
        )
    }),
    ("get /projects", |_| {
        get("/projects", "project:List", "arn:infall:project:::*")
    }),
    ("post /projects", |_| {
        let on = "arn:infall:project:::new";
        send(
            "post",
            "/projects",
            &json!({"name": "new"}),
            &[("project:Create", on)],
        )
    }),
    ("get /projects/{project}", |_| {
        get(
            "/projects/root",
            "project:Describe",
            "arn:infall:project:::root",
        )
    }),
    ("delete /projects/{project}", |_| {
        delete(
            "/projects/new",
            "project:Delete",
            "arn:infall:project:::new",
        )
    }),
    ("put /projects/{project}/quota", |_| {
        send(
            "put",
            "/projects/lab/quota",
            &json!({"vms": 3}),
            &[("project:SetQuota", PROJECT)],
        )
    }),
];
