//! A thousand clients that take their time, and one that does not.

use crate::harness::{self, Server};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Of each of the four kinds.
const CLIENTS: usize = 250;
/// How long they keep it up.
const SIEGE: Duration = Duration::from_secs(45);
/// What the server may have resident.
const RESIDENT_MIB_MAX: u64 = 512;

/// What a slow client is slow at.
#[derive(Clone, Copy)]
enum Slow {
    Head,
    Body,
    LargeReply,
    SmallReply,
}

/// Paths that need no further signature.
struct Paths {
    put: String,
    large: String,
    small: String,
}

fn presigned(server: &Server) -> Paths {
    let script = "import boto3, botocore, os\n\
        v4 = botocore.config.Config(signature_version='s3v4')\n\
        s3 = boto3.client('s3', endpoint_url=os.environ['AWS_ENDPOINT_URL'], config=v4)\n\
        for call, key in (('put_object', 'in'), ('get_object', 'large'), ('get_object', 'small')):\n\
        \x20   print(s3.generate_presigned_url(call, Params={'Bucket': 'data', 'Key': key}))\n";
    let mut python = crate::traffic::tool(server, "python");
    let said = harness::run(python.args(["-c", script])).ok();
    let mut paths = said.lines().map(|url| {
        let rest = url.split_once("://").unwrap().1;
        rest[rest.find('/').unwrap()..].to_owned()
    });
    Paths {
        put: paths.next().unwrap(),
        large: paths.next().unwrap(),
        small: paths.next().unwrap(),
    }
}

fn connect(address: &str, slow: Slow, paths: &Paths) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096);
    let head = match slow {
        Slow::Head => "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_owned(),
        Slow::Body => format!(
            "PUT {} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 10000000\r\n\r\n",
            paths.put
        ),
        Slow::LargeReply => format!("GET {} HTTP/1.1\r\nHost: {address}\r\n\r\n", paths.large),
        Slow::SmallReply => format!("GET {} HTTP/1.1\r\nHost: {address}\r\n\r\n", paths.small),
    };
    stream.write_all(head.as_bytes()).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

/// Keeps its share of slow clients, and opens another for each one that was cut off.
fn besiege(address: &str, slow: Slow, paths: &Paths, over: &AtomicBool) -> usize {
    let mut cut_off = 0;
    let mut clients: Vec<Option<TcpStream>> = Vec::new();
    clients.resize_with(CLIENTS, || connect(address, slow, paths));
    while !over.load(Ordering::Relaxed) {
        for client in &mut clients {
            let alive = match (&mut *client, slow) {
                (Some(stream), Slow::Head | Slow::Body) => stream.write_all(b"x").is_ok(),
                // A byte now and then.
                (Some(stream), _) => match stream.read(&mut [0; 1]) {
                    Ok(count) => count == 1,
                    Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
                },
                (None, _) => false,
            };
            if !alive {
                cut_off += 1;
                *client = connect(address, slow, paths);
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    cut_off
}

/// What a client that behaves gets for `path`.
fn fetch(address: &str, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Open descriptors of the server.
fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .count()
}

fn resident_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

#[test]
fn a_thousand_slow_clients_take_less_than_512_mib_and_a_good_one_is_served() {
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
    let server = Server::start();
    server.infall(&["bucket", "create", "data"]).ok();
    crate::traffic::put(&server, "s3://data/large", 16, 1);
    crate::traffic::put(&server, "s3://data/small", 1, 2);
    let (paths, address, over) = (presigned(&server), server.address(), AtomicBool::new(false));
    assert!(
        fetch(&address, &paths.large).len() > 16 << 20,
        "the signature is good"
    );
    let quiet = open_files(&server);
    let (mut slowest, mut served) = (Duration::ZERO, 0);
    let (mut peak, mut most) = (0, 0);
    std::thread::scope(|scope| {
        for slow in [Slow::Head, Slow::Body, Slow::LargeReply, Slow::SmallReply] {
            scope.spawn({
                let (address, paths, over) = (&address, &paths, &over);
                move || besiege(address, slow, paths, over)
            });
        }
        let watch = scope.spawn(|| {
            let (mut peak, mut most) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(resident_mib(&server));
                most = most.max(open_files(&server).saturating_sub(quiet));
                std::thread::sleep(Duration::from_millis(100));
            }
            (peak, most)
        });
        // Let them all come before the good client does.
        std::thread::sleep(Duration::from_secs(5));
        let until = Instant::now() + SIEGE;
        while Instant::now() < until {
            let began = Instant::now();
            let seed = 10 + served;
            crate::traffic::put(&server, "s3://data/good", 2, seed);
            crate::traffic::get(&server, "s3://data/good", 2, seed);
            server.infall(&["status"]).ok();
            slowest = slowest.max(began.elapsed());
            served += 1;
        }
        over.store(true, Ordering::Relaxed);
        (peak, most) = watch.join().unwrap();
    });
    println!(
        "peak resident: {peak} MiB; {most} connections; {served} times served, the slowest in {slowest:?}"
    );
    assert!(most > 900, "{most} connections at most: that is no siege");
    assert!(peak < RESIDENT_MIB_MAX, "{peak} MiB were resident");
    assert!(
        served > 0 && slowest < Duration::from_secs(60),
        "{served}: {slowest:?}"
    );
}
