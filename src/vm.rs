//! `infall vm`: instances. Their state is what libvirt says; their disks are the store's.

use crate::client::{Client, Path};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use crate::serve::DiskList;
use crate::units::{parse_bytes, parse_duration, parse_memory};
use clap::{Args, Subcommand};
use gateway::api::ImageList;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};
use vmctl::api::{HostList, InstanceList, Removed};
use vmctl::{DataVolume, Instance, InstanceSpec, Network};

/// How often a waiting command looks.
const LOOK: Duration = Duration::from_millis(500);
/// Lines of the console that a waiting command looks at.
const LINES: usize = 2000;

/// Instances.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make an instance and start it
    #[command(after_help = "\
The root disk is a clone of the image, named NAME-root; nothing is copied. Data volumes are
read-only unless :rw says otherwise. User data and ssh keys reach the guest by a NoCloud seed.

Examples:
  infall vm run web1 --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub --wait
  infall vm run web1 --image debian-12 --volume s3://data/set.img --user-data ci.yml
  infall vm run db1 --image debian-12 --disk 40G --cpus 2 --memory 4G --volume db1-data:rw
  infall vm run old --root-volume root1
  infall vm run file --boot-file /mnt/infall/volumes/root1.raw
  infall vm run t1 --image tiny --wait --wait-for GUEST-UP --timeout 90s")]
    Run(Box<Run>),
    /// List instances
    #[command(after_help = "\
Examples:
  infall vm ls
  infall vm ls --json | jq -r '.instances[] | select(.state == \"running\") | .name'")]
    Ls,
    /// Show one instance
    #[command(after_help = "\
Examples:
  infall vm show web1")]
    Show {
        /// The instance
        name: String,
    },
    /// Start an instance, or let a paused one go on
    #[command(after_help = "\
Examples:
  infall vm start web1")]
    Start {
        /// The instance
        name: String,
    },
    /// Ask an instance to power off; its disks stay
    #[command(after_help = "\
Without --force a guest that does not hear is left running (exit 3).

Examples:
  infall vm stop web1
  infall vm stop web1 --timeout 10s --force      pull the plug after 10 s")]
    Stop {
        /// The instance
        name: String,
        /// How long to wait for the guest
        #[arg(long, value_parser = parse_duration, default_value = "60s")]
        timeout: Duration,
        /// End it if it does not power off by itself
        #[arg(long)]
        force: bool,
    },
    /// Show the serial console, follow it, or type at it
    #[command(after_help = "\
Examples:
  infall vm console web1
  infall vm console web1 --follow
  infall vm console web1 --attach                leave with Ctrl-]")]
    Console(crate::console::Arguments),
    /// Log in to an instance's ssh server
    #[command(after_help = "\
A key is made for the session and certified by the server for five minutes, for whoever may vm:Ssh
the instance; its guest trusts that by its seed (cloud-init). The way there is through the server.

Examples:
  infall vm ssh web1
  infall vm ssh debian@web1 -- uname -a
  infall vm ssh debian@web1 --address 10.0.0.7             straight to it
  infall vm ssh debian@web1 --certify ~/.ssh/id_ed25519.pub > ~/.ssh/id_ed25519-cert.pub")]
    Ssh(Box<crate::ssh::Arguments>),
    /// Move bytes between standard input and output and an instance's ssh server
    #[command(
        hide = true,
        after_help = "\
Examples:
  ssh -o ProxyCommand='infall vm tunnel web1' web1"
    )]
    Tunnel {
        /// The instance
        name: String,
    },
    /// Remove an instance
    #[command(after_help = "\
Only what was made for the instance goes with it, never a volume that was there before.

Examples:
  infall vm stop web1 && infall vm rm web1       the root disk stays as a volume
  infall vm rm web1 --disks                      also ends it and removes its root disk")]
    Rm {
        /// The instance
        name: String,
        /// Also remove the root disk that was made for it
        #[arg(long)]
        disks: bool,
    },
}

/// Asks for an instance.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Its name and host name
    name: String,
    /// Boot from a clone of this image
    #[arg(long)]
    image: Option<String>,
    /// Or boot from this volume, as it is
    #[arg(long, alias = "volume-root", value_name = "VOLUME")]
    root_volume: Option<String>,
    /// Or boot from this raw file of the server's machine, e.g. below a mount
    #[arg(long, value_name = "FILE")]
    boot_file: Option<PathBuf>,
    /// Length of the cloned root disk [default: the image's]
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", requires = "image")]
    disk: Option<u64>,
    /// Virtual CPUs
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory: 2G, or a number of MiB
    #[arg(long, value_parser = parse_memory, default_value = "512", value_name = "SIZE")]
    memory: u64,
    /// A further disk: s3://bucket/key, a volume or a snapshot; :ro (default) or :rw behind it
    #[arg(long = "volume", value_name = "SOURCE")]
    volumes: Vec<String>,
    /// cloud-init user data
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// cloud-init network configuration
    #[arg(long, value_name = "FILE")]
    network_config: Option<PathBuf>,
    /// A public key for the image's user: a .pub file, or the key itself [default: those of infall user sshkey]
    #[arg(long = "ssh-key", value_name = "KEY")]
    ssh_keys: Vec<String>,
    /// user, none, or bridge:NAME
    #[arg(long, default_value = "user")]
    network: String,
    /// Boot this kernel instead of what the disk's boot loader picks
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initramfs for --kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Command line for --kernel
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,
    /// Return only when the console shows --wait-for
    #[arg(long)]
    wait: bool,
    /// What a line of the console must hold
    #[arg(long, value_name = "TEXT", default_value = "login:")]
    wait_for: String,
    /// How long to wait
    #[arg(long, value_parser = parse_duration, default_value = "5m")]
    timeout: Duration,
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Run(arguments) => start_new(context, &client, *arguments).await?,
        Verb::Ls => {
            let list: InstanceList = client.get(&Path::new(["vms"])).await?;
            context.show(&list, || table(&list));
        }
        Verb::Show { name } => {
            let instance: Instance = client.get(&Path::new(["vms", &name])).await?;
            context.show(&instance, || facts(&instance));
        }
        Verb::Start { name } => {
            let path = Path::new(["vms", &name, "start"]);
            let instance: Instance = client.post(&path, &serde_json::json!({})).await?;
            context.show(&instance, || {
                format!("{}  {}\n", instance.name, state(&instance))
            });
        }
        Verb::Stop {
            name,
            timeout,
            force,
        } => {
            let path = Path::new(["vms", &name, "stop"]).query([
                ("timeout_s", Some(timeout.as_secs().to_string())),
                ("force", force.then(|| "true".to_owned())),
            ]);
            let instance: Instance = client.post(&path, &serde_json::json!({})).await?;
            context.show(&instance, || {
                format!("{}  {}\n", instance.name, instance.state)
            });
        }
        Verb::Console(arguments) => crate::console::run(context, &client, &arguments).await?,
        Verb::Ssh(arguments) => crate::ssh::run(context, &client, &arguments).await?,
        Verb::Tunnel { name } => crate::ssh::tunnel(&client, &name).await?,
        Verb::Rm { name, disks } => {
            let path =
                Path::new(["vms", &name]).query([("disks", disks.then(|| "true".to_owned()))]);
            let removed: Removed = client.delete_for(&path).await?;
            context.show(&removed, || match removed.volumes.as_slice() {
                [] => format!("{}  removed, its disks stay\n", removed.name),
                gone => format!("{}  removed, with {}\n", removed.name, gone.join(", ")),
            });
        }
    }
    Ok(())
}

async fn start_new(context: &Context, client: &Client, arguments: Run) -> Outcome {
    let began = Instant::now();
    let spec = spec(&arguments)?;
    let instance: Instance = match client.post(&Path::new(["vms"]), &spec).await {
        Ok(instance) => instance,
        Err(failure) => return Err(suggest(client, failure, arguments.image.as_deref()).await),
    };
    if arguments.wait {
        wait(
            client,
            &instance.name,
            &arguments.wait_for,
            arguments.timeout,
        )
        .await?;
    }
    let took = began.elapsed();
    // What is told beside is worth a look, not a failure.
    let hosts: Option<HostList> = client.get(&Path::new(["hosts"])).await.ok();
    let disks: DiskList = client
        .get(&Path::new(["vms", &instance.name, "disks"]))
        .await
        .unwrap_or_default();
    let read: u64 = disks.disks.iter().map(|disk| disk.read_bytes).sum();
    context.show(&instance, || {
        let host = hosts.iter().flat_map(|list| &list.hosts).next();
        let host = host.map_or_else(String::new, |host| format!(" on host {}", host.facts.name));
        let took = render::duration(took);
        let mut ready = if arguments.wait {
            format!("{:?} after {took}", arguments.wait_for)
        } else {
            format!("started in {took}")
        };
        if let Some(accelerator) = instance.accelerator {
            ready.push_str(&format!(" ({})", accelerator.to_string().to_uppercase()));
        }
        let copied = instance
            .copied
            .as_ref()
            .map_or(0, |copied| copied.rewritten_bytes);
        let mut disk = format!("disk: {} copied", render::bytes(copied));
        if arguments.wait {
            disk.push_str(&format!(", {} read at boot", render::bytes(read)));
        }
        format!(
            "{}  {}{host}  {ready}   {disk}\n",
            instance.name, instance.state
        )
    });
    Ok(())
}

fn spec(arguments: &Run) -> Outcome<InstanceSpec> {
    let volumes: Result<Vec<DataVolume>, _> =
        arguments.volumes.iter().map(|text| text.parse()).collect();
    let network: Network = arguments.network.parse().map_err(|error| usage(&error))?;
    let ssh_keys: Outcome<Vec<String>> =
        arguments.ssh_keys.iter().map(|key| ssh_key(key)).collect();
    let spec = InstanceSpec {
        name: arguments.name.clone(),
        image: arguments.image.clone(),
        root_volume: arguments.root_volume.clone(),
        boot_file: arguments.boot_file.as_deref().map(absolute).transpose()?,
        root_bytes: arguments.disk,
        vcpus: arguments.cpus,
        memory_mib: arguments.memory,
        volumes: volumes.map_err(|error| usage(&error))?,
        user_data: arguments.user_data.as_deref().map(text_of).transpose()?,
        network_config: arguments
            .network_config
            .as_deref()
            .map(text_of)
            .transpose()?,
        ssh_keys: ssh_keys?,
        kernel: arguments.kernel.as_deref().map(absolute).transpose()?,
        initrd: arguments.initrd.as_deref().map(absolute).transpose()?,
        cmdline: arguments.cmdline.clone(),
        network,
    };
    spec.validate().map_err(|error| usage(&error))?;
    Ok(spec)
}

/// What makes no sense as typed never reached the server.
fn usage(error: &blockstore::Error) -> Failure {
    Failure::new(Exit::Usage, "instance", error.to_string()).hint("See infall vm run --help")
}

fn text_of(path: &FilePath) -> Outcome<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::io(format_args!("read {}", path.display()), &error))
}

/// The server has another working directory.
fn absolute(path: &FilePath) -> Outcome<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Failure::io(format_args!("find {}", path.display()), &error))
}

/// `ssh-ed25519 AAAA… me`, or a file that holds such a line.
fn ssh_key(text: &str) -> Outcome<String> {
    if text.contains(' ') {
        return Ok(text.trim().to_owned());
    }
    text_of(FilePath::new(text)).map(|line| line.trim().to_owned())
}

async fn wait(client: &Client, name: &str, wanted: &str, patience: Duration) -> Outcome {
    let until = Instant::now() + patience;
    loop {
        let path = Path::new(["vms", name, "console"]).query([("lines", Some(LINES.to_string()))]);
        let console: vmctl::Console = client.get(&path).await?;
        if console.lines.iter().any(|line| line.contains(wanted)) {
            return Ok(());
        }
        let instance: Instance = client.get(&Path::new(["vms", name])).await?;
        let last = console
            .lines
            .iter()
            .rev()
            .find(|line| !line.trim().is_empty());
        let said = last.map_or_else(
            || "its console is empty".to_owned(),
            |line| format!("its console last said {:?}", line.trim()),
        );
        let ended = !instance.state.is_active();
        if ended || Instant::now() > until {
            let what = if ended {
                instance.state.to_string()
            } else {
                "still not ready".into()
            };
            let message = format!("instance {name:?} is {what} and did not say {wanted:?}; {said}");
            return Err(Failure::new(Exit::Unavailable, "instance", message)
                .hint(format!("It is not removed. Look: infall vm console {name}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The nearest image to one that was not found.
async fn suggest(client: &Client, failure: Failure, image: Option<&str>) -> Failure {
    match image {
        Some(asked) if failure.is_about("image") && failure.exit() == Exit::NotFound => {
            let list: Outcome<ImageList> = client.get(&Path::new(["images"])).await;
            let names = list.map(|list| list.images).unwrap_or_default();
            Failure::missing("image", asked, names.iter().flat_map(|image| &image.names))
        }
        _ => failure,
    }
}

fn state(instance: &Instance) -> String {
    let mut text = instance.state.to_string();
    if let (true, Some(accelerator)) = (instance.state.is_active(), instance.accelerator) {
        text.push_str(&format!(" ({})", accelerator.to_string().to_uppercase()));
    }
    if instance.incomplete {
        text.push_str(", incomplete: remove it");
    }
    text
}

fn root(instance: &Instance) -> String {
    let file = || {
        instance
            .boot_file
            .as_ref()
            .map(|file| file.display().to_string())
    };
    instance
        .root_volume
        .clone()
        .or_else(file)
        .unwrap_or_else(|| "-".into())
}

fn table(list: &InstanceList) -> String {
    let mut table = Table::new([
        "PROJECT", "NAME", "STATE", "CPUS", "MEMORY", "IMAGE", "ROOT", "MADE",
    ]);
    for instance in &list.instances {
        table.row([
            instance.project.clone(),
            instance.name.clone(),
            state(instance),
            instance.vcpus.to_string(),
            render::bytes(instance.memory_mib << 20),
            instance.image.clone().unwrap_or_else(|| "-".into()),
            root(instance),
            render::time(instance.created_ms),
        ]);
    }
    table.to_string()
}

fn facts(instance: &Instance) -> String {
    let mut table = Table::new(["name", &instance.name]);
    table.row(["state", &state(instance)]);
    table.row(["project", &instance.project]);
    table.row(["uuid", &instance.uuid.to_string()]);
    table.row(["cpus", &instance.vcpus.to_string()]);
    table.row(["memory", &render::bytes(instance.memory_mib << 20)]);
    table.row(["image", instance.image.as_deref().unwrap_or("-")]);
    table.row(["root", &root(instance)]);
    for volume in &instance.volumes {
        table.row(["volume", &volume.to_string()]);
    }
    table.row(["network", &instance.network.to_string()]);
    if let Some(copied) = &instance.copied {
        table.row(["root disk", &render::copied(copied)]);
    }
    table.row(["console", &instance.console_log.display().to_string()]);
    table.row(["made", &render::time(instance.created_ms)]);
    table.to_string()
}
