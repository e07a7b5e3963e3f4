//! What a request says of the object it makes: conditions for the committing transaction, and headers
//! that stay with the object.

use axum::http::{HeaderMap, header};
use blockstore::object::Precondition;
use std::collections::BTreeMap;

/// System headers that are kept with an object, as the S3 door keeps them.
const KEPT: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
/// Bytes of one of them.
const VALUE_BYTES_MAX: usize = 1024;

/// `If-Match` and `If-None-Match` as the store judges them: without quotes, `*` as it stands.
pub(super) fn of(headers: &HeaderMap) -> Precondition {
    let tags = |name: header::HeaderName| {
        let values = headers.get_all(name);
        let texts = values.iter().filter_map(|value| value.to_str().ok());
        texts
            .flat_map(|text| text.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"'))
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect()
    };
    Precondition {
        if_match: tags(header::IF_MATCH),
        if_none_match: tags(header::IF_NONE_MATCH),
        ..Precondition::default()
    }
}

/// The headers that stay with an object.
pub(super) fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    KEPT.iter()
        .filter_map(|name| {
            let value = headers.get(*name)?.to_str().ok()?;
            let fits = !value.is_empty() && value.len() <= VALUE_BYTES_MAX;
            fits.then(|| ((*name).to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_lose_their_quotes_and_the_star_stays() {
        let headers: HeaderMap = [("if-match", "\"a\", \"b\""), ("if-none-match", "*")]
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let condition = of(&headers);
        assert_eq!(condition.if_match, ["a", "b"]);
        assert_eq!(condition.if_none_match, ["*"]);
        assert_eq!(of(&HeaderMap::new()), Precondition::default());
    }
}
