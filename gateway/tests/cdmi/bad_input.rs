//! What nobody should send: refused in words, bounded, and nothing is made of it.

use crate::lab::{CONTAINER, OBJECT, Server, VERSION, get, put};
use serde_json::json;

#[test]
fn nothing_is_told_to_those_who_show_no_valid_key() {
    let server = Server::start();
    let pair = format!(
        "{}:{}",
        server.credentials.access_key, server.credentials.secret_key
    );
    let basic = |pair: &str| {
        use base64::Engine;
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(pair)
        )
    };
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("an object", "/cdmi/box/k")
            .bytes("text/plain", *b"x")
            .is(201),
        get("nobody asks", "/cdmi/box/k")
            .anonymous()
            .is(401)
            .with("www-authenticate", "…")
            .shows(json!({"error": {"kind": "denied", "message": "…"}})),
        get("nobody asks for what is not there", "/cdmi/box/none")
            .anonymous()
            .is(401),
        get("nobody lists", "/cdmi/").anonymous().is(401),
        put("nobody writes", "/cdmi/box/k")
            .anonymous()
            .bytes("text/plain", *b"y")
            .is(401),
        get("the wrong secret", "/cdmi/box/k")
            .anonymous()
            .says("authorization", &basic(&format!("{pair}x")))
            .is(401),
        get("no pair", "/cdmi/box/k")
            .anonymous()
            .says("authorization", "Basic !!!")
            .is(401),
        get("another scheme", "/cdmi/box/k")
            .anonymous()
            .says("authorization", "Digest x")
            .is(401),
        get("Basic shows the same as Bearer", "/cdmi/box/k")
            .anonymous()
            .says("authorization", &basic(&pair))
            .holds(*b"x"),
        get("two of them", "/cdmi/box/k")
            .says("authorization", &basic(&pair))
            .is(401),
    ]);
}

#[test]
fn bodies_that_are_not_of_the_standard_are_refused_and_nothing_is_made() {
    let server = Server::start();
    server.expect(put("a bucket", "/cdmi/box/").is(201));
    let deep = format!(
        "{{\"metadata\":{{\"a\":{}{}}}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let wide = format!("{{\"metadata\":{{\"a\":[{}1]}}}}", "1,".repeat(300_000));
    let items: serde_json::Map<_, _> = (0..300).map(|n| (n.to_string(), json!("v"))).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no JSON", b"{".to_vec()),
        ("an array", b"[]".to_vec()),
        ("a number", b"7".to_vec()),
        ("not UTF-8", b"{\"value\":\"\xff\"}".to_vec()),
        ("something behind", b"{} {}".to_vec()),
        ("a member twice", br#"{"value":"a","value":"b"}"#.to_vec()),
        (
            "metadata twice",
            br#"{"metadata":{"a":"1","a":"2"}}"#.to_vec(),
        ),
        ("a member nobody knows", br#"{"vlaue":"a"}"#.to_vec()),
        ("half a surrogate", br#"{"value":"\ud800"}"#.to_vec()),
        ("bottomless", deep.into_bytes()),
        ("endless", wide.into_bytes()),
        ("metadata that is none", br#"{"metadata":[]}"#.to_vec()),
        (
            "a name without letters",
            br#"{"metadata":{"":"v"}}"#.to_vec(),
        ),
        (
            "a name with a line end",
            br#"{"metadata":{"a\nb":"v"}}"#.to_vec(),
        ),
        (
            "a name of the standard's that it has not",
            br#"{"metadata":{"cdmi_own":"v"}}"#.to_vec(),
        ),
        (
            "too many items",
            json!({"metadata": items}).to_string().into_bytes(),
        ),
        (
            "too large an item",
            json!({"metadata": {"a": "x".repeat(10_000)}})
                .to_string()
                .into_bytes(),
        ),
        (
            "too long a name",
            json!({"metadata": {"x".repeat(300): "v"}})
                .to_string()
                .into_bytes(),
        ),
    ];
    let mut rows = Vec::new();
    for (claim, body) in cases {
        rows.push(
            put(claim, "/cdmi/box/bad")
                .bytes(OBJECT, body.clone())
                .is(400)
                .shows(json!({"error": {"kind": "invalid", "message": "…"}})),
        );
        rows.push(put(claim, "/cdmi/box/bad/").bytes(CONTAINER, body).is(400));
    }
    rows.push(
        get("nothing was made", "/cdmi/box/?children")
            .accept(CONTAINER)
            .shows(json!({"children": []})),
    );
    server.walk(rows);
}

#[test]
fn paths_queries_and_headers_that_are_malformed_are_refused() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        get("half an escape", "/cdmi/box/%4").is(400),
        get("not UTF-8", "/cdmi/box/%FF").is(400),
        get("a version nobody has", "/cdmi/box/")
            .says(VERSION, "9.9.9")
            .is(400),
        get("a range backwards", "/cdmi/box/k?value:9-1").is(400),
        get("a range of another sort", "/cdmi/box/k?value:a-b").is(400),
        get(
            "a number that does not fit",
            "/cdmi/box/k?value:0-99999999999999999999",
        )
        .is(400),
        get(
            "the query of another protocol",
            "/cdmi/box/?list-type=2&prefix=x",
        )
        .is(400),
        get(
            "too many fields",
            &format!("/cdmi/box/?{}", "children;".repeat(100)),
        )
        .is(400),
        put(
            "a range at the end of all numbers",
            "/cdmi/box/k?value:18446744073709551615-18446744073709551615",
        )
        .json(OBJECT, &json!({"value": "x"}))
        .is(400),
        put(
            "a range behind the largest object",
            "/cdmi/box/k?value:9999999999999999-9999999999999999",
        )
        .json(OBJECT, &json!({"value": "x"}))
        .is(400),
        put("too long a key", &format!("/cdmi/box/{}", "k".repeat(1100)))
            .json(OBJECT, &json!({"value": "x"}))
            .is(400),
        get("dots are no way up", "/cdmi/box/..%2F..%2Fetc%2Fpasswd").is(404),
        get("nothing was made", "/cdmi/box/?children")
            .accept(CONTAINER)
            .shows(json!({"children": []})),
    ]);
}
