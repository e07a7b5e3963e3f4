//! Installing a snapshot, cut short at each step by the end of the process.

use super::super::snapshot::{begin, install_file};
use super::super::state::{Applied, State, own_rows, read_applied};
use super::super::types::{LogId, StoredMembership};
use super::*;
use crate::catalog::committer::{Committed, synced};
use crate::catalog::rows::Replacing;
use openraft::CommittedLeaderId;
use rocksdb::WriteBatch;
use std::io::Write;
use std::process::Command;

const STEP: &str = "INFALL_TEST_INSTALL_STEP";
const PLACE: &str = "INFALL_TEST_INSTALL_PLACE";
const STEPS: [(&str, Replacing); 3] = [
    ("writing", Replacing::Writing),
    ("written", Replacing::Written),
    ("replaced", Replacing::Replaced),
];

fn fill(database: &DB, version: u64, value: &[u8]) {
    let applied = Applied {
        version,
        at: Some(LogId::new(CommittedLeaderId::new(1, 1), version)),
        ..Applied::default()
    };
    let mut batch = WriteBatch::default();
    for (key, row) in own_rows(&applied, &StoredMembership::default()).unwrap() {
        batch.put(key, row);
    }
    batch.put(keys::NODE_BOOT, format!("boot of {version}"));
    // Some rows are in both, some in one only, on both sides of a node's own.
    for n in 0..2000_u64 {
        if !(n + version).is_multiple_of(3) {
            batch.put(format!("b/{n:06}"), value);
            batch.put(format!("o/{n:06}"), value);
        }
    }
    database.write_opt(batch, &synced()).unwrap();
}

fn public(database: &DB) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let rows = database.iterator(rocksdb::IteratorMode::Start);
    rows.map(|row| row.unwrap())
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .filter(|(key, _)| !key.starts_with(keys::NODE))
        .collect()
}

fn open_in(place: &Path) -> Arc<DB> {
    Arc::new(open::database(&place.join("catalog"), true).unwrap())
}

/// Writes what a leader of version 2 sends.
fn send(place: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let source = tempfile::tempdir().unwrap();
    let database = open_in(source.path());
    fill(&database, 2, b"new");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut file = std::fs::File::create(place.join("come.rows")).unwrap();
    runtime.block_on(async {
        let mut snapshot = begin(&database).await.unwrap();
        // What comes later is not in it.
        database.put(b"o/later", b"x").unwrap();
        while let Some(piece) = snapshot.snapshot.piece().await {
            file.write_all(&piece.unwrap()).unwrap();
        }
    });
    database.delete(b"o/later").unwrap();
    public(&database)
}

/// Runs in a process of its own, which ends in the middle.
#[test]
fn child_that_installs_and_is_killed() {
    let (Ok(step), Ok(place)) = (std::env::var(STEP), std::env::var(PLACE)) else {
        return;
    };
    let place = PathBuf::from(place);
    let database = open_in(&place);
    let until = STEPS.iter().find(|(name, _)| *name == step).unwrap().1;
    install_file(&database, &place, &place.join("come.rows"), &mut |at| {
        if at == until {
            std::process::abort();
        }
    })
    .unwrap();
}

#[test]
fn a_crash_while_a_snapshot_is_installed_leaves_the_old_rows_or_the_new() {
    for (step, at) in STEPS {
        let place = tempfile::tempdir().unwrap();
        let database = open_in(place.path());
        fill(&database, 1, b"old");
        let old = public(&database);
        drop(database);
        let new = send(place.path());
        assert_ne!(old, new);
        let ended = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "catalog::raft::tests::install::child_that_installs_and_is_killed",
            ])
            .env(STEP, step)
            .env(PLACE, place.path())
            .output()
            .unwrap();
        assert!(
            !ended.status.success(),
            "the child was to be killed at {step}"
        );
        let database = open_in(place.path());
        let (expected, version) = match at {
            Replacing::Writing | Replacing::Written => (&old, 1),
            Replacing::Replaced => (&new, 2),
        };
        assert_eq!(&public(&database), expected, "{step}");
        assert_eq!(read_applied(database.as_ref()).unwrap().version, version);
        // What is the node's own stayed.
        assert_eq!(
            database.get(keys::NODE_BOOT).unwrap().unwrap(),
            b"boot of 1"
        );
        // Done again, it comes to its end.
        install_file(
            &database,
            place.path(),
            &place.path().join("come.rows"),
            &mut |_| (),
        )
        .unwrap();
        assert_eq!(public(&database), new);
        let state =
            State::open(database, Arc::new(Committed::new(0)), place.path().into()).unwrap();
        assert_eq!(state.applied().borrow().version, 2);
    }
}

#[test]
fn a_damaged_snapshot_is_refused_and_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let database = open_in(place.path());
    fill(&database, 1, b"old");
    let old = public(&database);
    send(place.path());
    let path = place.path().join("come.rows");
    let whole = std::fs::read(&path).unwrap();
    for damage in 0..60 {
        let mut bytes = whole.clone();
        if damage % 3 == 0 {
            bytes.truncate(whole.len() * damage / 60);
        } else {
            let at = whole.len() * damage / 60 + damage;
            bytes[at] ^= 1 << (damage % 8);
        }
        std::fs::write(&path, &bytes).unwrap();
        let refused = install_file(&database, place.path(), &path, &mut |_| ()).unwrap_err();
        assert!(
            matches!(refused.kind(), Kind::Corrupt | Kind::Unsupported),
            "{refused:?}"
        );
        assert_eq!(public(&database), old);
    }
}

#[test]
fn a_catalog_restored_from_its_backup_has_its_rows_and_gives_no_number_twice() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(directory.path()).unwrap();
    for n in 0..1000 {
        put(&catalog, &format!("t/{n}"), "x").unwrap();
    }
    let id = catalog.map_ids(10).unwrap();
    let file = directory.path().join("backup.rows");
    let backup = catalog.backup(&file).unwrap();
    assert!(backup.rows >= 1000);
    assert_eq!(catalog.backup(&file).unwrap_err().kind(), Kind::Conflict);
    put(&catalog, "t/later", "x").unwrap();
    let later = catalog.map_ids(1000).unwrap();
    let boot = catalog.boot();
    catalog.close();
    let refused = Catalog::restore(directory.path(), &file).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.to_string().contains("is not empty"), "{refused}");

    let target = tempfile::tempdir().unwrap();
    assert_eq!(Catalog::restore(target.path(), &file).unwrap(), backup);
    let catalog = Catalog::open(target.path()).unwrap();
    assert_eq!(catalog.count(b"t/").unwrap(), 1000);
    assert!(catalog.boot() > boot);
    assert!(catalog.map_ids(1).unwrap() > later && later > id);
    let damaged = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(
        Catalog::restore(damaged.path(), &file).unwrap_err().kind(),
        Kind::Corrupt
    );
    assert!(!damaged.path().join("catalog").exists());
}
