//! Conditions: an operator, a key of the request, and the values it is held against.
//!
//! | operator | a key that is not there | several values of the policy |
//! |---|---|---|
//! | positive (`StringLike`, `IpAddress`, …) | does not hold | one of them must match |
//! | negative (`StringNotLike`, `NotIpAddress`, …) | holds | none of them may match |
//! | `…IfExists` | holds | as above |
//! | `ForAllValues:` | holds | each value of the request must match |
//! | `ForAnyValue:` | does not hold | one value of the request must match |
//!
//! Spec: IAM User Guide, "IAM JSON policy elements: Condition operators" and "Multivalued context keys".

use super::json::Json;
use super::pattern::{ArnPattern, Pattern};
use super::{Context, Malformed};
use std::net::IpAddr;

/// One operator over one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    key: String,
    over: Over,
    if_exists: bool,
    negative: bool,
    test: Test,
}

/// Which values of the request must match.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    /// No set operator: any of them, or for a negative operator all.
    Plain,
    All,
    Any,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Text(Vec<Pattern>),
    TextFolded(Vec<Pattern>),
    Numeric(Order, Vec<f64>),
    /// Milliseconds since the Unix epoch.
    Date(Order, Vec<i64>),
    Bool(Vec<bool>),
    Address(Vec<Network>),
    Arn(Vec<ArnPattern>),
    /// Whether the key must be absent.
    Absent(bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Condition {
    /// Reads one key of one operator.
    pub(super) fn read(
        operator: &str,
        key: &str,
        values: &Json,
        variables: bool,
    ) -> Result<Self, Malformed> {
        let (over, name) = match operator.split_once(':') {
            Some(("ForAllValues", rest)) => (Over::All, rest),
            Some(("ForAnyValue", rest)) => (Over::Any, rest),
            Some(_) => return Err(unknown(operator)),
            None => (Over::Plain, operator),
        };
        let (name, if_exists) = match name.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (name, false),
        };
        if key.is_empty() || key.len() > 256 || !key.contains(':') {
            return Err(Malformed(format!(
                "condition key {key:?} is not written as service:name"
            )));
        }
        let texts = texts(operator, key, values)?;
        let (negative, test) = test(operator, name, &texts, variables)?;
        if matches!(test, Test::Absent(_)) && (if_exists || over != Over::Plain) {
            return Err(unknown(operator));
        }
        Ok(Self {
            key: key.to_ascii_lowercase(),
            over,
            if_exists,
            negative,
            test,
        })
    }

    /// Whether it holds for a request.
    pub(super) fn holds(&self, context: &Context) -> bool {
        let shown = context.values(&self.key);
        if let Test::Absent(absent) = self.test {
            return shown.is_empty() == absent;
        }
        if shown.is_empty() {
            return match self.over {
                Over::All => true,
                Over::Any => self.if_exists,
                Over::Plain => self.if_exists || self.negative,
            };
        }
        let mut each = shown
            .iter()
            .map(|value| self.test.matches(value, context) != self.negative);
        match (self.over, self.negative) {
            (Over::All, _) | (Over::Plain, true) => each.all(|holds| holds),
            (Over::Any, _) | (Over::Plain, false) => each.any(|holds| holds),
        }
    }

    /// Whether it says something of who asks or from where, so that "everybody" is not everybody.
    pub(super) fn narrows_who(&self) -> bool {
        let keys = [
            "aws:sourceip",
            "aws:principalarn",
            "aws:principalaccount",
            "aws:userid",
            "aws:username",
            "aws:principaltype",
        ];
        let everywhere = match &self.test {
            Test::Address(networks) => networks.iter().any(|network| network.bits == 0),
            _ => false,
        };
        keys.contains(&self.key.as_str()) && !self.negative && !everywhere
    }
}

impl Test {
    fn matches(&self, shown: &str, context: &Context) -> bool {
        match self {
            Self::Text(patterns) => patterns.iter().any(|one| one.matches(shown, context)),
            Self::TextFolded(patterns) => {
                let shown = shown.to_lowercase();
                patterns.iter().any(|one| one.matches(&shown, context))
            }
            Self::Numeric(order, values) => shown
                .parse::<f64>()
                .is_ok_and(|shown| values.iter().any(|value| order.holds(&shown, value))),
            Self::Date(order, values) => date(shown)
                .is_some_and(|shown| values.iter().any(|value| order.holds(&shown, value))),
            Self::Bool(values) => truth(shown).is_some_and(|shown| values.contains(&shown)),
            Self::Address(networks) => shown
                .parse::<IpAddr>()
                .is_ok_and(|shown| networks.iter().any(|network| network.holds(shown))),
            Self::Arn(patterns) => patterns
                .iter()
                .any(|one| one.try_matches(shown, context).unwrap_or(false)),
            Self::Absent(_) => false,
        }
    }
}

impl Order {
    fn holds<T: PartialOrd>(self, shown: &T, value: &T) -> bool {
        match self {
            Self::Equal => shown == value,
            Self::Less => shown < value,
            Self::LessOrEqual => shown <= value,
            Self::Greater => shown > value,
            Self::GreaterOrEqual => shown >= value,
        }
    }
}

impl Network {
    /// `10.0.0.0/8`, `2001:db8::/32`, or one address.
    fn read(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => most,
        };
        (bits <= most).then_some(Self { address, bits })
    }

    fn holds(&self, shown: IpAddr) -> bool {
        match (self.address, shown.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(shown)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                own.to_bits() & mask == shown.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(shown)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.bits))
                    .unwrap_or(0);
                own.to_bits() & mask == shown.to_bits() & mask
            }
            _ => false,
        }
    }
}

fn unknown(operator: &str) -> Malformed {
    Malformed(format!("{operator:?} is no condition operator"))
}

/// A value, or a list of them; numbers and booleans stand for their text.
fn texts(operator: &str, key: &str, values: &Json) -> Result<Vec<String>, Malformed> {
    let one = |value: &Json| match value {
        Json::Text(text) => Ok(text.clone()),
        Json::Number(text) => Ok(text.clone()),
        Json::Bool(value) => Ok(value.to_string()),
        Json::Null | Json::List(_) | Json::Map(_) => Err(Malformed(format!(
            "{operator} of {key:?} holds {}, not a value or a list of values",
            value.sort()
        ))),
    };
    match values {
        Json::List(list) => list.iter().map(one).collect(),
        single => one(single).map(|value| vec![value]),
    }
}

fn test(
    operator: &str,
    name: &str,
    texts: &[String],
    variables: bool,
) -> Result<(bool, Test), Malformed> {
    let patterns = |wild| {
        let read = texts
            .iter()
            .map(|text| Pattern::read(text, wild, variables));
        read.collect::<Result<Vec<_>, _>>()
    };
    let folded = || {
        let read = texts
            .iter()
            .map(|text| Pattern::read(text, false, variables).map(Pattern::lowered));
        read.collect::<Result<Vec<_>, _>>()
    };
    let numeric = |order| values(operator, texts, number).map(|all| Test::Numeric(order, all));
    let dates = |order| values(operator, texts, date).map(|all| Test::Date(order, all));
    let arns = || {
        let read = texts.iter().map(|text| ArnPattern::read(text, variables));
        read.collect::<Result<Vec<_>, _>>().map(Test::Arn)
    };
    let networks = || values(operator, texts, Network::read).map(Test::Address);
    Ok(match name {
        "StringEquals" | "BinaryEquals" => (false, Test::Text(patterns(false)?)),
        "StringNotEquals" => (true, Test::Text(patterns(false)?)),
        "StringEqualsIgnoreCase" => (false, Test::TextFolded(folded()?)),
        "StringNotEqualsIgnoreCase" => (true, Test::TextFolded(folded()?)),
        "StringLike" => (false, Test::Text(patterns(true)?)),
        "StringNotLike" => (true, Test::Text(patterns(true)?)),
        "NumericEquals" => (false, numeric(Order::Equal)?),
        "NumericNotEquals" => (true, numeric(Order::Equal)?),
        "NumericLessThan" => (false, numeric(Order::Less)?),
        "NumericLessThanEquals" => (false, numeric(Order::LessOrEqual)?),
        "NumericGreaterThan" => (false, numeric(Order::Greater)?),
        "NumericGreaterThanEquals" => (false, numeric(Order::GreaterOrEqual)?),
        "DateEquals" => (false, dates(Order::Equal)?),
        "DateNotEquals" => (true, dates(Order::Equal)?),
        "DateLessThan" => (false, dates(Order::Less)?),
        "DateLessThanEquals" => (false, dates(Order::LessOrEqual)?),
        "DateGreaterThan" => (false, dates(Order::Greater)?),
        "DateGreaterThanEquals" => (false, dates(Order::GreaterOrEqual)?),
        "Bool" => (false, Test::Bool(values(operator, texts, truth)?)),
        "IpAddress" => (false, networks()?),
        "NotIpAddress" => (true, networks()?),
        "ArnEquals" | "ArnLike" => (false, arns()?),
        "ArnNotEquals" | "ArnNotLike" => (true, arns()?),
        "Null" => match values(operator, texts, truth)?.as_slice() {
            [absent] => (false, Test::Absent(*absent)),
            _ => return Err(Malformed("Null takes one value, true or false".into())),
        },
        _ => return Err(unknown(operator)),
    })
}

fn values<T>(
    operator: &str,
    texts: &[String],
    read: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Malformed> {
    texts
        .iter()
        .map(|text| {
            read(text)
                .ok_or_else(|| Malformed(format!("{operator} cannot be held against {text:?}")))
        })
        .collect()
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Milliseconds of an ISO 8601 time or date, or of seconds since the Unix epoch.
fn date(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1000);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    let day: jiff::civil::Date = text.parse().ok()?;
    let time = day.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(time.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(operator: &str, values: &str, shown: &[&str]) -> bool {
        let values = super::super::json::read(values).unwrap();
        let condition = Condition::read(operator, "aws:Key", &values, true).unwrap();
        let mut context = Context::default();
        for value in shown {
            context.add("AWS:key", *value);
        }
        condition.holds(&context)
    }

    #[test]
    fn each_operator_holds_as_the_manual_says() {
        let table: &[(&str, &str, &[&str], bool)] = &[
            ("StringEquals", r#""a""#, &["a"], true),
            ("StringEquals", r#""a""#, &["A"], false),
            ("StringEquals", r#"["a","b"]"#, &["b"], true),
            ("StringEquals", r#""a*""#, &["ab"], false),
            ("StringEquals", r#""a""#, &[], false),
            ("StringNotEquals", r#"["a","b"]"#, &["c"], true),
            ("StringNotEquals", r#"["a","b"]"#, &["b"], false),
            ("StringNotEquals", r#""a""#, &[], true),
            ("StringEqualsIgnoreCase", r#""AbÉ""#, &["aBÉ"], true),
            ("StringNotEqualsIgnoreCase", r#""ab""#, &["AB"], false),
            ("StringLike", r#""home/*""#, &["home/x/y"], true),
            ("StringLike", r#""home/?""#, &["home/xy"], false),
            ("StringNotLike", r#""home/*""#, &["etc"], true),
            ("StringEqualsIfExists", r#""a""#, &[], true),
            ("StringEqualsIfExists", r#""a""#, &["b"], false),
            ("NumericEquals", "3", &["3.0"], true),
            ("NumericLessThan", r#""10""#, &["9"], true),
            ("NumericLessThan", r#""10""#, &["x"], false),
            ("NumericLessThanEquals", "10", &["10"], true),
            ("NumericGreaterThan", "10", &["10"], false),
            ("NumericGreaterThanEquals", "10", &["10"], true),
            ("NumericNotEquals", "10", &["9"], true),
            (
                "DateLessThan",
                r#""2020-01-01T00:00:00Z""#,
                &["2019-12-31T23:59:59Z"],
                true,
            ),
            ("DateGreaterThan", r#""2020-01-01""#, &["1577836801"], true),
            (
                "DateEquals",
                r#""1577836800""#,
                &["2020-01-01T00:00:00Z"],
                true,
            ),
            ("Bool", "true", &["true"], true),
            ("Bool", r#""false""#, &["true"], false),
            ("Bool", r#""false""#, &[], false),
            ("IpAddress", r#""203.0.113.0/24""#, &["203.0.113.7"], true),
            ("IpAddress", r#""203.0.113.0/24""#, &["203.0.114.7"], false),
            (
                "IpAddress",
                r#""203.0.113.0/24""#,
                &["::ffff:203.0.113.7"],
                true,
            ),
            (
                "IpAddress",
                r#"["10.0.0.1","2001:db8::/32"]"#,
                &["2001:db8:1::1"],
                true,
            ),
            ("IpAddress", r#""0.0.0.0/0""#, &["8.8.8.8"], true),
            ("NotIpAddress", r#""10.0.0.0/8""#, &["10.1.1.1"], false),
            ("NotIpAddress", r#""10.0.0.0/8""#, &[], true),
            (
                "ArnLike",
                r#""arn:aws:iam::*:user/a*""#,
                &["arn:aws:iam::p:user/alice"],
                true,
            ),
            (
                "ArnEquals",
                r#""arn:aws:iam::p:user/a""#,
                &["arn:aws:iam::q:user/a"],
                false,
            ),
            (
                "ArnNotLike",
                r#""arn:aws:iam::p:*""#,
                &["arn:aws:iam::p:user/a"],
                false,
            ),
            ("Null", "true", &[], true),
            ("Null", "true", &["x"], false),
            ("Null", r#""false""#, &["x"], true),
            (
                "ForAllValues:StringEquals",
                r#"["a","b"]"#,
                &["a", "b"],
                true,
            ),
            (
                "ForAllValues:StringEquals",
                r#"["a","b"]"#,
                &["a", "c"],
                false,
            ),
            ("ForAllValues:StringEquals", r#""a""#, &[], true),
            (
                "ForAnyValue:StringEquals",
                r#"["a","b"]"#,
                &["c", "b"],
                true,
            ),
            ("ForAnyValue:StringEquals", r#""a""#, &[], false),
            ("ForAnyValue:StringNotEquals", r#""a""#, &["a", "b"], true),
            ("ForAllValues:StringNotLike", r#""a*""#, &["b", "ax"], false),
            ("ForAnyValue:StringLikeIfExists", r#""a*""#, &[], true),
        ];
        for (operator, values, shown, expected) in table {
            assert_eq!(
                holds(operator, values, shown),
                *expected,
                "{operator} {values} {shown:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused_when_it_is_read() {
        for (operator, values) in [
            ("NumericEquals", r#""many""#),
            ("NumericEquals", r#""inf""#),
            ("DateEquals", r#""yesterday""#),
            ("IpAddress", r#""10.0.0.0/33""#),
            ("IpAddress", r#""10.0.0.0/+8""#),
            ("IpAddress", r#""example.org""#),
            ("Bool", r#""maybe""#),
            ("ArnLike", r#""alice""#),
            ("Null", r#"["true","false"]"#),
            ("NullIfExists", "true"),
            ("ForSomeValues:StringEquals", r#""a""#),
            ("StringMatches", r#""a""#),
            ("StringEquals", r#"{"a":"b"}"#),
            ("StringEquals", "null"),
        ] {
            let tree = super::super::json::read(values).unwrap();
            let refused = Condition::read(operator, "aws:Key", &tree, true);
            assert!(refused.is_err(), "{operator} {values}");
        }
        let tree = super::super::json::read("\"a\"").unwrap();
        assert!(Condition::read("StringEquals", "key", &tree, true).is_err());
    }
}
