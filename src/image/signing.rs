//! Signing images on the signer's side: the statement, and a signature over it as `ssh-keygen -Y sign`
//! makes one. The private key never leaves this process.

use super::when::When;
use crate::client::{Client, Path};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use blockstore::image::trust::NAMESPACE;
use blockstore::image::trust::statement::Statement;
use clap::Args;
use gateway::api::{ImageEndorse, ImageShown};
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use std::path::{Path as FilePath, PathBuf};

/// What to sign.
#[derive(Clone, Debug, Args)]
pub(crate) struct Say {
    /// Name, id, or the beginning of an id
    image: String,
    /// When the signature ends: 2027-01-01, a time of RFC 3339, or 90d, 12h from now [default: never]
    #[arg(long, value_name = "TIME")]
    until: Option<When>,
}

/// Signs with a key.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sign {
    #[command(flatten)]
    say: Say,
    /// The private key: OpenSSH's format, ed25519, without a passphrase
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Hands in what ssh-keygen signed.
#[derive(Clone, Debug, Args)]
pub(crate) struct Endorse {
    /// Name, id, or the beginning of an id
    image: String,
    /// What ssh-keygen -Y sign wrote
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// What was signed [default: the signature's file without its .sig]
    #[arg(long, value_name = "FILE")]
    statement: Option<PathBuf>,
}

/// What is to be signed.
async fn statement(client: &Client, say: &Say) -> Outcome<Statement> {
    let path = Path::new(["images", &say.image]);
    let shown: ImageShown = client.get(&path).await?;
    let id = &shown.image.id;
    // Whoever gave the whole id signs that one, whatever the server says.
    if say.image.len() == id.len() && say.image.starts_with("img-") && say.image != *id {
        let message = format!("the server shows {id} for {}", say.image);
        return Err(Failure::new(Exit::Internal, "image", message).hint("Do not sign it"));
    }
    Ok(Statement::new(id, say.until.map(|When(at_ms)| at_ms))?)
}

/// Prints what is to be signed.
pub(super) async fn say(context: &Context, client: &Client, say: &Say) -> Outcome {
    let statement = statement(client, say).await?;
    let text = statement.text();
    let shown = serde_json::json!({ "statement": text, "namespace": NAMESPACE });
    context.show(&shown, || text.clone());
    Ok(())
}

/// Signs, and hands it in.
pub(super) async fn sign(context: &Context, client: &Client, sign: &Sign) -> Outcome {
    let key = read_key(&sign.key, &sign.say.image)?;
    let statement = statement(client, &sign.say).await?.text();
    let signature = key
        .sign(NAMESPACE, HashAlg::Sha512, statement.as_bytes())
        .and_then(|signature| signature.to_pem(LineEnding::LF))
        .map_err(|error| {
            let message = format!(
                "{} cannot sign: only ed25519 keys do so here",
                sign.key.display()
            );
            by_ssh_keygen(
                Failure::new(Exit::Invalid, "key", message).because(error),
                &sign.key,
                &sign.say.image,
            )
        })?;
    hand_in(context, client, &sign.say.image, statement, signature).await
}

/// Hands in a signature that was made elsewhere.
pub(super) async fn endorse(context: &Context, client: &Client, endorse: &Endorse) -> Outcome {
    let signature = text_of(&endorse.signature)?;
    let signed = match &endorse.statement {
        Some(file) => file.clone(),
        None if endorse
            .signature
            .extension()
            .is_some_and(|end| end == "sig") =>
        {
            endorse.signature.with_extension("")
        }
        None => {
            let message = format!(
                "{} does not end in .sig, so what was signed is unknown",
                endorse.signature.display()
            );
            let failure = Failure::new(Exit::Usage, "statement", message);
            return Err(failure.hint("Name it: --statement FILE"));
        }
    };
    let statement = text_of(&signed)?;
    hand_in(context, client, &endorse.image, statement, signature).await
}

async fn hand_in(
    context: &Context,
    client: &Client,
    image: &str,
    statement: String,
    signature: String,
) -> Outcome {
    let ask = ImageEndorse {
        statement,
        signature,
    };
    let path = Path::new(["images", image, "endorsements"]);
    let shown: ImageShown = client.post(&path, &ask).await?;
    context.show(&shown, || {
        // The newest is the last.
        let worth = shown.standing.signatures.last();
        let worth = worth.map_or_else(String::new, super::worth);
        let id = render::short_id(&shown.image.id);
        format!("{id}  {}\n", render::plain(&worth))
    });
    Ok(())
}

fn read_key(path: &FilePath, image: &str) -> Outcome<PrivateKey> {
    let text = text_of(path)?;
    let key = PrivateKey::from_openssh(&text).map_err(|error| {
        // What was read may be a key: it is not repeated.
        let message = format!("{} is no private key in OpenSSH's format", path.display());
        let failure = Failure::new(Exit::Invalid, "key", message).because(error);
        by_ssh_keygen(failure, path, image)
    })?;
    if key.is_encrypted() {
        let message = format!("{} has a passphrase", path.display());
        let failure = Failure::new(Exit::Invalid, "key", message);
        return Err(by_ssh_keygen(failure, path, image));
    }
    Ok(key)
}

fn by_ssh_keygen(failure: Failure, key: &FilePath, image: &str) -> Failure {
    failure.hint(format!(
        "ssh-keygen can: infall image statement {image} > {image}.txt && ssh-keygen -Y sign -f {} -n {NAMESPACE} {image}.txt && infall image endorse {image} --signature {image}.txt.sig",
        key.display()
    ))
}

fn text_of(path: &FilePath) -> Outcome<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::io(format_args!("read {}", path.display()), &error))
}
