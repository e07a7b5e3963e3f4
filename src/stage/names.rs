//! Names that a listing may bring, and those it may not.
//!
//! A listing is written by somebody else. A path of it becomes a file below the target only if
//!
//! 1. it has no way out: no `..`, no `.`, no empty part, not absolute, no NUL;
//! 2. no file system here would cut or fold it into another: parts of at most 255 bytes, and no
//!    second path that differs only in case or in Unicode normalisation;
//! 3. it is not both a file and a directory.
//!
//! What breaks a rule is refused by its name before anything is copied.

use std::collections::BTreeMap;
use unicode_normalization::UnicodeNormalization;

/// Bytes of a path at most (S3 keys end there; Amazon S3 User Guide, "Object key naming").
pub(crate) const PATH_BYTES_MAX: usize = 1024;
/// Bytes of a part of it at most (`NAME_MAX` of Linux).
const PART_BYTES_MAX: usize = 255;
/// Ends the names of files that are still growing; `.name` + this.
pub(crate) const PARTIAL: &str = ".infall-partial";

/// The name a file has while it grows.
pub(crate) fn partial(name: &str) -> String {
    let whole = format!(".{name}{PARTIAL}");
    if whole.len() <= PART_BYTES_MAX {
        return whole;
    }
    // Too long to carry its own name: a digest of it is as unique.
    let digest = super::journal::digest(name);
    format!(".{}{PARTIAL}", &digest[..32])
}

/// Why a path may not become a file, if it may not.
pub(crate) fn objection(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("is empty");
    }
    if path.len() > PATH_BYTES_MAX {
        return Some("is longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return Some("is absolute");
    }
    if path.contains('\0') {
        return Some("holds a NUL");
    }
    for part in path.split('/') {
        match part {
            "" => return Some("has an empty part"),
            "." | ".." => return Some("has a part of dots, which would lead elsewhere"),
            _ if part.len() > PART_BYTES_MAX => return Some("has a part longer than 255 bytes"),
            _ if part.starts_with('.') && part.ends_with(PARTIAL) => {
                return Some("is the name of a file that still grows");
            }
            _ => {}
        }
    }
    None
}

/// Paths that a file system could take for one another: each with the one it collides with.
pub(crate) fn collisions<'a>(
    paths: impl IntoIterator<Item = &'a str> + Clone,
    similar: bool,
) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for path in paths.clone() {
        let folded = if similar { fold(path) } else { path.to_owned() };
        if let Some(other) = seen.insert(folded, path) {
            found.push((path, other));
        }
    }
    for path in paths {
        let folded = if similar { fold(path) } else { path.to_owned() };
        for (at, _) in folded.match_indices('/') {
            if let Some(file) = seen.get(&folded[..at]) {
                found.push((path, file));
            }
        }
    }
    found
}

/// The same text for all spellings that differ in case or normalisation only.
fn fold(path: &str) -> String {
    path.nfc()
        .collect::<String>()
        .to_lowercase()
        .nfc()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_path_does_not_leave_the_target() {
        let long = "x".repeat(256);
        for path in [
            "../x",
            "a/../../x",
            "..",
            ".",
            "/etc/passwd",
            "a//b",
            "./a",
            "a/.",
            "",
            "a\0b",
            "a/",
            long.as_str(),
            ".x.infall-partial",
        ] {
            assert!(objection(path).is_some(), "{path:?}");
        }
        assert!(objection(&"x/".repeat(600)).is_some());
        for path in ["a", "a/b c", "..a/b..", "ä/ö", "a\\b", "…", ".hidden"] {
            assert_eq!(objection(path), None, "{path:?}");
        }
    }

    #[test]
    fn paths_that_a_file_system_could_fold_together_are_found() {
        let clash = |paths: &[&'static str]| collisions(paths.iter().copied(), true).len();
        assert_eq!(clash(&["a", "b", "c/d"]), 0);
        assert_eq!(clash(&["Makefile", "makefile"]), 1);
        // é as one character, and as e with an accent.
        assert_eq!(clash(&["caf\u{e9}", "cafe\u{301}"]), 1);
        assert_eq!(clash(&["a", "a/b"]), 1);
        assert_eq!(clash(&["A", "a/b"]), 1);
        assert!(collisions(["Makefile", "makefile"].into_iter(), false).is_empty());
        assert_eq!(collisions(["a", "a/b"].into_iter(), false), [("a/b", "a")]);
    }

    #[test]
    fn a_growing_file_has_a_name_that_no_listing_can_bring() {
        assert!(objection(&partial("disk.raw")).is_some());
        let long = "x".repeat(255);
        assert!(partial(&long).len() <= 255);
        assert!(objection(&partial(&long)).is_some());
    }
}
