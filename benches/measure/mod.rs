//! What the benches share: series with their spread, the lines they end with, fio.
//!
//! A figure is a median, and its line is `FIGURE name value >= target` or `<=`. A figure that misses
//! its target does not fail the bench, for it is a measurement; a tool that is missing does.

#![allow(dead_code, reason = "each bench uses its own part of this")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Values of one thing over the rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    /// Adds a round.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle of them; the mean of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        }
    }

    /// The value of a round.
    pub(crate) fn round(&self, round: usize) -> f64 {
        self.0[round]
    }

    fn sorted(&self) -> Vec<f64> {
        assert!(!self.0.is_empty(), "nothing was measured");
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// Median, least and most: `31200 (29800..33100)`.
impl fmt::Display for Series {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        let text = format!(
            "{} ({}..{})",
            short(self.median()),
            short(least),
            short(most)
        );
        out.pad(&text)
    }
}

/// The digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{middle:.1}"),
        // A ratio just below its target must not be rounded up to it.
        _ => format!("{value:.3}"),
    }
}

/// The lines at the end.
#[derive(Default)]
pub(crate) struct Figures {
    lines: Vec<String>,
    missed: usize,
}

impl Figures {
    /// More is better.
    pub(crate) fn at_least(&mut self, name: &str, value: f64, target: f64) {
        self.add(name, value, ">=", target, value >= target);
    }

    /// Less is better.
    pub(crate) fn at_most(&mut self, name: &str, value: f64, target: f64) {
        self.add(name, value, "<=", target, value <= target);
    }

    fn add(&mut self, name: &str, value: f64, relation: &str, target: f64, met: bool) {
        self.lines.push(format!(
            "FIGURE {name} {} {relation} {target}",
            short(value)
        ));
        self.missed += usize::from(!met);
    }

    /// Prints them all.
    pub(crate) fn print(&self) {
        println!(
            "\n{} of {} figures meet their targets",
            self.lines.len() - self.missed,
            self.lines.len()
        );
        for line in &self.lines {
            println!("{line}");
        }
    }
}

/// Ends the bench where a program is missing: a peer is never left out in silence.
pub(crate) fn need(programs: &[&str]) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = |program: &&&str| folders.iter().any(|folder| folder.join(program).is_file());
    let missing: Vec<&str> = programs
        .iter()
        .filter(|program| !found(program))
        .copied()
        .collect();
    if !missing.is_empty() {
        eprintln!(
            "missing: {}; next: run scripts/packages, or make bench, which does",
            missing.join(" ")
        );
        std::process::exit(3);
    }
}

/// Ends the bench where the disk has no room for it.
pub(crate) fn need_room(folder: &Path, gib: u64) {
    let known = rustix::fs::statvfs(folder).unwrap();
    let free = (known.f_bavail * known.f_frsize) >> 30;
    if free < gib {
        eprintln!(
            "{} has {free} GiB free, this needs {gib}; next: set TMPDIR to a larger disk, or INFALL_BENCH_GIB to less",
            folder.display()
        );
        std::process::exit(3);
    }
}

/// How much is written where much is written; INFALL_BENCH_GIB, 10 if it is not set.
pub(crate) fn gib() -> u64 {
    match std::env::var("INFALL_BENCH_GIB") {
        Ok(text) => text.parse().expect("INFALL_BENCH_GIB is a whole number"),
        Err(_) => 10,
    }
}

/// One job of fio on an NBD export.
pub(crate) fn fio(uri: &str, job: &[&str]) -> Command {
    let mut command = Command::new("fio");
    command.args([
        "--name=bench",
        "--ioengine=nbd",
        "--randrepeat=0",
        "--output-format=json",
    ]);
    command.arg(format!("--uri={uri}")).args(job);
    command
}

/// Runs it: what it says of its job.
pub(crate) fn fio_job(uri: &str, job: &[&str]) -> serde_json::Value {
    let ran = fio(uri, job).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    // Its nbd engine greets the server on the same stream first.
    let report = text
        .find('{')
        .map(|at| serde_json::from_str::<serde_json::Value>(&text[at..]));
    match report {
        Some(Ok(report)) if ran.status.success() => report["jobs"][0].clone(),
        _ => panic!(
            "fio {job:?} ended with {}: {text}{}",
            ran.status,
            String::from_utf8_lossy(&ran.stderr)
        ),
    }
}
