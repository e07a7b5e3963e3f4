//! Images in a store: what is shared, what is written, and that it stays.

use crate::qemu::{FileAt, content, id_of_raw, qemu_img, random, seed};
use blockstore::image::ImageInfo;
use blockstore::object::{Copied, ObjectMeta, Precondition, ReadAt};
use blockstore::volume::Origin;
use blockstore::{Kind, Options, Store, Who};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const BUCKET: &str = "images";
const DISK_BYTES: usize = 12 << 20;

struct Lab {
    folder: tempfile::TempDir,
    store: Store,
    who: Who,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let who = Who {
            actor: "root".into(),
            request: "test".into(),
            project: "root".into(),
        };
        store.bucket_create(&who, BUCKET).unwrap();
        Self { folder, store, who }
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        let mut writer = self.store.object_writer(BUCKET).unwrap();
        bytes
            .chunks(777_777)
            .for_each(|chunk| writer.write(chunk).unwrap());
        writer
            .commit(
                &self.who,
                key,
                ObjectMeta::default(),
                &Precondition::default(),
            )
            .unwrap();
    }

    fn put_in_parts(&self, key: &str, bytes: &[u8], part_bytes: usize) {
        let upload = self
            .store
            .upload_create(&self.who, BUCKET, key, ObjectMeta::default())
            .unwrap();
        let mut parts = Vec::new();
        for (number, part) in (1..).zip(bytes.chunks(part_bytes)) {
            let mut writer = self.store.object_writer(BUCKET).unwrap();
            writer.write(part).unwrap();
            let etag = format!("{number:032x}");
            writer
                .commit_part(&self.who, &upload, number, etag.clone(), BTreeMap::new())
                .unwrap();
            parts.push((number, etag));
        }
        self.store
            .upload_complete(
                &self.who,
                &upload,
                &parts,
                ObjectMeta::default(),
                &Precondition::default(),
            )
            .unwrap();
    }

    fn remove_object(&self, key: &str) {
        self.store
            .object_remove(&self.who, BUCKET, key, &Precondition::default())
            .unwrap()
            .unwrap();
    }

    fn add(&self, key: &str, name: &str) -> (ImageInfo, Copied) {
        self.store
            .image_add(&self.who, BUCKET, key, name)
            .unwrap_or_else(|problem| panic!("{key}: {problem:?}"))
    }

    /// Everything a guest sees of an image; a read and its extents agree.
    fn shown(&self, image: &ImageInfo) -> Vec<u8> {
        let view = self.store.sealed_open(image.sealed).unwrap();
        assert_eq!(view.length_bytes(), image.length_bytes);
        let mut bytes = vec![0xa5; usize::try_from(image.length_bytes).unwrap()];
        view.read_at(0, &mut bytes).unwrap();
        bytes
    }

    /// A qcow2 file of `bytes`, as QEMU makes it.
    fn qcow2(&self, bytes: &[u8], options: &str, compress: bool) -> Vec<u8> {
        let (raw, qcow2) = (
            self.folder.path().join("disk.raw"),
            self.folder.path().join("disk.qcow2"),
        );
        std::fs::write(&raw, bytes).unwrap();
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
        if compress {
            arguments.push("-c");
        }
        arguments.extend([raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
        qemu_img(&arguments);
        std::fs::read(&qcow2).unwrap()
    }

    fn assert_sound(&self) {
        self.store.collect().unwrap();
        let report = self.store.check(true).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(report.leaked_bytes, 0);
    }
}

/// Ends the threads beside a test, also when it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn open(folder: &Path) -> Store {
    Store::open(
        &folder.join("store"),
        Options {
            collector: false,
            ..Options::default()
        },
    )
    .unwrap()
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    bytes
}

#[test]
fn a_raw_upload_is_its_image_and_its_qcow2_is_the_same_image() {
    let lab = Lab::new();
    let bytes = content(&mut random(seed()), DISK_BYTES);
    lab.put("disk.raw", &bytes);
    let before = lab.store.stats().unwrap();
    let (image, copied) = lab.add("disk.raw", "one");
    assert_eq!(
        copied,
        Copied {
            shared_bytes: DISK_BYTES as u64,
            ..Copied::default()
        }
    );
    assert_eq!(
        lab.store.stats().unwrap().written_copy_bytes,
        before.written_copy_bytes
    );
    assert_eq!(
        (image.format.as_str(), image.source.as_str()),
        ("raw", "s3://images/disk.raw")
    );
    let raw = lab.folder.path().join("same.raw");
    std::fs::write(&raw, &bytes).unwrap();
    assert_eq!(image.id, id_of_raw(&FileAt::open(&raw)).unwrap());
    assert!(lab.shown(&image) == bytes);

    lab.put("disk.qcow2", &lab.qcow2(&bytes, "cluster_size=64k", false));
    let (again, copied) = lab.add("disk.qcow2", "two");
    assert_eq!(
        (again.id.as_str(), again.sealed),
        (image.id.as_str(), image.sealed)
    );
    assert_eq!(again.names, ["one", "two"]);
    assert_eq!(copied.rewritten_bytes, 0);
    assert!(
        copied.why.contains("are image img-") && copied.why.contains("nothing else was kept"),
        "{}",
        copied.why
    );
    let (_, copied) = lab.add("disk.qcow2", "two");
    assert!(
        copied.shared_bytes == 0 && copied.why.contains("nothing was changed"),
        "{}",
        copied.why
    );
    let kinds: Vec<_> = lab
        .store
        .journal_after(0, 100)
        .unwrap()
        .into_iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| kind.starts_with("image."))
            .collect::<Vec<_>>(),
        ["image.added", "image.named"]
    );
    lab.assert_sound();
}

#[test]
fn a_multipart_upload_of_whole_blocks_is_shared_whole() {
    let lab = Lab::new();
    let bytes = content(&mut random(seed()), 21 << 20);
    lab.put_in_parts("disk.raw", &bytes, 8 << 20);
    let (image, copied) = lab.add("disk.raw", "parts");
    assert_eq!(
        copied,
        Copied {
            shared_bytes: 21 << 20,
            ..Copied::default()
        }
    );
    lab.remove_object("disk.raw");
    lab.store.collect().unwrap();
    assert!(lab.shown(&image) == bytes);
    lab.assert_sound();
}

#[test]
fn parts_off_the_grid_are_rewritten_and_said() {
    let lab = Lab::new();
    let bytes = content(&mut random(seed()), DISK_BYTES);
    lab.put_in_parts("disk.raw", &bytes, (5 << 20) + 100);
    let (image, copied) = lab.add("disk.raw", "odd");
    assert!(
        copied.shared_bytes >= 5 << 20 && copied.rewritten_bytes > 0,
        "{copied:?}"
    );
    assert!(copied.why.contains("off the 4 KiB grid"), "{}", copied.why);
    lab.remove_object("disk.raw");
    lab.store.collect().unwrap();
    assert!(lab.shown(&image) == bytes);
    lab.assert_sound();
}

#[test]
fn a_qcow2_is_shared_but_for_what_is_packed_or_off_the_grid() {
    let bytes = content(&mut random(seed()), DISK_BYTES);
    for (options, compress, parts) in [
        ("cluster_size=64k", false, false),
        ("cluster_size=4k,compat=0.10", false, false),
        ("cluster_size=64k,extended_l2=on", false, false),
        ("cluster_size=2M", false, true),
        ("cluster_size=64k", true, false),
        ("cluster_size=2M,compression_type=zstd", true, true),
        ("cluster_size=512", false, false),
    ] {
        let lab = Lab::new();
        let file = lab.qcow2(&bytes, options, compress);
        if parts {
            lab.put_in_parts("disk.qcow2", &file, 5 << 20);
        } else {
            lab.put("disk.qcow2", &file);
        }
        let before = lab.store.stats().unwrap();
        let (image, copied) = lab.add("disk.qcow2", "disk");
        let written = lab.store.stats().unwrap().written_copy_bytes - before.written_copy_bytes;
        assert_eq!(
            written, copied.rewritten_bytes,
            "{options}: what is said to be written is written"
        );
        if compress {
            assert!(
                copied.why.contains("unpacked") && copied.rewritten_bytes > 0,
                "{options}: {copied:?}"
            );
        } else if !options.contains("=512") {
            assert_eq!(
                (copied.rewritten_bytes, copied.why.as_str()),
                (0, ""),
                "{options}"
            );
            assert!(copied.shared_bytes > 0);
        }
        assert_eq!(image.format, "qcow2");
        assert!(lab.shown(&image) == bytes, "{options}");
        // Neither the object nor this process is needed for it any more.
        lab.remove_object("disk.qcow2");
        lab.store.collect().unwrap();
        assert!(lab.shown(&image) == bytes, "{options}, without its object");
        lab.assert_sound();
        let Lab { folder, store, who } = lab;
        store.close().unwrap();
        drop(store);
        let lab = Lab {
            store: open(folder.path()),
            folder,
            who,
        };
        let image = lab.store.image("disk").unwrap();
        assert!(lab.shown(&image) == bytes, "{options}, opened again");
        lab.store.image_remove(&lab.who, "disk").unwrap();
        lab.assert_sound();
        assert_eq!(
            lab.store.stats().unwrap().live_bytes,
            0,
            "{options}: everything is freed"
        );
    }
}

#[test]
fn small_and_odd_lengths_are_rounded_up_and_said() {
    let lab = Lab::new();
    for length in [1, 5000, 8192, 1_000_001] {
        let bytes = content(&mut random(length as u64), length)
            .iter()
            .map(|byte| byte | 1)
            .collect::<Vec<u8>>();
        let key = format!("odd-{length}");
        lab.put(&key, &bytes);
        let (image, copied) = lab.add(&key, &key);
        assert!(
            image.length_bytes == length.next_multiple_of(4096) as u64,
            "{length}"
        );
        assert!(lab.shown(&image) == padded(&bytes), "{length}");
        assert_eq!(
            copied.why.contains("rounded up"),
            length % 4096 != 0,
            "{length}: {}",
            copied.why
        );
        assert_eq!(
            copied.why.contains("small object"),
            length <= 8192,
            "{length}: {}",
            copied.why
        );
    }
    lab.put("empty", &[]);
    let error = lab
        .store
        .image_add(&lab.who, BUCKET, "empty", "empty")
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    lab.assert_sound();
}

#[test]
fn what_is_refused_leaves_nothing() {
    let lab = Lab::new();
    let mut packed = lab.qcow2(
        &content(&mut random(4), DISK_BYTES),
        "cluster_size=64k",
        true,
    );
    packed.truncate(packed.len() - (1 << 20));
    lab.put("cut.qcow2", &packed);
    lab.put("disk.vmdk", b"KDMV and so on");
    lab.put("good.raw", &[1; 1 << 20]);
    let maps = lab.store.check(false).unwrap().maps;
    let refusal = |key: &str, name: &str| {
        lab.store
            .image_add(&lab.who, BUCKET, key, name)
            .unwrap_err()
    };
    let error = refusal("cut.qcow2", "cut");
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error.to_string().contains("s3://images/cut.qcow2")
            && error.to_string().contains("malformed qcow2"),
        "{error}"
    );
    let error = refusal("disk.vmdk", "vmdk");
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("VMDK"), "{error}");
    assert_eq!(refusal("nothing", "x").kind(), Kind::NotFound);
    assert_eq!(refusal("good.raw", "img-x").kind(), Kind::Invalid);
    assert!(lab.store.images().unwrap().is_empty());
    assert_eq!(lab.store.check(false).unwrap().maps, maps);

    // A name that stands for another image: the map composed for this one goes again.
    lab.add("good.raw", "good");
    lab.put(
        "other.qcow2",
        &lab.qcow2(
            &content(&mut random(5), DISK_BYTES),
            "cluster_size=64k",
            true,
        ),
    );
    let live = lab.store.stats().unwrap().live_bytes;
    assert_eq!(refusal("other.qcow2", "good").kind(), Kind::Conflict);
    assert_eq!(lab.store.images().unwrap().len(), 1);
    lab.assert_sound();
    assert_eq!(lab.store.stats().unwrap().live_bytes, live);
}

#[test]
fn a_volume_shows_its_image_and_outlives_it() {
    let lab = Lab::new();
    let bytes = content(&mut random(seed()), DISK_BYTES);
    lab.put("disk.qcow2", &lab.qcow2(&bytes, "cluster_size=64k", true));
    let (image, _) = lab.add("disk.qcow2", "disk");
    let beginning = &image.id[..12];
    let (volume, copied) = lab
        .store
        .volume_create(&lab.who, "root1", None, &Origin::Image(beginning.into()))
        .unwrap();
    assert_eq!(
        (volume.length_bytes, copied.rewritten_bytes),
        (image.length_bytes, 0)
    );
    lab.store.image_remove(&lab.who, "disk").unwrap();
    lab.remove_object("disk.qcow2");
    lab.assert_sound();
    let volume = lab.store.volume_open("root1").unwrap();
    let mut shown = vec![0; DISK_BYTES];
    volume.read_at(0, &mut shown).unwrap();
    assert!(shown == bytes);
}

/// Once, a name was looked up, its image removed and added again, and the lookup said that the catalog
/// was damaged.
#[test]
fn adding_cloning_and_removing_at_once_loses_nothing() {
    let lab = Lab::new();
    let bytes = content(&mut random(seed()), 2 << 20);
    lab.put("disk.qcow2", &lab.qcow2(&bytes, "cluster_size=64k", true));
    lab.put("disk.raw", &bytes);
    let stop = AtomicBool::new(false);
    let mut cloned = 0;
    std::thread::scope(|scope| {
        for (key, name) in [("disk.qcow2", "a"), ("disk.raw", "b")] {
            let (lab, stop) = (&lab, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    lab.store.image_add(&lab.who, BUCKET, key, name).unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                    lab.store.image_remove(&lab.who, name).unwrap();
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                lab.store.collect().unwrap();
            }
        });
        let _stop = Stop(&stop);
        let begin = Instant::now();
        for round in 0.. {
            if begin.elapsed() > Duration::from_secs(5) {
                break;
            }
            let volume = format!("v{round}");
            let name = ["a", "b"][round % 2];
            match lab
                .store
                .volume_create(&lab.who, &volume, None, &Origin::Image(name.into()))
            {
                Ok(_) => {
                    cloned += 1;
                    let mut shown = vec![0; bytes.len()];
                    let read = lab
                        .store
                        .volume_open(&volume)
                        .unwrap()
                        .read_at(0, &mut shown);
                    assert!(read.is_ok() && shown == bytes, "round {round}: {read:?}");
                }
                // Gone, or gone and back as another map in between.
                Err(error) => {
                    assert!(
                        matches!(error.kind(), Kind::NotFound | Kind::Conflict),
                        "{error:?}"
                    );
                }
            }
        }
    });
    println!("{cloned} clones");
    assert!(cloned > 5);
    lab.assert_sound();
}

#[test]
fn an_object_that_is_replaced_meanwhile_gives_one_version_or_a_conflict() {
    let lab = Lab::new();
    let versions: Vec<Vec<u8>> = (0..3)
        .map(|version| content(&mut random(version), 2 << 20))
        .collect();
    let files: Vec<Vec<u8>> = versions
        .iter()
        .map(|bytes| lab.qcow2(bytes, "cluster_size=64k", false))
        .collect();
    let ids: HashMap<String, usize> = (0..3)
        .map(|version| {
            let key = format!("version-{version}");
            lab.put(&key, &files[version]);
            let (image, _) = lab.add(&key, &key);
            lab.store.image_remove(&lab.who, &key).unwrap();
            lab.remove_object(&key);
            (image.id, version)
        })
        .collect();
    lab.put("disk.qcow2", &files[0]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut version = 0;
            while !stop.load(Ordering::Relaxed) {
                version = (version + 1) % 3;
                lab.put("disk.qcow2", &files[version]);
                lab.store.collect().unwrap();
            }
        });
        let _stop = Stop(&stop);
        let (mut added, mut refused) = (0, 0);
        for round in 0..40 {
            let name = format!("image-{round}");
            match lab.store.image_add(&lab.who, BUCKET, "disk.qcow2", &name) {
                Ok((image, _)) => {
                    added += 1;
                    assert!(
                        lab.shown(&image) == versions[ids[&image.id]],
                        "round {round}"
                    );
                    lab.store.image_remove(&lab.who, &name).unwrap();
                }
                Err(error) => {
                    refused += 1;
                    assert!(
                        matches!(error.kind(), Kind::Conflict | Kind::Unavailable),
                        "{error:?}"
                    );
                }
            }
        }
        println!("{added} added, {refused} refused");
    });
    lab.assert_sound();
}
