//! Data system metadata (CDMI 1.1.1, 16.4 and 16.5): kept where it holds, 403 where this node cannot
//! satisfy it, 400 where it is none.

use crate::lab::{CONTAINER, OBJECT, Server, get, put};
use gateway::cdmi::Settings;
use serde_json::json;

#[test]
fn what_a_node_cannot_satisfy_is_refused_and_what_it_can_is_kept() {
    let server = Server::of(Settings {
        country: Some("DE".into()),
        ..Settings::default()
    });
    let asks =
        |name: &str, value: serde_json::Value| json!({"value": "x", "metadata": {name: value}});
    let place = "cdmi_geographic_placement";
    server.walk(vec![
        put("a bucket that may lie here", "/cdmi/box/").json(CONTAINER, &json!({"metadata": {place: ["FR", "DE"]}})).is(201),
        get("16.5: what is provided is told", "/cdmi/box/?metadata").accept(CONTAINER).shows(json!({"metadata": {
            place: ["FR", "DE"], "cdmi_geographic_placement_provided": ["DE"],
            "cdmi_data_redundancy_provided": "1", "cdmi_immediate_redundancy_provided": "1",
            "cdmi_infrastructure_redundancy_provided": "1", "cdmi_data_dispersion_provided": "0",
        }})),
        put("a bucket that may not", "/cdmi/other/").json(CONTAINER, &json!({"metadata": {place: ["!DE", "*"]}})).is(403),
        put("16.4: the first match decides", "/cdmi/box/a").json(OBJECT, &asks(place, json!(["!US", "*"]))).is(201),
        put("16.4: excluded", "/cdmi/box/b").json(OBJECT, &asks(place, json!(["US", "!DE", "*"]))).is(403),
        put("16.4: no match", "/cdmi/box/b").json(OBJECT, &asks(place, json!(["US"]))).is(403),
        put("16.4: no code", "/cdmi/box/b").json(OBJECT, &asks(place, json!(["Germany"]))).is(400),
        put("16.4: no array", "/cdmi/box/b").json(OBJECT, &asks(place, json!("DE"))).is(400),
        put("16.4: one copy is kept", "/cdmi/box/c").json(OBJECT, &asks("cdmi_data_redundancy", json!("1"))).is(201),
        put("16.4: three are not", "/cdmi/box/b").json(OBJECT, &asks("cdmi_data_redundancy", json!("3"))).is(403),
        put("16.4: no number", "/cdmi/box/b").json(OBJECT, &asks("cdmi_data_redundancy", json!("many"))).is(400),
        put("16.4: nothing is encrypted", "/cdmi/box/b").json(OBJECT, &asks("cdmi_encryption", json!("AES_XTS_256"))).is(403),
        put("16.4: no latency is promised", "/cdmi/box/b").json(OBJECT, &asks("cdmi_latency", json!("5"))).is(403),
        put("16.4: a hash that is computed", "/cdmi/box/d").json(OBJECT, &asks("cdmi_value_hash", json!("SHA256"))).is(201).shows(json!({
            "metadata": {"cdmi_hash": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
        })),
        put("16.4: one that is not", "/cdmi/box/b").json(OBJECT, &asks("cdmi_value_hash", json!("RIPEMD160"))).is(403),
        put("changing is checked like making", "/cdmi/box/a").json(OBJECT, &json!({"metadata": {place: ["US"]}})).is(403),
        get("and what was accepted stays", "/cdmi/box/a?metadata").accept(OBJECT).shows(json!({"metadata": {place: ["!US", "*"]}})),
        get("nothing refused was made", "/cdmi/box/?children").accept(CONTAINER).shows(json!({"children": ["a", "c", "d"]})),
    ]);
}

#[test]
fn a_node_that_does_not_know_its_country_promises_none() {
    let server = Server::start();
    let asks = |list: serde_json::Value| json!({"value": "x", "metadata": {"cdmi_geographic_placement": list}});
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("anywhere is here", "/cdmi/box/a")
            .json(OBJECT, &asks(json!(["*"])))
            .is(201)
            .shows(json!({"metadata": {"cdmi_geographic_placement_provided": null}})),
        put("a country may be another", "/cdmi/box/b")
            .json(OBJECT, &asks(json!(["DE"])))
            .is(403)
            .shows(json!({"error": {"subject": "cdmi_geographic_placement", "message": "…"}})),
        put("an excluded one may be this", "/cdmi/box/b")
            .json(OBJECT, &asks(json!(["!US", "*"])))
            .is(403),
    ]);
}
