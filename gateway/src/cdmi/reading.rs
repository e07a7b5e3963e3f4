//! Reading: GET and HEAD.
//!
//! A data object is shown as CDMI (fields in JSON, the value in its encoding) or as what it is
//! (bytes, with ranges and conditions of RFC 9110). Values of any size leave in pieces.

use super::ask::Work;
use super::dialect::Media;
use super::failure::{Failure, Reply};
use super::metadata::{Encoding, Slot};
use super::place::Place;
use super::query::{Field, span};
use super::stream::{PIECE_BYTES, in_json, read_now, send_json, send_raw, turn};
use super::{capabilities, containers, show, snapshots, volumes};
use crate::blocking;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use blockstore::Kind;
use blockstore::object::{Object, ReadAt};
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// System headers that stand on a value shown as it is.
const SHOWN_HEADERS: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];

/// What is answered.
enum Answer {
    Whole(Response),
    /// A value that is too large to be held: the answer's head and what follows it.
    Streamed {
        status: StatusCode,
        headers: HeaderMap,
        body: Arc<dyn ReadAt>,
        bytes: Range<u64>,
        form: Form,
    },
}

enum Form {
    Raw,
    Json {
        head: Vec<u8>,
        encoding: Encoding,
        tail: &'static [u8],
    },
}

/// GET and HEAD of anything.
pub(super) async fn read(work: Work) -> Reply {
    let (work, answer) = blocking::run(move || {
        let answer = answer(&work)?;
        Ok::<_, Failure>((work, answer))
    })
    .await?;
    match answer {
        Answer::Whole(response) => Ok(response),
        Answer::Streamed {
            status,
            headers,
            body,
            bytes,
            form,
        } => {
            let large = bytes.end - bytes.start > PIECE_BYTES as u64;
            let permit = match large {
                true => Some(turn(&work.door.outgoing).await?),
                false => None,
            };
            let body = match form {
                Form::Raw => send_raw(body, bytes, permit),
                Form::Json {
                    head,
                    encoding,
                    tail,
                } => send_json(head, body, bytes, encoding, tail, permit),
            };
            let mut response = Response::new(body);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok(response)
        }
    }
}

fn answer(work: &Work) -> Reply<Answer> {
    let whole = match &work.ask.place {
        Place::Root => containers::read_root(work)?,
        Place::Container { bucket, prefix } => containers::read(work, bucket, prefix)?,
        Place::Object { bucket, key } => return object(work, bucket, key),
        Place::Snapshots { bucket, prefix } => snapshots::read_all(work, bucket, prefix)?,
        Place::FrozenContainer {
            bucket,
            prefix,
            snapshot,
            below,
        } => snapshots::read(work, (bucket, prefix, snapshot, below))?,
        Place::FrozenObject {
            bucket,
            prefix,
            snapshot,
            below,
        } => {
            let (object, body) = snapshots::open(work, (bucket, prefix, snapshot, below))?;
            return found(work, &object, body);
        }
        Place::Volumes => volumes::read_all(work)?,
        Place::Volume(name) => volumes::read(work, name)?,
        Place::Capabilities(path) => capabilities::read(work, path)?,
        Place::ById(_) => {
            return Err(Failure::missing(
                "object",
                "cdmi_objectid/ is not listed: ask for cdmi_objectid/<id>",
            ));
        }
    };
    Ok(Answer::Whole(whole))
}

fn object(work: &Work, bucket: &str, key: &str) -> Reply<Answer> {
    if key.is_empty() {
        work.may_list(bucket, "")?;
        work.store().bucket(bucket)?;
        return with_slash(work);
    }
    work.may_object("s3:GetObject", bucket, key)?;
    match work.store().object_open(bucket, key) {
        Ok((object, body)) => found(work, &object, body),
        Err(missing) if missing.kind() == Kind::NotFound => {
            // CDMI 1.1.1, 9.1: a container asked for without its slash is at its URI with it.
            if work.store().bucket(bucket).is_ok() && work.is_prefix(bucket, &format!("{key}/"))? {
                work.may_list(bucket, key)?;
                return with_slash(work);
            }
            Err(missing.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn with_slash(work: &Work) -> Reply<Answer> {
    let mut location = work.ask.place.uri(work.root());
    if !location.ends_with('/') {
        location.push('/');
    }
    if let Some(query) = &work.ask.query {
        location.push('?');
        location.push_str(query);
    }
    show::redirect(StatusCode::MOVED_PERMANENTLY, &location).map(Answer::Whole)
}

/// Where a reference leads (CDMI 1.1.1, 7.2).
pub(super) fn follow(work: &Work, uri: &str) -> Reply {
    let location = match uri.contains("://") {
        true => uri.to_owned(),
        false => {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let mut place = Place::of_uri(path, work.root())?.uri(work.root());
            if !query.is_empty() {
                place.push('?');
                place.push_str(query);
            }
            place
        }
    };
    show::redirect(StatusCode::FOUND, &location)
}

fn found(work: &Work, object: &Object, body: Arc<dyn ReadAt>) -> Reply<Answer> {
    let slot = Slot::of(object);
    if let Some(uri) = &slot.reference {
        return follow(work, uri).map(Answer::Whole);
    }
    if work.ask.dialect.wants(Media::Object)? {
        return as_cdmi(work, object, &slot, body);
    }
    let only_value = work
        .ask
        .selection
        .fields()
        .iter()
        .all(|field| matches!(field, Field::Named("value") | Field::Value(_)));
    if only_value {
        return as_bytes(work, object, body);
    }
    // Fields without CDMI's type (CDMI 1.1.1, 8.5): the same JSON.
    work.ask.dialect.expect("application/json")?;
    let mut answer = as_cdmi(work, object, &slot, body)?;
    let headers = match &mut answer {
        Answer::Whole(response) => response.headers_mut(),
        Answer::Streamed { headers, .. } => headers,
    };
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(answer)
}

fn as_cdmi(work: &Work, object: &Object, slot: &Slot, body: Arc<dyn ReadAt>) -> Reply<Answer> {
    let selection = &work.ask.selection;
    let mut shown = show::data_object(work, selection, &work.ask.place, object, slot)?;
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(Media::Object.text()),
    );
    put(&mut headers, header::ETAG, &quoted(object));
    let bytes = match selection.value() {
        Some(asked) => clipped(asked.first, asked.last, object.length_bytes)?,
        None => 0..object.length_bytes,
    };
    if selection.shows("valuerange") {
        let range = match bytes.is_empty() {
            true => String::new(),
            false => format!("{}-{}", bytes.start, bytes.end - 1),
        };
        shown.insert("valuerange".to_owned(), range.into());
    }
    let with_value = selection.shows("value") && !slot.processing;
    let text = |shown: &serde_json::Map<String, Value>| Value::Object(shown.clone()).to_string();
    if !with_value {
        let mut response = Response::new(Body::from(text(&shown)));
        *response.headers_mut() = headers;
        return Ok(Answer::Whole(response));
    }
    let encoding = slot.encoding_of(object);
    check_cut(encoding, object, body.as_ref(), &bytes)?;
    if bytes.end - bytes.start <= PIECE_BYTES as u64 {
        let value = value(encoding, &read_now(body.as_ref(), &bytes)?)?;
        let mut all = text(&shown).into_bytes();
        all.pop();
        if !shown.is_empty() {
            all.push(b',');
        }
        all.extend_from_slice(b"\"value\":");
        all.extend_from_slice(value.as_bytes());
        all.push(b'}');
        let mut response = Response::new(Body::from(all));
        *response.headers_mut() = headers;
        return Ok(Answer::Whole(response));
    }
    // The value comes last, so that all before it can leave while it is read.
    let mut head = text(&shown).into_bytes();
    head.pop();
    if !shown.is_empty() {
        head.push(b',');
    }
    head.extend_from_slice(b"\"value\":");
    let quoted = encoding != Encoding::Json;
    if quoted {
        head.push(b'"');
    }
    Ok(Answer::Streamed {
        status: StatusCode::OK,
        headers,
        body,
        bytes,
        form: Form::Json {
            head,
            encoding,
            tail: if quoted { b"\"}" } else { b"}" },
        },
    })
}

/// A small value as it stands in JSON.
fn value(encoding: Encoding, bytes: &[u8]) -> Reply<String> {
    match encoding {
        Encoding::Base64 => Ok(format!("\"{}\"", BASE64.encode(bytes))),
        Encoding::Utf8 => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(format!("\"{}\"", in_json(text)?)),
            Err(_) => Err(not_as_written("UTF-8")),
        },
        Encoding::Json => match std::str::from_utf8(bytes) {
            Ok(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(not_as_written("JSON")),
        },
    }
}

fn not_as_written(form: &str) -> Failure {
    Failure::new(
        Kind::Corrupt,
        "object",
        format!("the value is not the {form} that it was when it was written"),
    )
}

/// A part of a text has to begin and end between characters; a part of JSON is none.
fn check_cut(
    encoding: Encoding,
    object: &Object,
    body: &dyn ReadAt,
    bytes: &Range<u64>,
) -> Reply<()> {
    let whole = bytes.start == 0 && bytes.end == object.length_bytes;
    match encoding {
        Encoding::Json if !whole => Err(Failure::invalid(
            "value",
            "a value kept as JSON is read whole; as bytes it is read in ranges",
        )),
        Encoding::Utf8 if !whole => {
            for at in [bytes.start, bytes.end] {
                if at == object.length_bytes {
                    continue;
                }
                let mut byte = [0];
                body.read_at(at, &mut byte)?;
                if byte[0] & 0xC0 == 0x80 {
                    return Err(Failure::invalid(
                        "value",
                        format!(
                            "byte {at} is inside a character: ask for whole ones, or read bytes \
                             without CDMI's content type"
                        ),
                    ));
                }
            }
            Ok(())
        }
        Encoding::Json | Encoding::Utf8 | Encoding::Base64 => Ok(()),
    }
}

fn clipped(first: u64, last: u64, length: u64) -> Reply<Range<u64>> {
    if first >= length {
        return Err(Failure::invalid(
            "value",
            format!("the value has {length} bytes, so byte {first} is none of them"),
        ));
    }
    Ok(first..length.min(last.saturating_add(1)))
}

fn as_bytes(work: &Work, object: &Object, body: Arc<dyn ReadAt>) -> Reply<Answer> {
    let mimetype = show::mimetype(object);
    work.ask.dialect.expect(mimetype)?;
    let mut headers = HeaderMap::new();
    put(&mut headers, header::ETAG, &quoted(object));
    put(&mut headers, header::LAST_MODIFIED, &stamp(object));
    if let Some(answer) = conditional(work, object, &headers)? {
        return Ok(answer);
    }
    put(&mut headers, header::CONTENT_TYPE, mimetype);
    put(&mut headers, header::ACCEPT_RANGES, "bytes");
    for name in SHOWN_HEADERS {
        if let Some(value) = object.meta.headers.get(name) {
            put(&mut headers, HeaderName::from_static(name), value);
        }
    }
    let (status, bytes) = match asked_range(work, object)? {
        // Another URI, of which this is the whole.
        Some(bytes) if work.ask.selection.value().is_some() => (StatusCode::OK, bytes),
        Some(bytes) => {
            let range = format!(
                "bytes {}-{}/{}",
                bytes.start,
                bytes.end - 1,
                object.length_bytes
            );
            put(&mut headers, header::CONTENT_RANGE, &range);
            (StatusCode::PARTIAL_CONTENT, bytes)
        }
        None => (StatusCode::OK, 0..object.length_bytes),
    };
    let length = (bytes.end - bytes.start).to_string();
    put(&mut headers, header::CONTENT_LENGTH, &length);
    Ok(Answer::Streamed {
        status,
        headers,
        body,
        bytes,
        form: Form::Raw,
    })
}

/// The asked part of a value that is shown as it is: `?value:0-9`, or one range of `Range`.
fn asked_range(work: &Work, object: &Object) -> Reply<Option<Range<u64>>> {
    let length = object.length_bytes;
    if let Some(asked) = work.ask.selection.value() {
        return clipped(asked.first, asked.last, length).map(Some);
    }
    let Some(text) = work.ask.headers.get(header::RANGE) else {
        return Ok(None);
    };
    // If-Range with another tag, other units and several ranges: the whole (RFC 9110, 14.2).
    if let Some(tag) = work.ask.headers.get(header::IF_RANGE)
        && tag.as_bytes() != quoted(object).as_bytes()
    {
        return Ok(None);
    }
    let Some(one) = text
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("bytes="))
        .filter(|list| !list.contains(','))
        .map(str::trim)
    else {
        return Ok(None);
    };
    let range = match one.split_once('-') {
        Some(("", last)) => last.parse().ok().map(|count: u64| {
            let count = count.min(length);
            length - count..length
        }),
        Some((first, "")) => first.parse().ok().map(|first: u64| first..length),
        Some(_) => span("range", one)
            .ok()
            .map(|span| span.first..length.min(span.last.saturating_add(1))),
        None => None,
    };
    match range {
        // Not a range that RFC 9110 knows: as if it were not there.
        None => Ok(None),
        Some(range) if range.start < range.end => Ok(Some(range)),
        Some(_) => Err(Failure::invalid(
            "range",
            format!("the value has {length} bytes, and Range asks for none of them"),
        )
        .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
        .with_header(header::CONTENT_RANGE, &format!("bytes */{length}"))),
    }
}

/// What the conditions of the request say of the object (RFC 9110, 13.2.2); `None`: go on.
fn conditional(work: &Work, object: &Object, headers: &HeaderMap) -> Reply<Option<Answer>> {
    let matches = |tags: &[String]| {
        tags.iter()
            .any(|tag| tag == "*" || *tag == object.meta.etag)
    };
    let date = |name: HeaderName| {
        let value = work.ask.headers.get(name)?.to_str().ok()?;
        httpdate::parse_http_date(value).ok()
    };
    let modified = UNIX_EPOCH + Duration::from_millis(object.modified_ms / 1000 * 1000);
    let wanted = work.etags(&header::IF_MATCH)?;
    let known = work.etags(&header::IF_NONE_MATCH)?;
    let failed = match wanted.is_empty() {
        false => !matches(&wanted),
        true => date(header::IF_UNMODIFIED_SINCE).is_some_and(|since| modified > since),
    };
    if failed {
        return Err(Failure::new(
            Kind::Precondition,
            "object",
            "the object is not the one that the request's conditions want",
        ));
    }
    let unchanged = match known.is_empty() {
        false => matches(&known),
        true => date(header::IF_MODIFIED_SINCE).is_some_and(|since| modified <= since),
    };
    if !unchanged {
        return Ok(None);
    }
    let mut response = show::empty(StatusCode::NOT_MODIFIED);
    *response.headers_mut() = headers.clone();
    Ok(Some(Answer::Whole(response)))
}

fn quoted(object: &Object) -> String {
    format!("\"{}\"", object.meta.etag)
}

fn stamp(object: &Object) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(object.modified_ms))
}

/// Sets a header; a value that no header can carry is left out.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
