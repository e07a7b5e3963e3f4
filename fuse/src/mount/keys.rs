//! Which names are paths: files for volumes, snapshots and images, directories for keys.
//!
//! A bucket's keys become a tree by cutting them at `/`. Not every key is a path; the rule:
//!
//! 1. A segment is shown if it has 1 to 255 bytes, is neither `.` nor `..`, and holds no NUL.
//!    A key with any other segment is not shown (S3 still serves it).
//! 2. Where a key is also the beginning of other keys (`a` beside `a/b`), the directory wins and
//!    the file is not shown.
//! 3. A key that ends in `/` makes its directory, even an empty one, and is no file itself.
//!
//! The same rule for a segment holds for the names of volumes, snapshots and images.

/// Longest file name, in bytes (Linux `NAME_MAX`).
pub(super) const SEGMENT_BYTES_MAX: usize = 255;

/// What image files are called: the store's name and this.
const SUFFIX: &str = ".raw";

/// Whether `text` can be the name of a file or directory.
pub(super) fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= SEGMENT_BYTES_MAX
        && text != "."
        && text != ".."
        && !text.contains(['/', '\0'])
}

/// The file that shows the volume, snapshot or image `name`; `None` where it cannot be a path.
pub(super) fn file_of(name: &str) -> Option<String> {
    let file = format!("{name}{SUFFIX}");
    (!name.is_empty() && is_segment(&file)).then_some(file)
}

/// The volume, snapshot or image that the file called `file` shows.
pub(super) fn name_of(file: &str) -> Option<&str> {
    file.strip_suffix(SUFFIX).filter(|name| !name.is_empty())
}

/// The segment that `key` (or a rolled-up prefix, which ends in `/`) adds to the directory
/// `prefix`; `None` where it is not a path.
pub(super) fn segment_of<'key>(prefix: &str, key: &'key str) -> Option<&'key str> {
    let rest = key.strip_prefix(prefix)?;
    let segment = rest.strip_suffix('/').unwrap_or(rest);
    is_segment(segment).then_some(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_what_linux_takes_as_a_name() {
        for good in ["a", "a b", "…", "-", "a.raw", ".hidden", "..."] {
            assert!(is_segment(good), "{good}");
        }
        assert!(is_segment(&"x".repeat(255)));
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "a/b", "/", "a\0b", &long] {
            assert!(!is_segment(bad), "{bad:?}");
        }
    }

    #[test]
    fn file_and_name_are_each_others_inverse() {
        for name in ["root1", "a.raw", "with space", "."] {
            let file = file_of(name).unwrap();
            assert_eq!(name_of(&file), Some(name));
        }
        assert_eq!(file_of(""), None);
        assert_eq!(file_of("a/b"), None);
        assert_eq!(file_of(&"x".repeat(252)), None);
        assert_eq!(name_of("root1"), None);
        assert_eq!(name_of("root1.qcow2"), None);
        assert_eq!(name_of(".raw"), None);
    }

    #[test]
    fn keys_and_prefixes_become_segments_of_their_directory() {
        assert_eq!(segment_of("", "a"), Some("a"));
        assert_eq!(segment_of("", "a/"), Some("a"));
        assert_eq!(segment_of("a/b/", "a/b/c"), Some("c"));
        assert_eq!(segment_of("a/b/", "a/b/c/"), Some("c"));
    }

    #[test]
    fn keys_that_are_no_paths_are_not_shown() {
        assert_eq!(segment_of("a/", "a/"), None, "the directory's own marker");
        assert_eq!(
            segment_of("", "/"),
            None,
            "a leading slash: an empty segment"
        );
        assert_eq!(segment_of("a/", "a//"), None, "an empty segment inside");
        assert_eq!(segment_of("", "../"), None);
        assert_eq!(segment_of("a/", "a/."), None);
        assert_eq!(segment_of("", &"k".repeat(300)), None);
        assert_eq!(segment_of("b/", "a/x"), None, "another directory's key");
    }
}
