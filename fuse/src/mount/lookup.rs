//! What a name is in a directory: the same answers as the listings in [`super::directory`] give.

use super::bucket_file::Files;
use super::directory;
use super::failure::{Failure, Result};
use super::inode::Node;
use super::keys;
use blockstore::Store;
use blockstore::volume::VolumeInfo;

/// What `name` is in the directory `parent`.
pub(super) fn child(store: &Store, files: &Files, parent: &Node, name: &str) -> Result<Node> {
    let found = match parent {
        Node::Root => match name {
            "volumes" => Some(Node::Volumes),
            "snapshots" => Some(Node::Snapshots),
            "images" => Some(Node::Images),
            "buckets" => Some(Node::Buckets),
            _ => None,
        },
        Node::Volumes => volume_of_file(store, name)?.map(directory::volume_node),
        Node::Snapshots => snapshot_of_file(store, name)?,
        Node::Images => image_of_file(store, name)?,
        Node::Buckets => Some(Node::Directory {
            bucket: store.bucket(name)?.name,
            prefix: String::new(),
        }),
        Node::Directory { bucket, prefix } => child_of_key(store, files, bucket, prefix, name)?,
        Node::Volume { .. } | Node::Sealed { .. } | Node::Object { .. } | Node::File { .. } => {
            return Err(Failure::NotADirectory);
        }
    };
    found.ok_or(Failure::Missing)
}

fn volume_of_file(store: &Store, file: &str) -> Result<Option<VolumeInfo>> {
    let Some(name) = keys::name_of(file) else {
        return Ok(None);
    };
    Ok(Some(store.volume_info(name)?))
}

fn snapshot_of_file(store: &Store, file: &str) -> Result<Option<Node>> {
    let Some(name) = keys::name_of(file) else {
        return Ok(None);
    };
    // The store also finds a snapshot by its id; a file has the name that the listing shows.
    let snapshot = Some(store.snapshot(name)?).filter(|snapshot| snapshot.name == name);
    Ok(snapshot.map(|snapshot| Node::Sealed {
        sealed: snapshot.sealed,
        created_ms: snapshot.created_ms,
    }))
}

fn image_of_file(store: &Store, file: &str) -> Result<Option<Node>> {
    let Some(name) = keys::name_of(file) else {
        return Ok(None);
    };
    let image =
        Some(store.image(name)?).filter(|image| image.names.iter().any(|known| known == name));
    Ok(image.map(|image| Node::Sealed {
        sealed: image.sealed,
        created_ms: image.created_ms,
    }))
}

fn child_of_key(
    store: &Store,
    files: &Files,
    bucket: &str,
    prefix: &str,
    name: &str,
) -> Result<Option<Node>> {
    if !keys::is_segment(name) {
        return Ok(None);
    }
    let key = format!("{prefix}{name}");
    // What is being written here may have no object yet.
    if let Some(file) = files.named(bucket, &key).filter(|file| file.is_edited()) {
        return Ok(Some(Node::File { id: file.id }));
    }
    let below = format!("{key}/");
    if directory::has_keys_under(store, bucket, &below)? {
        return Ok(Some(Node::Directory {
            bucket: bucket.into(),
            prefix: below,
        }));
    }
    let object = store.object_head(bucket, &key)?;
    Ok(Some(directory::object_node(files, &object)))
}
