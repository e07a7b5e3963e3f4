//! Files made to hurt: whatever they say, a reader answers soon and in little memory.

use crate::qemu::{Bytes, FileAt, as_we_show, id_of_qcow2, qemu_img, random, runs, seed};
use crate::refused::sound;
use blockstore::Kind;
use blockstore::image::qcow2::Qcow2;
use blockstore::image::run::RunKind;
use blockstore::object::ReadAt;
use rand::Rng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

const MUTATING_FOR: Duration = Duration::from_secs(10);
/// For one file of a few MiB, on a busy machine.
const ONE_FILE_MAX: Duration = Duration::from_secs(5);
/// Above what the process held when it began; the tests beside hold up to 200 MiB.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

fn peak_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Places where a change means something: the header, and every table.
fn tables(file: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize| u64::from_be_bytes(file[at..at + 8].try_into().unwrap());
    let cluster = 1_usize << file[23];
    let offset_of = |entry: u64| usize::try_from(entry & 0x00ff_ffff_ffff_fe00).unwrap();
    let (l1, l1_entries) = (offset_of(number(40)), usize::from(file[39]));
    let mut places = vec![(0, 112), (0, 1024), (l1, l1_entries * 8)];
    let l2_tables = (0..l1_entries)
        .map(|index| offset_of(number(l1 + index * 8)))
        .filter(|offset| *offset != 0);
    places.extend(l2_tables.map(|offset| (offset, cluster.min(512))));
    places
}

fn mutate(random: &mut StdRng, file: &mut Vec<u8>, places: &[(usize, usize)]) {
    for _ in 0..random.random_range(1..=4) {
        let (start, length) = places[random.random_range(0..places.len())];
        let at = start + random.random_range(0..length.max(1));
        match random.random_range(0..6) {
            0 if at < file.len() => file[at] ^= 1 << random.random_range(0..8),
            1 if at < file.len() => file[at] = random.random(),
            2 if at < file.len() => {
                file[at] = [0, 0xff, 0x7f, 0x80, 0x40][random.random_range(0..5)];
            }
            3 if at + 8 < file.len() => {
                let word = [
                    0,
                    u64::MAX,
                    1 << 62,
                    1 << 63 | 0x1_0000,
                    random.random(),
                    random.random_range(0..file.len() as u64),
                ];
                let at = at / 8 * 8;
                file[at..at + 8]
                    .copy_from_slice(&word[random.random_range(0..word.len())].to_be_bytes());
            }
            4 if start + 16 < file.len() => {
                // One entry shows what another does.
                let (from, to) = (
                    random.random_range(0..length.max(16) / 8),
                    random.random_range(0..length.max(16) / 8),
                );
                if start + from.max(to) * 8 + 8 <= file.len() {
                    file.copy_within(start + from * 8..start + from * 8 + 8, start + to * 8);
                }
            }
            5 if random.random_range(0..8) == 0 => {
                file.truncate(random.random_range(0..file.len()));
            }
            _ => {}
        }
        if file.is_empty() {
            return;
        }
    }
}

/// Reads everything of a small disk, the beginning of a large one.
fn read(file: &[u8]) -> blockstore::Result<()> {
    let bytes = Bytes(file);
    let qcow2 = Qcow2::open(&bytes)?;
    if qcow2.header().size_bytes <= 8 << 20 {
        as_we_show(&bytes)?;
        id_of_qcow2(&bytes)?;
        return Ok(());
    }
    let image = qcow2.image_file();
    let mut reader = image.reader()?;
    let mut buffer = vec![0; 4 << 20];
    for (index, run) in qcow2.runs().enumerate() {
        let run = run?;
        let length = usize::try_from(run.length).unwrap().min(buffer.len());
        if index < 64 {
            reader.read(&run, 0, &mut buffer[..length])?;
        }
    }
    Ok(())
}

#[test]
fn changed_headers_and_tables_never_panic_hang_or_eat_memory() {
    let seed = seed();
    let mut random = random(seed);
    let files: Vec<Vec<u8>> = [
        "cluster_size=512",
        "compat=0.10,cluster_size=4k",
        "cluster_size=64k",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=2M",
    ]
    .into_iter()
    .map(sound)
    .chain([
        packed("compression_type=zlib,cluster_size=4k"),
        packed("compression_type=zstd,cluster_size=64k"),
    ])
    .collect();
    let places: Vec<_> = files.iter().map(|file| tables(file)).collect();
    let (begin, before) = (Instant::now(), peak_resident_bytes());
    let (mut tried, mut accepted) = (0, 0);
    while begin.elapsed() < MUTATING_FOR {
        let which = random.random_range(0..files.len());
        let mut file = files[which].clone();
        mutate(&mut random, &mut file, &places[which]);
        let started = Instant::now();
        let outcome = read(&file);
        let took = started.elapsed();
        tried += 1;
        assert!(
            took < ONE_FILE_MAX,
            "file {tried} of seed {seed} took {took:?}: {outcome:?}"
        );
        match outcome {
            Ok(()) => accepted += 1,
            Err(error) => assert!(
                matches!(error.kind(), Kind::Invalid | Kind::Unsupported),
                "file {tried} of seed {seed}: {error:?}"
            ),
        }
    }
    let grown = peak_resident_bytes() - before;
    println!(
        "{tried} files, {accepted} of them accepted, {} KiB more resident",
        grown >> 10
    );
    assert!(
        grown < MEMORY_BYTES_MAX,
        "{grown} bytes more resident with seed {seed}"
    );
    assert!(accepted > 0 && accepted < tried);
}

fn packed(options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (
        folder.path().join("disk.raw"),
        folder.path().join("packed.qcow2"),
    );
    std::fs::write(&raw, vec![b'z'; 1 << 20]).unwrap();
    qemu_img(&[
        "convert",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        options,
        raw.to_str().unwrap(),
        path.to_str().unwrap(),
    ]);
    std::fs::read(&path).unwrap()
}

#[test]
fn a_huge_empty_disk_is_one_run_and_a_larger_one_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.qcow2");
    for options in [
        "cluster_size=64k",
        "cluster_size=2M",
        "cluster_size=64k,extended_l2=on",
        "cluster_size=2M,compat=0.10",
    ] {
        qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            path.to_str().unwrap(),
            "64T",
        ]);
        let file = FileAt::open(&path);
        let qcow2 = Qcow2::open(&file).unwrap();
        let runs = runs(&qcow2).unwrap();
        assert_eq!(runs.len(), 1, "{options}");
        assert_eq!((runs[0].kind, runs[0].length), (RunKind::Zero, 64 << 40));
    }
    qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "65T"]);
    let error = Qcow2::open(&FileAt::open(&path)).err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("64 TiB"), "{error}");
}

/// A header alone in a file that says it is as long as one likes.
struct Hollow {
    header: Vec<u8>,
    length: u64,
}

impl ReadAt for Hollow {
    fn length_bytes(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> blockstore::Result<()> {
        for (at, byte) in (offset..).zip(buffer.iter_mut()) {
            *byte = usize::try_from(at)
                .ok()
                .and_then(|at| self.header.get(at))
                .copied()
                .unwrap_or(0);
        }
        Ok(())
    }
}

#[test]
fn a_declared_size_whose_tables_do_not_fit_is_refused_before_anything_is_read() {
    let sound = sound("cluster_size=512");
    let mut header = sound[..512].to_vec();
    let before = peak_resident_bytes();
    // 64 TiB with clusters of 512 bytes: 2^31 L1 entries, 16 GiB.
    header[24..32].copy_from_slice(&(64_u64 << 40).to_be_bytes());
    header[36..40].copy_from_slice(&(1_u32 << 31).to_be_bytes());
    for length in [1 << 20, 64 << 30, 5 << 40] {
        let error = Qcow2::open(&Hollow {
            header: header.clone(),
            length,
        })
        .err()
        .unwrap();
        assert!(
            matches!(error.kind(), Kind::Invalid | Kind::Unsupported),
            "{error}"
        );
    }
    assert!(peak_resident_bytes() - before < MEMORY_BYTES_MAX);
}

#[test]
fn compressed_clusters_shown_over_and_over_are_refused() {
    // Every entry of an L2 table shows the one packed cluster: 512 GiB of disk out of 5 MiB of file.
    let mut file = packed("compression_type=zstd,cluster_size=2M");
    let number = |file: &[u8], at: usize| u64::from_be_bytes(file[at..at + 8].try_into().unwrap());
    let l1 = usize::try_from(number(&file, 40)).unwrap();
    let l2 = usize::try_from(number(&file, l1) & 0x00ff_ffff_ffff_fe00).unwrap();
    assert_eq!(file[l2] >> 6, 1, "a compressed cluster");
    let start = usize::try_from(number(&file, l2) & ((1 << 49) - 1)).unwrap();
    let wide = wide_cluster();
    file.truncate(start);
    file.extend_from_slice(&wide);
    let sectors = (start % 512 + wide.len()).div_ceil(512) as u64 - 1;
    let entry = 1 << 62 | sectors << 49 | start as u64;
    for index in 0..262_144 {
        file[l2 + index * 8..l2 + index * 8 + 8].copy_from_slice(&u64::to_be_bytes(entry));
    }
    file[24..32].copy_from_slice(&(512_u64 << 30).to_be_bytes());
    let begin = Instant::now();
    let error = id_of_qcow2(&Bytes(&file)).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("overlap"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(60));
}

/// A cluster of 2 MiB, packed to about half of it: few of them are more than the file.
fn wide_cluster() -> Vec<u8> {
    let mut cluster = vec![0; 2 << 20];
    rand::RngCore::fill_bytes(&mut random(3), &mut cluster[..1 << 20]);
    zstd::bulk::compress(&cluster, 1).unwrap()
}
