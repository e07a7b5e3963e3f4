//! Capabilities: what this server does, and nothing else (CDMI 1.1.1, 12).
//!
//! One table; a row is a capabilities object. An object's `capabilitiesURI` leads to the row of its
//! own sort, so that a client reads what holds there: a snapshot's row has nothing that writes.
//! A capability that is not served is absent, as the standard has it for "false".

use super::ask::Work;
use super::dialect::Media;
use super::failure::{Failure, Reply};
use super::metadata::{ITEM_BYTES_MAX, ITEMS_MAX, TOTAL_BYTES_MAX};
use super::place::Place;
use super::{identity, show};
use axum::response::Response;
use serde_json::{Map, Value};

/// A capabilities object: its path below `cdmi_capabilities/`, and what it lists as "true".
struct Row {
    path: &'static str,
    served: &'static [&'static str],
    /// Whether data system metadata can be asked for there.
    asks: bool,
}

/// Positions are part of object ids: rows are only added at the end.
const ROWS: [Row; 10] = [
    Row {
        path: "",
        served: &[
            "cdmi_dataobjects",
            "cdmi_object_access_by_ID",
            "cdmi_object_copy_from_local",
            "cdmi_object_move_from_local",
            "cdmi_object_move_from_ID",
            "cdmi_references",
            "cdmi_security_access_control",
            "cdmi_security_audit",
            "cdmi_security_data_integrity",
            "cdmi_snapshots",
        ],
        asks: false,
    },
    Row {
        path: "container/",
        served: &[
            "cdmi_copy_container",
            "cdmi_copy_dataobject",
            "cdmi_create_container",
            "cdmi_create_dataobject",
            "cdmi_create_reference",
            "cdmi_create_value_range",
            "cdmi_delete_container",
            "cdmi_list_children",
            "cdmi_list_children_range",
            "cdmi_modify_metadata",
            "cdmi_move_container",
            "cdmi_move_dataobject",
            "cdmi_post_dataobject",
            "cdmi_read_metadata",
            "cdmi_snapshot",
        ],
        asks: true,
    },
    Row {
        path: "container/bucket/",
        served: &[
            "cdmi_copy_container",
            "cdmi_copy_dataobject",
            "cdmi_create_container",
            "cdmi_create_dataobject",
            "cdmi_create_reference",
            "cdmi_create_value_range",
            "cdmi_ctime",
            "cdmi_delete_container",
            "cdmi_list_children",
            "cdmi_list_children_range",
            "cdmi_modify_metadata",
            "cdmi_move_dataobject",
            "cdmi_post_dataobject",
            "cdmi_read_metadata",
            "cdmi_snapshot",
        ],
        asks: true,
    },
    Row {
        path: "container/root/",
        served: &[
            "cdmi_create_container",
            "cdmi_list_children",
            "cdmi_list_children_range",
            "cdmi_read_metadata",
        ],
        asks: false,
    },
    Row {
        path: "container/snapshot/",
        served: &[
            "cdmi_list_children",
            "cdmi_list_children_range",
            "cdmi_read_metadata",
        ],
        asks: false,
    },
    // The snapshot itself, and the container of a container's snapshots.
    Row {
        path: "container/snapshots/",
        served: &[
            "cdmi_delete_container",
            "cdmi_list_children",
            "cdmi_list_children_range",
            "cdmi_read_metadata",
        ],
        asks: false,
    },
    Row {
        path: "container/volume/",
        served: &["cdmi_ctime", "cdmi_read_metadata", "cdmi_size"],
        asks: false,
    },
    Row {
        path: "container/volumes/",
        served: &[
            "cdmi_list_children",
            "cdmi_list_children_range",
            "cdmi_read_metadata",
        ],
        asks: false,
    },
    Row {
        path: "dataobject/",
        served: &[
            "cdmi_ctime",
            "cdmi_delete_dataobject",
            "cdmi_modify_metadata",
            "cdmi_modify_value",
            "cdmi_modify_value_range",
            "cdmi_mtime",
            "cdmi_read_metadata",
            "cdmi_read_value",
            "cdmi_read_value_range",
            "cdmi_size",
        ],
        asks: true,
    },
    Row {
        path: "dataobject/snapshot/",
        served: &[
            "cdmi_ctime",
            "cdmi_mtime",
            "cdmi_read_metadata",
            "cdmi_read_value",
            "cdmi_read_value_range",
            "cdmi_size",
        ],
        asks: false,
    },
];

/// The number of a capabilities object in object ids.
pub(super) fn number_of(path: &str) -> Option<u16> {
    let found = ROWS.iter().position(|row| row.path == path)?;
    u16::try_from(found).ok()
}

/// The capabilities object of a number.
pub(super) fn path_of(number: u16) -> Option<&'static str> {
    ROWS.get(usize::from(number)).map(|row| row.path)
}

/// The capabilities object of a place.
pub(super) fn of(place: &Place) -> Place {
    let path = match place {
        Place::Root => "container/root/",
        Place::Container { prefix, .. } if prefix.is_empty() => "container/bucket/",
        Place::Container { .. } => "container/",
        Place::Snapshots { .. } => "container/snapshots/",
        Place::FrozenContainer { below, .. } if below.is_empty() => "container/snapshots/",
        Place::FrozenContainer { .. } => "container/snapshot/",
        Place::FrozenObject { .. } => "dataobject/snapshot/",
        Place::Object { .. } => "dataobject/",
        Place::Volumes => "container/volumes/",
        Place::Volume(_) => "container/volume/",
        Place::Capabilities(_) | Place::ById(_) => "",
    };
    Place::Capabilities(path.to_owned())
}

/// GET of a capabilities object.
pub(super) fn read(work: &Work, path: &str) -> Reply<Response> {
    let row = row(path).ok_or_else(|| {
        Failure::missing("capabilities", format!("no capabilities object {path:?}"))
    })?;
    work.ask.dialect.wants(Media::Capability)?;
    let mut children: Vec<String> = ROWS
        .iter()
        .filter_map(|other| {
            let below = other.path.strip_prefix(path)?;
            let name = below.strip_suffix('/')?;
            (!name.is_empty() && !name.contains('/')).then(|| below.to_owned())
        })
        .collect();
    children.sort();
    let selection = &work.ask.selection;
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| {
        if selection.shows(name) {
            shown.insert(name.to_owned(), value);
        }
    };
    put("objectType", Media::Capability.text().into());
    put(
        "objectID",
        identity::id_of(&work.door, &work.ask.place, None)?.into(),
    );
    put("objectName", work.ask.place.name().into());
    if let Some(parent) = work.ask.place.parent() {
        put("parentURI", parent.uri(work.root()).into());
        put(
            "parentID",
            identity::id_of(&work.door, &parent, None)?.into(),
        );
    }
    put("capabilities", Value::Object(listed(row)));
    show::put_children(&mut shown, selection, &children)?;
    Ok(show::json(
        axum::http::StatusCode::OK,
        Media::Capability,
        &shown,
    ))
}

fn row(path: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.path == path)
}

fn listed(row: &Row) -> Map<String, Value> {
    let mut all: Map<String, Value> = row
        .served
        .iter()
        .map(|name| ((*name).to_owned(), Value::from("true")))
        .collect();
    if row.path.is_empty() {
        for (name, most) in [
            ("cdmi_metadata_maxitems", ITEMS_MAX),
            ("cdmi_metadata_maxsize", ITEM_BYTES_MAX),
            ("cdmi_metadata_maxtotalsize", TOTAL_BYTES_MAX),
        ] {
            all.insert(name.to_owned(), most.to_string().into());
        }
        all.insert(
            "cdmi_authentication_methods".to_owned(),
            Value::from(vec!["anonymous", "basic", "bearer"]),
        );
    }
    if row.asks {
        all.insert("cdmi_geographic_placement".to_owned(), "true".into());
        for (name, most) in [
            ("cdmi_data_redundancy", "1"),
            ("cdmi_immediate_redundancy", "1"),
            ("cdmi_infrastructure_redundancy", "1"),
            ("cdmi_data_dispersion", "0"),
        ] {
            all.insert(name.to_owned(), most.into());
        }
        all.insert("cdmi_value_hash".to_owned(), Value::from(vec!["SHA256"]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_capabilities_and_snapshots_have_none_that_write() {
        let bucket = "b".to_owned();
        let frozen = |below: &str| Place::FrozenContainer {
            bucket: bucket.clone(),
            prefix: String::new(),
            snapshot: "s".into(),
            below: below.into(),
        };
        for place in [Place::Root, Place::Volumes, frozen(""), frozen("p/")] {
            let Place::Capabilities(path) = of(&place) else {
                panic!("{place:?}");
            };
            let row = row(&path).unwrap();
            let writes = [
                "cdmi_modify_value",
                "cdmi_modify_metadata",
                "cdmi_create_dataobject",
            ];
            assert!(
                row.served.iter().all(|name| !writes.contains(name)),
                "{path}"
            );
        }
    }

    #[test]
    fn each_object_is_found_by_its_number_and_lists_its_names_once() {
        for (number, row) in ROWS.iter().enumerate() {
            let number = u16::try_from(number).unwrap();
            assert_eq!(number_of(row.path), Some(number));
            assert_eq!(path_of(number), Some(row.path));
            let mut names = row.served.to_vec();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), row.served.len(), "{}", row.path);
        }
        assert_eq!(path_of(500), None);
    }
}
