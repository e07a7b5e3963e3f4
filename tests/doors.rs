//! The listeners: TLS for every one of them, tickets for NBD over TCP, where requests come from, and
//! a thousand clients that take their time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod traffic;

#[path = "doors/origin.rs"]
mod origin;
#[path = "doors/slow.rs"]
mod slow;
#[path = "doors/tickets.rs"]
mod tickets;
#[path = "doors/tls.rs"]
mod tls;

use harness::{Done, Server};
use std::process::Command;

/// A program that `scripts/packages` installs, with English words.
fn tool(program: &str, arguments: &[&str]) -> Done {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    harness::run(&mut command)
}

/// A server that speaks TLS with a certificate of its own CA.
fn with_tls(more: &[&str]) -> Server {
    let mut server = Server::start_with(more);
    server.stop();
    server.infall(&["tls", "make", "store.example.org"]).ok();
    server.restart();
    server
}
