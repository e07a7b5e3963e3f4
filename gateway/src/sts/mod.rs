//! STS: keys for a while (STS API Reference 2011-06-15).
//!
//! | call | who may | what it gives |
//! |---|---|---|
//! | GetCallerIdentity | everybody with a key | their ARN |
//! | GetSessionToken | a user | a session of their own |
//! | AssumeRole | whom the role's trust names | a session of the role |
//! | AssumeRoleWithWebIdentity | whose token the role's trust names | a session of the role |

mod issuers;
pub(crate) mod login;

use crate::query::{Fields, Refused, escape};
use access::federation::{TokenError, Vouched};
use access::{Access, Begin, Caller, Principal, Session, SessionSubject};
use axum::http::StatusCode;
use blockstore::{Error, Kind};
use issuers::{Fetch, Issuers};
use std::time::Duration;

/// The version that its requests name.
pub(crate) const VERSION: &str = "2011-06-15";

/// Condition keys of a web identity that its session carries on.
const TAGS_MAX: usize = 60;

/// What the calls work on; a cheap handle. All doors share one, and so the keys of issuers that it
/// keeps.
#[derive(Clone)]
pub struct Sts {
    access: Access,
    issuers: Issuers,
}

impl Sts {
    /// Made once for a server.
    pub fn new(access: Access) -> Self {
        Self {
            issuers: Issuers::new(access.clone()),
            access,
        }
    }

    /// Whose keys these are.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Answers one call: what stands within `<ActionResult>`.
    pub(crate) async fn answer(
        &self,
        caller: &Caller,
        action: &str,
        fields: &Fields,
    ) -> Result<String, Refused> {
        if action == "AssumeRoleWithWebIdentity" {
            return self.web_identity(caller, fields).await;
        }
        if caller.principal == Principal::Anonymous {
            return Err(Refused::new(
                StatusCode::FORBIDDEN,
                "MissingAuthenticationToken",
                "Request is missing Authentication Token: sign it with an access key",
            ));
        }
        match action {
            "GetCallerIdentity" => Ok(identity(&caller.principal)),
            "GetSessionToken" => self.session_token(caller, fields).await,
            "AssumeRole" => self.assume_role(caller, fields).await,
            other => Err(Refused::unserved(other)),
        }
    }

    async fn session_token(&self, caller: &Caller, fields: &Fields) -> Result<String, Refused> {
        let subject = match &caller.principal {
            Principal::Root => SessionSubject::Root,
            Principal::User { name, project } => SessionSubject::User {
                project: project.clone(),
                name: name.clone(),
            },
            Principal::Session { .. } | Principal::Service { .. } | Principal::Anonymous => {
                return Err(Refused::new(
                    StatusCode::FORBIDDEN,
                    "AccessDenied",
                    "Cannot call GetSessionToken with session credentials",
                ));
            }
        };
        let lifetime = lifetime(fields, 43_200, 129_600)?;
        let begin = Begin {
            subject,
            lifetime,
            policy: None,
            tags: Vec::new(),
        };
        let session = self.begin(caller, begin, None).await?;
        Ok(credentials(&session))
    }

    async fn assume_role(&self, caller: &Caller, fields: &Fields) -> Result<String, Refused> {
        let (project, role) = self.role(fields)?;
        let subject = role_session(fields, &project, &role)?;
        let lifetime = lifetime(fields, 3600, 43_200)?;
        let external = fields.get("ExternalId").map(str::to_owned);
        let (access, asker) = (self.access.clone(), caller.clone());
        crate::blocking::run(move || {
            let external = external.as_deref().map(|id| ("sts:ExternalId", id));
            let context: Vec<_> = external.into_iter().collect();
            access.authorize_assume(&asker, "sts:AssumeRole", &project, &role, None, &context)
        })
        .await
        .map_err(Refused::from)?;
        let begin = Begin {
            subject,
            lifetime,
            policy: fields.get("Policy").map(str::to_owned),
            tags: Vec::new(),
        };
        let session = self.begin(caller, begin, None).await?;
        Ok(format!("{}{}", credentials(&session), assumed(&session)))
    }

    async fn web_identity(&self, caller: &Caller, fields: &Fields) -> Result<String, Refused> {
        let token = fields.need("WebIdentityToken")?;
        let (project, role) = self.role(fields)?;
        let subject = role_session(fields, &project, &role)?;
        let lifetime = lifetime(fields, 3600, 43_200)?;
        let vouched = self.vouched(token).await?;
        let (access, asker, known) = (self.access.clone(), caller.clone(), vouched.clone());
        crate::blocking::run(move || {
            let context = known.context();
            let context: Vec<(&str, &str)> = context
                .iter()
                .map(|(key, value)| (&**key, &**value))
                .collect();
            access.authorize_assume(
                &asker,
                "sts:AssumeRoleWithWebIdentity",
                &project,
                &role,
                Some(&known.issuer.url),
                &context,
            )
        })
        .await
        .map_err(Refused::from)?;
        let begin = Begin {
            subject,
            lifetime,
            policy: fields.get("Policy").map(str::to_owned),
            tags: vouched.context().into_iter().take(TAGS_MAX).collect(),
        };
        let session = self.begin(caller, begin, Some(vouched.clone())).await?;
        Ok(format!(
            "{}{}<SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken><Provider>{}</Provider>\
             <Audience>{}</Audience>",
            credentials(&session),
            assumed(&session),
            escape(&vouched.subject),
            escape(&vouched.issuer.url),
            escape(&vouched.audience)
        ))
    }

    /// Whom a token shows.
    async fn vouched(&self, token: &str) -> Result<Vouched, Refused> {
        self.issuers
            .vouch(token)
            .await
            .map_err(|failed| match failed {
                Fetch::Token(error) => unbelieved(&error),
                Fetch::Down(why) => Refused::new(
                    StatusCode::BAD_REQUEST,
                    "IDPCommunicationError",
                    format!(
                        "The identity provider could not be asked for its keys ({why}). Try again."
                    ),
                ),
                Fetch::Store(error) => Refused::from(error),
            })
    }

    fn role(&self, fields: &Fields) -> Result<(String, String), Refused> {
        let arn = fields.need("RoleArn")?;
        let malformed = || {
            let message = format!("{arn:?} is not valid: a role is arn:aws:iam::PROJECT:role/NAME");
            Refused::new(StatusCode::BAD_REQUEST, "ValidationError", message)
        };
        let rest = arn.strip_prefix("arn:aws:iam::").ok_or_else(malformed)?;
        let (project, path) = rest.split_once(":role/").ok_or_else(malformed)?;
        // Whether there is such a role is told only to whom it opens.
        let name = path.rsplit('/').next().unwrap_or_default();
        Ok((project.to_owned(), name.to_owned()))
    }

    async fn begin(
        &self,
        caller: &Caller,
        begin: Begin,
        vouched: Option<Vouched>,
    ) -> Result<Session, Refused> {
        let (access, who) = (self.access.clone(), caller.who());
        let begun = crate::blocking::run(move || -> Result<Session, Error> {
            if let Some(vouched) = &vouched {
                access.token_use(&who, vouched)?;
            }
            access.begin_session(&who, begin)
        });
        begun.await.map_err(|error: Error| match error.kind() {
            Kind::Conflict => Refused::new(
                StatusCode::BAD_REQUEST,
                "InvalidIdentityToken",
                error.to_string(),
            ),
            _ => Refused::from(error),
        })
    }
}

/// What STS calls a token that is not believed (AssumeRoleWithWebIdentity, "Errors").
fn unbelieved(error: &TokenError) -> Refused {
    let code = match error {
        TokenError::Expired => "ExpiredTokenException",
        TokenError::Issuer(_)
        | TokenError::Audience(_)
        | TokenError::Malformed(_)
        | TokenError::Early
        | TokenError::Key(_)
        | TokenError::Signature
        | TokenError::Algorithm(_) => "InvalidIdentityToken",
    };
    Refused::new(StatusCode::BAD_REQUEST, code, error.to_string())
}

fn role_session(fields: &Fields, project: &str, role: &str) -> Result<SessionSubject, Refused> {
    Ok(SessionSubject::Role {
        project: project.to_owned(),
        name: role.to_owned(),
        session: fields.need("RoleSessionName")?.to_owned(),
    })
}

fn lifetime(fields: &Fields, usual: u64, most: u64) -> Result<Duration, Refused> {
    let seconds = fields.number("DurationSeconds")?.unwrap_or(usual);
    if (900..=most).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    let message = format!("DurationSeconds is {seconds}: 900 to {most} seconds are taken");
    Err(Refused::new(
        StatusCode::BAD_REQUEST,
        "ValidationError",
        message,
    ))
}

fn credentials(session: &Session) -> String {
    let ends = i64::try_from(session.expires_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms - ms % 1000).ok())
        .unwrap_or_default();
    format!(
        "<Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{ends}</Expiration></Credentials>",
        escape(&session.access_key),
        escape(session.secret_key.reveal()),
        escape(session.token.reveal())
    )
}

fn assumed(session: &Session) -> String {
    let name = match &session.principal {
        Principal::Session { session, .. } => session.as_str(),
        _ => "",
    };
    format!(
        "<AssumedRoleUser><AssumedRoleId>{}:{}</AssumedRoleId><Arn>{}</Arn></AssumedRoleUser>",
        escape(&session.access_key),
        escape(name),
        escape(&session.principal.arn())
    )
}

fn identity(principal: &Principal) -> String {
    format!(
        "<Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>",
        escape(&principal.arn()),
        escape(&principal.to_string()),
        escape(principal.project())
    )
}
