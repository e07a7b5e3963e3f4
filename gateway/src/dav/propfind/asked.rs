//! What a PROPFIND asks: how deep, and for which properties (RFC 4918, 9.1, 10.2 and 14.20).

use super::super::refusal::Refusal;
use super::DAV;
use axum::http::{HeaderMap, StatusCode};
use xmltree::{Element, XMLNode};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String, pub(super) String);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Everything, and these besides.
    All(Vec<Name>),
    /// Names only.
    Names,
    /// These.
    Some(Vec<Name>),
}

/// How deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Zero,
    One,
    Infinity,
}

/// What the header says; silence means all.
pub(super) fn depth(headers: &HeaderMap) -> Result<Depth, Refusal> {
    let Some(depth) = headers.get("depth") else {
        return Ok(Depth::Infinity);
    };
    match depth.to_str().unwrap_or_default() {
        "0" => Ok(Depth::Zero),
        "1" => Ok(Depth::One),
        other if other.eq_ignore_ascii_case("infinity") => Ok(Depth::Infinity),
        other => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("Depth is 0, 1 or infinity, not {other:?}"),
        )),
    }
}

/// What the body says; no body means everything.
pub(super) fn ask(body: &[u8]) -> Result<Ask, Refusal> {
    if body.is_empty() {
        return Ok(Ask::All(Vec::new()));
    }
    let refused = |words: &str| Refusal::new(StatusCode::BAD_REQUEST, words);
    let root = Element::parse(body).map_err(|_| refused("the body is no XML"))?;
    let dav = |element: &Element, name: &str| {
        element.name == name && element.namespace.as_deref() == Some(DAV)
    };
    if !dav(&root, "propfind") {
        return Err(refused("the body is no DAV:propfind"));
    }
    let (mut asks, mut besides) = (Vec::new(), Vec::new());
    for child in children(&root) {
        if dav(child, "propname") {
            asks.push(Ask::Names);
        } else if dav(child, "allprop") {
            asks.push(Ask::All(Vec::new()));
        } else if dav(child, "prop") {
            asks.push(Ask::Some(names(child)));
        } else if dav(child, "include") {
            besides = names(child);
        }
    }
    match (asks.pop(), asks.is_empty()) {
        (Some(Ask::All(_)), true) => Ok(Ask::All(besides)),
        (Some(ask), true) => Ok(ask),
        (_, false) | (None, _) => Err(refused(
            "DAV:propfind holds one of DAV:prop, DAV:propname and DAV:allprop",
        )),
    }
}

fn children(element: &Element) -> impl Iterator<Item = &Element> {
    element.children.iter().filter_map(XMLNode::as_element)
}

fn names(element: &Element) -> Vec<Name> {
    children(element)
        .map(|child| {
            Name(
                child.namespace.clone().unwrap_or_default(),
                child.name.clone(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_by_namespace() {
        let name = |namespace: &str, name: &str| Name(namespace.into(), name.into());
        assert_eq!(ask(b"").unwrap(), Ask::All(vec![]));
        let some = br#"<p:propfind xmlns:p="DAV:" xmlns:x="urn:x"><p:prop><x:a/><p:getetag/><b xmlns=""/></p:prop></p:propfind>"#;
        assert_eq!(
            ask(some).unwrap(),
            Ask::Some(vec![
                name("urn:x", "a"),
                name(DAV, "getetag"),
                name("", "b")
            ])
        );
        let all =
            br#"<propfind xmlns="DAV:"><allprop/><include><x xmlns="urn:x"/></include></propfind>"#;
        assert_eq!(ask(all).unwrap(), Ask::All(vec![name("urn:x", "x")]));
        for bad in [
            &br#"<propfind/>"#[..],
            br#"<propfind xmlns="DAV:"/>"#,
            br#"<propfind xmlns="DAV:"><prop/><propname/></propfind>"#,
            br#"<lockinfo xmlns="DAV:"/>"#,
        ] {
            assert!(ask(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn depth_is_one_of_three() {
        let of = |text: &str| {
            let headers = [("depth".parse().unwrap(), text.parse().unwrap())];
            depth(&HeaderMap::from_iter(headers))
        };
        assert_eq!(of("0").unwrap(), Depth::Zero);
        assert_eq!(of("Infinity").unwrap(), Depth::Infinity);
        assert!(of("2").is_err());
        assert_eq!(depth(&HeaderMap::new()).unwrap(), Depth::Infinity);
    }
}
