//! One request: what it asks, and whether that may be.

use super::dialect::{Dialect, Media};
use super::failure::{Failure, Reply};
use super::place::Place;
use super::query::Selection;
use super::{Door, identity};
use access::{Caller, Principal, Resource};
use axum::http::{HeaderMap, StatusCode, header};
use blockstore::object::{ListQuery, Object, Precondition};
use blockstore::{Kind, Store, Who};
use std::sync::Arc;

/// What is asked.
pub(super) struct Ask {
    pub(super) caller: Caller,
    pub(super) dialect: Dialect,
    pub(super) selection: Selection,
    pub(super) place: Place,
    pub(super) headers: HeaderMap,
    /// The query as it came, for a redirection.
    pub(super) query: Option<String>,
}

/// A request and what it works on.
pub(super) struct Work {
    pub(super) door: Arc<Door>,
    pub(super) ask: Ask,
}

impl Work {
    pub(super) fn store(&self) -> &Store {
        &self.door.store
    }

    pub(super) fn who(&self) -> Who {
        self.ask.caller.who()
    }

    /// The root of the answer's URIs.
    pub(super) fn root(&self) -> &str {
        &self.ask.dialect.root
    }

    /// The same request, at the place that its id stands for.
    pub(super) fn located(mut self) -> Reply<Self> {
        if let Place::ById(id) = &self.ask.place
            && !id.is_empty()
        {
            self.ask.place = identity::find(&self.door, id)?;
        }
        Ok(self)
    }

    /// Whether the caller may. 401 where nobody has said who asks.
    pub(super) fn may(
        &self,
        action: &str,
        resource: &Resource<'_>,
        context: &[(&str, &str)],
    ) -> Reply<()> {
        let asked = self
            .door
            .access
            .authorize(&self.ask.caller, action, resource, context);
        match asked {
            Err(denied)
                if denied.kind() == Kind::Denied
                    && self.ask.caller.principal == Principal::Anonymous =>
            {
                Err(Failure::unauthenticated(&denied.to_string()))
            }
            asked => Ok(asked?),
        }
    }

    /// Whether something is shown in a list: what the caller may not look at is not.
    pub(super) fn sees(&self, action: &str, resource: &Resource<'_>) -> bool {
        self.door.access.visible(&self.ask.caller, action, resource)
    }

    pub(super) fn may_object(&self, action: &str, bucket: &str, key: &str) -> Reply<()> {
        self.may(action, &Resource::Object(bucket, key), &[])
    }

    pub(super) fn may_bucket(&self, action: &str, bucket: &str) -> Reply<()> {
        self.may(action, &Resource::Bucket(bucket), &[])
    }

    /// Whether the caller may see what lies under a prefix.
    pub(super) fn may_list(&self, bucket: &str, prefix: &str) -> Reply<()> {
        self.may(
            "s3:ListBucket",
            &Resource::Bucket(bucket),
            &[("s3:prefix", prefix), ("s3:delimiter", "/")],
        )
    }

    /// What the body is, where it is CDMI. 400 where CDMI is declared and the body says nothing.
    pub(super) fn is_cdmi_body(&self) -> Reply<Option<Media>> {
        let dialect = &self.ask.dialect;
        let needs_type = matches!(self.ask.place, Place::Object { .. })
            && dialect.declared()
            && !dialect.typed();
        if needs_type {
            return Err(Failure::invalid(
                "content-type",
                "a CDMI request says what its body is: send Content-Type: application/cdmi-object",
            ));
        }
        Ok(dialect.content())
    }

    /// The object under a key, if there is one. NotFound for a missing bucket.
    pub(super) fn object(&self, bucket: &str, key: &str) -> Reply<Option<Object>> {
        if key.is_empty() {
            return Ok(None);
        }
        match self.store().object_head(bucket, key) {
            Ok(object) => Ok(Some(object)),
            Err(missing)
                if missing.kind() == Kind::NotFound
                    && missing.subject() == blockstore::Subject::Object =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is a key that begins so.
    pub(super) fn is_prefix(&self, bucket: &str, prefix: &str) -> Reply<bool> {
        let query = ListQuery {
            prefix: prefix.to_owned(),
            max: 1,
            ..ListQuery::default()
        };
        Ok(!self.store().object_list(bucket, &query)?.objects.is_empty())
    }

    /// The conditions on what a write replaces (RFC 9110, 13.1).
    pub(super) fn precondition(&self) -> Reply<Precondition> {
        Ok(Precondition {
            if_match: self.etags(&header::IF_MATCH)?,
            if_none_match: self.etags(&header::IF_NONE_MATCH)?,
            ..Precondition::default()
        })
    }

    /// The entity tags of a header, without quotes.
    pub(super) fn etags(&self, name: &header::HeaderName) -> Reply<Vec<String>> {
        let mut tags = Vec::new();
        for value in self.ask.headers.get_all(name) {
            let text = value.to_str().map_err(|_| {
                Failure::invalid("header", format!("{name} is not made of entity tags"))
            })?;
            for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
                let tag = tag.strip_prefix("W/").unwrap_or(tag);
                tags.push(tag.trim_matches('"').to_owned());
            }
        }
        Ok(tags)
    }

    /// A condition of the client's stays one; ours, that nothing came in between, is a conflict.
    pub(super) fn raced(given: &Precondition, error: blockstore::Error) -> Failure {
        let ours = given.if_match.is_empty() && given.if_none_match.is_empty();
        let conflicts = ours && error.kind() == Kind::Precondition;
        let failure = Failure::from(error);
        if conflicts {
            return failure.with_status(StatusCode::CONFLICT);
        }
        failure
    }
}
