//! Copy and move (CDMI 1.1.1, 8.2, 8.6, 9.2).

use crate::lab::{CONTAINER, OBJECT, Server, get, put};
use serde_json::json;

#[test]
fn data_objects_are_copied_and_moved() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("another", "/cdmi/far/").is(201),
        put("an object", "/cdmi/box/k")
            .json(
                OBJECT,
                &json!({"value": "text", "metadata": {"a": "1", "B": "2"}, "mimetype": "text/x"}),
            )
            .is(201),
    ]);
    let id = server.id("/cdmi/box/k");
    let by_id = format!("/cdmi_objectid/{id}");
    server.walk(vec![
        put("8.2: copied with all it says", "/cdmi/far/copy")
            .json(OBJECT, &json!({"copy": "/cdmi/box/k"}))
            .is(201)
            .shows(
                json!({"mimetype": "text/x", "metadata": {"a": "1", "B": "2", "cdmi_size": "4"}}),
            ),
        get(
            "it reads the same",
            "/cdmi/far/copy?value;valuetransferencoding",
        )
        .accept(OBJECT)
        .shows(json!({"value": "text", "valuetransferencoding": "utf-8"})),
        put("8.2: copied with more", "/cdmi/far/more")
            .json(
                OBJECT,
                &json!({"copy": "/box/k", "metadata": {"c": "3", "a": null}, "mimetype": "text/y"}),
            )
            .is(201)
            .shows(json!({"mimetype": "text/y", "metadata": {"B": "2", "c": "3", "a": null}})),
        put("8.2: copied by id", "/cdmi/far/by-id")
            .json(OBJECT, &json!({"copy": by_id}))
            .is(201),
        put("8.6: copied over another", "/cdmi/far/by-id")
            .json(OBJECT, &json!({"copy": "/far/more"}))
            .is(204),
        get("it took its place", "/cdmi/far/by-id?mimetype")
            .accept(OBJECT)
            .shows(json!({"mimetype": "text/y"})),
        put("a source that is not there", "/cdmi/far/none")
            .json(OBJECT, &json!({"copy": "/box/none"}))
            .is(404),
        put("a container is no source of an object", "/cdmi/far/none")
            .json(OBJECT, &json!({"copy": "/box/"}))
            .is(400),
        put("a part is no source", "/cdmi/far/none")
            .json(OBJECT, &json!({"copy": "/box/k?value:0-1"}))
            .is(400),
        put("8.2: moved", "/cdmi/far/moved")
            .json(OBJECT, &json!({"move": "/cdmi/box/k"}))
            .is(201)
            .shows(json!({"objectID": id, "metadata": {"a": "1"}})),
        get("it is not where it was", "/cdmi/box/k").is(404),
        get("its id leads there", &format!("/cdmi/cdmi_objectid/{id}"))
            .accept(OBJECT)
            .shows(json!({"objectName": "moved", "parentURI": "/cdmi/far/"})),
        put("8.2: moved with more", "/cdmi/box/k")
            .json(
                OBJECT,
                &json!({"move": "/cdmi/far/moved", "metadata": {"z": "9"}}),
            )
            .is(201)
            .shows(json!({"objectID": id, "metadata": {"a": "1", "z": "9"}})),
        put("8.6: moved over another", "/cdmi/far/copy")
            .json(OBJECT, &json!({"move": "/cdmi/box/k"}))
            .is(204),
        put("only where there is none", "/cdmi/far/more")
            .says("if-none-match", "*")
            .json(OBJECT, &json!({"move": "/cdmi/far/copy"}))
            .is(412),
        put("onto itself", "/cdmi/far/copy")
            .json(OBJECT, &json!({"move": "/cdmi/far/copy"}))
            .is(400),
        get("what is left", "/cdmi/far/?children")
            .accept(CONTAINER)
            .shows(json!({"children": ["by-id", "copy", "more"]})),
    ]);
    assert_eq!(server.id("/cdmi/far/copy"), id);
}

#[test]
fn containers_are_copied_and_moved_whole() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("a container", "/cdmi/box/a/")
            .json(CONTAINER, &json!({"metadata": {"m": "1"}}))
            .is(201),
        put("one in it", "/cdmi/box/a/in/").is(201),
        put("an object", "/cdmi/box/a/in/k")
            .json(OBJECT, &json!({"value": "text"}))
            .is(201),
    ]);
    let (container, object) = (server.id("/cdmi/box/a/"), server.id("/cdmi/box/a/in/k"));
    server.walk(vec![
        put("9.2: copied", "/cdmi/box/b/").json(CONTAINER, &json!({"copy": "/cdmi/box/a/"})).is(201).shows(json!({"children": ["in/"], "metadata": {"m": "1"}})),
        get("all of it", "/cdmi/box/b/in/k?value").accept(OBJECT).shows(json!({"value": "text"})),
        put("9.2: into another bucket", "/cdmi/new-box/").json(CONTAINER, &json!({"copy": "/cdmi/box/"})).is(201).shows(json!({"children": ["a/", "b/"]})),
        put("9.2: moved", "/cdmi/box/c/").json(CONTAINER, &json!({"move": "/cdmi/box/a/", "metadata": {"n": "2"}})).is(201).shows(json!({"objectID": container, "children": ["in/"], "metadata": {"m": "1", "n": "2"}})),
        get("it is not where it was", "/cdmi/box/a/").accept(CONTAINER).is(404),
        get("what lies in it keeps its id", &format!("/cdmi/cdmi_objectid/{object}")).accept(OBJECT).shows(json!({"parentURI": "/cdmi/box/c/in/"})),
        put("9.2: onto one that is there", "/cdmi/box/c/").json(CONTAINER, &json!({"move": "/cdmi/box/b/"})).is(409),
        put("9.2: into itself", "/cdmi/box/b/in/b/").json(CONTAINER, &json!({"copy": "/cdmi/box/b/"})).is(400),
        put("9.2: moved into itself", "/cdmi/box/b/in/b/").json(CONTAINER, &json!({"move": "/cdmi/box/b/"})).is(400),
        put("9.2: from where nothing is", "/cdmi/box/d/").json(CONTAINER, &json!({"move": "/cdmi/box/none/"})).is(404),
        put("a bucket keeps its name", "/cdmi/box/d/").json(CONTAINER, &json!({"move": "/cdmi/new-box/"})).is(403),
        get("what is left", "/cdmi/box/?children").accept(CONTAINER).shows(json!({"children": ["b/", "c/"]})),
    ]);
}
