//! `infall role`: what somebody may become for a while.

use super::{Attachment, GivenVerb, attach, detach, given, list, policies, read, remove};
use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use clap::Subcommand;
use gateway::api::identities::{RoleCreate, RoleList, RoleShown, Trust};
use std::path::PathBuf;
use std::time::Duration;

/// Roles.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a role; the trust says who may become it
    #[command(after_help = "\
A trust is a policy with a Principal and the action sts:AssumeRole.

Examples:
  infall role create physics/worker --trust trust.json
  infall role create physics/worker --trust - --session 7200 < trust.json")]
    Create {
        /// NAME or PROJECT/NAME
        name: String,
        /// The trust policy; - is standard input
        #[arg(long, value_name = "FILE")]
        trust: PathBuf,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Seconds that a session lasts at most, 3600 to 43200
        #[arg(long, value_name = "SECONDS")]
        session: Option<u64>,
    },
    /// List roles
    #[command(after_help = "\
Examples:
  infall role ls
  infall role ls --project physics")]
    Ls {
        /// Only those of this project
        #[arg(long)]
        project: Option<String>,
    },
    /// Show one role: trust and policies
    #[command(after_help = "\
Examples:
  infall role show physics/worker")]
    Show {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// Say anew who may become it
    #[command(after_help = "\
Examples:
  infall role trust physics/worker trust.json")]
    Trust {
        /// NAME or PROJECT/NAME
        name: String,
        /// The trust policy; - is standard input
        file: PathBuf,
    },
    /// Remove a role and end its sessions
    #[command(after_help = "\
Examples:
  infall role rm physics/worker
  infall role rm physics/worker --with-all          with its policies")]
    Rm {
        /// NAME or PROJECT/NAME
        name: String,
        /// Even if it has policies
        #[arg(long)]
        with_all: bool,
    },
    /// Policies in line: put, rm
    Policy {
        /// What to do.
        #[command(subcommand)]
        verb: GivenVerb,
    },
    /// Attach a managed policy
    #[command(after_help = "\
Examples:
  infall role attach physics/worker AmazonS3ReadOnlyAccess")]
    Attach(Attachment),
    /// Detach a managed policy
    #[command(after_help = "\
Examples:
  infall role detach physics/worker AmazonS3ReadOnlyAccess")]
    Detach(Attachment),
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Create {
            name,
            trust,
            description,
            session,
        } => {
            let ask = RoleCreate {
                name,
                trust: document(&trust)?,
                description,
                session_seconds_max: session,
            };
            let role: RoleShown = client.post(&Path::new(["roles"]), &ask).await?;
            context.show(&role, || format!("{}\n", role.arn));
        }
        Verb::Ls { project } => {
            let roles: RoleList = client.get(&list("roles", project)).await?;
            context.show(&roles, || {
                let mut table = Table::new(["PROJECT", "NAME", "SESSION", "POLICIES"]);
                for role in &roles.roles {
                    let session = Duration::from_secs(role.session_seconds_max);
                    table.row([
                        role.project.as_str(),
                        &role.name,
                        &render::duration(session),
                        &policies(&role.given),
                    ]);
                }
                table.to_string()
            });
        }
        Verb::Show { name } => {
            let role: RoleShown = client.get(&Path::new(["roles", &name])).await?;
            context.show(&role, || {
                let session = Duration::from_secs(role.session_seconds_max);
                let mut table = Table::new(["arn", &role.arn]);
                table.row(["description", &role.description]);
                table.row(["policies", &policies(&role.given)]);
                table.row(["session", &render::duration(session)]);
                table.row(["made", &render::time(role.created_ms)]);
                let trust = serde_json::to_string_pretty(&role.trust).unwrap_or_default();
                format!("{table}{trust}\n")
            });
        }
        Verb::Trust { name, file } => {
            let ask = Trust {
                trust: document(&file)?,
            };
            client
                .put(&Path::new(["roles", &name, "trust"]), &ask)
                .await?;
            context.show(&serde_json::json!({ "changed": name }), || {
                format!("{name}  trust changed\n")
            });
        }
        Verb::Rm { name, with_all } => remove(context, &client, "roles", &name, with_all).await?,
        Verb::Policy { verb } => given(context, &client, "roles", verb).await?,
        Verb::Attach(which) => attach(context, &client, "roles", which).await?,
        Verb::Detach(which) => detach(context, &client, "roles", which).await?,
    }
    Ok(())
}

fn document(file: &std::path::Path) -> Outcome<serde_json::Value> {
    let text = read(file)?;
    serde_json::from_str(&text).map_err(|error| {
        let message = format!("the trust policy {} is no JSON", file.display());
        Failure::new(Exit::Invalid, "policy", message).because(error)
    })
}
