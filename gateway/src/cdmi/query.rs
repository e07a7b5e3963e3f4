//! Which fields a request asks for: `?f1;f2`, `?value:0-9`, `?metadata:<prefix>`, `?children:0-2`
//! (CDMI 1.1.1, 8.4.1 and 9.4.1).

use super::failure::Failure;

/// Bytes of a query at most.
const QUERY_BYTES_MAX: usize = 8 << 10;
/// Fields of a query at most.
const FIELDS_MAX: usize = 64;

/// The fields that objects of this server have, by their names in the standard.
const NAMES: [&str; 20] = [
    "objectType",
    "objectID",
    "objectName",
    "parentURI",
    "parentID",
    "domainURI",
    "capabilitiesURI",
    "completionStatus",
    "percentComplete",
    "mimetype",
    "metadata",
    "valuerange",
    "valuetransferencoding",
    "value",
    "exports",
    "snapshots",
    "childrenrange",
    "children",
    "capabilities",
    "reference",
];

/// First and last position, both counted from zero and both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    /// How many positions.
    pub(super) fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// One asked field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// By its name, whole.
    Named(&'static str),
    /// Bytes of the value.
    Value(Span),
    /// Children by their place in the listing.
    Children(Span),
    /// Metadata items whose names begin so.
    Metadata(String),
}

/// What a request asks for; empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    fields: Vec<Field>,
}

impl Selection {
    /// Reads the query of a request.
    pub(super) fn read(query: Option<&str>) -> Result<Self, Failure> {
        let query = query.unwrap_or_default();
        if query.len() > QUERY_BYTES_MAX {
            return Err(Failure::invalid(
                "query",
                format!(
                    "the query has {} bytes, at most {QUERY_BYTES_MAX} are read",
                    query.len()
                ),
            ));
        }
        let mut fields = Vec::new();
        for part in query.split(';').filter(|part| !part.is_empty()) {
            if fields.len() == FIELDS_MAX {
                let text = format!("the query names more than {FIELDS_MAX} fields");
                return Err(Failure::invalid("query", text));
            }
            fields.push(field(part)?);
        }
        Ok(Self { fields })
    }

    /// Whether nothing is selected, so that everything is meant.
    pub(super) fn is_everything(&self) -> bool {
        self.fields.is_empty()
    }

    /// The asked fields, as they were asked.
    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Whether a field of this name is to be shown.
    pub(super) fn shows(&self, name: &str) -> bool {
        self.is_everything() || self.names(name)
    }

    /// Whether a field is asked for by this name, whole or in part.
    pub(super) fn names(&self, name: &str) -> bool {
        self.fields.iter().any(|field| match field {
            Field::Named(named) => *named == name,
            Field::Value(_) => name == "value",
            Field::Children(_) => name == "children",
            Field::Metadata(_) => name == "metadata",
        })
    }

    /// The asked bytes of the value, if only some are asked.
    pub(super) fn value(&self) -> Option<Span> {
        self.fields.iter().find_map(|field| match field {
            Field::Value(span) => Some(*span),
            _ => None,
        })
    }

    /// The asked children, if only some are asked.
    pub(super) fn children(&self) -> Option<Span> {
        self.fields.iter().find_map(|field| match field {
            Field::Children(span) => Some(*span),
            _ => None,
        })
    }

    /// The asked beginnings of metadata names; empty: all.
    pub(super) fn metadata(&self) -> Vec<&str> {
        let whole = self.fields.contains(&Field::Named("metadata"));
        let prefixes = self.fields.iter().filter_map(|field| match field {
            Field::Metadata(prefix) if !whole => Some(prefix.as_str()),
            _ => None,
        });
        prefixes.collect()
    }
}

fn field(part: &str) -> Result<Field, Failure> {
    let (name, argument) = match part.split_once(':') {
        Some((name, argument)) => (name, Some(decoded(argument)?)),
        None => (part, None),
    };
    let name = decoded(name)?;
    let Some(known) = NAMES.into_iter().find(|known| *known == name) else {
        return Err(Failure::invalid(
            "query",
            format!("there is no field {name:?}: ask for {}", NAMES.join(", ")),
        ));
    };
    match (known, argument) {
        (_, None) => Ok(Field::Named(known)),
        ("value", Some(text)) => Ok(Field::Value(span(known, &text)?)),
        ("children", Some(text)) => Ok(Field::Children(span(known, &text)?)),
        ("metadata", Some(prefix)) => Ok(Field::Metadata(prefix)),
        (_, Some(text)) => Err(Failure::invalid(
            "query",
            format!("{known} is shown whole, not {text:?} of it"),
        )),
    }
}

/// `<first>-<last>`.
pub(super) fn span(of: &str, text: &str) -> Result<Span, Failure> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u64>().ok()).flatten()
    };
    text.split_once('-')
        .and_then(|(first, last)| Some((number(first)?, number(last)?)))
        .filter(|(first, last)| first <= last)
        .map(|(first, last)| Span { first, last })
        .ok_or_else(|| {
            Failure::invalid(
                "query",
                format!("{of}:{text:?} is no range: write {of}:<first>-<last>, counted from 0"),
            )
        })
}

/// Percent-decoded UTF-8.
pub(super) fn decoded(text: &str) -> Result<String, Failure> {
    let refused = || {
        Failure::invalid(
            "uri",
            format!("{text:?} is not percent-encoded UTF-8 (RFC 3986, 2.1)"),
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let next = rest.next().map(char::from)?;
            next.to_digit(16).and_then(|digit| u8::try_from(digit).ok())
        };
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(refused()),
        }
    }
    String::from_utf8(bytes).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(query: &str) -> Result<Vec<Field>, String> {
        Selection::read(Some(query))
            .map(|selection| selection.fields)
            .map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn fields_are_read_in_their_order() {
        assert_eq!(
            read("objectID;value:0-9;metadata:colour;children:0-2;metadata"),
            Ok(vec![
                Field::Named("objectID"),
                Field::Value(Span { first: 0, last: 9 }),
                Field::Metadata("colour".into()),
                Field::Children(Span { first: 0, last: 2 }),
                Field::Named("metadata"),
            ])
        );
        assert_eq!(
            read("metadata:a%20b"),
            Ok(vec![Field::Metadata("a b".into())])
        );
        assert!(Selection::read(None).unwrap().is_everything());
        assert!(Selection::read(Some("")).unwrap().is_everything());
        assert!(Selection::read(Some(";;")).unwrap().is_everything());
    }

    #[test]
    fn what_is_no_field_is_refused_by_its_name() {
        for bad in [
            "nope",
            "value:9-0",
            "value:",
            "value:1",
            "value:-1",
            "value:+1-2",
            "value:0x1-2",
            "value:0-18446744073709551616",
            "objectID:0-1",
            "children:a-b",
            "a=b&c=d",
            "%zz",
            "metadata:%ff",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("nope").unwrap_err().contains("\"nope\""));
        assert!(read(&"value;".repeat(65)).unwrap_err().contains("64"));
        assert!(read(&"x".repeat(9000)).unwrap_err().contains("9000"));
    }

    #[test]
    fn asking_for_all_metadata_wins_over_a_beginning() {
        let selection = Selection::read(Some("metadata:a;metadata")).unwrap();
        assert!(selection.metadata().is_empty());
        let selection = Selection::read(Some("metadata:a;metadata:b")).unwrap();
        assert_eq!(selection.metadata(), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in "\\PC{0,200}") {
            let _ = Selection::read(Some(&query));
        }

        #[test]
        fn a_span_that_is_written_is_read_back(first in any::<u64>(), more in any::<u32>()) {
            let last = first.saturating_add(u64::from(more));
            let read = span("value", &format!("{first}-{last}")).unwrap();
            prop_assert_eq!(read, Span { first, last });
            prop_assert!(read.count() > 0);
        }

        #[test]
        fn names_survive_percent_encoding(text in "\\PC{0,60}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decoded(&encoded).unwrap(), text);
        }
    }
}
