//! `infall issuer`: OpenID providers whose tokens are believed.

use super::remove;
use crate::client::Path;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::render::Table;
use access::federation::{Issuer, IssuerAdd};
use clap::Subcommand;
use gateway::api::identities::IssuerList;
use std::path::PathBuf;

/// Issuers.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Believe an issuer; roles whose trust names it open to its users
    #[command(after_help = "\
A role's trust says whom it opens to, by the issuer's claims:
  {\"Version\": \"2012-10-17\", \"Statement\": [{
     \"Effect\": \"Allow\", \"Action\": \"sts:AssumeRoleWithWebIdentity\",
     \"Principal\": {\"Federated\": \"https://aai.egi.eu/auth/realms/egi\"},
     \"Condition\": {\"ForAnyValue:StringEquals\":
        {\"aai.egi.eu/auth/realms/egi:groups\": \"vo.example.org#member\"}}}]}
Keys are :sub, :aud, :groups (a group, # and its role, out of EGI's entitlements) and :entitlements.

Examples:
  infall issuer add egi --url https://aai.egi.eu/auth/realms/egi --audience my-client
  infall issuer add ci --url https://ci.example.org --audience infall --reusable")]
    Add {
        /// What to call it
        name: String,
        /// Its iss, exactly as in its tokens
        #[arg(long)]
        url: String,
        /// A client id whose tokens are meant for this provider; several times for several
        #[arg(long, required = true)]
        audience: Vec<String>,
        /// The client that infall login is; the first audience if not named
        #[arg(long)]
        client_id: Option<String>,
        /// Certificates it is known by, PEM, where the system's do not do
        #[arg(long, value_name = "FILE")]
        issuer_ca: Option<PathBuf>,
        /// A token may be used until it expires, not only once
        #[arg(long)]
        reusable: bool,
    },
    /// List issuers
    #[command(after_help = "\
Examples:
  infall issuer ls")]
    Ls,
    /// Believe one no more; sessions that it began live until they expire
    #[command(after_help = "\
Examples:
  infall issuer rm egi")]
    Rm {
        /// The issuer
        name: String,
    },
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Add {
            name,
            url,
            audience,
            client_id,
            issuer_ca,
            reusable,
        } => {
            let read = |file: PathBuf| {
                std::fs::read_to_string(&file)
                    .map_err(|error| Failure::io(format_args!("read {}", file.display()), &error))
            };
            let ask = IssuerAdd {
                name,
                url,
                audiences: audience,
                client_id,
                ca_pem: issuer_ca.map(read).transpose()?,
                reusable,
            };
            let issuer: Issuer = client.post(&Path::new(["issuers"]), &ask).await?;
            context.show(&issuer, || {
                format!(
                    "{}  next: a role whose trust names {}: infall role create --help\n",
                    issuer.name, issuer.url
                )
            });
        }
        Verb::Ls => {
            let list: IssuerList = client.get(&Path::new(["issuers"])).await?;
            context.show(&list, || {
                let mut table = Table::new(["NAME", "URL", "AUDIENCES", "TOKENS"]);
                for issuer in &list.issuers {
                    let audiences = issuer.audiences.join(", ");
                    let used = if issuer.reusable {
                        "reusable"
                    } else {
                        "used once"
                    };
                    table.row([&*issuer.name, &*issuer.url, &*audiences, used]);
                }
                table.to_string()
            });
        }
        Verb::Rm { name } => remove(context, &client, "issuers", &name, false).await?,
    }
    Ok(())
}
