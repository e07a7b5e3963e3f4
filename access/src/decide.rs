//! The decision: from a caller, an action and a resource to yes or no, with the reason for the audit.

use crate::identity::snapshot::{Named, Snapshot};
use crate::identity::{SessionSubject, now_ms};
use crate::owners::{self, ROOT};
use crate::policy::{
    Asker, BUCKET_BYTES_MAX, Context, Decision, Form, Given, Grant, Policy, Request, evaluate,
};
use crate::{Access, Caller, Principal, Resource};
use blockstore::{Error, Kind, Result, Subject};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

/// Parsed policies of resources that are kept in memory.
const RESOURCE_POLICIES_MAX: usize = 4096;

/// Policies of resources, parsed, with the text they were parsed from.
pub(crate) type ResourcePolicies = HashMap<String, (String, Arc<Policy>)>;

/// One question to [`Access::authorize_all`].
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// `s3:GetObject`
    pub action: &'a str,
    /// What it is done to.
    pub resource: Resource<'a>,
    /// Condition keys the door knows beside the caller's own.
    pub context: &'a [(&'a str, &'a str)],
    /// Set where something beside policies lets the caller in, e.g. an access control list: says what,
    /// for the audit. It counts as the resource's own policy would; a deny still wins.
    pub granted: Option<&'a str>,
}

impl<'a> Need<'a> {
    /// Without condition keys.
    pub fn new(action: &'a str, resource: Resource<'a>) -> Self {
        Self {
            action,
            resource,
            context: &[],
            granted: None,
        }
    }
}

impl Access {
    /// Whether `caller` may do `action` (`s3:GetObject`, `volume:Attach`, `vm:Run`) to `resource`.
    /// `context` holds condition keys the door knows beside the caller's own (`s3:prefix`).
    /// Records the decision; Denied names the action and the resource, and no rule of somebody else's.
    pub fn authorize(
        &self,
        caller: &Caller,
        action: &str,
        resource: &Resource<'_>,
        context: &[(&str, &str)],
    ) -> Result<()> {
        self.authorize_need(
            caller,
            &Need {
                action,
                resource: *resource,
                context,
                granted: None,
            },
        )
    }

    /// As [`Self::authorize`], where something beside policies lets the caller in: see [`Need::granted`].
    pub fn authorize_granted(
        &self,
        caller: &Caller,
        action: &str,
        resource: &Resource<'_>,
        context: &[(&str, &str)],
        granted: Option<&str>,
    ) -> Result<()> {
        self.authorize_need(
            caller,
            &Need {
                action,
                resource: *resource,
                context,
                granted,
            },
        )
    }

    /// As [`Self::authorize`], for a question with all it may have.
    pub fn authorize_need(&self, caller: &Caller, need: &Need<'_>) -> Result<()> {
        let decision = self.decide(caller, need)?;
        self.inner.audit.record(caller, need, &decision)?;
        if decision.allowed {
            return Ok(());
        }
        Err(denied(&caller.principal, need))
    }

    /// All of them, or Denied at the first that is not allowed.
    pub fn authorize_all(&self, caller: &Caller, needs: &[Need<'_>]) -> Result<()> {
        needs
            .iter()
            .try_for_each(|need| self.authorize_need(caller, need))
    }

    /// Whether it may be done, without a record: for taking out of a list what its reader may not see.
    /// The list itself is authorized and recorded.
    pub fn visible(&self, caller: &Caller, action: &str, resource: &Resource<'_>) -> bool {
        let need = Need::new(action, *resource);
        self.decide(caller, &need)
            .is_ok_and(|decision| decision.allowed)
    }

    /// The decision with its reason, without a record. It names policies: show it only to whoever may
    /// read these.
    pub fn explain(&self, caller: &Caller, need: &Need<'_>) -> Result<Decision> {
        self.decide(caller, need)
    }

    /// Whether `caller` may become `role` (`project`, `name`) by `action` (`sts:AssumeRole`,
    /// `sts:AssumeRoleWithWebIdentity`). `issuer` is who vouched for a web identity: then the role's
    /// trust alone decides, over `context` (`("<issuer>:sub", "…")`). Otherwise the trust must name the
    /// caller, or the caller's project while a policy of their own allows the action.
    pub fn authorize_assume(
        &self,
        caller: &Caller,
        action: &str,
        project: &str,
        name: &str,
        issuer: Option<&str>,
        context: &[(&str, &str)],
    ) -> Result<()> {
        let role_name = name.to_owned();
        let need = Need {
            action,
            resource: Resource::Identity("role", project, &role_name),
            context,
            granted: None,
        };
        let decision = self.decide_assume(caller, &need, project, name, issuer)?;
        self.inner.audit.record(caller, &need, &decision)?;
        if decision.allowed {
            return Ok(());
        }
        Err(denied(&caller.principal, &need))
    }

    /// As [`Self::authorize_assume`] for a web identity, without a record.
    pub(crate) fn would_assume_web(
        &self,
        caller: &Caller,
        role: &crate::identity::Role,
        issuer: &str,
        context: &[(&str, &str)],
    ) -> Result<bool> {
        let need = Need {
            action: "sts:AssumeRoleWithWebIdentity",
            resource: Resource::Identity("role", &role.project, &role.name),
            context,
            granted: None,
        };
        let decision =
            self.decide_assume(caller, &need, &role.project, &role.name, Some(issuer))?;
        Ok(decision.allowed)
    }

    fn decide_assume(
        &self,
        caller: &Caller,
        need: &Need<'_>,
        project: &str,
        name: &str,
        issuer: Option<&str>,
    ) -> Result<Decision> {
        if issuer.is_none() && caller.principal == Principal::Root {
            return Ok(Decision::always(true, "root may do everything"));
        }
        // A role that is not there lets nobody in, and tells nobody so.
        let Ok(role) = self.role(project, name) else {
            return Ok(Decision::always(false, "no such role"));
        };
        let trust = Policy::parse(&role.trust, Form::Trust, usize::MAX)
            .unwrap_or_else(|_| Policy::deny_all());
        let snapshot = self.snapshot();
        let known = self.know(&snapshot, caller);
        let mut asker = known.asker;
        asker.issuer = issuer.map(str::to_owned);
        let context = self.context(caller, need, project);
        let request = Request {
            action: need.action,
            resource: &role.arn(),
            asker: &asker,
            context: &context,
        };
        let given = Given {
            identity: grants(&known.identity),
            resource: Some(Grant {
                name: "trust",
                policy: &trust,
            }),
            session: known.session.as_deref().map(|policy| Grant {
                name: "session policy",
                policy,
            }),
            // An identity policy alone never suffices for a role: its trust must agree.
            own_project: false,
            anonymous: issuer.is_some(),
            granted: None,
            restricted: false,
        };
        let decision = evaluate(&given, &request);
        // Within a project a trust that names somebody suffices (IAM, "Granting permissions to switch roles").
        if !decision.allowed && issuer.is_none() && asker.project == project {
            let named = Given {
                anonymous: true,
                ..given
            };
            return Ok(evaluate(&named, &request));
        }
        Ok(decision)
    }

    pub(crate) fn decide(&self, caller: &Caller, need: &Need<'_>) -> Result<Decision> {
        match &caller.principal {
            Principal::Root => return Ok(Decision::always(true, "root may do everything")),
            Principal::Service { .. } => {
                return Ok(Decision::always(true, "a part of the system itself"));
            }
            Principal::Anonymous | Principal::User { .. } | Principal::Session { .. } => {}
        }
        let snapshot = self.snapshot();
        let known = self.know(&snapshot, caller);
        if let Some(why) = known.gone {
            return Ok(Decision::always(false, why));
        }
        let store = &self.inner.store;
        let asker_project = known.asker.project.as_str();
        let owner = owners::owner(store, need.action, &need.resource, asker_project)?;
        let (policy_name, resource_policy) = match self.resource_policy(&need.resource)? {
            Some((name, policy)) => (name, Some(policy)),
            None => (String::new(), None),
        };
        let context = self.context(caller, need, &owner);
        let arn = requested(need, asker_project);
        let request = Request {
            action: need.action,
            resource: &arn,
            asker: &known.asker,
            context: &context,
        };
        let anonymous = caller.principal == Principal::Anonymous;
        // Images of the operator's project are the site's: whoever may use images may use these.
        let site_image = owner == ROOT
            && matches!(need.resource, Resource::Image(_))
            && matches!(
                need.action,
                "image:Use" | "image:Describe" | "image:List" | "image:Read"
            );
        let given = Given {
            identity: grants(&known.identity),
            resource: resource_policy.as_deref().map(|policy| Grant {
                name: &policy_name,
                policy,
            }),
            session: known.session.as_deref().map(|policy| Grant {
                name: "session policy",
                policy,
            }),
            own_project: !anonymous && (owner == asker_project || site_image),
            anonymous,
            granted: need.granted,
            restricted: match (&resource_policy, need.resource) {
                (Some(policy), Resource::Bucket(bucket) | Resource::Object(bucket, _)) => {
                    policy.is_public() && self.restricts_public(bucket)?
                }
                _ => false,
            },
        };
        Ok(evaluate(&given, &request))
    }

    /// What is known of who asks.
    fn know(&self, snapshot: &Snapshot, caller: &Caller) -> Known {
        let mut known = Known::default();
        match &caller.principal {
            Principal::Anonymous => {}
            Principal::Root | Principal::Service { .. } => {
                known.asker.project = ROOT.into();
                known.asker.arns.push(caller.principal.arn());
            }
            Principal::User { name, project } => {
                known.asker.project.clone_from(project);
                match snapshot.users.get(&(project.clone(), name.clone())) {
                    Some(user) => known.asker.arns.push(user.arn()),
                    None => known.gone = Some("the user is gone"),
                }
                known.identity = snapshot.of_user(project, name);
            }
            Principal::Session {
                role, project, key, ..
            } => {
                known.asker.project.clone_from(project);
                known.asker.arns.push(caller.principal.arn());
                match snapshot.roles.get(&(project.clone(), role.clone())) {
                    Some(role) => known.asker.arns.push(role.arn()),
                    None => known.gone = Some("the role is gone"),
                }
                known.identity = snapshot.of_role(project, role);
                match self.inner.sessions.get(key) {
                    Some(live) if live.row.expires_ms > now_ms() => {
                        known.session.clone_from(&live.policy);
                    }
                    _ => known.gone = Some("the session is over"),
                }
            }
        }
        known
    }

    /// Condition keys (IAM, "AWS global condition context keys").
    fn context(&self, caller: &Caller, need: &Need<'_>, owner: &str) -> Context {
        let mut context = Context::default();
        for (key, value) in need.context {
            context.add(key, *value);
        }
        let Caller {
            principal, origin, ..
        } = caller;
        context.add("aws:ResourceAccount", owner);
        context.add("aws:SecureTransport", origin.secure.to_string());
        if let Some(address) = origin.address {
            context.add("aws:SourceIp", address.to_canonical().to_string());
        }
        if !origin.agent.is_empty() {
            context.add("aws:UserAgent", origin.agent.clone());
        }
        let now = now_ms();
        context.add("aws:EpochTime", (now / 1000).to_string());
        if let Ok(time) = jiff::Timestamp::from_millisecond(i64::try_from(now).unwrap_or(i64::MAX))
        {
            context.add(
                "aws:CurrentTime",
                time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            );
        }
        match principal {
            Principal::Anonymous => context.add("aws:PrincipalType", "Anonymous"),
            Principal::Root | Principal::Service { .. } => {
                context.add("aws:PrincipalArn", principal.arn());
                context.add("aws:PrincipalType", "Account");
                context.add("aws:PrincipalAccount", ROOT);
            }
            Principal::User { name, project } => {
                context.add("aws:PrincipalType", "User");
                context.add("aws:PrincipalAccount", project.clone());
                context.add("aws:username", name.clone());
                if let Ok(user) = self.user(project, name) {
                    context.add("aws:PrincipalArn", user.arn());
                    context.add("aws:userid", user.id.clone());
                    for (tag, value) in &user.tags {
                        context.add(&format!("aws:PrincipalTag/{tag}"), value.clone());
                    }
                }
            }
            Principal::Session {
                role,
                session,
                project,
                key,
            } => {
                context.add("aws:PrincipalType", "AssumedRole");
                context.add("aws:PrincipalAccount", project.clone());
                if let Ok(role) = self.role(project, role) {
                    context.add("aws:PrincipalArn", role.arn());
                    context.add("aws:userid", format!("{}:{session}", role.id));
                }
                if let Some(live) = self.inner.sessions.get(key) {
                    let begun = i64::try_from(live.row.begun_ms).unwrap_or(i64::MAX);
                    if let Ok(time) = jiff::Timestamp::from_millisecond(begun) {
                        let text = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                        context.add("aws:TokenIssueTime", text);
                    }
                    for (tag, values) in &live.row.tags {
                        for value in values {
                            context.add(tag, value.clone());
                        }
                    }
                }
            }
        }
        context
    }

    /// The policy of a resource itself: a bucket's.
    fn resource_policy(&self, resource: &Resource<'_>) -> Result<Option<(String, Arc<Policy>)>> {
        let bucket = match resource {
            Resource::Bucket(bucket) | Resource::Object(bucket, _) => *bucket,
            _ => return Ok(None),
        };
        let text = match self.inner.store.bucket_document(bucket, "policy") {
            // A bucket that is not there has no policy.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => {
                return Ok(None);
            }
            text => text?,
        };
        let Some(text) = text else {
            return Ok(None);
        };
        let name = format!("bucket-policy {bucket}");
        {
            let known = self.inner.resource_policies.read();
            let known = known.unwrap_or_else(PoisonError::into_inner);
            if let Some((of, policy)) = known.get(bucket)
                && *of == text
            {
                return Ok(Some((name, Arc::clone(policy))));
            }
        }
        let read = Policy::parse(&text, Form::Resource, BUCKET_BYTES_MAX);
        let policy = Arc::new(read.unwrap_or_else(|error| {
            tracing::error!(bucket, %error, "its policy does not read and denies everything");
            Policy::deny_all()
        }));
        let known = self.inner.resource_policies.write();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if known.len() >= RESOURCE_POLICIES_MAX {
            known.clear();
        }
        known.insert(bucket.to_owned(), (text, Arc::clone(&policy)));
        Ok(Some((name, policy)))
    }

    /// Whether the bucket's public access block has RestrictPublicBuckets; one that does not read has it.
    fn restricts_public(&self, bucket: &str) -> Result<bool> {
        let block = self
            .inner
            .store
            .bucket_document(bucket, "public-access-block")?;
        let Some(block) = block else { return Ok(false) };
        let block: serde_json::Value = serde_json::from_str(&block).unwrap_or_default();
        let restricts = block.get("RestrictPublicBuckets");
        Ok(!block.is_object() || restricts.and_then(serde_json::Value::as_bool) == Some(true))
    }

    /// The caller that a policy test asks about: `root`, `anonymous`, `user/NAME` or `role/NAME` of a
    /// project, or a plain user's name.
    pub fn caller_named(&self, named: &str, project: &str) -> Result<Principal> {
        if named == "root" {
            return Ok(Principal::Root);
        }
        if named == "anonymous" {
            return Ok(Principal::Anonymous);
        }
        let name = named.strip_prefix("user/").unwrap_or(named);
        self.user(project, name)?;
        Ok(Principal::User {
            name: name.to_owned(),
            project: project.to_owned(),
        })
    }
}

impl SessionSubject {
    /// Of what a principal is now, for a session of its own.
    pub fn of(principal: &Principal) -> Option<Self> {
        match principal {
            Principal::Root => Some(Self::Root),
            Principal::User { name, project } => Some(Self::User {
                project: project.clone(),
                name: name.clone(),
            }),
            Principal::Anonymous | Principal::Session { .. } | Principal::Service { .. } => None,
        }
    }
}

#[derive(Default)]
struct Known {
    asker: Asker,
    identity: Option<Arc<[Named]>>,
    session: Option<Arc<Policy>>,
    gone: Option<&'static str>,
}

fn grants(named: &Option<Arc<[Named]>>) -> Vec<Grant<'_>> {
    named
        .iter()
        .flat_map(|all| all.iter())
        .map(|named| Grant {
            name: &named.name,
            policy: &named.policy,
        })
        .collect()
}

/// The ARN that is asked about. Where no single thing is named, everything of the action's service in
/// the asker's project is meant.
pub(crate) fn requested(need: &Need<'_>, project: &str) -> String {
    if !matches!(need.resource, Resource::All) {
        return need.resource.to_string();
    }
    let service = need
        .action
        .split_once(':')
        .map_or(need.action, |(service, _)| service);
    match service {
        "s3" => "arn:aws:s3:::*".to_owned(),
        "iam" | "sts" => format!("arn:aws:{service}::{project}:*"),
        "vm" => "arn:infall:instance:::*".to_owned(),
        _ => format!("arn:infall:{service}:::*"),
    }
}

/// The same words whichever rule it was: nobody learns what the rules of others say.
fn denied(principal: &Principal, need: &Need<'_>) -> Error {
    let text = format!(
        "{principal} may not {} on {}: ask whoever manages the project for a policy that allows it",
        need.action, need.resource
    );
    Error::new(Kind::Denied, Subject::Identity, text)
}
