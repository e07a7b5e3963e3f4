//! Cross-origin requests: what a bucket's owner lets scripts of other sites see.
//!
//! 1. A browser asks first (a preflight) and shows no key then, so preflights are answered before
//!    authentication, from the bucket's rules alone; they tell nothing else about the bucket.
//! 2. The first rule that matches decides ("Using cross-origin resource sharing (CORS)", Amazon S3
//!    user guide; Fetch standard, "CORS protocol").
//! 3. The answer names the origin only where a rule names it: a reply without these headers is one
//!    that the browser keeps from the script.

use super::error::bad_request;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::dto;
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// "CORS configuration", Amazon S3 user guide.
const RULES_MAX: usize = 100;
const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];
const VARIES: &str = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";

/// A bucket's rules, as its document `cors` keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rules {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    origins: Vec<String>,
    methods: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    expose: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age_seconds: Option<i32>,
}

impl Rules {
    /// InvalidRequest or MalformedXML where the rules make no sense.
    pub(super) fn of(configuration: dto::CORSConfiguration) -> S3Result<Self> {
        let rules = configuration.cors_rules;
        if rules.is_empty() || rules.len() > RULES_MAX {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided did not validate against our published schema: it has {} \
                 rules, 1 to {RULES_MAX} are taken",
                rules.len()
            ));
        }
        let rules = rules.into_iter().map(|rule| {
            let rule = Rule {
                id: rule.id,
                origins: rule.allowed_origins,
                methods: rule.allowed_methods,
                headers: rule.allowed_headers.unwrap_or_default(),
                expose: rule.expose_headers.unwrap_or_default(),
                max_age_seconds: rule.max_age_seconds,
            };
            rule.checked()
        });
        Ok(Self {
            rules: rules.collect::<S3Result<_>>()?,
        })
    }

    pub(super) fn shown(self) -> Vec<dto::CORSRule> {
        let list = |texts: Vec<String>| (!texts.is_empty()).then_some(texts);
        let rules = self.rules.into_iter().map(|rule| dto::CORSRule {
            allowed_headers: list(rule.headers),
            allowed_methods: rule.methods,
            allowed_origins: rule.origins,
            expose_headers: list(rule.expose),
            id: rule.id,
            max_age_seconds: rule.max_age_seconds,
        });
        rules.collect()
    }

    fn find(&self, origin: &str, method: &str, headers: &[String]) -> Option<&Rule> {
        self.rules.iter().find(|rule| {
            rule.methods.iter().any(|allowed| allowed == method)
                && rule.origins.iter().any(|allowed| fits(allowed, origin))
                && headers.iter().all(|header| {
                    let mut allowed = rule.headers.iter();
                    allowed.any(|allowed| fits(&allowed.to_ascii_lowercase(), header))
                })
        })
    }
}

impl Rule {
    fn checked(self) -> S3Result<Self> {
        let refused = |why: String| Err(s3_error!(InvalidRequest, "{why}"));
        if self.origins.is_empty() || self.methods.is_empty() {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided did not validate against our published schema: a CORS rule \
                 has at least one AllowedOrigin and one AllowedMethod"
            ));
        }
        if let Some(method) = self
            .methods
            .iter()
            .find(|method| !METHODS.contains(&method.as_str()))
        {
            return refused(format!(
                "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            ));
        }
        let patterns = self.origins.iter().chain(&self.headers);
        if let Some(pattern) = patterns
            .into_iter()
            .find(|pattern| pattern.matches('*').count() > 1)
        {
            return refused(format!(
                "\"{pattern}\" can not have more than one wildcard (*)"
            ));
        }
        if let Some(header) = self.expose.iter().find(|header| {
            header.contains('*') || HeaderName::from_bytes(header.as_bytes()).is_err()
        }) {
            return refused(format!(
                "ExposeHeader \"{header}\" contains a wildcard or is no header's name"
            ));
        }
        if self.max_age_seconds.is_some_and(|seconds| seconds < 0) {
            return refused("MaxAgeSeconds must be 0 or more".into());
        }
        Ok(self)
    }

    fn apply(&self, origin: &str, headers: &mut HeaderMap) {
        let anybody = self.origins.iter().any(|allowed| allowed == "*");
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        if anybody {
            set(ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        } else {
            set(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            set(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        set(ACCESS_CONTROL_ALLOW_METHODS, &self.methods.join(", "));
        if !self.expose.is_empty() {
            set(ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose.join(", "));
        }
        if let Some(seconds) = self.max_age_seconds {
            set(ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
        set(VARY, VARIES);
    }
}

/// The headers that answer a preflight. `rules` are the bucket's, if it has any.
pub(super) fn preflight(rules: Option<&Rules>, request: &HeaderMap) -> S3Result<HeaderMap> {
    let (Some(origin), Some(method)) = (
        text(request, &ORIGIN),
        text(request, &ACCESS_CONTROL_REQUEST_METHOD),
    ) else {
        return Err(bad_request(
            "Insufficient information. Origin and Access-Control-Request-Method headers are needed.",
        ));
    };
    if !METHODS.contains(&method) {
        return Err(bad_request(format!(
            "Invalid Access-Control-Request-Method: {method}"
        )));
    }
    let Some(rules) = rules else {
        return Err(forbidden("CORS is not enabled for this bucket."));
    };
    let asked: Vec<String> = text(request, &ACCESS_CONTROL_REQUEST_HEADERS)
        .unwrap_or_default()
        .split(',')
        .map(|header| header.trim().to_ascii_lowercase())
        .filter(|header| !header.is_empty())
        .collect();
    let Some(rule) = rules.find(origin, method, &asked) else {
        return Err(forbidden(
            "This CORS request is not allowed. This is usually because the evaluation of Origin, \
             request method / Access-Control-Request-Method or Access-Control-Request-Headers are \
             not whitelisted by the resource's CORS spec.",
        ));
    };
    let mut headers = HeaderMap::new();
    rule.apply(origin, &mut headers);
    if !asked.is_empty()
        && let Ok(value) = HeaderValue::from_str(&asked.join(", "))
    {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, value);
    }
    Ok(headers)
}

/// Adds what a browser wants to see in the reply to a request that came from another site.
pub(super) fn decorate(rules: &Rules, method: &str, request: &HeaderMap, reply: &mut HeaderMap) {
    let Some(origin) = text(request, &ORIGIN) else {
        return;
    };
    // What a presigned request is for, its sender may say itself.
    let method = text(request, &ACCESS_CONTROL_REQUEST_METHOD).unwrap_or(method);
    if let Some(rule) = rules.find(origin, method, &[]) {
        rule.apply(origin, reply);
    }
}

fn forbidden(why: &str) -> S3Error {
    super::error::custom(
        "AccessForbidden",
        http::StatusCode::FORBIDDEN,
        format!("CORSResponse: {why}"),
    )
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether `text` is what `pattern` says, with one `*` at most.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            rules: vec![
                Rule {
                    origins: vec!["https://*.example.org".into()],
                    methods: vec!["GET".into(), "PUT".into()],
                    headers: vec!["x-amz-*".into(), "Content-Type".into()],
                    expose: vec!["ETag".into()],
                    max_age_seconds: Some(300),
                    ..Rule::default()
                },
                Rule {
                    origins: vec!["*".into()],
                    methods: vec!["GET".into()],
                    ..Rule::default()
                },
            ],
        }
    }

    fn asked(origin: &str, method: &str, headers: &str) -> Result<HeaderMap, String> {
        let request = [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", headers),
        ];
        let request = request
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        preflight(Some(&rules()), &request).map_err(|refused| refused.code().as_str().to_owned())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let headers = asked("https://a.example.org", "PUT", "X-Amz-Date, content-type").unwrap();
        assert_eq!(
            headers["access-control-allow-origin"],
            "https://a.example.org"
        );
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-max-age"], "300");
        assert_eq!(
            headers["access-control-allow-headers"],
            "x-amz-date, content-type"
        );
        let headers = asked("https://other.net", "GET", "").unwrap();
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn what_no_rule_names_is_forbidden_and_half_a_question_is_bad() {
        assert_eq!(
            asked("https://other.net", "PUT", ""),
            Err("AccessForbidden".into())
        );
        assert_eq!(
            asked("https://a.example.org", "PUT", "cookie"),
            Err("AccessForbidden".into())
        );
        assert_eq!(
            asked("https://a.example.org", "", ""),
            Err("BadRequest".into())
        );
        assert_eq!(asked("", "GET", ""), Err("BadRequest".into()));
        assert_eq!(
            asked("https://a.example.org", "BREW", ""),
            Err("BadRequest".into())
        );
        assert!(preflight(None, &HeaderMap::new()).is_err());
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        let of = |origin: &str, method: &str, expose: &str| {
            Rules::of(dto::CORSConfiguration {
                cors_rules: vec![dto::CORSRule {
                    allowed_headers: None,
                    allowed_methods: vec![method.into()],
                    allowed_origins: vec![origin.into()],
                    expose_headers: Some(vec![expose.into()]),
                    id: None,
                    max_age_seconds: None,
                }],
            })
            .is_ok()
        };
        assert!(of("https://*.a.b", "GET", "ETag"));
        assert!(!of("*.a.*", "GET", "ETag"));
        assert!(!of("*", "OPTIONS", "ETag"));
        assert!(!of("*", "GET", "x-*"));
        assert!(Rules::of(dto::CORSConfiguration { cors_rules: vec![] }).is_err());
    }
}
