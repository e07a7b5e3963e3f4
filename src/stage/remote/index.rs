//! Index pages: the links of an HTML listing that lead one level down.
//!
//! What python's `http.server`, nginx, Apache and rclone write for a directory is an HTML page
//! with one `<a href="name">` per entry. Links that lead elsewhere (sorting, the parent, other
//! sites) are no entries and are passed over; an entry with an escaped slash or dots is kept, so
//! that it is refused by its name.

use crate::stage::location::decode;

/// Names of a page at `base` (ends in `/`); those of directories end in `/`.
pub(crate) fn entries(page: &str, base: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for link in links(page) {
        let link = unescape(link);
        let Some(name) = name(&link, base) else {
            continue;
        };
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    names
}

/// The values of `href` in the page's `a` elements.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let mut rest = page;
    std::iter::from_fn(move || {
        loop {
            let at = rest.find('<')?;
            rest = &rest[at + 1..];
            let Some(first) = rest
                .split(|c: char| c.is_ascii_whitespace() || c == '>')
                .next()
            else {
                continue;
            };
            if !first.eq_ignore_ascii_case("a") {
                continue;
            }
            let element = &rest[..rest.find('>').unwrap_or(rest.len())];
            let lower = element.to_ascii_lowercase();
            let Some(at) = lower.find("href") else {
                continue;
            };
            let Some(value) = element[at + 4..].trim_start().strip_prefix('=') else {
                continue;
            };
            let value = value.trim_start();
            let found = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => {
                    // A quoted value may hold '>'.
                    rest[element.len() - value.len() + 1..].split(quote).next()
                }
                _ => value.split_ascii_whitespace().next(),
            };
            if found.is_some() {
                return found;
            }
        }
    })
}

/// The five entities that HTML writers use in links.
fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&#x27;", "'")
        .replace("&amp;", "&")
}

/// The entry a link names, if it leads one level down.
fn name(link: &str, base: &str) -> Option<String> {
    if link.contains(['?', '#']) || link.contains("://") || link.starts_with("//") {
        return None;
    }
    let relative = if link.starts_with('/') {
        link.strip_prefix(base)?
    } else {
        link
    };
    let relative = relative.strip_prefix("./").unwrap_or(relative);
    let (bare, slash) = match relative.strip_suffix('/') {
        Some(bare) => (bare, "/"),
        None => (relative, ""),
    };
    // The parent and the page itself.
    if bare.is_empty() || bare.split('/').any(|part| part == "..") || bare == "." {
        return None;
    }
    // `mailto:` and the like; a name with a colon comes escaped or behind "./".
    if let Some((scheme, _)) = link.split_once(':')
        && ["mailto", "javascript", "data", "tel"].contains(&scheme)
    {
        return None;
    }
    if bare.contains('/') {
        return None;
    }
    Some(format!("{}{slash}", decode(bare)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_well_known_servers_are_read() {
        let python = r#"<ul><li><a href="a%20b.txt">a b.txt</a></li>
            <li><a href="sub/">sub/</a></li><li><a href="%C3%A4%26.bin">x</a></li></ul>"#;
        assert_eq!(entries(python, "/d/"), ["a b.txt", "sub/", "ä&.bin"]);
        let apache = r#"<a href="?C=N;O=D">Name</a> <A HREF="/">Parent</A> <a href="/d/x.raw">x</a>
            <img src="y"><a class=c href='z&amp;.txt'>z</a><a href="https://e.org/q">q</a>"#;
        assert_eq!(entries(apache, "/d/"), ["x.raw", "z&.txt"]);
        assert_eq!(
            entries("<a href=\"../\">..</a><a href=\"./n>m\">n</a>", "/"),
            ["n>m"]
        );
    }

    #[test]
    fn a_hostile_link_is_passed_over_or_kept_to_be_refused() {
        let page =
            r#"<a href="..%2f..%2fetc%2fpasswd">x</a><a href="/other/x"></a><a href="a/../../b">"#;
        assert_eq!(entries(page, "/d/"), ["../../etc/passwd"]);
        for broken in [
            "<a",
            "<a href",
            "<a href=",
            "<a href=\"x",
            "<",
            "<a href=\"%ff\">",
            "<a><a>",
        ] {
            let _ = entries(broken, "/");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_page_breaks_the_reader(page in "(<a |href=|\"|'|>|/|\\.\\.|ä|%2f|&amp;|[a-z ]){0,60}") {
            let _ = entries(&page, "/d/");
        }
    }
}
