//! `infall policy`: managed policies, whether a text is one, and what would be decided.

use super::{joined, list, read, remove};
use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use clap::{Subcommand, ValueEnum};
use gateway::api::identities::{
    Checked, Document, PolicyCreate, PolicyList, PolicyShown, TestAsk, Tested,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Policies.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a managed policy, or give one a new text with --replace
    #[command(after_help = "\
Examples:
  infall policy create physics/read-logs logs.json
  infall policy create physics/read-logs logs.json --replace
  infall policy create physics/read-logs - < logs.json")]
    Create {
        /// NAME or PROJECT/NAME
        name: String,
        /// The document; - is standard input
        file: PathBuf,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// It is there already: this is its new text
        #[arg(long)]
        replace: bool,
    },
    /// List managed policies, those that are built in last
    #[command(after_help = "\
Examples:
  infall policy ls
  infall policy ls --project physics")]
    Ls {
        /// Only those of this project
        #[arg(long)]
        project: Option<String>,
    },
    /// Show one managed policy
    #[command(after_help = "\
Examples:
  infall policy show ProjectMember
  infall policy show physics/read-logs --json | jq -r .document")]
    Show {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// Remove a managed policy that nobody has attached
    #[command(after_help = "\
Examples:
  infall policy rm physics/read-logs")]
    Rm {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// Say whether a document is a policy, and what is wrong with it
    #[command(after_help = "\
Examples:
  infall policy check logs.json
  infall policy check bucket.json --form bucket
  infall policy check - --form trust < trust.json")]
    Check {
        /// The document; - is standard input
        file: PathBuf,
        /// What it is for
        #[arg(long, value_enum, default_value_t = Form::Identity)]
        form: Form,
    },
    /// Say what would be decided, and why; nothing is recorded
    #[command(after_help = "\
It exits with 6 where the answer is no.

Examples:
  infall policy test --as physics/alice --action s3:GetObject --on s3://images/debian-12.qcow2
  infall policy test --as physics/alice --action volume:Attach --on volume:root1
  infall policy test --as anonymous --action s3:GetObject --on s3://pub/k --from 192.0.2.7
  infall policy test --as physics/alice --action s3:ListBucket --on s3://b --key s3:prefix=home/")]
    Test {
        /// A user (NAME or PROJECT/NAME), root or anonymous
        #[arg(long = "as", value_name = "USER")]
        caller: String,
        /// As s3:GetObject or vm:Run
        #[arg(long)]
        action: String,
        /// s3://BUCKET[/KEY], volume:NAME, snapshot:, image:, vm:, host:, project:, store or *
        #[arg(long)]
        on: String,
        /// A condition key of the request, may be given several times
        #[arg(long = "key", value_name = "KEY=VALUE")]
        keys: Vec<String>,
        /// From which address
        #[arg(long, value_name = "ADDRESS")]
        from: Option<IpAddr>,
    },
}

/// What a document is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Form {
    /// A user's, group's or role's
    Identity,
    /// A bucket's
    Bucket,
    /// A role's trust
    Trust,
    /// A session's
    Session,
}

impl Form {
    fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Bucket => "bucket",
            Self::Trust => "trust",
            Self::Session => "session",
        }
    }
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Create {
            name,
            file,
            description,
            replace,
        } => {
            let document = read(&file)?;
            if replace {
                let ask = Document {
                    document,
                    form: None,
                };
                client.put(&Path::new(["policies", &name]), &ask).await?;
                context.show(&serde_json::json!({ "replaced": name }), || {
                    format!("{name}  has a new text\n")
                });
                return Ok(());
            }
            let ask = PolicyCreate {
                name,
                document,
                description,
            };
            let policy: PolicyShown = client.post(&Path::new(["policies"]), &ask).await?;
            context.show(&policy, || format!("{}\n", policy.arn));
        }
        Verb::Ls { project } => {
            let policies: PolicyList = client.get(&list("policies", project)).await?;
            context.show(&policies, || {
                let mut table = Table::new(["PROJECT", "NAME", "HOLDERS", "DESCRIPTION"]);
                for policy in &policies.policies {
                    let project = match policy.project.as_str() {
                        "aws" => "(built in)",
                        project => project,
                    };
                    let holders = joined(&policy.holders);
                    table.row([project, &policy.name, &holders, &policy.description]);
                }
                table.to_string()
            });
        }
        Verb::Show { name } => {
            let policy: PolicyShown = client.get(&Path::new(["policies", &name])).await?;
            context.show(&policy, || {
                let mut table = Table::new(["arn", &policy.arn]);
                table.row(["description", &policy.description]);
                table.row(["version", &policy.version]);
                table.row(["holders", &joined(&policy.holders)]);
                if policy.created_ms > 0 {
                    table.row(["made", &render::time(policy.created_ms)]);
                }
                let pretty = serde_json::from_str(&policy.document)
                    .and_then(|tree: serde_json::Value| serde_json::to_string_pretty(&tree));
                format!("{table}{}\n", pretty.unwrap_or(policy.document.clone()))
            });
        }
        Verb::Rm { name } => remove(context, &client, "policies", &name, false).await?,
        Verb::Check { file, form } => {
            let ask = Document {
                document: read(&file)?,
                form: Some(form.word().to_owned()),
            };
            let checked: Checked = client.post(&Path::new(["policy-check"]), &ask).await?;
            context.show(&checked, || match checked.public {
                true => "It is a policy, and lets in everybody.\n".to_owned(),
                false => "It is a policy.\n".to_owned(),
            });
        }
        Verb::Test {
            caller,
            action,
            on,
            keys,
            from,
        } => {
            let ask = TestAsk {
                caller,
                action,
                on,
                context: pairs(&keys)?,
                address: from,
            };
            let tested: Tested = client.post(&Path::new(["policy-test"]), &ask).await?;
            context.show(&tested, || shown(&ask, &tested));
            if !tested.allowed {
                let message = format!("{} may not {} on {}", ask.caller, ask.action, ask.on);
                return Err(Failure::new(Exit::Denied, "policy", message));
            }
        }
    }
    Ok(())
}

fn shown(ask: &TestAsk, tested: &Tested) -> String {
    let mut table = Table::new(["answer", if tested.allowed { "yes" } else { "no" }]);
    table.row(["who", &tested.arn]);
    table.row(["action", &ask.action]);
    table.row(["on", &tested.resource]);
    table.row(["why", &tested.why]);
    if !tested.policy.is_empty() {
        table.row(["policy", &tested.policy]);
        table.row(["statement", &tested.statement]);
    }
    table.to_string()
}

fn pairs(keys: &[String]) -> Outcome<BTreeMap<String, String>> {
    keys.iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => {
                let message = format!("--key {pair:?} is not written as KEY=VALUE");
                Err(Failure::new(Exit::Usage, "key", message))
            }
        })
        .collect()
}
