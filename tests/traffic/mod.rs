//! Bytes in and out of a server through the stock `aws` client, and what the server's memory was.
//!
//! Nothing is kept in files on the client's side: bytes are made while they go in and compared
//! while they come back.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

#[path = "../tools/mod.rs"]
mod tools;

use crate::harness::Server;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

const CHUNK: usize = 1 << 20;

/// A program that `scripts/packages` installed beside the `aws` client.
pub(crate) fn tool(server: &Server, name: &str) -> Command {
    let (access, secret) = server.credentials();
    let mut command = Command::new(tools::tool(&format!("bin/{name}")));
    command
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
        .env("HOME", server.scratch())
        .env("AWS_ACCESS_KEY_ID", access)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_ENDPOINT_URL", server.endpoint());
    command
}

/// Puts `mib` MiB of noise from a pipe.
pub(crate) fn put(server: &Server, url: &str, mib: u64, seed: u64) {
    let size = (mib << 20).to_string();
    let mut client = tool(server, "aws")
        .args([
            "s3",
            "cp",
            "--only-show-errors",
            "--expected-size",
            &size,
            "-",
            url,
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = client.stdin.take().unwrap();
    for index in 0..mib {
        pipe.write_all(&noise(seed, index)).unwrap();
    }
    drop(pipe);
    let ended = client.wait().unwrap();
    assert!(ended.success(), "aws s3 cp - {url}: {ended}");
}

/// Gets it back and compares every byte.
pub(crate) fn get(server: &Server, url: &str, mib: u64, seed: u64) {
    let mut client = tool(server, "aws")
        .args(["s3", "cp", "--only-show-errors", url, "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = client.stdout.take().unwrap();
    let mut chunk = vec![0; CHUNK];
    for index in 0..mib {
        pipe.read_exact(&mut chunk).unwrap();
        assert!(
            chunk == noise(seed, index),
            "MiB {index} of {url} came back changed"
        );
    }
    assert_eq!(
        pipe.read(&mut chunk).unwrap(),
        0,
        "{url} came back longer than {mib} MiB"
    );
    let ended = client.wait().unwrap();
    assert!(ended.success(), "aws s3 cp {url} -: {ended}");
}

/// The most memory that the server ever had resident, in MiB.
pub(crate) fn resident_peak_mib(server: &Server) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// A MiB without a pattern, another for every seed and index.
fn noise(seed: u64, index: u64) -> Vec<u8> {
    let mut state = (seed << 32 | index).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(CHUNK);
    while bytes.len() < CHUNK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
