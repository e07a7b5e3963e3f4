//! `infall project`: who owns what, and how much of it there may be.

use super::remove;
use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use crate::units::parse_bytes;
use access::identity::Quota;
use clap::{Args, Subcommand};
use gateway::api::identities::{ProjectCreate, ProjectList, ProjectShown};

/// Projects.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a project
    #[command(after_help = "\
Examples:
  infall project create physics
  infall project create physics --bytes 10T --volumes 50 --vms 20")]
    Create {
        /// 1 to 63 of a-z, 0-9, - . _
        name: String,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// What it may use
        #[command(flatten)]
        limits: Limits,
    },
    /// List projects: what each uses of what it may
    #[command(after_help = "\
Examples:
  infall project ls
  infall project ls --json | jq '.projects[] | select(.quota.bytes)'")]
    Ls,
    /// Show one project
    #[command(after_help = "\
Examples:
  infall project show physics")]
    Show {
        /// The project
        name: String,
    },
    /// Set what it may use; what is not named stays as it is
    #[command(after_help = "\
Examples:
  infall project set-quota physics --bytes 20T
  infall project set-quota physics --vms none       no limit")]
    SetQuota {
        /// The project
        name: String,
        /// What it may use
        #[command(flatten)]
        limits: Limits,
    },
    /// Remove a project that owns nothing
    #[command(after_help = "\
Examples:
  infall project rm physics")]
    Rm {
        /// The project
        name: String,
    },
}

/// What a project may use: a number, or none.
#[derive(Clone, Debug, Args)]
pub(crate) struct Limits {
    /// Bytes, as 10T; or none
    #[arg(long)]
    bytes: Option<String>,
    /// Objects, versions included; or none
    #[arg(long)]
    objects: Option<String>,
    /// Volumes; or none
    #[arg(long)]
    volumes: Option<String>,
    /// VMs; or none
    #[arg(long)]
    vms: Option<String>,
}

impl Limits {
    fn over(&self, before: Quota) -> Outcome<Quota> {
        let count = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
        Ok(Quota {
            bytes: limit("--bytes", &self.bytes, before.bytes, |text| {
                parse_bytes(text).map_err(|error| error.to_string())
            })?,
            objects: limit("--objects", &self.objects, before.objects, count)?,
            volumes: limit("--volumes", &self.volumes, before.volumes, count)?,
            vms: limit("--vms", &self.vms, before.vms, count)?,
        })
    }
}

fn limit(
    flag: &str,
    text: &Option<String>,
    before: Option<u64>,
    read: impl FnOnce(&str) -> Result<u64, String>,
) -> Outcome<Option<u64>> {
    match text.as_deref() {
        None => Ok(before),
        Some("none") => Ok(None),
        Some(text) => read(text).map(Some).map_err(|error| {
            let message = format!("{flag} {text:?} is neither a number nor none");
            Failure::new(Exit::Usage, "quota", message).because(error)
        }),
    }
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Create {
            name,
            description,
            limits,
        } => {
            let ask = ProjectCreate {
                name,
                description,
                quota: limits.over(Quota::default())?,
            };
            let project: ProjectShown = client.post(&Path::new(["projects"]), &ask).await?;
            context.show(&project, || {
                format!(
                    "{}  next: infall user create {0}/NAME --key\n",
                    project.name
                )
            });
        }
        Verb::Ls => {
            let list: ProjectList = client.get(&Path::new(["projects"])).await?;
            context.show(&list, || {
                let mut table = Table::new(["NAME", "BYTES", "OBJECTS", "VOLUMES", "VMS"]);
                for project in &list.projects {
                    let [bytes, objects, volumes, vms] = cells(project);
                    table.row([&project.name, &bytes, &objects, &volumes, &vms]);
                }
                table.to_string()
            });
        }
        Verb::Show { name } => {
            let project: ProjectShown = client.get(&Path::new(["projects", &name])).await?;
            context.show(&project, || shown(&project));
        }
        Verb::SetQuota { name, limits } => {
            let path = Path::new(["projects", &name]);
            let before: ProjectShown = client.get(&path).await?;
            let quota = limits.over(before.quota)?;
            client
                .put(&Path::new(["projects", &name, "quota"]), &quota)
                .await?;
            let after: ProjectShown = client.get(&path).await?;
            context.show(&after, || shown(&after));
        }
        Verb::Rm { name } => remove(context, &client, "projects", &name, false).await?,
    }
    Ok(())
}

fn shown(project: &ProjectShown) -> String {
    let [bytes, objects, volumes, vms] = cells(project);
    let mut table = Table::new(["name", &project.name]);
    table.row(["description", &project.description]);
    table.row(["bytes", &bytes]);
    table.row(["objects", &objects]);
    table.row(["volumes", &volumes]);
    table.row(["vms", &vms]);
    if project.created_ms > 0 {
        table.row(["made", &render::time(project.created_ms)]);
    }
    table.to_string()
}

/// Each as `used of most`.
fn cells(project: &ProjectShown) -> [String; 4] {
    let (used, quota) = (&project.used, &project.quota);
    let of = |used: String, most: Option<String>| match most {
        Some(most) => format!("{used} of {most}"),
        None => used,
    };
    let plain =
        |used: u64, most: Option<u64>| of(used.to_string(), most.map(|most| most.to_string()));
    [
        of(render::bytes(used.bytes), quota.bytes.map(render::bytes)),
        plain(used.objects, quota.objects),
        plain(used.volumes, quota.volumes),
        plain(used.vms, quota.vms),
    ]
}
