//! The command line: global flags and the list of commands. A noun's verbs stand in its own file.

use crate::config::SETTINGS;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Heads the flags that every command takes.
const EVERYWHERE: &str = "Everywhere";

/// Distributed storage and data service for cloud VMs.
#[derive(Debug, Parser)]
#[command(
    name = "infall",
    version,
    about = "S3, NBD, files and VMs over one block store",
    long_about = "Infall keeps VM images, disks, snapshots and user data in one store, serves them as S3, \
                  NBD and files, and runs VMs where their data is.",
    after_help = "\
Examples:
  infall serve &                                  start; credentials are made and shown once
  eval \"$(infall env)\"                            aws, rclone and boto3 now speak to Infall
  infall bucket create images
  aws s3 cp debian-12.qcow2 s3://images/
  infall image add s3://images/debian-12.qcow2 --name debian-12
  infall vm run web1 --image debian-12 --wait
  infall status

Every command has its own examples: infall volume create --help
Exit codes: infall help exit-codes",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = false,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Data directory [default: $XDG_DATA_HOME/infall or ~/.local/share/infall; for root /var/lib/infall]
    #[arg(long, global = true, value_name = "DIR", help_heading = EVERYWHERE)]
    pub(crate) data: Option<PathBuf>,
    /// Server to speak to [default: the one that runs on the data directory]
    #[arg(long, global = true, value_name = "URL", help_heading = EVERYWHERE)]
    pub(crate) endpoint: Option<String>,
    /// Certificate of the CA to trust, PEM [default: the server's own, or the system's]
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub(crate) ca: Option<PathBuf>,
    /// Configuration file [default: ~/.config/infall/config.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub(crate) config: Option<PathBuf>,
    /// Results (stdout) and errors (stderr) as JSON
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// error, warn, info, debug, trace, or a filter such as info,blockstore=debug
    #[arg(long, global = true, value_name = "FILTER", help_heading = EVERYWHERE)]
    pub(crate) log: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: S3, JSON API, NBD
    Serve(crate::serve::Arguments),
    /// Buckets: ls, create, rm
    Bucket {
        /// What to do.
        #[command(subcommand)]
        verb: crate::bucket::Verb,
    },
    /// Images that volumes are cloned from: add, ls, show, rm, sign, deprecate, expire
    Image {
        /// What to do.
        #[command(subcommand)]
        verb: crate::image::Verb,
    },
    /// Volumes: create, ls, show, rm, resize, snapshot, url
    Volume {
        /// What to do.
        #[command(subcommand)]
        verb: crate::volume::Verb,
    },
    /// Snapshots: ls, show, rm
    Snapshot {
        /// What to do.
        #[command(subcommand)]
        verb: crate::snapshot::Verb,
    },
    /// VMs through libvirt: run, ls, show, start, stop, console, ssh, rm
    Vm {
        /// What to do.
        #[command(subcommand)]
        verb: Box<crate::vm::Verb>,
    },
    /// Users and their keys: create, ls, show, rm, key, sshkey, policy, attach, detach
    User {
        /// What to do.
        #[command(subcommand)]
        verb: crate::identity::UserVerb,
    },
    /// Groups of users: create, ls, show, rm, add, take, policy, attach, detach
    Group {
        /// What to do.
        #[command(subcommand)]
        verb: crate::identity::GroupVerb,
    },
    /// Roles: create, ls, show, rm, trust, policy, attach, detach
    Role {
        /// What to do.
        #[command(subcommand)]
        verb: crate::identity::RoleVerb,
    },
    /// Policies: create, ls, show, rm, check, test
    Policy {
        /// What to do.
        #[command(subcommand)]
        verb: crate::identity::PolicyVerb,
    },
    /// Issuers whose tokens are believed: add, ls, rm
    Issuer {
        /// What to do.
        #[command(subcommand)]
        verb: crate::identity::IssuerVerb,
    },
    /// Log in with an issuer's token: keys for a while
    Login(crate::login::Arguments),
    /// Forget the keys of a login
    #[command(after_help = "\
Examples:
  infall logout                     the operator's own key counts again")]
    Logout,
    /// Projects and their quotas: create, ls, show, set-quota, rm
    Project {
        /// What to do.
        #[command(subcommand)]
        verb: crate::identity::ProjectVerb,
    },
    /// Show volumes, snapshots, images and buckets as files
    Mount(crate::mount::Mount),
    /// Take a mount away
    Umount(crate::mount::Umount),
    /// Copy files and trees between S3, WebDAV, CDMI, the web and here: put, get, sync, verify
    Stage {
        /// What to do.
        #[command(subcommand)]
        verb: Box<crate::stage::Verb>,
    },
    /// The store's inside: status, tree, collect, check
    Store {
        /// What to do.
        #[command(subcommand)]
        verb: crate::store::Verb,
    },
    /// What happened: the journal
    Events(crate::events::Arguments),
    /// One line: how it is
    #[command(after_help = "\
Examples:
  infall status
  infall status --json | jq .stats.physical_bytes")]
    Status,
    /// Check the store: through its server, or a data directory that no server has open
    Check(crate::check::Arguments),
    /// Print variables for aws, boto3 and rclone
    Env(crate::environment::Arguments),
    /// The server's certificate: make, load, show
    Tls {
        /// What to do.
        #[command(subcommand)]
        verb: crate::tls::Verb,
    },
    /// Look at this machine and say what is missing
    #[command(after_help = "\
Examples:
  infall doctor
  infall doctor --json")]
    Doctor,
    /// Settings: check
    Config {
        /// What to do.
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  infall completions bash > ~/.local/share/bash-completion/completions/infall
  infall completions zsh > ~/.zfunc/_infall")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// What exit codes mean
    #[command(hide = true, long_about = crate::exit::EXIT_CODES, after_help = "\
Examples:
  infall volume show root1 || [ $? -eq 4 ] && infall volume create root1 --length 4G")]
    ExitCodes,
}

/// Settings.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Read all settings, say what each is and where it comes from
    #[command(after_help = "\
Examples:
  infall config check
  infall --config ./infall.toml config check
  INFALL_LISTEN=127.0.0.1:9100 infall config check

A file:
  data = \"/srv/infall\"
  [serve]
  listen = \"127.0.0.1:9000\"
  [log]
  level = \"info\"")]
    Check,
}

impl Command {
    /// Flags of the command that are settings.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Serve(arguments) => arguments.settings(),
            _ => Vec::new(),
        }
    }
}

impl Global {
    /// Flags that are settings.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let data = self
            .data
            .as_ref()
            .map(|data| ("data", data.display().to_string()));
        let endpoint = self.endpoint.clone().map(|endpoint| ("endpoint", endpoint));
        let ca = self.ca.as_ref().map(|ca| ("ca", ca.display().to_string()));
        let log = self.log.clone().map(|log| ("log.level", log));
        let all: Vec<_> = [data, endpoint, ca, log].into_iter().flatten().collect();
        debug_assert!(
            all.iter()
                .all(|(key, _)| SETTINGS.iter().any(|known| known.key == *key))
        );
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_teaches_by_example() {
        fn walk(path: &str, command: &clap::Command) {
            if command.has_subcommands() {
                for inner in command
                    .get_subcommands()
                    .filter(|inner| inner.get_name() != "help")
                {
                    walk(&format!("{path} {}", inner.get_name()), inner);
                }
                return;
            }
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Examples:"), "{path} has no examples");
            assert!(
                help.contains("infall "),
                "{path}'s examples do not show the command"
            );
            assert!(
                help.lines().all(|line| line.chars().count() <= 100),
                "{path}'s help does not fit 100 columns: {:?}",
                help.lines().find(|line| line.chars().count() > 100)
            );
            assert!(
                command.get_about().is_some(),
                "{path} does not say what it does"
            );
        }
        walk("infall", &Cli::command());
    }
}
