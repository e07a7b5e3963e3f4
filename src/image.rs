//! `infall image`: objects registered so that volumes can be cloned from them, and how they stand.

mod signing;
mod when;

use crate::client::{Client, Path};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use blockstore::image::trust::SignatureStanding;
use blockstore::object::Copied;
use clap::Subcommand;
use gateway::api::{
    ImageAdd, ImageAdded, ImageDeprecate, ImageExpire, ImageList, ImageShown, s3_url,
};
use when::When;

/// Images.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Register an object, raw or qcow2, as an image
    #[command(after_help = "\
A raw file and its qcow2 get the same id: it is the digest of what a guest sees. Raw bytes and
uncompressed qcow2 clusters are shared with the object, not copied; the output says how much was.

Examples:
  aws s3 cp debian-12.qcow2 s3://images/
  infall image add s3://images/debian-12.qcow2 --name debian-12
  infall image add s3://images/tiny.raw                the name is tiny")]
    Add {
        /// s3://bucket/key
        #[arg(value_name = "S3-URL")]
        source: String,
        /// What to call it [default: the key's last part without its ending]
        #[arg(long)]
        name: Option<String>,
    },
    /// List images
    #[command(after_help = "\
Examples:
  infall image ls
  infall image ls --json | jq -r '.images[].id'")]
    Ls,
    /// Show one image
    #[command(after_help = "\
Examples:
  infall image show debian-12
  infall image show img-c04e                     the beginning of an id will do")]
    Show {
        /// Name, id, or the beginning of an id
        image: String,
    },
    /// Remove a name; the last one takes the image with it
    #[command(after_help = "\
Volumes cloned from the image stay as they are.

Examples:
  infall image rm debian-12")]
    Rm {
        /// The name
        image: String,
    },
    /// Say that an image should not be used any more
    #[command(after_help = "\
New uses are refused by the rule images.deprecated (a site can choose to warn instead), unless they
say --deprecated. Volumes and instances made from it stay as they are.

Examples:
  infall image deprecate debian-11 --why 'no security updates' --replacement debian-12
  infall image undeprecate debian-11")]
    Deprecate {
        /// Name, id, or the beginning of an id
        image: String,
        /// Why, one line
        #[arg(long)]
        why: String,
        /// The image to use instead
        #[arg(long, value_name = "IMAGE")]
        replacement: Option<String>,
    },
    /// Take a deprecation back
    #[command(after_help = "\
Examples:
  infall image undeprecate debian-11")]
    Undeprecate {
        /// Name, id, or the beginning of an id
        image: String,
    },
    /// Set the time from which on an image is not used any more
    #[command(after_help = "\
From then on new uses are refused by the rule images.expires, whoever asks.

Examples:
  infall image expire debian-12 --at 2027-06-30
  infall image expire nightly --in 7d
  infall image expire debian-12 --never")]
    Expire {
        /// Name, id, or the beginning of an id
        image: String,
        /// At this time: 2027-06-30 (midnight, UTC) or 2027-06-30T12:00:00Z
        #[arg(long, value_name = "TIME", required_unless_present_any = ["within", "never"])]
        at: Option<When>,
        /// This long from now: 7d, 12h
        #[arg(long = "in", id = "within", value_name = "TIME", conflicts_with = "at")]
        within: Option<When>,
        /// Not at all
        #[arg(long, conflicts_with_all = ["at", "within"])]
        never: bool,
    },
    /// Sign an image with an ssh key, and hand the signature in
    #[command(after_help = "\
Signed is the image's id, the digest of what a guest sees; its names are not. Whose signatures count
is the site's to say (images.signers). Keys with a passphrase, in an agent or on hardware, and other
sorts than ed25519, sign by ssh-keygen: see infall image endorse --help.

Examples:
  infall image sign debian-12 --key ~/.ssh/id_ed25519
  infall image sign debian-12 --key ~/.ssh/id_ed25519 --until 2027-06-30")]
    Sign(signing::Sign),
    /// Print what a signer signs
    #[command(after_help = "\
Examples:
  infall image statement debian-12 > debian-12.txt
  infall image statement debian-12 --until 90d > debian-12.txt")]
    Statement(signing::Say),
    /// Hand in a signature that ssh-keygen made
    #[command(after_help = "\
Examples:
  infall image statement debian-12 > debian-12.txt
  ssh-keygen -Y sign -f ~/.ssh/id_rsa -n infall-image@v1 debian-12.txt
  infall image endorse debian-12 --signature debian-12.txt.sig")]
    Endorse(signing::Endorse),
    /// Take the signature of a key off an image
    #[command(after_help = "\
Examples:
  infall image unendorse debian-12 SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")]
    Unendorse {
        /// Name, id, or the beginning of an id
        image: String,
        /// The key's fingerprint
        fingerprint: String,
    },
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Add { source, name } => {
            let ask = add(&source, name)?;
            let added: ImageAdded = client.post(&Path::new(["images"]), &ask).await?;
            context.show(&added, || {
                let size = render::bytes(added.image.image.length_bytes);
                let id = render::short_id(&added.image.image.id);
                let copied = render::copied(&added.copied);
                let signed = signed(&added.image);
                format!("{id}  {}  {size} virtual  {copied}  {signed}\n", ask.name)
            });
        }
        Verb::Ls => {
            let list: ImageList = client.get(&Path::new(["images"])).await?;
            context.show(&list, || table(&list));
        }
        Verb::Show { image } => {
            let shown: ImageShown = client.get(&Path::new(["images", &image])).await?;
            context.show(&shown, || facts(&shown));
        }
        Verb::Rm { image } => {
            client.delete(&Path::new(["images", &image])).await?;
            context.show(&serde_json::json!({ "removed": image }), || {
                format!("{image}  removed\n")
            });
        }
        Verb::Deprecate {
            image,
            why,
            replacement,
        } => {
            let ask = ImageDeprecate { why, replacement };
            let path = Path::new(["images", &image, "deprecation"]);
            client.put(&path, &ask).await?;
            done(context, &image, "deprecated");
        }
        Verb::Undeprecate { image } => {
            let path = Path::new(["images", &image, "deprecation"]);
            client.delete(&path).await?;
            done(context, &image, "no longer deprecated");
        }
        Verb::Expire {
            image, at, within, ..
        } => expire(context, &client, &image, at.or(within)).await?,
        Verb::Sign(sign) => signing::sign(context, &client, &sign).await?,
        Verb::Statement(say) => signing::say(context, &client, &say).await?,
        Verb::Endorse(endorse) => signing::endorse(context, &client, &endorse).await?,
        Verb::Unendorse { image, fingerprint } => {
            let path = Path::new(["images", &image, "endorsements", &fingerprint]);
            client.delete(&path).await?;
            done(
                context,
                &image,
                &format!("no longer signed by {fingerprint}"),
            );
        }
    }
    Ok(())
}

async fn expire(context: &Context, client: &Client, image: &str, at: Option<When>) -> Outcome {
    let path = Path::new(["images", image, "expiry"]);
    match at {
        Some(When(at_ms)) => {
            client.put(&path, &ImageExpire { at_ms }).await?;
            done(
                context,
                image,
                &format!("expires at {}", render::time(at_ms)),
            );
        }
        None => {
            client.delete(&path).await?;
            done(context, image, "does not expire");
        }
    }
    Ok(())
}

fn done(context: &Context, image: &str, what: &str) {
    let shown = serde_json::json!({ "image": image, "done": what });
    context.show(&shown, || format!("{image}  {what}\n"));
}

/// Says on standard error what the server remarked on an image that was used.
pub(crate) fn warn(copied: Option<&Copied>) {
    if let Some(copied) = copied.filter(|copied| !copied.why.is_empty()) {
        eprintln!("warning: {}", render::plain(&copied.why));
    }
}

fn table(list: &ImageList) -> String {
    let mut table = Table::new([
        "NAME",
        "ID",
        "SIZE",
        "FORMAT",
        "STATE",
        "SIGNED BY",
        "MADE",
        "SOURCE",
    ]);
    for shown in &list.images {
        let image = &shown.image;
        table.row([
            image.names.join(", "),
            render::short_id(&image.id),
            render::bytes(image.length_bytes),
            image.format.clone(),
            state(shown).to_owned(),
            signers(shown).unwrap_or_else(|| "-".into()),
            render::time(image.created_ms),
            image.source.clone(),
        ]);
    }
    table.to_string()
}

fn facts(shown: &ImageShown) -> String {
    let image = &shown.image;
    let mut table = Table::new(["id", &image.id]);
    table.row(["names", &image.names.join(", ")]);
    table.row(["size", &render::bytes(image.length_bytes)]);
    table.row(["format", &image.format]);
    table.row(["source", &image.source]);
    table.row(["made", &render::time(image.created_ms)]);
    table.row(["state", state(shown)]);
    if let Some(refusal) = &shown.standing.refused {
        table.row([
            "refused by",
            &format!("rule {}: {}", refusal.rule, refusal.why),
        ]);
    }
    if let Some(deprecation) = &image.deprecated {
        let mut text = format!(
            "since {}: {}",
            render::time(deprecation.since_ms),
            deprecation.why
        );
        if let Some(other) = &deprecation.replacement {
            text.push_str(&format!("; instead: {other}"));
        }
        table.row(["deprecated", &text]);
    }
    if let Some(at_ms) = image.expires_ms {
        table.row(["expires", &render::time(at_ms)]);
    }
    for signature in &shown.standing.signatures {
        table.row(["signature", &worth(signature)]);
    }
    table.to_string()
}

/// One word for lists.
fn state(shown: &ImageShown) -> &'static str {
    let refused = shown.standing.refused.as_ref();
    match refused.map(|refusal| refusal.rule.as_str()) {
        Some("images.expires") => "expired",
        Some("images.signed") => "unsigned",
        None if shown.image.deprecated.is_none() => "ok",
        None | Some("images.deprecated") => "deprecated",
        Some(_) => "refused",
    }
}

fn signers(shown: &ImageShown) -> Option<String> {
    let signatures = shown.standing.signatures.iter();
    let signers: Vec<&str> = signatures
        .filter_map(|signature| signature.signer.as_deref())
        .collect();
    (!signers.is_empty()).then(|| signers.join(", "))
}

fn signed(shown: &ImageShown) -> String {
    match (signers(shown), shown.standing.signature_required) {
        (Some(signers), _) => format!("signed by {}", render::plain(&signers)),
        (None, false) => "unsigned (site allows)".into(),
        (None, true) => "unsigned (site refuses)".into(),
    }
}

/// What a signature is worth, in a line.
fn worth(signature: &SignatureStanding) -> String {
    match (&signature.signer, signature.until_ms) {
        (None, _) => format!(
            "by {}, does not count: {}",
            signature.fingerprint, signature.why
        ),
        (Some(signer), None) => format!("by {signer} ({})", signature.fingerprint),
        (Some(signer), Some(until_ms)) => format!(
            "by {signer} ({}) until {}",
            signature.fingerprint,
            render::time(until_ms)
        ),
    }
}

fn add(source: &str, name: Option<String>) -> Outcome<ImageAdd> {
    let Some((bucket, key)) = s3_url(source).filter(|(_, key)| !key.is_empty()) else {
        let message = format!("{source:?} names no object");
        return Err(Failure::new(Exit::Usage, "object", message).hint(
            "Upload the file first (aws s3 cp FILE s3://bucket/), then name it s3://bucket/key",
        ));
    };
    let last = key.rsplit('/').next().unwrap_or(key);
    let stem = last.rsplit_once('.').map_or(last, |(stem, _)| stem);
    let name = name.unwrap_or_else(|| if stem.is_empty() { last } else { stem }.to_owned());
    Ok(ImageAdd {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_called_like_its_file_unless_told_otherwise() {
        assert_eq!(
            add("s3://images/a/debian-12.5.qcow2", None).unwrap().name,
            "debian-12.5"
        );
        assert_eq!(add("s3://images/tiny", None).unwrap().name, "tiny");
        assert_eq!(
            add("s3://images/tiny.raw", Some("x".into())).unwrap().name,
            "x"
        );
        for source in ["tiny.raw", "s3://images", "s3://images/", "s3:///k"] {
            let failure = add(source, None).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage, "{source}");
        }
    }
}
