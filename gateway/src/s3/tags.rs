//! Tags of objects and buckets: reading them strictly, and the operations on an object's.
//!
//! ("Categorizing your objects using tags", Amazon S3 user guide.)

use super::{Door, access, actions, who};
use blockstore::object::{Change, Precondition};
use s3s::dto::{
    DeleteObjectTaggingInput, DeleteObjectTaggingOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, PutObjectTaggingInput, PutObjectTaggingOutput, Tag,
};
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::collections::BTreeMap;

/// Tags of an object at most.
pub(super) const OBJECT_MAX: usize = 10;
/// Tags of a bucket at most.
pub(super) const BUCKET_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

/// Tags by their keys.
pub(super) type Tags = BTreeMap<String, String>;

/// From XML. InvalidTag where S3 would not take them.
pub(super) fn of_xml(listed: Vec<Tag>, most: usize) -> S3Result<Tags> {
    let pairs = listed
        .into_iter()
        .map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()));
    checked(pairs, most)
}

/// From `x-amz-tagging`, which is written as a query string is.
pub(super) fn of_header(value: &str) -> S3Result<Tags> {
    let pairs = form_urlencoded::parse(value.as_bytes())
        .map(|(key, value)| (key.into_owned(), value.into_owned()));
    checked(pairs, OBJECT_MAX)
}

/// As XML shows them.
pub(super) fn shown(tags: &Tags) -> Vec<Tag> {
    tags.iter()
        .map(|(key, value)| Tag {
            key: Some(key.clone()),
            value: Some(value.clone()),
        })
        .collect()
}

fn checked(pairs: impl Iterator<Item = (String, String)>, most: usize) -> S3Result<Tags> {
    let mut tags = Tags::new();
    for (key, value) in pairs {
        check(&key, &value)?;
        if tags.len() == most {
            return Err(invalid(&format!("there can be {most} tags at most")));
        }
        if let Some(before) = tags.insert(key, value) {
            return Err(invalid(&format!(
                "Cannot provide multiple Tags with the same key (one has the value {before:?})"
            )));
        }
    }
    Ok(tags)
}

fn check(key: &str, value: &str) -> S3Result<()> {
    let fits = |text: &str| {
        let plain = |letter: char| letter.is_alphanumeric() || " +-=._:/@".contains(letter);
        text.chars().all(plain)
    };
    let length = key.chars().count();
    if length == 0 || length > KEY_CHARS_MAX || !fits(key) {
        return Err(invalid(&format!(
            "The TagKey you have provided is invalid: {key:?} (1 to {KEY_CHARS_MAX} letters, digits, \
             spaces and + - = . _ : / @)"
        )));
    }
    if value.chars().count() > VALUE_CHARS_MAX || !fits(value) {
        return Err(invalid(&format!(
            "The TagValue you have provided is invalid: {value:?} (up to {VALUE_CHARS_MAX} letters, \
             digits, spaces and + - = . _ : / @)"
        )));
    }
    Ok(())
}

fn invalid(why: &str) -> S3Error {
    s3_error!(InvalidTag, "{why}")
}

pub(super) async fn get(
    door: &Door,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<GetObjectTaggingOutput> {
    let input = request.input;
    let object = door
        .version(&input.bucket, &input.key, input.version_id.as_deref())
        .await?;
    Ok(GetObjectTaggingOutput {
        tag_set: shown(&object.meta.tags),
        version_id: door.shown_version(&object).await?,
    })
}

pub(super) async fn put(
    door: &Door,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<PutObjectTaggingOutput> {
    let tags = of_xml(request.input.tagging.tag_set.clone(), OBJECT_MAX)?;
    // What the tags are only the body tells, so conditions on them are judged here.
    let action = match request.input.version_id {
        None => "s3:PutObjectTagging",
        Some(_) => "s3:PutObjectVersionTagging",
    };
    let need = actions::Need {
        version: request.input.version_id.clone(),
        existing: true,
        ..actions::need(
            action,
            &request.input.bucket,
            Some(&request.input.key),
            None,
        )
    };
    access::ask(
        door,
        &request.extensions,
        vec![need],
        actions::asked_tags(&tags),
    )
    .await?;
    let who = who(&request.extensions);
    let input = request.input;
    let version = change(door, who, (input.bucket, input.key, input.version_id), tags).await?;
    Ok(PutObjectTaggingOutput {
        version_id: version,
    })
}

pub(super) async fn delete(
    door: &Door,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<DeleteObjectTaggingOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let target = (input.bucket, input.key, input.version_id);
    let version = change(door, who, target, Tags::new()).await?;
    Ok(DeleteObjectTaggingOutput {
        version_id: version,
    })
}

async fn change(
    door: &Door,
    who: blockstore::Who,
    (bucket, key, version): (String, String, Option<String>),
    tags: Tags,
) -> S3Result<Option<String>> {
    let change = Change {
        tags: Some(tags),
        ..Change::default()
    };
    let object = door
        .ask(move |store| {
            let anything = Precondition::default();
            store.object_change(&who, &bucket, &key, version.as_deref(), &change, &anything)
        })
        .await?;
    door.shown_version(&object).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(value: &str) -> Result<usize, String> {
        of_header(value)
            .map(|tags| tags.len())
            .map_err(|refused| refused.code().as_str().to_owned())
    }

    #[test]
    fn tags_are_read_strictly() {
        assert_eq!(code("a=b&c=d%20e"), Ok(2));
        assert_eq!(code("a"), Ok(1));
        assert_eq!(code(""), Ok(0));
        assert_eq!(code("a=1&a=2"), Err("InvalidTag".into()));
        assert_eq!(code("=1"), Err("InvalidTag".into()));
        assert_eq!(code("a%00=1"), Err("InvalidTag".into()));
        assert_eq!(
            code(&format!("{}=1", "k".repeat(129))),
            Err("InvalidTag".into())
        );
        assert_eq!(
            code(&format!("k={}", "v".repeat(257))),
            Err("InvalidTag".into())
        );
        let ten: Vec<String> = (0..10).map(|number| format!("k{number}=v")).collect();
        assert_eq!(code(&ten.join("&")), Ok(10));
        assert_eq!(
            code(&format!("{}&more=1", ten.join("&"))),
            Err("InvalidTag".into())
        );
    }
}
