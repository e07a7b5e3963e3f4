//! The S3 door: peak memory under gibibytes, speed of large bodies, rate of small ones.
//!
//! Memory is measured under the stock `aws` client. Speed is measured with presigned requests over
//! plain HTTP/1.1 from this process, so that no client's own work is measured; their bodies are not
//! signed, and the server checks no checksum of them. No peer is measured here: Garage comes with a
//! later release.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;
#[path = "../tests/traffic/mod.rs"]
mod traffic;

use harness::Server;
use measure::{Figures, Series, gib, need_room};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Instant;
use traffic::{get, put, resident_peak_mib, tool};

const ROUNDS: usize = 3;
const LARGE: usize = 256 << 20;
const SMALL: usize = 4096;
/// Small objects in a round from one client, and from each of eight.
const SMALL_ALONE: usize = 400;
const SMALL_TOGETHER: usize = 200;
const CLIENTS: usize = 8;

fn main() {
    let server = Server::start();
    need_room(server.scratch(), gib() + 5);
    server.infall(&["bucket", "create", "bench"]).ok();
    let mut figures = Figures::default();
    speed(&server, &mut figures);
    memory(&server, &mut figures);
    println!("No peer was measured: Garage comes with a later release.");
    figures.print();
}

/// Objects of 1 GiB in and out.
fn memory(server: &Server, figures: &mut Figures) {
    let gib = gib();
    let before = resident_peak_mib(server);
    let url = |index| format!("s3://bench/memory{index}");
    let begin = Instant::now();
    (0..gib).for_each(|index| put(server, &url(index), 1024, index));
    let put_seconds = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    (0..gib).for_each(|index| get(server, &url(index), 1024, index));
    let get_seconds = begin.elapsed().as_secs_f64();
    let (mb, peak) = ((gib << 30) as f64 / 1e6, resident_peak_mib(server));
    println!(
        "{gib} GiB through aws s3 cp: in at {:.0} MB/s, out at {:.0} MB/s, compared",
        mb / put_seconds,
        mb / get_seconds
    );
    println!("peak resident {peak:.0} MiB, of which {before:.0} MiB were reached before them");
    figures.at_most("s3_peak_resident_mib", peak, 512.0);
}

fn speed(server: &Server, figures: &mut Figures) {
    let [mut put_large, mut get_large, mut alone, mut together]: [Series; 4] = Default::default();
    let body: Vec<u8> = (0..LARGE / 8)
        .flat_map(|word| {
            (word as u64)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_le_bytes()
        })
        .collect();
    for round in 0..ROUNDS {
        eprintln!("speed, round {} of {ROUNDS}", round + 1);
        let large = presign(
            server,
            &[format!("PUT large{round}"), format!("GET large{round}")],
        );
        let begin = Instant::now();
        Client::connect(server).send("PUT", &large[0], &body);
        put_large.push(LARGE as f64 / 1e6 / begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        let back = Client::connect(server).send("GET", &large[1], &[]);
        get_large.push(LARGE as f64 / 1e6 / begin.elapsed().as_secs_f64());
        assert!(back == body, "the object came back changed");

        alone.push(small(server, &format!("alone{round}"), 1, SMALL_ALONE));
        together.push(small(
            server,
            &format!("together{round}"),
            CLIENTS,
            SMALL_TOGETHER,
        ));
    }
    println!("S3, presigned requests, {ROUNDS} rounds in turns: median (least..most)");
    println!("PUT of 256 MiB: {put_large} MB/s");
    println!("GET of 256 MiB: {get_large} MB/s");
    println!("PUT of {SMALL} B: {alone}/s from one client, {together}/s from {CLIENTS}");
    figures.at_least("s3_put_256m_mb_s", put_large.median(), 100.0);
    figures.at_least("s3_get_256m_mb_s", get_large.median(), 200.0);
    figures.at_least("s3_put_4k_one_client_per_s", alone.median(), 100.0);
    figures.at_least("s3_put_4k_eight_clients_per_s", together.median(), 200.0);
}

/// Small objects a second, from clients with a connection each.
fn small(server: &Server, prefix: &str, clients: usize, each: usize) -> f64 {
    let asks: Vec<String> = (0..clients * each)
        .map(|index| format!("PUT {prefix}-{index}"))
        .collect();
    let targets = presign(server, &asks);
    let connected: Vec<Client> = (0..clients).map(|_| Client::connect(server)).collect();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for (mut client, targets) in connected.into_iter().zip(targets.chunks(each)) {
            scope.spawn(move || {
                for (index, target) in targets.iter().enumerate() {
                    client.send("PUT", target, &[index as u8; SMALL]);
                }
            });
        }
    });
    (clients * each) as f64 / begin.elapsed().as_secs_f64()
}

/// Request targets for lines of `METHOD key`, signed by boto3.
fn presign(server: &Server, asks: &[String]) -> Vec<String> {
    const SCRIPT: &str = "\
import sys, boto3, botocore.config
config = botocore.config.Config(signature_version='s3v4', s3={'addressing_style': 'path'})
client = boto3.client('s3', config=config)
names = {'PUT': 'put_object', 'GET': 'get_object'}
for line in sys.stdin.read().splitlines():
    method, key = line.split()
    print(client.generate_presigned_url(names[method], {'Bucket': 'bench', 'Key': key}))
";
    let mut python = tool(server, "python")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(asks.join("\n").as_bytes()).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "signing ended with {}",
        output.status
    );
    let endpoint = server.endpoint();
    let text = String::from_utf8(output.stdout).unwrap();
    let targets: Vec<String> = text
        .lines()
        .map(|url| url.strip_prefix(&endpoint).unwrap().to_owned())
        .collect();
    assert_eq!(targets.len(), asks.len());
    targets
}

/// A connection that is kept, one request at a time.
struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    fn connect(server: &Server) -> Self {
        let host = server.endpoint().trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::with_capacity(1 << 18, stream),
            host,
        }
    }

    /// The body of the reply, which must be that of a success.
    fn send(&mut self, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n", self.host);
        if method == "PUT" {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        if body.len() <= SMALL {
            // In one write, as clients with a buffer do.
            request.extend_from_slice(body);
            self.stream.get_mut().write_all(&request).unwrap();
        } else {
            self.stream.get_mut().write_all(&request).unwrap();
            self.stream.get_mut().write_all(body).unwrap();
        }
        let (status, length) = self.head();
        let mut reply = vec![0; length];
        self.stream.read_exact(&mut reply).unwrap();
        assert!(
            status.contains(" 200 "),
            "{method} {target}: {status}: {}",
            String::from_utf8_lossy(&reply)
        );
        reply
    }

    /// The status line, and how long the body is.
    fn head(&mut self) -> (String, usize) {
        let (mut status, mut length) = (String::new(), 0);
        self.stream.read_line(&mut status).unwrap();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let line = line.trim_end();
            if line.is_empty() {
                return (status, length);
            }
            assert!(
                !line.eq_ignore_ascii_case("transfer-encoding: chunked"),
                "a reply of unknown length"
            );
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
    }
}
