//! `infall login`: keys for a while, from an OpenID provider that the server believes.
//!
//! ```text
//! GET /login ─▶ issuer ─▶ ID token (device code, browser, or given) ─▶ POST /login/roles ─▶ role
//!                                                                       STS ─▶ session, kept 0600
//! ```

mod flow;
mod saved;

pub(crate) use saved::of_server;

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use clap::Args;
use flow::{Http, Way};
use gateway::{LoginIssuer, LoginIssuers, LoginRoles, RolesAsk};
use saved::Saved;
use serde::Serialize;
use std::io::Read;
use std::path::PathBuf;

/// Tokens are read up to here.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

/// How to log in.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The session is kept in the user's state directory (0600) and used by every infall command to this
server until it ends, or until infall logout. infall env hands it to aws and boto3.

Examples:
  infall login                                     a code to type in on any device
  infall login --browser                           this machine's browser
  infall login --issuer egi --role physics/member --for 8h
  infall login --token token.jwt                   a token had elsewhere; - reads standard input
  eval \"$(infall login >&2 && infall env)\"")]
pub(crate) struct Arguments {
    /// Where to log in, if the server believes several issuers
    #[arg(long)]
    issuer: Option<String>,
    /// The role to take: PROJECT/NAME or its ARN
    #[arg(long)]
    role: Option<String>,
    /// How long: 15m to 12h, as the role allows
    #[arg(long = "for", value_name = "TIME", default_value = "1h")]
    lifetime: String,
    /// Through this machine's browser rather than by a code
    #[arg(long, conflicts_with = "token")]
    browser: bool,
    /// An ID token from a file
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
}

/// What is shown of a session; its secrets are not.
#[derive(Serialize)]
struct Shown<'a> {
    server: &'a str,
    role: &'a str,
    subject: &'a str,
    access_key: &'a str,
    expires_ms: u64,
}

/// Logs in.
pub(crate) async fn login(context: &Context, arguments: Arguments) -> Outcome {
    let seconds = crate::units::parse_duration(&arguments.lifetime)
        .map_err(|error| Failure::new(Exit::Usage, "for", error.to_string()))?
        .as_secs();
    let server = context.server_url()?;
    let http = Http::to_server(&server, context.ca().as_deref())?;
    let token = match &arguments.token {
        Some(file) => read_token(file)?,
        None => {
            let listed: LoginIssuers = http.get(&format!("{server}/login")).await?;
            let issuer = choose_issuer(&server, listed, arguments.issuer.as_deref())?;
            let way = if arguments.browser {
                Way::Browser
            } else {
                Way::Device
            };
            flow::token(&issuer, way).await?
        }
    };
    let ask = RolesAsk {
        token: token.clone(),
    };
    let open: LoginRoles = http
        .post_json(&format!("{server}/login/roles"), &ask)
        .await?;
    let role = choose_role(&open, arguments.role.as_deref())?;
    let session = http
        .assume(
            &server,
            &role,
            &session_name(&open.subject),
            &token,
            seconds,
        )
        .await?;
    let saved = Saved {
        access_key: session.access_key,
        secret_key: session.secret_key,
        session_token: session.token,
        expires_ms: session.expires_ms,
        role,
    };
    saved::keep(&server, &saved)?;
    let shown = Shown {
        server: &server,
        role: &saved.role,
        subject: &open.subject,
        access_key: &saved.access_key,
        expires_ms: saved.expires_ms,
    };
    context.show(&shown, || {
        format!(
            "{} at {server} until {} · next: infall status, or eval \"$(infall env)\"\n",
            shown.role,
            render::time(shown.expires_ms)
        )
    });
    Ok(())
}

/// Forgets the session of a server.
pub(crate) fn logout(context: &Context) -> Outcome {
    let server = context.server_url()?;
    let was = saved::forget(&server)?;
    context.show(
        &serde_json::json!({ "server": server, "forgotten": was }),
        || {
            if was {
                format!("The session at {server} is forgotten here\n")
            } else {
                format!("There was no session at {server}\n")
            }
        },
    );
    Ok(())
}

fn read_token(file: &std::path::Path) -> Outcome<String> {
    let failed = |error: std::io::Error| {
        Failure::io(format_args!("read the token {}", file.display()), &error)
    };
    let mut text = String::new();
    if file.as_os_str() == "-" {
        let input = std::io::stdin().lock();
        input
            .take(TOKEN_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
    } else {
        let input = std::fs::File::open(file).map_err(failed)?;
        input
            .take(TOKEN_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
    }
    Ok(text.trim().to_owned())
}

fn choose_issuer(server: &str, listed: LoginIssuers, wanted: Option<&str>) -> Outcome<LoginIssuer> {
    let names: Vec<String> = listed
        .issuers
        .iter()
        .map(|issuer| issuer.name.clone())
        .collect();
    let choose = |message: String| {
        Failure::new(Exit::Usage, "issuer", message)
            .hint(format!("Name one: --issuer {}", names.join("|")))
    };
    let mut issuers = listed.issuers.into_iter();
    let chosen = match wanted {
        Some(wanted) => issuers
            .find(|issuer| issuer.name == wanted || issuer.url == wanted)
            .ok_or_else(|| choose(format!("{server} believes no issuer {wanted:?}")))?,
        None => match (issuers.next(), issuers.next()) {
            (Some(only), None) => only,
            (None, _) => {
                let message = format!("{server} believes no issuer yet");
                return Err(Failure::new(Exit::NotFound, "issuer", message).hint(
                    "Its operator names one: infall issuer add NAME --url URL --audience ID",
                ));
            }
            _ => return Err(choose(format!("{server} believes several issuers"))),
        },
    };
    match &chosen.failure {
        None => Ok(chosen),
        Some(why) => {
            let message = format!("the issuer {} does not answer: {why}", chosen.name);
            Err(Failure::new(Exit::Unavailable, "issuer", message).hint("Try again later"))
        }
    }
}

fn choose_role(open: &LoginRoles, wanted: Option<&str>) -> Outcome<String> {
    let short = |arn: &str| {
        let rest = arn.strip_prefix("arn:aws:iam::").unwrap_or(arn);
        rest.replacen(":role/", "/", 1)
    };
    let roles: Vec<String> = open.roles.iter().map(|arn| short(arn)).collect();
    if let Some(wanted) = wanted {
        let found = open
            .roles
            .iter()
            .find(|arn| *arn == wanted || short(arn) == wanted);
        return found.cloned().ok_or_else(|| {
            let message = format!("the role {wanted:?} is not open to {:?}", open.subject);
            Failure::new(Exit::Denied, "role", message).hint(format!("Open are: {}", some(&roles)))
        });
    }
    match &open.roles[..] {
        [only] => Ok(only.clone()),
        [] => {
            let groups = some(&open.groups);
            let message = format!(
                "no role here is open to {:?} (groups: {groups})",
                open.subject
            );
            Err(Failure::new(Exit::Denied, "role", message)
                .hint("Ask an operator for a role whose trust names you or your group"))
        }
        _ => Err(
            Failure::new(Exit::Usage, "role", "several roles are open to you")
                .hint(format!("Name one: --role {}", roles.join("|"))),
        ),
    }
}

fn some(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// A session's name has few letters (STS, RoleSessionName).
fn session_name(subject: &str) -> String {
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || "=,.@_-".contains(*letter);
    let name: String = subject.chars().filter(fits).take(64).collect();
    if name.len() < 2 {
        format!("user-{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(roles: &[&str]) -> LoginRoles {
        LoginRoles {
            subject: "alice".into(),
            groups: vec!["vo#member".into()],
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        }
    }

    #[test]
    fn a_role_is_taken_where_there_is_one_and_asked_for_where_there_are_more() {
        let one = "arn:aws:iam::physics:role/member";
        let two = "arn:aws:iam::physics:role/admin";
        assert_eq!(choose_role(&open(&[one]), None).unwrap(), one);
        assert_eq!(
            choose_role(&open(&[one, two]), Some("physics/admin")).unwrap(),
            two
        );
        assert!(choose_role(&open(&[one, two]), None).is_err());
        assert!(choose_role(&open(&[]), None).is_err());
        assert!(choose_role(&open(&[one]), Some("physics/admin")).is_err());
    }

    #[test]
    fn a_session_is_named_after_its_subject_in_letters_that_arns_take() {
        assert_eq!(session_name("alice@egi.eu"), "alice@egi.eu");
        assert_eq!(session_name("ü/:*"), "user-");
        assert_eq!(session_name(&"x".repeat(100)).len(), 64);
    }
}
