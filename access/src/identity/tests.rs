//! Identities over a real store: what is kept, what is refused, what a decision makes of it, and
//! what reaches the journal.

use super::*;
use crate::{Caller, Credentials, Need, Origin, Principal, Resource, Unknown};
use blockstore::{Options, Store};
use std::time::Duration;

struct Lab {
    access: Access,
    store: Store,
    root: Credentials,
    _directory: tempfile::TempDir,
}

const S3_ALL: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"S3","Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;

fn lab() -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Options::default()).unwrap();
    let root = Credentials::generate();
    Lab {
        access: Access::open(store.clone(), root.clone()).unwrap(),
        store,
        root,
        _directory: directory,
    }
}

fn who() -> Who {
    Caller::root("r-1").who()
}

fn caller(principal: Principal) -> Caller {
    Caller {
        principal,
        origin: Origin {
            address: Some("192.0.2.7".parse().unwrap()),
            secure: true,
            agent: "test/1".into(),
        },
        request: "req-7".into(),
    }
}

fn user(project: &str, name: &str) -> Caller {
    caller(Principal::User {
        name: name.into(),
        project: project.into(),
    })
}

fn holder<'a>(sort: HolderSort, project: &'a str, name: &'a str) -> Holder<'a> {
    Holder {
        sort,
        project,
        name,
    }
}

impl Lab {
    fn two_projects(&self) {
        for project in ["p", "q"] {
            self.access
                .project_create(&who(), project, "", Quota::default())
                .unwrap();
        }
        for (project, name) in [("p", "alice"), ("p", "bob"), ("q", "carol")] {
            self.access
                .user_create(&who(), project, name, "/", false)
                .unwrap();
        }
    }

    fn may(&self, caller: &Caller, action: &str, resource: Resource<'_>) -> bool {
        match self.access.authorize(caller, action, &resource, &[]) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Denied, "{error}");
                false
            }
        }
    }

    fn bucket(&self, project: &str, name: &str) {
        let mut who = who();
        who.project = project.into();
        self.store.bucket_create(&who, name).unwrap();
    }
}

#[test]
fn a_key_opens_until_it_is_switched_off_or_its_user_is_gone() {
    let lab = lab();
    lab.two_projects();
    let access = &lab.access;
    let made = access.key_create(&who(), "p", "alice").unwrap();
    let shown = format!("{}:{}", made.info.id, made.secret_key.reveal());
    let alice = user("p", "alice").principal;
    assert_eq!(access.bearer(&shown), Ok(alice.clone()));
    assert_eq!(access.key(&made.info.id, None).unwrap().principal, alice);
    assert_eq!(
        access.key(&made.info.id, Some("t")).err(),
        Some(Unknown::Token)
    );
    access
        .key_activate(&who(), "p", "alice", &made.info.id, false)
        .unwrap();
    assert_eq!(access.bearer(&shown), Err(Unknown::Inactive));
    // Who has not got the secret does not learn that the key exists.
    assert_eq!(
        access.bearer(&format!("{}:x", made.info.id)),
        Err(Unknown::Key)
    );
    let again = access
        .key_rotate(&who(), "p", "alice", &made.info.id)
        .unwrap();
    assert_eq!(access.bearer(&shown), Err(Unknown::Key));
    let shown = format!("{}:{}", again.info.id, again.secret_key.reveal());
    assert_eq!(access.bearer(&shown), Ok(alice));
    let refused = access.user_remove(&who(), "p", "alice", false).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    access.user_remove(&who(), "p", "alice", true).unwrap();
    assert_eq!(access.bearer(&shown), Err(Unknown::Key));
    for _ in 0..KEYS_PER_USER_MAX {
        access.key_create(&who(), "p", "bob").unwrap();
    }
    assert_eq!(
        access.key_create(&who(), "p", "bob").unwrap_err().kind(),
        Kind::Conflict
    );
}

#[test]
fn identities_are_there_after_a_restart_and_secrets_in_no_event() {
    let lab = lab();
    lab.two_projects();
    let key = lab.access.key_create(&who(), "p", "alice").unwrap();
    let session = lab
        .access
        .begin_session(
            &who(),
            Begin {
                subject: SessionSubject::Root,
                lifetime: Duration::from_secs(900),
                policy: None,
                tags: Vec::new(),
            },
        )
        .unwrap();
    lab.access.flush().unwrap();
    let again = Access::open(lab.store.clone(), lab.root.clone()).unwrap();
    assert_eq!(again.users(None).len(), 3);
    let found = again.key(&key.info.id, None).unwrap();
    assert_eq!(found.secret, key.secret_key.reveal());
    let token = session.token.reveal();
    assert!(again.key(&session.access_key, Some(token)).is_ok());
    let events = lab.store.journal_after(0, 1000).unwrap();
    let text = format!("{events:?} {key:?} {session:?}");
    for secret in [
        key.secret_key.reveal(),
        session.secret_key.reveal(),
        token,
        &lab.root.secret_key,
    ] {
        assert!(!text.contains(secret));
    }
    assert!(text.contains("key.created"));
}

#[test]
fn users_get_what_they_their_groups_and_attached_policies_say() {
    let lab = lab();
    lab.two_projects();
    lab.bucket("p", "ours");
    let access = &lab.access;
    let alice = user("p", "alice");
    let object = Resource::Object("ours", "k");
    assert!(!lab.may(&alice, "s3:GetObject", object));
    let of_alice = holder(HolderSort::User, "p", "alice");
    access.inline_put(&who(), of_alice, "s3", S3_ALL).unwrap();
    assert!(lab.may(&alice, "s3:GetObject", object));
    assert!(!lab.may(&user("p", "bob"), "s3:GetObject", object));
    access.inline_remove(&who(), of_alice, "s3").unwrap();
    assert!(!lab.may(&alice, "s3:GetObject", object));

    access.group_create(&who(), "p", "readers", "/").unwrap();
    access.group_add(&who(), "p", "readers", "alice").unwrap();
    let readers = holder(HolderSort::Group, "p", "readers");
    let read_only = "arn:aws:iam::aws:policy/ReadOnlyAccess";
    access.attach(&who(), readers, read_only).unwrap();
    assert!(lab.may(&alice, "s3:GetObject", object));
    assert!(!lab.may(&alice, "s3:PutObject", object));
    access.group_take(&who(), "p", "readers", "alice").unwrap();
    assert!(!lab.may(&alice, "s3:GetObject", object));

    access
        .policy_create(&who(), "p", "work", "/", "", S3_ALL)
        .unwrap();
    access
        .attach(&who(), of_alice, "arn:aws:iam::p:policy/work")
        .unwrap();
    assert!(lab.may(&alice, "s3:PutObject", object));
    let in_use = access.policy_remove(&who(), "p", "work").unwrap_err();
    assert_eq!(in_use.kind(), Kind::Conflict);
    // A new version counts at once.
    let read = S3_ALL.replace("s3:*", "s3:Get*");
    access
        .policy_version_create(&who(), "p", "work", &read, true)
        .unwrap();
    assert!(!lab.may(&alice, "s3:PutObject", object));
    assert!(lab.may(&alice, "s3:GetObject", object));
    // Nobody attaches what belongs to another project.
    let of_carol = holder(HolderSort::User, "q", "carol");
    let foreign = access.attach(&who(), of_carol, "arn:aws:iam::p:policy/work");
    assert_eq!(foreign.unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_project_is_closed_to_others_until_a_buckets_policy_opens_it() {
    let lab = lab();
    lab.two_projects();
    lab.bucket("p", "ours");
    let access = &lab.access;
    let admin = "arn:aws:iam::aws:policy/AdministratorAccess";
    access
        .attach(&who(), holder(HolderSort::User, "q", "carol"), admin)
        .unwrap();
    let carol = user("q", "carol");
    let object = Resource::Object("ours", "k");
    assert!(!lab.may(&carol, "s3:GetObject", object));
    assert!(!lab.may(
        &carol,
        "iam:CreateUser",
        Resource::Identity("user", "p", "x")
    ));
    assert!(lab.may(
        &carol,
        "iam:CreateUser",
        Resource::Identity("user", "q", "x")
    ));
    assert!(!lab.may(&carol, "store:Collect", Resource::Store));
    assert!(!lab.may(&carol, "project:SetQuota", Resource::Project("q")));
    assert!(lab.may(&carol, "project:Describe", Resource::Project("q")));
    assert!(!lab.may(&carol, "project:Describe", Resource::Project("p")));
    // What is not there is decided by her own policies: she then learns that it is not there.
    assert!(lab.may(&carol, "s3:GetObject", Resource::Object("nowhere", "k")));
    let open = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"q"},
        "Action":"s3:GetObject","Resource":"arn:aws:s3:::ours/*"}}"#;
    lab.store
        .bucket_document_put(&who(), "ours", "policy", open)
        .unwrap();
    assert!(lab.may(&carol, "s3:GetObject", object));
    assert!(!lab.may(&carol, "s3:PutObject", object));
    assert!(!lab.may(&caller(Principal::Anonymous), "s3:GetObject", object));
    let public = open.replace(r#"{"AWS":"q"}"#, r#""*""#);
    lab.store
        .bucket_document_put(&who(), "ours", "policy", &public)
        .unwrap();
    assert!(lab.may(&caller(Principal::Anonymous), "s3:GetObject", object));
    lab.store
        .bucket_document_put(
            &who(),
            "ours",
            "public-access-block",
            r#"{"RestrictPublicBuckets":true}"#,
        )
        .unwrap();
    assert!(!lab.may(&caller(Principal::Anonymous), "s3:GetObject", object));
    assert!(!lab.may(&carol, "s3:GetObject", object));
}

#[test]
fn a_session_ends_by_itself_and_does_no_more_than_its_role_and_its_own_policy() {
    let lab = lab();
    lab.two_projects();
    lab.bucket("p", "ours");
    let access = &lab.access;
    let trust = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::p:user/alice"},"Action":"sts:AssumeRole"}}"#;
    let change = RoleChange {
        trust: Some(trust.into()),
        ..RoleChange::default()
    };
    access
        .role_create(&who(), "p", "worker", "/", change)
        .unwrap();
    access
        .inline_put(
            &who(),
            holder(HolderSort::Role, "p", "worker"),
            "s3",
            S3_ALL,
        )
        .unwrap();
    let assume = |caller: &Caller| {
        access
            .authorize_assume(caller, "sts:AssumeRole", "p", "worker", None, &[])
            .is_ok()
    };
    assert!(assume(&user("p", "alice")));
    assert!(!assume(&user("p", "bob")));
    assert!(!assume(&user("q", "carol")));
    assert!(!assume(&caller(Principal::Anonymous)));

    let begin = |policy: Option<&str>, lifetime| Begin {
        subject: SessionSubject::Role {
            project: "p".into(),
            name: "worker".into(),
            session: "s1".into(),
        },
        lifetime,
        policy: policy.map(str::to_owned),
        tags: vec![("oidc:sub".into(), "alice@example".into())],
    };
    let hour = Duration::from_secs(3600);
    let session = access.begin_session(&who(), begin(None, hour)).unwrap();
    let token = session.token.reveal();
    let found = access.key(&session.access_key, Some(token)).unwrap();
    assert_eq!(found.secret, session.secret_key.reveal());
    for wrong in [None, Some(""), Some("x"), Some(&token[1..])] {
        let refused = access.key(&session.access_key, wrong).err();
        assert_eq!(refused, Some(Unknown::Token));
    }
    let bearer = format!(
        "{}:{}:{token}",
        session.access_key,
        session.secret_key.reveal()
    );
    assert_eq!(access.bearer(&bearer), Ok(found.principal.clone()));
    let worker = caller(found.principal);
    assert!(lab.may(&worker, "s3:PutObject", Resource::Object("ours", "k")));
    assert!(!lab.may(&worker, "volume:Create", Resource::Volume("v")));

    let narrow = S3_ALL.replace("s3:*", "s3:Get*");
    let limited = access
        .begin_session(&who(), begin(Some(&narrow), hour))
        .unwrap();
    let limited = caller(limited.principal);
    assert!(lab.may(&limited, "s3:GetObject", Resource::Object("ours", "k")));
    assert!(!lab.may(&limited, "s3:PutObject", Resource::Object("ours", "k")));

    let short = access
        .begin_session(&who(), begin(None, Duration::from_secs(1)))
        .unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let over = access
        .key(&short.access_key, Some(short.token.reveal()))
        .err();
    assert_eq!(over, Some(Unknown::Expired));
    assert!(!lab.may(
        &caller(short.principal),
        "s3:GetObject",
        Resource::Object("ours", "k")
    ));
    let long = begin(None, Duration::from_secs(7200));
    assert_eq!(
        access.begin_session(&who(), long).unwrap_err().kind(),
        Kind::Invalid
    );

    access.role_remove(&who(), "p", "worker", true).unwrap();
    assert!(access.key(&session.access_key, Some(token)).is_err());
    assert!(!lab.may(&worker, "s3:PutObject", Resource::Object("ours", "k")));
}

#[test]
fn an_issuers_token_assumes_only_roles_that_trust_the_issuer_and_the_claims() {
    let lab = lab();
    lab.two_projects();
    let access = &lab.access;
    let trust = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Federated":"https://idp.example"},
        "Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringEquals":{"https://idp.example:sub":"alice"}}}}"#;
    let change = RoleChange {
        trust: Some(trust.into()),
        ..RoleChange::default()
    };
    access.role_create(&who(), "p", "web", "/", change).unwrap();
    let nobody = caller(Principal::Anonymous);
    let may = |issuer: Option<&str>, sub: &str| {
        let action = "sts:AssumeRoleWithWebIdentity";
        let keys = [("https://idp.example:sub", sub)];
        access
            .authorize_assume(&nobody, action, "p", "web", issuer, &keys)
            .is_ok()
    };
    assert!(may(Some("https://idp.example"), "alice"));
    assert!(!may(Some("https://idp.example"), "mallory"));
    assert!(!may(Some("https://evil.example"), "alice"));
    assert!(!may(None, "alice"));
}

#[test]
fn every_decision_is_in_the_journal_with_who_what_why_and_where() {
    let lab = lab();
    lab.two_projects();
    lab.bucket("p", "ours");
    let access = &lab.access;
    access
        .inline_put(&who(), holder(HolderSort::User, "p", "alice"), "s3", S3_ALL)
        .unwrap();
    let from = lab.store.journal_after(0, 1000).unwrap().len() as u64;
    let alice = user("p", "alice");
    assert!(lab.may(&alice, "s3:GetObject", Resource::Object("ours", "k")));
    assert!(!lab.may(&alice, "volume:Delete", Resource::Volume("v")));
    assert!(lab.may(&Caller::root("r-2"), "volume:Delete", Resource::Volume("v")));
    access.flush().unwrap();
    let events = lab.store.journal_after(from, 100).unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["access.allowed", "access.denied", "access.allowed"]);
    let first = &events[0];
    assert_eq!(first.subject, "arn:aws:s3:::ours/k");
    assert_eq!(
        (first.actor.as_str(), first.request.as_str()),
        ("user/alice", "req-7")
    );
    for part in [
        "s3:GetObject",
        "arn:aws:iam::p:user/alice",
        "user/alice inline s3, S3",
        "192.0.2.7",
        "test/1",
    ] {
        assert!(first.detail.contains(part), "{} lacks {part}", first.detail);
    }
    assert!(events[1].detail.contains("no policy allows it"));
}

#[test]
fn no_decision_is_lost_however_many_come_at_once() {
    let lab = lab();
    let before = lab.store.journal_after(0, 1000).unwrap().len();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3000 {
                    let root = Caller::root("r");
                    lab.access
                        .authorize(&root, "s3:GetObject", &Resource::Object("b", "k"), &[])
                        .unwrap();
                }
            });
        }
    });
    lab.access.flush().unwrap();
    let after = lab.store.journal_after(0, 20_000).unwrap().len();
    assert_eq!(after - before, 12_000);
}

#[test]
fn what_is_denied_reads_the_same_whichever_rule_it_was() {
    let lab = lab();
    lab.two_projects();
    lab.bucket("p", "ours");
    let deny = r#"{"Version":"2012-10-17","Statement":{"Sid":"SecretRule","Effect":"Deny","Action":"*","Resource":"*"}}"#;
    let alice = user("p", "alice");
    let ask = || {
        let object = Resource::Object("ours", "k");
        let error = lab.access.authorize(&alice, "s3:GetObject", &object, &[]);
        error.unwrap_err().to_string()
    };
    let silent = ask();
    lab.access
        .inline_put(&who(), holder(HolderSort::User, "p", "alice"), "no", deny)
        .unwrap();
    assert_eq!(ask(), silent);
    assert!(!silent.contains("SecretRule"));
    let need = Need::new("s3:GetObject", Resource::Object("ours", "k"));
    let why = lab.access.explain(&alice, &need).unwrap();
    assert_eq!(why.statement, "SecretRule");
}

#[test]
fn names_paths_and_policies_that_cannot_be_are_refused() {
    let lab = lab();
    lab.two_projects();
    let access = &lab.access;
    let long = "x".repeat(65);
    for name in ["", "a b", "a/b", "a:b", "ünal", long.as_str(), "*"] {
        let refused = access.user_create(&who(), "p", name, "/", false);
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid, "{name:?}");
    }
    for path in ["", "x", "/x", "x/", "/a:b/", "/*/"] {
        let refused = access.user_create(&who(), "p", "dave", path, false);
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid, "{path:?}");
    }
    let nowhere = access.user_create(&who(), "nowhere", "dave", "/", false);
    assert_eq!(nowhere.unwrap_err().subject(), Subject::Project);
    let again = access.user_create(&who(), "p", "alice", "/", false);
    assert_eq!(again.unwrap_err().kind(), Kind::Conflict);
    access
        .user_create(&who(), "q", "alice", "/", false)
        .unwrap();
    for name in ["", "Root", "aws", "root", "-x", "a/b"] {
        let refused = access.project_create(&who(), name, "", Quota::default());
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid, "{name:?}");
    }
    let of_alice = holder(HolderSort::User, "p", "alice");
    let refused = access
        .inline_put(&who(), of_alice, "bad", "{}")
        .unwrap_err();
    assert!(refused.to_string().contains("no Statement"), "{refused}");
    let built_in = access.policy_remove(&who(), "p", "ReadOnlyAccess");
    assert_eq!(built_in.unwrap_err().kind(), Kind::Denied);
}

#[test]
fn a_renamed_user_keeps_keys_groups_and_grants() {
    let lab = lab();
    lab.two_projects();
    let access = &lab.access;
    access.group_create(&who(), "p", "g", "/").unwrap();
    access.group_add(&who(), "p", "g", "alice").unwrap();
    let key = access.key_create(&who(), "p", "alice").unwrap();
    access
        .user_rename(&who(), "p", "alice", Some("alicia"), Some("/staff/"))
        .unwrap();
    assert_eq!(
        access.user("p", "alice").unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        access.user("p", "alicia").unwrap().arn(),
        "arn:aws:iam::p:user/staff/alicia"
    );
    assert_eq!(access.group("p", "g").unwrap().members, ["alicia"]);
    let shown = format!("{}:{}", key.info.id, key.secret_key.reveal());
    let principal = access.bearer(&shown).unwrap();
    assert_eq!(principal.to_string(), "user/alicia");
}

#[test]
fn a_project_goes_only_when_nothing_is_its_any_more() {
    let lab = lab();
    lab.two_projects();
    let access = &lab.access;
    let refused = access.project_remove(&who(), "q").unwrap_err();
    assert!(refused.to_string().contains("users"), "{refused}");
    access.user_remove(&who(), "q", "carol", true).unwrap();
    lab.bucket("q", "theirs");
    let refused = access.project_remove(&who(), "q").unwrap_err();
    assert!(refused.to_string().contains("buckets"), "{refused}");
    lab.store.bucket_remove(&who(), "theirs").unwrap();
    access.project_remove(&who(), "q").unwrap();
    assert!(access.project_remove(&who(), "root").is_err());
    let quota = Quota {
        vms: Some(0),
        ..Quota::default()
    };
    access.project_set_quota(&who(), "p", quota).unwrap();
    assert_eq!(access.admit_vm("p").unwrap_err().kind(), Kind::NoSpace);
    let kept = lab.store.record_get("project", "p").unwrap().unwrap();
    assert_eq!(kept["quota"]["vms"], 0);
    assert!(kept["quota"]["bytes"].is_null());
}

#[test]
fn the_root_key_is_rotated_in_its_file_and_in_memory() {
    let lab = lab();
    let file = lab._directory.path().join("credentials");
    let (old, _) = Credentials::load_or_create(&file).unwrap();
    let access = Access::open(lab.store.clone(), old.clone()).unwrap();
    assert_eq!(
        access.root_rotate(&who()).unwrap_err().kind(),
        Kind::Unsupported
    );
    access.keep_root_in(file.clone());
    let new = access.root_rotate(&who()).unwrap();
    assert_eq!(
        access.bearer(&format!("{}:{}", old.access_key, old.secret_key)),
        Err(Unknown::Key)
    );
    let (kept, made) = Credentials::load_or_create(&file).unwrap();
    assert!(!made);
    assert_eq!(kept.access_key, new.info.id);
    assert!(
        access
            .bearer(&format!("{}:{}", kept.access_key, kept.secret_key))
            .is_ok()
    );
}
