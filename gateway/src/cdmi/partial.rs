//! Parts of values: `PUT …?value:<first>-<last>` and `Content-Range` (CDMI 1.1.1, 8.6 and 8.7).
//!
//! Written through the store's object editor: one editor an object at a time, nobody sees a part
//! before all of it is there, and no byte of the rest is copied.

use super::ask::Work;
use super::body::Members;
use super::containers::changed;
use super::failure::{Failure, Reply};
use super::metadata::{Encoding, Given, SLOT, Slot};
use super::query::{Span, span};
use super::show;
use super::stream::{Digests, Sink};
use super::writing::{Target, bytes_of, created, more_follows};
use axum::http::{StatusCode, header};
use blockstore::Kind;
use blockstore::object::{EditHow, Lock, ObjectEdit, ObjectMeta};

/// What is written where.
pub(super) struct Bounds {
    target: Target,
    span: Span,
    /// Whether the text stays text if the part is text: it begins and ends between characters.
    between_characters: bool,
}

/// A part on its way in.
pub(super) struct Editing {
    edit: ObjectEdit,
    next: u64,
    end: u64,
    digests: Digests,
}

impl Sink for Editing {
    fn take(&mut self, bytes: &[u8]) -> blockstore::Result<()> {
        if bytes.len() as u64 > self.end - self.next {
            return Err(blockstore::Error::new(
                Kind::Invalid,
                blockstore::Subject::Range,
                "the body is longer than the range it is for",
            ));
        }
        self.digests.update(bytes);
        self.edit.write_at(self.next, bytes)?;
        self.next += bytes.len() as u64;
        Ok(())
    }
}

/// The range that a request with plain bytes is for; the target back, if it is for none.
pub(super) fn asked(
    work: &Work,
    target: Target,
    announced: Option<u64>,
) -> Reply<Result<Bounds, Target>> {
    let told = match work.ask.headers.get(header::CONTENT_RANGE) {
        Some(value) => Some(content_range(value.to_str().unwrap_or_default())?),
        None => None,
    };
    let span = match (work.ask.selection.value(), told) {
        (None, None) => return Ok(Err(target)),
        (Some(query), Some(told)) if query != told => {
            return Err(Failure::invalid(
                "content-range",
                "Content-Range and ?value: name different ranges",
            ));
        }
        (Some(span), _) | (None, Some(span)) => span,
    };
    if announced.is_some_and(|bytes| bytes != span.count()) {
        return Err(wrong_length(span, announced.unwrap_or(0)));
    }
    Ok(Ok(Bounds {
        target,
        span,
        between_characters: false,
    }))
}

/// Opens the object for its part.
pub(super) fn begin(work: &Work, bounds: &mut Bounds) -> Reply<Editing> {
    let Bounds { target, span, .. } = bounds;
    check_conditions(target)?;
    let end = span.last.checked_add(1).ok_or_else(|| {
        Failure::invalid(
            "value",
            "a value has at most 5 TiB, and the range ends behind them",
        )
    })?;
    let how = EditHow {
        create: target.there.is_none(),
        exclusive: target.there.is_none(),
        truncate: false,
    };
    let edit = work
        .store()
        .object_edit(&work.who(), &target.bucket, &target.key, how)
        .map_err(|error| Work::raced(&target.condition, error))?;
    let same = match (&target.there, edit.published()) {
        (Some(there), Some(opened)) => there.meta.etag == opened.meta.etag,
        (None, None) => true,
        _ => false,
    };
    if !same {
        return Err(Failure::new(
            Kind::Conflict,
            "object",
            "the object changed while this was looked at: try again",
        ));
    }
    bounds.between_characters = between_characters(&edit, *span)?;
    Ok(Editing {
        edit,
        next: bounds.span.first,
        end,
        digests: Digests::new(),
    })
}

/// Makes the part visible; `body` is the CDMI body it came in, if it did.
pub(super) fn publish(
    work: &Work,
    bounds: &Bounds,
    editing: Editing,
    body: Option<(&Members, Encoding)>,
) -> Reply {
    let Bounds { target, span, .. } = bounds;
    let arrived = editing.next - span.first;
    if arrived != span.count() {
        return Err(wrong_length(*span, arrived));
    }
    let part = editing.digests.finish();
    let edit = editing.edit;
    let _alone = work.door.turns.take(&target.bucket, &target.key);
    let target = &target.refreshed(work)?;
    let now = target.there.as_ref().map(Slot::of).unwrap_or_default();
    let mut meta = match &target.there {
        Some(there) => there.meta.clone(),
        None => ObjectMeta::default(),
    };
    let mut slot = Slot {
        processing: more_follows(work),
        ..now.clone()
    };
    let before = match &target.there {
        Some(there) => now.encoding_of(there),
        None => body.map_or(Encoding::Base64, |(_, encoding)| encoding),
    };
    slot.encoding = Some(match before {
        Encoding::Utf8 if part.is_text && bounds.between_characters => Encoding::Utf8,
        Encoding::Utf8 | Encoding::Base64 | Encoding::Json => Encoding::Base64,
    });
    match body {
        Some((body, _)) => {
            if let Some(metadata) = body.get("metadata") {
                let given = Given::read(metadata, &work.door.node)?;
                let given = changed(work, Given::of(&meta.user, &now), given, false)?;
                (meta.user, slot.metadata) = given.split();
            }
            if let Some(mimetype) = body.text("mimetype")? {
                meta.headers
                    .insert("content-type".to_owned(), mimetype.to_owned());
            }
        }
        None => {
            let told = work.ask.headers.get(header::CONTENT_TYPE);
            if let (None, Some(told)) = (&target.there, told.and_then(|told| told.to_str().ok())) {
                meta.headers
                    .insert("content-type".to_owned(), told.to_owned());
            }
        }
    }
    // As the store's own of a view: no digest of the bytes, and never twice the same. Chosen here,
    // for the encoding is said of this very body.
    meta.etag = format!("{}-1", uuid::Uuid::new_v4().simple());
    slot.encoded.clone_from(&meta.etag);
    meta.checksums.clear();
    meta.lock = Lock::default();
    meta.properties.insert(SLOT.to_owned(), slot.kept()?);
    let object = edit
        .publish(&work.who(), meta)
        .map_err(|error| Work::raced(&target.condition, error))?;
    match target.there {
        Some(_) => Ok(show::empty(StatusCode::NO_CONTENT)),
        None if body.is_some() => created(work, &object),
        None => Ok(show::empty(StatusCode::CREATED)),
    }
}

/// A part in a CDMI body.
pub(super) fn put(work: &Work, target: Target, span: Span, body: &Members) -> Reply {
    let Some(value) = body.get("value") else {
        return Err(Failure::invalid(
            "value",
            "a range of a value needs the value",
        ));
    };
    let before = target
        .there
        .as_ref()
        .map(|there| Slot::of(there).encoding_of(there));
    let encoding = match body.text("valuetransferencoding")? {
        Some(name) => Encoding::named(name)?,
        None => before.unwrap_or(Encoding::Utf8),
    };
    if encoding == Encoding::Json {
        return Err(Failure::invalid(
            "valuetransferencoding",
            "a value kept as JSON is written whole; a part of it is sent as base64",
        ));
    }
    let bytes = bytes_of(value.clone(), encoding)?;
    if bytes.len() as u64 != span.count() {
        return Err(wrong_length(span, bytes.len() as u64));
    }
    let mut bounds = Bounds {
        target,
        span,
        between_characters: false,
    };
    let mut editing = begin(work, &mut bounds)?;
    editing.take(&bytes)?;
    publish(work, &bounds, editing, Some((body, encoding)))
}

/// Whether a part begins and ends between characters of the text that is there.
fn between_characters(edit: &ObjectEdit, span: Span) -> Reply<bool> {
    let length = edit.length_bytes();
    for at in [span.first, span.last.saturating_add(1)] {
        if at >= length {
            continue;
        }
        let mut byte = [0];
        edit.read_at(at, &mut byte)?;
        if byte[0] & 0xC0 == 0x80 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The editor knows no conditions of the client's, so they are judged against what it opened.
fn check_conditions(target: &Target) -> Reply<()> {
    let has = |tags: &[String]| {
        target
            .there
            .as_ref()
            .is_some_and(|there| tags.iter().any(|tag| tag == "*" || *tag == there.meta.etag))
    };
    let condition = &target.condition;
    let holds = (condition.if_match.is_empty() || has(&condition.if_match))
        && !has(&condition.if_none_match);
    if holds {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Precondition,
        "object",
        "the object is not the one that the request's conditions want",
    ))
}

/// `bytes <first>-<last>/<length or *>` (RFC 9110, 14.4).
fn content_range(text: &str) -> Reply<Span> {
    text.strip_prefix("bytes ")
        .and_then(|rest| rest.split_once('/'))
        .and_then(|(range, _)| span("value", range).ok())
        .ok_or_else(|| {
            Failure::invalid(
                "content-range",
                format!("Content-Range {text:?} is not bytes <first>-<last>/<length or *>"),
            )
        })
}

fn wrong_length(span: Span, bytes: u64) -> Failure {
    Failure::invalid(
        "value",
        format!(
            "the range {}-{} has {} bytes, the value has {bytes}",
            span.first,
            span.last,
            span.count()
        ),
    )
}
