//! The pieces of IAM's replies.

use crate::query::escape;

/// `<name>text</name>`, escaped.
pub(super) fn text(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

/// `<name>` around what is XML already.
pub(super) fn within(name: &str, inner: &str) -> String {
    format!("<{name}>{inner}</{name}>")
}

/// A list that is whole: `<name><member>…</member>…</name><IsTruncated>false</IsTruncated>`.
pub(super) fn list(name: &str, members: impl IntoIterator<Item = String>) -> String {
    format!(
        "{}<IsTruncated>false</IsTruncated>",
        plain_list(name, members)
    )
}

/// A list as a part of something.
pub(super) fn plain_list(name: &str, members: impl IntoIterator<Item = String>) -> String {
    let members: String = members
        .into_iter()
        .map(|member| within("member", &member))
        .collect();
    within(name, &members)
}

/// A time as ISO 8601.
pub(super) fn date(name: &str, ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default();
    text(name, &time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A policy's text as replies carry it: percent-encoded (RFC 3986).
pub(super) fn document(name: &str, policy: &str) -> String {
    let mut encoded = String::with_capacity(policy.len() * 2);
    for byte in policy.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    text(name, &encoded)
}
