//! Pattern lists of OpenSSH (ssh_config(5), "PATTERNS"): `*`, `?`, commas, and `!` before what is not meant.

/// Whether `text` matches a list. One negated pattern that matches outweighs all others.
pub(super) fn list_matches(list: &str, text: &str) -> bool {
    let mut found = false;
    for pattern in list.split(',').map(str::trim) {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(pattern.as_bytes(), text.as_bytes()) => return false,
            Some(_) => {}
            None => found |= matches(pattern.as_bytes(), text.as_bytes()),
        }
    }
    found
}

/// Goes back to the last star only, so the work is bounded by the product of both lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[read] => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((place, taken)) => {
                    star = Some((place, taken + 1));
                    at = place + 1;
                    read = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::list_matches;

    #[test]
    fn lists_match_as_in_openssh() {
        for (list, text, good) in [
            ("file", "file", true),
            ("file", "files", false),
            ("git,infall-image@v1", "infall-image@v1", true),
            ("infall-*", "infall-image@v1", true),
            ("*@v?", "infall-image@v1", true),
            ("*@v?", "infall-image@v10", false),
            ("*,!infall-image@v1", "infall-image@v1", false),
            ("!x", "y", false),
            ("", "x", false),
            ("a*b*c", "aXbYbZc", true),
            ("*", "", true),
        ] {
            assert_eq!(list_matches(list, text), good, "{list} {text}");
        }
    }
}
