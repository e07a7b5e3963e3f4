//! The store seen as collections: what is at a place, what lies in it, and how it is made, moved and
//! removed. Everything here blocks.
//!
//! 1. A collection is there if its marker is (an empty object whose key ends in a slash) or if any
//!    key lies below it. MKCOL makes a marker; what S3 clients put below a prefix shows without one.
//! 2. An object and a collection of the same name may both exist (S3 allows it): with a slash at its
//!    end a URL means the collection, without one the object, and the collection if there is none.
//! 3. Members are asked for one by one before the first of them changes.

use super::place::Place;
use super::session::Session;
use access::Resource;
use blockstore::object::{Bucket, Delete, ListPage, ListQuery, Object, ObjectMeta, Precondition};
use blockstore::{Error, Kind, Result, Store, Subject};

/// What is said of a collection's marker.
const MARKER_TYPE: &str = "application/x-directory";
/// MD5 of nothing.
const EMPTY_ETAG: &str = "d41d8cd98f00b204e9800998ecf8427e";
/// Entries read at a time.
pub(super) const PAGE: usize = 1000;
/// Members that one request removes or moves.
const MEMBERS_MAX: usize = 100_000;

/// What is at a place.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// The collection of buckets.
    Root,
    /// A bucket.
    Bucket(Bucket),
    /// An object.
    Object(Object),
    /// A collection in a bucket, with its marker if it has one.
    Collection(Option<Object>),
}

impl Found {
    /// Whether it has members.
    pub(super) fn is_collection(&self) -> bool {
        !matches!(self, Self::Object(_))
    }
}

/// An object, if there is one.
fn object(store: &Store, bucket: &str, key: &str) -> Result<Option<Object>> {
    match store.object_head(bucket, key) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == Kind::NotFound && error.subject() == Subject::Object => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What is at a place; NotFound if nothing.
pub(super) fn find(store: &Store, place: &Place) -> Result<Found> {
    if place.is_root() {
        return Ok(Found::Root);
    }
    if place.is_bucket() {
        return store.bucket(&place.bucket).map(Found::Bucket);
    }
    if !place.collection
        && let Some(object) = object(store, &place.bucket, &place.key)?
    {
        return Ok(Found::Object(object));
    }
    let prefix = place.prefix();
    let query = ListQuery {
        prefix: prefix.clone(),
        max: 1,
        ..ListQuery::default()
    };
    let page = store.object_list(&place.bucket, &query)?;
    match page.objects.into_iter().next() {
        Some(first) if first.key == prefix => Ok(Found::Collection(Some(first))),
        Some(_) => Ok(Found::Collection(None)),
        None => Err(missing(place)),
    }
}

/// As [`find`], with nothing as `None`.
pub(super) fn look(store: &Store, place: &Place) -> Result<Option<Found>> {
    match find(store, place) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// NotFound unless the collection that the place would lie in is there.
pub(super) fn expect_parent(store: &Store, place: &Place) -> Result<()> {
    match find(store, &place.parent()) {
        Ok(found) if found.is_collection() => Ok(()),
        Ok(_) => Err(missing(&place.parent())),
        Err(error) => Err(error),
    }
}

/// A page of a collection's members: names without slashes, objects and collections.
pub(super) fn page(
    store: &Store,
    place: &Place,
    after: Option<String>,
    max: usize,
) -> Result<ListPage> {
    let query = ListQuery {
        prefix: place.prefix(),
        delimiter: Some("/".into()),
        start_after: after,
        max,
    };
    store.object_list(&place.bucket, &query)
}

/// A member's name, if a URL can say it: S3 keys may hold `//`, `.` and `..` between slashes.
pub(super) fn name_of<'a>(place: &Place, key: &'a str) -> Option<&'a str> {
    let name = key.strip_prefix(&place.prefix())?;
    let name = name.strip_suffix('/').unwrap_or(name);
    let shown = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    shown.then_some(name)
}

/// The buckets that the caller may list.
pub(super) fn buckets(store: &Store, session: &Session) -> Result<Vec<Bucket>> {
    let mut buckets = store.buckets()?;
    buckets.retain(|bucket| {
        let resource = Resource::Bucket(&bucket.name);
        session
            .access
            .visible(&session.caller, "s3:ListBucket", &resource)
    });
    Ok(buckets)
}

/// Makes a bucket, or a marker. Conflict if something is there, NotFound without a parent.
pub(super) fn make_collection(store: &Store, session: &Session, place: &Place) -> Result<()> {
    if place.is_bucket() {
        session.may("s3:CreateBucket", &Resource::Bucket(&place.bucket))?;
        return store
            .bucket_create(&session.who(), &place.bucket)
            .map(|_| ());
    }
    let prefix = place.prefix();
    session.may_object("s3:PutObject", &place.bucket, &prefix)?;
    expect_parent(store, place)?;
    let bare = Place {
        collection: false,
        ..place.clone()
    };
    if look(store, &bare)?.is_some() || look(store, place)?.is_some() {
        let text = format!("{} exists already", place.name());
        return Err(Error::new(Kind::Conflict, Subject::Object, text));
    }
    make_marker(store, session, place).map(|_| ())
}

/// Makes the marker of a collection that may be there without one.
pub(super) fn make_marker(store: &Store, session: &Session, place: &Place) -> Result<Object> {
    put_empty(store, session, &place.bucket, &place.prefix(), MARKER_TYPE)
}

/// Makes an empty object. Precondition if there is one already.
pub(super) fn put_empty(
    store: &Store,
    session: &Session,
    bucket: &str,
    key: &str,
    content_type: &str,
) -> Result<Object> {
    let mut meta = ObjectMeta {
        etag: EMPTY_ETAG.into(),
        ..ObjectMeta::default()
    };
    meta.headers
        .insert("content-type".into(), content_type.into());
    let absent = Precondition {
        if_none_match: vec!["*".into()],
        ..Precondition::default()
    };
    store
        .object_writer(bucket)?
        .commit(&session.who(), key, meta, &absent)
}

/// Removes an object.
pub(super) fn remove_object(store: &Store, session: &Session, place: &Place) -> Result<()> {
    session.may_object("s3:DeleteObject", &place.bucket, &place.key)?;
    let removed = store.object_remove(
        &session.who(),
        &place.bucket,
        &place.key,
        &Precondition::default(),
    )?;
    removed.map(|_| ()).ok_or_else(|| missing(place))
}

/// Removes a collection with everything below it; a bucket only once it is empty.
pub(super) fn remove_collection(store: &Store, session: &Session, place: &Place) -> Result<()> {
    if place.is_bucket() {
        session.may("s3:DeleteBucket", &Resource::Bucket(&place.bucket))?;
        return store.bucket_remove(&session.who(), &place.bucket);
    }
    let keys = members(store, place)?;
    may_all(session, &place.bucket, &keys, &["s3:DeleteObject"])?;
    for keys in keys.chunks(PAGE) {
        let deletes: Vec<Delete> = keys
            .iter()
            .map(|key| Delete {
                key: key.clone(),
                ..Delete::default()
            })
            .collect();
        for done in store.objects_delete(&session.who(), &place.bucket, &deletes)? {
            done?;
        }
    }
    Ok(())
}

/// Shares an object's bytes under another name, with its properties.
pub(super) fn copy_object(
    store: &Store,
    session: &Session,
    source: &Place,
    target: &Place,
) -> Result<()> {
    session.may_object("s3:GetObject", &source.bucket, &source.key)?;
    session.may_object("s3:PutObject", &target.bucket, &target.key)?;
    expect_parent(store, target)?;
    share(
        store,
        session,
        (&source.bucket, &source.key),
        (&target.bucket, &target.key),
    )
}

/// Copies a collection's marker, or makes one for a source that has none.
pub(super) fn copy_marker(
    store: &Store,
    session: &Session,
    source: &Place,
    target: &Place,
) -> Result<()> {
    let (from, to) = (source.prefix(), target.prefix());
    if source.is_bucket() || object(store, &source.bucket, &from)?.is_none() {
        return make_collection(store, session, target);
    }
    session.may_object("s3:PutObject", &target.bucket, &to)?;
    expect_parent(store, target)?;
    if look(store, target)?.is_some() {
        let text = format!("{} exists already", target.name());
        return Err(Error::new(Kind::Conflict, Subject::Object, text));
    }
    share(
        store,
        session,
        (&source.bucket, &from),
        (&target.bucket, &to),
    )
}

/// Whether a collection may be copied with all it holds: asked before its first member is copied.
pub(super) fn may_copy_all(store: &Store, session: &Session, target: &Place) -> Result<()> {
    if session.is_root() {
        return Ok(());
    }
    let (from, to) = (session.place.prefix(), target.prefix());
    for key in members(store, &session.place)? {
        let below = key.strip_prefix(&from).unwrap_or_default();
        session.may_object("s3:GetObject", &session.place.bucket, &key)?;
        session.may_object("s3:PutObject", &target.bucket, &format!("{to}{below}"))?;
    }
    Ok(())
}

fn share(
    store: &Store,
    session: &Session,
    source: (&str, &str),
    target: (&str, &str),
) -> Result<()> {
    let any = Precondition::default();
    store
        .object_copy(&session.who(), source, target, None, &any, &any)
        .map(|_| ())
}

/// Moves an object or a collection over whatever is at the target, in one catalog transaction; only
/// an object that replaces a collection, or the reverse, takes one more.
pub(super) fn rename(
    store: &Store,
    session: &Session,
    source: &Place,
    target: &Place,
) -> Result<()> {
    let found = find(store, source)?;
    expect_parent(store, target)?;
    let there = look(store, target)?;
    let who = session.who();
    match found {
        Found::Root | Found::Bucket(_) => Err(Error::new(
            Kind::Denied,
            Subject::Bucket,
            format!(
                "bucket {:?} keeps its name: move its members into another one",
                source.bucket
            ),
        )),
        Found::Object(_) => {
            session.may_object("s3:GetObject", &source.bucket, &source.key)?;
            session.may_object("s3:DeleteObject", &source.bucket, &source.key)?;
            session.may_object("s3:PutObject", &target.bucket, &target.key)?;
            if there.is_some_and(|there| there.is_collection()) {
                remove_collection(store, session, target)?;
            }
            store
                .object_rename(
                    &who,
                    (&source.bucket, &source.key),
                    (&target.bucket, &target.key),
                    true,
                )
                .map(|_| ())
        }
        Found::Collection(_) => {
            let (from, to) = (source.prefix(), target.prefix());
            if !session.is_root() {
                let keys = members(store, source)?;
                may_all(
                    session,
                    &source.bucket,
                    &keys,
                    &["s3:GetObject", "s3:DeleteObject"],
                )?;
                let moved: Vec<String> = keys
                    .iter()
                    .filter_map(|key| key.strip_prefix(&from))
                    .map(|rest| format!("{to}{rest}"))
                    .collect();
                may_all(session, &target.bucket, &moved, &["s3:PutObject"])?;
                let replaced = members(store, target)?;
                may_all(session, &target.bucket, &replaced, &["s3:DeleteObject"])?;
            }
            if let Some(Found::Object(_)) = there {
                remove_object(store, session, target)?;
            }
            store
                .prefix_rename(&who, (&source.bucket, &from), (&target.bucket, &to), true)
                .map(|_| ())
        }
    }
}

/// All objects below a collection at any depth; `None` if there are more than `max`.
pub(super) fn tree(store: &Store, place: &Place, max: usize) -> Result<Option<Vec<Object>>> {
    let query = ListQuery {
        prefix: place.prefix(),
        max,
        ..ListQuery::default()
    };
    let page = store.object_list(&place.bucket, &query)?;
    Ok(page.next.is_none().then_some(page.objects))
}

/// The keys below a collection, its marker among them.
fn members(store: &Store, place: &Place) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    let mut query = ListQuery {
        prefix: place.prefix(),
        max: PAGE,
        ..ListQuery::default()
    };
    loop {
        let page = store.object_list(&place.bucket, &query)?;
        keys.extend(page.objects.into_iter().map(|object| object.key));
        if keys.len() > MEMBERS_MAX {
            let text = format!(
                "{} has more than {MEMBERS_MAX} members: move or remove its parts one by one",
                place.name()
            );
            return Err(Error::new(Kind::Unsupported, Subject::Object, text));
        }
        match page.next {
            Some(next) => query.start_after = Some(next),
            None => return Ok(keys),
        }
    }
}

fn may_all(session: &Session, bucket: &str, keys: &[String], actions: &[&str]) -> Result<()> {
    if session.is_root() {
        return Ok(());
    }
    for key in keys {
        for action in actions {
            session.may_object(action, bucket, key)?;
        }
    }
    Ok(())
}

pub(super) fn missing(place: &Place) -> Error {
    let text = format!(
        "nothing is at {}: list its collection with PROPFIND",
        place.href()
    );
    Error::new(Kind::NotFound, Subject::Object, text)
}
