//! Instances of projects, in the real program on a libvirtd of its own: who may run them, see them, type
//! at them and log in to them; and what the journal says of those who may not.
//!
//! The certificates are held against a real sshd: one on loopback, and those in guests, on QEMU's own
//! network and on a bridge, which are reached through the server alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "members/guest.rs"]
mod guest;
mod harness;
#[path = "../vmctl/tests/harness/mod.rs"]
#[allow(dead_code, reason = "only its libvirtd is used here")]
mod lab;
#[path = "members/lan.rs"]
mod lan;
#[path = "members/people.rs"]
mod people;
#[path = "members/sshd.rs"]
mod sshd;

use people::{DENIED, Site};
use serde_json::Value;
use std::time::Duration;

/// Not enough memory to wait long for, and no firmware that boots it.
const SMALL: [&str; 4] = ["--memory", "64", "--network", "none"];

#[test]
fn a_member_runs_an_image_and_an_outsider_is_refused_and_on_record() {
    let site = Site::start();
    let alice = site.user("lab/alice", "ProjectMember");
    let mallory = site.user("elsewhere/mallory", "ProjectAdmin");
    let image = alice.image("blank");
    alice
        .infall(&["volume", "create", "data1", "--length", "1M"])
        .ok();

    let shown = alice.json(&["image", "ls"]);
    assert_eq!(shown["images"][0]["id"], image.as_str(), "{shown}");
    let made = alice.json(&with(&["vm", "run", "m1", "--image", &image], &SMALL));
    assert_eq!(
        (&made["project"], &made["state"]),
        (&"lab".into(), &"running".into())
    );
    let table = alice.infall(&["vm", "ls"]).ok();
    assert!(
        table.contains("PROJECT") && table.contains("lab"),
        "{table}"
    );
    assert_eq!(names(&mallory.json(&["vm", "ls"])), Vec::<String>::new());
    assert_eq!(names(&site.root().json(&["vm", "ls"])), ["m1"]);

    let before = site.last_event();
    let stolen = "s3://lab-images/blank.raw";
    let refusals: [(&[&str], &str); 14] = [
        (&["vm", "run", "x1", "--image", &image], "image:Use"),
        (
            &["vm", "run", "x1", "--root-volume", "data1"],
            "volume:Attach",
        ),
        (
            &[
                "vm",
                "run",
                "x1",
                "--root-volume",
                "mine",
                "--volume",
                "data1",
            ],
            "volume:AttachReadOnly",
        ),
        (
            &[
                "vm",
                "run",
                "x1",
                "--root-volume",
                "mine",
                "--volume",
                "data1:rw",
            ],
            "volume:Attach",
        ),
        (
            &[
                "vm",
                "run",
                "x1",
                "--root-volume",
                "mine",
                "--volume",
                stolen,
            ],
            "s3:GetObject",
        ),
        (&["vm", "show", "m1"], "vm:Describe"),
        (&["vm", "start", "m1"], "vm:Start"),
        (
            &["vm", "stop", "m1", "--force", "--timeout", "0s"],
            "vm:Stop",
        ),
        (&["vm", "rm", "m1", "--disks"], "vm:Remove"),
        (&["vm", "console", "m1"], "vm:Console"),
        (&["vm", "console", "m1", "--attach"], "vm:Console"),
        (&["vm", "ssh", "m1"], "vm:Ssh"),
        (&["vm", "tunnel", "m1"], "vm:Ssh"),
        (
            &["volume", "create", "copy", "--image", &image],
            "image:Use",
        ),
    ];
    mallory
        .infall(&["volume", "create", "mine", "--length", "1M"])
        .ok();
    for (words, action) in refusals {
        let said = mallory.infall(words).fails(DENIED);
        assert!(said.contains(action), "{words:?}: {said}");
    }
    let rows = site.denials(before);
    for (words, action) in refusals {
        let row = rows.iter().find(|row| {
            row["actor"] == "user/mallory"
                && row["detail"]
                    .as_str()
                    .unwrap()
                    .starts_with(&format!("{action} by arn:aws:iam::elsewhere:"))
        });
        let row = row.unwrap_or_else(|| panic!("no row for {words:?} in {rows:#?}"));
        assert!(!row["request"].as_str().unwrap().is_empty(), "{row}");
    }
    assert!(rows.len() >= refusals.len(), "{rows:#?}");

    alice
        .infall(&["vm", "stop", "m1", "--force", "--timeout", "0s"])
        .ok();
    let disks = alice.json(&["volume", "ls"]);
    assert!(
        disks.to_string().contains("m1-root"),
        "stopping keeps the disk: {disks}"
    );
    alice.infall(&["vm", "rm", "m1", "--disks"]).ok();
    let disks = alice.json(&["volume", "ls"]);
    assert!(!disks.to_string().contains("m1-root"), "{disks}");
}

#[test]
fn a_project_has_no_more_vms_than_its_quota() {
    let site = Site::start();
    let alice = site.user("lab/alice", "ProjectMember");
    let image = alice.image("blank");
    site.root()
        .infall(&["project", "set-quota", "lab", "--vms", "1"])
        .ok();
    alice
        .infall(&with(&["vm", "run", "q1", "--image", &image], &SMALL))
        .ok();
    let said = alice
        .infall(&with(&["vm", "run", "q2", "--image", &image], &SMALL))
        .fails(7);
    assert!(
        said.contains("project \"lab\" has 1 VMs and may have 1"),
        "{said}"
    );
    let disks = alice.json(&["volume", "ls"]).to_string();
    assert!(
        disks.contains("q1-root") && !disks.contains("q2-root"),
        "{disks}"
    );
    let shown = site.root().json(&["project", "show", "lab"]).to_string();
    assert!(shown.contains("\"vms\":1"), "{shown}");
    alice.infall(&["vm", "rm", "q1", "--disks"]).ok();
    alice
        .infall(&with(&["vm", "run", "q2", "--image", &image], &SMALL))
        .ok();
    alice.infall(&["vm", "rm", "q2", "--disks"]).ok();
}

#[test]
fn a_users_ssh_keys_go_into_the_seed_of_what_they_run() {
    let site = Site::start();
    let alice = site.user("lab/alice", "ProjectMember");
    let bob = site.user("lab/bob", "ProjectMember");
    let image = alice.image("blank");
    let (file, line) = sshd::key_pair(&site.folder().join("own"));
    let public = format!("{}.pub", file.display());
    let added = alice.json(&["user", "sshkey", "add", "alice", &public]);
    alice
        .infall(&["user", "sshkey", "add", "alice", &public])
        .fails(5);
    bob.infall(&["user", "sshkey", "ls", "alice"]).fails(DENIED);
    bob.infall(&["user", "sshkey", "add", "alice", &public])
        .fails(DENIED);
    alice
        .infall(&with(&["vm", "run", "k1", "--image", &image], &SMALL))
        .ok();
    assert!(
        site.seed("k1", "meta-data").contains(&line),
        "the key is not in the seed"
    );
    let fingerprint = added["fingerprint"].as_str().unwrap();
    let listed = alice.infall(&["user", "sshkey", "ls", "alice"]).ok();
    assert!(listed.contains(fingerprint), "{listed}");
    alice
        .infall(&["user", "sshkey", "rm", "alice", fingerprint])
        .ok();
    alice
        .infall(&["user", "sshkey", "rm", "alice", fingerprint])
        .fails(4);
    alice.infall(&["vm", "rm", "k1", "--disks"]).ok();
}

/// A real sshd that trusts the authority as a guest does.
#[test]
fn a_certificate_opens_one_login_of_one_instance_until_it_expires() {
    let mut site = Site::start();
    let alice = site.user("lab/alice", "ProjectMember");
    let mallory = site.user("elsewhere/mallory", "ProjectAdmin");
    let image = alice.image("blank");
    let mut uuids = Vec::new();
    for name in ["s1", "s2"] {
        let made = alice.json(&with(&["vm", "run", name, "--image", &image], &SMALL));
        uuids.push(made["uuid"].as_str().unwrap().to_owned());
    }
    let sshd = sshd::Sshd::start(&site.folder().join("sshd"), &site.seed("s1", "vendor-data"));
    let there = sshd.address();
    let login = |target: &str| {
        let words = [
            "vm",
            "ssh",
            target,
            "--address",
            &there,
            "--",
            "echo",
            "in",
            "as",
            "$(id -un)",
        ];
        alice.infall(&words)
    };
    assert_eq!(login("root@s1").ok(), "in as root\n");
    let refused = login("root@s2");
    assert_eq!(
        refused.code, 255,
        "another instance's certificate: {refused:?}"
    );
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    // The remote command's exit code is ours.
    let words = [
        "vm",
        "ssh",
        "root@s1",
        "--address",
        &there,
        "--",
        "exit",
        "42",
    ];
    assert_eq!(alice.infall(&words).code, 42);

    let before = site.last_event();
    sshd::key_pair(&site.folder().join("theirs"));
    let file = site.folder().join("theirs.pub").display().to_string();
    let said = mallory
        .infall(&["vm", "ssh", "root@s1", "--certify", &file])
        .fails(DENIED);
    assert!(said.contains("vm:Ssh"), "{said}");
    let rows = site.denials(before);
    assert!(
        rows.iter()
            .any(|row| row["subject"] == "arn:infall:instance:::s1"),
        "{rows:?}"
    );
    for bad in ["root@nowhere", "-oProxyCommand=x@s1", "a b@s1"] {
        let refused = alice.infall(&["vm", "ssh", "--certify", &file, "--", bad]);
        assert_ne!(refused.code, 0, "{bad}");
    }
    // What was given is on record, by the key's fingerprint.
    let given = alice.json(&["vm", "ssh", "root@s1", "--certify", &file]);
    let events = site.events(before);
    let certified = events
        .iter()
        .find(|event| event["kind"] == "instance.certified")
        .unwrap();
    let detail = certified["detail"].as_str().unwrap();
    assert!(
        detail.contains(given["fingerprint"].as_str().unwrap()),
        "{detail}"
    );
    assert_eq!(certified["actor"], "user/alice");
    assert!(
        given["certificate"]
            .as_str()
            .unwrap()
            .starts_with("ssh-ed25519-cert-v01@openssh.com ")
    );

    let key = site.folder().join("theirs");
    let certificate = given["certificate"].as_str().unwrap();
    std::fs::write(site.folder().join("theirs-cert.pub"), certificate).unwrap();
    assert_eq!(sshd.login(&key, "root").code, 0);
    assert_eq!(sshd.login(&key, "nobody").code, 255, "another login");

    for name in ["s1", "s2"] {
        alice.infall(&["vm", "rm", name, "--disks"]).ok();
    }
    // The same authority, an hour ago: only the time differs from a certificate that is let in.
    let authority = site.authority();
    let principal = format!("{}:root", uuids[0]);
    let sign = |name: &str, validity: &str| {
        let key = site.folder().join(name);
        sshd::key_pair(&key);
        sshd::sign(&authority, &key, &principal, validity);
        sshd.login(&key, "root")
    };
    assert_eq!(sign("now", "-1m:+5m").code, 0);
    let expired = sign("then", "-2h:-1h");
    assert_eq!(expired.code, 255, "{expired:?}");
    assert!(sshd.log().contains("expired"), "{}", sshd.log());
}

#[test]
fn ssh_and_console_reach_a_guest_through_the_server() {
    let site = Site::start();
    let root = site.root();
    let alice = site.user("root/alice", "VMOperator");
    let mallory = site.user("elsewhere/mallory", "ProjectAdmin");
    let (kernel, initrd) = guest::with_sshd(site.folder());
    root.infall(&["volume", "create", "g1-disk", "--length", "1M"])
        .ok();
    let run = [
        "vm",
        "run",
        "g1",
        "--root-volume",
        "g1-disk",
        "--memory",
        "256",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--cmdline",
        "console=ttyS0 quiet",
        "--wait",
        "--wait-for",
        "SSHD-UP",
        "--timeout",
        "180s",
    ];
    root.infall(&run).ok();

    let inside = alice.infall(&["vm", "ssh", "root@g1", "--", "hostname; cat /proc/uptime"]);
    if inside.code != 0 {
        panic!("{inside:?}\n{}", root.infall(&["vm", "console", "g1"]).ok());
    }
    let inside = inside.ok();
    assert!(inside.starts_with("g1\n"), "{inside}");
    // Enough to fill every buffer on the way.
    let many = alice
        .infall(&["vm", "ssh", "g1", "--", "seq 1 200000 | sha256sum"])
        .ok();
    let through = alice
        .infall(&["vm", "ssh", "g1", "--", "seq 1 200000"])
        .ok();
    assert_eq!(
        many.split(' ').next().unwrap(),
        people::sha256(through.as_bytes())
    );
    assert_eq!(
        site.forwards("g1"),
        0,
        "the way into the guest is closed again"
    );
    mallory.infall(&["vm", "ssh", "g1"]).fails(DENIED);

    // The console: typed at by one, followed by another.
    let typed = alice.typed(
        &["vm", "console", "g1", "--attach"],
        "echo T''YPED-$((6*7))\n",
        "TYPED-42",
    );
    assert!(typed.contains("TYPED-42"), "{typed}");
    let shown = alice.infall(&["vm", "console", "g1"]).ok();
    assert!(shown.contains("TYPED-42"), "{shown}");
    let attach = ["vm", "console", "g1", "--attach"];
    site.until("the console is free", Duration::from_secs(20), || {
        root.infall(&attach).code == 0
    });
    let mut first = alice.begin(&attach);
    site.until("the console is taken", Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_secs(1));
        // Another may just be on the way out.
        if first.has_ended() {
            first = alice.begin(&attach);
        }
        root.infall(&attach).code == 5
    });
    // Who loses the grant loses the console.
    root.infall(&["user", "detach", "root/alice", "VMOperator"])
        .ok();
    first.ends_within(Duration::from_secs(40));
    root.infall(&["vm", "rm", "g1", "--disks"]).ok();
    root.infall(&["volume", "rm", "g1-disk"]).ok();
}

/// libvirt knows the address of such a guest by the host's ARP table alone.
#[test]
fn a_guest_on_a_bridge_is_found_and_entered_like_any_other() {
    let site = Site::start();
    let bridge = lan::Bridge::new();
    let root = site.root();
    let alice = site.user("root/alice", "VMOperator");
    let (kernel, initrd) = guest::with_sshd(site.folder());
    root.infall(&["volume", "create", "b1-disk", "--length", "1M"])
        .ok();
    let network = format!("bridge={}", bridge.name);
    let cmdline = format!(
        "console=ttyS0 quiet guest_at={}/30 guest_via={}",
        bridge.guest, bridge.host
    );
    let run = [
        "vm",
        "run",
        "b1",
        "--root-volume",
        "b1-disk",
        "--memory",
        "256",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--cmdline",
        &cmdline,
        "--network",
        &network,
        "--wait",
        "--timeout",
        "180s",
    ];
    let said = root.infall(&run).ok();
    assert!(said.contains("ssh ready in "), "{said}");
    let shown = root.infall(&["vm", "show", "b1"]).ok();
    assert!(
        shown.contains(&bridge.guest) && shown.contains(&network),
        "{shown}"
    );
    let inside = alice.infall(&["vm", "ssh", "b1", "--", "hostname"]).ok();
    assert_eq!(inside, "b1\n");

    // What the console said before the start is not what is waited for.
    root.infall(&["vm", "stop", "b1", "--force", "--timeout", "0s"])
        .ok();
    let started = root.infall(&[
        "vm",
        "start",
        "b1",
        "--wait",
        "--wait-for",
        "SSHD-UP",
        "--timeout",
        "180s",
    ]);
    assert!(started.ok().contains("\"SSHD-UP\" after "));
    root.infall(&["vm", "rm", "b1", "--disks"]).ok();
    let nowhere = root.infall(&with(
        &["vm", "run", "b2", "--root-volume", "b1-disk"],
        &["--network", "bridge=infall-none"],
    ));
    assert!(
        nowhere.code != 0 && nowhere.stderr.contains("infall-none"),
        "a bridge that is not there is named: {nowhere:?}"
    );
    root.infall(&["volume", "rm", "b1-disk"]).ok();
}

fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, more].concat()
}

fn names(list: &Value) -> Vec<String> {
    let instances = list["instances"].as_array().unwrap();
    instances
        .iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect()
}
