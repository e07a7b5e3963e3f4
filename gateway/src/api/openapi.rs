//! The API's description, kept by hand in `openapi.json` and held against the routes by a test.

use super::Route;
use axum::http::header;
use axum::routing::get;

/// OpenAPI 3.1, as JSON text. It also describes the routes that the program adds beside the
/// gateway's own (instances, mounts).
pub const DOCUMENT: &str = include_str!("openapi.json");

/// What the document lists, as `get /volumes/{volume}`, in order.
pub fn operations() -> Vec<String> {
    let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, item)| {
            let methods = item
                .as_object()
                .into_iter()
                .flatten()
                .map(|(method, _)| method);
            methods
                .filter(|method| method.as_str() != "parameters")
                .map(move |method| format!("{method} {path}"))
        })
        .collect()
}

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        path: "/openapi.json",
        methods: &["get"],
        answer: get(document),
    }]
}

async fn document() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_route_of_the_gateway() {
        let listed = operations();
        for route in super::super::routes() {
            for method in route.methods {
                let operation = format!("{method} {}", route.path);
                assert!(
                    listed.contains(&operation),
                    "openapi.json lacks {operation}"
                );
            }
        }
    }

    #[test]
    fn the_document_lists_nothing_that_no_door_answers() {
        let own: Vec<String> = super::super::routes()
            .iter()
            .flat_map(|route| {
                route
                    .methods
                    .iter()
                    .map(|method| format!("{method} {}", route.path))
            })
            .collect();
        for operation in operations() {
            let (_, path) = operation.split_once(' ').unwrap();
            let added_by_the_program = [
                "/vms",
                "/hosts",
                "/mounts",
                "/tickets",
                "/volumes/{volume}/tickets",
            ]
            .iter()
            .any(|start| path.starts_with(start));
            assert!(
                own.contains(&operation) || added_by_the_program,
                "nobody answers {operation}"
            );
        }
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut left = vec![&document];
        while let Some(value) = left.pop() {
            if let Some(reference) = value.get("$ref").and_then(|reference| reference.as_str()) {
                let pointer = reference.trim_start_matches('#');
                assert!(
                    document.pointer(pointer).is_some(),
                    "{reference} leads nowhere"
                );
            }
            match value {
                serde_json::Value::Array(items) => left.extend(items),
                serde_json::Value::Object(items) => left.extend(items.values()),
                _ => {}
            }
        }
    }
}
