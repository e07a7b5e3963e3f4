//! XML bodies as a stranger may send them: judged before any parser that builds a tree sees them.
//!
//! 1. At most [`BODY_BYTES_MAX`] bytes, [`DEPTH_MAX`] deep, [`ELEMENTS_MAX`] elements. The tree
//!    builders behind this recurse: depth is what their stack costs.
//! 2. No document type, so no entity is ever defined; only the five of XML itself and characters by
//!    number are let through.

use super::refusal::Refusal;
use axum::http::StatusCode;
use quick_xml::Reader;
use quick_xml::events::Event;

/// Bytes of a body that is XML.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
/// Elements inside one another.
const DEPTH_MAX: usize = 32;
/// Elements of a body.
const ELEMENTS_MAX: usize = 1024;

/// Refuses what is malformed, too deep, too much, or defines entities.
pub(super) fn check(body: &[u8]) -> Result<(), Refusal> {
    let refused = |words: String| Err(Refusal::new(StatusCode::BAD_REQUEST, words));
    let Ok(text) = std::str::from_utf8(body) else {
        return refused("the body is not UTF-8".into());
    };
    let mut reader = Reader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let (mut depth, mut elements, mut roots) = (0_usize, 0_usize, 0_usize);
    loop {
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(error) => {
                let at = reader.error_position();
                return refused(format!("the body is no XML at byte {at}: {error}"));
            }
        };
        match event {
            Event::DocType(_) => {
                return refused("the body has a document type, which is not read".into());
            }
            Event::GeneralRef(name) => {
                let plain = matches!(&*name, b"lt" | b"gt" | b"amp" | b"apos" | b"quot");
                if !plain && !name.starts_with(b"#") {
                    return refused("the body uses an entity that XML itself does not have".into());
                }
            }
            Event::Start(_) | Event::Empty(_) => {
                elements += 1;
                roots += usize::from(depth == 0);
                if matches!(event, Event::Start(_)) {
                    depth += 1;
                }
                if depth > DEPTH_MAX {
                    return refused(format!("the body is more than {DEPTH_MAX} elements deep"));
                }
                if elements > ELEMENTS_MAX {
                    return refused(format!("the body has more than {ELEMENTS_MAX} elements"));
                }
            }
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Eof => break,
            Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_) => {}
        }
    }
    if depth != 0 || roots != 1 {
        return refused("the body is not one whole XML element".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_body_passes() {
        let body = r#"<?xml version="1.0" encoding="utf-8"?>
            <propfind xmlns="DAV:"><prop><getetag/><x:y xmlns:x="urn:x">a &amp; &#x20;b</x:y></prop></propfind>"#;
        assert!(check(body.as_bytes()).is_ok());
    }

    #[test]
    fn bombs_are_refused_before_they_are_unpacked() {
        let laughs = r#"<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><l>&b;</l>"#;
        assert!(
            check(laughs.as_bytes())
                .unwrap_err()
                .words()
                .contains("document type")
        );
        let outside = r#"<!DOCTYPE l SYSTEM "file:///etc/passwd"><l/>"#;
        assert!(check(outside.as_bytes()).is_err());
        assert!(check(b"<a>&file;</a>").is_err());
        let deep = format!("{}{}", "<a>".repeat(10_000), "</a>".repeat(10_000));
        assert!(check(deep.as_bytes()).unwrap_err().words().contains("deep"));
        let wide = format!("<a>{}</a>", "<b/>".repeat(2000));
        assert!(check(wide.as_bytes()).unwrap_err().words().contains("1024"));
    }

    #[test]
    fn what_is_no_xml_is_refused() {
        for body in [
            &b""[..],
            b"text",
            b"<a>",
            b"<a></b>",
            b"</a>",
            b"<a/><b/>",
            b"<a",
            b"\xff\xfe<\0a\0/\0>\0",
            b"<a>\xc3\x28</a>",
        ] {
            assert!(check(body).is_err(), "{:?}", String::from_utf8_lossy(body));
        }
    }
}
