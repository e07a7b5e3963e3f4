//! Copies and moves, of data objects and of containers (CDMI 1.1.1, 8.2 and 9.2: `copy`, `move`).
//!
//! 1. A copy shares the maps of its source: no byte is copied, except out of a snapshot and of
//!    bodies so small that they lie in the catalog.
//! 2. A move is one entry in the catalog, of a data object and of a container alike; object ids
//!    stay.
//! 3. Each key is authorized on its own, at both ends.

use super::ask::Work;
use super::body::Members;
use super::containers::{self, created as container_created};
use super::failure::{Failure, Reply};
use super::metadata::{Given, SLOT, Slot};
use super::place::Place;
use super::stream::{PIECE_BYTES, read_now};
use super::writing::{Target, created};
use super::{identity, show, snapshots};
use axum::http::StatusCode;
use axum::response::Response;
use blockstore::object::{Change, ListPage, ListQuery, Object, ObjectMeta, Precondition};
use blockstore::{Kind, Subject};

/// Keys looked at together.
const PAGE: usize = 1000;
/// Keys of a container that is copied or moved, at most.
const KEYS_MAX: usize = 100_000;

/// The place that a `copy` or `move` names.
fn source(work: &Work, uri: &str) -> Reply<Place> {
    match Place::of_uri(uri, work.root())? {
        Place::ById(id) => identity::find(&work.door, &id),
        place => Ok(place),
    }
}

fn not_taken(place: &Place) -> Failure {
    Failure::invalid(
        "uri",
        format!(
            "{:?} cannot be the source here: a data object comes from a data object, a container \
             from a container",
            place.name()
        ),
    )
}

/// `copy` and `move` of a data object.
pub(super) fn object(
    work: &Work,
    is_move: bool,
    uri: &str,
    body: &Members,
    target: &Target,
) -> Reply {
    body.only(&["copy", "move", "metadata", "mimetype"], "a copy or move")?;
    let source = source(work, uri)?;
    let object = match (&source, is_move) {
        (Place::Object { bucket, key }, false) => copy(work, (bucket, key), body, target)?,
        (Place::Object { bucket, key }, true) => rename(work, (bucket, key), body, target)?,
        (
            Place::FrozenObject {
                bucket,
                prefix,
                snapshot,
                below,
            },
            false,
        ) => {
            let (found, bytes) = snapshots::open(work, (bucket, prefix, snapshot, below))?;
            let meta = described(work, &found, body)?;
            let place = (target.bucket.as_str(), target.key.as_str());
            restore(work, bytes.as_ref(), meta, place, &target.settled())
                .map_err(|error| Work::raced(&target.condition, error))?
        }
        _ => return Err(not_taken(&source)),
    };
    match target.there {
        Some(_) => Ok(show::empty(StatusCode::NO_CONTENT)),
        None => created(work, &object),
    }
}

fn copy(work: &Work, from: (&str, &str), body: &Members, target: &Target) -> Reply<Object> {
    work.may_object("s3:GetObject", from.0, from.1)?;
    let found = work.store().object_head(from.0, from.1)?;
    let meta = described(work, &found, body)?;
    let same = Precondition {
        if_match: vec![found.meta.etag],
        ..Precondition::default()
    };
    let (object, _) = work
        .store()
        .object_copy(
            &work.who(),
            from,
            (&target.bucket, &target.key),
            Some(meta),
            &same,
            &target.settled(),
        )
        .map_err(|error| Work::raced(&target.condition, error))?;
    Ok(object)
}

fn rename(work: &Work, from: (&str, &str), body: &Members, target: &Target) -> Reply<Object> {
    work.may_object("s3:GetObject", from.0, from.1)?;
    work.may_object("s3:DeleteObject", from.0, from.1)?;
    if from == (target.bucket.as_str(), target.key.as_str()) {
        return Err(Failure::invalid(
            "move",
            "an object cannot be moved onto itself",
        ));
    }
    let only_new = target.condition.if_none_match.iter().any(|tag| tag == "*");
    if only_new && target.there.is_some() {
        return Err(Failure::new(
            Kind::Precondition,
            "object",
            "the target exists, and If-None-Match: * wants none",
        ));
    }
    let _alone = work.door.turns.take(from.0, from.1);
    let found = work.store().object_head(from.0, from.1)?;
    let meta = described(work, &found, body)?;
    let place = (target.bucket.as_str(), target.key.as_str());
    let overwrite = target.there.is_some();
    let object = work
        .store()
        .object_rename(&work.who(), from, place, overwrite)?;
    if body.get("metadata").is_none() && body.get("mimetype").is_none() {
        return Ok(object);
    }
    let properties = meta.properties.into_iter();
    let change = Change {
        headers: Some(meta.headers),
        user: Some(meta.user),
        properties: properties
            .map(|(name, value)| (name, Some(value)))
            .collect(),
        ..Change::default()
    };
    let none = Precondition::default();
    Ok(work
        .store()
        .object_change(&work.who(), place.0, place.1, None, &change, &none)?)
}

/// The description of a copy: the source's, with what the request adds.
fn described(work: &Work, found: &Object, body: &Members) -> Reply<ObjectMeta> {
    let mut meta = found.meta.clone();
    meta.lock = blockstore::object::Lock::default();
    let mut slot = Slot::of(found);
    if let Some(metadata) = body.get("metadata") {
        let given = Given::read(metadata, &work.door.node)?;
        let mut now = Given::of(&meta.user, &slot);
        now.merge(&given)?;
        (meta.user, slot.metadata) = now.split();
    }
    if let Some(mimetype) = body.text("mimetype")? {
        meta.headers
            .insert("content-type".to_owned(), mimetype.to_owned());
    }
    meta.properties.insert(SLOT.to_owned(), slot.kept()?);
    Ok(meta)
}

/// Out of a snapshot: one stated copy, in pieces.
fn restore(
    work: &Work,
    bytes: &dyn blockstore::object::ReadAt,
    meta: ObjectMeta,
    target: (&str, &str),
    condition: &Precondition,
) -> blockstore::Result<Object> {
    let mut writer = work.store().object_writer(target.0)?;
    let mut at = 0;
    while at < bytes.length_bytes() {
        let end = bytes.length_bytes().min(at + PIECE_BYTES as u64);
        writer.write(&read_now(bytes, &(at..end))?)?;
        at = end;
    }
    writer.commit(&work.who(), target.1, meta, condition)
}

/// `copy` and `move` of a container.
pub(super) fn container(
    work: &Work,
    is_move: bool,
    uri: &str,
    body: &Members,
    there: bool,
) -> Reply<Response> {
    body.only(&["copy", "move", "metadata"], "a copy or move")?;
    let Place::Container { bucket, prefix } = &work.ask.place else {
        return Err(not_taken(&work.ask.place));
    };
    if there {
        return Err(Failure::new(
            Kind::Conflict,
            "container",
            "the container exists: copy or move under a free name",
        ));
    }
    work.ask.place.expect_free_name()?;
    let source = source(work, uri)?;
    match (&source, is_move) {
        (
            Place::Container {
                bucket: from,
                prefix: below,
            },
            true,
        ) if !below.is_empty() && !prefix.is_empty() => {
            containers::expect_parent(work)?;
            rename_all(work, (from, below), (bucket, prefix))?;
        }
        (Place::Container { .. }, true) => {
            return Err(Failure::forbidden(
                "capability",
                "a first-level container is a bucket, which keeps its name: copy it, then delete it",
            ));
        }
        (
            Place::Container {
                bucket: from,
                prefix: below,
            },
            false,
        ) => {
            copy_all(work, (from, below), (bucket, prefix))?;
        }
        (
            Place::FrozenContainer {
                bucket: from,
                prefix: base,
                snapshot,
                below,
            },
            false,
        ) => {
            let frozen = (
                from.as_str(),
                base.as_str(),
                snapshot.as_str(),
                below.as_str(),
            );
            restore_all(work, frozen, (bucket, prefix))?;
        }
        _ => return Err(not_taken(&source)),
    }
    if body.get("metadata").is_some() {
        containers::change(work, body, true)?;
    }
    container_created(work)
}

/// Whether the bucket may be made, or the parent is there, that a copied container lies in.
fn expect_room(work: &Work, bucket: &str, prefix: &str, source: (&str, &str)) -> Reply<()> {
    if source.0 == bucket && prefix.starts_with(source.1) {
        return Err(Failure::invalid(
            "copy",
            "a container cannot be copied into itself",
        ));
    }
    if prefix.is_empty() {
        return work.may_bucket("s3:CreateBucket", bucket);
    }
    containers::expect_parent(work)
}

/// Every key under a prefix, a page at a time.
fn each_key(
    work: &Work,
    prefix: &str,
    list: impl Fn(&ListQuery) -> blockstore::Result<ListPage>,
    mut take: impl FnMut(&Object) -> Reply<()>,
) -> Reply<usize> {
    let mut query = ListQuery {
        prefix: prefix.to_owned(),
        max: PAGE,
        ..ListQuery::default()
    };
    let mut count = 0;
    loop {
        let page = list(&query)?;
        for object in &page.objects {
            count += 1;
            if count > KEYS_MAX {
                return Err(Failure::new(
                    Kind::Unsupported,
                    "container",
                    format!(
                        "{} has more than {KEYS_MAX} objects: take its parts one by one",
                        work.ask.place.name()
                    ),
                ));
            }
            take(object)?;
        }
        match page.next {
            Some(next) => query.start_after = Some(next),
            None => return Ok(count),
        }
    }
}

fn rename_all(work: &Work, from: (&str, &str), to: (&str, &str)) -> Reply<()> {
    work.may_list(from.0, from.1)?;
    let list = |query: &ListQuery| work.store().object_list(from.0, query);
    each_key(work, from.1, list, |object| {
        let below = object.key.strip_prefix(from.1).unwrap_or_default();
        work.may_object("s3:GetObject", from.0, &object.key)?;
        work.may_object("s3:DeleteObject", from.0, &object.key)?;
        work.may_object("s3:PutObject", to.0, &format!("{}{below}", to.1))
    })?;
    work.store().prefix_rename(&work.who(), from, to, false)?;
    Ok(())
}

/// What goes from where to where, all of it asked for before the first is copied.
fn admitted(
    work: &Work,
    from: (&str, &str),
    to: (&str, &str),
    list: impl Fn(&ListQuery) -> blockstore::Result<ListPage>,
) -> Reply<Vec<(String, String)>> {
    let mut keys = Vec::new();
    let mut marked = to.1.is_empty();
    each_key(work, from.1, list, |object| {
        let below = object.key.strip_prefix(from.1).unwrap_or_default();
        let key = format!("{}{below}", to.1);
        if key.is_empty() {
            return Ok(());
        }
        work.may_object("s3:GetObject", from.0, &object.key)?;
        work.may_object("s3:PutObject", to.0, &key)?;
        marked |= below.is_empty();
        keys.push((object.key.clone(), key));
        Ok(())
    })?;
    if !marked {
        work.may_object("s3:PutObject", to.0, to.1)?;
    }
    Ok(keys)
}

fn copy_all(work: &Work, from: (&str, &str), to: (&str, &str)) -> Reply<()> {
    work.may_list(from.0, from.1)?;
    containers::known(work, from.0, from.1)?;
    expect_room(work, to.0, to.1, from)?;
    let list = |query: &ListQuery| work.store().object_list(from.0, query);
    let keys = admitted(work, from, to, list)?;
    let none = Precondition::default();
    let place = |(source, target): &(String, String)| {
        let (source, target) = ((from.0, source.as_str()), (to.0, target.as_str()));
        let who = work.who();
        let copied = work
            .store()
            .object_copy(&who, source, target, None, &none, &none);
        copied.map(drop)
    };
    fill(work, to, &keys, place)
}

fn restore_all(
    work: &Work,
    (from, base, snapshot, below): (&str, &str, &str, &str),
    to: (&str, &str),
) -> Reply<()> {
    let whole = format!("{base}{below}");
    work.may_list(from, &whole)?;
    snapshots::expect(work, from, base, snapshot)?;
    expect_room(work, to.0, to.1, ("", ""))?;
    let list = |query: &ListQuery| work.store().snapshot_object_list(from, snapshot, query);
    let keys = admitted(work, (from, &whole), to, list)?;
    let none = Precondition::default();
    let place = |(source, target): &(String, String)| {
        let store = work.store();
        let (found, bytes) = store.snapshot_object_open(from, snapshot, source)?;
        let meta = ObjectMeta {
            lock: blockstore::object::Lock::default(),
            ..found.meta
        };
        restore(work, bytes.as_ref(), meta, (to.0, target), &none).map(drop)
    };
    fill(work, to, &keys, place)
}

/// Makes the container and puts the keys into it. What somebody removes meanwhile is left out.
fn fill(
    work: &Work,
    to: (&str, &str),
    keys: &[(String, String)],
    place: impl Fn(&(String, String)) -> blockstore::Result<()>,
) -> Reply<()> {
    if to.1.is_empty() {
        work.store().bucket_create(&work.who(), to.0)?;
    }
    for key in keys {
        match place(key) {
            Err(gone) if gone.kind() == Kind::NotFound && gone.subject() == Subject::Object => {}
            placed => placed?,
        }
    }
    let marked = to.1.is_empty() || keys.iter().any(|(_, target)| target == to.1);
    settle(work, to, marked)
}

/// An empty container is one all the same.
fn settle(work: &Work, to: (&str, &str), marked: bool) -> Reply<()> {
    if marked {
        return Ok(());
    }
    match work.object(to.0, to.1)? {
        Some(_) => Ok(()),
        None => containers::mark(work, to.0, to.1, Given::default()),
    }
}
