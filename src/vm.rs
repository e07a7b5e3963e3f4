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
use vmctl::{Addresses, Console, DataVolume, Explanation, Instance, InstanceSpec, Network};

/// How often a waiting command looks.
const LOOK: Duration = Duration::from_millis(500);
/// Lines of the console among which the last that says anything is looked for.
const LINES: u64 = 100;

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
  infall vm run web1 --image debian-12 --network bridge=br0 --network-config net.yml --wait
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
    /// Say why an instance is where it is, and where its disks' bytes are
    #[command(after_help = "\
Examples:
  infall vm explain web1
  infall vm explain web1 --json | jq '.disks[].elsewhere_bytes'")]
    Explain {
        /// The instance
        name: String,
    },
    /// Start an instance, or let a paused one go on
    #[command(after_help = "\
Examples:
  infall vm start web1
  infall vm start web1 --wait                    until one can log in")]
    Start {
        /// The instance
        name: String,
        #[command(flatten)]
        waiting: Waiting,
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
    /// The image may be a deprecated one
    #[arg(long, requires = "image")]
    deprecated: bool,
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
    /// user (QEMU's own, outwards only), none, bridge=BRIDGE of the host, network=NETWORK of libvirt
    #[arg(long, default_value = "user", value_name = "HOW")]
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
    #[command(flatten)]
    waiting: Waiting,
}

/// Whether to wait for a guest that was started.
#[derive(Clone, Debug, Args)]
pub(crate) struct Waiting {
    /// Return only when its ssh server answers; without a network, when its console says "login:"
    #[arg(long)]
    wait: bool,
    /// With --wait: instead, when a line of its console holds this
    #[arg(long, value_name = "TEXT", requires = "wait")]
    wait_for: Option<String>,
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
            // Worth a look, not a failure.
            let found = match instance.state.is_active() {
                true => addresses(&client, &name, false).await.unwrap_or_default(),
                false => Addresses::default(),
            };
            context.show(&instance, || facts(&instance, &found));
        }
        Verb::Explain { name } => {
            let told: Explanation = client.get(&Path::new(["vms", &name, "explain"])).await?;
            context.show(&told, || explained(&told));
        }
        Verb::Start { name, waiting } => {
            let began = Instant::now();
            let said = waiting.said_before(&client, &name).await?;
            let path = Path::new(["vms", &name, "start"]);
            let instance: Instance = client.post(&path, &serde_json::json!({})).await?;
            let ready = waiting.done(&client, &instance, said, began).await?;
            context.show(&instance, || match &ready {
                Some(ready) => format!("{}  {}  {ready}\n", instance.name, instance.state),
                None => format!("{}  {}\n", instance.name, state(&instance)),
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
    crate::image::warn(instance.copied.as_ref());
    let ready = arguments.waiting.done(client, &instance, 0, began).await?;
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
        let waited = ready.is_some();
        let ready = ready.unwrap_or_else(|| {
            let started = format!("started in {}", render::duration(took));
            with_accelerator(started, &instance)
        });
        let copied = instance
            .copied
            .as_ref()
            .map_or(0, |copied| copied.rewritten_bytes);
        let mut disk = format!("disk: {} copied", render::bytes(copied));
        if waited {
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
        deprecated: arguments.deprecated,
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

/// By what a guest is known to be up.
enum Sign<'a> {
    /// Its ssh server greets.
    Ssh,
    /// A line of its console holds this.
    Console(&'a str),
}

impl Waiting {
    /// Where the log of its console ends, if what comes behind that is waited for: it has all that an
    /// instance ever said.
    async fn said_before(&self, client: &Client, name: &str) -> Outcome<u64> {
        if !self.wait {
            return Ok(0);
        }
        let instance: Instance = client.get(&Path::new(["vms", name])).await?;
        match Sign::of(&instance, self.wait_for.as_deref()) {
            Sign::Ssh => Ok(0),
            Sign::Console(_) => Ok(console(client, name, ("lines", 0)).await?.end),
        }
    }

    /// Waits if that was asked for; then what came true, and when.
    async fn done(
        &self,
        client: &Client,
        instance: &Instance,
        said: u64,
        began: Instant,
    ) -> Outcome<Option<String>> {
        if !self.wait {
            return Ok(None);
        }
        let sign = Sign::of(instance, self.wait_for.as_deref());
        wait(client, &instance.name, &sign, said, self.timeout).await?;
        let took = render::duration(began.elapsed());
        let ready = match sign {
            Sign::Ssh => format!("ssh ready in {took}"),
            Sign::Console(text) => format!("{text:?} after {took}"),
        };
        Ok(Some(with_accelerator(ready, instance)))
    }
}

fn with_accelerator(text: String, instance: &Instance) -> String {
    match instance.accelerator {
        Some(accelerator) => format!("{text} ({})", accelerator.to_string().to_uppercase()),
        None => text,
    }
}

impl<'a> Sign<'a> {
    fn of(instance: &Instance, wanted: Option<&'a str>) -> Self {
        match (wanted, &instance.network) {
            (Some(text), _) => Self::Console(text),
            (None, Network::None) => Self::Console("login:"),
            (None, Network::User | Network::Bridge(_) | Network::Named(_)) => Self::Ssh,
        }
    }

    /// What did not happen, and what to do where it never will.
    fn missing(&self) -> (String, &'static str) {
        match self {
            Self::Console(text) => (format!("did not say {text:?}"), ""),
            Self::Ssh => (
                "no ssh server answers there".into(),
                "; a guest without one: --wait --wait-for TEXT",
            ),
        }
    }
}

async fn addresses(client: &Client, name: &str, greeting: bool) -> Outcome<Addresses> {
    let path = Path::new(["vms", name, "addresses"])
        .query([("greeting", greeting.then(|| "true".to_owned()))]);
    client.get(&path).await
}

/// Until the sign is seen; on the console, behind byte `said` of its log.
async fn wait(
    client: &Client,
    name: &str,
    sign: &Sign<'_>,
    said: u64,
    patience: Duration,
) -> Outcome {
    let until = Instant::now() + patience;
    let mut heard = Heard { after: said };
    loop {
        // Looked at before the sign: a guest that has ended by then will not give it.
        let instance: Instance = client.get(&Path::new(["vms", name])).await?;
        let ended = !instance.state.is_active();
        let there = match sign {
            Sign::Console(text) => heard.says(client, name, text).await?,
            Sign::Ssh => match addresses(client, name, true).await {
                // It may end, or be paused, between the two questions.
                Err(failure) if failure.exit() == Exit::Conflict => false,
                found => found?.greeting.is_some(),
            },
        };
        if there {
            return Ok(());
        }
        if ended || Instant::now() > until {
            let what = match ended {
                true => instance.state.to_string(),
                false => "still not ready".into(),
            };
            let (missing, otherwise) = sign.missing();
            // Not everyone who may look at an instance may read its console.
            let console = console(client, name, ("lines", LINES)).await.ok();
            let mut lines = console
                .iter()
                .flat_map(|console| console.lines.iter().rev());
            let said = match lines.find(|line| !line.trim().is_empty()) {
                Some(line) => format!("its console last said {:?}", line.trim()),
                None => "its console shows nothing".to_owned(),
            };
            let message = format!("instance {name:?} is {what}: {missing}; {said}");
            let hint = format!("It is not removed. Look: infall vm console {name}{otherwise}");
            return Err(Failure::new(Exit::Unavailable, "instance", message).hint(hint));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How far a console was listened to: whole lines up to a byte of its log.
struct Heard {
    after: u64,
}

impl Heard {
    /// Whether a line behind that byte holds `text`, one without an end yet included: a prompt is such.
    async fn says(&mut self, client: &Client, name: &str, text: &str) -> Outcome<bool> {
        let whole = console(client, name, ("after", self.after)).await?;
        self.after = whole.end;
        let last = console(client, name, ("lines", 1)).await?;
        let unfinished = last.lines.iter().filter(|_| last.end > whole.end);
        Ok(whole
            .lines
            .iter()
            .chain(unfinished)
            .any(|line| line.contains(text)))
    }
}

async fn console(client: &Client, name: &str, (part, number): (&str, u64)) -> Outcome<Console> {
    let path = Path::new(["vms", name, "console"]).query([(part, Some(number.to_string()))]);
    client.get(&path).await
}

/// The nearest image to one that was not found.
async fn suggest(client: &Client, failure: Failure, image: Option<&str>) -> Failure {
    match image {
        Some(asked) if failure.is_about("image") && failure.exit() == Exit::NotFound => {
            let list: Outcome<ImageList> = client.get(&Path::new(["images"])).await;
            let names = list.map(|list| list.images).unwrap_or_default();
            let names = names.iter().flat_map(|image| &image.image.names);
            Failure::missing("image", asked, names)
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

fn explained(told: &Explanation) -> String {
    let mut disks = Table::new(["DISK", "LENGTH", "STORED HERE", "ELSEWHERE", "COPIED"]);
    for disk in &told.disks {
        let stored = match &disk.missing {
            Some(why) => why.clone(),
            None => render::bytes(disk.here_bytes),
        };
        disks.row([
            disk.source.clone(),
            render::bytes(disk.length_bytes),
            stored,
            render::bytes(disk.elsewhere_bytes),
            render::bytes(disk.copied_bytes),
        ]);
    }
    let mut hosts = Table::new(["HOST", "", "DATA THERE", "CPUS", "FREE MEMORY"]);
    for host in &told.candidates {
        hosts.row([
            host.host.clone(),
            if host.chosen { "chosen" } else { "" }.to_owned(),
            render::bytes(host.here_bytes),
            format!("{} ({} wanted)", host.cpus.0, host.cpus.1),
            format!(
                "{} ({} wanted)",
                render::bytes(host.memory_bytes.0),
                render::bytes(host.memory_bytes.1)
            ),
        ]);
    }
    format!(
        "{} is on {}: {}\n\n{disks}\n{hosts}",
        told.instance, told.host, told.reason
    )
}

fn facts(instance: &Instance, found: &Addresses) -> String {
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
    for address in &found.addresses {
        table.row(["address", &address.to_string()]);
    }
    if let Some(copied) = &instance.copied {
        table.row(["root disk", &render::copied(copied)]);
    }
    table.row(["console", &instance.console_log.display().to_string()]);
    table.row(["made", &render::time(instance.created_ms)]);
    table.to_string()
}
