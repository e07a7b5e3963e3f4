//! Tokens of a real OpenID provider: whom they let in, the role's trust says, and nothing else.

use super::client::{Answer, Ask, Client, Way, encoded};
use super::iam;
use super::steps::Site;
use super::table;
use crate::tools::{tool, tools};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

const ACTION: &str = "sts:AssumeRoleWithWebIdentity";

/// The provider of `tests/login`, ended by its process id.
struct Issuer {
    child: Child,
    url: String,
    /// It would end if nobody held the other side of its output.
    _output: BufReader<ChildStdout>,
}

impl Issuer {
    fn start() -> Self {
        tool("node_modules/oidc-provider");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/login/issuer.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .args(["0", "one"])
            .env("NODE_HOME", tools())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut url).unwrap();
        Self {
            child,
            url: url.trim().to_owned(),
            _output: output,
        }
    }

    fn host(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// A new token of a member of `vo.example.org`.
    fn token(&self, site: &Site) -> String {
        let entitled = "urn:mace:egi.eu:group:vo.example.org:role=member#aai.egi.eu";
        let claims = json!({"sub": "alice", "eduperson_entitlement": [entitled]});
        let ask = Ask::new(Way::Open, "GET", "/test/sign").query("claims", &claims.to_string());
        Client::new(self.host())
            .send(&site.walker, &ask, "walk")
            .body
    }

    fn trust(&self, group: &str) -> Value {
        let groups = format!("{}:groups", self.host());
        json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Action": ACTION, "Principal": {"Federated": self.url},
            "Condition": {"ForAnyValue:StringEquals": {groups: group}},
        }]})
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn walk(site: &Site) {
    let operation = "AssumeRoleWithWebIdentity";
    let rows = table::of("web identity");
    assert_eq!(rows.keys().collect::<Vec<_>>(), [operation]);
    assert_eq!(rows[operation][0].action, ACTION);
    let issuer = Issuer::start();
    let known = json!({"name": "idp", "url": issuer.url, "audiences": ["infall"]});
    site.api("post", "/issuers", &known);
    for (role, group) in [
        ("inside", "vo.example.org#member"),
        ("outside", "vo.example.org#admin"),
    ] {
        let body = json!({"name": role, "trust": issuer.trust(group)});
        site.api("post", "/roles", &body);
    }
    let assume = |role: &str, token: &str, agent: &str| -> Answer {
        let arn = format!("arn:aws:iam::root:role/{role}");
        let fields = [
            ("RoleArn", arn.as_str()),
            ("RoleSessionName", "walk"),
            ("WebIdentityToken", token),
        ];
        let ask = Ask::call("sts", operation, &fields).way(Way::Open);
        site.client.send(&site.walker, &ask, agent)
    };
    // What the walker may counts for nothing here: it is the token's bearer who asks.
    site.with_all(|| {
        let token = issuer.token(site);
        let answer = assume("outside", &token, "web/denied");
        assert!(iam::refused(&answer), "{answer:?}");
        let answer = assume("none", &issuer.token(site), "web/missing");
        assert!(iam::refused(&answer), "{answer:?}");
    });
    let token = issuer.token(site);
    let answer = assume("inside", &token, "web/allowed");
    assert_eq!(answer.status, 200, "{answer:?}");
    for (agent, kind) in [
        ("web/denied", "access.denied"),
        ("web/missing", "access.denied"),
        ("web/allowed", "access.allowed"),
    ] {
        let found = site.events().into_iter().any(|event| {
            let detail = event["detail"].as_str().unwrap_or_default();
            event["kind"] == kind && detail.starts_with(ACTION) && detail.contains(agent)
        });
        assert!(found, "the journal has no {kind} of {agent}");
    }
    let log = site.server.log();
    assert!(
        !log.contains(&token) && !log.contains(&encoded(&token)),
        "a token is in the log"
    );
}
