//! NBD on TCP: a ticket, made while it could be, adds no right to the opening with it.

use super::client::Ask;
use super::steps::{Act, Doing, Ready, Site, need};
use crate::harness;
use serde_json::{Value, json};
use std::process::Command;

pub(crate) fn prepare(site: &Site) {
    super::api::prepare_things(site);
}

/// A ticket, made with the grants for it, which are then gone again; its export's URI.
fn ticket(site: &Site, ask: &Value) -> String {
    let made = site.with_all(|| {
        let ask = Ask::api("post", "/tickets").json(ask);
        site.client.send(&site.walker, &ask, "making")
    });
    let made = made.json();
    let part = |name: &str| made[name].as_str().unwrap().to_owned();
    format!("nbd://{}:{}/{}", part("host"), made["port"], part("name"))
}

fn opening(site: &Site, ask: &Value) -> Ready {
    let uri = ticket(site, ask);
    Box::new(move |_| {
        let done = harness::run(
            Command::new("nbdinfo")
                .args(["--size", &uri])
                .env("LC_ALL", "C"),
        );
        match done.code {
            0 => Ok(()),
            // What the server says, a client shows as it likes.
            _ => Err(done.stderr),
        }
    })
}

fn act(action: &str, on: &str, ready: fn(&Site) -> Ready) -> Act {
    Act {
        needs: vec![need(action, on)],
        beside: Vec::new(),
        is_one_of_several: false,
        ready,
    }
}

pub(crate) const ACTS: &[Doing] = &[
    ("open a volume", |_| {
        act("volume:Attach", "arn:infall:volume:::v", |site| {
            opening(site, &json!({"export": "v"}))
        })
    }),
    ("open a volume read-only", |_| {
        act("volume:AttachReadOnly", "arn:infall:volume:::v", |site| {
            opening(site, &json!({"export": "v", "read_only": true}))
        })
    }),
    ("open snapshot:NAME", |_| {
        act("snapshot:Read", "arn:infall:snapshot:::s", |site| {
            opening(site, &json!({"export": "snapshot:s"}))
        })
    }),
    ("open image:NAME", |_| {
        act("image:Read", "arn:infall:image:::i", |site| {
            opening(site, &json!({"export": "image:i"}))
        })
    }),
    ("open object:BUCKET/KEY", |_| {
        act("s3:GetObject", "arn:aws:s3:::box/disk", |site| {
            opening(site, &json!({"export": "object:box/disk"}))
        })
    }),
];
