//! The fields of a form: each once, bounded in number.

use super::Refused;
use axum::http::StatusCode;
use std::collections::BTreeMap;

const FIELDS_MAX: usize = 1000;

/// A form's fields by name.
#[derive(Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads a form (WHATWG URL, "application/x-www-form-urlencoded").
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refused> {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            if fields.len() >= FIELDS_MAX {
                return Err(malformed(&format!("more than {FIELDS_MAX} fields")));
            }
            let name = name.into_owned();
            if fields.contains_key(&name) {
                return Err(malformed(&format!("the field {name:?} is there twice")));
            }
            fields.insert(name, value.into_owned());
        }
        Ok(Self(fields))
    }

    /// A field, if it is there and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A field that must be there.
    pub(crate) fn need(&self, name: &str) -> Result<&str, Refused> {
        self.get(name).ok_or_else(|| {
            let code = if name == "Action" {
                "MissingAction"
            } else {
                "MissingParameter"
            };
            let message = format!("The request must contain the parameter {name}.");
            Refused::new(StatusCode::BAD_REQUEST, code, message)
        })
    }

    /// A number, if it is there.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refused> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = text.parse().map_err(|_| {
            let message = format!("{name} is not a number: {text:?}");
            Refused::new(StatusCode::BAD_REQUEST, "ValidationError", message)
        })?;
        Ok(Some(number))
    }
}

fn malformed(why: &str) -> Refused {
    let message = format!("The form cannot be read: {why}");
    Refused::new(StatusCode::BAD_REQUEST, "MalformedQueryString", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_there_twice_is_refused_and_not_chosen_from() {
        assert!(Fields::parse(b"Action=a&Action=b").is_err());
        let fields = Fields::parse(b"Action=a&Empty=&N=12&X=%zz").unwrap();
        assert_eq!(fields.get("Action"), Some("a"));
        assert_eq!(fields.get("Empty"), None);
        assert_eq!(fields.number("N").unwrap(), Some(12));
        assert!(fields.number("Action").is_err());
        assert_eq!(fields.need("Missing").unwrap_err().code, "MissingParameter");
    }

    #[test]
    fn no_more_fields_are_read_than_a_call_could_have() {
        let many: String = (0..=FIELDS_MAX)
            .map(|number| format!("f{number}=1&"))
            .collect();
        assert!(Fields::parse(many.as_bytes()).is_err());
    }
}
