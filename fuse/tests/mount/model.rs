//! Any sequence of operations on a bucket's directory ends as it does on a plain directory beside it.

use crate::lab::{Lab, noise, who};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Open files of a run; a step names one by its place.
const OPEN_MAX: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Open { name: usize, how: How, slot: usize },
    Close { slot: usize },
    Write { slot: usize, at: u64, length: usize },
    Read { slot: usize, at: u64, length: usize },
    Truncate { slot: usize, length: u64 },
    Sync { slot: usize },
    ReadAll { name: usize },
    Unlink { name: usize },
    Rename { from: usize, to: usize },
    MakeDirectory { name: usize },
    RemoveDirectory { name: usize },
    List { name: usize },
}

#[derive(Clone, Copy, Debug)]
enum How {
    ReadWrite,
    Create,
    CreateNew,
    CreateEmpty,
}

/// Names that are files at times, directories at others, and below one another.
const NAMES: [&str; 9] = ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "a-1"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..NAMES.len();
    let slot = || 0..OPEN_MAX;
    let at = || {
        prop_oneof![
            0..9000_u64,
            125_000..140_000_u64,
            0..400_000_u64,
            (0..100_u64).prop_map(|block| block * 4096)
        ]
    };
    let length = || prop_oneof![1..5000_usize, 1..150_000_usize];
    let how = prop_oneof![
        Just(How::ReadWrite),
        Just(How::Create),
        Just(How::CreateNew),
        Just(How::CreateEmpty)
    ];
    let step = prop_oneof![
        6 => (name(), how, slot()).prop_map(|(name, how, slot)| Step::Open { name, how, slot }),
        3 => slot().prop_map(|slot| Step::Close { slot }),
        8 => (slot(), at(), length()).prop_map(|(slot, at, length)| Step::Write { slot, at, length }),
        4 => (slot(), at(), length()).prop_map(|(slot, at, length)| Step::Read { slot, at, length }),
        3 => (slot(), at()).prop_map(|(slot, length)| Step::Truncate { slot, length }),
        2 => slot().prop_map(|slot| Step::Sync { slot }),
        3 => name().prop_map(|name| Step::ReadAll { name }),
        2 => name().prop_map(|name| Step::Unlink { name }),
        4 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        3 => name().prop_map(|name| Step::MakeDirectory { name }),
        2 => name().prop_map(|name| Step::RemoveDirectory { name }),
        2 => name().prop_map(|name| Step::List { name }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// One of the two directories, with what is open in it.
struct Side {
    root: PathBuf,
    open: [Option<File>; OPEN_MAX],
}

/// What a step answers, to be compared.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Length(u64),
    Bytes(Vec<u8>),
    Names(Vec<String>),
    Refused(i32),
    Nothing,
}

impl Side {
    fn new(root: PathBuf) -> Self {
        let open = [const { None }; OPEN_MAX];
        Self { root, open }
    }

    fn path(&self, name: usize) -> PathBuf {
        self.root.join(NAMES[name])
    }

    fn apply(&mut self, seed: u64, step: &Step) -> Answer {
        match self.attempt(seed, step) {
            Ok(answer) => answer,
            Err(error) => Answer::Refused(error.raw_os_error().unwrap_or(-1)),
        }
    }

    fn attempt(&mut self, seed: u64, step: &Step) -> io::Result<Answer> {
        match *step {
            Step::Open { name, how, slot } => {
                let mut options = OpenOptions::new();
                options.read(true).write(true);
                match how {
                    How::ReadWrite => {}
                    How::Create => {
                        options.create(true);
                    }
                    How::CreateNew => {
                        options.create_new(true);
                    }
                    How::CreateEmpty => {
                        options.create(true).truncate(true);
                    }
                }
                let file = options.open(self.path(name))?;
                self.open[slot] = Some(file);
                Ok(Answer::Done)
            }
            Step::Close { slot } => {
                self.open[slot] = None;
                Ok(Answer::Nothing)
            }
            Step::Write { slot, at, length } => {
                let Some(file) = &self.open[slot] else {
                    return Ok(Answer::Nothing);
                };
                file.write_all_at(&noise(seed, length), at)?;
                Ok(Answer::Length(file.metadata()?.len()))
            }
            Step::Read { slot, at, length } => {
                let Some(file) = &self.open[slot] else {
                    return Ok(Answer::Nothing);
                };
                let mut bytes = vec![0; length];
                let mut count = 0;
                loop {
                    let now = file.read_at(&mut bytes[count..], at + count as u64)?;
                    count += now;
                    if now == 0 {
                        break;
                    }
                }
                bytes.truncate(count);
                Ok(Answer::Bytes(bytes))
            }
            Step::Truncate { slot, length } => {
                let Some(file) = &self.open[slot] else {
                    return Ok(Answer::Nothing);
                };
                file.set_len(length)?;
                Ok(Answer::Length(file.metadata()?.len()))
            }
            Step::Sync { slot } => {
                if let Some(file) = &self.open[slot] {
                    file.sync_data()?;
                }
                Ok(Answer::Done)
            }
            Step::ReadAll { name } => std::fs::read(self.path(name)).map(Answer::Bytes),
            Step::Unlink { name } => std::fs::remove_file(self.path(name)).map(|()| Answer::Done),
            Step::Rename { from, to } => {
                std::fs::rename(self.path(from), self.path(to)).map(|()| Answer::Done)
            }
            Step::MakeDirectory { name } => {
                std::fs::create_dir(self.path(name)).map(|()| Answer::Done)
            }
            Step::RemoveDirectory { name } => {
                std::fs::remove_dir(self.path(name)).map(|()| Answer::Done)
            }
            Step::List { name } => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(self.path(name))? {
                    names.push(entry?.file_name().into_string().unwrap());
                }
                names.sort();
                Ok(Answer::Names(names))
            }
        }
    }
}

/// All that a directory holds, by path.
fn all(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(root).unwrap().to_owned();
            if path.is_dir() {
                found.insert(inside, None);
                waiting.push(path);
            } else {
                found.insert(inside, Some(std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn a_bucket_is_a_directory() {
    let lab = Lab::new();
    let rounds = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&steps(), |steps| {
        let round = rounds.get() + 1;
        rounds.set(round);
        let bucket = format!("round-{round}");
        lab.store.bucket_create(&who(), &bucket).unwrap();
        let plain = lab.beside(&bucket);
        std::fs::create_dir(&plain).unwrap();
        let mut theirs = Side::new(plain);
        let mut ours = Side::new(lab.path(&format!("buckets/{bucket}")));
        for (seed, step) in steps.iter().enumerate() {
            let (expected, found) = (
                theirs.apply(seed as u64 + 1, step),
                ours.apply(seed as u64 + 1, step),
            );
            prop_assert!(
                expected == found,
                "step {seed} {step:?}: a plain directory answers {}, ours {}",
                short(&expected),
                short(&found)
            );
        }
        prop_assert!(all(&theirs.root) == all(&ours.root), "while files are open");
        (theirs.open, ours.open) = Default::default();
        prop_assert!(all(&theirs.root) == all(&ours.root), "at the end");
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let report = lab.store.check(false).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn short(answer: &Answer) -> String {
    match answer {
        Answer::Bytes(bytes) => {
            let sum = bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            format!("{} bytes (sum {sum})", bytes.len())
        }
        other => format!("{other:?}"),
    }
}
