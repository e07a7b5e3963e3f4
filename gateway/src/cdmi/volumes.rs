//! Volumes as CDMI shows them: read-only containers without children under `cdmi_volumes/`, for
//! their exports.
//!
//! A volume is no object with a value; what a client of CDMI wants of it is how a compute resource
//! reaches it (CDMI 1.1.1, 13.2: OCCI), and who does now. So its export is `OCCI/NBD`: the id that
//! an attachment names, and the holders of the volume's writer token.

use super::ask::Work;
use super::dialect::Media;
use super::failure::Reply;
use super::metadata::{select, time};
use super::{identity, show};
use access::Resource;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

/// GET of the container of the volumes.
pub(super) fn read_all(work: &Work) -> Reply<Response> {
    work.may("volume:List", &Resource::All, &[])?;
    work.ask.dialect.wants(Media::Container)?;
    let mut shown = show::common(work, Media::Container, &work.ask.place, None, false)?;
    if work.ask.selection.shows("metadata") {
        shown.insert(
            "metadata".to_owned(),
            Value::Object(work.door.node.provided()),
        );
    }
    let names: Vec<String> = work
        .store()
        .volumes()?
        .into_iter()
        .filter(|volume| work.sees("volume:Describe", &Resource::Volume(&volume.name)))
        .map(|volume| format!("{}/", volume.name))
        .collect();
    show::put_children(&mut shown, &work.ask.selection, &names)?;
    Ok(show::json(StatusCode::OK, Media::Container, &shown))
}

/// GET of a volume.
pub(super) fn read(work: &Work, name: &str) -> Reply<Response> {
    work.may("volume:Describe", &Resource::Volume(name), &[])?;
    let volume = work.store().volume_info(name)?;
    work.ask.dialect.wants(Media::Container)?;
    let selection = &work.ask.selection;
    let mut shown = show::common(work, Media::Container, &work.ask.place, None, false)?;
    if selection.shows("metadata") {
        let mut items = work.door.node.provided();
        items.insert(
            "cdmi_size".to_owned(),
            volume.length_bytes.to_string().into(),
        );
        items.insert("cdmi_ctime".to_owned(), time(volume.created_ms).into());
        if let Some(origin) = &volume.origin {
            items.insert("origin".to_owned(), origin.as_str().into());
        }
        let items = select(items, &selection.metadata());
        shown.insert("metadata".to_owned(), Value::Object(items));
    }
    if selection.shows("exports") {
        let id = identity::id_of(&work.door, &work.ask.place, None)?;
        let version = work.ask.dialect.version;
        let exports = show::exported(version, "OCCI/NBD", "NBD", |export| {
            let holders: Vec<String> = volume.writer.iter().cloned().collect();
            export.insert("identifier".to_owned(), id.into());
            export.insert("name".to_owned(), volume.name.as_str().into());
            export.insert("permissions".to_owned(), holders.into());
        });
        shown.insert("exports".to_owned(), exports);
    }
    show::put_children(&mut shown, selection, &[])?;
    Ok(show::json(StatusCode::OK, Media::Container, &shown))
}
