//! The whole of it: the manual's own cases, what is refused, and a model that random policies are
//! held against.

use super::*;
use proptest::prelude::*;

fn read(text: &str, form: Form) -> Policy {
    Policy::parse(text, form, BUCKET_BYTES_MAX).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn user(project: &str, name: &str) -> Asker {
    Asker {
        arns: vec![format!("arn:aws:iam::{project}:user/{name}")],
        project: project.into(),
        issuer: None,
    }
}

struct Case<'a> {
    identity: Vec<&'a str>,
    bucket: Option<&'a str>,
    session: Option<&'a str>,
    asker: Asker,
    own: bool,
}

impl Case<'_> {
    fn may(&self, action: &str, resource: &str, keys: &[(&str, &str)]) -> bool {
        self.decide(action, resource, keys).allowed
    }

    fn decide(&self, action: &str, resource: &str, keys: &[(&str, &str)]) -> Decision {
        let mut context = Context::default();
        for (key, value) in keys {
            context.add(key, *value);
        }
        let identity: Vec<Policy> = self
            .identity
            .iter()
            .map(|text| read(text, Form::Identity))
            .collect();
        let bucket = self.bucket.map(|text| read(text, Form::Resource));
        let session = self.session.map(|text| read(text, Form::Session));
        let given = Given {
            identity: identity
                .iter()
                .map(|policy| Grant {
                    name: "own",
                    policy,
                })
                .collect(),
            resource: bucket.as_ref().map(|policy| Grant {
                name: "bucket",
                policy,
            }),
            session: session.as_ref().map(|policy| Grant {
                name: "session",
                policy,
            }),
            own_project: self.own,
            anonymous: self.asker.project.is_empty(),
            granted: None,
            restricted: false,
        };
        let request = Request {
            action,
            resource,
            asker: &self.asker,
            context: &context,
        };
        evaluate(&given, &request)
    }
}

fn alice<'a>(identity: &[&'a str]) -> Case<'a> {
    Case {
        identity: identity.to_vec(),
        bucket: None,
        session: None,
        asker: user("p", "alice"),
        own: true,
    }
}

const READ_ALL: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow",
    "Action":"s3:Get*","Resource":"*"}}"#;

#[test]
fn nothing_is_allowed_until_a_policy_says_so() {
    let nobody = alice(&[]);
    assert!(!nobody.may("s3:GetObject", "arn:aws:s3:::b/k", &[]));
    let reader = alice(&[READ_ALL]);
    assert!(reader.may("s3:GetObject", "arn:aws:s3:::b/k", &[]));
    assert!(
        reader.may("S3:getobject", "arn:aws:s3:::b/k", &[]),
        "actions know no case"
    );
    assert!(!reader.may("s3:PutObject", "arn:aws:s3:::b/k", &[]));
}

#[test]
fn an_explicit_deny_wins_wherever_it_stands() {
    let deny_all = r#"{"Version":"2012-10-17","Statement":[{"Sid":"No","Effect":"Deny","Action":"*","Resource":"*"}]}"#;
    let bucket_deny = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*",
        "Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}]}"#;
    let both = alice(&[READ_ALL, deny_all]);
    let decision = both.decide("s3:GetObject", "arn:aws:s3:::b/k", &[]);
    assert!(!decision.allowed);
    assert_eq!(decision.statement, "No");
    let mut by_bucket = alice(&[READ_ALL]);
    by_bucket.bucket = Some(bucket_deny);
    assert!(!by_bucket.may("s3:GetObject", "arn:aws:s3:::b/k", &[]));
    let mut by_session = alice(&[READ_ALL]);
    by_session.session = Some(deny_all);
    assert!(!by_session.may("s3:GetObject", "arn:aws:s3:::b/k", &[]));
}

#[test]
fn a_session_policy_only_takes_away() {
    let mut session = alice(&[READ_ALL]);
    session.session = Some(
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::b/pub/*"}}"#,
    );
    assert!(session.may("s3:GetObject", "arn:aws:s3:::b/pub/k", &[]));
    assert!(!session.may("s3:GetObject", "arn:aws:s3:::b/other", &[]));
    assert!(!session.may("s3:PutObject", "arn:aws:s3:::b/pub/k", &[]));
}

#[test]
fn across_projects_both_sides_must_allow() {
    let named = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow",
        "Principal":{"AWS":"arn:aws:iam::p:user/alice"},"Action":"s3:*","Resource":"arn:aws:s3:::b/*"}}"#;
    let project = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow",
        "Principal":{"AWS":["arn:aws:iam::p:root"]},"Action":"s3:*","Resource":"arn:aws:s3:::b/*"}}"#;
    for (identity, bucket, own, expected) in [
        (&[][..], None, false, false),
        (&[READ_ALL][..], None, false, false),
        (&[][..], Some(named), false, false),
        (&[READ_ALL][..], Some(named), false, true),
        (&[READ_ALL][..], Some(project), false, true),
        (&[][..], Some(named), true, true),
        // The project is trusted with the question, and its own policies do not answer it.
        (&[][..], Some(project), true, false),
    ] {
        let case = Case {
            bucket,
            own,
            ..alice(identity)
        };
        let may = case.may("s3:GetObject", "arn:aws:s3:::b/k", &[]);
        assert_eq!(may, expected, "{identity:?} {bucket:?} {own}");
    }
}

#[test]
fn the_public_gets_what_a_buckets_policy_gives_everybody_and_no_more() {
    let public = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*",
        "Action":"s3:GetObject","Resource":"arn:aws:s3:::b/pub/*"}}"#;
    let mut anonymous = alice(&[]);
    anonymous.asker = Asker::default();
    anonymous.own = false;
    anonymous.bucket = Some(public);
    assert!(anonymous.may("s3:GetObject", "arn:aws:s3:::b/pub/k", &[]));
    assert!(!anonymous.may("s3:GetObject", "arn:aws:s3:::b/k", &[]));
    assert!(!anonymous.may("s3:PutObject", "arn:aws:s3:::b/pub/k", &[]));
    assert!(read(public, Form::Resource).is_public());
    let at_home = public.replace(
        r#""Resource""#,
        r#""Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}},"Resource""#,
    );
    assert!(!read(&at_home, Form::Resource).is_public());
    let anywhere = at_home.replace("10.0.0.0/8", "0.0.0.0/0");
    assert!(read(&anywhere, Form::Resource).is_public());
}

/// Amazon S3 and IAM user guides, example policies.
#[test]
fn the_manuals_own_policies_decide_as_the_manual_says() {
    let home = r#"{"Version":"2012-10-17","Statement":[
        {"Sid":"List","Effect":"Allow","Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::b"],
         "Condition":{"StringLike":{"s3:prefix":["","home/","home/${aws:username}/*"]}}},
        {"Sid":"Home","Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::b/home/${aws:username}/*"]}]}"#;
    let case = alice(&[home]);
    let me = ("aws:username", "alice");
    assert!(case.may("s3:GetObject", "arn:aws:s3:::b/home/alice/x", &[me]));
    assert!(!case.may("s3:GetObject", "arn:aws:s3:::b/home/bob/x", &[me]));
    assert!(!case.may("s3:GetObject", "arn:aws:s3:::b/home/alice/x", &[]));
    assert!(case.may(
        "s3:ListBucket",
        "arn:aws:s3:::b",
        &[me, ("s3:prefix", "home/alice/d")]
    ));
    assert!(!case.may(
        "s3:ListBucket",
        "arn:aws:s3:::b",
        &[me, ("s3:prefix", "home/bob/")]
    ));
    assert!(!case.may("s3:ListBucket", "arn:aws:s3:::b", &[me]));

    let addresses = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*",
        "Condition":{"NotIpAddress":{"aws:SourceIp":["192.0.2.0/24","203.0.113.0/24"]},
                     "Bool":{"aws:ViaAWSService":"false"}}}}"#;
    let case = alice(&[READ_ALL, addresses]);
    let outside = [
        ("aws:SourceIp", "198.51.100.1"),
        ("aws:ViaAWSService", "false"),
    ];
    let inside = [
        ("aws:SourceIp", "203.0.113.9"),
        ("aws:ViaAWSService", "false"),
    ];
    assert!(!case.may("s3:GetObject", "arn:aws:s3:::b/k", &outside));
    assert!(case.may("s3:GetObject", "arn:aws:s3:::b/k", &inside));

    let tls = r#"{"Id":"ExamplePolicy","Version":"2012-10-17","Statement":[{"Sid":"AllowSSLRequestsOnly",
        "Action":"s3:*","Effect":"Deny","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"],
        "Condition":{"Bool":{"aws:SecureTransport":"false"}},"Principal":"*"}]}"#;
    let mut case = alice(&[READ_ALL]);
    case.bucket = Some(tls);
    assert!(!case.may(
        "s3:GetObject",
        "arn:aws:s3:::b/k",
        &[("aws:SecureTransport", "false")]
    ));
    assert!(case.may(
        "s3:GetObject",
        "arn:aws:s3:::b/k",
        &[("aws:SecureTransport", "true")]
    ));

    let tags = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::b/*",
        "Condition":{"ForAllValues:StringLike":{"s3:RequestObjectTagKeys":["Owner","CreationDate"]}}}}"#;
    let case = alice(&[tags]);
    let put = |keys: &[(&str, &str)]| case.may("s3:PutObject", "arn:aws:s3:::b/k", keys);
    assert!(put(&[
        ("s3:RequestObjectTagKeys", "Owner"),
        ("s3:RequestObjectTagKeys", "CreationDate")
    ]));
    assert!(!put(&[
        ("s3:RequestObjectTagKeys", "Owner"),
        ("s3:RequestObjectTagKeys", "Other")
    ]));

    let dates = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"service-prefix:action-name","Resource":"*",
        "Condition":{"DateGreaterThan":{"aws:CurrentTime":"2020-04-01T00:00:00Z"},
                     "DateLessThan":{"aws:CurrentTime":"2020-06-30T23:59:59Z"}}}}"#;
    let case = alice(&[dates]);
    let at = |time| {
        case.may(
            "service-prefix:action-name",
            "arn:aws:x:::y",
            &[("aws:CurrentTime", time)],
        )
    };
    assert!(at("2020-05-01T00:00:00Z"));
    assert!(!at("2020-07-01T00:00:00Z"));

    let others = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","NotAction":"iam:*","Resource":"*"},
        {"Effect":"Deny","Action":"s3:*","NotResource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]}]}"#;
    let case = alice(&[others]);
    assert!(case.may("s3:GetObject", "arn:aws:s3:::b/k", &[]));
    assert!(!case.may("s3:GetObject", "arn:aws:s3:::c/k", &[]));
    assert!(!case.may("iam:CreateUser", "arn:aws:iam::p:user/x", &[]));
    assert!(case.may("volume:Create", "arn:infall:volume:::v", &[]));
}

#[test]
fn the_older_version_knows_no_variables() {
    let old = r#"{"Version":"2008-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/${aws:username}/*"}}"#;
    let case = alice(&[old]);
    assert!(!case.may(
        "s3:GetObject",
        "arn:aws:s3:::b/alice/x",
        &[("aws:username", "alice")]
    ));
    assert!(case.may("s3:GetObject", "arn:aws:s3:::b/${aws:username}/x", &[]));
}

#[test]
fn a_document_that_says_it_wrongly_is_refused_by_name() {
    let deep = "[".repeat(2500) + &"]".repeat(2500);
    let ok = r#""Effect":"Allow","Action":"s3:*","Resource":"*""#;
    let cases: &[(String, &str)] = &[
        ("".into(), "EOF"),
        ("[]".into(), "not a JSON object"),
        ("{}".into(), "no Statement"),
        (deep, "nested more than"),
        (format!(r#"{{"Statement":[{{{ok}}}]}} x"#), "more text"),
        (
            format!(r#"{{"Statement":[{{{ok},"Effect":"Deny"}}]}}"#),
            "\"Effect\" stands twice",
        ),
        (
            format!(r#"{{"Statement":[],"Version":"2012-10-17"{}}}"#, ""),
            "0 statements",
        ),
        (
            format!(r#"{{"Statement":[{{{ok},"Colour":"red"}}]}}"#),
            "\"Colour\" is no element",
        ),
        (
            format!(r#"{{"Statement":[{{{ok}}}],"Note":1}}"#),
            "\"Note\" is no element",
        ),
        (
            format!(r#"{{"Version":"2012-10-18","Statement":[{{{ok}}}]}}"#),
            "2012-10-18",
        ),
        (
            format!(r#"{{"Version":2012,"Statement":[{{{ok}}}]}}"#),
            "Version is a number",
        ),
        (
            format!(r#"{{"Statement":[{{{ok},"Principal":"*"}}]}}"#),
            "Principal has no place",
        ),
        (
            format!(r#"{{"Statement":[{{{ok},"NotAction":"x:y"}}]}}"#),
            "both Action and NotAction",
        ),
        (
            format!(r#"{{"Statement":[{{{ok},"Condition":{{"Bool":{{"aws:x":"maybe"}}}}}}]}}"#),
            "maybe",
        ),
        (
            format!(r#"{{"Statement":[{{{ok},"Condition":{{"Bool":"x"}}}}]}}"#),
            "not an object",
        ),
        (format!(r#"{{"Statement":[{{{ok},"Sid":"a b"}}]}}"#), "a b"),
        (
            format!(r#"{{"Statement":[{{{ok},"Sid":"a"}},{{{ok},"Sid":"a"}}]}}"#),
            "Sid \"a\"",
        ),
        (
            r#"{"Statement":[{"Effect":"allow","Action":"s3:*","Resource":"*"}]}"#.into(),
            "allow",
        ),
        (
            r#"{"Statement":[{"Effect":"Allow","Action":"GetObject","Resource":"*"}]}"#.into(),
            "GetObject",
        ),
        (
            r#"{"Statement":[{"Effect":"Allow","Action":[],"Resource":"*"}]}"#.into(),
            "empty",
        ),
        (
            r#"{"Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"b"}]}"#.into(),
            "\"b\"",
        ),
        (
            r#"{"Statement":[{"Effect":"Allow","Action":"s3:*"}]}"#.into(),
            "no Resource",
        ),
        (
            r#"{"Statement":[{"Action":"s3:*","Resource":"*"}]}"#.into(),
            "no Effect",
        ),
        (
            r#"{"Statement":[{"Effect":"Allow","Resource":"*"}]}"#.into(),
            "no Action",
        ),
        (
            format!(r#"{{"Statement":[{{{ok}}}],"Id":"{}"}}"#, "x".repeat(7000)),
            "the most is 6144",
        ),
    ];
    for (text, named) in cases {
        let refused = Policy::parse(text, Form::Identity, IDENTITY_BYTES_MAX).unwrap_err();
        assert!(
            refused.to_string().contains(named),
            "{refused} lacks {named}: {text:.200}"
        );
    }
    let principals: &[(&str, &str)] = &[
        (r#""alice""#, "neither"),
        (r#"{}"#, "neither"),
        (r#"{"AWS":"arn:aws:iam::p:user/*"}"#, "no wildcards"),
        (r#"{"AWS":"arn:aws:s3:::b"}"#, "arn:aws:s3:::b"),
        (r#"{"Galaxy":"x"}"#, "Galaxy"),
        (r#"{"AWS":[]}"#, "empty"),
    ];
    for (principal, named) in principals {
        let text = format!(
            r#"{{"Statement":[{{"Effect":"Allow","Principal":{principal},"Action":"s3:*","Resource":"arn:aws:s3:::b"}}]}}"#
        );
        let refused = Policy::parse(&text, Form::Resource, BUCKET_BYTES_MAX).unwrap_err();
        assert!(
            refused.to_string().contains(named),
            "{refused} lacks {named}"
        );
    }
    let open = r#"{"Statement":[{"Effect":"Allow","NotPrincipal":{"AWS":"p"},"Action":"s3:*","Resource":"arn:aws:s3:::b"}]}"#;
    assert!(Policy::parse(open, Form::Resource, BUCKET_BYTES_MAX).is_err());
    let trust = r#"{"Statement":[{"Effect":"Allow","Principal":{"AWS":"p"},"Action":"sts:AssumeRole","Resource":"*"}]}"#;
    assert!(Policy::parse(trust, Form::Trust, SESSION_BYTES_MAX).is_err());
}

#[test]
fn what_cannot_be_read_back_denies_everything() {
    let asker = user("p", "alice");
    let request = Request {
        action: "s3:GetObject",
        resource: "arn:aws:s3:::b/k",
        asker: &asker,
        context: &Context::default(),
    };
    assert_eq!(Policy::deny_all().judge(&request), Verdict::Deny(0));
}

/// A statement of the model: lists of exact names, no more.
#[derive(Clone, Debug)]
struct Simple {
    deny: bool,
    not_action: bool,
    actions: Vec<u8>,
    not_resource: bool,
    resources: Vec<u8>,
    when: Option<(bool, u8)>,
}

fn simple() -> impl Strategy<Value = Simple> {
    (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(0..3u8, 1..3),
        any::<bool>(),
        prop::collection::vec(0..3u8, 1..3),
        prop::option::of((any::<bool>(), 0..2u8)),
    )
        .prop_map(
            |(deny, not_action, actions, not_resource, resources, when)| Simple {
                deny,
                not_action,
                actions,
                not_resource,
                resources,
                when,
            },
        )
}

impl Simple {
    fn json(&self, principal: bool) -> String {
        let list = |items: &[u8], shape: &dyn Fn(u8) -> String| {
            let items: Vec<String> = items
                .iter()
                .map(|item| format!("{:?}", shape(*item)))
                .collect();
            format!("[{}]", items.join(","))
        };
        let not = |not: bool| if not { "Not" } else { "" };
        let when = self.when.map_or(String::new(), |(negative, value)| {
            let not = not(negative);
            format!(r#","Condition":{{"String{not}Equals":{{"x:k":"v{value}"}}}}"#)
        });
        format!(
            r#"{{"Effect":"{}"{},"{}Action":{},"{}Resource":{}{when}}}"#,
            if self.deny { "Deny" } else { "Allow" },
            if principal { r#","Principal":"*""# } else { "" },
            not(self.not_action),
            list(&self.actions, &|action| format!("s:A{action}")),
            not(self.not_resource),
            list(&self.resources, &|resource| format!(
                "arn:a:s:::r{resource}"
            )),
        )
    }

    fn applies(&self, action: u8, resource: u8, key: Option<u8>) -> bool {
        let condition = self.when.is_none_or(|(negative, value)| match key {
            None => negative,
            Some(key) => (key == value) != negative,
        });
        self.actions.contains(&action) != self.not_action
            && self.resources.contains(&resource) != self.not_resource
            && condition
    }
}

/// What the model says of one policy: (denies, allows).
fn says(policy: &[Simple], action: u8, resource: u8, key: Option<u8>) -> (bool, bool) {
    let mut applying = policy
        .iter()
        .filter(|statement| statement.applies(action, resource, key))
        .peekable();
    let any = applying.peek().is_some();
    let denies = applying.any(|statement| statement.deny);
    (denies, any && !denies)
}

fn text(policy: &[Simple], principal: bool) -> String {
    let statements: Vec<String> = policy.iter().map(|one| one.json(principal)).collect();
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{}]}}"#,
        statements.join(",")
    )
}

proptest! {
    #[test]
    fn every_decision_is_the_models(
        identity in prop::collection::vec(simple(), 1..4),
        bucket in prop::option::of(prop::collection::vec(simple(), 1..4)),
        session in prop::option::of(prop::collection::vec(simple(), 1..3)),
        own in any::<bool>(),
        anonymous in any::<bool>(),
        action in 0..3u8, resource in 0..3u8, key in prop::option::of(0..2u8),
    ) {
        let identity: &[Simple] = if anonymous { &[] } else { &identity };
        let of_identity = says(identity, action, resource, key);
        let of_bucket = bucket.as_ref().map_or((false, false), |policy| says(policy, action, resource, key));
        let of_session = session.as_ref().map_or((false, true), |policy| says(policy, action, resource, key));
        let denied = of_identity.0 || of_bucket.0 || of_session.0;
        let granted = if anonymous {
            of_bucket.1
        } else if own {
            of_identity.1 || of_bucket.1
        } else {
            of_identity.1 && of_bucket.1
        };
        let expected = !denied && granted && of_session.1;

        let own_text = text(identity, false);
        let bucket_text = bucket.as_ref().map(|policy| text(policy, true));
        let session_text = session.as_ref().map(|policy| text(policy, false));
        let identities = if anonymous { vec![] } else { vec![own_text.as_str()] };
        let case = Case {
            identity: identities,
            bucket: bucket_text.as_deref(),
            session: session_text.as_deref(),
            asker: if anonymous { Asker::default() } else { user("p", "alice") },
            own: own && !anonymous,
        };
        let mut keys = Vec::new();
        let value = key.map(|key| format!("v{key}"));
        if let Some(value) = &value {
            keys.push(("x:k", value.as_str()));
        }
        let may = case.may(&format!("s:A{action}"), &format!("arn:a:s:::r{resource}"), &keys);
        prop_assert_eq!(may, expected);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = Policy::parse(&text, Form::Resource, BUCKET_BYTES_MAX);
        let inside = format!(r#"{{"Statement":[{{"Effect":"Allow","Action":{text:?},"Resource":{text:?}}}]}}"#);
        let _ = Policy::parse(&inside, Form::Identity, BUCKET_BYTES_MAX);
    }
}
