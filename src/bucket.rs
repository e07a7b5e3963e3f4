//! `infall bucket`: buckets, and what is in them.

use crate::client::Path;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{self, Table};
use blockstore::object::Bucket;
use clap::Subcommand;
use gateway::api::{BucketCreate, BucketList, ObjectPage};

/// Buckets.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// List buckets, or the objects of one
    #[command(after_help = "\
Examples:
  infall bucket ls
  infall bucket ls images
  infall bucket ls images --prefix debian/ --json")]
    Ls {
        /// List the objects of this bucket instead
        bucket: Option<String>,
        /// Only keys that start so
        #[arg(
            long,
            default_value = "",
            requires = "bucket",
            hide_default_value = true
        )]
        prefix: String,
    },
    /// Make a bucket
    #[command(after_help = "\
Examples:
  infall bucket create images
  aws s3 mb s3://images                    the same over S3")]
    Create {
        /// 3 to 63 of a-z, 0-9, . and -
        name: String,
    },
    /// Remove an empty bucket
    #[command(after_help = "\
Examples:
  infall bucket rm images
  aws s3 rm --recursive s3://images        empties it first")]
    Rm {
        /// The bucket
        name: String,
    },
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let client = context.client()?;
    match verb {
        Verb::Ls { bucket: None, .. } => {
            let list: BucketList = client.get(&Path::new(["buckets"])).await?;
            context.show(&list, || {
                let mut table = Table::new(["NAME", "MADE"]);
                for bucket in &list.buckets {
                    table.row([&bucket.name, &render::time(bucket.created_ms)]);
                }
                table.to_string()
            });
        }
        Verb::Ls {
            bucket: Some(bucket),
            prefix,
        } => {
            let list = objects(&client, &bucket, &prefix).await?;
            context.show(&list, || {
                let mut table = Table::new(["KEY", "SIZE", "MODIFIED", "ETAG"]);
                for object in &list.objects {
                    let size = render::bytes(object.length_bytes);
                    let modified = render::time(object.modified_ms);
                    table.row([&object.key, &size, &modified, &object.meta.etag]);
                }
                table.to_string()
            });
        }
        Verb::Create { name } => {
            let ask = BucketCreate { name };
            let bucket: Bucket = client.post(&Path::new(["buckets"]), &ask).await?;
            context.show(&bucket, || {
                format!("{}  s3://{}/\n", bucket.name, bucket.name)
            });
        }
        Verb::Rm { name } => {
            client.delete(&Path::new(["buckets", &name])).await?;
            context.show(&serde_json::json!({ "removed": name }), || {
                format!("{name}  removed\n")
            });
        }
    }
    Ok(())
}

/// All pages as one.
async fn objects(
    client: &crate::client::Client,
    bucket: &str,
    prefix: &str,
) -> Outcome<ObjectPage> {
    let mut all = ObjectPage {
        objects: Vec::new(),
        prefixes: Vec::new(),
        next: None,
    };
    loop {
        let path = Path::new(["buckets", bucket, "objects"]).query([
            ("prefix", Some(prefix.to_owned())),
            ("after", all.next.take()),
        ]);
        let page: ObjectPage = client.get(&path).await?;
        all.objects.extend(page.objects);
        all.prefixes.extend(page.prefixes);
        all.next = page.next;
        if all.next.is_none() {
            return Ok(all);
        }
    }
}
