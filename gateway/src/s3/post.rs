//! Uploads by a browser's form (POST Object).
//!
//! The form's own fields say who asks and what may be stored ([`super::form`]), so it takes a way of
//! its own past the signature layer: fields, bounded, then the file as a stream, which is received
//! like any other body. The file is the last field that is looked at.

use super::access::{Gate, check_key, unknown};
use super::body::Watched;
use super::checksum::{Algorithm, FULL_OBJECT};
use super::claims::Claims;
use super::dress::{Making, make};
use super::form::{self, FIELDS_BYTES_MAX, Fields};
use super::metadata::{describe, refuse_unserved};
use super::receive::{Incoming, Length, receive};
use super::{Door, actions, tags};
use ::access::Caller;
use axum::body::Body;
use blockstore::object::Precondition;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{CONTENT_TYPE, ETAG, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use s3s::dto::{Metadata, StreamingBlob};
use s3s::path::S3Path;
use s3s::{S3Error, S3Result, s3_error};
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Bytes of a form that may be read ahead of what it gives on.
const UNREAD_BYTES_MAX: usize = 4 << 20;

/// Whether this is a browser's form.
pub(super) fn is_form(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let form = b"multipart/form-data";
    parts.method == http::Method::POST
        && kind.is_some_and(|kind| {
            kind.len() >= form.len() && kind[..form.len()].eq_ignore_ascii_case(form)
        })
}

/// Stores the file of a form.
pub(super) async fn answer(
    door: &Door,
    path: &S3Path,
    parts: &Parts,
    body: Watched,
) -> S3Result<Response<s3s::Body>> {
    let S3Path::Bucket { bucket } = path else {
        return Err(s3_error!(
            MethodNotAllowed,
            "The specified method is not allowed against this resource: a form is posted to a bucket"
        ));
    };
    let kind = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let boundary = multer::parse_boundary(kind.unwrap_or_default()).map_err(|bad| broken(&bad))?;
    let constraints = multer::Constraints::new().size_limit(
        // The fields are counted by hand: one of them is the file.
        multer::SizeLimit::new(),
    );
    let unread = Unread::default();
    let bytes = Paced::new(Body::new(body).into_data_stream(), unread.clone());
    let mut form = multer::Multipart::with_constraints(bytes, boundary, constraints);
    let mut fields = Fields::default();
    let file = loop {
        let next = form.next_field().await.map_err(|bad| broken(&bad))?;
        unread.reset();
        let Some(mut field) = next else {
            return Err(s3_error!(
                InvalidArgument,
                "POST requires exactly one file upload per request."
            ));
        };
        let name = field.name().unwrap_or_default().to_owned();
        if name.eq_ignore_ascii_case("file") {
            break field;
        }
        let mut value = Vec::new();
        while let Some(piece) = field.chunk().await.map_err(|bad| broken(&bad))? {
            unread.reset();
            value.extend_from_slice(&piece);
            if value.len() > FIELDS_BYTES_MAX {
                return Err(s3_error!(
                    MaxPostPreDataLengthExceededError,
                    "Your POST request fields preceding the upload file were too large: {name:?} \
                     has more than {FIELDS_BYTES_MAX} bytes"
                ));
            }
        }
        let value = String::from_utf8(value)
            .map_err(|_| s3_error!(InvalidArgument, "The field {name:?} is not UTF-8"))?;
        fields.add(&name, value)?;
    };
    let key = fields.key(file.file_name())?;
    check_key(&key)?;
    let (caller, sizes) = authorize(&door.gate, parts, &fields, (bucket, &key)).await?;
    store(
        door,
        parts,
        &fields,
        (bucket, &key),
        (caller, sizes),
        (file, unread),
    )
    .await
}

/// Who signed the form, whether its policy allows it, and whether they may. With the sizes that
/// the file may have.
async fn authorize(
    gate: &Gate,
    parts: &Parts,
    fields: &Fields,
    (bucket, key): (&str, &str),
) -> S3Result<(Caller, (u64, u64))> {
    let mut caller = super::caller(&parts.extensions);
    if let Some(signed) = fields.signed()? {
        let shown = gate.access.key(signed.access_key, signed.token);
        let known = shown.map_err(unknown)?;
        signed.verify(&known.secret)?;
        caller.principal = known.principal;
    }
    let sizes = fields.allowed(bucket, key, &form::now())?;
    let mut headers = fields.headers()?;
    refuse_unserved(&headers)?;
    let mut keys = actions::context(None, &headers, false, false)?;
    if let Some(set) = form_tags(fields)? {
        keys.extend(actions::asked_tags(&set));
        headers.insert("x-amz-tagging", HeaderValue::from_static(""));
    }
    keys.push(("s3:authType".to_owned(), "POST".to_owned()));
    let needs = actions::writing(&S3Path::object(bucket, key), &headers);
    let (gate, asker) = (gate.clone(), caller.clone());
    crate::blocking::run(move || gate.decide(&asker, &needs, &keys))
        .await
        .map_err(super::error::failed)?;
    Ok((caller, sizes))
}

async fn store(
    door: &Door,
    parts: &Parts,
    fields: &Fields,
    (bucket, key): (&str, &str),
    (caller, (least, most)): (Caller, (u64, u64)),
    (file, unread): (multer::Field<'static>, Unread),
) -> S3Result<Response<s3s::Body>> {
    let headers = fields.headers()?;
    let claims = Claims::of(&headers)?;
    let mut meta = describe(&headers, user_metadata(&headers))?;
    if let Some(set) = form_tags(fields)? {
        meta.tags = set;
    }
    let pieces = file.map(move |piece| {
        unread.reset();
        piece.map_err(std::io::Error::other)
    });
    let wanted = claims.algorithm().unwrap_or(Algorithm::Crc64Nvme);
    let incoming = Incoming {
        body: Some(StreamingBlob::wrap(pieces)),
        length: Length::AtMost(most),
        headers: &headers,
        trailers: None,
        claims: &claims,
        key: Some(key),
    };
    let received = receive(door, bucket, incoming, &[wanted]).await?;
    let length = received.writer.length_bytes();
    if length < least {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size: {length} bytes, the \
             policy asks for {least}"
        ));
    }
    meta.etag = received.sums.etag();
    meta.checksums = received.sums.kept(FULL_OBJECT);
    let making = Making {
        caller,
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        headers,
        meta,
        condition: Precondition::default(),
    };
    let (object, _) = make(door, making, received.writer).await?;
    reply(fields, (bucket, key), &object.meta.etag, parts)
}

/// Bytes that the form's reader took and has not given on.
#[derive(Clone, Default)]
struct Unread(Arc<AtomicUsize>);

impl Unread {
    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Hands the body on a piece at a time. The reader of the form takes whatever is ready into its
/// buffer, so without this a fast client, or a header without an end, would fill the memory.
struct Paced<S> {
    inner: S,
    unread: Unread,
    handed: bool,
}

impl<S> Paced<S> {
    fn new(inner: S, unread: Unread) -> Self {
        Self {
            inner,
            unread,
            handed: false,
        }
    }
}

impl<S: Stream<Item = Result<Bytes, axum::Error>> + Unpin> Stream for Paced<S> {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.handed) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.inner).poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            self.handed = true;
            let before = self.unread.0.fetch_add(bytes.len(), Ordering::Relaxed);
            if before > UNREAD_BYTES_MAX {
                let why = "a part of the form has no end";
                return Poll::Ready(Some(Err(axum::Error::new(why))));
            }
        }
        polled
    }
}

fn form_tags(fields: &Fields) -> S3Result<Option<tags::Tags>> {
    let Some(text) = fields.get("tagging") else {
        return Ok(None);
    };
    let mut reader = s3s::xml::Deserializer::new(text.as_bytes());
    let read = <s3s::dto::Tagging as s3s::xml::Deserialize>::deserialize(&mut reader);
    let tagging = read.map_err(|_| {
        s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published \
             schema: the field tagging"
        )
    })?;
    tags::of_xml(tagging.tag_set, tags::OBJECT_MAX).map(Some)
}

fn user_metadata(headers: &HeaderMap) -> Option<Metadata> {
    let mut user = Metadata::default();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix("x-amz-meta-") {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            user.insert(name.to_owned(), value);
        }
    }
    (!user.is_empty()).then_some(user)
}

/// As the form asks to be answered: a redirection, a document, or nothing.
fn reply(
    fields: &Fields,
    (bucket, key): (&str, &str),
    etag: &str,
    parts: &Parts,
) -> S3Result<Response<s3s::Body>> {
    let host = parts.headers.get(http::header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    // The bucket is in the host already, or else in the path.
    let posted_to = parts.uri.path().trim_end_matches('/');
    let location = format!("http://{host}{posted_to}/{}", encoded(key));
    let mut response = Response::new(s3s::Body::empty());
    let set = |response: &mut Response<s3s::Body>, name, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(&mut response, ETAG, format!("\"{etag}\""));
    let redirect = fields
        .get("success_action_redirect")
        .or_else(|| fields.get("redirect"))
        .and_then(|target| url::Url::parse(target).ok());
    if let Some(mut target) = redirect {
        target
            .query_pairs_mut()
            .append_pair("bucket", bucket)
            .append_pair("key", key)
            .append_pair("etag", &format!("\"{etag}\""));
        *response.status_mut() = StatusCode::SEE_OTHER;
        set(&mut response, LOCATION, target.into());
        return Ok(response);
    }
    set(&mut response, LOCATION, location.clone());
    *response.status_mut() = match fields.get("success_action_status") {
        Some("200") => StatusCode::OK,
        Some("201") => StatusCode::CREATED,
        _ => StatusCode::NO_CONTENT,
    };
    if response.status() == StatusCode::CREATED {
        let text = super::error::written;
        let document = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse><Location>{}</Location>\
             <Bucket>{}</Bucket><Key>{}</Key><ETag>&quot;{etag}&quot;</ETag></PostResponse>",
            text(&location),
            text(bucket),
            text(key)
        );
        *response.body_mut() = s3s::Body::from(Bytes::from(document));
        set(&mut response, CONTENT_TYPE, "application/xml".to_owned());
    }
    Ok(response)
}

fn encoded(key: &str) -> String {
    let mut encoded = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn broken(why: &multer::Error) -> S3Error {
    s3_error!(
        MalformedPOSTRequest,
        "The body of your POST request is not well-formed multipart/form-data: {why}"
    )
}
