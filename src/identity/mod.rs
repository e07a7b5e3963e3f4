//! `infall user|group|role|policy|project|issuer`: who there is, what they may do, how much they may use.
//!
//! A name is `NAME`, of the asker's own project, or `PROJECT/NAME`.

mod group;
mod issuer;
mod policy;
mod project;
mod role;
mod ssh_key;
mod user;

pub(crate) use group::Verb as GroupVerb;
pub(crate) use issuer::Verb as IssuerVerb;
pub(crate) use policy::Verb as PolicyVerb;
pub(crate) use project::Verb as ProjectVerb;
pub(crate) use role::Verb as RoleVerb;
pub(crate) use user::Verb as UserVerb;

pub(crate) use group::run as group;
pub(crate) use issuer::run as issuer;
pub(crate) use policy::run as policy;
pub(crate) use project::run as project;
pub(crate) use role::run as role;
pub(crate) use user::run as user;

use crate::client::{Client, Path};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use clap::Subcommand;
use gateway::api::identities::{Document, GivenShown};
use std::path::PathBuf;

/// Policies of a user, group or role.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum GivenVerb {
    /// Write a policy in line; it replaces the one of that name
    #[command(after_help = "\
The document is AWS's policy language; - reads it from standard input.

Examples:
  infall user policy put alice read-logs logs.json
  infall group policy put readers look - < look.json
  infall role policy put worker stage stage.json")]
    Put {
        /// Whose: NAME or PROJECT/NAME
        name: String,
        /// What to call the policy
        policy: String,
        /// The document
        file: PathBuf,
    },
    /// Remove a policy in line
    #[command(after_help = "\
Examples:
  infall user policy rm alice read-logs")]
    Rm {
        /// Whose: NAME or PROJECT/NAME
        name: String,
        /// The policy
        policy: String,
    },
}

/// What `attach` and `detach` take.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Attachment {
    /// Whose: NAME or PROJECT/NAME
    name: String,
    /// The policy's name or ARN
    policy: String,
}

/// The name of a noun's paths: `users`, `groups`, `roles`.
type Noun = &'static str;

async fn given(context: &Context, client: &Client, noun: Noun, verb: GivenVerb) -> Outcome {
    match verb {
        GivenVerb::Put { name, policy, file } => {
            let ask = Document {
                document: read(&file)?,
                form: None,
            };
            let path = Path::new([noun, &name, "policies", &policy]);
            client.put(&path, &ask).await?;
            context.show(&serde_json::json!({ "put": policy, "of": name }), || {
                format!("{name}  policy {policy} written\n")
            });
        }
        GivenVerb::Rm { name, policy } => {
            let path = Path::new([noun, &name, "policies", &policy]);
            client.delete(&path).await?;
            context.show(
                &serde_json::json!({ "removed": policy, "of": name }),
                || format!("{name}  policy {policy} removed\n"),
            );
        }
    }
    Ok(())
}

async fn attach(context: &Context, client: &Client, noun: Noun, which: Attachment) -> Outcome {
    let Attachment { name, policy } = which;
    let path = Path::new([noun, &name, "attached", &policy]);
    client.put(&path, &serde_json::json!({})).await?;
    context.show(
        &serde_json::json!({ "attached": policy, "to": name }),
        || format!("{name}  {policy} attached\n"),
    );
    Ok(())
}

async fn detach(context: &Context, client: &Client, noun: Noun, which: Attachment) -> Outcome {
    let Attachment { name, policy } = which;
    let path = Path::new([noun, &name, "attached", &policy]);
    client.delete(&path).await?;
    context.show(
        &serde_json::json!({ "detached": policy, "from": name }),
        || format!("{name}  {policy} detached\n"),
    );
    Ok(())
}

async fn remove(
    context: &Context,
    client: &Client,
    noun: Noun,
    name: &str,
    with_all: bool,
) -> Outcome {
    let path = Path::new([noun, name]);
    let path = match with_all {
        true => path.query([("with_all", Some("true".to_owned()))]),
        false => path,
    };
    client.delete(&path).await?;
    context.show(&serde_json::json!({ "removed": name }), || {
        format!("{name}  removed\n")
    });
    Ok(())
}

/// A list's path.
fn list(noun: Noun, project: Option<String>) -> Path {
    Path::new([noun]).query([("project", project)])
}

/// The text of a file, or of standard input for `-`.
fn read(file: &std::path::Path) -> Outcome<String> {
    let failed = |error: std::io::Error| {
        Failure::io(format_args!("read the policy {}", file.display()), &error)
    };
    if file.as_os_str() == "-" {
        return std::io::read_to_string(std::io::stdin()).map_err(failed);
    }
    std::fs::read_to_string(file).map_err(failed)
}

/// Policies as one line.
fn policies(given: &GivenShown) -> String {
    let attached = given.attached.iter().map(|arn| {
        let name = arn.rsplit_once('/').map_or(arn.as_str(), |(_, name)| name);
        name.to_owned()
    });
    let inline = given.inline.iter().map(|name| format!("{name} (in line)"));
    joined(&attached.chain(inline).collect::<Vec<_>>())
}

/// `a, b`, or `-`.
fn joined(items: &[String]) -> String {
    match items {
        [] => "-".to_owned(),
        items => items.join(", "),
    }
}
