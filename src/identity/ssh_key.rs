//! `infall user sshkey`: public ssh keys of users.

use crate::client::{Client, Path};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::render::{self, Table};
use access::identity::SshKey;
use clap::Subcommand;
use gateway::api::identities::{SshKeyAdd, SshKeyList};

/// Public ssh keys.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Add a public key; instances the user makes from then on let it in
    #[command(after_help = "\
Whoever may vm:Ssh needs none: infall vm ssh brings a certificate of its own.

Examples:
  infall user sshkey add alice ~/.ssh/id_ed25519.pub
  infall user sshkey add physics/alice \"ssh-ed25519 AAAA… alice\"")]
    Add {
        /// NAME or PROJECT/NAME
        name: String,
        /// A .pub file, or the key itself
        key: String,
    },
    /// List a user's public keys
    #[command(after_help = "\
Examples:
  infall user sshkey ls physics/alice")]
    Ls {
        /// NAME or PROJECT/NAME
        name: String,
    },
    /// Remove a public key; instances that were made with it keep it
    #[command(after_help = "\
Examples:
  infall user sshkey rm physics/alice SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")]
    Rm {
        /// NAME or PROJECT/NAME
        name: String,
        /// Its fingerprint
        fingerprint: String,
    },
}

/// Does it.
pub(super) async fn run(context: &Context, client: &Client, verb: Verb) -> Outcome {
    match verb {
        Verb::Add { name, key } => {
            let ask = SshKeyAdd {
                public_key: line(&key)?,
            };
            let path = Path::new(["users", &name, "ssh-keys"]);
            let added: SshKey = client.post(&path, &ask).await?;
            context.show(&added, || format!("{}  added\n", added.fingerprint));
        }
        Verb::Ls { name } => {
            let path = Path::new(["users", &name, "ssh-keys"]);
            let list: SshKeyList = client.get(&path).await?;
            context.show(&list, || {
                let mut table = Table::new(["FINGERPRINT", "TYPE", "COMMENT", "MADE"]);
                for key in &list.keys {
                    let mut words = key.public_key.splitn(3, ' ');
                    let sort = words.next().unwrap_or("-");
                    let comment = words.nth(1).unwrap_or("-");
                    let made = render::time(key.created_ms);
                    table.row([&key.fingerprint, sort, comment, &made]);
                }
                table.to_string()
            });
        }
        Verb::Rm { name, fingerprint } => {
            let path = Path::new(["users", &name, "ssh-keys", &fingerprint]);
            client.delete(&path).await?;
            context.show(&serde_json::json!({ "removed": fingerprint }), || {
                format!("{fingerprint}  removed\n")
            });
        }
    }
    Ok(())
}

/// `ssh-ed25519 AAAA… me`, or what a file holds that has such a line.
fn line(text: &str) -> Outcome<String> {
    if text.contains(' ') {
        return Ok(text.trim().to_owned());
    }
    let read = std::fs::read_to_string(text);
    let read = read.map_err(|error| Failure::io(format_args!("read {text}"), &error))?;
    Ok(read.trim().to_owned())
}
