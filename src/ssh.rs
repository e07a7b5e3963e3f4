//! `infall vm ssh`: into a guest with a key and a certificate of the moment.
//!
//! ```text
//! new key ─▶ POST /vms/NAME/ssh ─▶ certificate ─▶ ssh ─ProxyCommand─▶ infall vm tunnel NAME
//!                                                              server ─▶ the guest's sshd
//! ```
//! The key never leaves a directory that only this user can enter, and goes with the session. A guest's
//! host key is remembered under its uuid, which no other instance ever has.

use crate::client::{Client, Path};
use crate::console::{Typed, to_output};
use crate::context::{Context, variable};
use crate::exit::{Exit, Failure, Outcome};
use clap::Args;
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path as FilePath, PathBuf};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use vmctl::{SshAsk, SshCertificate};

/// Whom to be and where.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The instance, or USER@INSTANCE [default user: root]
    #[arg(value_name = "[USER@]NAME")]
    target: String,
    /// Connect there rather than through the server
    #[arg(long, value_name = "HOST[:PORT]")]
    address: Option<String>,
    /// Certify this public key instead of a new one, print the certificate, and connect nowhere
    #[arg(long, value_name = "FILE.pub", conflicts_with = "command")]
    certify: Option<PathBuf>,
    /// A command to run there instead of a shell, and further words for ssh
    #[arg(last = true)]
    command: Vec<String>,
}

/// What a certificate is asked for and used with.
struct Target<'a> {
    login: &'a str,
    name: &'a str,
}

/// Does it; ends as ssh ends.
pub(crate) async fn run(context: &Context, client: &Client, arguments: &Arguments) -> Outcome {
    let (login, name) = match arguments.target.split_once('@') {
        Some((login, name)) => (login, name),
        None => ("root", arguments.target.as_str()),
    };
    let target = Target { login, name };
    if let Some(file) = &arguments.certify {
        let read = std::fs::read_to_string(file);
        let public =
            read.map_err(|error| Failure::io(format_args!("read {}", file.display()), &error))?;
        let given = certificate(client, &target, public.trim()).await?;
        context.show(&given, || format!("{}\n", given.certificate));
        return Ok(());
    }
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(|error| broken(&error))?;
    let public = key.public_key().to_openssh();
    let public = public.map_err(|error| broken(&error))?;
    let given = certificate(client, &target, &public).await?;
    let moment = Moment::keep(&key, &given.certificate)?;
    let mut ssh = tokio::process::Command::new("ssh");
    ssh.args(options(&moment, &given, arguments.address.as_deref())?);
    let near = arguments.address.as_deref().map(split_address);
    match near {
        Some((host, port)) => {
            ssh.args(port.map(|port| format!("-p{port}")));
            ssh.arg(host);
        }
        None => {
            ssh.arg(name);
        }
    }
    ssh.args(&arguments.command);
    // The tunnel finds the server as we did.
    for (variable, value) in surroundings(context) {
        ssh.env(variable, value);
    }
    // Ctrl-C is for the other end; the key has to go afterwards.
    let _interrupt = signal(SignalKind::interrupt());
    let ended = ssh.status().await;
    drop(moment);
    let ended = ended.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Exit::Unavailable, "ssh", "there is no ssh on the PATH")
                .hint("Install it: apt-get install openssh-client")
        }
        _ => Failure::io("run ssh", &error),
    })?;
    match ended.code() {
        Some(0) => Ok(()),
        // The remote command's own word, as with ssh itself.
        Some(code) => std::process::exit(code),
        None => std::process::exit(128 + ended.signal().unwrap_or_default()),
    }
}

/// `infall vm tunnel`: standard input and output are the guest's ssh server.
pub(crate) async fn tunnel(client: &Client, name: &str) -> Outcome {
    let guest = client.tunnel(&Path::new(["vms", name, "ssh"])).await?;
    let (mut heard, mut said) = tokio::io::split(guest);
    let mut typed = Typed::start();
    let from = to_output(&mut heard);
    let to = async {
        while let Some(bytes) = typed.next().await {
            said.write_all(&bytes).await?;
            said.flush().await?;
        }
        Ok(())
    };
    let ended: io::Result<()> = tokio::select! {
        from = from => from,
        to = to => to,
    };
    ended.map_err(|error| Failure::io("move bytes to the guest", &error))
}

async fn certificate(
    client: &Client,
    target: &Target<'_>,
    public: &str,
) -> Outcome<SshCertificate> {
    let ask = SshAsk {
        public_key: public.to_owned(),
        login: target.login.to_owned(),
    };
    client
        .post(&Path::new(["vms", target.name, "ssh"]), &ask)
        .await
}

/// ssh_config(5) has them all; those given here win over the user's own file.
fn options(moment: &Moment, given: &SshCertificate, address: Option<&str>) -> Outcome<Vec<String>> {
    let known = known_hosts()?;
    let mut options = vec![
        format!("IdentityFile={}", quoted(&moment.key())?),
        format!("CertificateFile={}", quoted(&moment.certificate())?),
        "IdentitiesOnly=yes".into(),
        format!("HostKeyAlias={}", given.instance),
        format!("UserKnownHostsFile={}", quoted(&known)?),
        "StrictHostKeyChecking=accept-new".into(),
        "PreferredAuthentications=publickey".into(),
        format!("User={}", given.login),
    ];
    if address.is_none() {
        let program =
            std::env::current_exe().map_err(|error| Failure::io("find this program", &error))?;
        // ssh puts the host's name in for %n, as it was given.
        options.push(format!("ProxyCommand={} vm tunnel %n", quoted(&program)?));
    }
    Ok(options
        .into_iter()
        .map(|option| format!("-o{option}"))
        .collect())
}

/// In quotes for ssh's own reader and for the shell behind ProxyCommand.
fn quoted(path: &FilePath) -> Outcome<String> {
    let text = path.to_string_lossy();
    if text.contains(['"', '%', '$', '`', '\\', '\n']) {
        let message = format!(
            "the path {} holds characters that ssh would read as its own",
            path.display()
        );
        return Err(Failure::new(Exit::Usage, "ssh", message));
    }
    Ok(format!("\"{text}\""))
}

/// `host`, `host:port`, `[address]:port`.
fn split_address(address: &str) -> (&str, Option<u16>) {
    let split = address.rsplit_once(':');
    match split.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) if !host.contains(':') || host.starts_with('[') => {
            (host.trim_matches(['[', ']']), Some(port))
        }
        _ => (address.trim_matches(['[', ']']), None),
    }
}

/// Settings given as flags, for a process below us.
fn surroundings(context: &Context) -> Vec<(&'static str, String)> {
    let shown = |path: PathBuf| path.display().to_string();
    let config = &context.config;
    let named = [
        ("INFALL_DATA", context.data().ok().map(shown)),
        ("INFALL_ENDPOINT", config.endpoint().map(str::to_owned)),
        ("INFALL_CA", config.ca().map(shown)),
        ("INFALL_CONFIG", config.file.clone().map(shown)),
    ];
    let named = named.into_iter();
    named
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// `$XDG_STATE_HOME/infall/known_hosts`, its folder made.
fn known_hosts() -> Outcome<PathBuf> {
    let state = variable("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/state")));
    let state = state.ok_or_else(|| {
        let message = "neither XDG_STATE_HOME nor HOME says where host keys are remembered";
        Failure::new(Exit::Usage, "ssh", message)
    })?;
    let folder = state.join("infall");
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    made.map_err(|error| Failure::io(format_args!("make {}", folder.display()), &error))?;
    Ok(folder.join("known_hosts"))
}

fn broken(error: &ssh_key::Error) -> Failure {
    Failure::new(Exit::Internal, "ssh", "cannot make a key").because(error)
}

/// The key of the moment and its certificate, in a directory of their own, which goes when dropped.
struct Moment(PathBuf);

impl Moment {
    fn keep(key: &PrivateKey, certificate: &str) -> Outcome<Self> {
        let text = key.to_openssh(LineEnding::LF);
        let text = text.map_err(|error| broken(&error))?;
        let base = variable("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let random: u128 = {
            use ssh_key::rand_core::RngCore;
            let mut bytes = [0; 16];
            OsRng.fill_bytes(&mut bytes);
            u128::from_le_bytes(bytes)
        };
        let folder = base.join(format!("infall-ssh-{random:032x}"));
        let failed =
            |error| Failure::io(format_args!("keep a key in {}", folder.display()), &error);
        // Fails on one that is there: nobody else has put anything in.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(failed)?;
        let moment = Self(folder.clone());
        for (path, text) in [
            (moment.key(), text.as_str()),
            (moment.certificate(), certificate),
        ] {
            let mut file = std::fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(failed)?;
            io::Write::write_all(&mut file, format!("{}\n", text.trim_end()).as_bytes())
                .map_err(failed)?;
        }
        Ok(moment)
    }

    fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    fn certificate(&self) -> PathBuf {
        self.0.join("key-cert.pub")
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("infall: {} stays behind: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port() {
        for (address, host, port) in [
            ("10.0.0.7", "10.0.0.7", None),
            ("10.0.0.7:2222", "10.0.0.7", Some(2222)),
            ("fd00::7", "fd00::7", None),
            ("[fd00::7]:2222", "fd00::7", Some(2222)),
            ("guest.example", "guest.example", None),
        ] {
            assert_eq!(split_address(address), (host, port), "{address}");
        }
    }

    #[test]
    fn a_path_that_ssh_would_expand_is_refused() {
        assert_eq!(quoted(FilePath::new("/a b/c")).unwrap(), "\"/a b/c\"");
        for path in ["/a%h", "/a\"b", "/a$(b)", "/a`b`"] {
            assert!(quoted(FilePath::new(path)).is_err(), "{path}");
        }
    }
}
