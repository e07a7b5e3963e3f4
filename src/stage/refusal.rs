//! What is refused before anything is copied, with a few of the names.

use super::filter::Filter;
use super::manifest::Manifest;
use super::names;
use super::plan::{Action, Listing, Step};
use super::transfer::Run;
use crate::exit::{Exit, Failure, Outcome};

/// Names shown where a run is refused.
const NAMES_SHOWN: usize = 5;

/// A few of the names, and how many more there are.
fn few(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
    let more = names.len() - shown.len();
    let mut text = shown.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// What `existing` refuses.
pub(super) fn refuse_existing(run: &Run, steps: &[Step]) -> Outcome {
    let refused = steps.iter().filter(|step| step.action == Action::Refuse);
    let names: Vec<String> = refused.map(|step| run.target.url(&step.path)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let message = format!(
        "there already, with another content: {}; nothing was copied",
        few(&names)
    );
    Err(Failure::new(Exit::Conflict, "stage", message)
        .hint("Choose: --existing replace, --existing keep, or another target"))
}

pub(super) fn refuse_names(refused: &[(String, &'static str)]) -> Outcome {
    if refused.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = refused
        .iter()
        .map(|(name, why)| format!("{name:?} {why}"))
        .collect();
    let message = format!(
        "the listing names what may not be copied: {}; nothing was copied",
        few(&names)
    );
    Err(Failure::new(Exit::Invalid, "listing", message)
        .hint("Leave them out by --exclude, or get them one by one"))
}

pub(super) fn refuse_collisions(sources: &Listing, similar: bool) -> Outcome {
    let found = names::collisions(sources.keys().map(String::as_str), similar);
    if found.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = found
        .iter()
        .map(|(one, other)| format!("{one:?} and {other:?}"))
        .collect();
    let message = format!(
        "names that a file system could take for one another: {}; nothing was copied",
        few(&names)
    );
    Err(Failure::new(Exit::Invalid, "listing", message).hint(
        "Leave some out by --exclude, or, if they differ in case only, allow it: --similar-names",
    ))
}

pub(super) fn refuse_missing(against: &Manifest, sources: &Listing, filter: &Filter) -> Outcome {
    let missing: Vec<String> = against
        .keys()
        .filter(|path| filter.takes(path) && !sources.contains_key(*path))
        .map(|path| format!("{path:?}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the manifest names what the source does not have: {}; nothing was copied",
        few(&missing)
    );
    Err(Failure::new(Exit::Corrupt, "manifest", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_a_few_are_shown() {
        let names: Vec<String> = (1..=7).map(|number| format!("f{number}")).collect();
        assert_eq!(few(&names), "f1, f2, f3, f4, f5 and 2 more");
        assert_eq!(few(&names[..1]), "f1");
    }
}
