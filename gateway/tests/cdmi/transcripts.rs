//! docs/CDMI.md, executed: every command of its `console` blocks runs against a real server, and what
//! the document shows must be in what comes back.
//!
//! A line that begins with `$ ` is a command; lines behind it that begin with `> ` continue it. What
//! follows is shown: a status line must be that of the answer, a header must be there with that value,
//! JSON must be held by the answer's JSON, anything else must be the body. `…` stands for any string.
//! `$CDMI` and `$S3` are the doors' addresses; `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` the keys.

use crate::lab::{Server, holds};
use crate::tools::tool;
use serde_json::Value;
use std::process::Command;

struct Step {
    line: usize,
    command: String,
    shown: Vec<String>,
}

fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        if !inside {
            continue;
        }
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                line: number + 1,
                command: command.to_owned(),
                shown: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            match line.strip_prefix("> ") {
                Some(more) if step.shown.is_empty() => {
                    step.command.push('\n');
                    step.command.push_str(more);
                }
                _ => step.shown.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Runs all commands in one shell, so that variables stay; their outputs, apart.
fn run(server: &Server, steps: &[Step]) -> Vec<String> {
    const MARK: &str = "----8<----";
    let folder = tempfile::tempdir().unwrap();
    let mut script = String::new();
    for step in steps {
        script.push_str(&step.command);
        script.push_str(&format!("\nprintf '\\n%s\\n' '{MARK}'\n"));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let ran = Command::new("bash")
        .arg("-c")
        .arg(&script)
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}", tool("bin").display()))
        .env("CDMI", format!("http://{}/cdmi", server.address))
        .env("S3", format!("http://{}", server.address))
        .env("AWS_ACCESS_KEY_ID", &server.credentials.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &server.credentials.secret_key)
        .env("AWS_DEFAULT_REGION", "eu-central-1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(told.is_empty(), "{told}");
    let out = String::from_utf8(ran.stdout).unwrap();
    let mark = format!("\n{MARK}\n");
    out.split(&mark).map(str::to_owned).collect()
}

fn compare(step: &Step, output: &str) -> Result<(), String> {
    let output = output.replace("\r\n", "\n");
    let shown: Vec<&str> = step.shown.iter().map(|line| line.trim_end()).collect();
    let has_head = shown.first().is_some_and(|line| line.starts_with("HTTP/"));
    let (head, body) = match has_head {
        true => output.split_once("\n\n").unwrap_or((output.as_str(), "")),
        false => ("", output.as_str()),
    };
    let mut rest = shown.as_slice();
    if has_head {
        let (status, more) = rest.split_first().ok_or("nothing is shown")?;
        let found = head.lines().next().unwrap_or_default();
        if found.trim() != *status {
            return Err(format!("{found:?} instead of {status:?}: {body}"));
        }
        rest = more;
        while let Some((line, more)) = rest.split_first() {
            if line.is_empty() {
                rest = more;
                break;
            }
            let (name, value) = line
                .split_once(": ")
                .ok_or(format!("{line:?} is no header"))?;
            let found = head.lines().find_map(|header| {
                let (there, value) = header.split_once(": ")?;
                there.eq_ignore_ascii_case(name).then_some(value.trim())
            });
            if found.is_none() || (value != "…" && found != Some(value)) {
                return Err(format!("{name}: {found:?} instead of {value:?}"));
            }
            rest = more;
        }
    }
    let wanted = rest.join("\n").trim().to_owned();
    if wanted.is_empty() {
        return Ok(());
    }
    match serde_json::from_str::<Value>(&wanted) {
        Ok(wanted) if wanted.is_object() => {
            let found = serde_json::from_str(body).map_err(|bad| format!("{bad}: {body}"))?;
            holds("", &wanted, &found)
        }
        _ if body.trim() == wanted => Ok(()),
        _ => Err(format!("{:?} instead of {wanted:?}", body.trim())),
    }
}

#[test]
fn the_document_s_transcripts_are_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CDMI.md");
    let document = std::fs::read_to_string(path).unwrap();
    let steps = steps(&document);
    assert!(steps.len() > 20, "{} commands were found", steps.len());
    let server = Server::start();
    let outputs = run(&server, &steps);
    let mut wrong = Vec::new();
    for (step, output) in steps.iter().zip(&outputs) {
        if let Err(why) = compare(step, output) {
            wrong.push(format!(
                "docs/CDMI.md:{}: {}\n   {why}",
                step.line, step.command
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        outputs.len(),
        steps.len() + 1,
        "every command has come to its end"
    );
}
