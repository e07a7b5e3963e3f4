//! Which project owns what: asked of the store, at each decision that needs it.
//!
//! What is not there belongs to whoever asks: their own policies decide whether they learn that it
//! is not there. What an action is about to make is the asker's own, too. The store as a whole and
//! its hosts are the operator's, project `root`.

use crate::identity::Usage;
use crate::{Access, Resource};
use blockstore::{Error, Kind, Result, Store, Subject};

/// The operator's project.
pub(crate) const ROOT: &str = "root";

/// The project that owns `resource`, for somebody of project `asker` who wants to do `action`.
pub(crate) fn owner(
    store: &Store,
    action: &str,
    resource: &Resource<'_>,
    asker: &str,
) -> Result<String> {
    if makes(action) {
        return Ok(asker.to_owned());
    }
    let found = match resource {
        Resource::Bucket(bucket) | Resource::Object(bucket, _) => {
            store.bucket(bucket).map(|found| found.project)
        }
        Resource::Volume(name) => store.volume_info(name).map(|found| found.project),
        Resource::Snapshot(name) => store.snapshot(name).map(|found| found.project),
        Resource::Image(name) => store.image(name).map(|found| found.project),
        Resource::Instance(name) => {
            return Ok(instance(store, name)?.unwrap_or_else(|| asker.to_owned()));
        }
        // To look at one's own project is one thing, to make projects and set quotas another.
        Resource::Project(name) => {
            let looks = action == "project:Describe" || action == "project:List";
            return Ok(if looks { name } else { ROOT }.to_owned());
        }
        Resource::Identity(_, project, _) => return Ok((*project).to_owned()),
        Resource::Host(_) | Resource::Store => return Ok(ROOT.to_owned()),
        Resource::All => {
            let service = action
                .split_once(':')
                .map_or(action, |(service, _)| service);
            // Whom this server believes is the operator's to say, for all projects.
            let operators = matches!(service, "store" | "host" | "mount")
                || action.ends_with("OpenIDConnectProvider");
            return Ok(if operators { ROOT } else { asker }.to_owned());
        }
    };
    match found {
        Ok(project) if project.is_empty() => Ok(ROOT.to_owned()),
        Ok(project) => Ok(project),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => {
            Ok(asker.to_owned())
        }
        Err(error) => Err(error),
    }
}

impl Access {
    /// What sort of thing a project owns in the store, if any.
    pub(crate) fn owned(&self, project: &str) -> Result<Option<&'static str>> {
        let store = &self.inner.store;
        let usage = store.usage(project)?;
        let counted = [
            (usage.buckets, "buckets"),
            (usage.versions, "objects"),
            (usage.volumes, "volumes"),
            (self.project_usage(project)?.vms, "VMs"),
        ];
        let counted = counted.into_iter().find(|(count, _)| *count > 0);
        if let Some((_, what)) = counted {
            return Ok(Some(what));
        }
        if store.snapshots()?.iter().any(|one| one.project == project) {
            return Ok(Some("snapshots"));
        }
        let images = store.images()?.iter().any(|one| one.project == project);
        Ok(images.then_some("images"))
    }

    /// What a project uses now.
    pub fn project_usage(&self, project: &str) -> Result<Usage> {
        let used = self.inner.store.usage(project)?;
        let instances = self.inner.store.record_list("instance")?;
        let vms = instances
            .iter()
            .filter(|(_, record)| project_in(record) == project)
            .count();
        Ok(Usage {
            bytes: used.bytes,
            objects: used.versions,
            volumes: used.volumes,
            vms: vms as u64,
        })
    }

    /// NoSpace unless the project may have one more VM.
    pub fn admit_vm(&self, project: &str) -> Result<()> {
        let Some(most) = self.quota(project).vms else {
            return Ok(());
        };
        let used = self.project_usage(project)?.vms;
        if used < most {
            return Ok(());
        }
        let text = format!(
            "project {project:?} has {used} VMs and may have {most}: remove one, or ask for more"
        );
        Err(Error::new(Kind::NoSpace, Subject::Project, text))
    }
}

fn project_in(record: &serde_json::Value) -> &str {
    let project = record.get("project").and_then(serde_json::Value::as_str);
    project
        .filter(|project| !project.is_empty())
        .unwrap_or(ROOT)
}

/// Whether the action makes what it names: then there is no owner yet, or the making is refused as a
/// conflict, which only tells that the name is taken.
fn makes(action: &str) -> bool {
    matches!(
        action,
        "s3:CreateBucket" | "volume:Create" | "image:Add" | "vm:Run"
    )
}

/// The project in an instance's record.
fn instance(store: &Store, name: &str) -> Result<Option<String>> {
    let record = match store.record_get("instance", name) {
        Err(error) if error.kind() == Kind::Invalid => return Ok(None),
        record => record?,
    };
    Ok(record.map(|record| project_in(&record).to_owned()))
}
