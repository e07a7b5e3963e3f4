//! CDMI bodies: bounded JSON, read strictly.
//!
//! 1. A body is one JSON object of members that the standard knows, no deeper than [`DEPTH_MAX`],
//!    none named twice.
//! 2. What a server told (ids, names, states) may be sent back and changes nothing.

use super::ask::Work;
use super::failure::{Failure, Reply};
use super::stream::{collect, turn};
use super::{JSON_BYTES_MAX, SMALL_BYTES};
use axum::body::Body;
use axum::http::header;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fmt;

/// Levels of arrays and objects at most.
const DEPTH_MAX: usize = 24;
/// Values at most, all levels together: each takes more memory than its text.
const VALUES_MAX: usize = 100_000;

/// Members that a client may set.
const SETTABLE: [&str; 16] = [
    "metadata",
    "domainURI",
    "mimetype",
    "valuetransferencoding",
    "value",
    "copy",
    "move",
    "reference",
    "serialize",
    "deserialize",
    "deserializevalue",
    "snapshot",
    "exports",
    "noclobber",
    "percentComplete",
    "valuerange",
];
/// Members that only a server sets.
const TOLD: [&str; 10] = [
    "objectType",
    "objectID",
    "objectName",
    "parentURI",
    "parentID",
    "capabilitiesURI",
    "completionStatus",
    "snapshots",
    "childrenrange",
    "children",
];

/// A CDMI body.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    members: Map<String, Value>,
}

impl Members {
    /// Reads and checks a body; an empty one has no members.
    pub(super) fn read(bytes: &[u8]) -> Reply<Self> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let refused = |why: String| Failure::invalid("body", why);
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let Strict(value) = Strict::deserialize(&mut reader)
            .map_err(|bad| refused(format!("the body is no JSON that is read here: {bad}")))?;
        reader
            .end()
            .map_err(|bad| refused(format!("something follows the JSON of the body: {bad}")))?;
        let Value::Object(mut members) = value else {
            return Err(refused("a CDMI body is a JSON object".to_owned()));
        };
        for name in members.keys() {
            if !SETTABLE.contains(&name.as_str()) && !TOLD.contains(&name.as_str()) {
                return Err(refused(format!("the standard has no member {name:?} here")));
            }
        }
        for told in TOLD {
            members.remove(told);
        }
        for (name, why) in [
            ("domainURI", "domains are not served here"),
            ("serialize", "serialization is not served here"),
            ("deserialize", "serialization is not served here"),
            ("deserializevalue", "serialization is not served here"),
        ] {
            if members.contains_key(name) {
                return Err(refused(format!(
                    "{name}: {why}; GET /cdmi/cdmi_capabilities/ tells what is"
                )));
            }
        }
        Ok(Self { members })
    }

    /// A member, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// Takes a member out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name)
    }

    /// A member that is a string, if it is there.
    pub(super) fn text(&self, name: &str) -> Reply<Option<&str>> {
        match self.members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Failure::invalid(
                name,
                format!("{name} is a JSON string, not {}", kind_of(other)),
            )),
        }
    }

    /// 400 where more than one of these is there.
    pub(super) fn one_of(&self, names: &[&str]) -> Reply<()> {
        let there: Vec<_> = names
            .iter()
            .copied()
            .filter(|name| self.members.contains_key(*name))
            .collect();
        if there.len() > 1 {
            return Err(Failure::invalid(
                "body",
                format!("{} exclude one another: send one", there.join(", ")),
            ));
        }
        Ok(())
    }

    /// 400 for a member that is not one of these.
    pub(super) fn only(&self, names: &[&str], of: &str) -> Reply<()> {
        match self
            .members
            .keys()
            .find(|name| !names.contains(&name.as_str()))
        {
            None => Ok(()),
            Some(name) => Err(Failure::invalid(
                "body",
                format!("{of} takes no {name:?} here: {}", names.join(", ")),
            )),
        }
    }
}

/// The CDMI body of a request.
pub(super) async fn json(work: &Work, body: Body) -> Reply<Members> {
    let announced = announced(work)?;
    if announced.is_some_and(|bytes| bytes > JSON_BYTES_MAX as u64) {
        // Refused before a byte of it is read.
        return Err(collect_too_large(announced.unwrap_or(0)));
    }
    let _turn = match announced {
        Some(bytes) if bytes <= SMALL_BYTES => None,
        _ => Some(turn(&work.door.json).await?),
    };
    Members::read(&collect(body, JSON_BYTES_MAX).await?)
}

/// The body of a request that must have none.
pub(super) async fn none(body: Body) -> Reply<Members> {
    if collect(body, 0).await.is_ok_and(|bytes| bytes.is_empty()) {
        return Ok(Members::default());
    }
    Err(Failure::invalid(
        "body",
        "a container has no value: send no body, or Content-Type: application/cdmi-container",
    ))
}

/// `Content-Length`, if it is told.
pub(super) fn announced(work: &Work) -> Reply<Option<u64>> {
    let Some(value) = work.ask.headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length
        .map(Some)
        .ok_or_else(|| Failure::invalid("content-length", "Content-Length is no number of bytes"))
}

fn collect_too_large(bytes: u64) -> Failure {
    Failure::invalid(
        "body",
        format!(
            "a CDMI body has at most {JSON_BYTES_MAX} bytes, not {bytes}: write larger values \
             without CDMI's content type, or in ranges"
        ),
    )
    .with_status(axum::http::StatusCode::PAYLOAD_TOO_LARGE)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// JSON of bounded depth whose objects name each member once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let left = Cell::new(VALUES_MAX);
        let top = Level {
            depth: 0,
            left: &left,
        };
        reader.deserialize_any(top).map(Self)
    }
}

#[derive(Clone, Copy)]
struct Level<'a> {
    depth: usize,
    left: &'a Cell<usize>,
}

impl Level<'_> {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!("deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Level<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => {
                let text = format_args!("more than {VALUES_MAX} values");
                return Err(serde::de::Error::custom(text));
            }
        }
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut object = Map::new();
        while let Some(name) = items.next_key::<String>()? {
            let value = items.next_value_seed(below)?;
            if object.contains_key(&name) {
                return Err(serde::de::Error::custom(format_args!(
                    "{name:?} stands twice"
                )));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Members, String> {
        Members::read(text.as_bytes()).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn what_the_server_told_may_come_back_and_changes_nothing() {
        let members = read(r#"{"objectID":"00","children":[],"mimetype":"text/plain"}"#).unwrap();
        assert!(members.get("objectID").is_none());
        assert_eq!(members.text("mimetype").unwrap(), Some("text/plain"));
        assert!(read(" \n").unwrap().get("metadata").is_none());
    }

    #[test]
    fn a_body_that_is_not_of_the_standard_is_refused() {
        let deep = format!(
            "{{\"metadata\":{{\"a\":{}1{}}}}}",
            "[".repeat(30),
            "]".repeat(30)
        );
        let bottomless = "[".repeat(1 << 20);
        let many = format!("{{\"value\":[{}1]}}", "1,".repeat(200_000));
        for bad in [
            "[]",
            "1",
            "{",
            r#"{"a":1}"#,
            r#"{"metadata":{}} x"#,
            r#"{"metadata":{"a":"1","a":"2"}}"#,
            r#"{"value":"a","value":"b"}"#,
            r#"{"domainURI":"/cdmi_domains/x/"}"#,
            r#"{"deserialize":"/b/k"}"#,
            &deep,
            &bottomless,
            &many,
        ] {
            assert!(read(bad).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
        assert!(Members::read(b"{\"value\":\"\xff\"}").is_err());
        let both = read(r#"{"value":"a","copy":"/b/k"}"#).unwrap();
        assert!(both.one_of(&["value", "copy", "move"]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Members::read(&bytes);
        }

        #[test]
        fn any_text_is_kept_as_it_is(text in "\\PC{0,60}") {
            let body = serde_json::json!({"value": text}).to_string();
            let members = Members::read(body.as_bytes()).unwrap();
            prop_assert_eq!(members.text("value").unwrap(), Some(text.as_str()));
        }
    }
}
