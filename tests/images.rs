//! Which images may be used, in the real program on a libvirtd of its own: deprecated, expired and unsigned
//! ones are refused by the name of the rule, and on record. Signatures are made and checked by the real
//! ssh-keygen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
#[path = "../vmctl/tests/harness/mod.rs"]
#[allow(dead_code, reason = "only its libvirtd is used here")]
mod lab;
#[path = "members/people.rs"]
#[allow(dead_code, reason = "instances are not entered here")]
mod people;

use harness::{Done, Server, program, run};
use people::{DENIED, Person, Site};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Not enough memory to wait long for, and no firmware that boots it.
const SMALL: [&str; 4] = ["--memory", "64", "--network", "none"];
const NAMESPACE: &str = "infall-image@v1";
/// The exit code of values that the server refused.
const INVALID: i32 = 9;

/// A place with a file of signers.
struct Signing {
    folder: PathBuf,
}

impl Signing {
    fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    fn signers(&self, lines: &str) {
        std::fs::write(self.folder.join("signers"), lines).unwrap();
    }

    /// A new key pair; its file, and the line of its public half.
    fn key(&self, name: &str, sort: &str) -> (String, String) {
        let file = self.folder.join(name);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-N", "", "-C", name, "-t", sort, "-f"]);
        run(keygen.arg(&file)).ok();
        let line = std::fs::read_to_string(self.folder.join(format!("{name}.pub"))).unwrap();
        (file.display().to_string(), line.trim().to_owned())
    }

    /// Signs a statement by ssh-keygen; the signature's file.
    fn sign(&self, key: &str, namespace: &str, statement: &str) -> String {
        let file = self.folder.join("statement");
        let signature = self.folder.join("statement.sig");
        std::fs::write(&file, statement).unwrap();
        let _ = std::fs::remove_file(&signature);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-Y", "sign", "-f", key, "-n", namespace]);
        run(keygen.arg(&file)).ok();
        signature.display().to_string()
    }

    /// What ssh-keygen says of a signature that the server shows.
    fn verify(&self, signer: &str, endorsement: &Value) -> bool {
        let signature = self.folder.join("shown.sig");
        let statement = self.folder.join("shown");
        std::fs::write(&signature, endorsement["signature"].as_str().unwrap()).unwrap();
        std::fs::write(&statement, endorsement["statement"].as_str().unwrap()).unwrap();
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-Y", "verify", "-n", NAMESPACE, "-I", signer, "-f"])
            .arg(self.folder.join("signers"))
            .arg("-s")
            .arg(&signature)
            .stdin(std::fs::File::open(&statement).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        keygen.status().unwrap().success()
    }
}

/// An image of bytes of its own, in a bucket of the person's project.
fn image(site: &Site, who: &Person, project: &str, name: &str) -> String {
    let bucket = format!("{project}-disks");
    // It may be there from the last one.
    who.infall(&["bucket", "create", &bucket]);
    let file = site.folder().join(format!("{name}.raw"));
    let mut bytes = vec![0; 1 << 20];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    std::fs::write(&file, bytes).unwrap();
    let object = format!("s3://{bucket}/{name}.raw");
    let file = file.display().to_string();
    who.infall(&["stage", "put", &file, &object]).ok();
    let added = who.json(&["image", "add", &object, "--name", name]);
    added["image"]["id"].as_str().unwrap().to_owned()
}

fn vm_run(who: &Person, name: &str, image: &str, more: &[&str]) -> Done {
    let words = [&["vm", "run", name, "--image", image], &SMALL[..], more].concat();
    who.infall(&words)
}

/// A clone and an instance of the image are refused by this rule, are on record and leave nothing.
#[track_caller]
fn refused(site: &Site, who: &Person, image: &str, rule: &str) -> String {
    let before = site.last_event();
    let said = vm_run(who, "refused", image, &[]).fails(DENIED);
    assert!(said.contains(&format!("rule {rule}: ")), "{said}");
    assert!(said.contains("[exit 6]"), "{said}");
    let clone = ["volume", "create", "refused", "--image", image];
    let same = who.infall(&clone).fails(DENIED);
    assert!(same.contains(&format!("rule {rule}: ")), "{same}");
    let shown = who.json(&["image", "show", image]);
    assert_eq!(shown["standing"]["refused"]["rule"], rule, "{shown}");
    let rows: Vec<Value> = site
        .events(before)
        .into_iter()
        .filter(|event| event["kind"] == "image.refused")
        .collect();
    assert_eq!(rows.len(), 2, "{rows:#?}");
    for row in rows {
        assert_eq!(row["subject"], shown["id"], "{row}");
        assert_eq!(row["actor"], "user/alice", "{row}");
        assert!(row["detail"].as_str().unwrap().contains(rule), "{row}");
        assert!(!row["request"].as_str().unwrap().is_empty(), "{row}");
    }
    for list in [["vm", "ls"], ["volume", "ls"]] {
        let list = who.json(&list).to_string();
        assert!(!list.contains("refused"), "{list}");
    }
    said
}

fn runs(who: &Person, name: &str, image: &str, more: &[&str]) {
    vm_run(who, name, image, more).ok();
    who.infall(&["vm", "rm", name, "--disks"]).ok();
}

#[test]
fn an_unsigned_image_is_refused_until_a_signer_of_the_site_has_signed_it() {
    let site = Site::start_under(|folder| {
        let signers = folder.join("signers");
        std::fs::write(&signers, "# nobody yet\n").unwrap();
        vec![
            ("INFALL_IMAGES_SIGNED".into(), "required".into()),
            (
                "INFALL_IMAGES_SIGNERS".into(),
                signers.display().to_string(),
            ),
        ]
    });
    let signing = Signing::new(site.folder());
    let alice = site.user("lab/alice", "ProjectMember");
    let id = image(&site, &alice, "lab", "disk");
    image(&site, &alice, "lab", "other");
    let said = refused(&site, &alice, "disk", "images.signed");
    assert!(
        said.contains("it is not signed at all") && said.contains("infall image sign disk"),
        "{said}"
    );
    let table = alice.infall(&["image", "ls"]).ok();
    assert!(
        table.contains("SIGNED BY") && table.contains("unsigned"),
        "{table}"
    );

    // By ssh-keygen, step by step as image endorse --help has it.
    let (key, line) = signing.key("carol", "rsa");
    let statement = alice.infall(&["image", "statement", "disk"]).ok();
    assert_eq!(statement, format!("{NAMESPACE}\nimage {id}\n"));
    let signature = signing.sign(&key, NAMESPACE, &statement);
    let endorse = ["image", "endorse", "disk", "--signature", &signature];
    let said = alice.infall(&endorse).ok();
    assert!(
        said.contains("does not count: its key is not among the signers"),
        "{said}"
    );
    refused(&site, &alice, "disk", "images.signed");
    signing.signers(&format!("carol@lab {line}\n"));
    runs(&alice, "s1", "disk", &[]);
    let table = alice.infall(&["image", "ls"]).ok();
    assert!(table.contains("carol@lab"), "{table}");
    let shown = alice.json(&["image", "show", "disk"]);
    assert_eq!(shown["standing"]["signatures"][0]["signer"], "carol@lab");
    assert_eq!(shown["endorsements"][0]["added_by"], "user/alice");
    let endorsement = &shown["endorsements"][0];
    assert!(signing.verify("carol@lab", endorsement), "{endorsement}");

    // The signer's line ends; is for something else; is gone.
    signing.signers(&format!("carol@lab valid-before=\"20200101Z\" {line}\n"));
    let said = refused(&site, &alice, "disk", "images.signed");
    assert!(said.contains("no longer valid (valid-before)"), "{said}");
    assert!(
        !signing.verify("carol@lab", endorsement),
        "ssh-keygen agrees"
    );
    signing.signers(&format!("carol@lab namespaces=\"git\" {line}\n"));
    let said = refused(&site, &alice, "disk", "images.signed");
    assert!(said.contains("other namespaces"), "{said}");
    assert!(
        !signing.verify("carol@lab", endorsement),
        "ssh-keygen agrees"
    );
    signing.signers("");
    refused(&site, &alice, "disk", "images.signed");

    // By the program itself; ssh-keygen takes that for its own.
    let (key, line) = signing.key("dave", "ed25519");
    signing.signers(&format!("dave@lab namespaces=\"infall-*\" {line}\n"));
    let sign = ["image", "sign", "disk", "--key", &key, "--until", "90d"];
    let said = alice.infall(&sign).ok();
    assert!(
        said.contains("by dave@lab (SHA256:") && said.contains("until 20"),
        "{said}"
    );
    let shown = alice.json(&["image", "show", "disk"]);
    assert!(
        signing.verify("dave@lab", &shown["endorsements"][1]),
        "{shown}"
    );
    runs(&alice, "s2", &id, &[]);
    let said = alice.infall(&["image", "sign", "disk", "--key", &format!("{key}.pub")]);
    assert!(said.fails(INVALID).contains("ssh-keygen -Y sign"));

    // What is not a signature over this image is not kept.
    let words =
        |signature: &str| alice.infall(&["image", "endorse", "other", "--signature", signature]);
    let other = alice.infall(&["image", "statement", "other"]).ok();
    let said = words(&signing.sign(&key, "file", &other)).fails(INVALID);
    assert!(said.contains("namespace \"file\""), "{said}");
    let said = words(&signing.sign(&key, NAMESPACE, &statement)).fails(INVALID);
    assert!(said.contains("not about img-"), "{said}");
    let file = signing.sign(&key, NAMESPACE, &other);
    let mut text = std::fs::read_to_string(&file).unwrap();
    let place = text.rfind("\n-----END").unwrap() - 20;
    let swapped = if text[place..].starts_with('A') {
        "B"
    } else {
        "A"
    };
    text.replace_range(place..=place, swapped);
    std::fs::write(&file, text).unwrap();
    words(&file).fails(INVALID);
    let file = signing.sign(&key, NAMESPACE, &other);
    std::fs::write(
        file.trim_end_matches(".sig"),
        other.replace("image", "Image"),
    )
    .unwrap();
    words(&file).fails(INVALID);
    let shown = alice.json(&["image", "show", "other"]);
    assert_eq!(shown["endorsements"], Value::Null, "{shown}");
    refused(&site, &alice, "other", "images.signed");

    // A signature can be taken off.
    let shown = alice.json(&["image", "show", "disk"]);
    let print = shown["endorsements"][1]["fingerprint"].as_str().unwrap();
    alice.infall(&["image", "unendorse", "disk", print]).ok();
    alice
        .infall(&["image", "unendorse", "disk", print])
        .fails(4);
    refused(&site, &alice, "disk", "images.signed");
    // The rule binds the operator, too.
    let said = vm_run(&site.root(), "refused", "disk", &[]).fails(DENIED);
    assert!(said.contains("rule images.signed"), "{said}");
}

#[test]
fn a_deprecated_or_expired_image_is_refused_and_outsiders_decide_neither() {
    let site = Site::start();
    let root = site.root();
    let alice = site.user("lab/alice", "ProjectMember");
    let bob = site.user("lab/bob", "VMOperator");
    let mallory = site.user("elsewhere/mallory", "ProjectAdmin");
    image(&site, &alice, "lab", "old");
    image(&site, &alice, "lab", "new");
    image(&site, &root, "root", "sites");
    vm_run(&alice, "kept", "old", &[]).ok();

    let why = "no security updates";
    let deprecate = |image| {
        [
            "image",
            "deprecate",
            image,
            "--why",
            why,
            "--replacement",
            "new",
        ]
    };
    alice.infall(&deprecate("old")).ok();
    let said = refused(&site, &alice, "old", "images.deprecated");
    assert!(
        said.contains("(no security updates): use new, or say --deprecated"),
        "{said}"
    );
    let table = alice.infall(&["image", "ls"]).ok();
    assert!(table.contains("deprecated"), "{table}");
    // What was made from it goes on.
    alice
        .infall(&["vm", "stop", "kept", "--force", "--timeout", "0s"])
        .ok();
    alice.infall(&["vm", "start", "kept"]).ok();
    alice.infall(&["vm", "rm", "kept", "--disks"]).ok();
    // Who may image:UseDeprecated can say that it is wanted all the same.
    runs(&alice, "asked", "old", &["--deprecated"]);
    let said = vm_run(&bob, "asked", "old", &["--deprecated"]).fails(DENIED);
    assert!(said.contains("image:UseDeprecated"), "{said}");
    // To read it is not to use it.
    let url = root.infall(&["volume", "url", "old"]).ok();
    let shown = run(Command::new("qemu-img").args(["info", url.trim()])).ok();
    assert!(shown.contains("1 MiB"), "{shown}");
    alice.infall(&["image", "undeprecate", "old"]).ok();
    alice.infall(&["image", "undeprecate", "old"]).fails(5);
    alice
        .infall(&["image", "deprecate", "old", "--why", ""])
        .fails(INVALID);
    let said = alice.infall(&[
        "image",
        "deprecate",
        "old",
        "--why",
        "x",
        "--replacement",
        "nww",
    ]);
    assert!(said.fails(4).contains("no image \"nww\" (nearest: new)"));
    runs(&alice, "again", "old", &[]);

    alice.infall(&["image", "expire", "old", "--in", "0s"]).ok();
    let said = refused(&site, &alice, "old", "images.expires");
    assert!(said.contains("expired at 20"), "{said}");
    vm_run(&alice, "asked", "old", &["--deprecated"]).fails(DENIED);
    alice
        .infall(&["image", "expire", "old", "--at", "2099-01-01"])
        .ok();
    runs(&alice, "in-time", "old", &[]);
    alice.infall(&["image", "expire", "old", "--never"]).ok();
    alice
        .infall(&["image", "expire", "old", "--at", "soon"])
        .fails(2);

    // The site's images are the site's to speak of, and its word is not to be talked over.
    root.infall(&["image", "deprecate", "sites", "--why", "broken"])
        .ok();
    let said = vm_run(&alice, "asked", "sites", &[]).fails(DENIED);
    assert!(said.contains("rule images.deprecated"), "{said}");
    let said = vm_run(&alice, "asked", "sites", &["--deprecated"]).fails(DENIED);
    assert!(said.contains("image:UseDeprecated"), "{said}");
    runs(&root, "asked", "sites", &["--deprecated"]);

    let before = site.last_event();
    let signing = Signing::new(site.folder());
    let (key, _) = signing.key("mallory", "ed25519");
    let statement = alice.infall(&["image", "statement", "old"]).ok();
    let signature = signing.sign(&key, NAMESPACE, &statement);
    let refusals: [(&Person, &[&str], &str); 11] = [
        (&mallory, &["image", "show", "old"], "image:Describe"),
        (
            &mallory,
            &["image", "deprecate", "old", "--why", "x"],
            "image:Deprecate",
        ),
        (
            &mallory,
            &["image", "undeprecate", "old"],
            "image:Deprecate",
        ),
        (
            &mallory,
            &["image", "expire", "old", "--in", "0s"],
            "image:Expire",
        ),
        (
            &mallory,
            &["image", "expire", "old", "--never"],
            "image:Expire",
        ),
        (
            &mallory,
            &["image", "endorse", "old", "--signature", &signature],
            "image:Endorse",
        ),
        (
            &mallory,
            &["image", "unendorse", "old", "SHA256:x"],
            "image:Endorse",
        ),
        (
            &mallory,
            &["volume", "create", "v", "--image", "old", "--deprecated"],
            "image:Use",
        ),
        (
            &alice,
            &["image", "deprecate", "sites", "--why", "x"],
            "image:Deprecate",
        ),
        (
            &alice,
            &["image", "expire", "sites", "--never"],
            "image:Expire",
        ),
        (
            &bob,
            &["image", "deprecate", "old", "--why", "x"],
            "image:Deprecate",
        ),
    ];
    for (who, words, action) in refusals {
        let said = who.infall(words).fails(DENIED);
        assert!(said.contains(action), "{words:?}: {said}");
    }
    let rows = site.denials(before);
    for (_, words, action) in refusals {
        let found = rows.iter().any(|row| {
            let detail = row["detail"].as_str().unwrap();
            detail.starts_with(&format!("{action} by arn:aws:iam::"))
        });
        assert!(found, "no row for {words:?} in {rows:#?}");
    }
}

#[test]
fn a_site_that_only_warns_says_so_to_whoever_uses_the_image() {
    let server = Server::start_under(|_| vec![("INFALL_IMAGES_DEPRECATED".into(), "warn".into())]);
    server.infall(&["bucket", "create", "disks"]).ok();
    let file = server.scratch().join("old.raw");
    std::fs::write(&file, vec![7; 1 << 20]).unwrap();
    let file = file.display().to_string();
    server
        .infall(&["stage", "put", &file, "s3://disks/old.raw"])
        .ok();
    let added = server.infall(&["image", "add", "s3://disks/old.raw"]).ok();
    assert!(added.contains("unsigned (site allows)"), "{added}");
    server
        .infall(&["image", "deprecate", "old", "--why", "slow"])
        .ok();
    let made = server.infall(&["volume", "create", "v", "--image", "old"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(
        made.stderr.contains("warning: image old (img-") && made.stderr.contains("(slow)"),
        "{made:?}"
    );
    let events = server.infall(&["events", "--json"]).ok();
    let row = events
        .lines()
        .find(|line| line.contains("volume.created"))
        .unwrap();
    assert!(row.contains("is deprecated since"), "{row}");
}

#[test]
fn settings_that_let_nothing_be_used_or_name_nobody_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let check = |variables: &[(&str, &str)]| {
        let mut command = program(folder.path());
        command.envs(variables.iter().copied());
        run(command.args(["config", "check"]))
    };
    let said = check(&[("INFALL_IMAGES_SIGNED", "required")]).fails(2);
    assert!(said.contains("images.signers names no file"), "{said}");
    let signers = folder.path().join("signers");
    let path = signers.display().to_string();
    check(&[("INFALL_IMAGES_SIGNERS", &path)]).fails(4);
    std::fs::write(&signers, "# fine\nalice@lab nonsense\n").unwrap();
    let said = check(&[("INFALL_IMAGES_SIGNERS", &path)]).ok();
    assert!(said.contains("images.signers, line 2: "), "{said}");
    assert!(said.contains("images.deprecated"), "{said}");
}
