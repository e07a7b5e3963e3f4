//! Containers in CDMI: CDMI 1.1.1, clause 9.

use crate::lab::{CONTAINER, OBJECT, Server, VERSION, delete, get, put};
use serde_json::json;

#[test]
fn a_container_is_made_read_changed_and_deleted_as_the_tables_say() {
    let server = Server::start();
    server.walk(vec![
        get("the root lists containers and is one", "/cdmi/")
            .accept(CONTAINER)
            .shows(json!({"objectType": CONTAINER, "objectName": "/", "objectID": "…", "parentURI": null, "children": ["cdmi_volumes/"]})),
        put("9.2: a first-level container is made", "/cdmi/box/")
            .says(VERSION, "1.1.1")
            .accept(CONTAINER)
            .json(CONTAINER, &json!({"metadata": {"purpose": "tests", "Case": "kept", "list": ["a", {"b": "c"}]}}))
            .is(201)
            .with("content-type", CONTAINER)
            .with("location", "/cdmi/box/")
            .shows(json!({
                "objectType": CONTAINER, "objectID": "…", "objectName": "box/", "parentURI": "/cdmi/", "parentID": "…",
                "capabilitiesURI": "/cdmi/cdmi_capabilities/container/bucket/", "completionStatus": "Complete",
                "metadata": {"purpose": "tests", "Case": "kept", "list": ["a", {"b": "c"}], "cdmi_ctime": "…", "cdmi_owner": "root"},
                "childrenrange": "", "children": [], "domainURI": null,
            })),
        put("9.2: a deeper one", "/cdmi/box/deep/")
            .json(CONTAINER, &json!({"metadata": {"a": "1"}}))
            .is(201)
            .shows(json!({"objectName": "deep/", "parentURI": "/cdmi/box/", "metadata": {"a": "1"}, "capabilitiesURI": "/cdmi/cdmi_capabilities/container/"})),
        put("9.3: by plain HTTP", "/cdmi/box/plain/").is(201),
        put("9.2: without its parent it is 404", "/cdmi/box/no/where/").json(CONTAINER, &json!({})).is(404),
        put("9.1: without its slash it is 400", "/cdmi/box/slashless").json(CONTAINER, &json!({})).is(400),
        put("a bucket's name that S3 refuses is 400", "/cdmi/Box/").json(CONTAINER, &json!({})).is(400),
        put("a name that leads to another door is 400", "/cdmi/api/").json(CONTAINER, &json!({})).is(400),
        put("a reserved name is 400", "/cdmi/box/cdmi_own/").json(CONTAINER, &json!({})).is(400),
        put("9.3: a container has no value", "/cdmi/box/value/").bytes("text/plain", *b"x").is(400),
        put("an object beside it", "/cdmi/box/k").json(OBJECT, &json!({"value": "x"})).is(201),
        put("and one below", "/cdmi/box/deep/k").json(OBJECT, &json!({"value": "x"})).is(201),
        get("9.4: read with its children", "/cdmi/box/")
            .accept(CONTAINER)
            .shows(json!({"childrenrange": "0-2", "children": ["deep/", "k", "plain/"], "metadata": {"purpose": "tests"}})),
        get("9.4.1: a range of children", "/cdmi/box/?childrenrange;children:1-2")
            .accept(CONTAINER)
            .shows(json!({"childrenrange": "1-2", "children": ["k", "plain/"], "metadata": null})),
        get("9.4.1: a range behind the end is empty", "/cdmi/box/?children:7-9")
            .accept(CONTAINER)
            .shows(json!({"childrenrange": "", "children": []})),
        get("9.4.1: metadata by the beginning of its names", "/cdmi/box/?metadata:pur")
            .accept(CONTAINER)
            .shows(json!({"metadata": {"purpose": "tests", "Case": null}, "children": null})),
        get("9.1: without its slash it has moved there", "/cdmi/box").is(301).with("location", "/cdmi/box/"),
        get("9.1: a deeper one too, with its query", "/cdmi/box/deep?children").accept(CONTAINER).is(301).with("location", "/cdmi/box/deep/?children"),
        get("9.4: a data object's type alone is 406", "/cdmi/box/").accept(OBJECT).is(406),
        put("9.6: new metadata replaces all", "/cdmi/box/").json(CONTAINER, &json!({"metadata": {"new": "1"}})).is(204),
        get("so it is", "/cdmi/box/?metadata").accept(CONTAINER).shows(json!({"metadata": {"new": "1", "purpose": null, "list": null}})),
        put("9.6.1: one item by its name", "/cdmi/box/deep/?metadata:b").json(CONTAINER, &json!({"metadata": {"b": "2"}})).is(204),
        get("so it is", "/cdmi/box/deep/?metadata;children").accept(CONTAINER).shows(json!({"metadata": {"a": "1", "b": "2"}, "children": ["k"]})),
        put("exports are not set", "/cdmi/box/").json(CONTAINER, &json!({"exports": {"Network/NFSv4": {}}})).is(403),
        put("a value is no member of a container", "/cdmi/box/").json(CONTAINER, &json!({"value": "x"})).is(400),
        delete("9.7: deleted with what it holds", "/cdmi/box/deep/").is(204),
        get("it is gone", "/cdmi/box/deep/").accept(CONTAINER).is(404),
        get("with what it held", "/cdmi/box/deep/k").is(404),
        delete("9.7: what is not there is 404", "/cdmi/box/deep/").is(404),
        delete("9.7: the first level too", "/cdmi/box/").is(204),
        get("all of it is gone", "/cdmi/").accept(CONTAINER).shows(json!({"children": ["cdmi_volumes/"]})),
        delete("the root stays", "/cdmi/").is(403),
    ]);
}

#[test]
fn a_container_that_is_only_a_prefix_has_an_id_and_takes_metadata() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("a container", "/cdmi/box/a/").is(201),
        put("an object in it", "/cdmi/box/a/k")
            .bytes("text/plain", *b"x")
            .is(201),
    ]);
    // Without its marker it is what S3 clients make: a prefix of keys.
    let who = blockstore::Who::server();
    server
        .store
        .object_remove(
            &who,
            "box",
            "a/",
            &blockstore::object::Precondition::default(),
        )
        .unwrap();
    let id = server.id("/cdmi/box/a/");
    server.walk(vec![
        get("it is a container all the same", "/cdmi/box/a/")
            .accept(CONTAINER)
            .shows(json!({"children": ["k"], "objectID": id})),
        get("by its id too", &format!("/cdmi/cdmi_objectid/{id}"))
            .accept(CONTAINER)
            .shows(json!({"objectName": "a/", "children": ["k"]})),
        get(
            "and it is the parent that its object names",
            "/cdmi/box/a/k?parentID",
        )
        .accept(OBJECT)
        .shows(json!({"parentID": id})),
        put("it takes metadata", "/cdmi/box/a/")
            .json(CONTAINER, &json!({"metadata": {"x": "1"}}))
            .is(204),
        get("which is there", "/cdmi/box/a/?metadata")
            .accept(CONTAINER)
            .shows(json!({"metadata": {"x": "1"}})),
        delete("its last object goes", "/cdmi/box/a/").is(204),
        get("and the id with it", &format!("/cdmi/cdmi_objectid/{id}")).is(404),
    ]);
}

#[test]
fn children_come_a_page_at_a_time() {
    let server = Server::start();
    let who = blockstore::Who::server();
    server.store.bucket_create(&who, "many").unwrap();
    for number in 0..1205 {
        let writer = server.store.object_writer("many").unwrap();
        let key = format!("d{:02}/{number:05}", number % 3);
        writer
            .commit(&who, &key, Default::default(), &Default::default())
            .unwrap();
    }
    for number in 0..1100 {
        let writer = server.store.object_writer("many").unwrap();
        writer
            .commit(
                &who,
                &format!("k{number:05}"),
                Default::default(),
                &Default::default(),
            )
            .unwrap();
    }
    server.walk(vec![
        get(
            "a page of a thousand, and more follow",
            "/cdmi/many/?childrenrange;children:0-4999",
        )
        .accept(CONTAINER)
        .with("x-cdmi-partial", "true")
        .shows(json!({"childrenrange": "0-999"})),
        get(
            "the next by its range",
            "/cdmi/many/?childrenrange;children:1000-1999",
        )
        .accept(CONTAINER)
        .with("x-cdmi-partial", "")
        .shows(json!({"childrenrange": "1000-1102"})),
        get(
            "across the edge of containers and objects",
            "/cdmi/many/?children:1-4",
        )
        .accept(CONTAINER)
        .shows(json!({"children": ["d01/", "d02/", "k00000", "k00001"]})),
        get("the last", "/cdmi/many/?children:1102-1102")
            .accept(CONTAINER)
            .shows(json!({"children": ["k01099"]})),
    ]);
}
