//! docs/WEBDAV.md does what it says: each command of its `console` blocks is run, and prints what
//! stands below it (`…` stands for anything).

use crate::server::Server;
use std::process::Command;

/// A command and what it must print.
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let (mut steps, mut inside, mut continued) = (Vec::<Step>::new(), false, false);
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        if !inside {
            continue;
        }
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                line: at + 1,
                command: command.to_owned(),
                expected: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            if continued {
                step.command.push('\n');
                step.command.push_str(line);
            } else {
                step.expected.push(line.to_owned());
            }
        }
        continued = line.ends_with('\\');
    }
    steps
}

fn fits(expected: &str, found: &str) -> bool {
    let mut parts = expected.split('…');
    let mut rest = match found.strip_prefix(parts.next().unwrap_or_default()) {
        Some(rest) => rest,
        None => return false,
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, inner)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in inner {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn the_document_does_what_it_says() {
    let other = Server::start();
    let own = Server::reaching(&other.address.to_string());
    other.make("remote");
    other.put("remote/run7.dat", "the seventh run");
    let scratch = tempfile::tempdir().unwrap();
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/WEBDAV.md");
    let text = std::fs::read_to_string(document).unwrap();
    let steps = steps(&text);
    assert!(
        steps.len() >= 10,
        "only {} commands were found",
        steps.len()
    );
    let key = |server: &Server| {
        format!(
            "{}:{}",
            server.credentials.access_key, server.credentials.secret_key
        )
    };
    for Step {
        line,
        command,
        expected,
    } in steps
    {
        let ran = Command::new("bash")
            .args(["-c", &format!("set -o pipefail\n{command}")])
            .current_dir(scratch.path())
            .env("HOME", scratch.path())
            .env("DAV", format!("http://{}/dav", own.address))
            .env("KEY", key(&own))
            .env("OTHER", format!("http://{}/dav", other.address))
            .env("OTHER_KEY", key(&other))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&ran.stdout).replace('\r', "");
        let found: Vec<&str> = shown.trim_end().lines().collect();
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(
            ran.status.success(),
            "line {line}: {command}\n{shown}{told}"
        );
        let same = found.len() == expected.len()
            && expected
                .iter()
                .zip(&found)
                .all(|(expected, found)| fits(expected, found));
        assert!(
            same,
            "line {line}: {command}\nprinted:\n{shown}\nnot:\n{}",
            expected.join("\n")
        );
    }
}
