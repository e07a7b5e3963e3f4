//! Who may keep the catalog, and one node made the whole group.

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn voters(catalog: &Catalog) -> Vec<u64> {
    let members = catalog.members().unwrap();
    members
        .iter()
        .filter(|member| member.votes)
        .map(|member| member.node)
        .collect()
}

#[test]
fn what_was_there_before_the_group_comes_to_every_member() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(directory.path()).unwrap();
    for n in 0..500 {
        put(&catalog, &format!("t/{n}"), "x").unwrap();
    }
    let boot = catalog.boot();
    catalog.close();
    drop(catalog);
    let seat = found(directory.path(), incarnation()).unwrap();
    assert_eq!(seat.node, 1);
    let refused = found(directory.path(), incarnation()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert_eq!(
        Catalog::open(directory.path()).err().unwrap().kind(),
        Kind::Conflict
    );
    let mut cluster = Cluster {
        board: Arc::default(),
        settings: settings(),
        directories: BTreeMap::from([(1, directory)]),
    };
    let first = cluster.start(1);
    assert!(first.boot() > boot);
    let node = cluster.enlist();
    first.member_add(node, PATIENCE).unwrap();
    let second = cluster.node(node);
    second.catch_up().unwrap();
    assert_eq!(second.count(b"t/").unwrap(), 500);
    assert_eq!(rows(&second), rows(&first));
    assert_eq!(second.boot(), 1, "boots are a node's own");
}

#[test]
fn members_come_go_and_are_replaced_and_no_id_comes_back() {
    let mut cluster = Cluster::of(3);
    put(&cluster.any(), "t/a", "1").unwrap();
    let node = cluster.enlist();
    cluster
        .node(cluster.follower())
        .member_add(node, PATIENCE)
        .unwrap();
    assert_eq!(voters(&cluster.any()), [1, 2, 3, 4]);
    let gone = cluster.follower();
    cluster.any().member_remove(gone, PATIENCE).unwrap();
    // Again: nothing more happens.
    let host = cluster.node(cluster.leader());
    host.member_remove(gone, PATIENCE).unwrap();
    assert!(!voters(&host).contains(&gone));
    assert_eq!(
        host.member_add(gone, PATIENCE).unwrap_err().kind(),
        Kind::Conflict
    );
    assert_eq!(
        host.member_add(77, PATIENCE).unwrap_err().kind(),
        Kind::NotFound
    );
    cluster.stop(gone);
    // A dead one gives way to a new one in one step.
    let dead = cluster.follower();
    cluster.stop(dead);
    let fresh = cluster.enlist();
    assert_eq!(fresh, 5);
    let host = cluster.node(cluster.leader());
    host.member_replace(dead, fresh, PATIENCE).unwrap();
    assert!(voters(&host).contains(&fresh) && !voters(&host).contains(&dead));
    assert_eq!(
        get(&cluster.node(fresh), "t/a").unwrap().as_deref(),
        Some("1")
    );
    // The leader itself may go.
    let leader = cluster.leader();
    cluster
        .node(cluster.follower())
        .member_remove(leader, PATIENCE)
        .unwrap();
    cluster.stop(leader);
    // Until the others have a leader, a change may be refused.
    while let Err(cause) = put(&cluster.any(), "t/a", "2") {
        assert_eq!(cause.kind(), Kind::Unavailable);
    }
    assert_eq!(cluster.enlist(), 6);
}

#[test]
fn the_last_copy_and_a_needed_quorum_are_not_removed() {
    let mut cluster = Cluster::of(1);
    let refused = cluster.any().member_remove(1, PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.to_string().contains("last copy"), "{refused}");
    for _ in 0..2 {
        let node = cluster.enlist();
        cluster.any().member_add(node, PATIENCE).unwrap();
    }
    let leader = cluster.leader();
    let followers: Vec<u64> = cluster
        .nodes()
        .into_iter()
        .filter(|node| *node != leader)
        .collect();
    cluster.stop(followers[0]);
    let host = cluster.node(leader);
    let refused = host.member_remove(followers[1], PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.to_string().contains("do not answer"), "{refused}");
    assert_eq!(voters(&host), [1, 2, 3]);
    host.member_remove(followers[0], PATIENCE).unwrap();
    assert_eq!(voters(&host).len(), 2);
    put(&host, "t/a", "1").unwrap();
}

#[test]
fn two_directories_with_one_id_are_refused() {
    let mut cluster = Cluster::of(1);
    let host = cluster.any();
    let node = cluster.enlist();
    let stranger = Seat {
        node,
        incarnation: "another directory".into(),
        ..cluster.node(node).group().unwrap().seat().clone()
    };
    // Another directory listens where the invited one should.
    cluster.stop(node);
    let copy = tempfile::tempdir().unwrap();
    enlist(copy.path(), &stranger).unwrap();
    let kept = cluster.directories.insert(node, copy).unwrap();
    cluster.start(node);
    let refused = host.member_add(node, PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(
        refused.to_string().contains("two nodes with one id"),
        "{refused}"
    );
    cluster.stop(node);
    cluster.directories.insert(node, kept);
    cluster.start(node);
    host.member_add(node, PATIENCE).unwrap();
    // A full directory is not where a node joins.
    let full = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(full.path()).unwrap();
    put(&catalog, "t/a", "x").unwrap();
    catalog.close();
    drop(catalog);
    assert_eq!(
        enlist(full.path(), &stranger).unwrap_err().kind(),
        Kind::Conflict
    );
}

#[test]
fn one_node_made_the_whole_group_keeps_what_it_has_and_knows_the_others_no_more() {
    let mut cluster = Cluster::of(3);
    put(&cluster.any(), "t/a", "1").unwrap();
    let stays = cluster.follower();
    let nodes = cluster.nodes();
    let left: Vec<u64> = nodes
        .iter()
        .copied()
        .filter(|node| *node != stays)
        .collect();
    for node in &nodes {
        cluster.stop(*node);
    }
    let told = recover(&cluster.path(stays), true).unwrap();
    assert_eq!(
        (told.node, &told.left_behind, told.generation),
        (stays, &left, 1)
    );
    assert!(told.told().contains("is lost"), "{}", told.told());
    assert_eq!(recover(&cluster.path(stays), false).unwrap(), told);
    let catalog = cluster.start(stays);
    assert_eq!(get(&catalog, "t/a").unwrap().as_deref(), Some("1"));
    assert_eq!(catalog.recovery_generation().unwrap(), 1);
    assert_eq!(voters(&catalog), [stays]);
    put(&catalog, "t/a", "2").unwrap();
    // The others come back, a quorum of what was; they lead each other, and do not reach this one.
    for node in &left {
        cluster.start(*node);
    }
    put(&cluster.node(left[0]), "t/b", "old").unwrap();
    assert_eq!(get(&catalog, "t/b").unwrap(), None);
    let line = Lines {
        group: cluster.node(left[0]).group().unwrap().seat().group,
        wire: Arc::new(Port {
            board: cluster.board.clone(),
            node: left[0],
        }),
    };
    let asked = wait(&catalog.group().unwrap().shared.handle, async move {
        line.ask(stays, Verb::Introduce, b"", Duration::from_secs(5))
            .await
    });
    let refused = asked.unwrap().unwrap().unwrap_err();
    assert!(
        refused.text.contains("must be emptied and join again"),
        "{}",
        refused.text
    );
    for node in &left {
        cluster.stop(*node);
    }
    // Emptied, they join with new ids.
    let node = cluster.enlist();
    catalog.member_add(node, PATIENCE).unwrap();
    assert_eq!(
        get(&cluster.node(node), "t/a").unwrap().as_deref(),
        Some("2")
    );
    assert_eq!(cluster.node(node).recovery_generation().unwrap(), 1);
}

#[test]
fn garbage_from_the_wire_is_refused_in_words() {
    let cluster = Cluster::of(1);
    let catalog = cluster.any();
    let group = catalog.group().unwrap();
    let ours = group.seat().group;
    let mut whole = vec![
        Bytes::new(),
        Bytes::from_static(b"\x00"),
        Bytes::from(vec![1; 25]),
    ];
    for verb in 0..=255 {
        let mut request = codec::encode_request(ours, Verb::Append, b"\xff\xff\xff\xff{}").to_vec();
        request[1] = verb;
        whole.push(request.into());
        let mut empty = codec::encode_request(ours, Verb::Append, b"").to_vec();
        empty[1] = verb;
        // Asking for the turn, a read index, an introduction takes no body.
        if ![5, 9, 11].contains(&verb) {
            whole.push(empty.into());
        }
    }
    let mut newer = codec::encode_request(ours, Verb::Introduce, b"").to_vec();
    newer[0] = 2;
    whole.push(newer.into());
    for request in whole {
        let verb = request.get(1).copied();
        if request.len() > 26 && [5, 9, 11].map(Some).contains(&verb) {
            continue;
        }
        let answer = group.answer(2, request.clone());
        let answer = wait(&group.shared.handle, answer).unwrap().unwrap();
        assert!(
            codec::decode_reply(answer).unwrap().is_err(),
            "{request:?} was taken"
        );
    }
    put(&catalog, "t/a", "1").unwrap();
}
