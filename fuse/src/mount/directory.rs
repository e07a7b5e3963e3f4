//! Listings: the directories of the tree, and a bucket's keys page by page.
//!
//! 1. An open directory holds one page of a bucket, however many keys there are.
//! 2. A position counts the entries shown before it. A reply never crosses the end of a page, so
//!    that a kernel which takes back a few entries finds them in the page still held; a jump
//!    further back lists from the beginning.

use super::bucket_file::Files;
use super::failure::Result;
use super::inode::{Node, Version};
use super::keys;
use blockstore::Store;
use blockstore::object::{ListPage, ListQuery, Object};
use blockstore::volume::VolumeInfo;
use std::collections::HashSet;

/// Keys asked of the store at once.
const PAGE_KEYS: usize = 1000;

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) node: Node,
}

/// A directory that is being read.
pub(super) struct Listing {
    directory: Node,
    page: Page,
}

/// A run of entries.
struct Page {
    /// Entries shown before this page.
    first: u64,
    entries: Vec<Entry>,
    /// Where the next page begins; `None` behind the last.
    next: Option<From>,
}

/// Where in the store's order a page begins.
enum From {
    Start,
    Behind(String),
}

impl Page {
    fn before_the_first() -> Self {
        Self {
            first: 0,
            entries: Vec::new(),
            next: Some(From::Start),
        }
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

impl Listing {
    pub(super) fn new(directory: Node) -> Self {
        Self {
            directory,
            page: Page::before_the_first(),
        }
    }

    /// Which directory it is of.
    pub(super) fn directory(&self) -> &Node {
        &self.directory
    }

    /// Shows entries from position `at` on, each with the position behind it, until `show` says
    /// that it is full or the page ends. Nothing is shown at the end of the directory only.
    pub(super) fn visit(
        &mut self,
        store: &Store,
        files: &Files,
        at: u64,
        show: &mut dyn FnMut(u64, &Entry) -> bool,
    ) -> Result<()> {
        if at < self.page.first {
            self.page = Page::before_the_first();
        }
        while at >= self.page.end() {
            let Some(from) = &self.page.next else {
                return Ok(());
            };
            let (entries, next) = load(store, files, &self.directory, from)?;
            self.page = Page {
                first: self.page.end(),
                entries,
                next,
            };
        }
        let mut position = at;
        let skip = usize::try_from(at - self.page.first).unwrap_or(usize::MAX);
        for entry in self.page.entries.iter().skip(skip) {
            position += 1;
            if show(position, entry) {
                break;
            }
        }
        Ok(())
    }
}

/// One page of a directory, and where the next begins.
fn load(
    store: &Store,
    files: &Files,
    directory: &Node,
    from: &From,
) -> Result<(Vec<Entry>, Option<From>)> {
    let entries = match directory {
        Node::Root => [
            ("volumes", Node::Volumes),
            ("snapshots", Node::Snapshots),
            ("images", Node::Images),
            ("buckets", Node::Buckets),
        ]
        .map(|(name, node)| Entry {
            name: name.into(),
            node,
        })
        .into(),
        Node::Volumes => image_files(
            store
                .volumes()?
                .into_iter()
                .map(|volume| (volume.name.clone(), volume_node(volume))),
        ),
        Node::Snapshots => image_files(store.snapshots()?.into_iter().map(|snapshot| {
            let node = Node::Sealed {
                sealed: snapshot.sealed,
                created_ms: snapshot.created_ms,
            };
            (snapshot.name, node)
        })),
        Node::Images => image_files(store.images()?.into_iter().flat_map(|image| {
            let node = Node::Sealed {
                sealed: image.sealed,
                created_ms: image.created_ms,
            };
            image
                .names
                .into_iter()
                .map(move |name| (name, node.clone()))
        })),
        Node::Buckets => store
            .buckets()?
            .into_iter()
            .filter(|bucket| keys::is_segment(&bucket.name))
            .map(|bucket| Entry {
                name: bucket.name.clone(),
                node: Node::Directory {
                    bucket: bucket.name,
                    prefix: String::new(),
                },
            })
            .collect(),
        Node::Directory { bucket, prefix } => {
            return load_keys(store, files, bucket, prefix, from);
        }
        Node::Volume { .. } | Node::Sealed { .. } | Node::Object { .. } | Node::File { .. } => {
            Vec::new()
        }
    };
    Ok((entries, None))
}

/// The node of a volume as a listing shows it.
pub(super) fn volume_node(volume: VolumeInfo) -> Node {
    Node::Volume {
        name: volume.name,
        map: volume.map,
    }
}

/// Image files, for those names that can be paths.
fn image_files(named: impl Iterator<Item = (String, Node)>) -> Vec<Entry> {
    named
        .filter_map(|(name, node)| {
            Some(Entry {
                name: keys::file_of(&name)?,
                node,
            })
        })
        .collect()
}

fn load_keys(
    store: &Store,
    files: &Files,
    bucket: &str,
    prefix: &str,
    from: &From,
) -> Result<(Vec<Entry>, Option<From>)> {
    let start_after = match from {
        From::Start => None,
        From::Behind(key) => Some(key.clone()),
    };
    let query = ListQuery {
        prefix: prefix.into(),
        delimiter: Some("/".into()),
        start_after,
        max: PAGE_KEYS,
    };
    let page = store.object_list(bucket, &query)?;
    let next = page.next.clone().map(From::Behind);
    let mut entries = shown(
        bucket,
        prefix,
        &page,
        &|object| object_node(files, object),
        &mut |directory| has_keys_under(store, bucket, directory),
    )?;
    if next.is_none() {
        entries.extend(pending(files, bucket, prefix));
    }
    Ok((entries, next))
}

/// Files that are being written and have no object yet.
fn pending(files: &Files, bucket: &str, prefix: &str) -> Vec<Entry> {
    let under = files.under(bucket, prefix);
    let pending = under.into_iter().filter(|file| file.is_pending());
    let entry = |file: std::sync::Arc<super::bucket_file::BucketFile>| {
        let (_, key) = file.place();
        let name = key
            .strip_prefix(prefix)
            .filter(|name| keys::is_segment(name))?;
        Some(Entry {
            name: name.into(),
            node: Node::File { id: file.id },
        })
    };
    pending.filter_map(entry).collect()
}

/// The node of an object: the file that is, or was, written here, or this version of it.
pub(super) fn object_node(files: &Files, object: &Object) -> Node {
    match files.showing(object) {
        Some(file) => Node::File { id: file.id },
        None => Node::Object {
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            version: Version::of(object),
        },
    }
}

/// Whether any key begins with `prefix`.
pub(super) fn has_keys_under(store: &Store, bucket: &str, prefix: &str) -> Result<bool> {
    let query = ListQuery {
        prefix: prefix.into(),
        delimiter: None,
        start_after: None,
        max: 1,
    };
    Ok(!store.object_list(bucket, &query)?.objects.is_empty())
}

/// What of a page of keys is shown in the directory `prefix`, by the rule in [`keys`]. `later`
/// tells whether keys lie under a prefix that may come in a later page.
fn shown(
    bucket: &str,
    prefix: &str,
    page: &ListPage,
    node_of: &dyn Fn(&Object) -> Node,
    later: &mut dyn FnMut(&str) -> Result<bool>,
) -> Result<Vec<Entry>> {
    let directories: HashSet<&str> = page.prefixes.iter().map(String::as_str).collect();
    let mut entries = Vec::with_capacity(page.objects.len() + page.prefixes.len());
    for object in &page.objects {
        let Some(name) =
            keys::segment_of(prefix, &object.key).filter(|_| !object.key.ends_with('/'))
        else {
            continue;
        };
        let directory = format!("{}/", object.key);
        // In byte order `a-b` lies between `a` and `a/`: the directory that hides a file can come
        // pages after it, but only if the page ends between the two.
        let hidden = directories.contains(directory.as_str())
            || (page.next.as_ref().is_some_and(|next| directory > *next) && later(&directory)?);
        if !hidden {
            entries.push(Entry {
                name: name.into(),
                node: node_of(object),
            });
        }
    }
    for directory in &page.prefixes {
        if let Some(name) = keys::segment_of(prefix, directory) {
            let node = Node::Directory {
                bucket: bucket.into(),
                prefix: directory.clone(),
            };
            entries.push(Entry {
                name: name.into(),
                node,
            });
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockstore::object::ObjectMeta;

    fn page(keys: &[&str], prefixes: &[&str], next: Option<&str>) -> ListPage {
        let object = |key: &&str| Object {
            bucket: "b".into(),
            key: (*key).into(),
            length_bytes: 1,
            ..Object::default()
        };
        ListPage {
            objects: keys.iter().map(object).collect(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).into()).collect(),
            next: next.map(Into::into),
        }
    }

    fn names(
        prefix: &str,
        page: &ListPage,
        later: &mut dyn FnMut(&str) -> Result<bool>,
    ) -> Vec<String> {
        let files = Files::default();
        let node_of = |object: &Object| object_node(&files, object);
        let entries = shown("b", prefix, page, &node_of, later).unwrap();
        entries
            .iter()
            .map(|entry| {
                format!(
                    "{}{}",
                    entry.name,
                    if entry.node.is_directory() { "/" } else { "" }
                )
            })
            .collect()
    }

    #[test]
    fn a_listing_goes_on_where_it_was_and_can_jump_back_over_pages() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path(), blockstore::Options::default()).unwrap();
        let who = blockstore::Who::server();
        store.bucket_create(&who, "many").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (store, who) = (&store, &who);
                scope.spawn(move || {
                    for number in 0..PAGE_KEYS / 8 + 20 {
                        let body = store.object_writer("many").unwrap();
                        let key = format!("{thread}-{number:03}");
                        body.commit(who, &key, ObjectMeta::default(), &Default::default())
                            .unwrap();
                    }
                });
            }
        });
        let files = Files::default();
        let mut listing = Listing::new(Node::Directory {
            bucket: "many".into(),
            prefix: String::new(),
        });
        let mut from = |mut at: u64| {
            let mut names = Vec::new();
            loop {
                let before = at;
                listing
                    .visit(&store, &files, before, &mut |position, entry| {
                        names.push(entry.name.clone());
                        at = position;
                        position - before == 7
                    })
                    .unwrap();
                if at == before {
                    return names;
                }
            }
        };
        let all = from(0);
        assert_eq!(all.len(), (PAGE_KEYS / 8 + 20) * 8);
        assert!(all.is_sorted());
        assert_eq!(from(PAGE_KEYS as u64 - 3), all[PAGE_KEYS - 3..]);
        assert_eq!(from(5), all[5..], "back over the border of a page");
        assert_eq!(from(all.len() as u64 + 9), [""; 0]);
    }

    fn never(prefix: &str) -> Result<bool> {
        panic!("asked about {prefix}")
    }

    #[test]
    fn a_directory_hides_the_file_of_the_same_name() {
        assert_eq!(
            names("", &page(&["a", "c"], &["a/", "b/"], None), &mut never),
            ["c", "a/", "b/"]
        );
    }

    #[test]
    fn a_directory_in_a_later_page_hides_the_file_too() {
        let mut asked = Vec::new();
        let mut later = |prefix: &str| {
            asked.push(prefix.to_owned());
            Ok(prefix == "a/")
        };
        assert_eq!(
            names(
                "",
                &page(&["a", "a-1", "a-2"], &[], Some("a-2")),
                &mut later
            ),
            ["a-1", "a-2"]
        );
        assert_eq!(
            asked,
            ["a/", "a-2/"],
            "only what can still come is asked for"
        );
    }

    #[test]
    fn keys_that_are_no_paths_and_the_marker_are_left_out() {
        let page = page(&["d/", "d/.", "d/x"], &["d//", "d/../", "d/y/"], None);
        assert_eq!(names("d/", &page, &mut never), ["x", "y/"]);
    }
}
