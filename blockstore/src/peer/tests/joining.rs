//! A node with a good token becomes a member; nobody else does.

use super::{Cluster, LONG, Node, Roster, now_ms, quick};
use crate::peer::frame::{Kind, Preamble};
use crate::peer::hello::Refusal;
use crate::peer::identity::{ALPN_JOIN, client};
use crate::peer::join::{join, new_key};
use crate::peer::{
    Admission, Authority, EventKind, Gate, Identity, Incarnation, Joiner, Lane, MemberAddress,
    RefusalCode, Shown, Spent, Token, TokenRow,
};
use crate::{Kind as Reason, NodeId};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// What the catalog does, in memory.
struct Ledger {
    authority: Mutex<Authority>,
    roster: Arc<Roster>,
    rows: Mutex<HashMap<String, Vec<u8>>>,
    next: Mutex<u64>,
    quorum: Mutex<bool>,
}

impl Gate for Ledger {
    fn admit(
        &self,
        shown: Shown,
        joiner: Joiner,
    ) -> BoxFuture<'static, Result<Admission, Refusal>> {
        std::future::ready(self.admitted(&shown, joiner)).boxed()
    }
}

impl Ledger {
    fn admitted(&self, shown: &Shown, joiner: Joiner) -> Result<Admission, Refusal> {
        if !*self.quorum.lock().unwrap() {
            let code = RefusalCode::Unavailable;
            return Err(Refusal::new(code, "the catalog has no quorum: try again"));
        }
        let authority = self.authority.lock().unwrap().clone();
        let mut rows = self.rows.lock().unwrap();
        let row = rows
            .get(&shown.id)
            .map(|row| TokenRow::decode(row).unwrap());
        let node = match TokenRow::spend(row, authority.cluster(), shown, now_ms())? {
            Spent::Again(node) => node,
            Spent::New(new) => {
                let mut next = self.next.lock().unwrap();
                let node = NodeId(*next);
                *next += 1;
                rows.insert(shown.id.clone(), new.by(node).encode().unwrap());
                let mut members = self.roster.0.lock().unwrap();
                let member = crate::peer::Member {
                    addresses: joiner.addresses,
                    incarnation: joiner.incarnation,
                    boot: 1,
                };
                members.insert(node, member);
                node
            }
        };
        let members = self.roster.0.lock().unwrap();
        let others = members.iter().filter(|(other, _)| **other != node);
        let others = others.map(|(node, member)| MemberAddress {
            node: *node,
            incarnation: member.incarnation,
            boot: member.boot,
            addresses: member.addresses.clone(),
        });
        Ok(Admission {
            node,
            authority,
            members: others.collect(),
        })
    }

    fn token(&self, address: &str, lasts: Duration, uses: u32, made_ms: u64) -> Token {
        let authority = self.authority.lock().unwrap().clone();
        let addresses = vec![address.to_owned()];
        let (token, row) = Token::make(&authority, addresses, lasts, uses, made_ms).unwrap();
        let row_bytes = row.encode().unwrap();
        self.rows.lock().unwrap().insert(row.id.clone(), row_bytes);
        // As it was printed and typed in again.
        token.to_string().parse().unwrap()
    }
}

fn founded() -> (Cluster, Arc<Ledger>, Node) {
    let cluster = Cluster::new();
    let ledger = Arc::new(Ledger {
        authority: Mutex::new(cluster.authority()),
        roster: Arc::clone(&cluster.roster),
        rows: Mutex::default(),
        next: Mutex::new(2),
        quorum: Mutex::new(true),
    });
    let one = cluster.start(1, 1, quick(), Some(Arc::clone(&ledger) as _));
    (cluster, ledger, one)
}

fn joiner(disk: u64) -> Joiner {
    Joiner {
        incarnation: Incarnation(disk),
        addresses: vec!["127.0.0.1:1".to_owned()],
    }
}

#[test]
fn a_node_with_a_token_joins_and_talks() {
    let (cluster, ledger, one) = founded();
    let token = ledger.token(&one.address, HOUR, 1, now_ms());
    let key = new_key().unwrap();
    let joined = join(&token, &joiner(70), &key, LONG).unwrap();
    assert_eq!(joined.passport.node, NodeId(2));
    assert_eq!(joined.members.len(), 1);
    assert_eq!(
        joined.members[0].addresses,
        std::slice::from_ref(&one.address)
    );
    let event = one.events.wait(EventKind::Joined);
    assert_eq!(event.node, Some(NodeId(2)));
    // The answer was lost: the same disk and key are the same node.
    let again = join(&token, &joiner(70), &key, LONG).unwrap();
    assert_eq!(again.passport.node, NodeId(2));
    // Another one is refused: the token is spent.
    let error = join(&token, &joiner(71), &new_key().unwrap(), LONG).unwrap_err();
    assert_eq!(error.kind(), Reason::Denied);
    assert!(error.chain().contains("spent"), "{error:?}");
    one.events
        .wait_for(EventKind::JoinRefused, RefusalCode::TokenSpent);
    let data = tempfile::tempdir().unwrap();
    Identity::install(data.path(), joined.passport).unwrap();
    let passport = Identity::load(data.path()).unwrap().unwrap().passport();
    let members = Arc::clone(&cluster.roster) as _;
    let two = Node::start(passport, 1, members, quick(), None);
    two.call(1, Lane::Control, b"I am in").unwrap();
    // It holds the seal: it can renew its certificate without asking anybody.
    let later = now_ms() + 70 * 24 * 3_600_000;
    assert!(two.identity.follow(&cluster.authority(), later).unwrap());
}

#[test]
fn expired_unknown_and_foreign_tokens_let_nobody_in() {
    let (_cluster, ledger, one) = founded();
    let refused = |token: &Token, address: &str| {
        let token = Token {
            addresses: vec![address.to_owned()],
            ..token.clone()
        };
        join(&token, &joiner(70), &new_key().unwrap(), LONG).unwrap_err()
    };
    let old = ledger.token(&one.address, HOUR, 1, now_ms() - 2 * 3_600_000);
    let error = refused(&old, &one.address);
    assert_eq!(error.kind(), Reason::Denied);
    assert!(error.chain().contains("expired"), "{error:?}");
    one.events
        .wait_for(EventKind::JoinRefused, RefusalCode::TokenExpired);
    let good = ledger.token(&one.address, HOUR, 1, now_ms());
    let guessed = Token {
        secret: [0; 16],
        ..good.clone()
    };
    let error = refused(&guessed, &one.address);
    assert_eq!(error.kind(), Reason::Denied);
    assert!(error.chain().contains("unknown"), "{error:?}");
    // The address of another cluster: the joiner tells it nothing.
    let (_other, _, stranger) = founded();
    let error = refused(&good, &stranger.address);
    assert_eq!(error.kind(), Reason::Denied);
    assert!(
        error.chain().contains("its CA is not the token's"),
        "{error:?}"
    );
    // Another cluster that pretends: the same CA key cannot be had, so a changed token is all there is.
    let renamed = Token {
        cluster: crate::peer::ClusterId::random(),
        ..good.clone()
    };
    let error = refused(&renamed, &one.address);
    assert_eq!(error.kind(), Reason::Denied);
    // Nobody joined, and the token is good still.
    assert_eq!(ledger.roster.0.lock().unwrap().len(), 1);
    join(&good, &joiner(70), &new_key().unwrap(), LONG).unwrap();
}

#[test]
fn a_join_without_a_quorum_changes_nothing_and_says_so() {
    let (_cluster, ledger, one) = founded();
    let token = ledger.token(&one.address, HOUR, 1, now_ms());
    *ledger.quorum.lock().unwrap() = false;
    let key = new_key().unwrap();
    let error = join(&token, &joiner(70), &key, LONG).unwrap_err();
    assert_eq!(error.kind(), Reason::Unavailable);
    assert!(error.chain().contains("quorum"), "{error:?}");
    assert_eq!(ledger.roster.0.lock().unwrap().len(), 1);
    *ledger.quorum.lock().unwrap() = true;
    join(&token, &joiner(70), &key, LONG).unwrap();
    // Nobody listens there.
    let nowhere = Token {
        addresses: vec!["127.0.0.1:1".to_owned()],
        ..token
    };
    let error = join(&nowhere, &joiner(70), &key, LONG).unwrap_err();
    assert_eq!(error.kind(), Reason::Unavailable);
}

#[test]
fn garbage_in_a_join_is_refused_before_the_token_is_looked_at() {
    let (cluster, ledger, one) = founded();
    let token = ledger.token(&one.address, HOUR, 1, now_ms());
    let trust = Arc::clone(&one.identity.current().trust);
    let config = Arc::new(client(trust, None, ALPN_JOIN).unwrap());
    let ask = |body: &[u8]| {
        let mut raw = super::raw::Raw::with(&one, Arc::clone(&config));
        use std::io::Write;
        raw.0.write_all(&Preamble::OURS.encode()).unwrap();
        raw.say(Lane::Control, Kind::Request, 1, body).unwrap();
        let mut preamble = [0; 12];
        std::io::Read::read_exact(&mut raw.0, &mut preamble).unwrap();
        super::raw::refusal(&raw.next().unwrap())
    };
    let shown = token.shown(Incarnation(7));
    for body in [
        b"".to_vec(),
        b"{}".to_vec(),
        question(&shown, "not base64", &["127.0.0.1:1"]),
        question(&shown, "AAAA", &["127.0.0.1:1"]),
        question(&shown, "AAAA", &[]),
        question(&shown, "AAAA", &["no address"]),
    ] {
        assert_eq!(ask(&body).code, RefusalCode::Malformed);
    }
    assert_eq!(ledger.roster.0.lock().unwrap().len(), 1);
    join(&token, &joiner(70), &new_key().unwrap(), LONG).unwrap();
    // A node without a gate lets nobody join, and says whom to ask.
    let three = cluster.node(3);
    let elsewhere = ledger.token(&three.address, HOUR, 1, now_ms());
    let error = join(&elsewhere, &joiner(72), &new_key().unwrap(), LONG).unwrap_err();
    assert_eq!(error.kind(), Reason::Unavailable);
    assert!(error.chain().contains("ask another"), "{error:?}");
}

#[test]
fn a_token_ends_with_the_ca_that_it_was_made_for() {
    let (cluster, ledger, one) = founded();
    let token = ledger.token(&one.address, HOUR, 1, now_ms());
    let both = cluster.authority().rotate(&cluster.seal, now_ms()).unwrap();
    one.identity.follow(&both, now_ms()).unwrap();
    let members = [(NodeId(1), Some(one.identity.standing()))];
    let crate::peer::Advance::Change(signs) =
        both.advance(&cluster.seal, &members, now_ms()).unwrap()
    else {
        panic!("everybody trusts it");
    };
    one.identity.follow(&signs, now_ms()).unwrap();
    *ledger.authority.lock().unwrap() = signs;
    let error = join(&token, &joiner(70), &new_key().unwrap(), LONG).unwrap_err();
    assert_eq!(error.kind(), Reason::Denied);
    assert!(error.chain().contains("make a new token"), "{error:?}");
    let fresh = ledger.token(&one.address, HOUR, 1, now_ms());
    join(&fresh, &joiner(70), &new_key().unwrap(), LONG).unwrap();
}

fn question(shown: &Shown, request: &str, addresses: &[&str]) -> Vec<u8> {
    let question = serde_json::json!({
        "shown": shown, "request": request, "addresses": addresses,
    });
    serde_json::to_vec(&question).unwrap()
}
