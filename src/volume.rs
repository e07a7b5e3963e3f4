//! `infall volume`: writable block devices.

use crate::client::{Client, Path, encode};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use crate::serve::{TicketAsk, TicketList, TicketMade, VolumeTicketAsk};
use crate::server_file::ServerFile;
use crate::units::{parse_bytes, parse_duration};
use blockstore::image::ImageInfo;
use blockstore::volume::{SnapshotInfo, VolumeInfo};
use clap::{Args, Subcommand};
use gateway::api::{
    OriginName, SnapshotCreate, VolumeCreate, VolumeCreated, VolumeList, VolumeResize, s3_url,
};
use std::time::{Duration, Instant};

/// Volumes.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a volume: empty, or a clone of an image or a snapshot
    #[command(after_help = "\
A clone copies nothing: it shows the image's blocks until it writes its own.

Examples:
  infall volume create data1 --length 100G
  infall volume create root1 --image debian-12
  infall volume create root2 --image debian-12 --length 20G    a clone that is longer
  infall volume create again --snapshot root1-monday")]
    Create(Create),
    /// List volumes
    #[command(after_help = "\
Examples:
  infall volume ls
  infall volume ls --json | jq -r '.volumes[].name'")]
    Ls,
    /// Show one volume
    #[command(after_help = "\
Examples:
  infall volume show root1")]
    Show {
        /// The volume
        volume: String,
    },
    /// Remove a volume that nobody writes
    #[command(after_help = "\
Its snapshots and clones stay as they are.

Examples:
  infall volume rm root1")]
    Rm {
        /// The volume
        volume: String,
    },
    /// Make a volume longer, or shorter with --shrink
    #[command(after_help = "\
Examples:
  infall volume resize data1 200G
  infall volume resize data1 50G --shrink        what lies behind 50 GiB is gone")]
    Resize {
        /// The volume
        volume: String,
        /// The new length: 4G, 100MiB
        #[arg(value_parser = parse_bytes)]
        length: u64,
        /// Allow it to become shorter
        #[arg(long)]
        shrink: bool,
    },
    /// Seal a volume as it is now; nothing is copied
    #[command(after_help = "\
Examples:
  infall volume snapshot web1-root
  infall volume snapshot web1-root --name monday
  infall volume snapshot web1-root --as s3://images/web1-monday.raw    also an S3 object")]
    Snapshot {
        /// The volume
        volume: String,
        /// What to call the snapshot [default: its id]
        #[arg(long)]
        name: Option<String>,
        /// Show it as this object, too
        #[arg(long = "as", value_name = "S3-URL")]
        publish: Option<String>,
    },
    /// Make a ticket for NBD on TCP, and print where to use it
    #[command(after_help = "\
The URI opens this one export for whoever has it, in your name, until it expires; what your policies
take from you they take from it, too. Connections with one ticket share the right to write. QEMU
speaks NBD with TLS only by --image-opts: --json has the words under \"qemu\".

Examples:
  infall volume attach root1
  qemu-img info \"$(infall volume attach root1 --read-only --for 10m)\"
  infall volume attach s3://images/web1-monday.raw        read only, as snapshots and images are
  infall volume attach root1 --json | jq -r .uri")]
    Attach {
        /// A volume, snapshot or image, or s3://bucket/key
        name: String,
        /// Refuse writes
        #[arg(long)]
        read_only: bool,
        /// How long it can be opened: 90s, 10m, 1h, 7d
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = parse_lifetime)]
        lifetime: Duration,
    },
    /// List the tickets for NBD that can still be used
    #[command(after_help = "\
Examples:
  infall volume tickets")]
    Tickets,
    /// End a ticket before its time; what it has open stays open
    #[command(after_help = "\
Examples:
  infall volume revoke 1f0c2a77be5d9e03")]
    Revoke {
        /// The ticket's id
        ticket: String,
    },
    /// Print where a volume, snapshot, image or object is on NBD
    #[command(after_help = "\
Examples:
  qemu-img info \"$(infall volume url root1)\"
  qemu-img convert -O qcow2 \"$(infall volume url snap-19d2)\" monday.qcow2
  nbdinfo \"$(infall volume url debian-12)\"
  nbdinfo \"$(infall volume url s3://images/web1-monday.raw)\"")]
    Url {
        /// A volume, snapshot or image, or s3://bucket/key
        name: String,
    },
}

/// Asks for a new volume.
#[derive(Clone, Debug, Args)]
pub(crate) struct Create {
    /// What to call it
    name: String,
    /// Its length: 4G, 100MiB [default: that of the image or snapshot]
    #[arg(long, short, value_parser = parse_bytes, required_unless_present_any = ["image", "snapshot"])]
    length: Option<u64>,
    /// Clone this image
    #[arg(long)]
    image: Option<String>,
    /// The image may be a deprecated one
    #[arg(long, requires = "image")]
    deprecated: bool,
    /// Clone this snapshot
    #[arg(long, conflicts_with = "image")]
    snapshot: Option<String>,
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    let began = Instant::now();
    match verb {
        Verb::Create(arguments) => create(context, &client, arguments).await?,
        Verb::Ls => list(context, &client).await?,
        Verb::Show { volume } => {
            let volume: VolumeInfo = client.get(&Path::new(["volumes", &volume])).await?;
            context.show(&volume, || {
                let mut table = Table::new(["name", &volume.name]);
                table.row(["length", &length(volume.length_bytes)]);
                table.row(["origin", volume.origin.as_deref().unwrap_or("-")]);
                table.row(["writer", volume.writer.as_deref().unwrap_or("-")]);
                table.row(["made", &render::time(volume.created_ms)]);
                table.to_string()
            });
        }
        Verb::Rm { volume } => {
            client.delete(&Path::new(["volumes", &volume])).await?;
            context.show(&serde_json::json!({ "removed": volume }), || {
                format!("{volume}  removed\n")
            });
        }
        Verb::Resize {
            volume,
            length: length_bytes,
            shrink,
        } => {
            let ask = VolumeResize {
                length_bytes,
                shrink,
            };
            let path = Path::new(["volumes", &volume, "resize"]);
            let volume: VolumeInfo = client.post(&path, &ask).await?;
            context.show(&volume, || {
                format!("{}  {}\n", volume.name, length(volume.length_bytes))
            });
        }
        Verb::Snapshot {
            volume,
            name,
            publish,
        } => {
            let path = Path::new(["volumes", &volume, "snapshot"]);
            let ask = SnapshotCreate { name, publish };
            let snapshot: SnapshotInfo = client.post(&path, &ask).await?;
            let took = render::duration(began.elapsed());
            context.show(&snapshot, || sealed(&snapshot, &took));
        }
        Verb::Attach {
            name,
            read_only,
            lifetime,
        } => attach(context, &client, &name, read_only, lifetime).await?,
        Verb::Tickets => tickets(context, &client).await?,
        Verb::Revoke { ticket } => {
            client.delete(&Path::new(["tickets", &ticket])).await?;
            context.show(&serde_json::json!({ "revoked": ticket }), || {
                format!("{ticket}  revoked\n")
            });
        }
        Verb::Url { name } => url(context, &client, &name).await?,
    }
    Ok(())
}

async fn create(context: &Context, client: &Client, arguments: Create) -> Outcome {
    let began = Instant::now();
    let origin = match (arguments.image, arguments.snapshot) {
        (Some(image), _) => Some(OriginName::Image(image)),
        (None, Some(snapshot)) => Some(OriginName::Snapshot(snapshot)),
        (None, None) => None,
    };
    let ask = VolumeCreate {
        name: arguments.name,
        length_bytes: arguments.length,
        origin,
        deprecated: arguments.deprecated,
    };
    let made: VolumeCreated = client.post(&Path::new(["volumes"]), &ask).await?;
    let took = render::duration(began.elapsed());
    crate::image::warn(Some(&made.copied));
    context.show(&made, || {
        let what = match &made.volume.origin {
            Some(origin) => format!("clone of {origin}  {}", render::copied(&made.copied)),
            None => "empty".to_owned(),
        };
        format!(
            "{}  {}  {what}  {took}\n",
            made.volume.name,
            length(made.volume.length_bytes)
        )
    });
    Ok(())
}

async fn list(context: &Context, client: &Client) -> Outcome {
    let list: VolumeList = client.get(&Path::new(["volumes"])).await?;
    context.show(&list, || {
        let mut table = Table::new(["NAME", "LENGTH", "ORIGIN", "WRITER", "MADE"]);
        for volume in &list.volumes {
            table.row([
                volume.name.as_str(),
                &length(volume.length_bytes),
                volume.origin.as_deref().unwrap_or("-"),
                volume.writer.as_deref().unwrap_or("-"),
                &render::time(volume.created_ms),
            ]);
        }
        table.to_string()
    });
    Ok(())
}

fn sealed(snapshot: &SnapshotInfo, took: &str) -> String {
    let name = if snapshot.name == snapshot.id {
        snapshot.id.clone()
    } else {
        format!("{}  {}", snapshot.id, snapshot.name)
    };
    let readable = match &snapshot.published {
        Some(published) => format!("readable now by S3 ({published}) and NBD"),
        None => "readable now by NBD".to_owned(),
    };
    let shown = render::bytes(snapshot.sealed.length_bytes);
    format!("{name}  {took}, {shown} shown, 0 B copied; {readable}\n")
}

/// A volume's own name comes first, then a snapshot's, then an image's.
async fn url(context: &Context, client: &Client, name: &str) -> Outcome {
    let socket = match context.config.endpoint() {
        // The socket is a file of the server's machine, written down beside its data.
        Some(endpoint) if !render::is_loopback(endpoint) => {
            let message = format!("the NBD socket of {endpoint} is on another machine");
            return Err(Failure::new(Exit::Invalid, "volume", message).hint("Run it there"));
        }
        _ => ServerFile::read(&context.data()?)?.nbd_socket,
    };
    let url = nbd_url(&export(client, name).await?, &socket.display().to_string());
    context.show(&serde_json::json!({ "url": url }), || format!("{url}\n"));
    Ok(())
}

async fn attach(
    context: &Context,
    client: &Client,
    name: &str,
    read_only: bool,
    lifetime: Duration,
) -> Outcome {
    let export = export(client, name).await?;
    let for_seconds = Some(lifetime.as_secs());
    // What is no volume has a prefix that no volume's name has.
    let made: TicketMade = if export.contains(':') {
        let ask = TicketAsk {
            export,
            read_only: true,
            for_seconds,
        };
        client.post(&Path::new(["tickets"]), &ask).await?
    } else {
        let ask = VolumeTicketAsk {
            read_only,
            for_seconds,
        };
        let path = Path::new(["volumes", &export, "tickets"]);
        client.post(&path, &ask).await?
    };
    // Where our own CA's certificate lies; GnuTLS's programs want the directory.
    let trusted = context.ca().filter(|_| made.tls);
    let directory = trusted.as_deref().and_then(std::path::Path::parent);
    let directory = directory.map(|directory| directory.display().to_string());
    let uri = ticket_uri(&made, directory.as_deref());
    let qemu = qemu_words(&made, directory.as_deref());
    let result = serde_json::json!({ "uri": uri, "qemu": qemu, "ticket": made.ticket });
    context.show(&result, || format!("{uri}\n"));
    Ok(())
}

async fn tickets(context: &Context, client: &Client) -> Outcome {
    let list: TicketList = client.get(&Path::new(["tickets"])).await?;
    context.show(&list, || {
        let mut table = Table::new(["ID", "EXPORT", "MAY", "OWNER", "EXPIRES"]);
        for ticket in &list.tickets {
            table.row([
                ticket.id.as_str(),
                &ticket.export,
                if ticket.read_only { "read" } else { "write" },
                &ticket.owner,
                &render::time(ticket.expires_ms),
            ]);
        }
        table.to_string()
    });
    Ok(())
}

/// NBD URI specification: `nbds://host:port/export?tls-certificates=directory`; the parameter is
/// libnbd's.
fn ticket_uri(made: &TicketMade, certificates: Option<&str>) -> String {
    let scheme = if made.tls { "nbds" } else { "nbd" };
    let mut uri = format!("{scheme}://{}:{}/", made.host, made.port);
    encode_but(&made.name, &mut uri);
    if let Some(directory) = certificates {
        uri.push_str("?tls-certificates=");
        encode_but(directory, &mut uri);
    }
    uri
}

/// The same for `qemu-img info`, `qemu-system-x86_64 -drive` and their like: commas in values are
/// doubled (qemu(1), "-object").
fn qemu_words(made: &TicketMade, certificates: Option<&str>) -> Vec<String> {
    let doubled = |text: &str| text.replace(',', ",,");
    let host = made.host.trim_start_matches('[').trim_end_matches(']');
    let mut image = format!(
        "driver=nbd,host={},port={},export={}",
        doubled(host),
        made.port,
        doubled(&made.name)
    );
    let mut words = Vec::new();
    if let Some(directory) = certificates {
        words.push("--object".to_owned());
        words.push(format!(
            "tls-creds-x509,id=infall,endpoint=client,dir={}",
            doubled(directory)
        ));
        image.push_str(",tls-creds=infall");
    }
    words.push("--image-opts".to_owned());
    words.push(image);
    words
}

/// As [`parse_duration`], in days as well.
fn parse_lifetime(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) => Ok(Duration::from_secs(u64::from(days) * 24 * 3600)),
        _ => parse_duration(text),
    }
}

/// What the NBD server calls it.
async fn export(client: &Client, name: &str) -> Outcome<String> {
    if let Some((bucket, key)) = s3_url(name).filter(|(_, key)| !key.is_empty()) {
        return Ok(format!("object:{bucket}/{key}"));
    }
    let missing = match client
        .get::<VolumeInfo>(&Path::new(["volumes", name]))
        .await
    {
        Ok(volume) => return Ok(volume.name),
        Err(missing) if missing.exit() == Exit::NotFound => missing,
        Err(failure) => return Err(failure),
    };
    match client
        .get::<SnapshotInfo>(&Path::new(["snapshots", name]))
        .await
    {
        Ok(snapshot) => return Ok(format!("snapshot:{}", snapshot.name)),
        Err(failure) if failure.exit() == Exit::NotFound => {}
        Err(failure) => return Err(failure),
    }
    match client.get::<ImageInfo>(&Path::new(["images", name])).await {
        Ok(image) => Ok(format!(
            "image:{}",
            image.names.first().unwrap_or(&image.id)
        )),
        Err(failure) if failure.exit() == Exit::NotFound => Err(missing),
        Err(failure) => Err(failure),
    }
}

/// NBD URI specification, "NBD URI syntax": `nbd+unix:///export?socket=path`.
fn nbd_url(export: &str, socket: &str) -> String {
    let mut url = "nbd+unix:///".to_owned();
    encode_but(export, &mut url);
    url.push_str("?socket=");
    encode_but(socket, &mut url);
    url
}

/// Slashes, colons and at signs may stand in a path and in a query (RFC 3986, 3.3 and 3.4), and people
/// read this.
fn encode_but(text: &str, url: &mut String) {
    for part in text.split_inclusive(['/', ':', '@']) {
        let (plain, mark) = match part.strip_suffix(['/', ':', '@']) {
            Some(plain) => (plain, &part[plain.len()..]),
            None => (part, ""),
        };
        encode(plain, url);
        url.push_str(mark);
    }
}

/// `4.0 GiB`, and exactly where rounding hides something.
pub(crate) fn length(bytes: u64) -> String {
    let round = render::bytes(bytes);
    match parse_bytes(&round) {
        Ok(same) if same == bytes => round,
        _ => format!("{round} ({bytes})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nbd_url_keeps_any_export_name_apart_from_the_socket() {
        assert_eq!(
            nbd_url("root1", "/run/i/nbd.sock"),
            "nbd+unix:///root1?socket=/run/i/nbd.sock"
        );
        assert_eq!(
            nbd_url("object:b/k 1", "/s"),
            "nbd+unix:///object:b/k%201?socket=/s"
        );
        assert_eq!(
            nbd_url("a b?c", "/x y/s"),
            "nbd+unix:///a%20b%3Fc?socket=/x%20y/s"
        );
    }

    #[test]
    fn a_length_that_rounding_hides_is_given_in_full() {
        assert_eq!(length(4 << 30), "4.0 GiB");
        assert_eq!(length((4 << 30) + 4096), "4.0 GiB (4294971392)");
    }
}
