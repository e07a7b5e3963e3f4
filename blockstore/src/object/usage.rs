//! What buckets and projects hold, and what they may: counters and quotas.
//!
//! 1. A counter changes in the transaction that changes what it counts; nothing is counted by walking.
//! 2. A change that makes a project hold more is refused in its transaction where the quota says so;
//!    one that makes it hold less never is.
//! 3. Bytes are visible bytes: of all versions, of parts of uploads under way, of snapshots of buckets.
//!    What shares its bytes with others counts whole, for it keeps them alone once the others go.
//! 4. Volumes count by number. Their lengths are shown, not charged: they are sparse.
//!
//! Objects are charged to the project of their bucket, whoever writes them.

use crate::catalog::{Catalog, Frozen, Rows, Step, Txn, keys};
use crate::volume::VolumeInfo;
use crate::{Error, Kind, Result, Store, Subject};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Bucket, row, snapshot, upload};

/// What a bucket or a project holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Visible bytes of all versions, of parts of uploads under way and of snapshots of buckets.
    pub bytes: u64,
    /// Objects as a listing shows them.
    pub objects: u64,
    /// All versions, delete markers too.
    pub versions: u64,
    /// Buckets (of a project).
    pub buckets: u64,
    /// Volumes (of a project).
    pub volumes: u64,
    /// Their lengths.
    pub volume_bytes: u64,
}

/// What a project may hold; `None` is without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// As [`Usage::bytes`].
    pub bytes: Option<u64>,
    /// As [`Usage::versions`]: hidden ones take room too.
    pub objects: Option<u64>,
    /// As [`Usage::volumes`].
    pub volumes: Option<u64>,
    /// Instances; the layer that runs them keeps to it.
    pub vms: Option<u64>,
}

/// How a change moves the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) bytes: i64,
    pub(crate) objects: i64,
    pub(crate) versions: i64,
    pub(crate) buckets: i64,
    pub(crate) volumes: i64,
    pub(crate) volume_bytes: i64,
}

impl Store {
    /// What a project holds.
    pub fn usage(&self, project: &str) -> Result<Usage> {
        read(&self.shared.catalog, &keys::project_usage(project))
    }

    /// What a bucket holds. NotFound if there is none of that name.
    pub fn bucket_usage(&self, bucket: &str) -> Result<Usage> {
        super::bucket::expect(&self.shared.catalog, bucket)?;
        read(&self.shared.catalog, &keys::bucket_usage(bucket))
    }

    /// What every project holds that ever held something.
    pub fn usages(&self) -> Result<BTreeMap<String, Usage>> {
        projects(&self.shared.catalog)
    }

    /// What a project may hold: `quota` in its record.
    pub fn quota(&self, project: &str) -> Result<Quota> {
        quota(&self.shared.catalog, project)
    }

    /// NoSpace unless so many more bytes fit under the project's quota. Asked before a body is read;
    /// the transaction that commits it asks again.
    pub fn quota_admit(&self, project: &str, bytes: u64) -> Result<()> {
        self.admit(project, bytes, 0)
    }

    /// As [`Self::quota_admit`], for the project of a bucket.
    pub fn quota_admit_bucket(&self, bucket: &str, bytes: u64) -> Result<()> {
        let bucket = super::bucket::expect(&self.shared.catalog, bucket)?;
        self.quota_admit(&bucket.project, bytes)
    }

    /// As [`Self::quota_admit_bucket`], for a body of this key: what it replaces makes room.
    pub fn quota_admit_object(&self, bucket: &str, key: &str, bytes: u64) -> Result<()> {
        let bucket = super::bucket::expect(&self.shared.catalog, bucket)?;
        let freed = row::freed(&self.shared.catalog, &bucket, key)?;
        self.admit(&bucket.project, bytes, freed)
    }

    /// Whether so many bytes may come where `freed` go.
    pub(super) fn admit(&self, project: &str, bytes: u64, freed: u64) -> Result<()> {
        let Some(limit) = self.quota(project)?.bytes.filter(|_| bytes > freed) else {
            return Ok(());
        };
        let used = self.usage(project)?.bytes;
        let wanted = used.saturating_add(bytes - freed);
        within(project, "bytes", limit, used, wanted)
    }

    /// How many bytes the project of a bucket may write where `freed` go; `None` without a quota.
    pub(super) fn quota_room(&self, bucket: &Bucket, freed: u64) -> Result<Option<u64>> {
        let Some(limit) = self.quota(&bucket.project)?.bytes else {
            return Ok(None);
        };
        let used = self.usage(&bucket.project)?.bytes;
        Ok(Some(limit.saturating_sub(used).saturating_add(freed)))
    }
}

/// Moves the counters of a bucket and of the project that owns it; NoSpace where that would go beyond
/// the project's quota.
pub(super) fn charge_bucket(txn: &mut Txn<'_>, bucket: &Bucket, delta: Delta) -> Result<()> {
    check(txn, &bucket.project, delta)?;
    note_bucket(txn, bucket, delta)
}

/// As [`charge_bucket`], for what no quota refuses: deleting, even where that adds a marker.
pub(super) fn note_bucket(txn: &mut Txn<'_>, bucket: &Bucket, delta: Delta) -> Result<()> {
    note(txn, &keys::bucket_usage(&bucket.name), delta)?;
    note(txn, &keys::project_usage(&bucket.project), delta)
}

/// Moves the counters of a project; NoSpace where that would go beyond its quota.
pub(crate) fn charge(txn: &mut Txn<'_>, project: &str, delta: Delta) -> Result<()> {
    check(txn, project, delta)?;
    note(txn, &keys::project_usage(project), delta)
}

fn note(txn: &mut Txn<'_>, at: &[u8], delta: Delta) -> Result<()> {
    if delta == Delta::default() {
        return Ok(());
    }
    let usage = read(txn, at)?.moved(delta);
    txn.put(at, keys::encode(&usage)?);
    Ok(())
}

fn check(txn: &Txn<'_>, project: &str, delta: Delta) -> Result<()> {
    if delta.bytes <= 0 && delta.versions <= 0 && delta.volumes <= 0 {
        return Ok(());
    }
    let quota = quota(txn, project)?;
    if quota == Quota::default() {
        return Ok(());
    }
    let before = read(txn, &keys::project_usage(project))?;
    let after = before.moved(delta);
    let checks = [
        ("bytes", quota.bytes, before.bytes, after.bytes),
        ("objects", quota.objects, before.versions, after.versions),
        ("volumes", quota.volumes, before.volumes, after.volumes),
    ];
    for (what, limit, used, wanted) in checks {
        if let Some(limit) = limit
            && wanted > used
        {
            within(project, what, limit, used, wanted)?;
        }
    }
    Ok(())
}

/// Writes all counters as they were counted, over whatever they were.
pub(super) fn put_counted(txn: &mut Txn<'_>, counted: &Recount) -> Result<()> {
    for (name, usage) in &counted.buckets {
        txn.put(&keys::bucket_usage(name), keys::encode(usage)?);
    }
    for (name, usage) in &counted.projects {
        txn.put(&keys::project_usage(name), keys::encode(usage)?);
    }
    Ok(())
}

/// Makes a bucket's counters go with it.
pub(super) fn forget_bucket(txn: &mut Txn<'_>, bucket: &Bucket) -> Result<()> {
    txn.delete(&keys::bucket_usage(&bucket.name));
    let delta = Delta {
        buckets: -1,
        ..Delta::default()
    };
    charge(txn, &bucket.project, delta)
}

/// The counters of all projects.
pub(crate) fn projects(catalog: &Catalog) -> Result<BTreeMap<String, Usage>> {
    let mut usages = BTreeMap::new();
    catalog.scan(
        keys::PROJECT_USAGE,
        keys::PROJECT_USAGE,
        &mut |key, value| {
            let project = keys::text_behind(keys::PROJECT_USAGE, key)?;
            usages.insert(project.to_owned(), keys::decode(key, value)?);
            Ok(true)
        },
    )?;
    Ok(usages)
}

/// Everything counted anew, by walking: for the upgrade of an old catalog and for checks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recount {
    pub(crate) buckets: BTreeMap<String, Usage>,
    pub(crate) projects: BTreeMap<String, Usage>,
}

/// Counts everything as it is at one moment.
pub(crate) fn recount(rows: &Frozen<'_>) -> Result<Recount> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut count = Recount::default();
    rows.walk(keys::BUCKETS, keys::BUCKETS, &mut |key, value| {
        let bucket: Bucket = keys::decode(key, value)?;
        count.buckets.insert(bucket.name.clone(), Usage::default());
        let project = count.projects.entry(bucket.project.clone()).or_default();
        project.buckets += 1;
        owners.insert(bucket.name, bucket.project);
        Ok(Step::Next)
    })?;
    let mut add = |bucket: &str, delta: Delta| {
        if let Some(project) = owners.get(bucket) {
            let usage = count.buckets.entry(bucket.to_owned()).or_default();
            *usage = usage.moved(delta);
            let usage = count.projects.entry(project.clone()).or_default();
            *usage = usage.moved(delta);
        }
    };
    for (prefix, objects) in [(keys::OBJECTS, 1), (keys::VERSIONS, 0)] {
        rows.walk(prefix, prefix, &mut |key, value| {
            let object = row::decode(key, value)?.object;
            let delta = Delta {
                bytes: row::signed(object.length_bytes),
                objects,
                versions: 1,
                ..Delta::default()
            };
            add(&object.bucket, delta);
            Ok(Step::Next)
        })?;
    }
    for (bucket, bytes) in upload::bytes_under_way(rows)? {
        let delta = Delta {
            bytes: row::signed(bytes),
            ..Delta::default()
        };
        add(&bucket, delta);
    }
    for kept in snapshot::all(rows)? {
        let delta = Delta {
            bytes: row::signed(kept.bytes),
            ..Delta::default()
        };
        add(&kept.bucket, delta);
    }
    rows.walk(b"volume/", b"volume/", &mut |key, value| {
        let volume: VolumeInfo = keys::decode(key, value)?;
        let usage = count.projects.entry(volume.project).or_default();
        usage.volumes += 1;
        usage.volume_bytes += volume.length_bytes;
        Ok(Step::Next)
    })?;
    Ok(count)
}

/// What the counters say that a recount does not, in lines for people.
pub(crate) fn compare(catalog: &Catalog) -> Result<Vec<String>> {
    catalog.frozen(|rows| {
        let counted = recount(rows)?;
        let mut problems = Vec::new();
        let kinds = [
            ("bucket", keys::BUCKET_USAGE, &counted.buckets),
            ("project", keys::PROJECT_USAGE, &counted.projects),
        ];
        for (what, prefix, counted) in kinds {
            let mut kept: BTreeMap<String, Usage> = BTreeMap::new();
            rows.walk(prefix, prefix, &mut |key, value| {
                let name = keys::text_behind(prefix, key)?.to_owned();
                kept.insert(name, keys::decode(key, value)?);
                Ok(Step::Next)
            })?;
            let names: std::collections::BTreeSet<&String> =
                kept.keys().chain(counted.keys()).collect();
            for name in names {
                let of = |usages: &BTreeMap<String, Usage>| {
                    usages.get(name).copied().unwrap_or_default()
                };
                let (kept, counted) = (of(&kept), of(counted));
                if kept != counted {
                    problems.push(format!(
                        "the usage of {what} {name:?} is kept as {kept:?}, but counts {counted:?}"
                    ));
                }
            }
        }
        Ok(problems)
    })
}

impl Usage {
    fn moved(self, delta: Delta) -> Self {
        Self {
            bytes: self.bytes.saturating_add_signed(delta.bytes),
            objects: self.objects.saturating_add_signed(delta.objects),
            versions: self.versions.saturating_add_signed(delta.versions),
            buckets: self.buckets.saturating_add_signed(delta.buckets),
            volumes: self.volumes.saturating_add_signed(delta.volumes),
            volume_bytes: self.volume_bytes.saturating_add_signed(delta.volume_bytes),
        }
    }
}

fn read(rows: &impl Rows, at: &[u8]) -> Result<Usage> {
    let row = rows.row(at)?;
    row.map_or_else(|| Ok(Usage::default()), |row| keys::decode(at, &row))
}

/// What the record of a project allows it. The record is another layer's: only `quota` is looked at.
fn quota(rows: &impl Rows, project: &str) -> Result<Quota> {
    #[derive(Deserialize)]
    struct Record {
        value: serde_json::Value,
    }
    let at = keys::record("project", project);
    let Some(row) = rows.row(&at)? else {
        return Ok(Quota::default());
    };
    let mut record: Record = keys::decode(&at, &row)?;
    let quota = record.value.get_mut("quota").map(serde_json::Value::take);
    let quota: Option<Quota> =
        serde_json::from_value(quota.unwrap_or_default()).map_err(|cause| {
            let text = format!(
                "the quota of project {project:?} is not made of numbers for bytes, objects, volumes and vms: set it again"
            );
            Error::new(Kind::Corrupt, Subject::Project, text).because(cause)
        })?;
    Ok(quota.unwrap_or_default())
}

fn within(project: &str, what: &str, limit: u64, used: u64, wanted: u64) -> Result<()> {
    if wanted <= limit {
        return Ok(());
    }
    let text = format!(
        "project {project:?} has a quota of {limit} {what} and uses {used}; this would make it {wanted}: \
         remove something first, or have the quota raised"
    );
    Err(Error::new(Kind::NoSpace, Subject::Project, text))
}
