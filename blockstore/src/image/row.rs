//! Images as the catalog keeps them: rows, names, the pin of what they show.
//!
//! | key | value |
//! |---|---|
//! | `image/` id | [`ImageInfo`] |
//! | `image-name/` name | `{"v":1,"id":…}` |
//!
//! 1. An image has one row under its id, which lists its names, and one row for each name.
//! 2. While the row is there, `image:<id>` pins the sealed map it shows. Whoever reads the row in a
//!    transaction may pin that map for itself in the same one, and then outlives the image.
//! 3. No name begins as ids do, so a word means a name or an id, never both.

use super::ImageInfo;
use super::digest::ID_PREFIX;
use crate::catalog::{Catalog, Txn, keys};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who};
use serde::{Deserialize, Serialize};

/// All images.
pub(crate) const IMAGES: &[u8] = b"image/";
const NAMES: &[u8] = b"image-name/";
const NAME_BYTES_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
struct NameRow {
    id: String,
}

/// Where rows are read: a transaction, or the catalog as it stands.
pub(crate) trait Rows {
    /// The row behind a key.
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The first two rows whose key starts with `prefix`.
    fn first_two(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
}

impl Rows for Catalog {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get(key)
    }

    fn first_two(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut rows = Vec::new();
        self.scan(prefix, prefix, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(rows.len() < 2)
        })?;
        Ok(rows)
    }
}

impl Rows for Txn<'_> {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get(key)
    }

    fn first_two(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.scan_prefix(prefix, 2)
    }
}

impl Store {
    /// All images, ordered by id.
    pub fn images(&self) -> Result<Vec<ImageInfo>> {
        list(&self.shared.catalog)
    }

    /// An image by name, id, or an unambiguous beginning of the id.
    pub fn image(&self, name: &str) -> Result<ImageInfo> {
        read(&self.shared.catalog, name)
    }

    /// Removes one name; the last name takes the image with it. By its id an image is removed only if
    /// it has one name. What was cloned from it stays.
    pub fn image_remove(&self, who: &Who, name: &str) -> Result<()> {
        let (actor, wanted) = (who.clone(), name.to_owned());
        let gone = self
            .shared
            .catalog
            .transact(move |txn| remove(txn, &actor, &wanted))?;
        if gone {
            self.shared.engine.sweep_soon();
        }
        Ok(())
    }
}

fn list(catalog: &Catalog) -> Result<Vec<ImageInfo>> {
    let mut images = Vec::new();
    catalog.scan(IMAGES, IMAGES, &mut |key, value| {
        images.push(keys::decode(key, value)?);
        Ok(true)
    })?;
    Ok(images)
}

/// As [`find`], outside a transaction.
fn read(catalog: &Catalog, name: &str) -> Result<ImageInfo> {
    match find(catalog, name) {
        // The image may have gone between the reads of its two rows: in a transaction nothing does.
        Err(error) if error.kind() == Kind::Corrupt => {
            let name = name.to_owned();
            catalog.transact(move |txn| find(txn, &name))
        }
        found => found,
    }
}

/// The image called `name` (a name, an id, or an unambiguous beginning of an id).
pub(crate) fn find(rows: &impl Rows, name: &str) -> Result<ImageInfo> {
    if let Some(digits) = name.strip_prefix(ID_PREFIX) {
        if digits.is_empty()
            || !digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(missing(name));
        }
        let mut found = rows.first_two(&image_key(name))?;
        return match (found.pop(), found.is_empty()) {
            (None, _) => Err(missing(name)),
            (Some((key, value)), true) => keys::decode(&key, &value),
            (Some(_), false) => Err(Error::new(
                Kind::Conflict,
                Subject::Image,
                format!("several images have an id that begins with {name}: give more digits"),
            )),
        };
    }
    let id = id_of_name(rows, name)?.ok_or_else(|| missing(name))?;
    by_id(rows, &id)?.ok_or_else(|| {
        let text = format!(
            "the image name {name:?} stands for {id}, which is not there; run `infall check`"
        );
        Error::new(Kind::Corrupt, Subject::Image, text)
    })
}

/// The image with this whole id.
pub(super) fn by_id(rows: &impl Rows, id: &str) -> Result<Option<ImageInfo>> {
    let key = image_key(id);
    rows.row(&key)?
        .map(|value| keys::decode(&key, &value))
        .transpose()
}

fn id_of_name(rows: &impl Rows, name: &str) -> Result<Option<String>> {
    let key = name_key(name);
    let row = rows
        .row(&key)?
        .map(|value| keys::decode::<NameRow>(&key, &value))
        .transpose()?;
    Ok(row.map(|row| row.id))
}

/// Gives `name` to the image `id`. Conflict if another image has it; false if this one had it already.
pub(super) fn claim(txn: &mut Txn<'_>, name: &str, id: &str) -> Result<bool> {
    match id_of_name(txn, name)? {
        None => {
            txn.put(&name_key(name), keys::encode(&NameRow { id: id.into() })?);
            Ok(true)
        }
        Some(held) if held == id => Ok(false),
        Some(held) => Err(Error::new(
            Kind::Conflict,
            Subject::Image,
            format!(
                "the image name {name:?} stands for {held}, another image than {id}: choose another name, or remove that one first"
            ),
        )),
    }
}

/// Writes the row of an image.
pub(super) fn put(txn: &mut Txn<'_>, image: &ImageInfo) -> Result<()> {
    txn.put(&image_key(&image.id), keys::encode(image)?);
    Ok(())
}

/// Who pins the map of an image.
pub(super) fn holder(id: &str) -> String {
    format!("image:{id}")
}

/// Whether the image is gone with its name.
fn remove(txn: &mut Txn<'_>, who: &Who, name: &str) -> Result<bool> {
    let mut image = find(txn, name)?;
    let taken = match image.names.as_slice() {
        [only] => only.clone(),
        _ if name.starts_with(ID_PREFIX) => {
            return Err(Error::new(
                Kind::Conflict,
                Subject::Image,
                format!(
                    "{} has {} names ({}): remove them by name",
                    image.id,
                    image.names.len(),
                    image.names.join(", ")
                ),
            ));
        }
        _ => name.to_owned(),
    };
    txn.delete(&name_key(&taken));
    image.names.retain(|kept| *kept != taken);
    let gone = image.names.is_empty();
    if gone {
        txn.delete(&image_key(&image.id));
        txn.unpin(image.sealed.map, image.sealed.lsn, &holder(&image.id))?;
        let entry = Entry::new("image.removed", &image.id).bytes("released", image.length_bytes);
        txn.journal(who, entry.detail(format!("its last name was {taken}")))?;
    } else {
        put(txn, &image)?;
        let detail = format!("no longer called {taken}, still {}", image.names.join(", "));
        txn.journal(who, Entry::new("image.unnamed", &image.id).detail(detail))?;
    }
    Ok(gone)
}

/// Names are 1 to 64 letters, digits, `.`, `_` and `-`, and do not begin as ids do.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if fits && !name.starts_with(ID_PREFIX) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        Subject::Image,
        format!(
            "an image's name has 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - and does not begin with {ID_PREFIX}: {name:?} cannot be one"
        ),
    ))
}

fn missing(name: &str) -> Error {
    Error::new(
        Kind::NotFound,
        Subject::Image,
        format!("no image {name:?}: look at the list of images"),
    )
}

fn image_key(id: &str) -> Vec<u8> {
    [IMAGES, id.as_bytes()].concat()
}

fn name_key(name: &str) -> Vec<u8> {
    [NAMES, name.as_bytes()].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{check_name, claim, find, holder, list, put, remove};
    use crate::catalog::{Catalog, MapRow};
    use crate::image::ImageInfo;
    use crate::{Kind, LogId, Lsn, MapId, SealedMap, Who};

    fn image(id: &str, names: &[&str]) -> ImageInfo {
        ImageInfo {
            id: id.into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            length_bytes: 4096,
            sealed: SealedMap {
                map: MapId(1),
                lsn: Lsn(1),
                length_bytes: 4096,
            },
            format: "raw".into(),
            source: "s3://b/k".into(),
            created_ms: 1,
            project: "root".into(),
            deprecated: None,
            expires_ms: None,
            endorsements: Vec::new(),
        }
    }

    fn with_images(images: Vec<ImageInfo>) -> (tempfile::TempDir, Catalog) {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        catalog
            .transact(move |txn| {
                let row = MapRow {
                    log: LogId(1),
                    parent: None,
                    length_bytes: 4096,
                    borrows: Vec::new(),
                    created_ms: 1,
                };
                txn.put_map(MapId(1), &row)?;
                for image in &images {
                    txn.pin(MapId(1), Lsn(1), &holder(&image.id))?;
                    for name in &image.names {
                        claim(txn, name, &image.id)?;
                    }
                    put(txn, image)?;
                }
                Ok(())
            })
            .unwrap();
        (directory, catalog)
    }

    #[test]
    fn names_are_checked() {
        for good in ["a", "debian-12", "A.b_c-9", &"x".repeat(64)] {
            check_name(good).unwrap();
        }
        for bad in ["", "a b", "img-1", "ä", "a/b", &"x".repeat(65)] {
            assert_eq!(
                check_name(bad).unwrap_err().kind(),
                Kind::Invalid,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_image_is_found_by_name_id_and_unambiguous_beginning() {
        let (_directory, catalog) = with_images(vec![
            image("img-ab12", &["one", "uno"]),
            image("img-ac34", &["two"]),
        ]);
        for name in ["one", "uno", "img-ab12", "img-ab"] {
            assert_eq!(find(&catalog, name).unwrap().id, "img-ab12", "{name}");
        }
        assert_eq!(find(&catalog, "img-a").unwrap_err().kind(), Kind::Conflict);
        for name in ["three", "img-", "img-ad", "img-AB", "img-ab123"] {
            assert_eq!(
                find(&catalog, name).unwrap_err().kind(),
                Kind::NotFound,
                "{name}"
            );
        }
        assert_eq!(list(&catalog).unwrap().len(), 2);
    }

    #[test]
    fn the_last_name_takes_the_image_with_it() {
        let (_directory, catalog) = with_images(vec![image("img-ab12", &["one", "uno"])]);
        let removed =
            |name: &'static str| catalog.transact(move |txn| remove(txn, &Who::server(), name));
        assert_eq!(removed("img-ab12").unwrap_err().kind(), Kind::Conflict);
        assert!(!removed("one").unwrap());
        assert_eq!(find(&catalog, "img-ab12").unwrap().names, ["uno"]);
        assert_eq!(removed("one").unwrap_err().kind(), Kind::NotFound);
        assert!(catalog.has_pin(MapId(1), Lsn(1)).unwrap());
        assert!(removed("img-ab").unwrap());
        assert_eq!(find(&catalog, "uno").unwrap_err().kind(), Kind::NotFound);
        assert!(list(&catalog).unwrap().is_empty());
        assert!(!catalog.has_pin(MapId(1), Lsn(1)).unwrap());
        assert_eq!(catalog.loose().unwrap(), [MapId(1)]);
    }

    #[test]
    fn a_name_of_another_image_is_refused() {
        let (_directory, catalog) = with_images(vec![image("img-ab12", &["one"])]);
        let claimed = |id: &'static str| catalog.transact(move |txn| claim(txn, "one", id));
        assert!(!claimed("img-ab12").unwrap());
        assert_eq!(claimed("img-ff").unwrap_err().kind(), Kind::Conflict);
    }
}
