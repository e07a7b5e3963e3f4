//! Makes an image of an object.
//!
//! 1. The id is found first, from the object's own bytes. An image that is there already gets one more
//!    name and nothing is kept.
//! 2. A raw object in one map is that map. Otherwise a map is composed that shows what lies on the
//!    4 KiB grid of the object's maps; only the rest is written.
//! 3. Rows, pins and event are one transaction, in which the object must still show what was read:
//!    its pins are what allows others on the same maps.
//! 4. A composed map that no image came to need is left to the sweeper.

use super::compose::{Tally, compose};
use super::detect::{Format, detect};
use super::digest::image_id;
use super::qcow2::Qcow2;
use super::run::{ImageFile, Run};
use super::{ImageInfo, raw, row};
use crate::View;
use crate::catalog::{MapRow, Txn, keys};
use crate::object::row::ObjectRow;
use crate::object::{Body, Copied, Object, Piece, ReadAt};
use crate::volume::{Extent, VOLUME_BYTES_MAX};
use crate::{BLOCK, Entry, Error, Kind, Result, SealedMap, Store, Subject, Who, clock};

/// An object that is being made into an image.
struct Source<'a> {
    store: &'a Store,
    /// Of whoever adds it.
    project: String,
    object: Object,
    pieces: Vec<Piece>,
    image: ImageFile<'a>,
    disk: Disk<'a>,
}

enum Disk<'a> {
    Raw,
    Qcow2(Qcow2<'a>),
}

/// The map of an image to be, with its row if it is a new one.
struct Built {
    sealed: SealedMap,
    new: Option<MapRow>,
    copied: Copied,
}

/// What a transaction made of an image to be.
enum Outcome {
    Added(ImageInfo),
    /// The image was there already; whether it got a name by this.
    Known {
        image: ImageInfo,
        named: bool,
    },
    /// The object does not show what was read any more.
    Replaced,
}

impl Store {
    /// Registers an object (raw or qcow2, told apart by its bytes) as an image called `name`.
    ///
    /// The image is as long as the disk in the object, rounded up to 4096. If an image shows the same
    /// bytes already, it gets the name and nothing else is kept. [`Copied::why`] says what was
    /// written and why, and what a person should know of the file. Conflict if the name stands for
    /// another image, or the object is replaced meanwhile; Invalid for a malformed file, Unsupported
    /// with the feature's name for one that this release does not read.
    pub fn image_add(
        &self,
        who: &Who,
        bucket: &str,
        key: &str,
        name: &str,
    ) -> Result<(ImageInfo, Copied)> {
        row::check_name(name)?;
        self.shared.engine.admit_write()?;
        // Held to the end: what it reads is not swept while it lives.
        let (object, file) = self.object_open(bucket, key)?;
        let in_object = |error| in_object(&object, error);
        let source =
            Source::open(self, &who.project, object.clone(), file.as_ref()).map_err(in_object)?;
        let id = image_id(source.image, source.disk_bytes(), source.runs()).map_err(in_object)?;
        if let Some((image, named)) = self.name_known(who, &id, name, source.uri())? {
            return Ok((image.clone(), source.known(&image, named, name)));
        }
        let built = source.build().map_err(in_object)?;
        let copied = built.copied.clone();
        match self.commit(
            who,
            source.image_info(&id, name, built.sealed),
            &source.object,
            built,
        )? {
            Outcome::Added(image) => Ok((image, copied)),
            Outcome::Known { image, named } => {
                Ok((image.clone(), source.known(&image, named, name)))
            }
            Outcome::Replaced => Err(replaced(&object)),
        }
    }

    /// The image `id`, if there is one, now called `name` too; and whether it was not before.
    fn name_known(
        &self,
        who: &Who,
        id: &str,
        name: &str,
        uri: String,
    ) -> Result<Option<(ImageInfo, bool)>> {
        let (who, id, name) = (who.clone(), id.to_owned(), name.to_owned());
        self.shared
            .catalog
            .transact(move |txn| name_known(txn, &who, &id, &name, &uri))
    }

    fn commit(
        &self,
        who: &Who,
        image: ImageInfo,
        object: &Object,
        built: Built,
    ) -> Result<Outcome> {
        let Built {
            sealed,
            new,
            copied,
        } = built;
        let map_row = new.clone();
        let (who, object) = (who.clone(), object.clone());
        let outcome = self.shared.catalog.transact(move |txn| {
            if let Some((image, named)) =
                name_known(txn, &who, &image.id, &image.names[0], &image.source)?
            {
                return Ok(Outcome::Known { image, named });
            }
            if !still_shows(txn, &object)? {
                return Ok(Outcome::Replaced);
            }
            if let Some(map_row) = &map_row {
                txn.put_map(sealed.map, map_row)?;
            }
            txn.pin(sealed.map, sealed.lsn, &row::holder(&image.id))?;
            row::claim(txn, &image.names[0], &image.id)?;
            row::put(txn, &image)?;
            let mut detail = format!(
                "called {}, from {} ({})",
                image.names[0], image.source, image.format
            );
            if !copied.why.is_empty() {
                detail = format!("{detail}: {}", copied.why);
            }
            let entry = Entry::new("image.added", &image.id)
                .bytes("shared", copied.shared_bytes)
                .bytes("written", copied.rewritten_bytes)
                .detail(detail);
            txn.journal(&who, entry)?;
            Ok(Outcome::Added(image))
        });
        if !matches!(outcome, Ok(Outcome::Added(_)))
            && let Some(map_row) = new
        {
            self.discard(sealed, map_row);
        }
        outcome
    }

    /// Leaves a composed map to the sweeper, without what it borrowed.
    fn discard(&self, sealed: SealedMap, mut map_row: MapRow) {
        map_row.borrows.clear();
        let left = self.shared.catalog.transact(move |txn| {
            txn.put_map(sealed.map, &map_row)?;
            txn.loosen(sealed.map);
            Ok(())
        });
        match left {
            Ok(()) => self.shared.engine.sweep_soon(),
            // The next opening finds it among the maps without a row.
            Err(error) => {
                tracing::warn!(map = %sealed.map, error = error.chain(), "an unneeded map stays until the store is opened again");
            }
        }
    }
}

impl<'a> Source<'a> {
    fn open(store: &'a Store, project: &str, object: Object, file: &'a dyn ReadAt) -> Result<Self> {
        let (disk, packing) = match detect(file)? {
            Format::Raw => (Disk::Raw, None),
            Format::Qcow2 => {
                let qcow2 = Qcow2::open(file)?;
                let packing = qcow2.header().packing();
                (Disk::Qcow2(qcow2), Some(packing))
            }
        };
        let pieces = match &object.body {
            Body::Inline => Vec::new(),
            Body::Map(sealed) => vec![Piece {
                sealed: *sealed,
                offset_bytes: 0,
                length_bytes: sealed.length_bytes,
            }],
            Body::Concat(pieces) => pieces.clone(),
        };
        let source = Self {
            store,
            project: project.to_owned(),
            object,
            pieces,
            image: ImageFile { file, packing },
            disk,
        };
        match source.disk_bytes() {
            0 => Err(Error::new(
                Kind::Invalid,
                Subject::Image,
                "its disk has 0 bytes",
            )),
            bytes if bytes > VOLUME_BYTES_MAX => Err(Error::new(
                Kind::Unsupported,
                Subject::Image,
                format!("its disk has {bytes} bytes: images go up to {VOLUME_BYTES_MAX} (64 TiB)"),
            )),
            _ => Ok(source),
        }
    }

    fn uri(&self) -> String {
        format!("s3://{}/{}", self.object.bucket, self.object.key)
    }

    fn format(&self) -> Format {
        match self.disk {
            Disk::Raw => Format::Raw,
            Disk::Qcow2(_) => Format::Qcow2,
        }
    }

    /// Bytes of the disk as the file has it.
    fn disk_bytes(&self) -> u64 {
        match &self.disk {
            Disk::Raw => self.image.file.length_bytes(),
            Disk::Qcow2(qcow2) => qcow2.header().size_bytes,
        }
    }

    /// Bytes of the image.
    fn length_bytes(&self) -> u64 {
        self.disk_bytes().next_multiple_of(BLOCK as u64)
    }

    fn runs(&self) -> Box<dyn Iterator<Item = Result<Run>> + '_> {
        match &self.disk {
            Disk::Qcow2(qcow2) => Box::new(qcow2.runs()),
            Disk::Raw if self.pieces.is_empty() => Box::new(raw::whole(self.disk_bytes())),
            Disk::Raw => {
                let mut open: Option<(SealedMap, View)> = None;
                Box::new(raw::runs(
                    &self.pieces,
                    move |piece, offset, length, max| {
                        self.extents(&mut open, piece, offset, length, max)
                    },
                ))
            }
        }
    }

    fn extents(
        &self,
        open: &mut Option<(SealedMap, View)>,
        piece: &Piece,
        offset: u64,
        length: u64,
        max: usize,
    ) -> Result<Vec<Extent>> {
        if let Some((sealed, view)) = open
            && *sealed == piece.sealed
        {
            return view.extents(offset, length, max);
        }
        let view = self
            .store
            .shared
            .engine
            .view(piece.sealed)
            .map_err(|error| match error.kind() {
                Kind::NotFound => replaced(&self.object),
                _ => error,
            })?;
        open.insert((piece.sealed, view))
            .1
            .extents(offset, length, max)
    }

    fn build(&self) -> Result<Built> {
        let length_bytes = self.length_bytes();
        if let (Disk::Raw, Some(sealed)) = (&self.disk, whole_map(&self.pieces)) {
            let sealed = SealedMap {
                length_bytes,
                ..sealed
            };
            let copied = Copied {
                shared_bytes: length_bytes,
                rewritten_bytes: 0,
                why: self.remarks(None),
            };
            return Ok(Built {
                sealed,
                new: None,
                copied,
            });
        }
        let mut composer = self.store.shared.engine.composer()?;
        let tally = compose(&mut composer, &self.pieces, self.image, self.runs())?;
        let (sealed, map_row) = composer.finish(length_bytes)?;
        let copied = Copied {
            shared_bytes: tally.shared_bytes,
            rewritten_bytes: tally.written_bytes,
            why: self.remarks(Some(&tally)),
        };
        Ok(Built {
            sealed,
            new: Some(map_row),
            copied,
        })
    }

    /// What there is to say: why bytes were written, and what a person should know of the file.
    fn remarks(&self, tally: Option<&Tally>) -> String {
        let mut remarks: Vec<String> = tally
            .map(Tally::why)
            .filter(|why| !why.is_empty())
            .into_iter()
            .collect();
        if self.length_bytes() != self.disk_bytes() {
            remarks.push(format!(
                "its {} bytes are rounded up to {}",
                self.disk_bytes(),
                self.length_bytes()
            ));
        }
        if let Disk::Qcow2(qcow2) = &self.disk {
            remarks.extend_from_slice(&qcow2.header().notes);
        }
        remarks.join("; ")
    }

    /// The report where the image was there already.
    fn known(&self, image: &ImageInfo, named: bool, name: &str) -> Copied {
        let id = &image.id;
        let why = if named {
            format!("the same bytes are image {id} already: it got the name, nothing else was kept")
        } else {
            format!(
                "the same bytes are image {id} already, which is called {name}: nothing was changed"
            )
        };
        Copied {
            shared_bytes: if named { image.length_bytes } else { 0 },
            rewritten_bytes: 0,
            why,
        }
    }

    fn image_info(&self, id: &str, name: &str, sealed: SealedMap) -> ImageInfo {
        ImageInfo {
            id: id.into(),
            names: vec![name.into()],
            length_bytes: self.length_bytes(),
            sealed,
            format: self.format().name().into(),
            source: self.uri(),
            created_ms: clock::now_ms(),
            project: self.project.clone(),
            deprecated: None,
            expires_ms: None,
            endorsements: Vec::new(),
        }
    }
}

/// The map that a body of these pieces is from its beginning to its end. Behind the end of a map its
/// last block holds zeroes; behind the end of a piece it may hold anything.
fn whole_map(pieces: &[Piece]) -> Option<SealedMap> {
    let [piece] = pieces else { return None };
    let ends_well =
        piece.length_bytes == piece.sealed.length_bytes || piece.length_bytes % BLOCK as u64 == 0;
    (piece.offset_bytes == 0 && ends_well).then_some(piece.sealed)
}

fn name_known(
    txn: &mut Txn<'_>,
    who: &Who,
    id: &str,
    name: &str,
    uri: &str,
) -> Result<Option<(ImageInfo, bool)>> {
    let Some(mut image) = row::by_id(txn, id)? else {
        return Ok(None);
    };
    let named = row::claim(txn, name, id)?;
    if named {
        image.names.push(name.into());
        row::put(txn, &image)?;
        let detail = format!("called {name} too: {uri} has the same bytes");
        txn.journal(
            who,
            Entry::new("image.named", id)
                .bytes("shared", image.length_bytes)
                .detail(detail),
        )?;
    }
    Ok(Some((image, named)))
}

/// Whether the object still has the body that was read, and so its pins.
fn still_shows(txn: &Txn<'_>, object: &Object) -> Result<bool> {
    let key = keys::object(&object.bucket, &object.key);
    let current = txn
        .get(&key)?
        .map(|value| keys::decode::<ObjectRow>(&key, &value))
        .transpose()?;
    Ok(object.body == Body::Inline
        || current.is_some_and(|current| current.object.body == object.body))
}

fn replaced(object: &Object) -> Error {
    let text = format!(
        "s3://{}/{} was removed or replaced while it was read: try again",
        object.bucket, object.key
    );
    Error::new(Kind::Conflict, Subject::Image, text)
}

/// Says of which object a malformed or unsupported file is.
fn in_object(object: &Object, error: Error) -> Error {
    match error.kind() {
        kind @ (Kind::Invalid | Kind::Unsupported) if error.subject() == Subject::Image => {
            Error::new(
                kind,
                Subject::Image,
                format!(
                    "cannot make an image of s3://{}/{}: {}",
                    object.bucket,
                    object.key,
                    error.chain()
                ),
            )
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::whole_map;
    use crate::object::Piece;
    use crate::{Lsn, MapId, SealedMap};

    #[test]
    fn only_a_piece_with_a_clean_end_is_a_map_by_itself() {
        let sealed = SealedMap {
            map: MapId(1),
            lsn: Lsn(9),
            length_bytes: 10_000,
        };
        let piece = |offset_bytes, length_bytes| Piece {
            sealed,
            offset_bytes,
            length_bytes,
        };
        assert_eq!(whole_map(&[piece(0, 10_000)]), Some(sealed));
        assert_eq!(whole_map(&[piece(0, 8192)]), Some(sealed));
        assert_eq!(whole_map(&[piece(0, 8000)]), None);
        assert_eq!(whole_map(&[piece(4096, 4096)]), None);
        assert_eq!(whole_map(&[piece(0, 4096), piece(4096, 4096)]), None);
        assert_eq!(whole_map(&[]), None);
    }
}
