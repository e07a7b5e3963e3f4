//! PROPFIND (RFC 4918, 9.1): what is at a place and in it, as a multistatus.
//!
//! 1. Every property that was asked for by name is answered, with 404 where there is none.
//! 2. A listing is made a page of the catalog at a time, so a large collection costs no memory.
//! 3. `Depth: infinity`, said or meant by silence, is for small trees: beyond [`INFINITY_MAX`]
//!    members, and for the root, it is refused with `propfind-finite-depth`.

mod asked;

use super::locks::{Lock, Locks};
use super::place::Place;
use super::properties::{self, Dead};
use super::refusal::{Refusal, escaped};
use super::session::{Session, Shared};
use super::shelf::{self, Found};
use crate::blocking;
use asked::{Ask, Depth, Name};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use blockstore::object::Object;
use blockstore::{Error, Store};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

const DAV: &str = "DAV:";
/// Members that `Depth: infinity` shows.
pub(super) const INFINITY_MAX: usize = 1000;
/// Members answered at a time.
const PAGE: usize = 200;
/// Live properties that `allprop` tells and `propname` names.
const LIVE: [&str; 9] = [
    "creationdate",
    "getcontentlanguage",
    "getcontentlength",
    "getcontenttype",
    "getetag",
    "getlastmodified",
    "lockdiscovery",
    "resourcetype",
    "supportedlock",
];
const BOTH_LOCKS: &str = "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype>\
    <D:write/></D:locktype></D:lockentry><D:lockentry><D:lockscope><D:shared/></D:lockscope>\
    <D:locktype><D:write/></D:locktype></D:lockentry>";

/// Answers, the place being authorised and its body judged by [`super::xml`].
pub(super) async fn answer(
    store: Store,
    locks: Locks,
    session: Shared,
    body: &[u8],
) -> Result<Response, Refusal> {
    let depth = asked::depth(&session.headers)?;
    let ask = asked::ask(body)?;
    let place = session.place.clone();
    let first = {
        let (store, shared) = (store.clone(), Arc::clone(&session));
        blocking::run(move || first(&store, &shared, &place, depth)).await?
    };
    let First { found, place, tree } = first?;
    let writing = Writing {
        store,
        locks,
        session,
        place: place.clone(),
        ask,
    };
    let mut head = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\">\n",
    );
    let collection = found.is_collection();
    let (writing, head) = blocking::run(move || {
        writing.response(&mut head, &place, &found)?;
        if let Some(tree) = &tree {
            writing.tree(&mut head, tree)?;
        }
        Ok::<_, Error>((writing, head))
    })
    .await?;
    let rest = (depth == Depth::One && collection).then_some(None);
    let body = Body::from_stream(futures::stream::unfold(
        Some((writing, Some(head), rest)),
        pages,
    ));
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::MULTI_STATUS;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

struct First {
    found: Found,
    place: Place,
    tree: Option<Vec<Object>>,
}

fn first(
    store: &Store,
    _session: &Session,
    place: &Place,
    depth: Depth,
) -> blockstore::Result<Result<First, Refusal>> {
    let found = shelf::find(store, place)?;
    let place = Place {
        collection: found.is_collection(),
        ..place.clone()
    };
    let mut tree = None;
    if depth == Depth::Infinity && found.is_collection() {
        if !place.is_root() {
            tree = shelf::tree(store, &place, INFINITY_MAX)?;
        }
        if tree.is_none() {
            let words = format!(
                "{} is the root or has more than {INFINITY_MAX} members at all depths: ask with \
                 Depth: 1",
                place.href()
            );
            return Ok(Err(Refusal::new(StatusCode::FORBIDDEN, words)
                .with_condition("<D:propfind-finite-depth/>")));
        }
    }
    Ok(Ok(First { found, place, tree }))
}

/// Text that is ready, then the next page: the outer option ends the stream, the inner is where the
/// page begins.
type State = (Writing, Option<String>, Option<Option<String>>);

async fn pages(state: Option<State>) -> Option<(Result<Bytes, Error>, Option<State>)> {
    let (writing, ready, rest) = state?;
    if let Some(ready) = ready {
        return Some((Ok(Bytes::from(ready)), Some((writing, None, rest))));
    }
    let Some(after) = rest else {
        return Some((Ok(Bytes::from_static(b"</D:multistatus>\n")), None));
    };
    let read = blocking::run(move || {
        let mut text = String::new();
        let next = writing.page(&mut text, after)?;
        Ok((writing, text, next))
    })
    .await;
    Some(match read {
        Ok((writing, text, next)) => {
            let state = (writing, None, next.map(Some));
            (Ok(Bytes::from(text)), Some(state))
        }
        Err(error) => {
            let error: Error = error;
            tracing::error!("a listing was broken off: {}", error.chain());
            (Err(error), None)
        }
    })
}

/// What all responses of one multistatus share.
struct Writing {
    store: Store,
    locks: Locks,
    session: Shared,
    place: Place,
    ask: Ask,
}

impl Writing {
    /// A page of members; where the next one begins, if there is one.
    fn page(&self, out: &mut String, after: Option<String>) -> blockstore::Result<Option<String>> {
        if self.place.is_root() {
            for bucket in shelf::buckets(&self.store, &self.session)? {
                let place = Place {
                    bucket: bucket.name.clone(),
                    key: String::new(),
                    collection: true,
                };
                self.response(out, &place, &Found::Bucket(bucket))?;
            }
            return Ok(None);
        }
        let page = shelf::page(&self.store, &self.place, after, PAGE)?;
        for object in page.objects {
            if let Some(name) = shelf::name_of(&self.place, &object.key) {
                let place = self.member(name, false);
                self.response(out, &place, &Found::Object(object))?;
            }
        }
        for prefix in &page.prefixes {
            if let Some(name) = shelf::name_of(&self.place, prefix) {
                let place = self.member(name, true);
                // Its marker has what is known of it.
                if let Some(found) = shelf::look(&self.store, &place)? {
                    self.response(out, &place, &found)?;
                }
            }
        }
        Ok(page.next)
    }

    /// Everything below, from all its objects.
    fn tree(&self, out: &mut String, objects: &[Object]) -> blockstore::Result<()> {
        let prefix = self.place.prefix();
        let mut all: BTreeMap<String, Found> = BTreeMap::new();
        for object in objects {
            let Some(rest) = object.key.strip_prefix(&prefix) else {
                continue;
            };
            for (at, _) in rest.match_indices('/') {
                let collection = format!("{prefix}{}/", &rest[..at]);
                all.entry(collection).or_insert(Found::Collection(None));
            }
            if rest.ends_with('/') {
                all.insert(object.key.clone(), Found::Collection(Some(object.clone())));
            } else if !rest.is_empty() {
                all.insert(object.key.clone(), Found::Object(object.clone()));
            }
        }
        for (key, found) in &all {
            let Some(rest) = key.strip_prefix(&prefix) else {
                continue;
            };
            let bare = rest.strip_suffix('/').unwrap_or(rest);
            let shown = bare
                .split('/')
                .all(|name| !matches!(name, "" | "." | "..") && !name.contains('\0'));
            if shown {
                self.response(out, &self.member(bare, found.is_collection()), found)?;
            }
        }
        Ok(())
    }

    fn member(&self, name: &str, collection: bool) -> Place {
        Place {
            bucket: self.place.bucket.clone(),
            key: format!("{}{name}", self.place.prefix()),
            collection,
        }
    }

    /// One response element.
    fn response(&self, out: &mut String, place: &Place, found: &Found) -> blockstore::Result<()> {
        let dead = properties::of(&self.store, found)?;
        let (mut there, mut absent) = (String::new(), String::new());
        match &self.ask {
            Ask::Names => {
                for name in LIVE {
                    if self.live(name, place, found).is_some() {
                        element(&mut there, &Name(DAV.into(), name.into()), "");
                    }
                }
                for one in &dead {
                    let name = Name(one.namespace.clone(), one.name.clone());
                    element(&mut there, &name, "");
                }
            }
            Ask::All(besides) => {
                for name in LIVE {
                    self.property(
                        &mut there,
                        &mut String::new(),
                        &Name(DAV.into(), name.into()),
                        (place, found, &[]),
                    );
                }
                for one in &dead {
                    there.push_str(&one.xml);
                }
                let told = |name: &Name| {
                    LIVE.contains(&name.1.as_str()) && name.0 == DAV
                        || dead.iter().any(|one| is(one, name))
                };
                for name in besides.iter().filter(|name| !told(name)) {
                    self.property(&mut there, &mut absent, name, (place, found, &dead));
                }
            }
            Ask::Some(names) => {
                for name in names {
                    self.property(&mut there, &mut absent, name, (place, found, &dead));
                }
            }
        }
        let _ = write!(
            out,
            "<D:response><D:href>{}</D:href>",
            escaped(&place.href())
        );
        for (properties, status) in [(&there, "200 OK"), (&absent, "404 Not Found")] {
            // Of an empty request the answer is an empty, but whole, one.
            if !properties.is_empty() || (status == "200 OK" && absent.is_empty()) {
                let _ = write!(
                    out,
                    "<D:propstat><D:prop>{properties}</D:prop><D:status>HTTP/1.1 \
                     {status}</D:status></D:propstat>"
                );
            }
        }
        out.push_str("</D:response>\n");
        Ok(())
    }

    fn property(
        &self,
        there: &mut String,
        absent: &mut String,
        name: &Name,
        (place, found, dead): (&Place, &Found, &[Dead]),
    ) {
        if let Some(one) = dead.iter().find(|one| is(one, name)) {
            there.push_str(&one.xml);
        } else if name.0 == DAV
            && let Some(content) = self.live(&name.1, place, found)
        {
            element(there, name, &content);
        } else {
            element(absent, name, "");
        }
    }

    /// A live property's content, as XML.
    fn live(&self, name: &str, place: &Place, found: &Found) -> Option<String> {
        let object = match found {
            Found::Object(object) => Some(object),
            Found::Root | Found::Bucket(_) | Found::Collection(_) => None,
        };
        let header = |name: &str| object?.meta.headers.get(name).map(|text| escaped(text));
        let marked = match found {
            Found::Object(object) | Found::Collection(Some(object)) => Some(object),
            Found::Root | Found::Bucket(_) | Found::Collection(None) => None,
        };
        let bucket_ms = match found {
            Found::Bucket(bucket) => Some(bucket.created_ms),
            _ => None,
        };
        match name {
            "creationdate" => {
                let ms = marked.map(|object| object.created_ms).or(bucket_ms)?;
                let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
                Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            }
            "getcontentlanguage" => header("content-language"),
            "getcontentlength" => object.map(|object| object.length_bytes.to_string()),
            "getcontenttype" => match object {
                Some(_) => {
                    header("content-type").or_else(|| Some("application/octet-stream".to_owned()))
                }
                None => Some("httpd/unix-directory".to_owned()),
            },
            "getetag" => object.map(|object| escaped(&format!("\"{}\"", object.meta.etag))),
            "getlastmodified" => {
                let ms = marked.map(|object| object.modified_ms).or(bucket_ms)?;
                let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms))?;
                Some(httpdate::fmt_http_date(time))
            }
            "lockdiscovery" => {
                let locks = self.locks.covering(&place.name());
                Some(locks.iter().map(active).collect())
            }
            "resourcetype" if found.is_collection() => Some("<D:collection/>".to_owned()),
            "resourcetype" => Some(String::new()),
            "supportedlock" => Some(BOTH_LOCKS.to_owned()),
            _ => None,
        }
    }
}

/// RFC 4918, 14.1.
fn active(lock: &Lock) -> String {
    let scope = if lock.shared { "shared" } else { "exclusive" };
    let depth = if lock.deep { "infinity" } else { "0" };
    format!(
        "<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope><D:{scope}/></D:lockscope>\
         <D:depth>{depth}</D:depth>{}<D:timeout>Second-{}</D:timeout><D:locktoken><D:href>{}</D:href>\
         </D:locktoken><D:lockroot><D:href>{}</D:href></D:lockroot></D:activelock>",
        lock.owner,
        lock.seconds,
        escaped(&lock.token),
        escaped(&lock.href)
    )
}

fn is(dead: &Dead, name: &Name) -> bool {
    dead.namespace == name.0 && dead.name == name.1
}

/// An element with its content, which is XML already.
fn element(out: &mut String, Name(namespace, name): &Name, content: &str) {
    let (prefix, declared) = match namespace.as_str() {
        DAV => ("D:", String::new()),
        "" => ("", String::new()),
        other => ("n:", format!(" xmlns:n=\"{}\"", escaped(other))),
    };
    let _ = if content.is_empty() {
        write!(out, "<{prefix}{name}{declared}/>")
    } else {
        write!(out, "<{prefix}{name}{declared}>{content}</{prefix}{name}>")
    };
}
