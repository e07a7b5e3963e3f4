//! The decision: several policies become one answer.
//!
//! ```text
//! any Deny anywhere ───────────────────────────────────────────▶ denied
//! a session policy, and it does not allow ─────────────────────▶ denied
//! the resource is of the asker's project: identity OR resource ─▶ allowed
//! it is of another project: identity AND resource ─────────────▶ allowed
//! everything else ─────────────────────────────────────────────▶ denied
//! ```
//! A resource's policy that only names the asker's whole project hands the question to that
//! project's own policies; alone it lets nobody in. Somebody anonymous has no policies of their
//! own: for them the resource's policy alone decides.
//!
//! Spec: IAM User Guide, "Policy evaluation logic" and "Cross-account policy evaluation logic".

use super::{Policy, Request, Verdict};

/// One policy and what it is called in the audit.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// `user/alice inline work`, `policy/ReadOnlyAccess`, `bucket-policy images`.
    pub name: &'a str,
    /// The policy.
    pub policy: &'a Policy,
}

/// All that is asked for one decision.
#[derive(Clone, Debug, Default)]
pub struct Given<'a> {
    /// Policies of the asker: in line, attached, of their groups or of their role.
    pub identity: Vec<Grant<'a>>,
    /// The resource's own policy.
    pub resource: Option<Grant<'a>>,
    /// What limits the session; it must allow what any other allows.
    pub session: Option<Grant<'a>>,
    /// Whether the resource belongs to the asker's project.
    pub own_project: bool,
    /// Whether nobody showed a key.
    pub anonymous: bool,
    /// What beside a policy lets the asker in on the resource's side: an access control list.
    pub granted: Option<&'a str>,
    /// The resource's owner lets no policy of it be public (S3's RestrictPublicBuckets): it allows
    /// nothing to other projects; what it denies stays denied.
    pub restricted: bool,
}

/// The answer, and why; the reason is for the audit and for whoever owns the policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// The policy that decided; empty where none says anything.
    pub policy: String,
    /// The Sid or the number of the statement that decided.
    pub statement: String,
    /// In words, for a person.
    pub why: String,
}

/// Decides.
pub fn evaluate(given: &Given<'_>, request: &Request<'_>) -> Decision {
    let mut identity = None;
    for grant in &given.identity {
        match grant.policy.judge(request) {
            Verdict::Deny(place) => return Decision::denied(grant, place),
            Verdict::Allow { statement, .. } => identity = identity.or(Some((grant, statement))),
            Verdict::Silent => {}
        }
    }
    let mut resource = None;
    if let Some(grant) = &given.resource {
        match grant.policy.judge(request) {
            Verdict::Deny(place) => return Decision::denied(grant, place),
            Verdict::Allow { statement, named } if given.own_project || !given.restricted => {
                resource = Some((grant, statement, named));
            }
            Verdict::Allow { .. } | Verdict::Silent => {}
        }
    }
    let mut session_allows = true;
    if let Some(grant) = &given.session {
        match grant.policy.judge(request) {
            Verdict::Deny(place) => return Decision::denied(grant, place),
            Verdict::Allow { .. } => {}
            Verdict::Silent => session_allows = false,
        }
    }
    if !session_allows {
        return Decision::silent("the session's policy does not allow it");
    }
    if let (Some(list), None) = (given.granted, resource)
        && (given.own_project || given.anonymous || identity.is_some())
    {
        let mut decision = Decision::always(true, "allowed by the resource's list");
        list.clone_into(&mut decision.policy);
        return decision;
    }
    match (identity, resource) {
        (Some((grant, place)), _) if given.own_project => {
            Decision::by(true, grant, place, "allowed")
        }
        (Some(_), Some((grant, place, _))) => {
            Decision::by(true, grant, place, "allowed by both projects")
        }
        (None, Some((grant, place, true))) if given.own_project || given.anonymous => {
            Decision::by(true, grant, place, "allowed by the resource's policy")
        }
        (Some(_), None) => {
            Decision::silent("it belongs to another project, and no policy of its lets you in")
        }
        (None, Some(_)) => Decision::silent(
            "the resource's policy would let you in, no policy of your own project does",
        ),
        (None, None) => Decision::silent("no policy allows it"),
    }
}

impl Decision {
    /// Decided without a policy.
    pub(crate) fn always(allowed: bool, why: &str) -> Self {
        Self {
            allowed,
            policy: String::new(),
            statement: String::new(),
            why: why.to_owned(),
        }
    }

    fn silent(why: &str) -> Self {
        Self::always(false, why)
    }

    fn denied(grant: &Grant<'_>, place: usize) -> Self {
        Self::by(false, grant, place, "an explicit deny")
    }

    fn by(allowed: bool, grant: &Grant<'_>, place: usize, why: &str) -> Self {
        Self {
            allowed,
            policy: grant.name.to_owned(),
            statement: grant.policy.statement_name(place),
            why: why.to_owned(),
        }
    }
}
