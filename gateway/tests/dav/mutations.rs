//! Headers and bodies made at random of what parsers trip over: whatever comes, the door answers, and
//! never with a failure of its own.

use access::{Access, Credentials};
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use blockstore::{Options, Store};
use gateway::dav::{TransferSettings, router};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tower::ServiceExt;

const METHODS: [&str; 12] = [
    "GET",
    "HEAD",
    "PUT",
    "DELETE",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "OPTIONS",
];
const PATHS: [&str; 8] = [
    "/dav/",
    "/dav/data",
    "/dav/data/k",
    "/dav/data/k/",
    "/dav/data/dir/",
    "/dav/data/dir/k",
    "/dav/data/none",
    "/dav/none/k",
];
const NAMES: [&str; 20] = [
    "if",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-range",
    "range",
    "depth",
    "overwrite",
    "destination",
    "timeout",
    "lock-token",
    "source",
    "want-digest",
    "digest",
    "content-md5",
    "oc-checksum",
    "content-length",
    "content-range",
    "content-type",
    "transferheaderauthorization",
];
const VALUES: [&str; 40] = [
    "",
    " ",
    "*",
    "T",
    "F",
    "0",
    "1",
    "infinity",
    "Infinity, 0",
    "-1",
    "18446744073709551616",
    "\"",
    "\"\"",
    "\"a\", W/\"b\"",
    "(<urn:uuid:x>)",
    "(Not <DAV:no-lock>)",
    "<http://x/dav/data/k> (<urn:uuid:x> [\"a\"]) (Not [\"b\"])",
    "<dav/data> (<x>)",
    "(((((",
    "<>",
    "(<>)",
    "</dav/../x> (<urn:x>)",
    "bytes=0-0",
    "bytes=-0",
    "bytes=5-1",
    "bytes=0-,1-,2-",
    "bytes=18446744073709551615-",
    "bytes=-18446744073709551615",
    "bytes 0-1/2",
    "Second-1",
    "Second-99999999999999999999",
    "Infinite",
    "Second--1",
    "/dav/data/dir/k",
    "/dav/data",
    "http://x/dav/data/%",
    "//x",
    "adler32=zz,md5=",
    "adler32;q=nan, md5;q=inf",
    "Sun, 06 Nov 1994 08:49:37 GMT",
];
const BODIES: [&str; 9] = [
    "",
    "<",
    "x",
    "<a/>",
    "<lockinfo xmlns='DAV:'><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>",
    "<lockinfo xmlns='DAV:'><lockscope/><locktype/><owner>&#0;</owner></lockinfo>",
    "<propertyupdate xmlns='DAV:'><set><prop><a xmlns='urn:a'><b c='&lt;'/></a></prop></set></propertyupdate>",
    "<propertyupdate xmlns='DAV:'><remove><prop><getetag/></prop></remove><x/></propertyupdate>",
    "<propfind xmlns='DAV:'><prop><x xmlns=''/><y xmlns='urn:\u{e9}'/></prop></propfind>",
];

#[test]
fn whatever_comes_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Options::default()).unwrap();
    let credentials = Credentials::generate();
    let access = Access::open(store.clone(), credentials.clone()).unwrap();
    let door = router(store.clone(), access, TransferSettings::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bearer = format!(
        "Bearer {}:{}",
        credentials.access_key, credentials.secret_key
    );
    let ask = |method: &str, path: &str, headers: &[(&str, HeaderValue)], body: String| {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x")
            .header("authorization", &bearer);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Body::from(body)).unwrap();
        runtime.block_on(async {
            let reply = door.clone().oneshot(request).await.unwrap();
            let status = reply.status().as_u16();
            // A body may break off: its reading must end all the same.
            let _ = axum::body::to_bytes(reply.into_body(), 1 << 20).await;
            status
        })
    };
    let some = |all: &'static [&'static str]| proptest::sample::select(all);
    let value = prop_oneof![
        4 => some(&VALUES).prop_map(str::to_owned),
        1 => (some(&VALUES), some(&VALUES)).prop_map(|(one, two)| format!("{one}{two}")),
        1 => proptest::collection::vec(0x20_u8..=0xff, 0..40)
            .prop_map(|bytes| bytes.into_iter().map(char::from).collect()),
    ];
    let case = (
        some(&METHODS),
        some(&PATHS),
        proptest::collection::vec((some(&NAMES), value), 0..4),
        some(&BODIES),
    );
    let mut runner = TestRunner::new(Config {
        cases: 1500,
        failure_persistence: None,
        ..Config::default()
    });
    let done = runner.run(&case, |(method, path, headers, body)| {
        let headers: Vec<(&str, HeaderValue)> = headers
            .into_iter()
            .filter_map(|(name, value)| {
                Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
            })
            .collect();
        let status = ask(method, path, &headers, body.to_owned());
        // 501 and 502 are words of the protocol; 507 would need a quota.
        prop_assert!(
            status < 500 || matches!(status, 501 | 502),
            "{method} {path} {headers:?} {body:?}: {status}"
        );
        // What a case removed is there again for the next.
        for (method, path) in [
            ("MKCOL", "/dav/data"),
            ("MKCOL", "/dav/data/dir/"),
            ("PUT", "/dav/data/k"),
        ] {
            ask(method, path, &[], String::new());
        }
        Ok(())
    });
    if let Err(failure) = done {
        panic!("{failure}");
    }
    assert_eq!(store.check(true).unwrap().problems, Vec::<String>::new());
}
