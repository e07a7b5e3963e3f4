//! Versions of the standard (CDMI 1.1.1, 5.13; CDMI 2.0.0, 5.12): named by header or by root.

use crate::lab::{CONTAINER, OBJECT, Server, VERSION, get, put};
use serde_json::json;

#[test]
fn the_version_is_negotiated_by_header_and_by_root() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201).with(VERSION, ""),
        put("an object", "/cdmi/box/k")
            .json(OBJECT, &json!({"value": "x"}))
            .is(201),
        get("1.1.1: the header makes it CDMI", "/cdmi/box/k")
            .says(VERSION, "1.1.1")
            .with(VERSION, "1.1.1")
            .with("content-type", OBJECT)
            .shows(json!({"value": "x"})),
        get("the highest that is served", "/cdmi/box/k")
            .says(VERSION, "1.0.2, 1.1.1, 2.0.0, 9.0")
            .with(VERSION, "2.0.0")
            .shows(json!({"value": "x"})),
        get("none that is served is 400", "/cdmi/box/k")
            .says(VERSION, "1.0.2")
            .is(400),
        get("absent, it is plain HTTP", "/cdmi/box/k")
            .with(VERSION, "")
            .holds(*b"x"),
        get("absent, the media type still makes it CDMI", "/cdmi/box/k")
            .accept(OBJECT)
            .with(VERSION, "")
            .shows(json!({"parentURI": "/cdmi/box/"})),
        get("2.0.0: the root names it", "/cdmi/2.0.0/box/k")
            .accept(OBJECT)
            .with(VERSION, "")
            .shows(json!({"parentURI": "/cdmi/2.0.0/box/", "value": "x"})),
        get("2.0.0: the root by plain HTTP", "/cdmi/2.0.0/box/k").holds(*b"x"),
        get("2.0.0: the root container", "/cdmi/2.0.0/")
            .accept(CONTAINER)
            .shows(json!({"children": ["box/", "cdmi_volumes/"]})),
        get("1.1.1 has a root too", "/cdmi/1.1.1/box/k")
            .accept(OBJECT)
            .shows(json!({"parentURI": "/cdmi/1.1.1/box/"})),
        get("header and root must agree", "/cdmi/2.0.0/box/k")
            .says(VERSION, "1.1.1")
            .is(400),
        get("an error carries the version too", "/cdmi/box/none")
            .says(VERSION, "1.1.1")
            .accept(OBJECT)
            .is(404)
            .with(VERSION, "1.1.1")
            .with("content-type", "application/json")
            .with("x-request-id", "…"),
    ]);
}
