//! Several clients at once.

use crate::lab::{OBJECT, Server, get, put};
use serde_json::json;

#[test]
fn metadata_items_of_many_writers_are_all_kept_or_refused() {
    let server = Server::start();
    server.expect(put("a bucket", "/cdmi/box/").is(201));
    server.expect(
        put("an object", "/cdmi/box/k")
            .json(OBJECT, &json!({"value": "x"}))
            .is(201),
    );
    let kept: Vec<String> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let server = &server;
                scope.spawn(move || {
                    let name = format!("item{writer}");
                    let row = put("an item", &format!("/cdmi/box/k?metadata:{name}"))
                        .json(OBJECT, &json!({"metadata": {&name: "there"}}));
                    let status = server.ask(&row).status.as_u16();
                    assert!([204, 409].contains(&status), "{status}");
                    (status == 204).then_some(name)
                })
            })
            .collect();
        writers
            .into_iter()
            .filter_map(|writer| writer.join().unwrap())
            .collect()
    });
    assert!(!kept.is_empty());
    let shown = server
        .expect(get("the items", "/cdmi/box/k?metadata:item").accept(OBJECT))
        .json();
    let shown = shown["metadata"].as_object().unwrap();
    for name in kept {
        assert!(shown.contains_key(&name), "{name} was answered and is lost");
    }
}

#[test]
fn parts_of_many_writers_are_all_there_or_refused() {
    let server = Server::start();
    server.expect(put("a bucket", "/cdmi/box/").is(201));
    server.expect(
        put("an object", "/cdmi/box/k")
            .bytes("application/x", vec![0; 400_000])
            .is(201),
    );
    let done: Vec<u8> = std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=8_u8)
            .map(|writer| {
                let server = &server;
                scope.spawn(move || {
                    let at = usize::from(writer) * 40_000;
                    let path = format!("/cdmi/box/k?value:{at}-{}", at + 9_999);
                    let row = put("a part", &path).bytes("application/x", vec![writer; 10_000]);
                    let status = server.ask(&row).status.as_u16();
                    assert!([204, 409].contains(&status), "{status}");
                    (status == 204).then_some(writer)
                })
            })
            .collect();
        writers
            .into_iter()
            .filter_map(|writer| writer.join().unwrap())
            .collect()
    });
    assert!(!done.is_empty());
    let bytes = server.expect(get("the value", "/cdmi/box/k")).body;
    let mut expected = vec![0; 400_000];
    for writer in done {
        let at = usize::from(writer) * 40_000;
        expected[at..at + 10_000].fill(writer);
    }
    assert!(
        bytes == expected,
        "exactly the parts that were answered are there"
    );
}

#[test]
fn of_many_creators_one_creates() {
    let server = Server::start();
    server.expect(put("a bucket", "/cdmi/box/").is(201));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let server = &server;
                scope.spawn(move || {
                    let row = put("made", "/cdmi/box/k")
                        .says("if-none-match", "*")
                        .json(OBJECT, &json!({"value": writer.to_string()}));
                    server.ask(&row).status.as_u16()
                })
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    assert_eq!(
        statuses.iter().filter(|status| **status == 201).count(),
        1,
        "{statuses:?}"
    );
    assert!(
        statuses.iter().all(|status| [201, 412].contains(status)),
        "{statuses:?}"
    );
}
