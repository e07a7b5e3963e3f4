//! NBD over TCP: tickets, and TLS before them, with nbdinfo, qemu-img and qemu-io.

use super::{tool, with_tls};
use crate::harness::{Done, Server};

/// A volume of 16 MiB on a server with NBD on TCP.
fn volume(server: &Server) {
    server
        .infall(&["volume", "create", "v1", "--length", "16M"])
        .ok();
}

fn attach(server: &Server, more: &[&str]) -> serde_json::Value {
    let mut words = vec!["volume", "attach"];
    words.extend(more);
    server.json(&words)
}

fn text<'a>(made: &'a serde_json::Value, pointer: &str) -> &'a str {
    made.pointer(pointer).unwrap().as_str().unwrap()
}

/// A QEMU tool on what a ticket opens.
fn qemu(program: &str, made: &serde_json::Value, first: &[&str], last: &[&str]) -> Done {
    let words = made["qemu"].as_array().unwrap().iter();
    let mut all: Vec<&str> = first.to_vec();
    all.extend(words.map(|word| word.as_str().unwrap()));
    all.extend(last);
    tool(program, &all)
}

#[test]
fn nothing_opens_without_a_ticket_and_a_ticket_opens_one_export() {
    let server = Server::start_with(&["--nbd-tcp", "127.0.0.1:0"]);
    volume(&server);
    server
        .infall(&["volume", "create", "v2", "--length", "1M"])
        .ok();
    let file = server.file().unwrap();
    let address = file["nbd_tcp"].as_str().unwrap();
    let listed = tool(
        "nbdinfo",
        &["--list", "--json", &format!("nbd://{address}")],
    )
    .ok();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["exports"].as_array().unwrap().len(), 0, "{listed}");
    for name in ["v1", "v1@", "v1@nonsense", ""] {
        let refused = tool("nbdinfo", &[&format!("nbd://{address}/{name}")]);
        assert_ne!(refused.code, 0, "{name}: {refused:?}");
    }
    // In words, where a client shows them.
    let refused = tool("qemu-img", &["info", &format!("nbd://{address}/v1")]);
    assert!(
        refused.stderr.contains("infall volume attach"),
        "{refused:?}"
    );

    let made = attach(&server, &["v1", "--for", "10m"]);
    let uri = text(&made, "/uri");
    assert_eq!(tool("nbdinfo", &["--size", uri]).ok().trim(), "16777216");
    tool(
        "qemu-io",
        &[
            "-f",
            "raw",
            uri,
            "-c",
            "write -P 5 0 1M",
            "-c",
            "read -P 5 0 1M",
        ],
    )
    .ok();
    // Another export's name in front of the same ticket.
    let other = uri.replace("/v1@", "/v2@");
    let refused = tool("qemu-img", &["info", &other]);
    assert!(refused.stderr.contains("another export"), "{refused:?}");
    // The journal and the log know the ticket by its id alone.
    let secret = uri.rsplit_once('@').unwrap().1;
    let events = server.infall(&["events", "--json"]).ok();
    assert!(events.contains(text(&made, "/ticket/id")), "{events}");
    assert!(!events.contains(secret) && !server.log().contains(secret));
}

#[test]
fn a_read_only_ticket_takes_no_writes_and_shares_no_token() {
    let server = Server::start_with(&["--nbd-tcp", "127.0.0.1:0"]);
    volume(&server);
    let read = attach(&server, &["v1", "--read-only"]);
    let uri = text(&read, "/uri");
    let info = tool("nbdinfo", &["--json", uri]).ok();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["exports"][0]["is_read_only"], true);
    let refused = tool("qemu-io", &["-f", "raw", uri, "-c", "write 0 4096"]);
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    // Snapshots, images and objects are never written.
    server
        .infall(&["volume", "snapshot", "v1", "--name", "monday"])
        .ok();
    let snapshot = attach(&server, &["monday"]);
    assert_eq!(snapshot["ticket"]["read_only"], true);
    assert_eq!(
        tool("nbdinfo", &["--size", text(&snapshot, "/uri")])
            .ok()
            .trim(),
        "16777216"
    );
}

#[test]
fn a_revoked_and_an_expired_ticket_open_nothing_more() {
    let server = Server::start_with(&["--nbd-tcp", "127.0.0.1:0"]);
    volume(&server);
    let made = attach(&server, &["v1"]);
    tool("nbdinfo", &["--size", text(&made, "/uri")]).ok();
    let id = text(&made, "/ticket/id");
    assert!(server.infall(&["volume", "tickets"]).ok().contains(id));
    server.infall(&["volume", "revoke", id]).ok();
    server.infall(&["volume", "revoke", id]).fails(4);
    let refused = tool("qemu-img", &["info", text(&made, "/uri")]);
    assert!(refused.stderr.contains("revoked"), "{refused:?}");
    let short = attach(&server, &["v1", "--for", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let refused = tool("qemu-img", &["info", text(&short, "/uri")]);
    assert!(refused.stderr.contains("expired"), "{refused:?}");
    server
        .infall(&["volume", "attach", "v1", "--for", "31d"])
        .fails(9);
    server.infall(&["volume", "attach", "none"]).fails(4);
}

#[test]
fn two_tickets_are_two_writers_and_connections_of_one_are_one() {
    let server = Server::start_with(&["--nbd-tcp", "127.0.0.1:0"]);
    volume(&server);
    let (one, two) = (attach(&server, &["v1"]), attach(&server, &["v1"]));
    let noise = server.scratch().join("noise");
    std::fs::write(&noise, vec![7; 16 << 20]).unwrap();
    let words = [
        "--connections=4",
        "--flush",
        noise.to_str().unwrap(),
        text(&one, "/uri"),
    ];
    tool("nbdcopy", &words).ok();
    // While one writes, the other is told by whom. The holder sleeps with the token in its hands.
    let holding = std::process::Command::new("qemu-io")
        .args([
            "-f",
            "raw",
            text(&one, "/uri"),
            "-c",
            "write 0 4096",
            "-c",
            "sleep 5000",
        ])
        .stdout(std::process::Stdio::null())
        .spawn();
    let mut holding = holding.unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while server.json(&["volume", "show", "v1"])["writer"].is_null() {
        assert!(std::time::Instant::now() < until, "nobody writes");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let shown = server.json(&["volume", "show", "v1"]);
    let writer = shown["writer"].as_str().unwrap();
    assert!(
        writer.contains(text(&one, "/ticket/id")) && writer.contains("root"),
        "{writer}"
    );
    let refused = tool(
        "qemu-io",
        &["-f", "raw", text(&two, "/uri"), "-c", "write 0 4096"],
    );
    assert!(
        refused.stdout.contains("Operation not permitted"),
        "{refused:?}"
    );
    holding.kill().unwrap();
    holding.wait().unwrap();
}

#[test]
fn with_tls_nothing_is_told_before_it_and_everything_goes_through_it() {
    let server = with_tls(&["--nbd-tcp", "127.0.0.1:0"]);
    volume(&server);
    let made = attach(&server, &["v1"]);
    let uri = text(&made, "/uri");
    assert!(
        uri.starts_with("nbds://") && uri.contains("tls-certificates="),
        "{uri}"
    );
    let info = tool("nbdinfo", &[uri]).ok();
    assert!(info.contains("with TLS"), "{info}");
    // The same name in the clear.
    let plain = uri.replace("nbds://", "nbd://");
    let plain = plain.split('?').next().unwrap();
    assert_ne!(tool("nbdinfo", &[plain]).code, 0);
    let refused = tool("qemu-img", &["info", plain]);
    assert!(refused.stderr.contains("TLS"), "{refused:?}");
    // QEMU, by its own words; 16 MiB in many requests at once, there and back.
    let noise = server.scratch().join("noise");
    let bytes: Vec<u8> = (0..16_u32 << 20).map(|n| (n ^ (n >> 7)) as u8).collect();
    std::fs::write(&noise, &bytes).unwrap();
    let back = server.scratch().join("back");
    tool(
        "nbdcopy",
        &["--connections=4", "--flush", noise.to_str().unwrap(), uri],
    )
    .ok();
    qemu(
        "qemu-img",
        &made,
        &["convert", "-O", "raw", "-W", "-m", "16"],
        &[back.to_str().unwrap()],
    )
    .ok();
    assert!(std::fs::read(&back).unwrap() == bytes);
    let script = [
        "-c",
        "aio_write -P 5 0 4M",
        "-c",
        "aio_write -P 6 4M 4M",
        "-c",
        "aio_flush",
    ];
    qemu("qemu-io", &made, &[], &script).ok();
    qemu(
        "qemu-io",
        &made,
        &[],
        &["-c", "read -P 5 0 4M", "-c", "read -P 6 4M 4M"],
    )
    .ok();
    // Who trusts another CA does not believe us.
    let other = server.scratch().join("other");
    let mut program = crate::harness::program(server.scratch());
    crate::harness::run(program.arg("--data").arg(&other).args(["tls", "make"])).ok();
    let (blind, _) = uri.split_once('?').unwrap();
    let blind = format!("{blind}?tls-certificates={}/tls", other.display());
    assert_ne!(tool("nbdinfo", &[&blind]).code, 0);
}

#[test]
fn without_nbd_on_tcp_there_are_no_tickets() {
    let server = Server::start();
    volume(&server);
    let said = server.infall(&["volume", "attach", "v1"]).fails(5);
    assert!(said.contains("--nbd-tcp"), "{said}");
}
