//! `multistatus` documents of WebDAV (RFC 4918, 14.16): what PROPFIND answers.
//!
//! No document type is read and no entity but the five of XML is known, so a document grows by
//! nothing that it does not hold; nesting is bounded.

use quick_xml::NsReader;
use quick_xml::events::Event;
use quick_xml::name::{Namespace, ResolveResult};

const DEPTH_MAX: usize = 64;

/// One `response`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// As it stands: a path or a URL, escaped.
    pub(crate) href: String,
    /// Whether it is a collection.
    pub(crate) collection: bool,
    /// `getcontentlength`.
    pub(crate) length_bytes: Option<u64>,
    /// `getlastmodified`.
    pub(crate) modified: Option<String>,
    /// `getetag`.
    pub(crate) etag: Option<String>,
}

/// What is asked for.
pub(crate) const PROPFIND: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
<propfind xmlns=\"DAV:\"><prop><resourcetype/><getcontentlength/><getlastmodified/><getetag/></prop></propfind>";

/// The members of a document.
pub(crate) fn members(document: &[u8]) -> Result<Vec<Member>, String> {
    let mut reader = NsReader::from_reader(document);
    let (mut members, mut member) = (Vec::new(), None);
    let mut open: Vec<String> = Vec::new();
    let mut text = String::new();
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    loop {
        let (namespace, event) = reader
            .read_resolved_event()
            .map_err(|error| wrong(&error))?;
        let dav = matches!(namespace, ResolveResult::Bound(Namespace(b"DAV:")));
        let named = |local: &[u8]| {
            if dav {
                String::from_utf8_lossy(local).into_owned()
            } else {
                String::new()
            }
        };
        match event {
            Event::Start(start) => {
                if open.len() >= DEPTH_MAX {
                    return Err("it is nested too deeply".into());
                }
                let name = named(start.local_name().as_ref());
                if name == "response" {
                    member = Some(Member::default());
                }
                mark(&mut member, &open, &name);
                open.push(name);
                text.clear();
            }
            Event::Empty(empty) => mark(&mut member, &open, &named(empty.local_name().as_ref())),
            Event::Text(more) => text.push_str(&more.decode().map_err(|error| wrong(&error))?),
            Event::CData(more) => text.push_str(&more.decode().map_err(|error| wrong(&error))?),
            Event::GeneralRef(reference) => {
                let name = reference.decode().map_err(|error| wrong(&error))?;
                match reference
                    .resolve_char_ref()
                    .map_err(|error| wrong(&error))?
                {
                    Some(character) => text.push(character),
                    None => match quick_xml::escape::resolve_predefined_entity(&name) {
                        Some(known) => text.push_str(known),
                        None => return Err(format!("it names the entity &{name};")),
                    },
                }
            }
            Event::End(_) => {
                let name = open.pop().unwrap_or_default();
                keep(&mut member, &name, text.trim());
                if name == "response" {
                    members.extend(member.take().filter(|member| !member.href.is_empty()));
                }
                text.clear();
            }
            Event::DocType(_) => return Err("it brings a document type".into()),
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    if !open.is_empty() {
        return Err("it is cut off".into());
    }
    Ok(members)
}

fn mark(member: &mut Option<Member>, open: &[String], name: &str) {
    if let Some(member) = member
        && name == "collection"
        && open.last().is_some_and(|outer| outer == "resourcetype")
    {
        member.collection = true;
    }
}

fn keep(member: &mut Option<Member>, name: &str, text: &str) {
    let Some(member) = member else { return };
    match name {
        // The first is the member's; a lock or a redirect may bring more.
        "href" if member.href.is_empty() => member.href = text.into(),
        "getcontentlength" => member.length_bytes = text.parse().ok(),
        "getlastmodified" => {
            member.modified = Some(text.into()).filter(|text: &String| !text.is_empty());
        }
        "getetag" => member.etag = Some(text.into()).filter(|text: &String| !text.is_empty()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_whatever_the_prefix() {
        let document = br#"<?xml version="1.0"?>
<D:multistatus xmlns:D="DAV:"><D:response><D:href>/d/</D:href><D:propstat><D:prop><D:resourcetype>
<D:collection xmlns:D="DAV:"/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<response xmlns="DAV:"><href>/d/a&amp;b%20c</href><propstat><prop><getcontentlength>12</getcontentlength>
<getetag>"&#101;"</getetag><x:collection xmlns:x="other"/><resourcetype/></prop></propstat></response></D:multistatus>"#;
        let members = members(document).unwrap();
        assert_eq!(members.len(), 2);
        assert!(members[0].collection && !members[1].collection);
        assert_eq!(members[1].href, "/d/a&b%20c");
        assert_eq!(members[1].length_bytes, Some(12));
        assert_eq!(members[1].etag.as_deref(), Some("\"e\""));
    }

    #[test]
    fn bombs_and_broken_documents_are_refused() {
        let bomb =
            br#"<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x xmlns="DAV:">&b;</x>"#;
        let deep = "<a>".repeat(100_000);
        for document in [
            bomb.as_slice(),
            b"<a>&b;</a>",
            deep.as_bytes(),
            b"<a><b></a>",
            b"<a>",
            b"<",
        ] {
            assert!(members(document).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_document_breaks_the_reader(document in "(<|>|/|a|D:|href|response|xmlns|=|\"|&|;|#|x|!|\\[|\\]|-){0,60}") {
            let _ = members(document.as_bytes());
        }
    }
}
