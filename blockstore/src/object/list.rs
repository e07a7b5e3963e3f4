//! Listing a bucket: one ordered scan that seeks past what it rolls up.
//!
//! Entries of a page (keys, and prefixes up to the delimiter) come in one byte order, and
//! `start_after` is compared with entries, not with the keys below a prefix: a prefix once shown is
//! not shown again on the next page.

use super::{ListPage, ListQuery, bucket, row};
use crate::catalog::{Catalog, Step, keys};
use crate::{Result, Store};

impl Store {
    /// One page of a bucket's objects and rolled-up prefixes. NotFound if the bucket is missing.
    pub fn object_list(&self, bucket: &str, query: &ListQuery) -> Result<ListPage> {
        page(&self.shared.catalog, bucket, query)
    }
}

pub(super) fn page(catalog: &Catalog, bucket: &str, query: &ListQuery) -> Result<ListPage> {
    bucket::expect(catalog, bucket)?;
    page_of(catalog, &keys::objects_of(bucket), query)
}

/// A page of the object rows under `bucket_prefix`.
pub(super) fn page_of(
    catalog: &Catalog,
    bucket_prefix: &[u8],
    query: &ListQuery,
) -> Result<ListPage> {
    let mut page = ListPage::default();
    let stored = |key: &str| [bucket_prefix, key.as_bytes()].concat();
    let prefix = stored(&query.prefix);
    let Some(start) = start(query, &stored) else {
        return Ok(page);
    };
    if query.max == 0 {
        return Ok(page);
    }
    let mut last = None;
    catalog.walk(&prefix, &start, &mut |at, value| {
        if page.objects.len() + page.prefixes.len() == query.max {
            page.next = last.take();
            return Ok(Step::Stop);
        }
        let key = keys::text_behind(bucket_prefix, at)?;
        if let Some(rolled_up) = rolled_up(&query.prefix, query.delimiter.as_deref(), key) {
            page.prefixes.push(rolled_up.to_owned());
            last = Some(rolled_up.to_owned());
            return Ok(keys::behind(&stored(rolled_up)).map_or(Step::Stop, Step::Seek));
        }
        let mut object = row::decode(at, value)?.object;
        object.latest = true;
        page.objects.push(object);
        last = Some(key.to_owned());
        Ok(Step::Next)
    })?;
    Ok(page)
}

/// The first catalog key that may belong to an entry behind `start_after`; `None` if there is none.
fn start(query: &ListQuery, stored: &dyn Fn(&str) -> Vec<u8>) -> Option<Vec<u8>> {
    let Some(after) = &query.start_after else {
        return Some(stored(""));
    };
    match rolled_up(&query.prefix, query.delimiter.as_deref(), after) {
        // The entry it lies under begins no later than it does: that one is not behind it.
        Some(rolled_up) => keys::behind(&stored(rolled_up)),
        None => {
            let mut start = stored(after);
            start.push(0);
            Some(start)
        }
    }
}

/// The prefix under which a key is rolled up, if it is.
pub(super) fn rolled_up<'a>(
    prefix: &str,
    delimiter: Option<&str>,
    key: &'a str,
) -> Option<&'a str> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let found = key.strip_prefix(prefix)?.find(delimiter)?;
    Some(&key[..prefix.len() + found + delimiter.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::row::Draft;
    use crate::object::{Body, BucketConfig, ObjectMeta, Precondition};
    use crate::{Entry, Kind, Who};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn with_keys(keys: &[&str]) -> (tempfile::TempDir, Catalog) {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        for bucket in ["abc", "abc-d", "abd"] {
            bucket::create(&catalog, &Who::server(), bucket, BucketConfig::default()).unwrap();
        }
        add(
            &catalog,
            "abc",
            keys.iter().map(|key| (*key).to_owned()).collect(),
        );
        // Neighbours must never show.
        add(&catalog, "abc-d", vec!["a/x".into(), "zz".into()]);
        add(&catalog, "abd", vec!["a/y".into(), "0".into()]);
        (directory, catalog)
    }

    fn add(catalog: &Catalog, bucket: &'static str, keys: Vec<String>) {
        catalog
            .transact(move |txn| {
                for key in keys {
                    let (bucket, meta) = (bucket.to_owned(), ObjectMeta::default());
                    let (parts, inline) = (Vec::new(), Vec::new());
                    let draft = Draft {
                        bucket,
                        key,
                        meta,
                        length_bytes: 0,
                        parts,
                        body: Body::Inline,
                        inline,
                        identity: None,
                    };
                    let entry = Entry::new("object.put", "x");
                    row::put(txn, &Who::server(), draft, &Precondition::default(), entry)?;
                }
                Ok(())
            })
            .unwrap();
    }

    fn listed(catalog: &Catalog, query: &ListQuery) -> (Vec<String>, Vec<String>, Option<String>) {
        let page = page(catalog, "abc", query).unwrap();
        (
            page.objects.into_iter().map(|object| object.key).collect(),
            page.prefixes,
            page.next,
        )
    }

    fn query(
        prefix: &str,
        delimiter: Option<&str>,
        start_after: Option<&str>,
        max: usize,
    ) -> ListQuery {
        let (delimiter, start_after) = (delimiter.map(Into::into), start_after.map(Into::into));
        ListQuery {
            prefix: prefix.into(),
            delimiter,
            start_after,
            max,
        }
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_page_rolls_up_and_goes_on_behind_what_it_showed() {
        let (_directory, catalog) = with_keys(&["a/1", "a/2", "a0", "b", "c/1/x", "c/2"]);
        let (objects, prefixes, next) = listed(&catalog, &query("", Some("/"), None, 2));
        assert_eq!(
            (objects, prefixes, next.as_deref()),
            (strings(&["a0"]), strings(&["a/"]), Some("a0"))
        );
        let (objects, prefixes, next) = listed(&catalog, &query("", Some("/"), Some("a0"), 2));
        assert_eq!(
            (objects, prefixes, next),
            (strings(&["b"]), strings(&["c/"]), None)
        );
        for inside in ["a/", "a/1", "a/2", "a/zz"] {
            let (objects, prefixes, _) = listed(&catalog, &query("", Some("/"), Some(inside), 9));
            assert_eq!(
                (objects, prefixes),
                (strings(&["a0", "b"]), strings(&["c/"])),
                "{inside}"
            );
        }
        let (objects, prefixes, _) = listed(&catalog, &query("c/", Some("/"), None, 9));
        assert_eq!((objects, prefixes), (strings(&["c/2"]), strings(&["c/1/"])));
        let (objects, prefixes, next) = listed(&catalog, &query("", None, None, 0));
        assert_eq!((objects, prefixes, next), (vec![], vec![], None));
        let error = page(&catalog, "nope", &query("", None, None, 1)).unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::NotFound, crate::Subject::Bucket)
        );
    }

    #[test]
    fn the_keys_under_a_rolled_up_prefix_are_not_visited() {
        let (_directory, catalog) = with_keys(&["big/0", "big/9", "z"]);
        // A key that is not text: whoever visits it fails.
        let trap = [&keys::objects_of("abc"), &b"big/1\xff"[..]].concat();
        catalog
            .transact(move |txn| {
                txn.put(&trap, Vec::new());
                Ok(())
            })
            .unwrap();
        assert_eq!(
            page(&catalog, "abc", &query("", None, None, 10))
                .unwrap_err()
                .kind(),
            Kind::Corrupt
        );
        for start_after in [None, Some("a"), Some("big/0")] {
            let (objects, ..) = listed(&catalog, &query("", Some("/"), start_after, 10));
            assert_eq!(objects, strings(&["z"]));
        }
    }

    /// All entries by the definition, one by one.
    fn model(
        keys: &BTreeSet<String>,
        query: &ListQuery,
    ) -> (Vec<String>, Vec<String>, Option<String>) {
        let mut entries: BTreeSet<(String, bool)> = BTreeSet::new();
        for key in keys.iter().filter(|key| key.starts_with(&query.prefix)) {
            let rest = &key[query.prefix.len()..];
            let delimiter = query
                .delimiter
                .as_deref()
                .filter(|delimiter| !delimiter.is_empty());
            match delimiter.and_then(|delimiter| {
                rest.split_once(delimiter)
                    .map(|(head, _)| (head, delimiter))
            }) {
                Some((head, delimiter)) => {
                    entries.insert((format!("{}{head}{delimiter}", query.prefix), true))
                }
                None => entries.insert((key.clone(), false)),
            };
        }
        let behind = |entry: &&(String, bool)| {
            query
                .start_after
                .as_ref()
                .is_none_or(|after| entry.0 > *after)
        };
        let left: Vec<_> = entries.iter().filter(behind).cloned().collect();
        let shown = &left[..left.len().min(query.max)];
        let next = shown
            .last()
            .filter(|_| left.len() > shown.len())
            .map(|(entry, _)| entry.clone());
        let of = |up| {
            shown
                .iter()
                .filter(|(_, is_up)| *is_up == up)
                .map(|(entry, _)| entry.clone())
                .collect()
        };
        (of(false), of(true), next)
    }

    fn text() -> impl Strategy<Value = String> {
        // Few letters, so that prefixes, delimiters and markers meet; the edges of the byte order too.
        proptest::collection::vec(
            proptest::sample::select(vec!["a", "b", "/", "//", "\0", "é", "\u{10ffff}"]),
            0..6,
        )
        .prop_map(|letters| letters.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn pages_agree_with_the_definition(
            keys in proptest::collection::btree_set(text().prop_filter("no empty key", |key| !key.is_empty()), 0..40),
            queries in proptest::collection::vec(
                (text(), proptest::option::of(text()), proptest::option::of(text()), 0_usize..7), 1..40),
        ) {
            let (_directory, catalog) = with_keys(&[]);
            add(&catalog, "abc", keys.iter().cloned().collect());
            for (prefix, delimiter, start_after, max) in queries {
                let prefix: String = prefix.chars().take(2).collect();
                let delimiter = delimiter.map(|text| text.chars().take(2).collect());
                let mut query = ListQuery { prefix, delimiter, start_after, max };
                prop_assert_eq!(listed(&catalog, &query), model(&keys, &query), "{:?}", query);
                // Page by page shows every entry once.
                query.start_after = None;
                query.max = max + 1;
                let mut shown = (Vec::new(), Vec::new());
                loop {
                    let (objects, prefixes, next) = listed(&catalog, &query);
                    shown.0.extend(objects);
                    shown.1.extend(prefixes);
                    match next {
                        Some(next) => query.start_after = Some(next),
                        None => break,
                    }
                }
                query.start_after = None;
                query.max = usize::MAX;
                let (objects, prefixes, _) = model(&keys, &query);
                prop_assert_eq!(shown, (objects, prefixes), "{:?}", query);
            }
        }
    }
}
