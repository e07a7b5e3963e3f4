//! Metadata of containers and data objects (CDMI 1.1.1, 16).
//!
//! ```text
//! what a client gives          where it is kept                       who else sees it
//! "colour": "blue"             the object's user metadata             S3, as x-amz-meta-colour
//! anything no header carries   properties "cdmi" of the same row      nobody
//! cdmi_… (data system)         properties "cdmi" of the same row      nobody; checked by placement
//! cdmi_size, …_provided        nowhere: computed when shown
//! ```
//! 1. Both places change in the transaction that changes the object.
//! 2. Names, values and their number are bounded.

use super::failure::{Failure, Reply};
use super::placement::Node;
use blockstore::object::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Under this name the store keeps what is CDMI's own, with objects and with buckets.
pub(super) const SLOT: &str = "cdmi";

/// Items at most.
pub(super) const ITEMS_MAX: usize = 256;
/// Bytes of one item, its name and its JSON, at most.
pub(super) const ITEM_BYTES_MAX: usize = 8 << 10;
/// Bytes of all items at most.
pub(super) const TOTAL_BYTES_MAX: usize = 64 << 10;
/// Bytes of a name at most.
const NAME_BYTES_MAX: usize = 255;
/// Bytes of user metadata that S3 shows, names and values, at most: more would be more than S3 takes.
const SHARED_BYTES_MAX: usize = 2 << 10;

/// What the system keeps up to date itself; a client's value is passed over, so that what was read
/// can be written back.
const READ_ONLY: [&str; 8] = [
    "cdmi_size",
    "cdmi_ctime",
    "cdmi_atime",
    "cdmi_mtime",
    "cdmi_acount",
    "cdmi_mcount",
    "cdmi_hash",
    "cdmi_owner",
];

/// How a value travels in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    /// As a JSON string.
    #[serde(rename = "utf-8")]
    Utf8,
    /// As base64 in a JSON string.
    Base64,
    /// As JSON itself.
    Json,
}

impl Encoding {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Base64 => "base64",
            Self::Json => "json",
        }
    }

    pub(super) fn named(text: &str) -> Reply<Self> {
        [Self::Utf8, Self::Base64, Self::Json]
            .into_iter()
            .find(|encoding| encoding.text() == text)
            .ok_or_else(|| {
                Failure::invalid(
                    "valuetransferencoding",
                    format!("valuetransferencoding {text:?} is none of utf-8, base64, json"),
                )
            })
    }
}

/// What is CDMI's own of an object or a bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Slot {
    #[serde(default)]
    pub(super) v: u32,
    /// What user metadata of S3 cannot carry, and data system metadata.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) metadata: Map<String, Value>,
    /// How the value travels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) encoding: Option<Encoding>,
    /// Of which body that was said, by its ETag: another door may have written another one since.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) encoded: String,
    /// Where this redirects to, if it is a reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
    /// More of the value is to come (`X-CDMI-Partial`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) processing: bool,
}

impl Slot {
    /// Of an object; what cannot be read is taken for nothing, for the bytes are still good.
    pub(super) fn of(object: &Object) -> Self {
        let kept = object.meta.properties.get(SLOT);
        kept.and_then(|kept| serde_json::from_value(kept.clone()).ok())
            .unwrap_or_default()
    }

    /// As it is kept.
    pub(super) fn kept(&self) -> Reply<Value> {
        let current = Self {
            v: 1,
            ..self.clone()
        };
        serde_json::to_value(current).map_err(|cause| {
            Failure::new(
                blockstore::Kind::Internal,
                "metadata",
                format!("the metadata cannot be written as JSON: {cause}"),
            )
        })
    }

    /// How the value of this object travels. What another door wrote is bytes.
    pub(super) fn encoding_of(&self, object: &Object) -> Encoding {
        match self.encoding {
            Some(encoding) if self.encoded == object.meta.etag => encoding,
            _ => Encoding::Base64,
        }
    }
}

/// Metadata as a client gave it, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Given {
    items: Map<String, Value>,
}

impl Given {
    /// Checks `metadata` of a request's body.
    pub(super) fn read(value: &Value, node: &Node) -> Reply<Self> {
        let Value::Object(given) = value else {
            return Err(Failure::invalid(
                "metadata",
                "metadata is a JSON object of names and values",
            ));
        };
        let mut items = Map::new();
        for (name, value) in given {
            check_name(name)?;
            let passed_over = READ_ONLY.contains(&name.as_str())
                || (name.starts_with("cdmi_") && name.ends_with("_provided"));
            if passed_over {
                continue;
            }
            if name.starts_with("cdmi_") && !value.is_null() && !node.check(name, value)? {
                return Err(Failure::invalid(
                    "metadata",
                    format!(
                        "{name:?} is no metadata of the standard; names that begin with cdmi_ are \
                         reserved for it"
                    ),
                ));
            }
            items.insert(name.clone(), value.clone());
        }
        let given = Self { items };
        given.check_size()?;
        Ok(given)
    }

    /// What is kept now, to be changed.
    pub(super) fn of(user: &BTreeMap<String, String>, slot: &Slot) -> Self {
        let shared = user
            .iter()
            .filter(|(name, _)| !name.starts_with("cdmi_"))
            .map(|(name, value)| (name.clone(), Value::String(value.clone())));
        let mut items: Map<String, Value> = shared.collect();
        items.extend(slot.metadata.clone());
        Self { items }
    }

    /// Only the named items are taken over from `newer`; one it lacks is removed
    /// (`PUT ?metadata:<name>`, CDMI 1.1.1, 8.6.1).
    pub(super) fn replace(&mut self, names: &[&str], newer: &Self) -> Reply<()> {
        for name in names {
            match newer.items.get(*name) {
                Some(value) if !value.is_null() => {
                    self.items.insert((*name).to_owned(), value.clone());
                }
                _ => {
                    self.items.remove(*name);
                }
            }
        }
        self.check_size()
    }

    /// Each item of `newer` is taken over; null removes (PATCH, after RFC 7396).
    pub(super) fn merge(&mut self, newer: &Self) -> Reply<()> {
        for (name, value) in &newer.items {
            if value.is_null() {
                self.items.remove(name);
            } else {
                self.items.insert(name.clone(), value.clone());
            }
        }
        self.check_size()
    }

    /// What S3 shows as user metadata, and what only CDMI does.
    pub(super) fn split(self) -> (BTreeMap<String, String>, Map<String, Value>) {
        let mut shared = BTreeMap::new();
        let mut own = Map::new();
        let mut bytes = 0;
        for (name, value) in self.items {
            match value {
                Value::Null => {}
                Value::String(text)
                    if fits_header(&name, &text)
                        && bytes + name.len() + text.len() <= SHARED_BYTES_MAX =>
                {
                    bytes += name.len() + text.len();
                    shared.insert(name, text);
                }
                other => {
                    own.insert(name, other);
                }
            }
        }
        (shared, own)
    }

    /// Every item, as it is shown.
    pub(super) fn into_items(self) -> Map<String, Value> {
        self.items
    }

    fn check_size(&self) -> Reply<()> {
        let too_much = |text: String| Err(Failure::invalid("metadata", text));
        if self.items.len() > ITEMS_MAX {
            return too_much(format!(
                "{} items of metadata, at most {ITEMS_MAX} are kept",
                self.items.len()
            ));
        }
        let mut total = 0;
        for (name, value) in &self.items {
            let bytes = name.len() + value.to_string().len();
            if bytes > ITEM_BYTES_MAX {
                return too_much(format!(
                    "metadata {name:?} has {bytes} bytes, at most {ITEM_BYTES_MAX} are kept"
                ));
            }
            total += bytes;
        }
        if total > TOTAL_BYTES_MAX {
            return too_much(format!(
                "{total} bytes of metadata, at most {TOTAL_BYTES_MAX} are kept"
            ));
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Reply<()> {
    let refused = |why: String| {
        Err(Failure::invalid(
            "metadata",
            format!("metadata name {name:?} {why}"),
        ))
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return refused(format!("must have 1 to {NAME_BYTES_MAX} bytes"));
    }
    // A name with these could not be asked for by ?metadata:<prefix>.
    if name
        .chars()
        .any(|letter| letter.is_control() || letter == ';')
    {
        return refused("may hold neither control characters nor ;".to_owned());
    }
    Ok(())
}

/// Whether an x-amz-meta header shows this name and value unchanged: headers know no upper case in
/// names, and no space at the ends of values.
fn fits_header(name: &str, value: &str) -> bool {
    let in_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    !name.starts_with("cdmi_")
        && !name.is_empty()
        && name.bytes().all(in_name)
        && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && value.trim() == value
        && !value.is_empty()
        // This would be read back as an encoded word (RFC 2047).
        && !value.contains("=?")
}

/// Milliseconds since the Unix epoch as the standard writes times (ISO 8601, CDMI 1.1.1, 5.16).
pub(super) fn time(ms: u64) -> String {
    let stamp = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(String::new, |stamp| {
        stamp.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    })
}

/// The asked part of a metadata object.
pub(super) fn select(mut items: Map<String, Value>, prefixes: &[&str]) -> Map<String, Value> {
    if !prefixes.is_empty() {
        items.retain(|name, _| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[allow(
        clippy::needless_pass_by_value,
        reason = "each test writes its value down in place"
    )]
    fn read(value: Value) -> Result<Given, String> {
        Given::read(&value, &Node::default()).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn what_a_header_can_carry_is_shared_with_s3() {
        let given = read(json!({
            "colour": "blue", "Colour": "red", "tags": ["a"], "spaced": " x", "empty": "",
            "snow": "\u{2603}", "cdmi_data_redundancy": "1", "cdmi_size": "9",
            "cdmi_data_redundancy_provided": "3", "gone": null,
        }))
        .unwrap();
        let (shared, own) = given.split();
        assert_eq!(shared, BTreeMap::from([("colour".into(), "blue".into())]));
        let names: Vec<_> = own.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "Colour",
                "cdmi_data_redundancy",
                "empty",
                "snow",
                "spaced",
                "tags"
            ]
        );
    }

    #[test]
    fn what_s3_could_not_take_stays_in_cdmi() {
        let long = json!({"a": "x".repeat(1500), "b": "y".repeat(1500)});
        let (shared, own) = read(long).unwrap().split();
        assert_eq!((shared.len(), own.len()), (1, 1));
    }

    #[test]
    fn names_values_and_their_number_are_bounded() {
        let many: Map<String, Value> = (0..257).map(|n| (n.to_string(), json!("v"))).collect();
        for bad in [
            json!([]),
            json!("x"),
            json!({"": "v"}),
            json!({"x".repeat(256): "v"}),
            json!({"a\n": "v"}),
            json!({"a;b": "v"}),
            json!({"a": "x".repeat(9000)}),
            json!({"cdmi_nonsense": "1"}),
            Value::Object(many),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        let heavy: Map<String, Value> = (0..20)
            .map(|n| (n.to_string(), json!("v".repeat(4000))))
            .collect();
        assert!(read(Value::Object(heavy)).unwrap_err().contains("65536"));
    }

    #[test]
    fn items_are_replaced_by_name_and_merged_with_null_as_removal() {
        let now = || read(json!({"a": "1", "b": "2", "c": "3"})).unwrap();
        let mut replaced = now();
        replaced
            .replace(
                &["a", "b", "z"],
                &read(json!({"a": "9", "c": "x", "z": "y"})).unwrap(),
            )
            .unwrap();
        assert_eq!(
            Value::Object(replaced.into_items()),
            json!({"a": "9", "c": "3", "z": "y"})
        );
        let mut merged = now();
        merged
            .merge(&read(json!({"a": null, "d": "4"})).unwrap())
            .unwrap();
        assert_eq!(
            Value::Object(merged.into_items()),
            json!({"b": "2", "c": "3", "d": "4"})
        );
    }

    #[test]
    fn times_are_written_as_the_standard_wants_them() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(1_700_000_000_750), "2023-11-14T22:13:20.750000Z");
        assert_eq!(time(u64::MAX), "");
    }
}
