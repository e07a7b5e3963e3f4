//! A fuzzer walks the description of the JSON API: whatever is sent, the answer is one of the API's own,
//! never a failure of the server's.
//!
//! INFALL_FUZZ_SECONDS says how long (20 by default), INFALL_FUZZ_SEED repeats a walk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

use harness::Server;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Names that some layer below might take for something else.
const HOSTILE: &[&str] = &[
    "",
    ".",
    "..",
    "/",
    "a/b",
    "../../etc/passwd",
    "%2e%2e",
    "%00",
    "\u{0}",
    "a\nb",
    "*",
    "?",
    "#",
    "~",
    "root",
    "infall",
    "snap-0",
    "ключ",
    "\u{202e}",
    "💾",
    "' or 1=1",
    "{volume}",
    "s3://",
    "s3://b",
    "s3://bucket/key",
    "arn:aws:iam::root:root",
    "arn:aws:s3:::*",
    "-1",
    "0",
    "18446744073709551616",
    "1e400",
    "NaN",
    "null",
    "true",
    "known",
    "bucket",
];

/// One walker: where it is, and what it knows.
struct Walk {
    random: StdRng,
    address: String,
    document: Value,
}

impl Walk {
    fn word(&mut self) -> String {
        match self.random.random_range(0..8) {
            0 => "x".repeat(self.random.random_range(1..5000)),
            1 => {
                let length = self.random.random_range(1..12);
                (0..length)
                    .map(|_| char::from(self.random.random_range(b' '..b'~')))
                    .collect()
            }
            2..5 => "known".to_owned(),
            _ => (*HOSTILE.choose(&mut self.random).unwrap()).to_owned(),
        }
    }

    fn number(&mut self) -> Value {
        let numbers = [
            json!(0),
            json!(1),
            json!(-1),
            json!(4096),
            json!(1 << 20),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1.5),
            json!(1e300),
            json!("7"),
        ];
        numbers.choose(&mut self.random).unwrap().clone()
    }

    fn any(&mut self, depth: usize) -> Value {
        match self.random.random_range(0..7) {
            0 => Value::Null,
            1 => json!(self.random.random_bool(0.5)),
            2 => self.number(),
            3 if depth > 0 => (0..self.random.random_range(0..4))
                .map(|_| self.any(depth - 1))
                .collect(),
            4 if depth > 0 => {
                let fields = self.random.random_range(0..4);
                (0..fields)
                    .map(|_| (self.word(), self.any(depth - 1)))
                    .collect::<Map<_, _>>()
                    .into()
            }
            _ => json!(self.word()),
        }
    }

    /// Something like what the schema wants; now and then something else.
    fn like(&mut self, schema: &Value, depth: usize) -> Value {
        if depth == 0 || self.random.random_ratio(1, 12) {
            return self.any(3);
        }
        if let Some(name) = schema["$ref"].as_str() {
            let pointer = name.trim_start_matches('#');
            let schema = self.document.pointer(pointer).unwrap().clone();
            return self.like(&schema, depth - 1);
        }
        for either in ["oneOf", "anyOf", "allOf"] {
            if let Some(schemas) = schema[either].as_array() {
                let chosen = schemas.choose(&mut self.random).unwrap().clone();
                return self.like(&chosen, depth - 1);
            }
        }
        if let Some(values) = schema["enum"].as_array() {
            return values.choose(&mut self.random).unwrap().clone();
        }
        match schema["type"].as_str() {
            Some("object") => {
                let mut made = Map::new();
                for (name, field) in schema["properties"]
                    .as_object()
                    .cloned()
                    .unwrap_or_default()
                {
                    if self.random.random_ratio(4, 5) {
                        let value = self.like(&field, depth - 1);
                        made.insert(name, value);
                    }
                }
                if self.random.random_ratio(1, 10) {
                    made.insert(self.word(), self.any(2));
                }
                made.into()
            }
            Some("array") => {
                let items = schema["items"].clone();
                (0..self.random.random_range(0..3))
                    .map(|_| self.like(&items, depth - 1))
                    .collect()
            }
            Some("integer" | "number") => self.number(),
            Some("boolean") => json!(self.random.random_bool(0.5)),
            _ => json!(self.word()),
        }
    }

    /// A request for an operation of the description: its line, and its body.
    fn request(&mut self) -> (String, String, Vec<u8>) {
        let paths = self.document["paths"].as_object().unwrap();
        let (path, item) = paths
            .iter()
            .collect::<Vec<_>>()
            .choose(&mut self.random)
            .copied()
            .unwrap();
        let (path, item) = (path.clone(), item.clone());
        if path == "/hosts/probe" {
            // It boots a machine.
            return self.request();
        }
        let methods: Vec<&String> = item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
            .collect();
        let method = (*methods.choose(&mut self.random).unwrap()).clone();
        let operation = item[&method].clone();
        let mut target = path;
        let mut query = Vec::new();
        let parameters = [&item["parameters"], &operation["parameters"]];
        for parameter in parameters.into_iter().filter_map(Value::as_array).flatten() {
            let parameter = match parameter["$ref"].as_str() {
                Some(name) => self
                    .document
                    .pointer(name.trim_start_matches('#'))
                    .unwrap()
                    .clone(),
                None => parameter.clone(),
            };
            let name = parameter["name"].as_str().unwrap();
            let value = match parameter["schema"]["type"].as_str() {
                Some("integer") => self.number().to_string(),
                _ => self.word(),
            };
            let value = encoded(&value);
            if parameter["in"] == "path" {
                target = target.replace(&format!("{{{name}}}"), &value);
            // Nobody waits here.
            } else if !name.contains("wait") && self.random.random_bool(0.5) {
                query.push(format!("{name}={value}"));
            }
        }
        if !query.is_empty() {
            target = format!("{target}?{}", query.join("&"));
        }
        let schema = operation
            .pointer("/requestBody/content/application~1json/schema")
            .cloned();
        let body = match schema {
            Some(schema) if self.random.random_ratio(9, 10) => {
                let mut made = self.like(&schema, 8);
                // A mount is made where the asker says: here only where there is nothing.
                if let Some(place) = made
                    .get_mut("path")
                    .filter(|_| target.starts_with("/mounts"))
                {
                    *place = json!("/nowhere/at/all");
                }
                let mut bytes = serde_json::to_vec(&made).unwrap();
                if self.random.random_ratio(1, 20) && !bytes.is_empty() {
                    let at = self.random.random_range(0..bytes.len());
                    bytes[at] = self.random.random();
                }
                bytes
            }
            Some(_) => vec![b'['; self.random.random_range(0..4000)],
            None => Vec::new(),
        };
        (method.to_uppercase(), target, body)
    }

    fn send(&self, bearer: &str, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let head = format!(
            "{method} /api/v1{target} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {bearer}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        let mut answer = Vec::new();
        // A refusal may come before everything is sent.
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer to {method} {target}"));
        let status = std::str::from_utf8(&answer[9..12])
            .unwrap()
            .parse()
            .unwrap();
        (status, answer.split_off(end + 4))
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[test]
fn whatever_is_asked_of_the_api_is_answered_in_its_own_words() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seed = number("INFALL_FUZZ_SEED").unwrap_or_else(rand::random);
    let patience = Duration::from_secs(number("INFALL_FUZZ_SECONDS").unwrap_or(20));
    println!("INFALL_FUZZ_SEED={seed}");
    let server = Server::start();
    server.infall(&["bucket", "create", "known"]).ok();
    server
        .infall(&["volume", "create", "known", "--length", "1M"])
        .ok();
    server.infall(&["project", "create", "known"]).ok();
    let made = server.json(&["user", "create", "known/known", "--key"]);
    let key = |name: &str| made["key"][name].as_str().unwrap_or_default().to_owned();
    let (access, secret) = server.credentials();
    let bearers = [
        format!("{access}:{secret}"),
        format!("{}:{}", key("access_key"), key("secret_key")),
        "nobody:nothing".to_owned(),
    ];
    let mut walk = Walk {
        random: StdRng::seed_from_u64(seed),
        address: server.address(),
        document: serde_json::from_str(gateway::api::OPENAPI).unwrap(),
    };
    let begun = Instant::now();
    let (mut asked, mut done) = (0, 0);
    while begun.elapsed() < patience {
        let (method, target, body) = walk.request();
        let bearer = &bearers[if walk.random.random_ratio(2, 3) {
            0
        } else {
            walk.random.random_range(1..3)
        }];
        let (status, answer) = walk.send(bearer, &method, &target, &body);
        asked += 1;
        done += u32::from(status < 300);
        let what = || {
            format!(
                "seed {seed}: {method} {target} {} → {status} {}",
                String::from_utf8_lossy(&body),
                String::from_utf8_lossy(&answer)
            )
        };
        assert!(
            status < 500 || status == 503 || status == 501 || status == 507,
            "{}",
            what()
        );
        if status >= 400 {
            let reply: Value =
                serde_json::from_slice(&answer).unwrap_or_else(|_| panic!("{}", what()));
            assert!(reply["error"]["message"].is_string(), "{}", what());
        }
        if bearer.starts_with("nobody") {
            assert_eq!(status, 401, "{}", what());
        }
    }
    println!("FUZZ json-api {asked} requests, {done} done, seed {seed}");
    assert!(asked > 30 && done > 0, "{asked} asked, {done} done");
    server.infall(&["status"]).ok();
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
