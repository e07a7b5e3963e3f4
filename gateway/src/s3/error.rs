//! How S3 is told what went wrong.
//!
//! [`code_of`] is the one place where a store's error becomes an S3 code ("Error responses",
//! Amazon S3 API reference). [`finish`] gives every error reply the same document, with the
//! resource and the request id, whichever layer wrote it.

use blockstore::{Kind, Subject};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use s3s::{S3Error, S3ErrorCode};
use std::borrow::Cow;

/// A code that the protocol layer has no name for.
pub(super) fn custom(
    code: &'static str,
    status: StatusCode,
    message: impl Into<Cow<'static, str>>,
) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

/// The request is bad in a way that S3 has no better word for.
pub(super) fn bad_request(message: impl Into<Cow<'static, str>>) -> S3Error {
    custom("BadRequest", StatusCode::BAD_REQUEST, message)
}

/// A store's error as S3 tells it. Logged here, once, with its whole chain.
pub(super) fn failed(error: blockstore::Error) -> S3Error {
    let (kind, subject) = (error.kind(), error.subject());
    match kind {
        Kind::Corrupt | Kind::Internal => tracing::error!(?kind, ?subject, "{}", error.chain()),
        Kind::NoSpace | Kind::Unavailable | Kind::Fenced => {
            tracing::warn!(?kind, ?subject, "{}", error.chain());
        }
        Kind::Invalid
        | Kind::NotFound
        | Kind::Conflict
        | Kind::Precondition
        | Kind::Denied
        | Kind::Unsupported => tracing::debug!(?kind, ?subject, "{}", error.chain()),
    }
    let (code, status) = code_of(kind, subject);
    let message = match kind {
        Kind::Internal => {
            "We encountered an internal error. The server's log has the reason under \
                           this request's id."
                .to_owned()
        }
        Kind::Corrupt => format!(
            "The stored bytes are damaged and are not handed out; an operator must look: infall \
             check --scrub. ({error})"
        ),
        Kind::NoSpace if subject != Subject::Project => {
            format!("The store's disk is full: delete something or add space. ({error})")
        }
        Kind::Precondition => {
            format!("At least one of the pre-conditions you specified did not hold ({error})")
        }
        Kind::Invalid
        | Kind::NotFound
        | Kind::Conflict
        | Kind::Denied
        | Kind::NoSpace
        | Kind::Fenced
        | Kind::Unavailable
        | Kind::Unsupported => error.to_string(),
    };
    let mut told = S3Error::with_message(code, message);
    told.set_status_code(status);
    told.set_source(Box::new(error));
    told
}

/// What S3 calls it. No wildcard arm: a new kind or subject must be thought about here.
fn code_of(kind: Kind, subject: Subject) -> (S3ErrorCode, StatusCode) {
    use S3ErrorCode as Code;
    use StatusCode as Status;
    use Subject::{
        Bucket, Identity, Image, Journal, Object, Part, Project, Range, Record, Snapshot, Store,
        Upload, Version, Volume,
    };
    match (kind, subject) {
        (Kind::Invalid, Bucket) => (Code::InvalidBucketName, Status::BAD_REQUEST),
        (Kind::Invalid | Kind::NotFound, Part) => (Code::InvalidPart, Status::BAD_REQUEST),
        (Kind::Invalid | Kind::NotFound, Range) => {
            (Code::InvalidRange, Status::RANGE_NOT_SATISFIABLE)
        }
        (
            Kind::Invalid,
            Object | Version | Upload | Store | Volume | Snapshot | Image | Record | Journal
            | Identity | Project,
        ) => (Code::InvalidArgument, Status::BAD_REQUEST),

        (Kind::NotFound, Bucket) => (Code::NoSuchBucket, Status::NOT_FOUND),
        (Kind::NotFound, Upload) => (Code::NoSuchUpload, Status::NOT_FOUND),
        (Kind::NotFound, Version) => (Code::NoSuchVersion, Status::NOT_FOUND),
        (
            Kind::NotFound,
            Object | Store | Volume | Snapshot | Image | Record | Journal | Identity | Project,
        ) => (Code::NoSuchKey, Status::NOT_FOUND),

        (Kind::Conflict, Bucket) => (Code::BucketAlreadyOwnedByYou, Status::CONFLICT),
        (
            Kind::Conflict,
            Object | Version | Upload | Part | Range | Store | Volume | Snapshot | Image | Record
            | Journal | Identity | Project,
        ) => (Code::OperationAborted, Status::CONFLICT),

        (Kind::Precondition, _) => (Code::PreconditionFailed, Status::PRECONDITION_FAILED),
        (Kind::Denied, _) => (Code::AccessDenied, Status::FORBIDDEN),
        (Kind::Fenced | Kind::Unavailable, _) => {
            (Code::ServiceUnavailable, Status::SERVICE_UNAVAILABLE)
        }
        // There is room on the disk, but not for this project.
        (Kind::NoSpace, Project) => (Code::Custom("QuotaExceeded".into()), Status::FORBIDDEN),
        // RFC 4918, 11.5. S3 has no code of its own for it, and 503 would invite SDKs to try again.
        (Kind::NoSpace, _) => (
            Code::Custom("InsufficientStorage".into()),
            Status::INSUFFICIENT_STORAGE,
        ),
        (Kind::Unsupported, _) => (Code::NotImplemented, Status::NOT_IMPLEMENTED),
        (Kind::Corrupt | Kind::Internal, _) => (Code::InternalError, Status::INTERNAL_SERVER_ERROR),
    }
}

/// An error as a reply of its own, still to be finished.
pub(super) fn reply(error: S3Error) -> Response<s3s::Body> {
    let status = error.status_code();
    error.to_http_response().unwrap_or_else(|unwritten| {
        tracing::error!(?unwritten, "an error reply could not be written");
        let mut response = Response::new(s3s::Body::empty());
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    })
}

/// Gives an error reply its final document; a reply that is none passes as it is.
pub(super) fn finish(
    mut response: Response<s3s::Body>,
    resource: &str,
    request_id: &str,
) -> Response<s3s::Body> {
    let status = response.status();
    if status.is_success() {
        return response;
    }
    if status == StatusCode::NOT_MODIFIED {
        // RFC 9110, 15.4.5: no content.
        *response.body_mut() = s3s::Body::empty();
        for header in [CONTENT_LENGTH, CONTENT_TYPE] {
            response.headers_mut().remove(header);
        }
        return response;
    }
    let written = response.body().bytes().unwrap_or_default();
    let written = String::from_utf8_lossy(&written);
    let code = inside(&written, "Code").unwrap_or("InternalError");
    let document = document(code, inside(&written, "Message"), resource, request_id);
    *response.body_mut() = s3s::Body::from(Bytes::from(document));
    response.headers_mut().remove(CONTENT_LENGTH);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// `code` and `message` are written already, the other two not.
fn document(code: &str, message: Option<&str>, resource: &str, request_id: &str) -> String {
    let message = message.map_or_else(|| words_for(code), Cow::Borrowed);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{message}</Message><Resource>{}</Resource><RequestId>{}</RequestId></Error>",
        written(resource),
        written(request_id)
    )
}

/// Text as XML writes it.
pub(super) fn written(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => written.push_str("&lt;"),
            '>' => written.push_str("&gt;"),
            '&' => written.push_str("&amp;"),
            other => written.push(other),
        }
    }
    written
}

/// What an element holds, as it is written in a document of this crate or the protocol layer.
fn inside<'a>(document: &'a str, element: &str) -> Option<&'a str> {
    let (_, behind) = document.split_once(&format!("<{element}>"))?;
    let (text, _) = behind.split_once(&format!("</{element}>"))?;
    Some(text)
}

/// Words for what the protocol layer refuses without any.
fn words_for(code: &str) -> Cow<'static, str> {
    Cow::Borrowed(match code {
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check \
             your secret key and signing method."
        }
        "InvalidBucketName" => {
            "The specified bucket is not valid: 3 to 63 lower-case letters, digits, dots and \
             hyphens, with a letter or digit at both ends, and no IP address."
        }
        "InvalidURI" => "Couldn't parse the specified URI: it must be percent-encoded UTF-8.",
        "KeyTooLongError" => "Your key is too long: at most 1024 bytes of UTF-8.",
        "MaxMessageLengthExceeded" => "Your request was too big.",
        "MalformedXML" => {
            "The XML you provided was not well-formed or did not validate against our published \
             schema."
        }
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "MissingContentLength" => "You must provide the Content-Length HTTP header.",
        "IncompleteBody" => {
            "You did not provide the number of bytes specified by the Content-Length HTTP header."
        }
        "InternalError" => {
            "We encountered an internal error. The server's log has the reason under this request's \
             id."
        }
        other => return Cow::Owned(format!("The request was refused: {other}.")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::s3_error;

    fn told(kind: Kind, subject: Subject) -> (String, u16) {
        let error = failed(blockstore::Error::new(kind, subject, "the words"));
        (
            error.code().as_str().to_owned(),
            error.status_code().unwrap().as_u16(),
        )
    }

    #[test]
    fn the_store_s_errors_have_the_names_that_clients_know() {
        for (kind, subject, code, status) in [
            (Kind::NotFound, Subject::Bucket, "NoSuchBucket", 404),
            (Kind::NotFound, Subject::Object, "NoSuchKey", 404),
            (Kind::NotFound, Subject::Upload, "NoSuchUpload", 404),
            (Kind::Invalid, Subject::Part, "InvalidPart", 400),
            (Kind::Invalid, Subject::Range, "InvalidRange", 416),
            (Kind::Invalid, Subject::Bucket, "InvalidBucketName", 400),
            (
                Kind::Conflict,
                Subject::Bucket,
                "BucketAlreadyOwnedByYou",
                409,
            ),
            (
                Kind::Precondition,
                Subject::Object,
                "PreconditionFailed",
                412,
            ),
            (Kind::Denied, Subject::Object, "AccessDenied", 403),
            (Kind::Unavailable, Subject::Store, "ServiceUnavailable", 503),
            (Kind::NoSpace, Subject::Store, "InsufficientStorage", 507),
            (Kind::Corrupt, Subject::Object, "InternalError", 500),
            (Kind::Unsupported, Subject::Store, "NotImplemented", 501),
        ] {
            assert_eq!(
                told(kind, subject),
                (code.to_owned(), status),
                "{kind:?} {subject:?}"
            );
        }
    }

    #[test]
    fn an_internal_error_keeps_its_inside_to_the_log() {
        let cause = std::io::Error::other("/var/lib/secret-place");
        let error =
            blockstore::Error::new(Kind::Internal, Subject::Store, "cannot write /var/lib/x")
                .because(cause);
        assert!(!failed(error).message().unwrap().contains("/var/lib"));
    }

    fn finished(response: Response<s3s::Body>) -> String {
        let response = finish(response, "/b/<k>", "id-1");
        String::from_utf8(response.body().bytes().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn an_error_reply_names_code_message_resource_and_request() {
        let document = finished(reply(s3_error!(NoSuchKey, "no key \"<k>\" & such")));
        assert!(document.contains("<Code>NoSuchKey</Code>"), "{document}");
        assert!(document.contains("&lt;k&gt;"), "{document}");
        assert!(document.contains(" &amp; such</Message>"), "{document}");
        assert!(
            document.contains("<RequestId>id-1</RequestId>"),
            "{document}"
        );
    }

    #[test]
    fn a_refusal_without_words_gets_some() {
        let response = s3_error!(SignatureDoesNotMatch).to_http_response().unwrap();
        let document = finished(response);
        assert!(document.contains("Check your secret key"), "{document}");
        assert!(
            finished(s3_error!(ExpiredToken).to_http_response().unwrap()).contains("ExpiredToken")
        );
    }

    #[test]
    fn not_modified_has_no_content() {
        let response = finish(reply(s3_error!(NotModified)), "/b/k", "id-1");
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(response.body().bytes().unwrap_or_default().len(), 0);
    }
}
