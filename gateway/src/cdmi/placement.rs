//! What a client may ask of where and how data is kept, and what this node can promise.
//!
//! 1. What is asked is checked when it is set: malformed is 400, well-formed but not to be had here
//!    is 403. What was accepted is kept with the object and holds.
//! 2. `_provided` says what is, never what was asked for.
//! 3. A node that does not know its country satisfies only a list that begins with `*`: neither a
//!    wanted country nor an excluded one can be answered for.
//!
//! CDMI 1.1.1, 16.4 (data system metadata) and 16.5 (`_provided`).

use super::failure::{Failure, Reply};
use serde_json::{Map, Value};

/// Entries of a placement list at most.
const PLACES_MAX: usize = 300;

/// ISO 3166-1 alpha-2.
const COUNTRIES: &str = "\
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT \
BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH \
ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT \
HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS \
LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI \
NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG \
SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG \
UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// What this node can say of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Its country, ISO 3166-1 alpha-2.
    pub(super) country: Option<String>,
}

/// Data system metadata of the standard that no promise can be made for here, with the reason.
const UNSERVED: [(&str, &str); 16] = [
    (
        "cdmi_acl",
        "access is decided by policies (docs/SECURITY.md)",
    ),
    ("cdmi_assignedsize", "quotas belong to projects"),
    ("cdmi_data_autodelete", "nothing is deleted by itself"),
    (
        "cdmi_data_holds",
        "objects are held through S3's object lock",
    ),
    ("cdmi_hold_id", "objects are held through S3's object lock"),
    (
        "cdmi_data_retention",
        "objects are retained through S3's object lock",
    ),
    (
        "cdmi_retention_id",
        "objects are retained through S3's object lock",
    ),
    (
        "cdmi_retention_period",
        "objects are retained through S3's object lock",
    ),
    ("cdmi_retention_autodelete", "nothing is deleted by itself"),
    (
        "cdmi_encryption",
        "this node does not encrypt what it stores",
    ),
    ("cdmi_latency", "no latency is promised"),
    ("cdmi_throughput", "no throughput is promised"),
    ("cdmi_RPO", "there is one copy, so none is behind another"),
    ("cdmi_RTO", "no time of recovery is promised"),
    (
        "cdmi_sanitization_method",
        "deleted bytes are freed, not overwritten",
    ),
    (
        "cdmi_authentication_methods",
        "the operator decides how clients authenticate",
    ),
];

/// Whether a country code is one.
pub(super) fn is_country(code: &str) -> bool {
    code.len() == 2 && COUNTRIES.split(' ').any(|known| known == code)
}

impl Node {
    /// What is so for everything stored here.
    pub(super) fn provided(&self) -> Map<String, Value> {
        let mut provided = Map::new();
        let mut put = |name: &str, value: Value| provided.insert(name.to_owned(), value);
        put("cdmi_data_redundancy_provided", "1".into());
        put("cdmi_immediate_redundancy_provided", "1".into());
        put("cdmi_infrastructure_redundancy_provided", "1".into());
        put("cdmi_data_dispersion_provided", "0".into());
        if let Some(country) = &self.country {
            put(
                "cdmi_geographic_placement_provided",
                Value::Array(vec![country.as_str().into()]),
            );
        }
        provided
    }

    /// Checks one item of data system metadata. `Ok(false)`: the standard knows no such item.
    pub(super) fn check(&self, name: &str, value: &Value) -> Reply<bool> {
        match name {
            "cdmi_geographic_placement" => self.check_placement(value)?,
            "cdmi_data_redundancy" => at_most(name, value, 1, "copies", "one copy is kept")?,
            "cdmi_immediate_redundancy" => {
                at_most(
                    name,
                    value,
                    1,
                    "copies",
                    "one copy is written before the answer",
                )?;
            }
            "cdmi_infrastructure_redundancy" => {
                at_most(name, value, 1, "infrastructures", "this is one node")?;
            }
            "cdmi_data_dispersion" => at_most(name, value, 0, "km", "this is one place")?,
            "cdmi_value_hash" => {
                let asked = text(name, value)?;
                if !asked.eq_ignore_ascii_case("SHA256") {
                    return Err(unmet(
                        name,
                        &format!("{asked:?}: values are hashed by SHA256"),
                    ));
                }
            }
            _ => match UNSERVED.iter().find(|(unserved, _)| *unserved == name) {
                Some((_, why)) => return Err(unmet(name, why)),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// The first entry that matches decides; no match is a refusal.
    fn check_placement(&self, value: &Value) -> Reply<()> {
        const NAME: &str = "cdmi_geographic_placement";
        let malformed = |what: String| {
            Failure::invalid(
                NAME,
                format!(
                    "{NAME} is an array of ISO 3166 codes, each \"XX\", \"!XX\" to exclude, or \
                     \"*\" for any: {what}"
                ),
            )
        };
        let Value::Array(list) = value else {
            return Err(malformed(format!("{value} is no array")));
        };
        if list.is_empty() || list.len() > PLACES_MAX {
            return Err(malformed(format!("it has {} entries", list.len())));
        }
        let mut decided = None;
        for entry in list {
            let Some(entry) = entry.as_str() else {
                return Err(malformed(format!("{entry} is no string")));
            };
            let (wanted, code) = match entry.strip_prefix('!') {
                Some(code) => (false, code),
                None => (true, entry),
            };
            let (country, part) = match code.split_once('-') {
                Some((country, part)) => (country, Some(part)),
                None => (code, None),
            };
            let part_fits = part.is_none_or(|part| {
                (1..=3).contains(&part.len())
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            });
            let any = entry == "*";
            let known = any || (is_country(country) && part_fits);
            if !known {
                return Err(malformed(format!("{entry:?} is not a code of ISO 3166")));
            }
            if decided.is_some() {
                // The rest must be well-formed too, and decides nothing.
                continue;
            }
            decided = match &self.country {
                _ if any => Some(true),
                // Unknown: it cannot be ruled out that this entry is the one that matches.
                None => Some(false),
                // A part of this country: which part this node lies in is not known.
                Some(here) if here == country && part.is_some() => Some(false),
                Some(here) if here == country => Some(wanted),
                Some(_) => None,
            };
        }
        if decided == Some(true) {
            return Ok(());
        }
        let here = match &self.country {
            Some(country) => format!("this node is in {country}"),
            None => "this node does not know its country (config key provider.country)".to_owned(),
        };
        Err(unmet(NAME, &format!("{value}: {here}")))
    }
}

fn unmet(name: &str, why: &str) -> Failure {
    Failure::forbidden(name, format!("{name} cannot be satisfied here: {why}"))
}

fn text<'a>(name: &str, value: &'a Value) -> Reply<&'a str> {
    value
        .as_str()
        .ok_or_else(|| Failure::invalid(name, format!("{name} is a JSON string, not {value}")))
}

/// A whole number in a string, which is more than `most` only where nobody can promise it.
fn at_most(name: &str, value: &Value, most: u64, unit: &str, why: &str) -> Reply<()> {
    let digits = text(name, value)?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let asked = plain.then(|| digits.parse::<u64>().ok()).flatten();
    match asked {
        None => Err(Failure::invalid(
            name,
            format!("{name} is a whole number of {unit} in a string, not {digits:?}"),
        )),
        Some(asked) if asked > most => Err(unmet(name, &format!("{asked} {unit}: {why}"))),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(country: Option<&str>, name: &str, value: &Value) -> u16 {
        use axum::response::IntoResponse;
        let node = Node {
            country: country.map(Into::into),
        };
        match node.check(name, value) {
            Ok(known) => {
                if known {
                    200
                } else {
                    0
                }
            }
            Err(failure) => failure.into_response().status().as_u16(),
        }
    }

    #[test]
    fn the_first_entry_that_matches_decides_where_data_may_lie() {
        for (list, here, elsewhere, unknown) in [
            (json!(["DE"]), 200, 403, 403),
            (json!(["FR", "DE"]), 200, 403, 403),
            (json!(["!DE", "*"]), 403, 200, 403),
            (json!(["!US", "*"]), 200, 200, 403),
            (json!(["!US"]), 403, 403, 403),
            (json!(["*"]), 200, 200, 200),
            (json!(["*", "!DE"]), 200, 200, 200),
            (json!(["DE", "!DE"]), 200, 403, 403),
            (json!(["DE-BY", "*"]), 403, 200, 403),
            (json!(["XX"]), 400, 400, 400),
            (json!(["de"]), 400, 400, 400),
            (json!(["*", "nowhere"]), 400, 400, 400),
            (json!([]), 400, 400, 400),
            (json!("DE"), 400, 400, 400),
            (json!([1]), 400, 400, 400),
            (json!(["!*"]), 400, 400, 400),
        ] {
            let name = "cdmi_geographic_placement";
            assert_eq!(answer(Some("DE"), name, &list), here, "{list} in DE");
            assert_eq!(answer(Some("NL"), name, &list), elsewhere, "{list} in NL");
            assert_eq!(answer(None, name, &list), unknown, "{list} nowhere known");
        }
    }

    #[test]
    fn more_than_one_node_can_keep_is_refused() {
        for (name, value, status) in [
            ("cdmi_data_redundancy", json!("1"), 200),
            ("cdmi_data_redundancy", json!("2"), 403),
            ("cdmi_data_redundancy", json!(2), 400),
            ("cdmi_data_redundancy", json!("two"), 400),
            ("cdmi_data_redundancy", json!("99999999999999999999"), 400),
            ("cdmi_immediate_redundancy", json!("2"), 403),
            ("cdmi_infrastructure_redundancy", json!("3"), 403),
            ("cdmi_data_dispersion", json!("0"), 200),
            ("cdmi_data_dispersion", json!("100"), 403),
            ("cdmi_value_hash", json!("SHA256"), 200),
            ("cdmi_value_hash", json!("MD4"), 403),
            ("cdmi_encryption", json!("AES_XTS_256"), 403),
            (
                "cdmi_retention_period",
                json!("2026-01-01T00:00:00/P1Y"),
                403,
            ),
            ("cdmi_acl", json!([]), 403),
            ("cdmi_nonsense", json!("1"), 0),
        ] {
            assert_eq!(answer(Some("DE"), name, &value), status, "{name} {value}");
        }
    }
}
