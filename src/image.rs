//! `infall image`: objects registered so that volumes can be cloned from them.

use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use blockstore::image::ImageInfo;
use clap::Subcommand;
use gateway::api::{ImageAdd, ImageAdded, ImageList, s3_url};

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
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Add { source, name } => {
            let ask = add(&source, name)?;
            let added: ImageAdded = client.post(&Path::new(["images"]), &ask).await?;
            context.show(&added, || {
                let size = render::bytes(added.image.length_bytes);
                let id = render::short_id(&added.image.id);
                let copied = render::copied(&added.copied);
                format!("{id}  {}  {size} virtual  {copied}\n", ask.name)
            });
        }
        Verb::Ls => {
            let list: ImageList = client.get(&Path::new(["images"])).await?;
            context.show(&list, || {
                let mut table = Table::new(["NAME", "ID", "SIZE", "FORMAT", "MADE", "SOURCE"]);
                for image in &list.images {
                    table.row([
                        image.names.join(", "),
                        render::short_id(&image.id),
                        render::bytes(image.length_bytes),
                        image.format.clone(),
                        render::time(image.created_ms),
                        image.source.clone(),
                    ]);
                }
                table.to_string()
            });
        }
        Verb::Show { image } => {
            let image: ImageInfo = client.get(&Path::new(["images", &image])).await?;
            context.show(&image, || {
                let mut table = Table::new(["id", &image.id]);
                table.row(["names", &image.names.join(", ")]);
                table.row(["size", &render::bytes(image.length_bytes)]);
                table.row(["format", &image.format]);
                table.row(["source", &image.source]);
                table.row(["made", &render::time(image.created_ms)]);
                table.to_string()
            });
        }
        Verb::Rm { image } => {
            client.delete(&Path::new(["images", &image])).await?;
            context.show(&serde_json::json!({ "removed": image }), || {
                format!("{image}  removed\n")
            });
        }
    }
    Ok(())
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
