//! Files, QEMU's tools, and reading an image to its end.

use blockstore::image::qcow2::Qcow2;
use blockstore::image::run::{ImageFile, Run};
use blockstore::image::{digest, raw};
use blockstore::object::ReadAt;
use blockstore::{Error, Kind, Result, Subject};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of the host.
pub(crate) struct FileAt {
    file: File,
    length: u64,
}

impl FileAt {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path)
            .unwrap_or_else(|problem| panic!("cannot open {}: {problem}", path.display()));
        let length = file.metadata().unwrap().len();
        Self { file, length }
    }
}

impl ReadAt for FileAt {
    fn length_bytes(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|source| {
            Error::new(
                Kind::Internal,
                Subject::Range,
                format!("{} bytes at {offset}", buffer.len()),
            )
            .because(source)
        })
    }
}

/// A file in memory.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl ReadAt for Bytes<'_> {
    fn length_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| self.0.get(start..start.checked_add(buffer.len())?));
        // A reader that checks what it follows never asks for more than there is.
        let range = range.ok_or_else(|| {
            Error::new(
                Kind::Internal,
                Subject::Range,
                format!("{} bytes at {offset}", buffer.len()),
            )
        });
        buffer.copy_from_slice(range?);
        Ok(())
    }
}

fn tool(name: &str, arguments: &[&str]) -> Output {
    Command::new(name)
        .args(arguments)
        .output()
        .unwrap_or_else(|problem| panic!("this test needs {name} ({problem}): install qemu-utils"))
}

/// Runs `qemu-img`, which must succeed.
pub(crate) fn qemu_img(arguments: &[&str]) {
    let output = tool("qemu-img", arguments);
    assert!(
        output.status.success(),
        "qemu-img {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs commands of `qemu-io` on a qcow2 file. With `killed`, it ends by SIGKILL and closes nothing.
pub(crate) fn qemu_io(file: &Path, commands: &[String], killed: bool) {
    let mut arguments = vec!["-f", "qcow2"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    if killed {
        arguments.extend(["-c", "sigraise 9"]);
    }
    arguments.push(file.to_str().unwrap());
    let output = tool("qemu-io", &arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() != killed,
        "qemu-io {}: {text}",
        arguments.join(" ")
    );
    assert!(
        !text.contains("rror"),
        "qemu-io {}: {text}",
        arguments.join(" ")
    );
}

/// What QEMU shows a guest of a qcow2 file.
pub(crate) fn as_qemu_shows(file: &Path) -> Vec<u8> {
    let raw = file.with_extension("shown");
    // Read only and without its lock: the file may be one that nobody closed.
    qemu_img(&[
        "convert",
        "-U",
        "-f",
        "qcow2",
        "-O",
        "raw",
        file.to_str().unwrap(),
        raw.to_str().unwrap(),
    ]);
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(&raw).unwrap();
    bytes
}

/// All runs; that they adjoin and cover the disk is checked here.
pub(crate) fn runs(qcow2: &Qcow2<'_>) -> Result<Vec<Run>> {
    let runs = qcow2.runs().collect::<Result<Vec<Run>>>()?;
    let mut at = 0;
    for run in &runs {
        assert_eq!(run.guest_offset, at, "runs adjoin");
        assert!(run.length > 0);
        at = run.end();
    }
    assert_eq!(at, qcow2.header().size_bytes, "runs cover the disk");
    Ok(runs)
}

/// Everything a guest sees.
pub(crate) fn as_we_show(file: &dyn ReadAt) -> Result<Vec<u8>> {
    let qcow2 = Qcow2::open(file)?;
    let image = qcow2.image_file();
    let mut reader = image.reader()?;
    let mut disk = vec![0xa5; usize::try_from(qcow2.header().size_bytes).unwrap()];
    for run in runs(&qcow2)? {
        let start = usize::try_from(run.guest_offset).unwrap();
        reader.read(
            &run,
            0,
            &mut disk[start..start + usize::try_from(run.length).unwrap()],
        )?;
    }
    Ok(disk)
}

/// The id of the image in a qcow2 file.
pub(crate) fn id_of_qcow2(file: &dyn ReadAt) -> Result<String> {
    let qcow2 = Qcow2::open(file)?;
    digest::image_id(qcow2.image_file(), qcow2.header().size_bytes, qcow2.runs())
}

/// The id of the image in a raw file.
pub(crate) fn id_of_raw(file: &dyn ReadAt) -> Result<String> {
    let length = file.length_bytes();
    digest::image_id(
        ImageFile {
            file,
            packing: None,
        },
        length,
        raw::whole(length),
    )
}

/// A seed, printed so that a failure can be had again.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("QCOW2_SEED") {
        Ok(text) => text.parse().expect("QCOW2_SEED is a number"),
        Err(_) => rand::rng().next_u64(),
    };
    println!("QCOW2_SEED={seed}");
    seed
}

pub(crate) fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// A raw disk of random, compressible and zero stretches.
pub(crate) fn content(random: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        let end = length.min(at + random.random_range(1..400_000));
        match random.random_range(0..3) {
            0 => random.fill_bytes(&mut bytes[at..end]),
            1 => {
                let word = random.random_range(1..=255_u8);
                bytes[at..end]
                    .iter_mut()
                    .enumerate()
                    .for_each(|(place, byte)| *byte = if place % 97 < 90 { word } else { 3 });
            }
            _ => {}
        }
        at = end;
    }
    bytes
}

/// A scratch folder with `disk.raw` of such content in it.
pub(crate) fn folder_with_disk(
    random: &mut StdRng,
    length: usize,
) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let bytes = content(random, length);
    std::fs::write(&path, &bytes).unwrap();
    (folder, path, bytes)
}
