//! Data objects in CDMI: CDMI 1.1.1, clause 8; CDMI 2.0.0, "Data object resource operations".

use crate::lab::{CONTAINER, OBJECT, Server, VERSION, delete, get, head, patch, post, put};
use serde_json::json;

fn with_container() -> Server {
    let server = Server::start();
    server.expect(
        put("a container", "/cdmi/box/")
            .json(CONTAINER, &json!({}))
            .is(201),
    );
    server
}

#[test]
fn a_data_object_is_created_as_the_tables_say() {
    let server = with_container();
    server.walk(vec![
        put("8.2: a value with its type and metadata is created", "/cdmi/box/one.txt")
            .says(VERSION, "1.1.1")
            .accept(OBJECT)
            .json(
                OBJECT,
                &json!({"mimetype": "text/plain", "metadata": {"colour": "blue"}, "value": "Hello CDMI World!"}),
            )
            .is(201)
            .with("content-type", OBJECT)
            .with(VERSION, "1.1.1")
            .with("location", "/cdmi/box/one.txt")
            .shows(json!({
                "objectType": OBJECT, "objectID": "…", "objectName": "one.txt",
                "parentURI": "/cdmi/box/", "parentID": "…",
                "capabilitiesURI": "/cdmi/cdmi_capabilities/dataobject/",
                "completionStatus": "Complete", "mimetype": "text/plain",
                "metadata": {"colour": "blue", "cdmi_size": "17"},
                "value": null, "domainURI": null,
            })),
        get("8.4: it is read whole", "/cdmi/box/one.txt")
            .says(VERSION, "1.1.1")
            .accept(OBJECT)
            .with("content-type", OBJECT)
            .shows(json!({
                "objectType": OBJECT, "objectName": "one.txt", "completionStatus": "Complete",
                "valuetransferencoding": "utf-8", "valuerange": "0-16", "value": "Hello CDMI World!",
                "metadata": {
                    "cdmi_size": "17", "cdmi_ctime": "…", "cdmi_mtime": "…", "cdmi_owner": "root",
                    "cdmi_hash": "…", "cdmi_value_hash_provided": "SHA256",
                    "cdmi_data_redundancy_provided": "1", "colour": "blue",
                },
            })),
        put("Table 17: without a value it is empty text", "/cdmi/box/empty")
            .json(OBJECT, &json!({}))
            .is(201)
            .shows(json!({"mimetype": "text/plain", "metadata": {"cdmi_size": "0"}})),
        get("an empty value has an empty range", "/cdmi/box/empty")
            .accept(OBJECT)
            .shows(json!({"value": "", "valuerange": "", "valuetransferencoding": "utf-8"})),
        put("Table 17: a value in base64 is decoded", "/cdmi/box/binary")
            .json(OBJECT, &json!({"valuetransferencoding": "base64", "value": "AP/+", "mimetype": "application/x-bin"}))
            .is(201),
        get("8.4: and comes back in base64", "/cdmi/box/binary")
            .accept(OBJECT)
            .shows(json!({"valuetransferencoding": "base64", "value": "AP/+", "valuerange": "0-2", "mimetype": "application/x-bin"})),
        get("its bytes are those that were meant", "/cdmi/box/binary").holds(*b"\x00\xff\xfe"),
        put("Table 17: a value in json is JSON", "/cdmi/box/json")
            .json(OBJECT, &json!({"valuetransferencoding": "json", "value": {"a": [1, "ä"]}, "mimetype": "application/json"}))
            .is(201),
        get("8.4: and comes back as JSON", "/cdmi/box/json")
            .accept(OBJECT)
            .shows(json!({"valuetransferencoding": "json", "value": {"a": [1, "ä"]}})),
        put("text is any text", "/cdmi/box/text")
            .json(OBJECT, &json!({"value": "\u{1F600}\"\n\u{0}é"}))
            .is(201),
        get("and comes back unchanged", "/cdmi/box/text?value")
            .accept(OBJECT)
            .shows(json!({"value": "\u{1F600}\"\n\u{0}é", "objectID": null})),
        put("a name is percent-encoded in URIs and plain in names", "/cdmi/box/a%20b%3Fc")
            .json(OBJECT, &json!({"value": "x"}))
            .is(201)
            .with("location", "/cdmi/box/a%20b%3Fc")
            .shows(json!({"objectName": "a b?c"})),
        put("8.2: into a container that is not there is 404", "/cdmi/box/no/where")
            .json(OBJECT, &json!({"value": "x"}))
            .is(404),
        put("8.2: into a bucket that is not there is 404", "/cdmi/nowhere/x")
            .json(OBJECT, &json!({"value": "x"}))
            .is(404),
        put("a reserved name is 400", "/cdmi/box/cdmi_x")
            .json(OBJECT, &json!({"value": "x"}))
            .is(400),
        put("two sources of one value are 400", "/cdmi/box/two")
            .json(OBJECT, &json!({"value": "x", "copy": "/box/one.txt"}))
            .is(400),
        put("an encoding that is none is 400", "/cdmi/box/enc")
            .json(OBJECT, &json!({"valuetransferencoding": "hex", "value": "00"}))
            .is(400),
        put("base64 that is none is 400", "/cdmi/box/enc")
            .json(OBJECT, &json!({"valuetransferencoding": "base64", "value": "!"}))
            .is(400),
        put("a text value that is no string is 400", "/cdmi/box/enc")
            .json(OBJECT, &json!({"value": 1}))
            .is(400),
        put("a media type that is none is 400", "/cdmi/box/enc")
            .json(OBJECT, &json!({"mimetype": "x\ny"}))
            .is(400),
        put("domains are not served: 400", "/cdmi/box/dom")
            .json(OBJECT, &json!({"domainURI": "/cdmi_domains/x/", "value": ""}))
            .is(400),
        put("the slash of a container on a data object is 400", "/cdmi/box/slash/")
            .json(OBJECT, &json!({"value": ""}))
            .is(400),
        put("CDMI without a type of the body is 400", "/cdmi/box/untyped")
            .says(VERSION, "1.1.1")
            .is(400),
        get("none of the refused ones was made", "/cdmi/box/?children")
            .accept(CONTAINER)
            .shows(json!({"children": ["a b?c", "binary", "empty", "json", "one.txt", "text"]})),
    ]);
}

#[test]
fn fields_are_selected_by_the_query() {
    let server = with_container();
    server.walk(vec![
        put("an object", "/cdmi/box/k")
            .json(OBJECT, &json!({"value": "0123456789", "metadata": {"colour": "blue", "coat": "red", "size": "m"}}))
            .is(201),
        get("8.4.1: one field", "/cdmi/box/k?objectName")
            .accept(OBJECT)
            .shows(json!({"objectName": "k", "objectID": null, "value": null, "metadata": null})),
        get("8.4.1: several fields", "/cdmi/box/k?mimetype;parentURI")
            .accept(OBJECT)
            .shows(json!({"mimetype": "text/plain", "parentURI": "/cdmi/box/", "objectName": null})),
        get("8.4.1: a range of the value", "/cdmi/box/k?value:0-3")
            .accept(OBJECT)
            .shows(json!({"value": "0123", "valuerange": null})),
        get("8.4.1: a range with its name", "/cdmi/box/k?valuerange;value:8-99")
            .accept(OBJECT)
            .shows(json!({"value": "89", "valuerange": "8-9"})),
        get("a range behind the end is 400", "/cdmi/box/k?value:10-11")
            .accept(OBJECT)
            .is(400),
        get("8.4.1: metadata by the beginning of its names", "/cdmi/box/k?metadata:co")
            .accept(OBJECT)
            .shows(json!({"metadata": {"colour": "blue", "coat": "red", "size": null, "cdmi_size": null}, "value": null})),
        get("8.4.1: all metadata", "/cdmi/box/k?metadata")
            .accept(OBJECT)
            .shows(json!({"metadata": {"size": "m", "cdmi_size": "10"}})),
        get("a field that is none is 400", "/cdmi/box/k?nonsense").accept(OBJECT).is(400),
        head("HEAD has the headers and no body", "/cdmi/box/k")
            .accept(OBJECT)
            .with("content-type", OBJECT)
            .holds(*b""),
        get("8.4: a container's type alone is 406", "/cdmi/box/k").accept(CONTAINER).is(406),
        get("8.4: what is not there is 404", "/cdmi/box/none").accept(OBJECT).is(404),
    ]);
}

#[test]
fn a_data_object_is_updated_as_the_tables_say() {
    let server = with_container();
    let whole = |value: &str| json!({"value": value, "metadata": {"a": "1", "b": "2"}});
    server.walk(vec![
        put("an object", "/cdmi/box/k").json(OBJECT, &whole("first")).is(201),
        put("8.6: a new value keeps metadata", "/cdmi/box/k")
            .json(OBJECT, &json!({"value": "second"}))
            .is(204)
            .holds(*b""),
        get("it is there", "/cdmi/box/k?value;metadata")
            .accept(OBJECT)
            .shows(json!({"value": "second", "metadata": {"a": "1", "b": "2"}})),
        put("8.6: new metadata replaces all and keeps the value", "/cdmi/box/k")
            .json(OBJECT, &json!({"metadata": {"c": "3"}}))
            .is(204),
        get("it is there", "/cdmi/box/k?value;metadata")
            .accept(OBJECT)
            .shows(json!({"value": "second", "metadata": {"c": "3", "a": null}})),
        put("8.6.1: one item by its name", "/cdmi/box/k?metadata:d;metadata:c")
            .json(OBJECT, &json!({"metadata": {"d": "4", "e": "5"}}))
            .is(204),
        get("named items changed, the one left out is gone, others were not touched", "/cdmi/box/k?metadata")
            .accept(OBJECT)
            .shows(json!({"metadata": {"d": "4", "c": null, "e": null}})),
        put("8.6: the media type alone", "/cdmi/box/k")
            .json(OBJECT, &json!({"mimetype": "text/csv"}))
            .is(204),
        get("it is there", "/cdmi/box/k?mimetype;value")
            .accept(OBJECT)
            .shows(json!({"mimetype": "text/csv", "value": "second"})),
        put("8.6: a range of the value", "/cdmi/box/k?value:0-1")
            .json(OBJECT, &json!({"value": "SE"}))
            .is(204),
        get("only the range changed", "/cdmi/box/k?value;valuetransferencoding;metadata")
            .accept(OBJECT)
            .shows(json!({"value": "SEcond", "valuetransferencoding": "utf-8", "metadata": {"d": "4"}})),
        put("8.6: a range in base64", "/cdmi/box/k?value:2-3")
            .json(OBJECT, &json!({"value": "Q08=", "valuetransferencoding": "base64"}))
            .is(204),
        get("only the range changed", "/cdmi/box/k?value").accept(OBJECT).shows(json!({"value": "SECOnd"})),
        put("a range behind the end fills with zeroes", "/cdmi/box/k?value:8-9")
            .json(OBJECT, &json!({"value": "!!"}))
            .is(204),
        get("and reads so", "/cdmi/box/k?value").accept(OBJECT).shows(json!({"value": "SECOnd\u{0}\u{0}!!"})),
        put("a range of another length than its value is 400", "/cdmi/box/k?value:0-5")
            .json(OBJECT, &json!({"value": "x"}))
            .is(400),
        put("a range that cuts characters makes bytes of text", "/cdmi/box/k?value:0-0")
            .json(OBJECT, &json!({"value": "/w==", "valuetransferencoding": "base64"}))
            .is(204),
        get("which are shown in base64", "/cdmi/box/k?valuetransferencoding")
            .accept(OBJECT)
            .shows(json!({"valuetransferencoding": "base64"})),
        put("what the server told may come back", "/cdmi/box/k")
            .json(OBJECT, &json!({
                "objectID": "00", "objectName": "other", "completionStatus": "Error",
                "metadata": {"kept": "yes", "cdmi_size": "1", "cdmi_data_redundancy_provided": "9"},
                "value": "last", "valuetransferencoding": "utf-8",
            }))
            .is(204),
        get("and changes nothing", "/cdmi/box/k")
            .accept(OBJECT)
            .shows(json!({"objectName": "k", "value": "last", "metadata": {"kept": "yes", "cdmi_size": "4", "cdmi_data_redundancy_provided": "1"}})),
        put("an encoding cannot be claimed without the value", "/cdmi/box/k")
            .json(OBJECT, &json!({"valuetransferencoding": "json"}))
            .is(400),
        delete("8.8: deleted", "/cdmi/box/k").is(204).holds(*b""),
        delete("8.8: what is not there is 404", "/cdmi/box/k").is(404),
        get("it is gone", "/cdmi/box/k").accept(OBJECT).is(404),
    ]);
}

#[test]
fn an_update_keeps_the_object_id_and_access_by_id_is_access() {
    let server = with_container();
    server.expect(
        put("an object", "/cdmi/box/k")
            .json(OBJECT, &json!({"value": "one"}))
            .is(201),
    );
    let id = server.id("/cdmi/box/k");
    let by_id = format!("/cdmi/cdmi_objectid/{id}");
    let container = server.id("/cdmi/box/");
    server.walk(vec![
        get("by id it is the same object", &by_id)
            .accept(OBJECT)
            .shows(json!({"objectID": id, "objectName": "k", "parentURI": "/cdmi/box/", "parentID": container, "value": "one"})),
        put("8.6: updated by id", &by_id).json(OBJECT, &json!({"value": "two"})).is(204),
        get("the name shows it", "/cdmi/box/k?value;objectID")
            .accept(OBJECT)
            .shows(json!({"value": "two", "objectID": id})),
        put("a range by id", &format!("{by_id}?value:0-0")).json(OBJECT, &json!({"value": "T"})).is(204),
        get("the bytes by id", &by_id).holds(*b"Two"),
        get("fields by id", &format!("{by_id}?value:1-2")).accept(OBJECT).shows(json!({"value": "wo"})),
        get("the container by id", &format!("/cdmi/cdmi_objectid/{container}/"))
            .accept(CONTAINER)
            .shows(json!({"objectName": "box/", "children": ["k"]})),
        get("an id with a wrong digit is 400", &by_id.replace("/0000", "/0001")).is(400),
        get("an id that is none is 400", "/cdmi/cdmi_objectid/xyz").is(400),
        get("the standard's own example is nobody's here: 404", "/cdmi/cdmi_objectid/00007ED900104E1D14771DC67C27BF8B").is(404),
        delete("8.8: deleted by id", &by_id).is(204),
        get("gone by name", "/cdmi/box/k").is(404),
        get("gone by id", &by_id).is(404),
        put("made anew", "/cdmi/box/k").json(OBJECT, &json!({"value": "three"})).is(201),
        get("it is another object", &by_id).is(404),
    ]);
    assert_ne!(server.id("/cdmi/box/k"), id);
}

#[test]
fn post_makes_an_object_under_its_id() {
    let server = with_container();
    server.expect(
        put("a deeper container", "/cdmi/box/in/")
            .json(CONTAINER, &json!({}))
            .is(201),
    );
    for path in ["/cdmi/box/", "/cdmi/box/in/"] {
        let made = server.expect(
            post("9.8: posted", path)
                .says(VERSION, "1.1.1")
                .json(OBJECT, &json!({"value": "posted", "metadata": {"a": "1"}}))
                .is(201)
                .with("content-type", OBJECT),
        );
        let shown = made.json();
        let id = shown["objectID"].as_str().unwrap().to_owned();
        assert_eq!(shown["objectName"], id.as_str());
        assert_eq!(
            made.header("location"),
            Some(format!("{path}{id}").as_str())
        );
        server.walk(vec![
            get("at its location", &format!("{path}{id}"))
                .accept(OBJECT)
                .shows(json!({"objectID": id, "value": "posted", "metadata": {"a": "1"}})),
            get("by its id", &format!("/cdmi/cdmi_objectid/{id}"))
                .accept(OBJECT)
                .shows(json!({"parentURI": path})),
        ]);
    }
    let raw = server.expect(
        post("9.9: bytes posted", "/cdmi/box/")
            .bytes("image/png", *b"\x89PNG")
            .is(201)
            .with("location", "…"),
    );
    let location = raw.header("location").unwrap().to_owned();
    server.walk(vec![
        get("the bytes", &location)
            .holds(*b"\x89PNG")
            .with("content-type", "image/png"),
        post(
            "outside of containers nothing is posted",
            "/cdmi/cdmi_objectid/",
        )
        .json(OBJECT, &json!({"value": ""}))
        .is(403),
        post("into a container that is not there", "/cdmi/nowhere/")
            .json(OBJECT, &json!({"value": ""}))
            .is(404),
        post("to a data object", "/cdmi/box/x")
            .json(OBJECT, &json!({"value": ""}))
            .is(400),
        post("queues are not served", "/cdmi/box/")
            .json("application/cdmi-queue", &json!({}))
            .is(400),
    ]);
}

#[test]
fn a_reference_leads_elsewhere() {
    let server = with_container();
    server.walk(vec![
        put("an object", "/cdmi/box/k")
            .json(OBJECT, &json!({"value": "one"}))
            .is(201),
        put("8.2: a reference is made", "/cdmi/box/r")
            .json(OBJECT, &json!({"reference": "/box/k"}))
            .is(201)
            .shows(json!({"reference": "/box/k", "objectName": "r", "objectID": "…"})),
        get("7.2: reading it redirects", "/cdmi/box/r")
            .accept(OBJECT)
            .is(302)
            .with("location", "/cdmi/box/k"),
        get("7.2: by plain HTTP too", "/cdmi/box/r")
            .is(302)
            .with("location", "/cdmi/box/k"),
        get("in the root of the version that asks", "/cdmi/2.0.0/box/r")
            .is(302)
            .with("location", "/cdmi/2.0.0/box/k"),
        put("7.2: so does writing", "/cdmi/box/r")
            .json(OBJECT, &json!({"value": "x"}))
            .is(302),
        get("7.2: children show it by its mark", "/cdmi/box/?children")
            .accept(CONTAINER)
            .shows(json!({"children": ["k", "r?"]})),
        put("a reference to another cloud", "/cdmi/box/far")
            .json(
                OBJECT,
                &json!({"reference": "https://cloud.example.com/cdmi/x"}),
            )
            .is(201),
        get("leads there", "/cdmi/box/far")
            .is(302)
            .with("location", "https://cloud.example.com/cdmi/x"),
        put("in the place of an object it is a conflict", "/cdmi/box/k")
            .json(OBJECT, &json!({"reference": "/box/r"}))
            .is(409),
        put("a reference has nothing else", "/cdmi/box/r2")
            .json(OBJECT, &json!({"reference": "/box/k", "metadata": {}}))
            .is(400),
        put("what no header carries is 400", "/cdmi/box/r2")
            .json(OBJECT, &json!({"reference": "http://x/\n"}))
            .is(400),
        delete("7.2: deleting deletes the reference", "/cdmi/box/r").is(204),
        get("and not what it leads to", "/cdmi/box/k").holds(*b"one"),
    ]);
}

#[test]
fn a_value_in_several_writes_is_processing_until_the_last() {
    let server = with_container();
    server.walk(vec![
        put("8.2.5: the first part", "/cdmi/box/k")
            .says("x-cdmi-partial", "true")
            .json(OBJECT, &json!({"value": "one"}))
            .is(201)
            .shows(json!({"completionStatus": "Processing"})),
        get("its value is not shown yet", "/cdmi/box/k")
            .accept(OBJECT)
            .shows(json!({"completionStatus": "Processing", "value": null})),
        put("8.6: the last part", "/cdmi/box/k?value:3-5")
            .json(OBJECT, &json!({"value": "two"}))
            .is(204),
        get("now it is complete", "/cdmi/box/k")
            .accept(OBJECT)
            .shows(json!({"completionStatus": "Complete", "value": "onetwo"})),
        put(
            "a part of what is not there makes it",
            "/cdmi/box/new?value:2-3",
        )
        .json(OBJECT, &json!({"value": "xy", "mimetype": "text/x"}))
        .is(201)
        .shows(json!({"mimetype": "text/x", "metadata": {"cdmi_size": "4"}})),
        get("what was not written is zero", "/cdmi/box/new?value")
            .accept(OBJECT)
            .shows(json!({"value": "\u{0}\u{0}xy"})),
    ]);
}

#[test]
fn conditions_guard_writes() {
    let server = with_container();
    server.walk(vec![
        put("only if there is none", "/cdmi/box/k")
            .says("if-none-match", "*")
            .json(OBJECT, &json!({"value": "1"}))
            .is(201),
        put("there is one", "/cdmi/box/k")
            .says("if-none-match", "*")
            .json(OBJECT, &json!({"value": "2"}))
            .is(412),
        put("a range too", "/cdmi/box/k?value:0-0")
            .says("if-match", "\"other\"")
            .json(OBJECT, &json!({"value": "2"}))
            .is(412),
        delete("a delete too", "/cdmi/box/k")
            .says("if-match", "\"other\"")
            .is(412),
    ]);
    let read = server.expect(get("read", "/cdmi/box/k").holds(*b"1").with("etag", "…"));
    let etag = read.header("etag").unwrap().to_owned();
    server.walk(vec![
        put("the one that was read", "/cdmi/box/k")
            .says("if-match", &etag)
            .json(OBJECT, &json!({"value": "2"}))
            .is(204),
        put("not any more", "/cdmi/box/k")
            .says("if-match", &etag)
            .json(OBJECT, &json!({"value": "3"}))
            .is(412),
        get("what holds", "/cdmi/box/k").holds(*b"2"),
    ]);
}

#[test]
fn patch_changes_only_what_it_names() {
    let server = with_container();
    server.walk(vec![
        put("an object", "/cdmi/2.0.0/box/k")
            .json(OBJECT, &json!({"value": "0123", "metadata": {"a": "1", "b": "2"}}))
            .is(201)
            .with(VERSION, "")
            .shows(json!({"parentURI": "/cdmi/2.0.0/box/", "capabilitiesURI": "/cdmi/2.0.0/cdmi_capabilities/dataobject/"})),
        patch("2.0.0: metadata is merged, null removes", "/cdmi/2.0.0/box/k")
            .json(OBJECT, &json!({"metadata": {"b": null, "c": "3"}}))
            .is(204),
        get("so it is", "/cdmi/2.0.0/box/k?metadata;value")
            .accept(OBJECT)
            .shows(json!({"metadata": {"a": "1", "b": null, "c": "3"}, "value": "0123"})),
        patch("2.0.0: a range of the value", "/cdmi/2.0.0/box/k?value:1-2").json(OBJECT, &json!({"value": "xy"})).is(204),
        patch("2.0.0: a range of bytes", "/cdmi/2.0.0/box/k")
            .says("content-range", "bytes 3-3/*")
            .bytes("application/octet-stream", *b"!")
            .is(204),
        get("so it is", "/cdmi/2.0.0/box/k").holds(*b"0xy!"),
        patch("what is not there is 404", "/cdmi/2.0.0/box/none").json(OBJECT, &json!({"value": ""})).is(404),
        patch("1.1.1 has no PATCH", "/cdmi/box/k").says(VERSION, "1.1.1").json(OBJECT, &json!({"value": ""})).is(405).with("allow", "…"),
        patch("2.0.0: a container's metadata", "/cdmi/2.0.0/box/").json(CONTAINER, &json!({"metadata": {"x": "y"}})).is(204),
        get("so it is", "/cdmi/2.0.0/box/?metadata").accept(CONTAINER).shows(json!({"metadata": {"x": "y"}})),
    ]);
}
