//! The program as a user meets it: help, errors, exit codes, start and stop.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

use harness::{Server, program, run};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

/// Bytes that no image detection takes for anything but a raw disk.
fn raw_disk(server: &Server) -> String {
    let path = server.scratch().join("tiny.raw");
    let bytes: Vec<u8> = (0..1u32 << 20).map(|n| (n / 4096 + 1) as u8).collect();
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// A server with the image `debian-12`.
fn with_image() -> Server {
    let server = Server::start();
    server.infall(&["bucket", "create", "images"]).ok();
    server
        .infall(&["stage", "put", &raw_disk(&server), "s3://images/tiny.raw"])
        .ok();
    server
        .infall(&[
            "image",
            "add",
            "s3://images/tiny.raw",
            "--name",
            "debian-12",
        ])
        .ok();
    server
}

#[test]
fn every_command_teaches_by_example_in_its_help() {
    fn walk(path: &mut Vec<String>, seen: &mut usize) {
        let mut command = program(std::path::Path::new("/"));
        let help = run(command.args(&*path).arg("--help")).ok();
        let verbs: Vec<String> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| line.starts_with("  "))
            .filter(|line| !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|verb| *verb != "help")
            .map(str::to_owned)
            .collect();
        // A noun's examples are its verbs'.
        if verbs.is_empty() || path.is_empty() {
            let words = path.join(" ");
            assert!(
                help.contains("Examples:"),
                "infall {words} --help has no examples"
            );
            *seen += 1;
        }
        for verb in verbs {
            path.push(verb);
            walk(path, seen);
            path.pop();
        }
    }
    let mut seen = 0;
    walk(&mut Vec::new(), &mut seen);
    assert!(seen > 35, "only {seen} commands were found");
}

#[test]
fn exit_codes_are_documented() {
    let help = run(program(std::path::Path::new("/")).args(["help", "exit-codes"])).ok();
    for code in 0..=9 {
        assert!(
            help.lines()
                .any(|line| line.trim_start().starts_with(&format!("{code}  "))),
            "{code}: {help}"
        );
    }
}

#[test]
fn a_misspelt_image_is_answered_with_the_nearest_and_exit_code_4() {
    let server = with_image();
    let expected = "error: no image \"debain-12\" (nearest: debian-12). List them: infall image ls       [exit 4]\n";
    assert_eq!(
        server.infall(&["image", "show", "debain-12"]).fails(4),
        expected
    );
    let create = ["volume", "create", "root1", "--image", "debain-12"];
    assert_eq!(server.infall(&create).fails(4), expected);
    let json = server
        .infall(&["image", "show", "debain-12", "--json"])
        .fails(4);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["error"]["kind"], "not_found");
    assert_eq!(json["error"]["nearest"], "debian-12");
    assert_eq!(json["exit"], 4);
}

#[test]
fn each_sort_of_failure_has_its_exit_code() {
    let server = Server::start();
    server.infall(&["bucket", "create", "images"]).ok();
    for (words, code) in [
        (vec!["volume", "create", "v"], 2),
        (vec!["no-such-verb"], 2),
        (vec!["volume", "resize", "v", "lots"], 2),
        (vec!["--endpoint", "http://127.0.0.1:1", "volume", "ls"], 3),
        (vec!["volume", "show", "nothing"], 4),
        (vec!["bucket", "create", "images"], 5),
        (vec!["volume", "create", "v", "--length", "5000"], 9),
    ] {
        let done = server.infall(&words);
        assert_eq!(done.code, code, "{words:?}: {}", done.stderr);
        if code != 2 || done.stderr.contains("[exit") {
            assert!(
                done.stderr.ends_with(&format!("[exit {code}]\n")),
                "{}",
                done.stderr
            );
        }
    }
    let mut command = program(server.scratch());
    command.args(["--endpoint", &server.endpoint(), "volume", "ls"]);
    let denied = run(command
        .env("INFALL_ACCESS_KEY", "INF4x")
        .env("INFALL_SECRET_KEY", "y"))
    .fails(6);
    assert!(denied.contains("does not know this key"), "{denied}");
}

#[test]
fn without_a_server_every_command_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    for words in [["volume", "ls"], ["image", "ls"], ["store", "status"]] {
        let mut command = program(folder.path());
        let said = run(command.arg("--data").arg(folder.path()).args(words)).fails(3);
        assert!(said.contains("infall serve"), "{said}");
    }
}

#[test]
fn a_second_server_on_the_directory_is_refused_and_the_first_goes_on() {
    let server = Server::start();
    let before = server.file();
    let said = server
        .infall(&["serve", "--listen", "127.0.0.1:0"])
        .fails(5);
    assert!(said.contains("[exit 5]"), "{said}");
    assert_eq!(server.file(), before);
    server.infall(&["status"]).ok();
}

#[test]
fn a_taken_port_is_a_conflict_that_names_the_way_out() {
    let server = Server::start();
    let taken = server.endpoint();
    let other = tempfile::tempdir().unwrap();
    let mut command = program(other.path());
    command
        .arg("--data")
        .arg(other.path().join("d"))
        .args(["serve", "--listen"]);
    let said = run(command.arg(taken.trim_start_matches("http://"))).fails(5);
    assert!(said.contains("--listen 127.0.0.1:0"), "{said}");
}

#[test]
fn off_loopback_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    for words in [["--listen", "0.0.0.0:0"], ["--nbd-tcp", "[::]:0"]] {
        let mut command = program(folder.path());
        let said = run(command
            .arg("--data")
            .arg(folder.path().join("d"))
            .arg("serve")
            .args(words))
        .fails(2);
        assert!(said.contains("TLS"), "{said}");
    }
    assert!(!folder.path().join("d").exists());
}

#[test]
fn a_stop_is_clean_and_a_start_finds_everything_again() {
    let mut server = Server::start();
    let (key, _) = server.credentials();
    assert!(server.log().contains("shown this once"), "{}", server.log());
    server
        .infall(&["volume", "create", "root1", "--length", "64MiB"])
        .ok();
    assert!(server.stop().success());
    assert!(server.file().is_none(), "server.json stays behind");
    assert!(!server.data().join("nbd.sock").exists());
    server.restart();
    assert_eq!(server.credentials().0, key);
    assert_eq!(server.log().matches("shown this once").count(), 1);
    assert_eq!(
        server.json(&["volume", "show", "root1"])["length_bytes"],
        64 << 20
    );
}

#[test]
fn a_killed_server_loses_nothing_it_answered() {
    let mut server = with_image();
    server
        .infall(&["volume", "create", "root1", "--image", "debian-12"])
        .ok();
    server
        .infall(&[
            "volume",
            "snapshot",
            "root1",
            "--name",
            "a",
            "--as",
            "s3://images/a.raw",
        ])
        .ok();
    server.kill();
    let said = server.infall(&["volume", "ls"]).fails(3);
    assert!(said.contains("infall serve"), "{said}");
    let report = server.json(&["check", "--scrub"]);
    assert_eq!(report["problems"], serde_json::json!([]), "offline");
    server.restart();
    assert_eq!(
        server.json(&["volume", "ls"])["volumes"][0]["origin"],
        "image:debian-12"
    );
    assert_eq!(
        server.json(&["snapshot", "show", "a"])["published"],
        "s3://images/a.raw"
    );
    let report = server.json(&["check", "--scrub"]);
    assert_eq!(report["problems"], serde_json::json!([]), "online");
}

#[test]
fn a_clone_shares_everything_and_says_so() {
    let server = with_image();
    let before = server.json(&["store", "status"])["stats"].clone();
    let made = server.json(&["volume", "create", "root1", "--image", "debian-12"]);
    assert_eq!(made["copied"]["rewritten_bytes"], 0);
    assert_eq!(made["volume"]["length_bytes"], 1 << 20);
    let after = server.json(&["store", "status"])["stats"].clone();
    for cause in [
        "written_client_bytes",
        "written_copy_bytes",
        "written_collect_bytes",
    ] {
        assert_eq!(before[cause], after[cause], "{cause}");
    }
}

#[test]
fn the_event_log_is_read_by_cursor() {
    let server = Server::start();
    server
        .infall(&["volume", "create", "a", "--length", "1MiB"])
        .ok();
    server
        .infall(&["volume", "create", "b", "--length", "1MiB"])
        .ok();
    let lines = server.infall(&["events", "--json"]).ok();
    let events: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let made: Vec<&Value> = events
        .iter()
        .filter(|event| event["kind"] == "volume.created")
        .collect();
    assert_eq!(made.len(), 2, "{lines}");
    assert_eq!(
        (&made[0]["subject"], &made[0]["actor"]),
        (&"a".into(), &"root".into())
    );
    let after = made[0]["seq"].to_string();
    let rest = server.infall(&["events", "--json", "--after", &after]).ok();
    assert!(
        rest.contains("\"b\"") && !rest.contains("\"subject\":\"a\""),
        "{rest}"
    );
    let one = server.infall(&["events", "--json", "--max", "1"]).ok();
    assert_eq!(one.lines().count(), 1);
}

#[test]
fn variables_for_other_clients_are_ready_for_a_shell() {
    let server = Server::start();
    let text = server.infall(&["env"]).ok();
    let (key, secret) = server.credentials();
    for line in [
        format!("export AWS_ACCESS_KEY_ID={key}"),
        format!("export AWS_SECRET_ACCESS_KEY={secret}"),
        "export AWS_DEFAULT_REGION=infall".into(),
        format!("export AWS_ENDPOINT_URL={}", server.endpoint()),
        "export RCLONE_CONFIG_INFALL_TYPE=s3".into(),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    assert_eq!(server.json(&["env"])["AWS_ACCESS_KEY_ID"], key.as_str());
}

#[test]
fn an_nbd_url_names_the_kind_of_export_and_the_socket() {
    let server = with_image();
    server
        .infall(&["volume", "create", "root1", "--image", "debian-12"])
        .ok();
    server
        .infall(&["volume", "snapshot", "root1", "--name", "monday"])
        .ok();
    let socket = server
        .data()
        .canonicalize()
        .unwrap()
        .join("nbd.sock")
        .display()
        .to_string();
    for (name, export) in [
        ("root1", "root1"),
        ("monday", "snapshot:monday"),
        ("debian-12", "image:debian-12"),
    ] {
        let url = server.infall(&["volume", "url", name]).ok();
        assert_eq!(url.trim(), format!("nbd+unix:///{export}?socket={socket}"));
    }
    let said = server.infall(&["volume", "url", "root2"]).fails(4);
    assert!(said.contains("(nearest: root1)"), "{said}");
}

#[test]
fn status_is_one_line() {
    let server = Server::start();
    let text = server.infall(&["status"]).ok();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("healthy · 1 node · "), "{text}");
    assert!(text.contains("0 objects"), "{text}");
}

#[test]
fn settings_say_where_they_come_from_and_unknown_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("infall.toml");
    std::fs::write(&file, "[serve]\nregion = \"eu-1\"\n").unwrap();
    let check = |text: Option<&str>| {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let mut command = program(folder.path());
        run(command
            .env("INFALL_LISTEN", "127.0.0.1:7")
            .arg("--config")
            .arg(&file)
            .args(["config", "check"]))
    };
    let text = check(None).ok();
    let row = |key: &str| {
        text.lines()
            .find(|line| line.starts_with(key))
            .unwrap()
            .to_owned()
    };
    assert!(row("serve.region").contains("file"), "{text}");
    assert!(row("serve.listen").contains("$INFALL_LISTEN"), "{text}");
    assert!(row("vm.uri").contains("default"), "{text}");
    let said = check(Some("[serve]\nregoin = \"eu-1\"\n")).fails(2);
    assert!(
        said.contains("(nearest: serve.region)") && said.contains("infall.toml"),
        "{said}"
    );
}

/// One request, as bytes; the whole answer.
fn http(server: &Server, head: &str) -> String {
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "{head}\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_api_answers_nothing_without_a_key_and_errors_in_one_shape() {
    let server = Server::start();
    for path in ["/api/v1/volumes", "/api/v1/no/such", "/api/v1/openapi.json"] {
        let answer = http(&server, &format!("GET {path} HTTP/1.1"));
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains("\"kind\":\"denied\""), "{answer}");
        assert!(answer.to_lowercase().contains("x-request-id: "), "{answer}");
    }
    let (key, secret) = server.credentials();
    let bearer = format!("Authorization: Bearer {key}:{secret}");
    for (request, status, kind) in [
        ("GET /api/v1/volumes/none HTTP/1.1", "404", "not_found"),
        ("GET /api/v1/no/such HTTP/1.1", "404", "not_found"),
        ("PUT /api/v1/volumes HTTP/1.1", "405", "unsupported"),
        ("GET /api/v1/events?affter=1 HTTP/1.1", "400", "invalid"),
        ("POST /api/v1/volumes HTTP/1.1", "415", "invalid"),
    ] {
        let answer = http(&server, &format!("{request}\r\n{bearer}"));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        assert!(
            answer.contains(&format!("\"kind\":\"{kind}\"")),
            "{request}: {answer}"
        );
    }
    let document = http(
        &server,
        &format!("GET /api/v1/openapi.json HTTP/1.1\r\n{bearer}"),
    );
    assert!(document.contains("\"openapi\": \"3.1.0\""), "{document}");
}

#[test]
fn a_request_id_ties_the_answer_to_the_journal() {
    let server = Server::start();
    let (key, secret) = server.credentials();
    let body = r#"{"name":"v1","length_bytes":1048576}"#;
    let head = format!(
        "POST /api/v1/volumes HTTP/1.1\r\nAuthorization: Bearer {key}:{secret}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\nHost: x\r\n\r\n{body}",
        body.len()
    );
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let id = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id: "))
        .unwrap()
        .trim();
    assert!(server.infall(&["events", "--json"]).ok().contains(id));
}

#[test]
fn the_api_document_lists_what_is_answered_and_nothing_else() {
    let server = Server::start();
    let (key, secret) = server.credentials();
    let bearer = format!("Authorization: Bearer {key}:{secret}");
    let answer = http(
        &server,
        &format!("GET /api/v1/openapi.json HTTP/1.1\r\n{bearer}"),
    );
    let document: Value = serde_json::from_str(&answer[answer.find('{').unwrap()..]).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20, "{}", paths.len());
    for (path, item) in paths {
        let mut listed: Vec<String> = item
            .as_object()
            .unwrap()
            .keys()
            .map(|key| key.to_uppercase())
            .collect();
        listed.retain(|method| method != "PARAMETERS");
        listed.sort();
        // A method that nobody answers: the refusal says which ones somebody does.
        let refusal = http(
            &server,
            &format!("PATCH /api/v1{path} HTTP/1.1\r\n{bearer}"),
        );
        assert!(refusal.starts_with("HTTP/1.1 405 "), "{path}: {refusal}");
        let allow = refusal.lines().find_map(|line| {
            line.to_lowercase()
                .strip_prefix("allow: ")
                .map(str::to_uppercase)
        });
        let mut answered: Vec<String> = allow
            .unwrap()
            .split(',')
            .map(|method| method.trim().to_owned())
            .collect();
        answered.retain(|method| method != "HEAD");
        answered.sort();
        assert_eq!(answered, listed, "{path}");
    }
}

#[test]
fn a_follower_of_events_rides_over_a_restart_and_misses_nothing() {
    let mut server = Server::start();
    let mut follow = program(server.scratch());
    follow
        .arg("--data")
        .arg(server.data())
        .args(["events", "--follow", "--json"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let mut seqs = Vec::new();
    let mut made = |server: &Server, name: &str| {
        server
            .infall(&["volume", "create", name, "--length", "1MiB"])
            .ok();
        loop {
            let event = next();
            seqs.push(event["seq"].as_u64().unwrap());
            if event["subject"] == name {
                return;
            }
        }
    };
    made(&server, "before");
    server.kill();
    server.restart();
    made(&server, "after");
    assert!(
        server.stop().success(),
        "a waiting reader holds up the stop"
    );
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert!(
        seqs.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{seqs:?}"
    );
}

#[test]
fn a_mount_in_the_foreground_ends_with_ctrl_c() {
    let server = Server::start();
    server
        .infall(&["volume", "create", "root1", "--length", "1MiB"])
        .ok();
    let directory = server.scratch().join("mount");
    std::fs::create_dir(&directory).unwrap();
    let mut mount = program(server.scratch());
    mount
        .arg("--data")
        .arg(server.data())
        .arg("mount")
        .arg(&directory);
    let mut mount = mount.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(mount.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert!(said.contains("until Ctrl-C"), "{said}");
    let volume = directory.join("volumes/root1.raw");
    assert_eq!(std::fs::metadata(&volume).unwrap().len(), 1 << 20);
    assert_eq!(
        server.json(&["mount", "--list"])["mounts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let pid = rustix::process::Pid::from_child(&mount);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(mount.wait().unwrap().success());
    assert!(!volume.exists());
    let said = server
        .infall(&["umount", &directory.display().to_string()])
        .fails(4);
    assert!(said.contains("infall mount --list"), "{said}");
}
