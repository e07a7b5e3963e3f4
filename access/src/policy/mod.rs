//! The policy language: AWS's, read strictly and evaluated without a store or a clock.
//!
//! ```text
//! text ──json──▶ tree ──parse──▶ Policy ──judge(Request)──▶ Allow, Deny or Silent
//!                                            │ action, resource, who asks, condition keys
//!                                            ▼
//!                        evaluate: identity, resource and session policies ──▶ Decision
//! ```
//! 1. A document is bounded (bytes, depth) and unambiguous: an element that is unknown, doubled or of
//!    the wrong shape is refused by name, never skipped.
//! 2. Matching never takes more steps than pattern times text; there is no backtracking that grows
//!    faster.
//! 3. What a policy does not say is not allowed; an explicit deny wins over every allow.
//!
//! Spec: AWS IAM User Guide, "IAM JSON policy element reference" and "Policy evaluation logic".

mod condition;
mod evaluate;
mod json;
mod parse;
mod pattern;
mod principal;
#[cfg(test)]
mod tests;

pub use evaluate::{Decision, Given, Grant, evaluate};
pub use principal::Asker;

use condition::Condition;
use pattern::{ArnPattern, Pattern};
use principal::Principals;
use std::collections::BTreeMap;

/// Bytes of a bucket's policy at most (Amazon S3, "Bucket policies": 20 KB).
pub const BUCKET_BYTES_MAX: usize = 20 * 1024;
/// Bytes of a managed policy or of one in line at most (IAM, "IAM and AWS STS quotas").
pub const IDENTITY_BYTES_MAX: usize = 6144;
/// Bytes of a session policy or of a role's trust at most.
pub const SESSION_BYTES_MAX: usize = 2048 * 2;

/// What a document is for: says which elements it must and must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Attached to a user, group or role: names resources, never principals.
    Identity,
    /// Attached to a resource: names principals and resources.
    Resource,
    /// A role's trust: names principals, never resources.
    Trust,
    /// Given when a session begins: limits it.
    Session,
}

/// Why a document is not a policy. Shown to whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed policy: {0}")]
pub struct Malformed(pub(crate) String);

/// A policy, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq)]
struct Statement {
    sid: Option<String>,
    deny: bool,
    principals: Option<Principals>,
    actions: Actions,
    resources: Option<Resources>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
struct Actions {
    not: bool,
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq)]
struct Resources {
    not: bool,
    patterns: Vec<ArnPattern>,
}

/// Condition keys of a request; a key with several values stands there several times. Names are
/// compared without regard to case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    values: BTreeMap<String, Vec<String>>,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `s3:GetObject`.
    pub action: &'a str,
    /// The resource's ARN.
    pub resource: &'a str,
    /// Who asks.
    pub asker: &'a Asker,
    /// Condition keys.
    pub context: &'a Context,
}

/// What one policy says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A statement denies, the one at this place.
    Deny(usize),
    /// A statement allows. `named` is false where it only names the asker's whole project: that
    /// passes the question on to the project's own policies.
    Allow {
        /// The statement's place.
        statement: usize,
        /// Whether the asker is meant, or everybody.
        named: bool,
    },
    /// It says nothing.
    Silent,
}

impl Policy {
    /// Reads a document of at most `bytes_max` bytes.
    pub fn parse(text: &str, form: Form, bytes_max: usize) -> Result<Self, Malformed> {
        parse::policy(text, form, bytes_max)
    }

    /// Says no to everything: stands in for a stored document that does not read, because one
    /// that is skipped might have denied something.
    pub fn deny_all() -> Self {
        let everything = Pattern::read("*", true, false);
        Self {
            statements: vec![Statement {
                sid: Some("Unreadable".into()),
                deny: true,
                principals: None,
                actions: Actions {
                    not: false,
                    patterns: everything.into_iter().collect(),
                },
                resources: None,
                conditions: Vec::new(),
            }],
        }
    }

    /// What it says to `request`.
    pub fn judge(&self, request: &Request<'_>) -> Verdict {
        let mut verdict = Verdict::Silent;
        for (place, statement) in self.statements.iter().enumerate() {
            let Some(named) = statement.applies(request) else {
                continue;
            };
            if statement.deny {
                return Verdict::Deny(place);
            }
            let better = match verdict {
                Verdict::Silent => true,
                Verdict::Allow { named: before, .. } => named && !before,
                Verdict::Deny(_) => false,
            };
            if better {
                verdict = Verdict::Allow {
                    statement: place,
                    named,
                };
            }
        }
        verdict
    }

    /// How the statement at `place` is called: its Sid, or its number from 1.
    pub fn statement_name(&self, place: usize) -> String {
        let sid = self
            .statements
            .get(place)
            .and_then(|statement| statement.sid.clone());
        sid.filter(|sid| !sid.is_empty())
            .unwrap_or_else(|| format!("statement {}", place + 1))
    }

    /// Whether a statement allows something to everybody without a condition that narrows who asks
    /// (Amazon S3, "The meaning of public").
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(|statement| {
            !statement.deny
                && statement
                    .principals
                    .as_ref()
                    .is_some_and(Principals::means_everybody)
                && !statement.conditions.iter().any(Condition::narrows_who)
        })
    }

    /// The resources its statements name, as they were written.
    pub fn resources(&self) -> impl Iterator<Item = &str> {
        self.statements
            .iter()
            .filter_map(|statement| statement.resources.as_ref())
            .flat_map(|resources| resources.patterns.iter().map(ArnPattern::text))
    }
}

impl Statement {
    /// None if it does not apply; else whether the asker is meant and not only their project.
    fn applies(&self, request: &Request<'_>) -> Option<bool> {
        let named = match &self.principals {
            None => true,
            Some(principals) => principals.mean(request.asker)?,
        };
        let action = request.action.to_ascii_lowercase();
        let listed = self
            .actions
            .patterns
            .iter()
            .any(|pattern| pattern.matches(&action, request.context));
        if listed == self.actions.not {
            return None;
        }
        if let Some(resources) = &self.resources {
            // A pattern whose variable has no value makes a NotResource no wider: it counts as met.
            let listed = resources.patterns.iter().any(|pattern| {
                pattern
                    .try_matches(request.resource, request.context)
                    .unwrap_or(resources.not)
            });
            if listed == resources.not {
                return None;
            }
        }
        self.conditions
            .iter()
            .all(|condition| condition.holds(request.context))
            .then_some(named)
    }
}

impl Context {
    /// Adds a value of a key.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        let values = self.values.entry(key.to_ascii_lowercase()).or_default();
        values.push(value.into());
    }

    /// All values of a key; `key` in lower case.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }
}
