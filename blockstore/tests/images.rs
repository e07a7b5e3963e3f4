//! Which images may be used: each rule refuses by its name and is on record; signatures are those of the
//! real ssh-keygen.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use blockstore::image::ImageInfo;
use blockstore::image::trust::statement::Statement;
use blockstore::image::trust::{DeprecatedRule, ENDORSEMENTS_MAX, NAMESPACE, Rules, SignedRule};
use blockstore::object::{ObjectMeta, Precondition, ReadAt};
use blockstore::volume::Origin;
use blockstore::{Error, Kind, Options, Store, Subject, Who};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

struct Lab {
    store: Store,
    who: Who,
    folder: tempfile::TempDir,
}

impl Lab {
    /// A store with the images `old` and `new`.
    fn new(rules: impl FnOnce(&Path) -> Rules) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            collector: false,
            images: rules(folder.path()),
            ..Options::default()
        };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        let who = Who {
            actor: "user/alice".into(),
            request: "r-1".into(),
            project: "lab".into(),
        };
        store.bucket_create(&who, "images").unwrap();
        for name in ["old", "new"] {
            let mut body = store.object_writer("images").unwrap();
            body.write(&name.repeat(200_000).into_bytes()).unwrap();
            let (meta, any) = (ObjectMeta::default(), Precondition::default());
            body.commit(&who, name, meta, &any).unwrap();
            store.image_add(&who, "images", name, name).unwrap();
        }
        Self { store, who, folder }
    }

    fn with(deprecated: DeprecatedRule) -> Self {
        Self::new(|_| Rules {
            deprecated,
            ..Rules::default()
        })
    }

    /// Signatures are required, of those in the file `signers`.
    fn signed() -> Self {
        Self::new(|folder| Rules {
            signed: SignedRule::Required,
            signers: Some(folder.join("signers")),
            ..Rules::default()
        })
    }

    fn image(&self, name: &str) -> ImageInfo {
        self.store.image(name).unwrap()
    }

    fn clone(&self, volume: &str, origin: &Origin) -> Result<String, Error> {
        let made = self.store.volume_create(&self.who, volume, None, origin);
        made.map(|(_, copied)| copied.why)
    }

    fn old(&self, volume: &str) -> Result<String, Error> {
        self.clone(volume, &Origin::Image("old".into()))
    }

    /// The refusal of a clone, which must be by this rule and on record.
    #[track_caller]
    fn refused(&self, rule: &str) -> String {
        let before = self.store.journal_after(0, usize::MAX).unwrap().len();
        let error = self.old("refused").unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::Denied, Subject::Image)
        );
        let text = error.to_string();
        assert!(text.starts_with(&format!("rule {rule}: ")), "{text}");
        assert!(text.contains("old (img-"), "{text}");
        let rows = self.store.journal_after(before as u64, 10).unwrap();
        let [row] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!(
            (
                row.kind.as_str(),
                &row.subject,
                row.actor.as_str(),
                row.request.as_str()
            ),
            ("image.refused", &self.image("old").id, "user/alice", "r-1")
        );
        assert!(
            row.detail.contains(rule) && row.detail.contains("refused"),
            "{row:?}"
        );
        assert!(
            self.store.volume_info("refused").is_err(),
            "nothing was made"
        );
        text
    }

    /// A new key pair, and the line of its public half.
    fn key(&self, name: &str, sort: &[&str]) -> (PathBuf, String) {
        let file = self.folder.path().join(name);
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-N", "", "-C", name, "-f"])
            .arg(&file)
            .arg("-t")
            .args(sort);
        assert!(keygen.status().unwrap().success());
        let line = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        (file, line.trim().to_owned())
    }

    fn signers(&self, lines: &str) {
        std::fs::write(self.folder.path().join("signers"), lines).unwrap();
    }

    /// What ssh-keygen makes of a text.
    fn sign(&self, key: &Path, namespace: &str, text: &str) -> String {
        let file = self.folder.path().join("statement");
        let signature = self.folder.path().join("statement.sig");
        std::fs::write(&file, text).unwrap();
        let _ = std::fs::remove_file(&signature);
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
            .arg(key)
            .arg(&file);
        assert!(keygen.status().unwrap().success());
        std::fs::read_to_string(signature).unwrap()
    }

    fn statement(&self, name: &str) -> String {
        Statement::new(&self.image(name).id, None).unwrap().text()
    }

    fn endorse(&self, statement: &str, signature: &str) -> Result<ImageInfo, Error> {
        self.store
            .image_endorse(&self.who, "old", statement, signature)
    }
}

fn now_ms() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[test]
fn a_deprecated_image_is_refused_unless_it_is_asked_for_as_one() {
    let lab = Lab::with(DeprecatedRule::Refuse);
    let deprecate =
        |why: &str, other: Option<&str>| lab.store.image_deprecate(&lab.who, "old", why, other);
    lab.old("before").unwrap();
    for (why, other, kind) in [
        ("", None, Kind::Invalid),
        ("a\nb", None, Kind::Invalid),
        (&*"x".repeat(501), None, Kind::Invalid),
        ("x", Some("old"), Kind::Invalid),
        ("x", Some("neww"), Kind::NotFound),
    ] {
        assert_eq!(deprecate(why, other).unwrap_err().kind(), kind, "{why:?}");
    }
    let first = deprecate("end of life", Some("new"))
        .unwrap()
        .deprecated
        .unwrap();
    let said = lab.refused("images.deprecated");
    assert!(
        said.contains("(end of life): use new, or say --deprecated"),
        "{said}"
    );

    let old = || Origin::DeprecatedImage("old".into());
    let remark = lab.clone("asked", &old()).unwrap();
    assert!(remark.contains("is deprecated since"), "{remark}");
    let again = deprecate("worse", None).unwrap().deprecated.unwrap();
    assert_eq!((again.since_ms, again.replacement), (first.since_ms, None));
    lab.store
        .snapshot_create(&lab.who, "before", Some("cut"), None)
        .unwrap();
    lab.clone("again", &Origin::Snapshot("cut".into())).unwrap();

    lab.store.image_undeprecate(&lab.who, "old").unwrap();
    assert_eq!(lab.old("after").unwrap(), "");
    let twice = lab.store.image_undeprecate(&lab.who, "old");
    assert_eq!(twice.unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn a_site_may_only_warn_of_deprecated_images() {
    let lab = Lab::with(DeprecatedRule::Warn);
    lab.store
        .image_deprecate(&lab.who, "old", "slow", Some("new"))
        .unwrap();
    let remark = lab.old("v").unwrap();
    assert!(
        remark.contains("deprecated since") && remark.contains("(slow): use new"),
        "{remark}"
    );
    let events = lab.store.journal_after(0, usize::MAX).unwrap();
    let made = events
        .iter()
        .find(|event| event.kind == "volume.created")
        .unwrap();
    assert!(
        made.detail.contains("image:old: ") && made.detail.contains("slow"),
        "{made:?}"
    );
}

#[test]
fn an_expired_image_is_refused_whatever_is_asked() {
    let lab = Lab::with(DeprecatedRule::Warn);
    let expire = |at_ms| lab.store.image_expire(&lab.who, "old", at_ms).unwrap();
    expire(Some(now_ms() + 3_600_000));
    lab.old("before").unwrap();
    expire(Some(now_ms()));
    lab.refused("images.expires");
    let asked = lab.clone("asked", &Origin::DeprecatedImage("old".into()));
    assert_eq!(asked.unwrap_err().kind(), Kind::Denied);
    // It can still be read.
    let view = lab.store.sealed_open(lab.image("old").sealed).unwrap();
    view.read_at(0, &mut [0; 4096]).unwrap();
    expire(None);
    lab.old("after").unwrap();
}

#[test]
fn where_signatures_are_required_one_that_counts_opens_the_image() {
    let lab = Lab::signed();
    lab.signers("# nobody yet\n");
    assert!(
        lab.refused("images.signed")
            .contains("it is not signed at all")
    );
    // ssh-keygen's own sorts, each by itself.
    for (name, sort) in [
        ("ed25519", ["ed25519", "-b", "256"]),
        ("p256", ["ecdsa", "-b", "256"]),
        ("p384", ["ecdsa", "-b", "384"]),
        ("rsa", ["rsa", "-b", "2048"]),
    ] {
        let (key, line) = lab.key(name, &sort);
        let statement = lab.statement("old");
        let image = lab
            .endorse(&statement, &lab.sign(&key, NAMESPACE, &statement))
            .unwrap();
        assert!(
            lab.refused("images.signed")
                .contains("not among the signers"),
            "{name}"
        );
        lab.signers(&format!("{name}@lab {line}\n"));
        let standing = lab.store.image_standing(&image);
        assert!(
            standing.signed && standing.refused.is_none(),
            "{standing:?}"
        );
        let signed_by: Vec<_> = standing
            .signatures
            .iter()
            .filter_map(|one| one.signer.as_deref())
            .collect();
        assert_eq!(signed_by, [format!("{name}@lab")]);
        lab.old(name).unwrap();
        // Taken out of the file, the same signature is worth nothing.
        lab.signers("");
        lab.refused("images.signed");
        lab.signers(&format!("{name}@lab valid-before=\"20200101Z\" {line}\n"));
        assert!(
            lab.refused("images.signed")
                .contains("no longer valid (valid-before)")
        );
        lab.signers(&format!("{name}@lab namespaces=\"file\" {line}\n"));
        assert!(lab.refused("images.signed").contains("other namespaces"));
        let print = &image.endorsements[0].fingerprint;
        lab.store.image_unendorse(&lab.who, "old", print).unwrap();
        let gone = lab.store.image_unendorse(&lab.who, "old", print);
        assert_eq!(gone.unwrap_err().kind(), Kind::NotFound);
    }
    std::fs::remove_file(lab.folder.path().join("signers")).unwrap();
    assert!(
        lab.refused("images.signed")
            .contains("cannot read the signers")
    );
    lab.store
        .image_add(&lab.who, "images", "old", "older")
        .unwrap();
}

#[test]
fn a_signature_over_anything_else_is_not_kept() {
    let lab = Lab::signed();
    let (key, line) = lab.key("k", &["ed25519"]);
    lab.signers(&format!("k@lab {line}\n"));
    let (good, other) = (lab.statement("old"), lab.statement("new"));
    let signature = lab.sign(&key, NAMESPACE, &good);
    let (p521, _) = lab.key("p521", &["ecdsa", "-b", "521"]);
    let mut bent: Vec<String> = signature.lines().map(str::to_owned).collect();
    let last = bent.len() - 2;
    let swapped = if bent[last].starts_with('A') {
        "B"
    } else {
        "A"
    };
    bent[last].replace_range(0..1, swapped);
    let until = |at_ms| {
        Statement::new(&lab.image("old").id, Some(at_ms))
            .unwrap()
            .text()
    };
    let over = until(now_ms() - 5000);
    for (statement, signature, why) in [
        (&good, bent.join("\n"), ""),
        (&good, lab.sign(&key, "file", &good), "namespace \"file\""),
        (
            &good,
            lab.sign(&key, NAMESPACE, &other),
            "not over this statement",
        ),
        (&other, lab.sign(&key, NAMESPACE, &other), "not about img-"),
        (
            &over,
            lab.sign(&key, NAMESPACE, &over),
            "the statement ended at",
        ),
        (&good, lab.sign(&p521, NAMESPACE, &good), "nistp521"),
        (&good, line.clone(), "no signature"),
        (&good, String::new(), "no signature"),
        (&good, "x".repeat(1 << 20), "bytes"),
        (
            &good.replace("image ", "image  "),
            signature.clone(),
            "statement",
        ),
        (&format!("{good}\n"), signature.clone(), "statement"),
    ] {
        let error = lab.endorse(statement, &signature).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{statement} {error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    assert!(lab.image("old").endorsements.is_empty());

    // A statement that ends is worth something until then, and a later one takes its place.
    let soon = until(now_ms() + 2000);
    lab.endorse(&soon, &lab.sign(&key, NAMESPACE, &soon))
        .unwrap();
    lab.old("in-time").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(lab.refused("images.signed").contains("it was valid until"));
    let image = lab.endorse(&good, &signature).unwrap();
    assert_eq!(image.endorsements.len(), 1);
    assert_eq!(image.endorsements[0].added_by, "user/alice");
    lab.old("for-ever").unwrap();
    for number in 1..ENDORSEMENTS_MAX {
        let (key, _) = lab.key(&format!("n{number}"), &["ed25519"]);
        lab.endorse(&good, &lab.sign(&key, NAMESPACE, &good))
            .unwrap();
    }
    let (key, _) = lab.key("one-more", &["ed25519"]);
    let full = lab.endorse(&good, &lab.sign(&key, NAMESPACE, &good));
    assert_eq!(full.unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn what_was_said_of_an_image_outlives_its_names_and_the_server() {
    let lab = Lab::with(DeprecatedRule::Refuse);
    lab.store
        .image_deprecate(&lab.who, "old", "slow", None)
        .unwrap();
    lab.store
        .image_add(&lab.who, "images", "old", "fresh")
        .unwrap();
    let clone = |store: &Store| {
        let origin = Origin::Image("fresh".into());
        let made = store.volume_create(&lab.who, "v", None, &origin);
        made.map(drop).unwrap_err().kind()
    };
    assert_eq!(
        clone(&lab.store),
        Kind::Denied,
        "the same bytes under another name"
    );
    lab.store.image_remove(&lab.who, "old").unwrap();
    lab.store.close().unwrap();
    let Lab { store, who, folder } = lab;
    drop(store);
    let store = Store::open(&folder.path().join("store"), Options::default()).unwrap();
    let origin = Origin::Image("fresh".into());
    let refused = store.volume_create(&who, "v", None, &origin).map(drop);
    assert_eq!(refused.unwrap_err().kind(), Kind::Denied);
    store.close().unwrap();
}

/// A use is judged before its transaction: what is said of the image in between must not slip through.
#[test]
fn no_clone_is_made_between_a_deprecation_and_its_end() {
    let lab = Lab::with(DeprecatedRule::Refuse);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                let store = &lab.store;
                store.image_deprecate(&lab.who, "old", "x", None).unwrap();
                store.image_undeprecate(&lab.who, "old").unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            number += 1;
            if let Err(error) = lab.old(&format!("v{number}")) {
                let kind = error.kind();
                assert!(matches!(kind, Kind::Denied | Kind::Conflict), "{error:?}");
            }
        }
    });
    let (mut deprecated, mut made) = (false, 0);
    for event in lab.store.journal_after(0, usize::MAX).unwrap() {
        match event.kind.as_str() {
            "image.deprecated" => deprecated = true,
            "image.undeprecated" => deprecated = false,
            "volume.created" => {
                assert!(!deprecated, "{event:?}");
                made += 1;
            }
            _ => {}
        }
    }
    println!("CLONES {made} between 200 deprecations");
    assert!(made > 0);
}
