//! Whoever is not a member as the catalog knows it reads nothing and says nothing, and hears why.

use super::raw::{Raw, member, refusal};
use super::{Cluster, Node, now_ms, quick};
use crate::peer::frame::{Kind, Preamble};
use crate::peer::identity::{ALPN_PEER, Identity, client};
use crate::peer::{
    Authority, ClusterId, EventKind, Incarnation, Lane, Passport, RefusalCode, Seal,
};
use crate::{Kind as Reason, NodeId};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// Nothing came through, nothing went out.
fn untouched(node: &Node) {
    for lane in Lane::ALL {
        node.heard(lane).look(|state| {
            assert!(state.messages.is_empty() && state.calls == 0, "{lane}");
        });
    }
}

#[test]
fn without_a_certificate_nobody_is_let_in() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let trust = Arc::clone(&one.identity.current().trust);
    let config = client(trust, None, ALPN_PEER).unwrap();
    let mut raw = Raw::with(&one, Arc::new(config));
    let identity = member(&cluster, 2);
    let hello = Raw::hello(&identity, 1, Lane::Control);
    let error = raw.greet(Preamble::OURS, &hello).unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let event = one.events.wait(EventKind::Stranger);
    assert!(event.text.contains("showed no certificate"), "{event:?}");
    untouched(&one);
}

#[test]
fn a_certificate_of_another_ca_is_refused_by_both_sides() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (one, two) = (ours.node(1), theirs.node(2));
    ours.roster.put(NodeId(2), 1, vec![two.address.clone()]);
    theirs.roster.put(NodeId(1), 1, vec![one.address.clone()]);
    let error = two.call(1, Lane::Control, b"let me in").unwrap_err();
    assert_eq!(error.kind(), Reason::Unavailable);
    assert!(
        error.chain().contains("not signed by this cluster's CA"),
        "{error:?}"
    );
    let event = two.events.wait(EventKind::Refused);
    assert_eq!(event.node, Some(NodeId(1)));
    // One that does not care whom it talks to gets no further.
    let outsider = client_trusting(&one, &two.identity);
    let mut raw = Raw::with(&one, outsider);
    let hello = Raw::hello(&two.identity, 1, Lane::Control);
    let error = raw.greet(Preamble::OURS, &hello).unwrap_err();
    assert!(error.to_string().contains("UnknownCA"), "{error}");
    let events = one.events.wait(EventKind::Stranger);
    assert!(events.text.contains("127.0.0.1"), "{events:?}");
    untouched(&one);
    untouched(&two);
}

/// A client with `identity`'s certificate that believes `node`.
fn client_trusting(node: &Node, identity: &Identity) -> Arc<rustls::ClientConfig> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let passport = identity.passport();
    let chain = vec![STANDARD.decode(&passport.certificate).unwrap().into()];
    let key = STANDARD.decode(&passport.key).unwrap().try_into().unwrap();
    let trust = Arc::clone(&node.identity.current().trust);
    Arc::new(client(trust, Some((chain, key)), ALPN_PEER).unwrap())
}

#[test]
fn an_expired_certificate_is_refused_and_one_within_the_clocks_slack_is_not() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let day = 24 * 3_600_000;
    let lasting = |ms: u64| {
        let lasts = Duration::from_millis(ms);
        let (node, disk) = (NodeId(2), Incarnation(2));
        let made = now_ms() - 10 * day;
        let authority = cluster.authority();
        Passport::issue_for(&authority, &cluster.seal, node, disk, made, lasts).unwrap()
    };
    let expired = Identity::in_memory(lasting(9 * day)).unwrap();
    cluster.roster.put(NodeId(2), 1, Vec::new());
    let hello = Raw::hello(&expired, 1, Lane::Control);
    let error = Raw::connect(&one, &expired)
        .greet(Preamble::OURS, &hello)
        .unwrap_err();
    assert!(error.to_string().contains("CertificateExpired"), "{error}");
    let event = one.events.wait(EventKind::Stranger);
    assert!(event.text.contains("has expired"), "{event:?}");
    untouched(&one);
    let members = Arc::clone(&cluster.roster) as _;
    let two = Node::start(expired.passport(), 1, members, quick(), None);
    let error = two.call(1, Lane::Control, b"let me in").unwrap_err();
    assert!(error.chain().contains("CertificateExpired"), "{error:?}");
    let event = two.events.wait(EventKind::RefusedThere);
    assert_eq!(event.node, Some(NodeId(1)));
    drop(two);
    let just = Identity::in_memory(lasting(10 * day - 1_800_000)).unwrap();
    let (kind, _) = Raw::connect(&one, &just)
        .greet(Preamble::OURS, &hello)
        .unwrap();
    assert_eq!(kind, Kind::Welcome);
}

#[test]
fn a_hello_that_is_not_borne_out_is_refused_in_words() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let two = member(&cluster, 2);
    cluster.roster.put(NodeId(2), 5, Vec::new());
    member(&cluster, 3);
    let good = Raw::hello(&two, 5, Lane::Raft);
    let mut cases = vec![];
    let mut case = |code, change: &dyn Fn(&mut crate::peer::hello::Hello)| {
        let mut hello = good.clone();
        change(&mut hello);
        cases.push((code, hello));
    };
    case(RefusalCode::WrongNode, &|hello| hello.node = NodeId(3));
    case(RefusalCode::ForeignCluster, &|hello| {
        hello.cluster = ClusterId::random();
    });
    case(RefusalCode::OtherIncarnation, &|hello| {
        hello.incarnation = Incarnation(99);
    });
    case(RefusalCode::OldBoot, &|hello| hello.boot = 4);
    case(RefusalCode::Lane, &|hello| hello.lane = 9);
    for (code, hello) in cases {
        let answer = Raw::connect(&one, &two)
            .greet(Preamble::OURS, &hello)
            .unwrap();
        let said = refusal(&answer);
        assert_eq!(said.code, code);
        assert!(!said.reason.is_empty());
    }
    let event = one.events.wait(EventKind::Refused);
    assert_eq!(event.node, Some(NodeId(2)));
    assert_eq!(event.code, Some(RefusalCode::WrongNode));
    untouched(&one);
    cluster.roster.remove(NodeId(2));
    let answer = Raw::connect(&one, &two)
        .greet(Preamble::OURS, &good)
        .unwrap();
    assert_eq!(refusal(&answer).code, RefusalCode::NotAMember);
}

#[test]
fn a_copied_data_directory_is_refused_and_both_sides_are_told() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let passport = cluster.passport(2);
    let roster = Arc::clone(&cluster.roster);
    cluster.roster.put(NodeId(2), 1, Vec::new());
    let start = |boot| {
        let members = Arc::clone(&roster) as _;
        Node::start(passport.clone(), boot, members, quick(), None)
    };
    let original = start(3);
    original.call(1, Lane::Replica, b"I am node 2").unwrap();
    // The copy was started from the same counter: the same boot, another process.
    let copy = start(3);
    let error = copy.call(1, Lane::Replica, b"so am I").unwrap_err();
    assert!(error.chain().contains("was copied"), "{error:?}");
    let event = copy.events.wait(EventKind::RefusedThere);
    assert_eq!(event.code, Some(RefusalCode::Copied));
    let event = one.events.wait(EventKind::Refused);
    assert_eq!(
        (event.node, event.code),
        (Some(NodeId(2)), Some(RefusalCode::Copied))
    );
    original.call(1, Lane::Replica, b"still here").unwrap();
    // Started once more, one of the two is the later boot, and the other is out.
    drop(copy);
    let copy = start(4);
    copy.call(1, Lane::Replica, b"newer").unwrap();
    one.heard(Lane::Replica)
        .wait("the old one's connection is over", |state| {
            !state.gone.is_empty()
        });
    let mut error = None;
    for _ in 0..100 {
        match original.call(1, Lane::Replica, b"old") {
            Err(found) if found.chain().contains("start number") => {
                error = Some(found);
                break;
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    assert!(error.is_some(), "the old start is refused");
    let event = original.events.wait(EventKind::RefusedThere);
    assert_eq!(event.code, Some(RefusalCode::OldBoot));
    copy.call(1, Lane::Replica, b"newer still").unwrap();
}

#[test]
fn two_nodes_with_one_id_do_not_talk_to_each_other() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let passport = cluster.passport(1);
    let twin = Identity::in_memory(passport).unwrap();
    let hello = Raw::hello(&twin, 9, Lane::Control);
    let answer = Raw::connect(&one, &twin)
        .greet(Preamble::OURS, &hello)
        .unwrap();
    assert_eq!(refusal(&answer).code, RefusalCode::OwnId);
    // And a dialler that finds another node than it called says so to it.
    let two = cluster.node(2);
    cluster.roster.put(NodeId(3), 1, vec![two.address.clone()]);
    let error = one.call(3, Lane::Control, b"are you node 3?").unwrap_err();
    assert!(
        error
            .chain()
            .contains("node-2 answers at the address of node-3"),
        "{error:?}"
    );
    let wrong = RefusalCode::WrongNode;
    one.events.wait_for(EventKind::Refused, wrong);
    two.events.wait_for(EventKind::RefusedThere, wrong);
    untouched(&two);
}

#[test]
fn a_ca_that_calls_itself_the_same_is_not_the_same() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    // Same cluster id, same names, another key.
    let id = cluster.authority().cluster();
    let forged = Authority::found(id, &Seal::random(), now_ms());
    assert!(forged.is_ok());
    let seal = Seal::random();
    let forged = Authority::found(id, &seal, now_ms()).unwrap();
    let passport = Passport::issue(&forged, &seal, NodeId(2), Incarnation(2), now_ms()).unwrap();
    cluster.roster.put(NodeId(2), 1, Vec::new());
    let forged = Identity::in_memory(passport).unwrap();
    let mut raw = Raw::with(&one, client_trusting(&one, &forged));
    let hello = Raw::hello(&forged, 1, Lane::Control);
    assert!(raw.greet(Preamble::OURS, &hello).is_err());
    let mut rest = Vec::new();
    let _ = raw.0.read_to_end(&mut rest);
    assert!(rest.is_empty(), "nothing is read by a stranger");
    one.events.wait(EventKind::Stranger);
    untouched(&one);
}
