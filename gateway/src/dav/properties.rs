//! Dead properties: what clients keep with a resource by PROPPATCH, uninterpreted (RFC 4918, 4.1).
//!
//! They lie in the catalog with what they describe: an object's among its metadata under the name
//! `dav`, a collection's with its marker, a bucket's in the document `dav`. So a copy has them, a
//! move takes them along in its one transaction, and nothing is left of them when their resource goes.
//!
//! ```text
//! {"v":1,"properties":[{"namespace":"urn:x","name":"author","xml":"<x:author …>…</x:author>"}]}
//! ```

use super::place::Place;
use super::session::Session;
use super::shelf::{self, Found};
use blockstore::object::{Change, Object, Precondition};
use blockstore::{Error, Kind, Result, Store, Subject};
use dav_server::fs::DavProp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The name of what this door keeps.
const DOCUMENT: &str = "dav";
const VERSION: u32 = 1;
/// Bytes of one resource's properties.
const BYTES_MAX: usize = 64 << 10;
/// How many properties one resource has.
const COUNT_MAX: usize = 256;

/// One dead property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dead {
    /// Its namespace; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    /// Its name in it.
    pub(super) name: String,
    /// The whole element, declaring every prefix that it uses.
    pub(super) xml: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    v: u32,
    properties: Vec<Dead>,
}

/// The properties of what was found.
pub(super) fn of(store: &Store, found: &Found) -> Result<Vec<Dead>> {
    match found {
        Found::Root | Found::Collection(None) => Ok(Vec::new()),
        Found::Object(object) | Found::Collection(Some(object)) => of_object(object),
        Found::Bucket(bucket) => match store.bucket_document(&bucket.name, DOCUMENT)? {
            Some(text) => {
                let value: Value =
                    serde_json::from_str(&text).map_err(|cause| damaged(&bucket.name, cause))?;
                read(&bucket.name, value)
            }
            None => Ok(Vec::new()),
        },
    }
}

/// The properties of an object.
pub(super) fn of_object(object: &Object) -> Result<Vec<Dead>> {
    match object.meta.properties.get(DOCUMENT) {
        Some(value) => read(&object.key, value.clone()),
        None => Ok(Vec::new()),
    }
}

/// Sets (`true`) and removes (`false`) properties, all or none.
pub(super) fn change(
    store: &Store,
    session: &Session,
    place: &Place,
    changes: Vec<(bool, DavProp)>,
) -> Result<()> {
    let found = shelf::find(store, place)?;
    let mut kept = of(store, &found)?;
    for (set, property) in changes {
        let namespace = property.namespace.unwrap_or_default();
        kept.retain(|old| old.namespace != namespace || old.name != property.name);
        if set {
            let xml = String::from_utf8(property.xml.unwrap_or_default()).map_err(|cause| {
                let text = format!("property {:?} is not UTF-8", property.name);
                Error::new(Kind::Invalid, Subject::Object, text).because(cause)
            })?;
            kept.push(Dead {
                namespace,
                name: property.name,
                xml: without_declaration(&xml).to_owned(),
            });
        }
    }
    let bytes: usize = kept
        .iter()
        .map(|one| one.namespace.len() + one.name.len() + one.xml.len())
        .sum();
    if bytes > BYTES_MAX || kept.len() > COUNT_MAX {
        let text = format!(
            "{} would have {} properties of {bytes} bytes; {COUNT_MAX} of {BYTES_MAX} bytes are \
             the most",
            place.name(),
            kept.len()
        );
        return Err(Error::new(Kind::NoSpace, Subject::Object, text));
    }
    write(store, session, place, &found, kept)
}

fn write(
    store: &Store,
    session: &Session,
    place: &Place,
    found: &Found,
    kept: Vec<Dead>,
) -> Result<()> {
    let empty = kept.is_empty();
    let value = serde_json::to_value(Kept {
        v: VERSION,
        properties: kept,
    })
    .map_err(|cause| damaged(&place.name(), cause))?;
    let object = match found {
        Found::Root => {
            let text = "the collection of buckets keeps no properties";
            return Err(Error::new(Kind::Denied, Subject::Bucket, text));
        }
        Found::Bucket(bucket) => {
            return store.bucket_document_put(
                &session.who(),
                &bucket.name,
                DOCUMENT,
                &value.to_string(),
            );
        }
        Found::Object(object) | Found::Collection(Some(object)) => object.clone(),
        Found::Collection(None) => shelf::make_marker(store, session, place)?,
    };
    let change = Change {
        properties: BTreeMap::from([(DOCUMENT.to_owned(), (!empty).then_some(value))]),
        ..Change::default()
    };
    // The object that was read, not one that has taken its place meanwhile.
    let same = Precondition {
        if_match: vec![object.meta.etag.clone()],
        ..Precondition::default()
    };
    store
        .object_change(
            &session.who(),
            &object.bucket,
            &object.key,
            None,
            &change,
            &same,
        )
        .map(|_| ())
}

fn read(name: &str, value: Value) -> Result<Vec<Dead>> {
    let kept: Kept = serde_json::from_value(value).map_err(|cause| damaged(name, cause))?;
    if kept.v > VERSION {
        let text = format!(
            "the properties of {name:?} have format {}, this release reads up to {VERSION}",
            kept.v
        );
        return Err(Error::new(Kind::Unsupported, Subject::Object, text));
    }
    Ok(kept.properties)
}

fn damaged(name: &str, cause: serde_json::Error) -> Error {
    let text = format!("the WebDAV properties of {name:?} are not what this door wrote");
    Error::new(Kind::Corrupt, Subject::Object, text).because(cause)
}

/// The element without the declaration of a document, so that it fits into another one.
fn without_declaration(xml: &str) -> &str {
    match xml.trim_start().strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map_or(xml, |(_, rest)| rest).trim(),
        None => xml.trim(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_loses_its_documents_declaration() {
        for xml in [
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><a>?></a>",
            "<a>?></a>",
            " <a>?></a>\n",
        ] {
            assert_eq!(without_declaration(xml), "<a>?></a>");
        }
    }

    #[test]
    fn a_newer_format_is_not_guessed_at() {
        let newer = serde_json::json!({"v": 2, "properties": []});
        assert_eq!(read("k", newer).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(
            read("k", serde_json::json!([])).unwrap_err().kind(),
            Kind::Corrupt
        );
    }
}
