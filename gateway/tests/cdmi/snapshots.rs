//! Snapshots of containers (CDMI 1.1.1, clause 14).

use crate::lab::{CONTAINER, OBJECT, Server, delete, get, put};
use serde_json::json;

#[test]
fn a_snapshot_is_the_container_as_it_was() {
    let server = Server::start();
    let large = vec![b'a'; 300_000];
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("a container", "/cdmi/box/in/").json(CONTAINER, &json!({"metadata": {"a": "1"}})).is(201),
        put("text", "/cdmi/box/in/k").json(OBJECT, &json!({"value": "before", "metadata": {"m": "1"}})).is(201),
        put("bytes", "/cdmi/box/large").bytes("application/x-large", large.clone()).is(201),
        put("14.1: taken by its name", "/cdmi/box/").json(CONTAINER, &json!({"snapshot": "one"})).is(204),
        put("14.1: the same name again is a conflict", "/cdmi/box/").json(CONTAINER, &json!({"snapshot": "one"})).is(409),
        put("a name that is none", "/cdmi/box/").json(CONTAINER, &json!({"snapshot": "a/b"})).is(400),
        put("of a container that is not there", "/cdmi/none/").json(CONTAINER, &json!({"snapshot": "one"})).is(404),
        put("then one changes", "/cdmi/box/in/k").json(OBJECT, &json!({"value": "after"})).is(204),
        delete("and another goes", "/cdmi/box/large").is(204),
        get("14.1: the container lists it", "/cdmi/box/?snapshots").accept(CONTAINER).shows(json!({"snapshots": ["/cdmi/box/cdmi_snapshots/one/"]})),
        get("14.1: and its children do not", "/cdmi/box/?children").accept(CONTAINER).shows(json!({"children": ["in/"]})),
        get("14.1: the container of snapshots", "/cdmi/box/cdmi_snapshots/").accept(CONTAINER).shows(json!({"objectName": "cdmi_snapshots/", "parentURI": "/cdmi/box/", "children": ["one/"]})),
        get("14.1: the container as it was", "/cdmi/box/cdmi_snapshots/one/").accept(CONTAINER).shows(json!({"objectName": "one/", "children": ["in/", "large"], "metadata": {"cdmi_ctime": "…"}})),
        get("one below it", "/cdmi/box/cdmi_snapshots/one/in/").accept(CONTAINER).shows(json!({"children": ["k"], "metadata": {"a": "1"}})),
        get("the value as it was", "/cdmi/box/cdmi_snapshots/one/in/k").accept(OBJECT).shows(json!({
            "value": "before", "valuetransferencoding": "utf-8", "metadata": {"m": "1"},
            "parentURI": "/cdmi/box/cdmi_snapshots/one/in/",
            "capabilitiesURI": "/cdmi/cdmi_capabilities/dataobject/snapshot/",
        })),
        get("bytes that are gone", "/cdmi/box/cdmi_snapshots/one/large").holds(large.clone()).with("content-type", "application/x-large"),
        put("nobody writes to it", "/cdmi/box/cdmi_snapshots/one/in/k").json(OBJECT, &json!({"value": "x"})).is(403),
        delete("nobody removes from it", "/cdmi/box/cdmi_snapshots/one/in/k").is(403),
        get("what was not there is not there", "/cdmi/box/cdmi_snapshots/one/none").is(404),
        get("a snapshot that is not there", "/cdmi/box/cdmi_snapshots/two/").accept(CONTAINER).is(404),
        put("an object comes back by copying it", "/cdmi/box/large").json(OBJECT, &json!({"copy": "/cdmi/box/cdmi_snapshots/one/large"})).is(201).shows(json!({"mimetype": "application/x-large"})),
        get("with its bytes", "/cdmi/box/large").holds(large.clone()),
        put("a container too", "/cdmi/box/back/").json(CONTAINER, &json!({"copy": "/cdmi/box/cdmi_snapshots/one/in/"})).is(201).shows(json!({"children": ["k"], "metadata": {"a": "1"}})),
        get("with its values", "/cdmi/box/back/k?value").accept(OBJECT).shows(json!({"value": "before"})),
        put("14.1: of a deeper container", "/cdmi/box/in/").json(CONTAINER, &json!({"snapshot": "deep"})).is(204),
        get("it is that one's", "/cdmi/box/in/cdmi_snapshots/deep/k").holds(*b"after"),
        get("and nobody else's", "/cdmi/box/cdmi_snapshots/deep/k").is(404),
    ]);
    let id = server.id("/cdmi/box/cdmi_snapshots/one/in/k");
    server.walk(vec![
        get(
            "a frozen object by its id",
            &format!("/cdmi/cdmi_objectid/{id}"),
        )
        .accept(OBJECT)
        .shows(json!({"value": "before", "objectID": id})),
        delete(
            "14.1: a snapshot is deleted",
            "/cdmi/box/cdmi_snapshots/one/",
        )
        .is(204),
        get("it is gone", "/cdmi/box/cdmi_snapshots/one/in/k").is(404),
        get("by its id too", &format!("/cdmi/cdmi_objectid/{id}")).is(404),
        get("what is live stays", "/cdmi/box/large").holds(large),
        delete("9.7: a container goes with its snapshots", "/cdmi/box/").is(204),
        get("all is gone", "/cdmi/box/").accept(CONTAINER).is(404),
    ]);
}
