//! The mount: what programs do with files, refused as EACCES.
//!
//! A mount believes a decision for two seconds, so each try has a mount of its own.

use super::client::Ask;
use super::steps::{Act, Doing, Need, Ready, Site, need};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

const HOST: &str = "arn:infall:host:::local";
const B: &str = "arn:aws:s3:::box";
const K: &str = "arn:aws:s3:::box/k";

fn point(site: &Site) -> PathBuf {
    site.server.scratch().join("mnt")
}

/// A bucket with an object and a directory, a volume, a snapshot and an image.
pub(crate) fn prepare(site: &Site) {
    fs::create_dir(point(site)).unwrap();
    super::api::prepare_things(site);
    site.root(&Ask::s3("PUT", "/box/k").body("x"));
}

fn mounting(site: &Site, more: &Value) -> Result<(), String> {
    let path = format!("/mounts?path={}", point(site).display());
    site.root_tries(&Ask::api("delete", &path));
    let mut ask = json!({"path": point(site)});
    ask.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let ask = Ask::api("post", "/mounts").json(&ask);
    let answer = site.client.send(&site.walker, &ask, "mounting");
    match answer.status {
        201 => Ok(()),
        403 => Err(answer.body),
        _ => panic!("{answer:?}"),
    }
}

/// Mounts as the walker, then does something in the mount. EACCES is a refusal, all else a failure.
fn within(site: &Site, work: impl Fn(&Path) -> std::io::Result<()> + 'static) -> Ready {
    mounting(site, &json!({})).unwrap();
    Box::new(move |site| match work(&point(site)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error.to_string()),
        Err(error) => panic!("{error}"),
    })
}

fn act(needs: &[(&str, &str)], beside: &[(&str, &str)], ready: fn(&Site) -> Ready) -> Act {
    let all = |pairs: &[(&str, &str)]| -> Vec<Need> {
        pairs.iter().map(|(action, on)| need(action, on)).collect()
    };
    let mut beside = all(beside);
    beside.push(need("mount:Create", HOST));
    Act {
        needs: all(needs),
        beside,
        is_one_of_several: false,
        ready,
    }
}

/// To find a name in a directory.
const LOOK: (&str, &str) = ("s3:ListBucket", B);

fn read(path: &Path) -> std::io::Result<()> {
    let mut bytes = [0; 1];
    File::open(path)?.read_exact(&mut bytes)
}

fn list(path: &Path) -> std::io::Result<()> {
    fs::read_dir(path).map(drop)
}

/// What the operator puts there anew before a try.
fn put(site: &Site, key: &str) {
    site.root(&Ask::s3("PUT", &format!("/box/{key}")).body("x"));
}

fn gone(site: &Site, key: &str) {
    site.root_tries(&Ask::s3("DELETE", &format!("/box/{key}")));
}

pub(crate) const ACTS: &[Doing] = &[
    ("list buckets/", |_| {
        act(&[("s3:ListAllMyBuckets", "arn:aws:s3:::*")], &[], |site| {
            within(site, |at| list(&at.join("buckets")))
        })
    }),
    ("list a directory", |_| {
        act(&[LOOK], &[], |site| {
            within(site, |at| list(&at.join("buckets/box")))
        })
    }),
    ("look a name up", |_| Act {
        is_one_of_several: true,
        ..act(&[LOOK], &[], |site| {
            within(site, |at| fs::metadata(at.join("buckets/box/k")).map(drop))
        })
    }),
    ("read a file", |_| {
        act(&[("s3:GetObject", K)], &[], |site| {
            within(site, |at| read(&at.join("buckets/box/k")))
        })
    }),
    ("write a file", |_| {
        act(&[("s3:PutObject", K)], &[], |site| {
            within(site, |at| fs::write(at.join("buckets/box/k"), "y"))
        })
    }),
    ("create a file", |_| {
        act(&[("s3:PutObject", "arn:aws:s3:::box/new")], &[], |site| {
            gone(site, "new");
            within(site, |at| fs::write(at.join("buckets/box/new"), "y"))
        })
    }),
    ("change a file's mode", |_| {
        act(&[("s3:PutObject", K)], &[LOOK], |site| {
            within(site, |at| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                fs::set_permissions(at.join("buckets/box/k"), mode)
            })
        })
    }),
    ("remove a file", |_| {
        act(
            &[("s3:DeleteObject", "arn:aws:s3:::box/old")],
            &[LOOK],
            |site| {
                put(site, "old");
                within(site, |at| fs::remove_file(at.join("buckets/box/old")))
            },
        )
    }),
    ("rename a file", |_| {
        let needs = [
            ("s3:GetObject", "arn:aws:s3:::box/from"),
            ("s3:DeleteObject", "arn:aws:s3:::box/from"),
            ("s3:PutObject", "arn:aws:s3:::box/to"),
        ];
        act(&needs, &[LOOK], |site| {
            put(site, "from");
            within(site, |at| {
                let box_ = at.join("buckets/box");
                fs::rename(box_.join("from"), box_.join("to"))
            })
        })
    }),
    ("make a directory", |_| {
        act(
            &[("s3:PutObject", "arn:aws:s3:::box/made/")],
            &[LOOK],
            |site| {
                gone(site, "made/");
                within(site, |at| fs::create_dir(at.join("buckets/box/made")))
            },
        )
    }),
    ("remove a directory", |_| {
        act(
            &[("s3:DeleteObject", "arn:aws:s3:::box/made/")],
            &[LOOK],
            |site| {
                put(site, "made/");
                within(site, |at| fs::remove_dir(at.join("buckets/box/made")))
            },
        )
    }),
    ("rename a directory", |_| {
        let needs = [
            ("s3:GetObject", "arn:aws:s3:::box/from/"),
            ("s3:GetObject", "arn:aws:s3:::box/from/k"),
            ("s3:DeleteObject", "arn:aws:s3:::box/from/"),
            ("s3:DeleteObject", "arn:aws:s3:::box/from/k"),
            ("s3:PutObject", "arn:aws:s3:::box/to/"),
            ("s3:PutObject", "arn:aws:s3:::box/to/k"),
        ];
        act(&needs, &[LOOK], |site| {
            for key in ["from", "to", "to/k", "to/"] {
                gone(site, key);
            }
            put(site, "from/");
            put(site, "from/k");
            within(site, |at| {
                let box_ = at.join("buckets/box");
                fs::rename(box_.join("from"), box_.join("to"))
            })
        })
    }),
    ("make a bucket", |_| {
        act(&[("s3:CreateBucket", "arn:aws:s3:::fresh")], &[], |site| {
            within(site, |at| fs::create_dir(at.join("buckets/fresh")))
        })
    }),
    ("remove a bucket", |_| {
        act(&[("s3:DeleteBucket", "arn:aws:s3:::fresh")], &[], |site| {
            within(site, |at| fs::remove_dir(at.join("buckets/fresh")))
        })
    }),
    ("list volumes/", |_| {
        act(&[("volume:List", "arn:infall:volume:::*")], &[], |site| {
            within(site, |at| list(&at.join("volumes")))
        })
    }),
    ("list snapshots/", |_| {
        act(
            &[("snapshot:List", "arn:infall:snapshot:::*")],
            &[],
            |site| within(site, |at| list(&at.join("snapshots"))),
        )
    }),
    ("list images/", |_| {
        act(&[("image:List", "arn:infall:image:::*")], &[], |site| {
            within(site, |at| list(&at.join("images")))
        })
    }),
    ("look a volume up", |_| {
        act(
            &[("volume:Describe", "arn:infall:volume:::v")],
            &[],
            |site| within(site, |at| fs::metadata(at.join("volumes/v.raw")).map(drop)),
        )
    }),
    ("read a volume", |_| {
        let needs = [
            ("volume:Describe", "arn:infall:volume:::v"),
            ("volume:AttachReadOnly", "arn:infall:volume:::v"),
        ];
        act(&needs, &[], |site| {
            within(site, |at| read(&at.join("volumes/v.raw")))
        })
    }),
    ("write a volume", |_| {
        let needs = [
            ("volume:Describe", "arn:infall:volume:::v"),
            ("volume:Attach", "arn:infall:volume:::v"),
        ];
        act(&needs, &[], |site| {
            within(site, |at| {
                let volume = OpenOptions::new()
                    .write(true)
                    .open(at.join("volumes/v.raw"))?;
                std::os::unix::fs::FileExt::write_all_at(&volume, &[1; 4096], 0)
            })
        })
    }),
    ("read a snapshot", |_| {
        act(
            &[("snapshot:Read", "arn:infall:snapshot:::s")],
            &[],
            |site| within(site, |at| read(&at.join("snapshots/s.raw"))),
        )
    }),
    ("read an image", |_| {
        act(&[("image:Read", "arn:infall:image:::i")], &[], |site| {
            within(site, |at| read(&at.join("images/i.raw")))
        })
    }),
];

/// One that other local users can enter takes a grant that says so: a policy can tell the two apart.
pub(crate) fn others_are_let_in_only_by_a_grant_that_says_so(site: &Site) {
    let grant = |test: &str, value: &str| {
        json!([{"Effect": "Allow", "Action": "mount:Create", "Resource": HOST,
            "Condition": {test: {"infall:AllowOther": value}}}])
    };
    let shared = json!({"allow_other": true});
    let own = json!({"allow_other": false});
    site.may(Some(grant("Bool", "false")));
    mounting(site, &own).unwrap();
    mounting(site, &json!({})).unwrap();
    assert!(
        mounting(site, &shared)
            .unwrap_err()
            .contains("mount:Create")
    );
    site.may(Some(grant("Bool", "true")));
    mounting(site, &shared).unwrap();
    assert!(mounting(site, &own).is_err());
    site.may(Some(json!([
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": "mount:Create", "Resource": "*",
            "Condition": {"Bool": {"infall:AllowOther": "true"}}},
    ])));
    mounting(site, &own).unwrap();
    assert!(mounting(site, &shared).is_err());
    let path = format!("/mounts?path={}", point(site).display());
    site.root_tries(&Ask::api("delete", &path));
}
