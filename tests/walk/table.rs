//! The table of docs/SECURITY.md, as the walks read it.

use std::collections::BTreeMap;

/// A row: what one operation needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) door: String,
    pub(crate) operation: String,
    /// Empty where nothing is asked.
    pub(crate) action: String,
    pub(crate) on: String,
}

impl Row {
    /// Whether any key, or none, will do.
    pub(crate) fn is_free(&self) -> bool {
        self.on.starts_with("nothing")
    }

    /// Whether a resource is of the sort that this row names.
    pub(crate) fn means(&self, arn: &str) -> bool {
        let on = self.on.split(", if ").next().unwrap_or_default();
        let of = |start: &str| arn.starts_with(start) && !arn.ends_with('*');
        let object = of("arn:aws:s3:::") && arn.contains('/');
        let bucket = of("arn:aws:s3:::") && !arn.contains('/');
        match on {
            "object" | "the source" | "each member" => object,
            "each object of the bucket" => arn.starts_with("arn:aws:s3:::") && arn.ends_with("/*"),
            "bucket" => bucket,
            "volume" => of("arn:infall:volume:::"),
            "snapshot" => of("arn:infall:snapshot:::"),
            "image" | "the image to use instead" => of("arn:infall:image:::"),
            "instance" => of("arn:infall:instance:::"),
            "project" => of("arn:infall:project:::"),
            "the host" => arn == "arn:infall:host:::local",
            "the store" => arn == "arn:infall:store:::*",
            "user" | "group" | "role" | "policy" => arn.contains(&format!(":{on}/")),
            "every user of the project" => arn.ends_with(":user/*"),
            "every group of the project" => arn.ends_with(":group/*"),
            "every role of the project" => arn.ends_with(":role/*"),
            "every policy of the project" => arn.ends_with(":policy/*"),
            "role: its trust decides" => arn.contains(":role/"),
            "everything of its kind" => arn.ends_with('*'),
            "what the export shows" => !arn.ends_with('*'),
            "each disk that is named" => !arn.ends_with('*'),
            _ => false,
        }
    }
}

/// All rows, in their order.
pub(crate) fn rows() -> Vec<Row> {
    let document = include_str!("../../docs/SECURITY.md");
    let (_, table) = document
        .split_once("\n| door | operation | action | on |\n")
        .expect("docs/SECURITY.md has its table");
    let lines = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [door, operation, action, on] = cells[..] else {
            panic!("no row of four cells: {line}");
        };
        Row {
            door: door.to_owned(),
            operation: operation.trim_matches('`').to_owned(),
            action: action.trim_matches('`').trim_matches('–').to_owned(),
            on: on.to_owned(),
        }
    });
    rows.collect()
}

/// The rows of one door, by operation.
pub(crate) fn of(door: &str) -> BTreeMap<String, Vec<Row>> {
    let mut all: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows().into_iter().filter(|row| row.door == door) {
        all.entry(row.operation.clone()).or_default().push(row);
    }
    all
}
