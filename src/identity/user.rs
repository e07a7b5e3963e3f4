//! `infall user`: users and their access keys.

use super::{Attachment, GivenVerb, attach, detach, given, joined, list, policies, remove};
use crate::client::{Client, Path};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use access::identity::{KeyInfo, NewKey};
use clap::Subcommand;
use gateway::api::identities::{KeyChange, KeyList, UserCreate, UserList, UserShown};

/// Users.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a user, who may do nothing yet
    #[command(after_help = "\
Examples:
  infall user create alice                          in your own project
  infall user create physics/alice --key            with an access key, shown this once
  infall user create physics/stager --service       a program")]
    Create {
        /// NAME or PROJECT/NAME
        name: String,
        /// A program rather than a person
        #[arg(long)]
        service: bool,
        /// Make an access key, too
        #[arg(long)]
        key: bool,
    },
    /// List users
    #[command(after_help = "\
Examples:
  infall user ls
  infall user ls --project physics --json")]
    Ls {
        /// Only those of this project
        #[arg(long)]
        project: Option<String>,
    },
    /// Show one user: groups, policies, keys
    #[command(after_help = "\
Examples:
  infall user show physics/alice")]
    Show {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// Remove a user
    #[command(after_help = "\
Examples:
  infall user rm physics/alice
  infall user rm physics/alice --with-all           keys, policies and memberships, too")]
    Rm {
        /// NAME or PROJECT/NAME
        name: String,
        /// Remove keys, policies and memberships with it
        #[arg(long)]
        with_all: bool,
    },
    /// Access keys: create, ls, rm, activate, deactivate, rotate
    Key {
        /// What to do.
        #[command(subcommand)]
        verb: KeyVerb,
    },
    /// Public ssh keys: add, ls, rm
    Sshkey {
        /// What to do.
        #[command(subcommand)]
        verb: super::ssh_key::Verb,
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
  infall user attach physics/alice ProjectMember
  infall policy ls                                  what there is")]
    Attach(Attachment),
    /// Detach a managed policy
    #[command(after_help = "\
Examples:
  infall user detach physics/alice ProjectMember")]
    Detach(Attachment),
}

/// Access keys.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Make a key; its secret is shown this once
    #[command(after_help = "\
Examples:
  infall user key create physics/alice
  infall user key create physics/alice --json | jq -r .secret_key")]
    Create {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// List a user's keys
    #[command(after_help = "\
Examples:
  infall user key ls physics/alice")]
    Ls {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// Remove a key
    #[command(after_help = "\
Examples:
  infall user key rm physics/alice INF4ABCDEFGHIJKLMNOP")]
    Rm {
        /// NAME or PROJECT/NAME
        name: String,
        /// The access key
        key: String,
    },
    /// Switch a key on
    #[command(after_help = "\
Examples:
  infall user key activate physics/alice INF4ABCDEFGHIJKLMNOP")]
    Activate {
        /// NAME or PROJECT/NAME
        name: String,
        /// The access key
        key: String,
    },
    /// Switch a key off; it can be switched on again
    #[command(after_help = "\
Examples:
  infall user key deactivate physics/alice INF4ABCDEFGHIJKLMNOP")]
    Deactivate {
        /// NAME or PROJECT/NAME
        name: String,
        /// The access key
        key: String,
    },
    /// Make a new key in place of an old one, which opens nothing from then on
    #[command(after_help = "\
root's new key is also kept in the data directory, where the server found the old one.

Examples:
  infall user key rotate physics/alice INF4ABCDEFGHIJKLMNOP
  infall user key rotate physics/alice              if there is only one
  infall user key rotate root")]
    Rotate {
        /// NAME or PROJECT/NAME, or root
        name: String,
        /// The access key; may be left out where there is only one
        key: Option<String>,
    },
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Create { name, service, key } => {
            let ask = UserCreate {
                name: name.clone(),
                path: "/".into(),
                service,
            };
            let user: UserShown = client.post(&Path::new(["users"]), &ask).await?;
            if !key {
                context.show(&user, || format!("{}  may do nothing yet\n", user.arn));
                return Ok(());
            }
            let made = make_key(&client, &name).await?;
            let both = serde_json::json!({ "user": user, "key": made });
            context.show(&both, || {
                format!("{}  may do nothing yet\n{}", user.arn, shown_once(&made))
            });
        }
        Verb::Ls { project } => {
            let users: UserList = client.get(&list("users", project)).await?;
            context.show(&users, || {
                let mut table = Table::new(["PROJECT", "NAME", "GROUPS", "KEYS", "POLICIES"]);
                for user in &users.users {
                    table.row([
                        user.project.as_str(),
                        &user.name,
                        &joined(&user.groups),
                        &user.keys.to_string(),
                        &policies(&user.given),
                    ]);
                }
                table.to_string()
            });
        }
        Verb::Show { name } => {
            let user: UserShown = client.get(&Path::new(["users", &name])).await?;
            context.show(&user, || {
                let mut table = Table::new(["arn", &user.arn]);
                table.row(["id", &user.id]);
                table.row(["sort", if user.service { "service" } else { "person" }]);
                table.row(["groups", &joined(&user.groups)]);
                table.row(["policies", &policies(&user.given)]);
                table.row(["keys", &user.keys.to_string()]);
                table.row(["made", &render::time(user.created_ms)]);
                table.to_string()
            });
        }
        Verb::Rm { name, with_all } => remove(context, &client, "users", &name, with_all).await?,
        Verb::Key { verb } => key(context, &client, verb).await?,
        Verb::Sshkey { verb } => super::ssh_key::run(context, &client, verb).await?,
        Verb::Policy { verb } => given(context, &client, "users", verb).await?,
        Verb::Attach(which) => attach(context, &client, "users", which).await?,
        Verb::Detach(which) => detach(context, &client, "users", which).await?,
    }
    Ok(())
}

async fn key(context: &Context, client: &Client, verb: KeyVerb) -> Outcome {
    match verb {
        KeyVerb::Create { name } => {
            let made = make_key(client, &name).await?;
            context.show(&made, || shown_once(&made));
        }
        KeyVerb::Ls { name } => {
            let list: KeyList = client.get(&Path::new(["users", &name, "keys"])).await?;
            context.show(&list, || {
                let mut table = Table::new(["KEY", "STATE", "MADE"]);
                for key in &list.keys {
                    table.row([&key.id, state(key), &made(key)]);
                }
                table.to_string()
            });
        }
        KeyVerb::Rm { name, key } => {
            let path = Path::new(["users", &name, "keys", &key]);
            client.delete(&path).await?;
            context.show(&serde_json::json!({ "removed": key }), || {
                format!("{key}  removed\n")
            });
        }
        KeyVerb::Activate { name, key } => switch(context, client, &name, &key, true).await?,
        KeyVerb::Deactivate { name, key } => switch(context, client, &name, &key, false).await?,
        KeyVerb::Rotate { name, key } => {
            let key = match key {
                Some(key) => key,
                None => only_key(client, &name).await?,
            };
            let path = Path::new(["users", &name, "keys", &key, "rotate"]);
            let made: NewKey = client.post(&path, &serde_json::json!({})).await?;
            context.show(&made, || {
                format!("{}{key}  opens nothing any more\n", shown_once(&made))
            });
        }
    }
    Ok(())
}

async fn make_key(client: &Client, name: &str) -> Outcome<NewKey> {
    let path = Path::new(["users", name, "keys"]);
    client.post(&path, &serde_json::json!({})).await
}

async fn only_key(client: &Client, name: &str) -> Outcome<String> {
    let list: KeyList = client.get(&Path::new(["users", name, "keys"])).await?;
    match list.keys.as_slice() {
        [only] => Ok(only.id.clone()),
        keys => {
            let message = format!("{name} has {} access keys: say which", keys.len());
            Err(Failure::new(Exit::Usage, "key", message)
                .hint(format!("List them: infall user key ls {name}")))
        }
    }
}

async fn switch(
    context: &Context,
    client: &Client,
    name: &str,
    key: &str,
    active: bool,
) -> Outcome {
    let path = Path::new(["users", name, "keys", key]);
    let changed: KeyInfo = client.post(&path, &KeyChange { active }).await?;
    context.show(&changed, || {
        format!("{}  {}\n", changed.id, state(&changed))
    });
    Ok(())
}

fn state(key: &KeyInfo) -> &'static str {
    if key.active { "active" } else { "inactive" }
}

fn made(key: &KeyInfo) -> String {
    match key.created_ms {
        0 => "-".to_owned(),
        created_ms => render::time(created_ms),
    }
}

fn shown_once(key: &NewKey) -> String {
    format!(
        "{}  secret {}    shown this once\n",
        key.info.id,
        key.secret_key.reveal()
    )
}
