//! `infall group`: users who are given the same.

use super::{Attachment, GivenVerb, attach, detach, given, joined, list, policies, remove};
use crate::client::Path;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{self, Table};
use clap::Subcommand;
use gateway::api::identities::{GroupCreate, GroupList, GroupShown};

/// Groups.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a group
    #[command(after_help = "\
Examples:
  infall group create physics/readers")]
    Create {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// List groups
    #[command(after_help = "\
Examples:
  infall group ls
  infall group ls --project physics")]
    Ls {
        /// Only those of this project
        #[arg(long)]
        project: Option<String>,
    },
    /// Show one group: members and policies
    #[command(after_help = "\
Examples:
  infall group show physics/readers")]
    Show {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// Remove a group
    #[command(after_help = "\
Examples:
  infall group rm physics/readers
  infall group rm physics/readers --with-all        with its members and policies")]
    Rm {
        /// NAME or PROJECT/NAME
        name: String,
        /// Even if it has members and policies
        #[arg(long)]
        with_all: bool,
    },
    /// Add a user of the same project
    #[command(after_help = "\
Examples:
  infall group add physics/readers alice")]
    Add {
        /// The group: NAME or PROJECT/NAME
        group: String,
        /// The user's name
        user: String,
    },
    /// Take a user out
    #[command(after_help = "\
Examples:
  infall group take physics/readers alice")]
    Take {
        /// The group: NAME or PROJECT/NAME
        group: String,
        /// The user's name
        user: String,
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
  infall group attach physics/readers ProjectReader")]
    Attach(Attachment),
    /// Detach a managed policy
    #[command(after_help = "\
Examples:
  infall group detach physics/readers ProjectReader")]
    Detach(Attachment),
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Create { name } => {
            let ask = GroupCreate { name };
            let group: GroupShown = client.post(&Path::new(["groups"]), &ask).await?;
            context.show(&group, || format!("{}\n", group.arn));
        }
        Verb::Ls { project } => {
            let groups: GroupList = client.get(&list("groups", project)).await?;
            context.show(&groups, || {
                let mut table = Table::new(["PROJECT", "NAME", "MEMBERS", "POLICIES"]);
                for group in &groups.groups {
                    table.row([
                        group.project.as_str(),
                        &group.name,
                        &joined(&group.members),
                        &policies(&group.given),
                    ]);
                }
                table.to_string()
            });
        }
        Verb::Show { name } => {
            let group: GroupShown = client.get(&Path::new(["groups", &name])).await?;
            context.show(&group, || {
                let mut table = Table::new(["arn", &group.arn]);
                table.row(["members", &joined(&group.members)]);
                table.row(["policies", &policies(&group.given)]);
                table.row(["made", &render::time(group.created_ms)]);
                table.to_string()
            });
        }
        Verb::Rm { name, with_all } => remove(context, &client, "groups", &name, with_all).await?,
        Verb::Add { group, user } => {
            let path = Path::new(["groups", &group, "members", &user]);
            client.put(&path, &serde_json::json!({})).await?;
            context.show(&serde_json::json!({ "added": user, "to": group }), || {
                format!("{group}  {user} added\n")
            });
        }
        Verb::Take { group, user } => {
            let path = Path::new(["groups", &group, "members", &user]);
            client.delete(&path).await?;
            context.show(&serde_json::json!({ "taken": user, "from": group }), || {
                format!("{group}  {user} taken out\n")
            });
        }
        Verb::Policy { verb } => given(context, &client, "groups", verb).await?,
        Verb::Attach(which) => attach(context, &client, "groups", which).await?,
        Verb::Detach(which) => detach(context, &client, "groups", which).await?,
    }
    Ok(())
}
