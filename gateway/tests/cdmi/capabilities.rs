//! Capabilities (CDMI 1.1.1, clause 12): what is listed works, what is not listed is refused.

use crate::lab::{CAPABILITY, CONTAINER, OBJECT, Server, VERSION, get, put};
use serde_json::json;

#[test]
fn capabilities_objects_are_read_as_the_tables_say() {
    let server = Server::start();
    server.walk(vec![
        get("12.2: the system's", "/cdmi/cdmi_capabilities/")
            .says(VERSION, "1.1.1")
            .accept(CAPABILITY)
            .with("content-type", CAPABILITY)
            .shows(json!({
                "objectType": CAPABILITY, "objectID": "…", "objectName": "cdmi_capabilities/",
                "parentURI": "/cdmi/", "parentID": "…",
                "capabilities": {
                    "cdmi_dataobjects": "true", "cdmi_snapshots": "true", "cdmi_references": "true",
                    "cdmi_object_access_by_ID": "true", "cdmi_metadata_maxsize": "…",
                    "cdmi_domains": null, "cdmi_queues": null, "cdmi_notification": null, "cdmi_query": null,
                    "cdmi_post_dataobject_by_ID": null, "cdmi_serialization_json": null, "cdmi_logging": null,
                },
                "childrenrange": "0-1", "children": ["container/", "dataobject/"],
            })),
        get("the older name of the media type", "/cdmi/cdmi_capabilities/")
            .accept("application/cdmi-capabilities")
            .with("content-type", CAPABILITY),
        get("12.2: one field", "/cdmi/cdmi_capabilities/dataobject/?capabilities")
            .accept(CAPABILITY)
            .shows(json!({"capabilities": {"cdmi_read_value_range": "true", "cdmi_modify_value_range": "true"}, "objectID": null})),
        get("12.2: a range of children", "/cdmi/cdmi_capabilities/?children:1-1")
            .accept(CAPABILITY)
            .shows(json!({"children": ["dataobject/"], "childrenrange": "1-1"})),
        get("another CDMI type alone is 406", "/cdmi/cdmi_capabilities/").accept(OBJECT).is(406),
        get("what is not there is 404", "/cdmi/cdmi_capabilities/queue/").accept(CAPABILITY).is(404),
        put("nobody writes them", "/cdmi/cdmi_capabilities/").json(CONTAINER, &json!({})).is(403),
    ]);
}

#[test]
fn every_object_names_capabilities_that_are_there_by_uri_and_id() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("a container", "/cdmi/box/a/").is(201),
        put("an object", "/cdmi/box/a/k")
            .json(OBJECT, &json!({"value": "x"}))
            .is(201),
        put("a snapshot", "/cdmi/box/a/")
            .json(CONTAINER, &json!({"snapshot": "one"}))
            .is(204),
    ]);
    for (path, media) in [
        ("/cdmi/", CONTAINER),
        ("/cdmi/box/", CONTAINER),
        ("/cdmi/box/a/", CONTAINER),
        ("/cdmi/box/a/k", OBJECT),
        ("/cdmi/box/a/cdmi_snapshots/", CONTAINER),
        ("/cdmi/box/a/cdmi_snapshots/one/", CONTAINER),
        ("/cdmi/box/a/cdmi_snapshots/one/k", OBJECT),
        ("/cdmi/cdmi_volumes/", CONTAINER),
    ] {
        let shown = server
            .expect(get("names its capabilities", path).accept(media))
            .json();
        let uri = shown["capabilitiesURI"].as_str().unwrap();
        let capabilities = server
            .expect(get("which are there", uri).accept(CAPABILITY))
            .json();
        let id = capabilities["objectID"].as_str().unwrap();
        server.expect(
            get("by their id too", &format!("/cdmi/cdmi_objectid/{id}"))
                .accept(CAPABILITY)
                .shows(json!({"capabilities": capabilities["capabilities"]})),
        );
        let writes = capabilities["capabilities"]
            .as_object()
            .unwrap()
            .iter()
            .any(|(name, value)| name.starts_with("cdmi_modify") && value == "true");
        assert_eq!(
            writes,
            !path.contains("cdmi_") && path != "/cdmi/",
            "{path}"
        );
    }
}

#[test]
fn nothing_in_the_standard_is_listed_that_is_refused() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("12.1.3 cdmi_create_queue is absent", "/cdmi/box/q")
            .json("application/cdmi-queue", &json!({}))
            .is(400),
        put(
            "12.1.4 cdmi_create_domain is absent",
            "/cdmi/cdmi_domains/d/",
        )
        .json("application/cdmi-domain", &json!({}))
        .is(404),
        put(
            "12.1.2 cdmi_deserialize_dataobject is absent",
            "/cdmi/box/d",
        )
        .json(OBJECT, &json!({"deserializevalue": ""}))
        .is(400),
        put("12.1.2 cdmi_serialize_dataobject is absent", "/cdmi/box/d")
            .json(OBJECT, &json!({"serialize": "/box/k"}))
            .is(400),
        put(
            "container/bucket/ lists no cdmi_move_container",
            "/cdmi/other/",
        )
        .json(CONTAINER, &json!({"move": "/box/"}))
        .is(403),
    ]);
}
