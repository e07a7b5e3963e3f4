//! Plain HTTP at the same names: CDMI 1.1.1, 8.3, 8.5, 8.7; CDMI 2.0.0, "HTTP" clauses.

use crate::lab::{CONTAINER, OBJECT, Server, delete, get, head, other, put};
use serde_json::json;

#[test]
fn bytes_go_in_and_out_without_cdmi() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("8.3: bytes are an object", "/cdmi/box/k").bytes("text/plain; charset=utf-8", "häh").is(201).with("location", "/cdmi/box/k").with("etag", "…"),
        get("8.5: and come back", "/cdmi/box/k")
            .holds("häh")
            .with("content-type", "text/plain; charset=utf-8")
            .with("content-length", "4")
            .with("accept-ranges", "bytes")
            .with("etag", "…")
            .with("last-modified", "…"),
        get("8.3.4: text that says so is text in CDMI", "/cdmi/box/k").accept(OBJECT).shows(json!({"valuetransferencoding": "utf-8", "value": "häh", "mimetype": "text/plain; charset=utf-8"})),
        put("8.3.4: what is not text is not, whatever it says", "/cdmi/box/l").bytes("text/plain; charset=utf-8", *b"\xff").is(201),
        get("so it is base64", "/cdmi/box/l").accept(OBJECT).shows(json!({"valuetransferencoding": "base64", "value": "/w=="})),
        put("without a type", "/cdmi/box/m").is(201),
        get("it is octets", "/cdmi/box/m").with("content-type", "application/octet-stream").holds(*b""),
        head("HEAD", "/cdmi/box/k").with("content-length", "4").holds(*b""),
        get("8.5: a range", "/cdmi/box/k").says("range", "bytes=0-0").is(206).holds(*b"h").with("content-range", "bytes 0-0/4").with("content-length", "1"),
        get("the last bytes", "/cdmi/box/k").says("range", "bytes=-1").is(206).holds(*b"h"),
        get("from the second on", "/cdmi/box/k").says("range", "bytes=3-").is(206).holds(*b"h"),
        get("behind the end", "/cdmi/box/k").says("range", "bytes=4-").is(416).with("content-range", "bytes */4"),
        get("several ranges are the whole", "/cdmi/box/k").says("range", "bytes=0-0,2-2").is(200).holds("häh"),
        get("8.5.1: a range by the query", "/cdmi/box/k?value:3-3").is(200).holds(*b"h"),
        get("8.5.1: a field as JSON", "/cdmi/box/k?objectName").with("content-type", "application/json").shows(json!({"objectName": "k"})),
        get("a cut character is refused in CDMI, not in bytes", "/cdmi/box/k?value:2-2").accept(OBJECT).is(400),
        get("a type that is not taken is 406", "/cdmi/box/k").accept("image/png").is(406),
        get("a family that is", "/cdmi/box/k").accept("image/png, text/*").is(200),
        put("8.7: new bytes keep metadata", "/cdmi/box/k").json(OBJECT, &json!({"metadata": {"a": "1"}})).is(204),
        put("8.7: new bytes", "/cdmi/box/k").bytes("application/x-new", *b"new bytes").is(204).with("etag", "…"),
        get("so it is", "/cdmi/box/k?metadata;mimetype;value").accept(OBJECT).shows(json!({"metadata": {"a": "1"}, "mimetype": "application/x-new", "value": "bmV3IGJ5dGVz"})),
        put("8.7: a range by Content-Range", "/cdmi/box/k").says("content-range", "bytes 0-2/9").bytes("application/octet-stream", *b"NEW").is(204),
        get("so it is", "/cdmi/box/k").holds(*b"NEW bytes").with("content-type", "application/x-new"),
        put("a range by the query", "/cdmi/box/k?value:9-9").bytes("application/octet-stream", *b"!").is(204),
        get("so it is", "/cdmi/box/k").holds(*b"NEW bytes!"),
        put("a body that does not fit its range", "/cdmi/box/k").says("content-range", "bytes 0-5/9").bytes("application/octet-stream", *b"x").is(400),
        put("a range that is none", "/cdmi/box/k").says("content-range", "bytes 5-0/9").bytes("application/octet-stream", *b"x").is(400),
        get("9.5: a container by plain HTTP", "/cdmi/box/").with("content-type", CONTAINER).shows(json!({"children": ["k", "l", "m"]})),
        put("bytes have no place in the root", "/cdmi/k").bytes("text/plain", *b"x").is(400),
        other("OPTIONS", "what CDMI has not", "/cdmi/box/k").is(405),
        delete("8.8", "/cdmi/box/k").is(204),
    ]);
}

#[test]
fn conditions_of_http_hold() {
    let server = Server::start();
    server.expect(put("a bucket", "/cdmi/box/").is(201));
    let made = server.expect(
        put("bytes", "/cdmi/box/k")
            .bytes("text/plain", *b"x")
            .is(201),
    );
    let etag = made.header("etag").unwrap();
    let read = server.expect(get("read", "/cdmi/box/k"));
    let modified = read.header("last-modified").unwrap();
    server.walk(vec![
        get("RFC 9110, 13.1.2: known", "/cdmi/box/k")
            .says("if-none-match", etag)
            .is(304)
            .holds(*b""),
        get("RFC 9110, 13.1.2: another", "/cdmi/box/k")
            .says("if-none-match", "\"x\"")
            .is(200),
        get("RFC 9110, 13.1.1: this one", "/cdmi/box/k")
            .says("if-match", etag)
            .is(200),
        get("RFC 9110, 13.1.1: another", "/cdmi/box/k")
            .says("if-match", "\"x\"")
            .is(412),
        get("RFC 9110, 13.1.3: not since", "/cdmi/box/k")
            .says("if-modified-since", modified)
            .is(304),
        get("RFC 9110, 13.1.4: since long", "/cdmi/box/k")
            .says("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")
            .is(412),
        get("RFC 9110, 13.1.5: the range of this one", "/cdmi/box/k")
            .says("if-range", etag)
            .says("range", "bytes=0-0")
            .is(206),
        get("RFC 9110, 13.1.5: the whole of another", "/cdmi/box/k")
            .says("if-range", "\"x\"")
            .says("range", "bytes=0-0")
            .is(200),
    ]);
}

#[test]
fn a_large_value_travels_by_both_forms() {
    let server = Server::start();
    server.expect(put("a bucket", "/cdmi/box/").is(201));
    // Larger than what is held at once, and of three-byte characters, so that pieces cut them.
    let text = "\u{20ac}uro\n".repeat(500_000);
    server.walk(vec![
        put("bytes", "/cdmi/box/large")
            .bytes("text/plain; charset=utf-8", text.clone())
            .is(201),
        get("the same bytes", "/cdmi/box/large").holds(text.clone()),
        get(
            "a range across pieces",
            "/cdmi/box/large?value:786429-786440",
        )
        .is(200)
        .holds(text.as_bytes()[786_429..786_441].to_vec()),
        get("the same text in JSON", "/cdmi/box/large?value")
            .accept(OBJECT)
            .shows(json!({"value": text})),
        put("more than a CDMI body holds", "/cdmi/box/more")
            .json(OBJECT, &json!({"value": "x".repeat(9 << 20)}))
            .is(413),
        put(
            "a part in the middle",
            "/cdmi/box/large?value:1500000-1500002",
        )
        .bytes("application/octet-stream", *b"abc")
        .is(204),
        get("is there", "/cdmi/box/large?value:1500000-1500002")
            .says("accept", "*/*")
            .is(200)
            .holds(*b"abc"),
    ]);
    let mut expected = text.into_bytes();
    expected[1_500_000..1_500_003].copy_from_slice(b"abc");
    server.expect(get("and the rest is as it was", "/cdmi/box/large").holds(expected));
}
