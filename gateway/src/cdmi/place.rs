//! Places: what a path below the root names.
//!
//! ```text
//! /                                        the root container
//! /<bucket>/                               a container
//! /<bucket>/<prefix>/                      a container: all keys that begin so
//! /<bucket>/<key>                          a data object
//! /<container>/cdmi_snapshots/             the container's snapshots
//! /<container>/cdmi_snapshots/<name>/…     the container as it was
//! /cdmi_objectid/<id>                      anything above, by its id
//! /cdmi_capabilities/…                     what can be done
//! /cdmi_volumes/<name>/                    a volume, for its exports
//! ```
//! 1. A slash at the end means a container; nothing else does.
//! 2. A key is what lies behind the bucket's slash, byte for byte: no dots are followed, no slashes
//!    joined.

use super::failure::{Failure, Reply};
use super::query::decoded;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const SNAPSHOTS: &str = "cdmi_snapshots";
const VOLUMES: &str = "cdmi_volumes";
const CAPABILITIES: &str = "cdmi_capabilities";
const IDS: &str = "cdmi_objectid";

/// What stands as it is in a path (RFC 3986, 3.3), with the slash between names.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    /// A bucket (no prefix) or all of its keys that begin so.
    Container {
        bucket: String,
        prefix: String,
    },
    Object {
        bucket: String,
        key: String,
    },
    /// The snapshots of a container.
    Snapshots {
        bucket: String,
        prefix: String,
    },
    /// A container inside a snapshot of the container `prefix`; `below` is empty or ends in a slash.
    FrozenContainer {
        bucket: String,
        prefix: String,
        snapshot: String,
        below: String,
    },
    /// A data object inside a snapshot.
    FrozenObject {
        bucket: String,
        prefix: String,
        snapshot: String,
        below: String,
    },
    Volumes,
    Volume(String),
    /// A capabilities object; the path is empty or ends in a slash.
    Capabilities(String),
    /// What is to be found by its id; empty: the collection of all ids.
    ById(String),
}

impl Place {
    /// Reads a path below the root, percent-encoded, without a slash at its start.
    pub(super) fn read(path: &str) -> Reply<Self> {
        let (first, rest) = match path.split_once('/') {
            Some((first, rest)) => (first, Some(decoded(rest)?)),
            None => (path, None),
        };
        let first = decoded(first)?;
        if first.is_empty() {
            return match rest.as_deref() {
                None | Some("") => Ok(Self::Root),
                Some(_) => Err(Failure::missing(
                    "container",
                    "a container needs a name: two slashes follow one another",
                )),
            };
        }
        let below = rest.clone().unwrap_or_default();
        match first.as_str() {
            CAPABILITIES => {
                let slashed = below.is_empty() || below.ends_with('/');
                let path = if slashed { below } else { below + "/" };
                Ok(Self::Capabilities(path))
            }
            IDS => Ok(Self::ById(below.trim_end_matches('/').to_owned())),
            VOLUMES if below.is_empty() => Ok(Self::Volumes),
            VOLUMES => {
                let name = below.strip_suffix('/').unwrap_or(&below);
                if name.contains('/') {
                    return Err(Failure::missing("volume", format!("no volume {name:?}")));
                }
                Ok(Self::Volume(name.to_owned()))
            }
            name if name.starts_with("cdmi_") => Err(Failure::missing(
                "container",
                format!("{name} is not served here; GET /cdmi/cdmi_capabilities/ tells what is"),
            )),
            _ => match rest {
                // Without its slash a bucket is asked for as a data object, of which the root has none.
                None => Ok(Self::Object {
                    bucket: first,
                    key: String::new(),
                }),
                Some(rest) => Self::in_bucket(first, &rest),
            },
        }
    }

    fn in_bucket(bucket: String, rest: &str) -> Reply<Self> {
        let Some((prefix, frozen)) = split_at_snapshots(rest) else {
            return Ok(if rest.is_empty() || rest.ends_with('/') {
                Self::Container {
                    bucket,
                    prefix: rest.to_owned(),
                }
            } else {
                Self::Object {
                    bucket,
                    key: rest.to_owned(),
                }
            });
        };
        let prefix = prefix.to_owned();
        if frozen.is_empty() {
            return Ok(Self::Snapshots { bucket, prefix });
        }
        let Some((snapshot, below)) = frozen.split_once('/') else {
            return Err(Failure::missing(
                "container",
                format!("a snapshot is a container: ask for {frozen}/"),
            ));
        };
        let (snapshot, below) = (snapshot.to_owned(), below.to_owned());
        Ok(if below.is_empty() || below.ends_with('/') {
            Self::FrozenContainer {
                bucket,
                prefix,
                snapshot,
                below,
            }
        } else {
            Self::FrozenObject {
                bucket,
                prefix,
                snapshot,
                below,
            }
        })
    }

    /// Reads a URI of a request's body: with or without host and root.
    pub(super) fn of_uri(uri: &str, root: &str) -> Reply<Self> {
        let path = match uri.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => uri,
        };
        if path.contains(['?', '#']) {
            return Err(Failure::invalid(
                "uri",
                format!("{uri:?} names a part of an object; only whole ones can be taken"),
            ));
        }
        let prefix = format!("{}/", super::dialect::PREFIX);
        let below = path
            .strip_prefix(root)
            .or_else(|| path.strip_prefix(prefix.as_str()))
            .or_else(|| path.strip_prefix('/'))
            .unwrap_or(path);
        Self::read(below)
    }

    /// Its path below the root, decoded.
    fn path(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Container { bucket, prefix } => format!("{bucket}/{prefix}"),
            // A bucket without its slash.
            Self::Object { bucket, key } if key.is_empty() => bucket.clone(),
            Self::Object { bucket, key } => format!("{bucket}/{key}"),
            Self::Snapshots { bucket, prefix } => format!("{bucket}/{prefix}{SNAPSHOTS}/"),
            Self::FrozenContainer {
                bucket,
                prefix,
                snapshot,
                below,
            }
            | Self::FrozenObject {
                bucket,
                prefix,
                snapshot,
                below,
            } => format!("{bucket}/{prefix}{SNAPSHOTS}/{snapshot}/{below}"),
            Self::Volumes => format!("{VOLUMES}/"),
            Self::Volume(name) => format!("{VOLUMES}/{name}/"),
            Self::Capabilities(path) => format!("{CAPABILITIES}/{path}"),
            Self::ById(id) => format!("{IDS}/{id}"),
        }
    }

    /// Its path below the root, percent-encoded: what [`Self::read`] reads.
    pub(super) fn encoded(&self) -> String {
        utf8_percent_encode(&self.path(), IN_PATH).to_string()
    }

    /// Its URI below `root`.
    pub(super) fn uri(&self, root: &str) -> String {
        format!("{root}{}", self.encoded())
    }

    /// Its last name, with the slash of a container.
    pub(super) fn name(&self) -> String {
        let path = self.path();
        let stem = path.strip_suffix('/').unwrap_or(&path);
        let start = stem.rfind('/').map_or(0, |slash| slash + 1);
        let name = &path[start..];
        if name.is_empty() {
            "/".to_owned()
        } else {
            name.to_owned()
        }
    }

    /// Where it lies; `None` for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        let upper = |text: &str| {
            let stem = text.strip_suffix('/').unwrap_or(text);
            stem.rfind('/')
                .map_or("", |slash| &text[..=slash])
                .to_owned()
        };
        match self {
            Self::Root => None,
            Self::Container { bucket, prefix } if !prefix.is_empty() => Some(Self::Container {
                bucket: bucket.clone(),
                prefix: upper(prefix),
            }),
            Self::Object { bucket, key } if !key.is_empty() => Some(Self::Container {
                bucket: bucket.clone(),
                prefix: upper(key),
            }),
            Self::Snapshots { bucket, prefix } => Some(Self::Container {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
            }),
            Self::FrozenContainer {
                bucket,
                prefix,
                below,
                ..
            } if below.is_empty() => Some(Self::Snapshots {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
            }),
            Self::FrozenContainer {
                bucket,
                prefix,
                snapshot,
                below,
            }
            | Self::FrozenObject {
                bucket,
                prefix,
                snapshot,
                below,
            } => Some(Self::FrozenContainer {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                snapshot: snapshot.clone(),
                below: upper(below),
            }),
            Self::Volume(_) => Some(Self::Volumes),
            Self::Capabilities(path) if !path.is_empty() => Some(Self::Capabilities(upper(path))),
            Self::Container { .. }
            | Self::Object { .. }
            | Self::Volumes
            | Self::Capabilities(_)
            | Self::ById(_) => Some(Self::Root),
        }
    }

    /// Refuses to make what the standard keeps for itself.
    pub(super) fn expect_free_name(&self) -> Reply<()> {
        let name = self.name();
        if name.starts_with("cdmi_") {
            return Err(Failure::invalid(
                "name",
                format!("{name:?}: names that begin with cdmi_ are reserved by the standard"),
            ));
        }
        Ok(())
    }
}

/// The prefix before the first `cdmi_snapshots/`, and what lies behind it.
fn split_at_snapshots(rest: &str) -> Option<(&str, &str)> {
    let mark = format!("{SNAPSHOTS}/");
    let mut from = 0;
    loop {
        let found = from + rest[from..].find(&mark)?;
        if found == 0 || rest.as_bytes()[found - 1] == b'/' {
            return Some((&rest[..found], &rest[found + mark.len()..]));
        }
        from = found + mark.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn container(bucket: &str, prefix: &str) -> Place {
        Place::Container {
            bucket: bucket.into(),
            prefix: prefix.into(),
        }
    }

    fn object(bucket: &str, key: &str) -> Place {
        Place::Object {
            bucket: bucket.into(),
            key: key.into(),
        }
    }

    #[test]
    fn a_slash_at_the_end_means_a_container() {
        for (path, place) in [
            ("", Place::Root),
            ("b", object("b", "")),
            ("b/", container("b", "")),
            ("b/k", object("b", "k")),
            ("b/p/", container("b", "p/")),
            ("b/p/q/k%20x", object("b", "p/q/k x")),
            ("b//", container("b", "/")),
            ("b/../c", object("b", "../c")),
            ("cdmi_volumes/", Place::Volumes),
            ("cdmi_volumes", Place::Volumes),
            ("cdmi_volumes/v1/", Place::Volume("v1".into())),
            ("cdmi_capabilities/", Place::Capabilities(String::new())),
            (
                "cdmi_capabilities/dataobject",
                Place::Capabilities("dataobject/".into()),
            ),
            ("cdmi_objectid/00FF/", Place::ById("00FF".into())),
        ] {
            assert_eq!(Place::read(path).unwrap(), place, "{path}");
        }
        for bad in ["cdmi_domains/", "cdmi_queues", "/b", "%ff/", "b/%f"] {
            assert!(Place::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn snapshots_lie_below_the_container_they_are_of() {
        assert_eq!(
            Place::read("b/cdmi_snapshots/").unwrap(),
            Place::Snapshots {
                bucket: "b".into(),
                prefix: String::new()
            }
        );
        let frozen = Place::read("b/p/cdmi_snapshots/one/q/k").unwrap();
        assert_eq!(
            frozen,
            Place::FrozenObject {
                bucket: "b".into(),
                prefix: "p/".into(),
                snapshot: "one".into(),
                below: "q/k".into()
            }
        );
        let upward: Vec<_> = std::iter::successors(Some(frozen), Place::parent)
            .map(|place| place.path())
            .collect();
        assert_eq!(
            upward,
            [
                "b/p/cdmi_snapshots/one/q/k",
                "b/p/cdmi_snapshots/one/q/",
                "b/p/cdmi_snapshots/one/",
                "b/p/cdmi_snapshots/",
                "b/p/",
                "b/",
                ""
            ]
        );
        // A key that only looks like it.
        assert_eq!(
            Place::read("b/xcdmi_snapshots/k").unwrap(),
            object("b", "xcdmi_snapshots/k")
        );
        assert!(Place::read("b/cdmi_snapshots/one").is_err());
    }

    #[test]
    fn names_parents_and_uris_fit_together() {
        for (place, name, uri) in [
            (container("b", ""), "b/", "/cdmi/b/"),
            (container("b", "p/"), "p/", "/cdmi/b/p/"),
            (object("b", "p/k x?"), "k x?", "/cdmi/b/p/k%20x%3F"),
            (Place::Root, "/", "/cdmi/"),
            (Place::Volume("v".into()), "v/", "/cdmi/cdmi_volumes/v/"),
        ] {
            assert_eq!(place.name(), name);
            assert_eq!(place.uri("/cdmi/"), uri);
            assert_eq!(Place::of_uri(uri, "/cdmi/").unwrap(), place);
        }
        for uri in [
            "b/k",
            "/b/k",
            "/cdmi/b/k",
            "/cdmi/2.0.0/b/k",
            "https://h:1/cdmi/b/k",
        ] {
            let place = Place::of_uri(uri, "/cdmi/2.0.0/").unwrap();
            assert_eq!(place, object("b", "k"), "{uri}");
        }
        assert!(Place::of_uri("/cdmi/b/k?value:0-1", "/cdmi/").is_err());
    }

    proptest! {
        #[test]
        fn any_path_is_read_or_refused_and_comes_back(path in "\\PC{0,80}") {
            if let Ok(place) = Place::read(&path) {
                let again = Place::read(&place.encoded());
                prop_assert_eq!(again.unwrap(), place);
            }
        }

        #[test]
        fn every_place_leads_up_to_the_root(path in "[a-c_/%2]{0,40}|([ab]/){0,3}cdmi_snapshots/[ab/]{0,9}") {
            if let Ok(place) = Place::read(&path) {
                let steps = std::iter::successors(Some(place), Place::parent);
                prop_assert_eq!(steps.take(100).last(), Some(Place::Root));
            }
        }
    }
}
