//! What a run did, for people and for scripts, and the exit code that says it in one number.

use crate::exit::{Exit, Failure};
use crate::render;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::time::Duration;

/// Names of a list that people are shown.
const SHOWN_MAX: usize = 20;

/// One file copied.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Item {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) length_bytes: u64,
    /// What proved that both sides hold the same bytes: `crc32`, `sha256`, `crc32 of 12 parts`, `length`.
    pub(crate) verified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<String>,
    /// Bytes that were there already, from a run that was cut off.
    pub(crate) resumed_bytes: u64,
}

/// One file that was not copied.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failed {
    pub(crate) path: String,
    pub(crate) error: String,
    pub(crate) exit: u8,
    #[serde(skip)]
    pub(crate) failure: Failure,
}

/// What would be done.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Planned {
    /// `copy`, `replace`, `delete`, `same`, `keep`.
    pub(crate) action: &'static str,
    pub(crate) target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) length_bytes: Option<u64>,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) copied: Vec<Item>,
    /// Targets with the same content.
    pub(crate) same: Vec<String>,
    /// Targets that were there and stayed.
    pub(crate) kept: Vec<String>,
    pub(crate) deleted: Vec<String>,
    /// Links and special files that were left out.
    pub(crate) left_out: Vec<String>,
    pub(crate) failed: Vec<Failed>,
    /// With --dry-run, instead of all the above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) planned: Option<Vec<Planned>>,
    /// Bytes of what was copied.
    pub(crate) length_bytes: u64,
    /// Those of them that had arrived before.
    pub(crate) resumed_bytes: u64,
    pub(crate) seconds: f64,
    /// Whether nothing was to be copied, but all of it read and compared.
    #[serde(skip)]
    pub(crate) compared: bool,
}

impl Report {
    /// How the run ends. What is wrong outweighs what is missing.
    pub(crate) fn outcome(&self) -> Result<(), Failure> {
        let Some(first) = self.failed.first() else {
            return Ok(());
        };
        let corrupt = self
            .failed
            .iter()
            .find(|failed| failed.exit == Exit::Corrupt as u8);
        let done = self.copied.len() + self.same.len() + self.kept.len();
        let all = done + self.failed.len();
        let worst = corrupt.unwrap_or(first);
        if all == 1 {
            return Err(worst.failure.clone());
        }
        let exit = match corrupt {
            Some(_) => Exit::Corrupt,
            None if done > 0 => Exit::Partial,
            None => first.failure.exit(),
        };
        let message = format!(
            "{} of {all} files failed; of them {}: {}",
            self.failed.len(),
            render::plain(&worst.path),
            worst.error
        );
        Err(Failure::new(exit, "stage", message))
    }

    /// For people.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        if let Some(planned) = &self.planned {
            for step in planned
                .iter()
                .filter(|step| !matches!(step.action, "same" | "keep"))
            {
                let length = step.length_bytes.map(render::bytes).unwrap_or_default();
                let source = step
                    .source
                    .as_deref()
                    .map(|source| format!("{} → ", render::plain(source)));
                text.push_str(&format!(
                    "would {}  {}{}  {length}\n",
                    step.action,
                    source.unwrap_or_default(),
                    render::plain(&step.target),
                ));
            }
            let count = |action| planned.iter().filter(|step| step.action == action).count();
            text.push_str(&format!(
                "dry run: {} to copy, {} to replace, {} to delete, {} there already; nothing was done\n",
                count("copy"),
                count("replace"),
                count("delete"),
                count("same") + count("keep")
            ));
            return text;
        }
        self.summary(&mut text);
        let mut list = |what: &str, names: Vec<String>| {
            for name in names.iter().take(SHOWN_MAX) {
                text.push_str(&format!("{what}: {}\n", render::plain(name)));
            }
            if names.len() > SHOWN_MAX {
                text.push_str(&format!("{what}: {} more\n", names.len() - SHOWN_MAX));
            }
        };
        list("deleted", self.deleted.clone());
        list(
            "left out, neither file nor directory",
            self.left_out.clone(),
        );
        let failed =
            |failed: &Failed| format!("{}: {}  [exit {}]", failed.path, failed.error, failed.exit);
        if self.failed.len() + self.copied.len() + self.same.len() + self.kept.len() > 1 {
            list("failed", self.failed.iter().map(failed).collect());
        }
        text
    }

    fn summary(&self, text: &mut String) {
        let time = Duration::from_secs_f64(self.seconds);
        if self.compared {
            text.push_str(&format!(
                "{} as the manifest says  {}  {}\n",
                render::count(self.same.len() as u64, "file"),
                render::bytes(self.length_bytes),
                render::duration(time)
            ));
            return;
        }
        // A tree is summed up; its files are in --json.
        if let [one] = self.copied.as_slice() {
            text.push_str(&format!(
                "{} → {}  ",
                render::plain(&one.source),
                render::plain(&one.target)
            ));
        } else {
            text.push_str(&format!(
                "{}  ",
                render::count(self.copied.len() as u64, "file")
            ));
        }
        text.push_str(&format!(
            "{}  {}",
            render::bytes(self.length_bytes),
            render::duration(time)
        ));
        let travelled = self.length_bytes - self.resumed_bytes.min(self.length_bytes);
        if self.seconds > 0.0 && travelled >= 1_000_000 {
            let megabytes = travelled as f64 / 1e6 / self.seconds;
            text.push_str(&format!("  {megabytes:.0} MB/s"));
        }
        if self.resumed_bytes > 0 {
            text.push_str(&format!(
                "  {} had arrived before",
                render::bytes(self.resumed_bytes)
            ));
        }
        let mut proofs: Vec<&str> = self
            .copied
            .iter()
            .map(|item| item.verified.as_str())
            .collect();
        proofs.sort_unstable();
        proofs.dedup();
        match proofs.as_slice() {
            [] => {}
            [.., _, _, _, _] => text.push_str("  verified"),
            few => text.push_str(&format!("  verified by {}", few.join(", "))),
        }
        text.push('\n');
        let mut count = |names: &[String], what: &str| {
            if !names.is_empty() {
                text.push_str(&format!(
                    "{} {what}\n",
                    render::count(names.len() as u64, "target")
                ));
            }
        };
        count(&self.same, "the same already");
        count(&self.kept, "kept as they were");
    }
}

/// A bar for people; nothing where nobody looks.
pub(crate) fn progress(json: bool) -> ProgressBar {
    use std::io::IsTerminal;
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    let template = "{bar:30} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  \
                    {binary_bytes_per_sec}  {eta} left  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(exit: Exit) -> Failed {
        Failed {
            path: "p".into(),
            error: "e".into(),
            exit: exit as u8,
            failure: Failure::new(exit, "t", "e"),
        }
    }

    fn exit(done: usize, failed: Vec<Failed>) -> Option<Exit> {
        let report = Report {
            same: vec!["s".into(); done],
            failed,
            ..Report::default()
        };
        report.outcome().err().map(|failure| failure.exit())
    }

    #[test]
    fn one_number_says_what_happened() {
        assert_eq!(exit(3, vec![]), None);
        assert_eq!(exit(0, vec![failed(Exit::Denied)]), Some(Exit::Denied));
        assert_eq!(exit(2, vec![failed(Exit::Denied)]), Some(Exit::Partial));
        assert_eq!(
            exit(0, vec![failed(Exit::NoSpace), failed(Exit::Denied)]),
            Some(Exit::NoSpace)
        );
        assert_eq!(
            exit(2, vec![failed(Exit::Denied), failed(Exit::Corrupt)]),
            Some(Exit::Corrupt)
        );
    }
}
