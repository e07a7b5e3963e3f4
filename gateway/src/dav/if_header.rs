//! Conditional headers, judged before the protocol layer reads them: `If` (RFC 4918, 10.4) and lists
//! of ETags (RFC 9110, 8.8.3).
//!
//! What is malformed is refused. The protocol layer would take it for no condition at all, or trip
//! over it.

use super::refusal::Refusal;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

/// Bytes of an `If` header.
const IF_BYTES_MAX: usize = 8192;

/// Judges all of them. What is to be read as `If`, where there is one: resource tags that are paths
/// become URLs, the only kind that the protocol layer knows.
pub(super) fn check(headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        for value in headers.get_all(&name) {
            let text = value.to_str().unwrap_or("\"");
            let fits = text.trim() == "*" || text.split(',').all(|tag| is_etag(tag.trim()));
            if !fits {
                return Err(malformed(name.as_str(), text));
            }
        }
    }
    if let Some(value) = headers.get(header::IF_RANGE) {
        let text = value.to_str().unwrap_or("\"").trim();
        if !is_etag(text) && httpdate::parse_http_date(text).is_err() {
            return Err(malformed("if-range", text));
        }
    }
    let mut all = headers.get_all("if").iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if all.next().is_some() || text.len() > IF_BYTES_MAX {
        return Err(malformed("if", "more than one, or more than 8192 bytes"));
    }
    let written = rewritten(text).ok_or_else(|| malformed("if", text))?;
    HeaderValue::from_str(&written)
        .map(Some)
        .map_err(|_| malformed("if", text))
}

fn malformed(name: &str, text: &str) -> Refusal {
    let words = format!("the header {name} is malformed: {text:?}");
    Refusal::new(StatusCode::BAD_REQUEST, words)
}

fn is_etag(text: &str) -> bool {
    let text = text.strip_prefix("W/").unwrap_or(text);
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    inner.is_some_and(|inner| inner.bytes().all(|byte| byte > b' ' && byte != b'"'))
}

/// `1*( [ <tag> ] 1*( "(" 1*( ["Not"] ( <token> / [etag] ) ) ")" ) )`; `None` if it is not that.
fn rewritten(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text.trim();
    let mut lists = 0;
    while !rest.is_empty() {
        if let Some(tagged) = rest.strip_prefix('<') {
            let (tag, behind) = tagged.split_once('>')?;
            let url = if tag.starts_with('/') {
                format!("http://here{tag}")
            } else {
                tag.to_owned()
            };
            url::Url::parse(&url).ok()?;
            out.push_str(&format!("<{url}> "));
            rest = behind.trim_start();
            // A tag is of the list behind it.
            if !rest.starts_with('(') {
                return None;
            }
        }
        rest = rest.strip_prefix('(')?.trim_start();
        out.push('(');
        let mut conditions = 0;
        loop {
            if let Some(behind) = rest.strip_prefix(')') {
                rest = behind.trim_start();
                break;
            }
            if let Some(behind) = rest.strip_prefix("Not") {
                out.push_str("Not ");
                rest = behind.trim_start();
            }
            let (item, behind) = if let Some(token) = rest.strip_prefix('<') {
                let (token, behind) = token.split_once('>')?;
                let fits = token.contains(':')
                    && token
                        .bytes()
                        .all(|byte| byte > b' ' && byte != b'"' && byte != b'<');
                (fits.then(|| format!("<{token}> "))?, behind)
            } else {
                let (tag, behind) = rest.strip_prefix('[')?.split_once(']')?;
                (is_etag(tag).then(|| format!("[{tag}] "))?, behind)
            };
            out.push_str(&item);
            rest = behind.trim_start();
            conditions += 1;
        }
        if conditions == 0 {
            return None;
        }
        out.push_str(") ");
        lists += 1;
    }
    (lists > 0).then(|| out.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_if_header_is_read_whole_or_refused() {
        for (given, read) in [
            ("(<urn:uuid:a>)", "(<urn:uuid:a> )"),
            (
                "</dav/b/k> ( <urn:a:b> [\"e\"] ) (Not <DAV:no-lock>)",
                "<http://here/dav/b/k> (<urn:a:b> [\"e\"] ) (Not <DAV:no-lock> )",
            ),
            (
                "<https://x/dav/b> ([W/\"e\"])",
                "<https://x/dav/b> ([W/\"e\"] )",
            ),
        ] {
            assert_eq!(rewritten(given).as_deref(), Some(read), "{given}");
        }
        for bad in [
            "",
            "<",
            "<>",
            "<x> (<a:b>)",
            "()",
            "(<a>)",
            "(<a:b>",
            "<a:b>",
            "([a])",
            "([\"])",
            "(Not)",
            "(<a:b>) <http://x/>",
            "(<a:b\">)",
            "(((",
            "<http://x/> <http://y/> (<a:b>)",
        ] {
            assert_eq!(rewritten(bad), None, "{bad}");
        }
    }

    #[test]
    fn lists_of_etags_are_judged() {
        let ask = |name: &'static str, value: &str| {
            let pair = (name.parse().unwrap(), HeaderValue::from_str(value).unwrap());
            check(&HeaderMap::from_iter([pair])).is_ok()
        };
        assert!(ask("if-match", "\"a\", W/\"b\"") && ask("if-none-match", "*"));
        assert!(ask("if-range", "Sun, 06 Nov 1994 08:49:37 GMT") && ask("if-range", "\"a\""));
        for bad in ["\"", "a", "", "\"a\", \"", "*, \"a\"", "W/"] {
            assert!(!ask("if-match", bad), "{bad}");
            assert!(!ask("if-range", bad), "{bad}");
        }
    }
}
