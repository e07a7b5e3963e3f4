//! Where things are: what SOURCE and TARGET say.
//!
//! | written | is |
//! |---|---|
//! | `./x`, `/x`, `file:///x` | files of this machine |
//! | `s3://bucket/key` | this server, or the one that `--s3` names |
//! | `s3+https://host[:port]/bucket/key`, `s3+http://…` | another S3 |
//! | `http://…`, `https://…` | a web server |
//! | `dav://…`, `davs://…` | WebDAV over http, https |
//! | `cdmi://…`, `cdmis://…` | CDMI over http, https |
//!
//! A trailing slash (or a bucket alone, or a directory) names a tree, everything else one file.

use crate::exit::{Exit, Failure, Outcome};
use std::path::{Path, PathBuf};

/// A protocol over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// GET, HEAD, PUT and index pages.
    Http,
    /// WebDAV, RFC 4918.
    Dav,
    /// CDMI.
    Cdmi,
}

/// A place, before anybody was asked whether it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Here.
    Local(PathBuf),
    /// An S3: ours or that of `--s3` without an endpoint.
    S3 {
        /// `https://host:port`.
        endpoint: Option<String>,
        /// The bucket.
        bucket: String,
        /// A key or a prefix.
        key: String,
    },
    /// Something over HTTP.
    Web {
        /// What is spoken.
        protocol: Protocol,
        /// `https://host:port`.
        server: String,
        /// As it goes on the wire, `/` first.
        path: String,
        /// `?…`, or nothing.
        query: String,
    },
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() {
                Err("is empty".into())
            } else {
                Ok(Self::Local(text.into()))
            };
        };
        let web = |protocol, secure| web(protocol, secure, rest);
        match scheme.to_ascii_lowercase().as_str() {
            "file" if rest.starts_with('/') => Ok(Self::Local(rest.into())),
            "s3" => s3(None, rest),
            "s3+http" | "s3+https" => {
                let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
                authority(host)?;
                let scheme = scheme.to_ascii_lowercase();
                s3(Some(format!("{}://{host}", &scheme[3..])), rest)
            }
            "http" => web(Protocol::Http, false),
            "https" => web(Protocol::Http, true),
            "dav" | "webdav" => web(Protocol::Dav, false),
            "davs" | "webdavs" => web(Protocol::Dav, true),
            "cdmi" => web(Protocol::Cdmi, false),
            "cdmis" => web(Protocol::Cdmi, true),
            _ => Err(format!(
                "{scheme}:// is not spoken here; write a path, s3://, s3+https://, http(s)://, dav(s):// or cdmi(s)://"
            )),
        }
    }
}

fn s3(endpoint: Option<String>, rest: &str) -> Result<Place, String> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("names no bucket; write s3://bucket/key".into());
    }
    Ok(Place::S3 {
        endpoint,
        bucket: bucket.into(),
        key: key.into(),
    })
}

fn authority(host: &str) -> Result<(), String> {
    if host.contains('@') {
        return Err(
            "holds a user name, which other users of this machine would see; see infall stage --help \
             for the variables that carry it"
                .into(),
        );
    }
    match host.parse::<hyper::http::uri::Authority>() {
        Ok(parsed) if !parsed.host().is_empty() => Ok(()),
        _ => Err(format!("has no host: {host:?}")),
    }
}

fn web(protocol: Protocol, secure: bool, rest: &str) -> Result<Place, String> {
    let rest = rest.split('#').next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    authority(host)?;
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let path = wire(path);
    if path
        .split('/')
        .any(|part| matches!(decode(part).as_deref(), Some("." | "..")))
    {
        return Err("has a part of dots".into());
    }
    let scheme = if secure { "https" } else { "http" };
    Ok(Place::Web {
        protocol,
        server: format!("{scheme}://{host}"),
        path: if path.is_empty() { "/".into() } else { path },
        query: wire(query),
    })
}

/// A path as people write it, fit for the wire: what is escaped already stays as it is.
fn wire(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    path.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// A relative path as it stands in a URL: each part escaped, slashes kept.
pub(crate) fn encode(path: &str) -> String {
    let mut out = String::new();
    for (index, part) in path.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        crate::client::encode(part, &mut out);
    }
    out
}

/// Escapes undone; nothing where they are broken or hide something else than UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first != b'%' {
            out.push(first);
            continue;
        }
        let digits = rest
            .get(..2)
            .filter(|two| two.iter().all(u8::is_ascii_hexdigit))?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(out).ok()
}

impl Place {
    /// Whether it lies on this machine.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Whether it names a tree by how it is written or, if local, by what is there.
    pub(crate) fn is_tree(&self) -> bool {
        match self {
            Self::Local(path) => {
                path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
            }
            Self::S3 { key, .. } => key.is_empty() || key.ends_with('/'),
            Self::Web { path, .. } => path.ends_with('/'),
        }
    }

    /// The tree it names, though the slash was left out.
    #[must_use]
    pub(crate) fn into_tree(mut self) -> Self {
        match &mut self {
            Self::Local(_) => {}
            Self::S3 { key: path, .. } if path.is_empty() => {}
            Self::S3 { key: path, .. } | Self::Web { path, .. } => {
                if !path.ends_with('/') {
                    path.push('/');
                }
            }
        }
        self
    }

    /// One file as the tree it lies in and its name there.
    pub(crate) fn split(&self) -> Outcome<(Self, String)> {
        let nameless = || Failure::new(Exit::Usage, "stage", format!("{self} names no file"));
        match self {
            Self::Local(path) => {
                let name = path.file_name().ok_or_else(nameless)?;
                let name = name.to_str().ok_or_else(|| {
                    let message = format!("{} has no name in UTF-8", path.display());
                    Failure::new(Exit::Invalid, "file", message).hint("Rename it")
                })?;
                let parent = path
                    .parent()
                    .filter(|parent| !parent.as_os_str().is_empty());
                Ok((
                    Self::Local(parent.unwrap_or(Path::new(".")).into()),
                    name.into(),
                ))
            }
            Self::S3 {
                endpoint,
                bucket,
                key,
            } => {
                let at = key.rfind('/').map_or(0, |at| at + 1);
                let place = Self::S3 {
                    endpoint: endpoint.clone(),
                    bucket: bucket.clone(),
                    key: key[..at].into(),
                };
                Some(&key[at..])
                    .filter(|name| !name.is_empty())
                    .map(|name| (place, name.into()))
                    .ok_or_else(nameless)
            }
            Self::Web {
                protocol,
                server,
                path,
                ..
            } => {
                let at = path.rfind('/').map_or(0, |at| at + 1);
                let name = decode(&path[at..])
                    .filter(|name| !name.is_empty())
                    .ok_or_else(nameless)?;
                let place = Self::Web {
                    protocol: *protocol,
                    server: server.clone(),
                    path: path[..at].into(),
                    query: String::new(),
                };
                Ok((place, name))
            }
        }
    }
}

impl std::fmt::Display for Place {
    /// A query may hold a signature and is not shown.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(path) => write!(out, "{}", path.display()),
            Self::S3 {
                endpoint: None,
                bucket,
                key,
            } => write!(out, "s3://{bucket}/{key}"),
            Self::S3 {
                endpoint: Some(endpoint),
                bucket,
                key,
            } => {
                write!(out, "s3+{endpoint}/{bucket}/{key}")
            }
            Self::Web {
                protocol,
                server,
                path,
                ..
            } => {
                let (scheme, host) = server.split_once("://").unwrap_or(("", server));
                let s = if scheme == "https" { "s" } else { "" };
                match protocol {
                    Protocol::Http => write!(out, "{server}{path}"),
                    Protocol::Dav => write!(out, "dav{s}://{host}{path}"),
                    Protocol::Cdmi => write!(out, "cdmi{s}://{host}{path}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        text.parse().unwrap()
    }

    #[test]
    fn each_scheme_names_its_protocol_and_reads_back() {
        for text in [
            "s3://b/k/l",
            "s3+https://h:9000/b/k",
            "http://h/a/b.txt",
            "https://h:1/",
            "dav://h/a/",
            "davs://h/a",
            "cdmi://h:9000/cdmi/b/",
            "cdmis://h/x",
            "some/file",
        ] {
            assert_eq!(place(text).to_string(), text);
        }
        assert_eq!(place("file:///etc/x"), Place::Local("/etc/x".into()));
        assert_eq!(place("http://h/a b/ä").to_string(), "http://h/a%20b/%C3%A4");
        assert_eq!(place("http://h/x?sig=1").to_string(), "http://h/x");
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in [
            "",
            "s3://",
            "s3:///k",
            "gopher://x",
            "http://",
            "http:///x",
            "http://u:p@h/x",
            "s3+https://u@h/b/k",
            "http://h/a/../b",
            "http://h/a/%2e%2e/b",
            "file://x",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_is_split_into_its_tree_and_its_name() {
        for (text, tree, name) in [
            ("s3://b/k/l", "s3://b/k/", "l"),
            ("s3://b/k", "s3://b/", "k"),
            ("dav://h/a/b%20c", "dav://h/a/", "b c"),
            ("x", ".", "x"),
            ("/x", "/", "x"),
        ] {
            let (place, found) = place(text).split().unwrap();
            assert_eq!((place.to_string().as_str(), found.as_str()), (tree, name));
        }
        assert!(place("http://h/").split().is_err());
    }

    #[test]
    fn trees_end_in_a_slash() {
        assert!(
            place("s3://b").is_tree()
                && place("s3://b/p/").is_tree()
                && !place("s3://b/p").is_tree()
        );
        assert_eq!(place("s3://b/p").into_tree().to_string(), "s3://b/p/");
        assert_eq!(place("s3://b").into_tree(), place("s3://b"));
    }

    #[test]
    fn escapes_come_and_go() {
        for text in ["a b/ä", "100%", "a+b&c", "x#y?z"] {
            assert_eq!(decode(&encode(text)).unwrap(), text);
        }
        for text in ["%", "%4", "%zz", "%ff", "%+1"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
