//! Claims about uploads, on maps that hold no bytes.

use super::*;
use crate::catalog::MapRow;
use crate::object::delete::{self, Delete};
use crate::{LogId, Lsn, MapId, SealedMap};

const MIB: u64 = 1 << 20;

fn sealed(map: u64, length_bytes: u64) -> SealedMap {
    SealedMap {
        map: MapId(map),
        lsn: Lsn(9),
        length_bytes,
    }
}

fn piece(map: u64, offset_bytes: u64, length_bytes: u64) -> Piece {
    Piece {
        sealed: sealed(map, 100 * MIB),
        offset_bytes,
        length_bytes,
    }
}

struct Bench {
    _directory: tempfile::TempDir,
    catalog: Catalog,
    upload: Upload,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(directory.path()).unwrap();
    bucket::create(
        &catalog,
        &Who::server(),
        "abc",
        bucket::BucketConfig::default(),
    )
    .unwrap();
    let upload = create(
        &catalog,
        &Who::server(),
        "abc",
        "k/ey",
        ObjectMeta::default(),
    )
    .unwrap();
    Bench {
        _directory: directory,
        catalog,
        upload,
    }
}

impl Bench {
    fn part(&self, number: u32, map: u64, length_bytes: u64) -> Result<Part> {
        let upload = self.upload.clone();
        self.catalog.transact(move |txn| {
            let log = LogId(1);
            let row = MapRow {
                log,
                parent: None,
                length_bytes,
                borrows: Vec::new(),
                created_ms: 1,
            };
            txn.put_map(MapId(map), &row)?;
            let pieces = vec![Piece {
                sealed: sealed(map, length_bytes),
                offset_bytes: 0,
                length_bytes,
            }];
            let etag = format!("e{map}");
            let draft = DraftPart {
                number,
                etag,
                checksums: BTreeMap::new(),
                length_bytes,
                pieces,
            };
            put_part(txn, &Who::server(), &upload, draft, "written")
        })
    }

    fn complete(&self, named: &[(u32, &str)]) -> Result<Object> {
        let named: Vec<_> = named
            .iter()
            .map(|(number, etag)| (*number, (*etag).to_owned()))
            .collect();
        let meta = ObjectMeta {
            etag: "whole-2".into(),
            ..ObjectMeta::default()
        };
        complete(
            &self.catalog,
            &Who::server(),
            &self.upload,
            &named,
            meta,
            &Precondition::default(),
        )
    }

    fn loose(&self) -> Vec<u64> {
        self.catalog
            .loose()
            .unwrap()
            .into_iter()
            .map(|map| map.0)
            .collect()
    }
}

#[test]
fn completing_shares_the_named_parts_and_lets_go_of_the_others() {
    let bench = bench();
    bench.part(1, 11, 5 * MIB).unwrap();
    bench.part(3, 13, 6 * MIB).unwrap();
    bench.part(3, 14, 7 * MIB).unwrap();
    assert_eq!(bench.loose(), [13]);
    bench.part(4, 15, 5 * MIB).unwrap();
    bench.part(7, 17, 1).unwrap();
    let numbers: Vec<_> = parts(&bench.catalog, &bench.upload)
        .unwrap()
        .iter()
        .map(|part| part.number)
        .collect();
    assert_eq!(numbers, [1, 3, 4, 7]);

    let object = bench
        .complete(&[(1, "e11"), (3, "e14"), (7, "e17")])
        .unwrap();
    assert_eq!(
        (object.length_bytes, object.parts),
        (12 * MIB + 1, vec![5 * MIB, 7 * MIB, 1])
    );
    assert!(matches!(object.body, Body::Concat(pieces) if pieces.len() == 3));
    assert_eq!(bench.loose(), [13, 15]);
    for map in [11, 14, 17] {
        assert!(bench.catalog.has_pin(MapId(map), Lsn(9)).unwrap());
    }
    let error = bench.complete(&[(1, "e11")]).unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NotFound, Subject::Upload)
    );
    assert_eq!(bench.part(1, 20, 1).unwrap_err().subject(), Subject::Upload);
    assert_eq!(bench.catalog.count(keys::PINS).unwrap(), 3);

    let removed = bench
        .catalog
        .transact(|txn| {
            let bucket = bucket::expect(txn, "abc")?;
            let ask = Delete {
                key: "k/ey".into(),
                ..Delete::default()
            };
            delete::delete(txn, &Who::server(), &bucket, &ask)
        })
        .unwrap();
    assert!(removed.gone.is_some());
    assert_eq!(bench.loose(), [11, 13, 14, 15, 17]);
    assert_eq!(bench.catalog.count(keys::PINS).unwrap(), 0);
}

#[test]
fn a_wrong_list_of_parts_changes_nothing_and_names_the_part() {
    let bench = bench();
    bench.part(1, 11, 5 * MIB - 1).unwrap();
    bench.part(2, 12, 5 * MIB).unwrap();
    bench.part(5, 15, 5 * MIB).unwrap();
    for (named, text) in [
        (&[][..], "none is named"),
        (&[(1, "e11"), (2, "e12")], "part 1 is too small"),
        (
            &[(2, "e12"), (2, "e12")],
            "part 2 is named behind part 2: parts come in rising order",
        ),
        (&[(5, "e15"), (2, "e12")], "part 2 is named behind part 5"),
        (&[(2, "e12"), (3, "e13")], "part 3 was not uploaded"),
        (&[(2, "e11")], "part 2 has ETag \"e12\", not \"e11\""),
    ] {
        let error = bench.complete(named).unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::Invalid, Subject::Part)
        );
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(bench.part(0, 16, 1).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(bench.part(10_001, 16, 1).unwrap_err().kind(), Kind::Invalid);
    let object = bench.complete(&[(1, "e11")]).unwrap();
    assert_eq!(object.body, Body::Map(sealed(11, 5 * MIB - 1)));
}

#[test]
fn an_aborted_upload_lets_go_of_every_part() {
    let bench = bench();
    bench.part(1, 11, 5 * MIB).unwrap();
    bench.part(2, 12, 5 * MIB).unwrap();
    abort(&bench.catalog, &Who::server(), &bench.upload).unwrap();
    assert_eq!(bench.loose(), [11, 12]);
    assert_eq!(
        abort(&bench.catalog, &Who::server(), &bench.upload)
            .unwrap_err()
            .subject(),
        Subject::Upload
    );
    bucket::remove(&bench.catalog, &Who::server(), "abc").unwrap();
}

#[test]
fn neighbouring_pieces_of_one_map_become_one() {
    let part = |number, pieces: &[Piece]| Part {
        number,
        length_bytes: pieces.iter().map(|piece| piece.length_bytes).sum(),
        etag: String::new(),
        checksums: BTreeMap::new(),
        modified_ms: 0,
        pieces: pieces.to_vec(),
    };
    let (a, b) = (
        part(1, &[piece(1, 0, 4096)]),
        part(2, &[piece(1, 4096, 8192), piece(2, 0, 5)]),
    );
    assert_eq!(
        body_of(&[&a, &b]),
        Body::Concat(vec![piece(1, 0, 12288), piece(2, 0, 5)])
    );
    assert_eq!(
        body_of(&[&b, &a]),
        Body::Concat([&b.pieces[..], &a.pieces].concat())
    );
    let halves = [
        part(1, &[piece(1, 0, 50 * MIB)]),
        part(2, &[piece(1, 50 * MIB, 50 * MIB)]),
    ];
    assert_eq!(
        body_of(&[&halves[0], &halves[1]]),
        Body::Map(sealed(1, 100 * MIB))
    );
    assert_eq!(body_of(&[&part(1, &[])]), Body::Inline);
}
