//! Which CDMI is spoken: the version, the root of its URIs, and whether it is CDMI at all.
//!
//! 1. CDMI 1.1.1 (ISO/IEC 17826:2016) names its versions in `X-CDMI-Specification-Version`; the
//!    client may list several and the server answers with the highest it serves.
//! 2. CDMI 2.0.0 (ISO/IEC 17826:2022) has the version in the root: `/cdmi/2.0.0/…`. `/cdmi/1.1.1/…`
//!    is served too. Root and header must not contradict one another.
//! 3. What the body is, is said by `Content-Type`; what the answer is, by `Accept`. A request
//!    without CDMI's header and media types is plain HTTP: bytes in, bytes out.

use super::failure::{Failure, Reply};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;

/// Names the versions a client speaks, and the one the server answers in.
pub(super) const VERSION_HEADER: HeaderName =
    HeaderName::from_static("x-cdmi-specification-version");
/// Where everything is served.
pub(super) const PREFIX: &str = "/cdmi";

/// A version of the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// ISO/IEC 17826:2016.
    V1,
    /// ISO/IEC 17826:2022.
    V2,
}

impl Version {
    const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// As the standard writes it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::V1 => "1.1.1",
            Self::V2 => "2.0.0",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.text() == text)
    }
}

/// The media types of the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    Object,
    Container,
    Domain,
    Queue,
    Capability,
}

impl Media {
    const ALL: [Self; 5] = [
        Self::Object,
        Self::Container,
        Self::Domain,
        Self::Queue,
        Self::Capability,
    ];

    /// As `Content-Type` and `objectType` write it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Object => "application/cdmi-object",
            Self::Container => "application/cdmi-container",
            Self::Domain => "application/cdmi-domain",
            Self::Queue => "application/cdmi-queue",
            Self::Capability => "application/cdmi-capability",
        }
    }

    fn named(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("application/cdmi-capabilities") {
            return Some(Self::Capability);
        }
        Self::ALL
            .into_iter()
            .find(|media| media.text().eq_ignore_ascii_case(text))
    }
}

/// How one request wants to be answered.
#[derive(Clone, Debug)]
pub(super) struct Dialect {
    /// The version spoken.
    pub(super) version: Version,
    /// The root of the URIs in the answer, with a slash at its end.
    pub(super) root: String,
    /// The answer carries the version's header, for the request did.
    echo: bool,
    /// What the body is, if it is CDMI.
    content: Option<Media>,
    /// Whether there is a `Content-Type`.
    typed: bool,
    accept: Accept,
}

#[derive(Clone, Debug, Default)]
struct Accept {
    /// `None`: the header is missing, so anything goes.
    ranges: Option<Vec<String>>,
}

impl Dialect {
    /// Reads the dialect of a request; with it, the path below the root, still percent-encoded.
    pub(super) fn read<'a>(path: &'a str, headers: &HeaderMap) -> Reply<(Self, &'a str)> {
        let below = path.strip_prefix(PREFIX).unwrap_or(path);
        let below = below.strip_prefix('/').unwrap_or(below);
        let (first, rest) = below.split_once('/').unwrap_or((below, ""));
        let rooted = Version::named(first.strip_prefix('v').unwrap_or(first));
        let listed = listed(headers)?;
        let version = match (rooted, &listed) {
            (Some(rooted), Some(listed)) if !listed.contains(&rooted) => {
                return Err(Failure::invalid(
                    "version",
                    format!(
                        "the URI is one of CDMI {}, and {VERSION_HEADER} does not list that",
                        rooted.text()
                    ),
                ));
            }
            (Some(rooted), _) => rooted,
            (None, Some(listed)) => listed.iter().copied().max().unwrap_or(Version::V1),
            (None, None) => Version::V1,
        };
        let content = headers.get(header::CONTENT_TYPE);
        let dialect = Self {
            version,
            root: match rooted {
                Some(_) => format!("{PREFIX}/{first}/"),
                None => format!("{PREFIX}/"),
            },
            echo: listed.is_some(),
            content: content.and_then(essence).and_then(Media::named),
            typed: content.is_some(),
            accept: Accept::read(headers),
        };
        Ok((dialect, if rooted.is_some() { rest } else { below }))
    }

    /// What the body is, if it is CDMI.
    pub(super) fn content(&self) -> Option<Media> {
        self.content
    }

    /// Whether the request says what its body is.
    pub(super) fn typed(&self) -> bool {
        self.typed
    }

    /// Whether the version's header was sent: then CDMI is meant where nothing else is said.
    pub(super) fn declared(&self) -> bool {
        self.echo
    }

    /// Whether the answer is to be CDMI of this type. 406 where the client wants another CDMI type.
    pub(super) fn wants(&self, media: Media) -> Reply<bool> {
        let named = self.accept.cdmi();
        if named.contains(&media) {
            return Ok(true);
        }
        if self.accept.anything() {
            return Ok(self.echo || !named.is_empty());
        }
        if named.is_empty() {
            return Ok(false);
        }
        Err(Failure::not_acceptable(format!(
            "this is {}, which your Accept leaves out",
            media.text()
        )))
    }

    /// 406 where the client does not take this media type.
    pub(super) fn expect(&self, mimetype: &str) -> Reply<()> {
        if self.accept.takes(mimetype) {
            return Ok(());
        }
        Err(Failure::not_acceptable(format!(
            "this is {mimetype}, which your Accept leaves out"
        )))
    }

    /// Puts the version on an answer.
    pub(super) fn stamp(&self, response: &mut Response) {
        if self.echo {
            response.headers_mut().insert(
                VERSION_HEADER,
                HeaderValue::from_static(self.version.text()),
            );
        }
    }
}

/// The versions a client lists that are served here; `None` if it says nothing.
fn listed(headers: &HeaderMap) -> Reply<Option<Vec<Version>>> {
    let mut given = headers.get_all(VERSION_HEADER).iter().peekable();
    if given.peek().is_none() {
        return Ok(None);
    }
    let mut shown = Vec::new();
    let mut served = Vec::new();
    for value in given {
        let text = value.to_str().unwrap_or("(not text)");
        shown.push(text.to_owned());
        served.extend(text.split(',').filter_map(|one| Version::named(one.trim())));
    }
    if served.is_empty() {
        let text = format!(
            "{VERSION_HEADER}: {:?} lists no version that is served here: 1.1.1, 2.0.0",
            shown.join(", ")
        );
        return Err(Failure::invalid("version", text));
    }
    Ok(Some(served))
}

/// A media type without its parameters.
pub(super) fn essence(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    Some(text.split(';').next().unwrap_or(text).trim())
}

impl Accept {
    fn read(headers: &HeaderMap) -> Self {
        let mut ranges = None;
        for value in headers.get_all(header::ACCEPT) {
            let known: &mut Vec<String> = ranges.get_or_insert_default();
            for range in value.to_str().unwrap_or_default().split(',') {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next().unwrap_or_default();
                // Weight nought means "not this" (RFC 9110, 12.4.2).
                let refused = parts.any(|part| {
                    part.strip_prefix("q=")
                        .and_then(|weight| weight.parse::<f32>().ok())
                        .is_some_and(|weight| weight <= 0.0)
                });
                if !name.is_empty() && !refused {
                    known.push(name.to_ascii_lowercase());
                }
            }
        }
        Self { ranges }
    }

    fn anything(&self) -> bool {
        self.ranges
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|range| range == "*/*"))
    }

    fn cdmi(&self) -> Vec<Media> {
        let ranges = self.ranges.iter().flatten();
        ranges.filter_map(|range| Media::named(range)).collect()
    }

    fn takes(&self, mimetype: &str) -> bool {
        let mimetype = mimetype.split(';').next().unwrap_or_default().trim();
        let family = mimetype.split('/').next().unwrap_or_default();
        self.anything()
            || self.ranges.iter().flatten().any(|range| {
                range.eq_ignore_ascii_case(mimetype)
                    || range
                        .strip_suffix("/*")
                        .is_some_and(|asked| asked.eq_ignore_ascii_case(family))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, value.parse().unwrap())
            })
            .collect()
    }

    fn read(
        path: &str,
        pairs: &[(&'static str, &str)],
    ) -> Result<(Version, String, String), String> {
        let headers = headers(pairs);
        Dialect::read(path, &headers)
            .map(|(dialect, below)| (dialect.version, dialect.root, below.to_owned()))
            .map_err(|failure| failure.message().to_owned())
    }

    const LISTS: &str = "x-cdmi-specification-version";

    #[test]
    fn the_highest_listed_version_that_is_served_is_spoken() {
        for (list, spoken) in [
            ("1.1.1", Version::V1),
            ("2.0.0", Version::V2),
            ("1.0.2, 1.1.1", Version::V1),
            ("2.0.0,1.1.1 , 3.0", Version::V2),
        ] {
            let (version, root, below) = read("/cdmi/a/b", &[(LISTS, list)]).unwrap();
            assert_eq!(
                (version, root.as_str(), below.as_str()),
                (spoken, "/cdmi/", "a/b")
            );
        }
        assert!(
            read("/cdmi/", &[(LISTS, "1.0.2")])
                .unwrap_err()
                .contains("1.0.2")
        );
        assert!(read("/cdmi/", &[(LISTS, "")]).is_err());
    }

    #[test]
    fn the_root_names_the_version_and_the_header_may_not_contradict_it() {
        for (path, root, below) in [
            ("/cdmi/2.0.0/a/b/", "/cdmi/2.0.0/", "a/b/"),
            ("/cdmi/v2.0.0/a", "/cdmi/v2.0.0/", "a"),
            ("/cdmi/2.0.0", "/cdmi/2.0.0/", ""),
        ] {
            let read = read(path, &[]).unwrap();
            assert_eq!(
                read,
                (Version::V2, root.to_owned(), below.to_owned()),
                "{path}"
            );
        }
        assert!(read("/cdmi/2.0.0/a", &[(LISTS, "1.1.1")]).is_err());
        assert!(read("/cdmi/2.0.0/a", &[(LISTS, "1.1.1, 2.0.0")]).is_ok());
        assert_eq!(read("/cdmi", &[]).unwrap().2, "");
        // A bucket of that name is below the root.
        assert_eq!(read("/cdmi/2.0.0/2.0.0/", &[]).unwrap().2, "2.0.0/");
    }

    #[test]
    fn the_form_of_the_answer_follows_accept() {
        let wants = |pairs: &[(&'static str, &str)], media| {
            let headers = headers(pairs);
            let (dialect, _) = Dialect::read("/cdmi/a", &headers).unwrap();
            dialect.wants(media).ok()
        };
        let declared = (LISTS, "1.1.1");
        let object = ("accept", "application/cdmi-object");
        assert_eq!(wants(&[], Media::Object), Some(false));
        assert_eq!(wants(&[("accept", "*/*")], Media::Object), Some(false));
        assert_eq!(wants(&[declared], Media::Object), Some(true));
        assert_eq!(
            wants(&[declared, ("accept", "*/*")], Media::Object),
            Some(true)
        );
        assert_eq!(wants(&[object], Media::Object), Some(true));
        assert_eq!(wants(&[object], Media::Container), None);
        assert_eq!(
            wants(
                &[("accept", "application/cdmi-object, */*;q=0.1")],
                Media::Container
            ),
            Some(true)
        );
        assert_eq!(
            wants(
                &[("accept", "application/cdmi-object;q=0, */*")],
                Media::Object
            ),
            Some(false)
        );
        assert_eq!(
            wants(
                &[("accept", "application/cdmi-capabilities")],
                Media::Capability
            ),
            Some(true)
        );
        assert_eq!(
            wants(&[declared, ("accept", "text/plain")], Media::Object),
            Some(false)
        );
    }

    #[test]
    fn a_media_type_is_taken_by_name_family_or_star() {
        let takes = |accept, mimetype| {
            let headers = headers(&[("accept", accept)]);
            let (dialect, _) = Dialect::read("/cdmi/a", &headers).unwrap();
            dialect.expect(mimetype).is_ok()
        };
        assert!(takes("text/plain", "text/plain; charset=utf-8"));
        assert!(takes("text/*", "text/plain"));
        assert!(takes("*/*", "text/plain"));
        assert!(!takes("image/png, text/html", "text/plain"));
    }
}
