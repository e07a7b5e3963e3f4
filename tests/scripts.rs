//! The scripts in docs/scripts, each run as it stands against the real program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod tools;

use harness::{Done, Server, run};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tools::tool;

/// A script with the program on its PATH and the server's data directory in its environment.
fn script(server: &Server, name: &str, words: &[&str]) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_infall"))
        .parent()
        .unwrap()
        .to_owned();
    let mut path = vec![binary, tool("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let mut command = Command::new("bash");
    command
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("docs/scripts")
                .join(name),
        )
        .args(words)
        .env_clear()
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HOME", server.scratch())
        .env("INFALL_DATA", server.data())
        .current_dir(server.scratch());
    command
}

fn play(server: &Server, name: &str, words: &[&str]) -> Done {
    run(&mut script(server, name, words))
}

/// Writes files, with their directories.
fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn every_script_says_how_it_is_called_and_fails_without_arguments() {
    let server = Server::start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let said = play(&server, &name, &[]).fails(2);
        assert!(
            said.contains(&name) && said.contains("Needs:") && said.contains("Exit:"),
            "{name}: {said}"
        );
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn aws_sync_makes_a_bucket_like_a_folder() {
    let server = Server::start();
    let folder = server.scratch().join("results");
    write(&folder, &[("a", "1"), ("b/c d", "2")]);
    let said = play(&server, "aws-sync.sh", &[&text(&folder), "data", "run-7"]).ok();
    assert!(said.contains("alike"), "{said}");
    std::fs::remove_file(folder.join("a")).unwrap();
    play(&server, "aws-sync.sh", &[&text(&folder), "data", "run-7"]).ok();
    let back = server.scratch().join("back");
    server
        .infall(&["stage", "get", "s3://data/run-7/", &text(&back)])
        .ok();
    assert_eq!(std::fs::read_to_string(back.join("b/c d")).unwrap(), "2");
    assert!(!back.join("a").exists());
}

#[test]
fn rclone_copies_there_and_back() {
    let server = Server::start();
    let (folder, back) = (
        server.scratch().join("results"),
        server.scratch().join("back"),
    );
    write(&folder, &[("a", "1"), ("b/c d", "2")]);
    let said = play(
        &server,
        "rclone.sh",
        &[&text(&folder), "data", &text(&back)],
    )
    .ok();
    assert!(said.contains("alike"), "{said}");
    assert_eq!(std::fs::read_to_string(back.join("b/c d")).unwrap(), "2");
}

#[test]
fn curl_lives_the_life_of_a_cdmi_object() {
    let server = Server::start();
    let said = play(&server, "cdmi-curl.sh", &["cdmi-demo"]).ok();
    assert!(said.contains("all as the standard says"), "{said}");
    // It cleaned up, so it can be run again.
    play(&server, "cdmi-curl.sh", &["cdmi-demo"]).ok();
}

#[test]
fn two_servers_copy_between_them_by_pull_and_push() {
    let mut servers = [Server::start(), Server::start()];
    for server in &mut servers {
        // Their ports are free ones, so all of loopback is listed.
        write(
            server.scratch(),
            &[(
                ".config/infall/config.toml",
                "[dav]\ntpc_hosts = \"127.0.0.1\"\n",
            )],
        );
        server.stop();
        server.restart();
        server.infall(&["bucket", "create", "data"]).ok();
    }
    let [one, other] = &servers;
    let file = one.scratch().join("f");
    std::fs::write(&file, vec![7; 3 << 20]).unwrap();
    one.infall(&["stage", "put", &text(&file), "s3://data/f"])
        .ok();
    let token = |server: &Server| {
        let (access, secret) = server.credentials();
        format!("{access}:{secret}")
    };
    let url = |server: &Server, key: &str| format!("{}/dav/data/{key}", server.endpoint());
    for (mode, active, passive, key) in [
        ("pull", other, one, "pulled"),
        ("push", one, other, "pushed"),
    ] {
        let (source, target) = (url(one, "f"), url(other, key));
        let copy = || {
            let mut command = script(one, "tpc.sh", &[mode, &source, &target]);
            run(command
                .env("TPC_TOKEN", token(active))
                .env("TPC_OTHER_TOKEN", token(passive)))
        };
        let said = copy().ok();
        assert!(said.contains("copied"), "{said}");
        let back = other.scratch().join(key);
        other
            .infall(&["stage", "get", &format!("s3://data/{key}"), &text(&back)])
            .ok();
        assert!(std::fs::read(back).unwrap() == vec![7; 3 << 20], "{mode}");
        // What is there is left alone.
        copy().fails(4);
    }
}

/// The nightly job of one server: from one bucket, into another.
struct Night {
    server: Server,
    folder: PathBuf,
}

impl Night {
    fn new() -> Self {
        let server = Server::start();
        for bucket in ["inputs", "results"] {
            server.infall(&["bucket", "create", bucket]).ok();
        }
        let source = server.scratch().join("source");
        write(
            &source,
            &[("numbers", "1\n2\n3\n"), ("more/numbers", "4\n")],
        );
        server
            .infall(&["stage", "put", &text(&source), "s3://inputs/"])
            .ok();
        let folder = server.scratch().join("job");
        Self { server, folder }
    }

    fn command(&self, day: &str, job: &str) -> Command {
        let words = [
            "s3://inputs/",
            "s3://results/",
            &text(&self.folder),
            "sh",
            "-c",
            job,
        ];
        let mut command = script(&self.server, "nightly-staging.sh", &words);
        command.env("STAGING_DAY", day);
        command
    }

    fn run(&self, day: &str, job: &str) -> Done {
        run(&mut self.command(day, job))
    }
}

#[test]
fn the_nightly_job_stages_in_runs_and_stages_out_once_a_day() {
    let night = Night::new();
    let job = "cat in/numbers in/more/numbers >out/all && echo ran >>count";
    let said = night.run("2026-01-31", job).ok();
    assert!(said.contains("done: 1 files"), "{said}");
    night.run("2026-01-31", job).ok();
    assert_eq!(
        std::fs::read_to_string(night.folder.join("count")).unwrap(),
        "ran\n"
    );
    night.run("2026-02-01", job).ok();
    let back = night.server.scratch().join("back");
    night
        .server
        .infall(&["stage", "get", "s3://results/", &text(&back)])
        .ok();
    for day in ["2026-01-31", "2026-02-01"] {
        assert_eq!(
            std::fs::read_to_string(back.join(day).join("all")).unwrap(),
            "1\n2\n3\n4\n"
        );
    }
}

#[test]
fn the_nightly_job_says_what_failed_by_its_exit_code() {
    let night = Night::new();
    let said = night.run("2026-01-31", "exit 5").fails(22);
    assert!(
        said.contains("exit 5") && said.contains("log/2026-01-31.log"),
        "{said}"
    );
    // A manifest that says something else: the command does not run.
    let sum = "0".repeat(64);
    let line = format!("{{\"path\":\"numbers\",\"size\":6,\"sha256\":\"{sum}\"}}\n");
    std::fs::write(night.folder.join("in.manifest"), line).unwrap();
    night.run("2026-01-31", "echo ran >>count").fails(21);
    assert!(!night.folder.join("count").exists());
    std::fs::remove_file(night.folder.join("in.manifest")).unwrap();
    // The day is still to be done.
    night.run("2026-01-31", "echo x >out/x").ok();
    let words = [
        "s3://nothing-here/",
        "s3://results/",
        &text(&night.folder),
        "true",
    ];
    run(script(&night.server, "nightly-staging.sh", &words).env("STAGING_DAY", "2026-02-02"))
        .fails(20);
}

#[test]
fn two_nightly_jobs_do_not_run_at_once() {
    let night = Night::new();
    let mut first = night.command(
        "2026-01-31",
        "touch began; while [ ! -e go ]; do sleep 0.05; done; echo x >out/x",
    );
    let mut first = first
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !night.folder.join("began").exists() {
        assert!(
            first.try_wait().unwrap().is_none(),
            "it ended before it was to"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    night.run("2026-01-31", "true").fails(10);
    std::fs::write(night.folder.join("go"), "").unwrap();
    assert!(first.wait().unwrap().success());
}
