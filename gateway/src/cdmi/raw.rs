//! Writing data objects as plain bytes (CDMI 1.1.1, 8.3 and 8.7): PUT, PATCH and POST without CDMI's
//! media types.
//!
//! Whatever can refuse a write does so before a byte of its body is asked for; the body goes to the
//! store in pieces, hashed on the way.

use super::ask::Work;
use super::body::announced;
use super::failure::{Failure, Reply};
use super::metadata::{Encoding, Slot};
use super::partial::{self, Bounds};
use super::show;
use super::stream::{Digests, NewValue, receive, turn};
use super::writing::{Target, check_type, locate, more_follows, named, sealed, target, unnamed};
use crate::blocking;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use blockstore::object::ObjectMeta;

/// PUT of plain bytes: a new value, or a part of one.
pub(super) async fn put(work: Work, body: Body) -> Reply {
    raw(work, body, false).await
}

/// PATCH with plain bytes: a part of a value that is there.
pub(super) async fn patch(work: Work, body: Body) -> Reply {
    raw(work, body, true).await
}

/// POST of plain bytes.
pub(super) async fn post(work: Work, body: Body) -> Reply {
    let (work, prefix) = blocking::run(move || unnamed(work)).await?;
    let (work, answered) = raw_at(work, body, false).await?;
    match answered.status() {
        StatusCode::CREATED => blocking::run(move || named(&work, &prefix)).await,
        _ => Ok(answered),
    }
}

async fn raw(work: Work, body: Body, patch: bool) -> Reply {
    Ok(raw_at(work, body, patch).await?.1)
}

async fn raw_at(work: Work, body: Body, patch: bool) -> Reply<(Work, Response)> {
    let announced = announced(&work)?;
    // All that can refuse does so before a byte of the body is asked for.
    let (work, plan) = blocking::run(move || {
        let plan = plan(&work, announced, patch)?;
        Ok::<_, Failure>((work, plan))
    })
    .await?;
    match plan {
        Plan::Elsewhere(response) => Ok((work, response)),
        Plan::Part(part) => {
            let (bounds, edit) = *part;
            let _turn = turn(&work.door.incoming).await?;
            let edit = receive(body, announced, edit).await?;
            blocking::run(move || {
                let response = partial::publish(&work, &bounds, edit, None)?;
                Ok((work, response))
            })
            .await
        }
        Plan::Whole(whole) => {
            let (target, value) = *whole;
            let _turn = turn(&work.door.incoming).await?;
            let value = receive(body, announced, value).await?;
            blocking::run(move || {
                let response = commit_raw(&work, &target, value)?;
                Ok((work, response))
            })
            .await
        }
    }
}

enum Plan {
    Elsewhere(Response),
    Part(Box<(Bounds, partial::Editing)>),
    Whole(Box<(Target, NewValue)>),
}

fn plan(work: &Work, announced: Option<u64>, patch: bool) -> Reply<Plan> {
    let target = match target(work)? {
        Ok(target) => target,
        Err(elsewhere) => return Ok(Plan::Elsewhere(elsewhere)),
    };
    if patch && target.there.is_none() {
        return Err(Failure::missing("object", "PATCH changes what is there"));
    }
    if let Some(bytes) = announced {
        work.store()
            .quota_admit_object(&target.bucket, &target.key, bytes)?;
    }
    if let Some(text) = content_type(work)? {
        check_type(text)?;
    }
    let target = match partial::asked(work, target, announced)? {
        Ok(mut bounds) => {
            let edit = partial::begin(work, &mut bounds)?;
            return Ok(Plan::Part(Box::new((bounds, edit))));
        }
        Err(target) => target,
    };
    if !work.ask.selection.is_everything() && !work.ask.selection.names("value") {
        return Err(Failure::invalid(
            "query",
            "only the value is written without CDMI's content type",
        ));
    }
    let value = NewValue {
        writer: work
            .store()
            .object_writer_for(&target.bucket, &target.key)?,
        digests: Digests::new(),
    };
    Ok(Plan::Whole(Box::new((target, value))))
}

fn content_type(work: &Work) -> Reply<Option<&str>> {
    let Some(value) = work.ask.headers.get(header::CONTENT_TYPE) else {
        return Ok(None);
    };
    let text = value.to_str();
    text.map(Some)
        .map_err(|_| Failure::invalid("content-type", "the Content-Type is not ASCII"))
}

fn commit_raw(work: &Work, target: &Target, value: NewValue) -> Reply {
    let sums = value.digests.finish();
    // The body took its time; what was said of the object meanwhile stays said.
    let _alone = work.door.turns.take(&target.bucket, &target.key);
    let target = &target.refreshed(work)?;
    let mut meta = match &target.there {
        Some(there) => there.meta.clone(),
        None => ObjectMeta::default(),
    };
    let told = content_type(work)?;
    if let Some(told) = told {
        meta.headers
            .insert("content-type".to_owned(), told.to_owned());
    }
    let says_text = told.is_some_and(|told| {
        let told = told.to_ascii_lowercase().replace([' ', '"'], "");
        told.split(';').any(|part| part == "charset=utf-8")
    });
    // CDMI 1.1.1, 8.3.4: text where the client says so (and it is), bytes otherwise.
    let encoding = match says_text && sums.is_text {
        true => Encoding::Utf8,
        false => Encoding::Base64,
    };
    let slot = Slot {
        processing: more_follows(work),
        ..target.slot()
    };
    let meta = sealed(meta, slot, encoding, &sums)?;
    let object = value
        .writer
        .commit(&work.who(), &target.key, meta, &target.settled())
        .map_err(|error| Work::raced(&target.condition, error))?;
    let status = match target.there {
        Some(_) => StatusCode::NO_CONTENT,
        None => StatusCode::CREATED,
    };
    let mut response = show::empty(status);
    locate(&mut response, &work.ask.place.uri(work.root()));
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", object.meta.etag)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}
