//! Writing data objects in CDMI: made, replaced, changed.
//!
//! 1. A value that replaces another is committed with its metadata in one catalog transaction; a
//!    change of metadata alone rewrites no byte of the value and keeps its ETag.
//! 2. Metadata, tags and the media type stay over a new value, unless the request brings new ones.
//! 3. What came in between the look and the commit is a conflict (409), never lost.

use super::ask::Work;
use super::body::Members;
use super::containers::{changed, expect_parent};
use super::dialect::Media;
use super::failure::{Failure, Reply};
use super::metadata::{Encoding, Given, SLOT, Slot};
use super::partial;
use super::place::Place;
use super::query::{Field, Selection};
use super::reading::follow;
use super::stream::{Digests, NewValue, Sink, Sums};
use super::{PARTIAL, identity, show, transfer};
use crate::blocking;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use blockstore::object::{Change, Lock, Object, ObjectMeta, Precondition};
use serde_json::Value;
use std::collections::BTreeMap;

/// The media type of a value that CDMI brought without one (CDMI 1.1.1, Table 17).
const CDMI_TYPE: &str = "text/plain";
/// Bytes of a media type at most.
const TYPE_BYTES_MAX: usize = 255;

/// PUT and PATCH of a data object in CDMI.
pub(super) async fn put(work: Work, body: Members, patch: bool) -> Reply {
    blocking::run(move || put_now(&work, body, patch)).await
}

/// POST in CDMI: a data object named by its id.
pub(super) async fn post(work: Work, body: Members) -> Reply {
    blocking::run(move || {
        let (work, prefix) = unnamed(work)?;
        put_now(&work, body, false)?;
        named(&work, &prefix)
    })
    .await
}

/// What a write has to know of the place it writes to.
pub(super) struct Target {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) there: Option<Object>,
    /// The client's conditions.
    pub(super) condition: Precondition,
}

impl Target {
    /// The conditions of the commit: the client's, and that nothing came in between.
    pub(super) fn settled(&self) -> Precondition {
        let mut condition = self.condition.clone();
        if condition.if_match.is_empty() && condition.if_none_match.is_empty() {
            match &self.there {
                Some(object) => condition.if_match.push(object.meta.etag.clone()),
                None => condition.if_none_match.push("*".to_owned()),
            }
        }
        condition
    }

    /// The same with the metadata as it is now, if the value is still the one that was looked at.
    pub(super) fn refreshed(&self, work: &Work) -> Reply<Self> {
        let now = work.object(&self.bucket, &self.key)?;
        let there = match (&self.there, now) {
            (Some(then), Some(now)) if then.meta.etag == now.meta.etag => Some(now),
            // The commit will tell.
            (then, _) => then.clone(),
        };
        Ok(Self {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            there,
            condition: self.condition.clone(),
        })
    }

    /// What CDMI keeps of it.
    pub(super) fn slot(&self) -> Slot {
        self.there.as_ref().map(Slot::of).unwrap_or_default()
    }
}

/// Looks at the place that is written to. `Err` of a redirection where it is a reference.
pub(super) fn target(work: &Work) -> Reply<Result<Target, Response>> {
    let Place::Object { bucket, key } = &work.ask.place else {
        return Err(Failure::invalid("uri", "this is no data object"));
    };
    if key.is_empty() {
        return Err(Failure::invalid(
            "uri",
            "the root container holds containers only: end the URI with a slash",
        ));
    }
    work.may_object("s3:PutObject", bucket, key)?;
    let there = work.object(bucket, key)?;
    if let Some(uri) = there.as_ref().and_then(|there| Slot::of(there).reference) {
        return Ok(Err(follow(work, &uri)?));
    }
    if there.is_none() {
        work.ask.place.expect_free_name()?;
        expect_parent(work)?;
    }
    Ok(Ok(Target {
        bucket: bucket.clone(),
        key: key.clone(),
        there,
        condition: work.precondition()?,
    }))
}

fn put_now(work: &Work, body: Members, patch: bool) -> Reply {
    body.only(
        &[
            "metadata",
            "mimetype",
            "valuetransferencoding",
            "value",
            "copy",
            "move",
            "reference",
            "valuerange",
        ],
        "a data object",
    )?;
    body.one_of(&["value", "copy", "move", "reference"])?;
    let target = match target(work)? {
        Ok(target) => target,
        Err(elsewhere) => return Ok(elsewhere),
    };
    for field in work.ask.selection.fields() {
        match field {
            Field::Value(_) | Field::Metadata(_) => {}
            Field::Named("metadata" | "value" | "mimetype" | "valuetransferencoding") => {}
            Field::Named(name) => {
                return Err(Failure::invalid("query", format!("{name} is not written")));
            }
            Field::Children(_) => return Err(Failure::invalid("query", "this has no children")),
        }
    }
    if let Some(span) = work.ask.selection.value() {
        return partial::put(work, target, span, &body);
    }
    for name in ["copy", "move"] {
        if let Some(source) = body.text(name)? {
            return transfer::object(work, name == "move", source, &body, &target);
        }
    }
    if let Some(uri) = body.text("reference")? {
        return refer(work, &target, uri, &body);
    }
    match &target.there {
        None if patch || !work.ask.selection.is_everything() => Err(Failure::missing(
            "object",
            format!(
                "no data object {:?}: PUT it whole first",
                work.ask.place.name()
            ),
        )),
        None => create(work, &target, body),
        Some(_) => update(work, target, body, patch),
    }
}

fn create(work: &Work, target: &Target, mut body: Members) -> Reply {
    let given = match body.get("metadata") {
        Some(metadata) => Given::read(metadata, &work.door.node)?,
        None => Given::default(),
    };
    let encoding = match body.text("valuetransferencoding")? {
        Some(name) => Encoding::named(name)?,
        None => Encoding::Utf8,
    };
    let value = body.take("value").unwrap_or_else(|| match encoding {
        Encoding::Json => Value::Null,
        Encoding::Utf8 | Encoding::Base64 => "".into(),
    });
    let bytes = bytes_of(value, encoding)?;
    let (user, own) = given.split();
    let meta = ObjectMeta {
        headers: BTreeMap::from([(
            "content-type".to_owned(),
            mimetype(&body)?.unwrap_or(CDMI_TYPE).to_owned(),
        )]),
        user,
        ..ObjectMeta::default()
    };
    let slot = Slot {
        metadata: own,
        processing: more_follows(work),
        ..Slot::default()
    };
    let object = commit(work, target, &bytes, meta, slot, encoding)?;
    created(work, &object)
}

fn update(work: &Work, mut target: Target, mut body: Members, patch: bool) -> Reply {
    let _alone = work.door.turns.take(&target.bucket, &target.key);
    target.there = work.object(&target.bucket, &target.key)?;
    let target = &target;
    let Some(there) = &target.there else {
        return Err(Failure::new(
            blockstore::Kind::Conflict,
            "object",
            "the object was removed while this was looked at",
        ));
    };
    let now = target.slot();
    let mut meta = there.meta.clone();
    let mut slot = Slot {
        processing: more_follows(work),
        ..now.clone()
    };
    if let Some(metadata) = body.get("metadata") {
        let given = Given::read(metadata, &work.door.node)?;
        let given = changed(work, Given::of(&meta.user, &now), given, patch)?;
        (meta.user, slot.metadata) = given.split();
    }
    if let Some(mimetype) = mimetype(&body)? {
        meta.headers
            .insert("content-type".to_owned(), mimetype.to_owned());
    }
    let asked = body.text("valuetransferencoding")?;
    let asked = asked.map(Encoding::named).transpose()?;
    if let Some(value) = body.take("value") {
        let encoding = asked.unwrap_or_else(|| now.encoding_of(there));
        let bytes = bytes_of(value, encoding)?;
        commit(work, target, &bytes, meta, slot, encoding)?;
        return Ok(show::empty(StatusCode::NO_CONTENT));
    }
    match asked {
        Some(Encoding::Base64) => {
            slot.encoding = Some(Encoding::Base64);
            slot.encoded.clone_from(&there.meta.etag);
        }
        Some(other) if other != now.encoding_of(there) => {
            return Err(Failure::invalid(
                "valuetransferencoding",
                format!("to make this {}, send the value with it", other.text()),
            ));
        }
        Some(_) | None => {}
    }
    let change = Change {
        headers: Some(meta.headers),
        user: Some(meta.user),
        properties: BTreeMap::from([(SLOT.to_owned(), Some(slot.kept()?))]),
        ..Change::default()
    };
    work.store()
        .object_change(
            &work.who(),
            &target.bucket,
            &target.key,
            None,
            &change,
            &target.settled(),
        )
        .map_err(|error| Work::raced(&target.condition, error))?;
    Ok(show::empty(StatusCode::NO_CONTENT))
}

/// A reference: an object without bytes that leads elsewhere.
fn refer(work: &Work, target: &Target, uri: &str, body: &Members) -> Reply {
    body.only(&["reference"], "a reference")?;
    if target.there.is_some() {
        return Err(Failure::new(
            blockstore::Kind::Conflict,
            "object",
            "a data object is there: a reference is made under a free name",
        ));
    }
    // What cannot be followed is refused now rather than at every read.
    follow(work, uri)?;
    let slot = Slot {
        reference: Some(uri.to_owned()),
        ..Slot::default()
    };
    let object = commit(
        work,
        target,
        &[],
        ObjectMeta::default(),
        slot,
        Encoding::Base64,
    )?;
    let mut shown = show::common(work, Media::Object, &work.ask.place, Some(&object), false)?;
    shown.insert("reference".to_owned(), uri.into());
    Ok(show::json(StatusCode::CREATED, Media::Object, &shown))
}

/// Commits a small value.
fn commit(
    work: &Work,
    target: &Target,
    bytes: &[u8],
    meta: ObjectMeta,
    slot: Slot,
    encoding: Encoding,
) -> Reply<Object> {
    let mut value = NewValue {
        writer: work
            .store()
            .object_writer_for(&target.bucket, &target.key)?,
        digests: Digests::new(),
    };
    value.take(bytes)?;
    let sums = value.digests.finish();
    let meta = sealed(meta, slot, encoding, &sums)?;
    value
        .writer
        .commit(&work.who(), &target.key, meta, &target.settled())
        .map_err(|error| Work::raced(&target.condition, error))
}

/// The description of a new value.
pub(super) fn sealed(
    mut meta: ObjectMeta,
    mut slot: Slot,
    encoding: Encoding,
    sums: &Sums,
) -> Reply<ObjectMeta> {
    meta.etag.clone_from(&sums.etag);
    meta.checksums.clone_from(&sums.checksums);
    // Of the version that it was on; the bucket's default, if there is one, is the store's to put.
    meta.lock = Lock::default();
    slot.encoding = Some(encoding);
    slot.encoded.clone_from(&sums.etag);
    meta.properties.insert(SLOT.to_owned(), slot.kept()?);
    Ok(meta)
}

/// The answer to what made the data object that was asked for.
pub(super) fn created(work: &Work, object: &Object) -> Reply {
    created_at(work, &work.ask.place, object)
}

fn created_at(work: &Work, place: &Place, object: &Object) -> Reply {
    // A selection said what to write; what was made is shown whole.
    let all = Selection::default();
    let mut shown = show::data_object(work, &all, place, object, &Slot::of(object))?;
    shown.remove("valuetransferencoding");
    let mut response = show::json(StatusCode::CREATED, Media::Object, &shown);
    locate(&mut response, &place.uri(work.root()));
    Ok(response)
}

pub(super) fn locate(response: &mut Response, uri: &str) {
    if let Ok(uri) = HeaderValue::from_str(uri) {
        response.headers_mut().insert(header::LOCATION, uri);
    }
}

/// The bytes of a value in JSON.
pub(super) fn bytes_of(value: Value, encoding: Encoding) -> Reply<Vec<u8>> {
    match (encoding, value) {
        (Encoding::Json, value) => Ok(value.to_string().into_bytes()),
        (Encoding::Utf8, Value::String(text)) => Ok(text.into_bytes()),
        (Encoding::Base64, Value::String(text)) => BASE64.decode(&text).map_err(|bad| {
            Failure::invalid(
                "value",
                format!("the value is not base64 (RFC 4648): {bad}"),
            )
        }),
        (Encoding::Utf8 | Encoding::Base64, _) => Err(Failure::invalid(
            "value",
            "a value in utf-8 or base64 is a JSON string",
        )),
    }
}

fn mimetype(body: &Members) -> Reply<Option<&str>> {
    let Some(text) = body.text("mimetype")? else {
        return Ok(None);
    };
    check_type(text)?;
    Ok(Some(text))
}

pub(super) fn check_type(text: &str) -> Reply<()> {
    let plain = text.len() <= TYPE_BYTES_MAX
        && text.contains('/')
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if plain {
        return Ok(());
    }
    Err(Failure::invalid(
        "mimetype",
        format!("{text:?} is no media type (RFC 9110, 8.3.1)"),
    ))
}

/// Whether the client says that more of the value is to come (CDMI 1.1.1, 8.2.5).
pub(super) fn more_follows(work: &Work) -> bool {
    work.ask
        .headers
        .get(PARTIAL)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// The same request at a name that nobody else has; with it, the container's prefix.
pub(super) fn unnamed(mut work: Work) -> Reply<(Work, String)> {
    let Place::Container { bucket, prefix } = work.ask.place.clone() else {
        return Err(Failure::invalid("uri", "this is no container"));
    };
    let key = format!("{prefix}.unnamed-{}", uuid::Uuid::new_v4().simple());
    work.ask.place = Place::Object { bucket, key };
    Ok((work, prefix))
}

/// Gives the object its id for a name: the id stays over the renaming.
pub(super) fn named(work: &Work, prefix: &str) -> Reply {
    let Place::Object { bucket, key } = &work.ask.place else {
        return Err(Failure::invalid("uri", "this is no data object"));
    };
    let rename = || {
        let id = identity::id_of(&work.door, &work.ask.place, None)?;
        let name = format!("{prefix}{id}");
        work.may_object("s3:PutObject", bucket, &name)?;
        let (from, to) = (
            (bucket.as_str(), key.as_str()),
            (bucket.as_str(), name.as_str()),
        );
        let object = work.store().object_rename(&work.who(), from, to, false)?;
        let place = Place::Object {
            bucket: bucket.clone(),
            key: name,
        };
        created_at(work, &place, &object)
    };
    rename().inspect_err(|_| {
        // Nobody knows the name it has; NotFound where it has its own already.
        let any = Precondition::default();
        if let Err(error) = work.store().object_remove(&work.who(), bucket, key, &any) {
            tracing::warn!(
                bucket,
                key,
                error = error.chain(),
                "an unnamed object stays"
            );
        }
    })
}
