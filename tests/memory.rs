//! The server's memory does not grow with what goes through it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod traffic;

use harness::Server;
use traffic::{get, put, resident_peak_mib};

/// `make bench AREA=s3` shows the same with 10 GiB.
#[test]
fn a_gibibyte_in_and_out_over_s3_stays_under_512_mib_resident() {
    let server = Server::start();
    server.infall(&["bucket", "create", "memory"]).ok();
    put(&server, "s3://memory/large", 1024, 7);
    get(&server, "s3://memory/large", 1024, 7);
    let peak = resident_peak_mib(&server);
    println!("peak resident: {peak:.0} MiB");
    assert!(
        peak < 512.0,
        "the server had {peak:.0} MiB resident for 1 GiB in and out"
    );
}
