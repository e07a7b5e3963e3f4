//! A copy from its plan to its report: what is there, what is refused, what is done.

use super::arguments::{How, Reach};
use super::filter::Filter;
use super::location::Place;
use super::manifest::{self, Line, Manifest};
use super::pace::Pace;
use super::plan::{self, Action, Listing, Policy, Step};
use super::refusal::{refuse_collisions, refuse_existing, refuse_missing, refuse_names};
use super::remote::{Found, Remote};
use super::report::{self, Failed, Item, Planned, Report};
use super::retry::Retry;
use super::side::{Opener, Role};
use super::transfer::{self, Flight, Job, Run};
use super::{journal, names, verdict};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that may fail before a run is given up.
const FAILURES_MAX: usize = 100;

/// Both sides, as they were named.
struct Sides {
    source: Arc<dyn Remote>,
    target: Arc<dyn Remote>,
    /// Names of the one file at both sides; none for trees.
    one: Option<(String, String)>,
    scope: String,
    pace: Arc<Pace>,
}

fn sides(
    context: &Context,
    (source, target): (&Place, &Place),
    policy: Policy,
    reach: &Reach,
) -> Outcome<Sides> {
    let pace = Arc::new(Pace::new(reach.bandwidth));
    // What comes over the network is held back where it comes in, everything else where it goes out.
    let upload = if source.is_local() {
        Arc::clone(&pace)
    } else {
        Arc::new(Pace::new(None))
    };
    let opener = Opener {
        context,
        s3: reach.s3.as_deref(),
        region: reach.region.as_deref(),
        pace: &upload,
    };
    let scope = format!("{} {}", opener.server_of(source), opener.server_of(target));
    let syncs = matches!(policy, Policy::Sync { .. });
    if syncs || source.is_tree() {
        if let (Place::Local(path), true) = (source, syncs)
            && path.is_file()
        {
            let message = format!("{} is a file: sync makes trees alike", path.display());
            return Err(
                Failure::new(Exit::Usage, "stage", message).hint("For one file: infall stage put")
            );
        }
        let (from, to) = (source.clone().into_tree(), target.clone().into_tree());
        return Ok(Sides {
            source: opener.open(Role::Source, &from, None)?,
            target: opener.open(Role::Target, &to, None)?,
            one: None,
            scope,
            pace,
        });
    }
    let (from, name) = source.split()?;
    let (to, new_name) = if target.is_tree() {
        (target.clone().into_tree(), name.clone())
    } else {
        target.split()?
    };
    let named = Some(target).filter(|target| !target.is_tree());
    Ok(Sides {
        source: opener.open(Role::Source, &from, Some(source))?,
        target: opener.open(Role::Target, &to, named)?,
        one: Some((name, new_name)),
        scope,
        pace,
    })
}

pub(super) async fn copying(
    context: &Context,
    places: (&Place, &Place),
    policy: Policy,
    how: &How,
) -> Outcome<Report> {
    let sides = sides(context, places, policy, &how.reach)?;
    let against = match &how.against {
        Some(file) => Some(manifest::read(file, how.reach.entries_max)?),
        None => None,
    };
    let run = Run {
        source: sides.source,
        target: sides.target,
        scope: sides.scope,
        flight: Flight::new(usize::from(how.reach.jobs)),
        pace: sides.pace,
        retry: Retry {
            times: how.reach.retries,
        },
        piece_bytes: how.part,
        keep: how.checksum.into(),
        wants_sha256: how.manifest.is_some(),
        reads_back: !how.no_read_back,
        journals: journal::folder()?,
        resumes: !how.no_resume,
        progress: report::progress(context.json),
    };
    let jobs = usize::from(how.reach.jobs);
    let (sources, left_out) = sources(&run, places.0, sides.one.as_ref(), how).await?;
    if !how.similar_names && run.target.is_local() {
        refuse_collisions(&sources, true)?;
    } else if run.target.has_paths() {
        refuse_collisions(&sources, false)?;
    }
    let targets = targets(&run, &sources, policy, how).await?;
    let verdicts = verdicts(&run, &sources, &targets, policy, jobs).await?;
    let steps = plan::plan(&sources, &targets, &verdicts, policy);
    refuse_existing(&run, &steps)?;
    if let Some(against) = &against {
        refuse_missing(against, &sources, &how.filter)?;
    }
    let mut report = Report {
        left_out,
        ..Report::default()
    };
    if how.dry_run {
        report.planned = Some(steps.iter().map(|step| planned(&run, step)).collect());
        return Ok(report);
    }
    carry_out(
        &run,
        steps,
        against.as_ref(),
        policy,
        jobs,
        how,
        &mut report,
    )
    .await?;
    run.progress.finish_and_clear();
    Ok(report)
}

/// What the source has, by the path at the target.
async fn sources(
    run: &Run,
    place: &Place,
    one: Option<&(String, String)>,
    how: &How,
) -> Outcome<(Listing, Vec<String>)> {
    let nothing = || {
        let message = format!("no file of {place} is left by the patterns");
        Failure::new(Exit::Nothing, "stage", message)
    };
    let Some((name, new_name)) = one else {
        let strict = run.source.has_paths() || run.target.has_paths();
        let (found, seen) =
            listed(run, &run.source, &how.filter, strict, how.reach.entries_max).await?;
        refuse_names(&found.refused)?;
        if found.entries.is_empty() {
            if seen == 0 && !matches!(place, Place::Local(path) if path.is_dir()) {
                let message = format!("nothing lies below {place}");
                return Err(Failure::new(Exit::NotFound, "source", message));
            }
            return Err(nothing());
        }
        return Ok((found.entries, found.left_out));
    };
    if !how.filter.takes(name) {
        return Err(nothing());
    }
    if let Some(why) = names::objection(new_name).filter(|_| run.target.has_paths()) {
        return Err(Failure::new(
            Exit::Invalid,
            "stage",
            format!("the name {new_name:?} {why}"),
        )
        .hint("Name the target file"));
    }
    let entry = run.retry.run(|| run.source.stat(name)).await?;
    let entry = entry.ok_or_else(|| {
        let failure = Failure::new(Exit::NotFound, "source", format!("there is no {place}"));
        if place.is_local() {
            failure
        } else {
            failure.hint("A tree ends in a slash")
        }
    })?;
    Ok((Listing::from([(new_name.clone(), entry)]), Vec::new()))
}

/// What a side has, and how many entries it brought in all.
pub(super) async fn listed(
    run: &Run,
    side: &Arc<dyn Remote>,
    filter: &Filter,
    strict: bool,
    entries_max: usize,
) -> Outcome<(Found, usize)> {
    let list = || async {
        let mut found = Found::new(filter.clone(), strict, entries_max);
        side.list(&mut found).await?;
        let seen = found.seen();
        Ok((found, seen))
    };
    run.retry.run(list).await
}

/// What the target has of it; for a sync everything.
async fn targets(run: &Run, sources: &Listing, policy: Policy, how: &How) -> Outcome<Listing> {
    if let Policy::Sync { delete, .. } = policy {
        let strict = run.target.has_paths();
        let listed = listed(run, &run.target, &how.filter, strict, how.reach.entries_max).await;
        let (found, _) = match listed {
            // A target that is not there yet has nothing.
            Err(failure) if failure.exit() == Exit::NotFound && !delete => {
                return Ok(Listing::new());
            }
            listed => listed?,
        };
        if delete {
            refuse_names(&found.refused)?;
        }
        return Ok(found.entries);
    }
    let looked = stream::iter(sources.keys())
        .map(|path| async move {
            let entry = run.retry.run(|| run.target.stat(path)).await?;
            Ok::<_, Failure>(entry.map(|entry| (path.clone(), entry)))
        })
        .buffer_unordered(usize::from(how.reach.jobs))
        .try_filter_map(|found| async move { Ok(found) });
    looked.try_collect().await
}

async fn verdicts(
    run: &Run,
    sources: &Listing,
    targets: &Listing,
    policy: Policy,
    jobs: usize,
) -> Outcome<BTreeMap<String, plan::Verdict>> {
    let pairs = sources.iter().filter_map(|(path, source)| {
        let target = targets.get(path)?;
        plan::asks_for_checksums(source, target, policy).then_some((path, source, target))
    });
    let judged = stream::iter(pairs)
        .map(|(path, source, target)| async move {
            let verdict = verdict::verdict(run, source, target).await?;
            Ok::<_, Failure>(verdict.map(|verdict| (path.clone(), verdict)))
        })
        .buffer_unordered(jobs)
        .try_filter_map(|found| async move { Ok(found) });
    judged.try_collect().await
}

async fn carry_out(
    run: &Run,
    steps: Vec<Step>,
    against: Option<&Manifest>,
    policy: Policy,
    jobs: usize,
    how: &How,
    report: &mut Report,
) -> Outcome {
    let mut manifest = Manifest::new();
    let (mut copies, mut rests, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        match step.action {
            Action::Copy | Action::Replace => copies.push(step),
            Action::Same | Action::Keep => rests.push(step),
            Action::Delete => deletes.push(step.path),
            // The plan was refused before.
            Action::Refuse => {}
        }
    }
    let length = |step: &Step| {
        step.source
            .as_ref()
            .and_then(|entry| entry.length_bytes)
            .unwrap_or_default()
    };
    run.progress.set_length(copies.iter().map(length).sum());
    let failures = AtomicUsize::new(0);
    let copied: Vec<(String, Outcome<transfer::Copied>, String)> = stream::iter(&copies)
        .map(|step| {
            let failures = &failures;
            async move {
                let outcome = if failures.load(Ordering::Relaxed) < FAILURES_MAX {
                    copy_one(run, step, against, policy).await
                } else {
                    let message = format!("not tried after {FAILURES_MAX} failures");
                    Err(Failure::new(Exit::Unavailable, "stage", message))
                };
                if outcome.is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                let source = step
                    .source
                    .as_ref()
                    .map(|entry| run.source.url(&entry.path));
                (step.path.clone(), outcome, source.unwrap_or_default())
            }
        })
        .buffer_unordered(jobs)
        .collect()
        .await;
    for (path, outcome, source) in copied {
        match outcome {
            Ok(copied) => {
                report.length_bytes += copied.length_bytes;
                report.resumed_bytes += copied.resumed_bytes;
                if let Some(sha256) = copied.sha256 {
                    let line = Line {
                        path: path.clone(),
                        size: copied.length_bytes,
                        sha256,
                        etag: copied.etag,
                    };
                    manifest.insert(path.clone(), line);
                }
                report.copied.push(Item {
                    source,
                    target: run.target.url(&path),
                    length_bytes: copied.length_bytes,
                    verified: copied.verified,
                    checksum: copied.checksum,
                    resumed_bytes: copied.resumed_bytes,
                });
            }
            Err(failure) => report.failed.push(failed(run.target.url(&path), failure)),
        }
    }
    for step in &rests {
        let target = run.target.url(&step.path);
        match known(run, step, against, how).await {
            Ok(line) => {
                manifest.extend(line.map(|line| (line.path.clone(), line)));
                if step.action == Action::Same {
                    report.same.push(target);
                } else {
                    report.kept.push(target);
                }
            }
            Err(failure) => report.failed.push(failed(target, failure)),
        }
    }
    // Only once everything that should be there is.
    if report.failed.is_empty() {
        for path in deletes {
            match run.retry.run(|| run.target.delete(&path)).await {
                Ok(()) => report.deleted.push(run.target.url(&path)),
                Err(failure) => report.failed.push(failed(run.target.url(&path), failure)),
            }
        }
    }
    report
        .copied
        .sort_by(|one, other| one.source.cmp(&other.source));
    report
        .failed
        .sort_by(|one, other| one.path.cmp(&other.path));
    match &how.manifest {
        Some(file) => manifest::write(file, &manifest),
        None => Ok(()),
    }
}

async fn copy_one(
    run: &Run,
    step: &Step,
    against: Option<&Manifest>,
    policy: Policy,
) -> Outcome<transfer::Copied> {
    let Some(source) = step.source.clone() else {
        return Err(Failure::new(
            Exit::Internal,
            "stage",
            "a copy without a source",
        ));
    };
    let expected = match against {
        Some(against) => Some(expected(against, step)?),
        None => None,
    };
    let job = Job {
        path: step.path.clone(),
        source,
        // What a sync replaces may be replaced; what was not there must still not be.
        only_new: step.action == Action::Copy && policy != Policy::Replace,
        expected,
    };
    transfer::copy(run, &job).await
}

fn expected(against: &Manifest, step: &Step) -> Outcome<String> {
    let line = against.get(&step.path).ok_or_else(|| {
        let message = format!("{:?} is not in the manifest", step.path);
        Failure::new(Exit::Corrupt, "manifest", message)
    })?;
    Ok(line.sha256.clone())
}

/// The manifest's line of a file that is not copied, if one is written or compared.
async fn known(
    run: &Run,
    step: &Step,
    against: Option<&Manifest>,
    how: &How,
) -> Outcome<Option<Line>> {
    if how.manifest.is_none() && against.is_none() {
        return Ok(None);
    }
    let target = run.retry.run(|| run.target.stat(&step.path)).await?;
    let Some(target) = target else {
        return Err(Failure::new(
            Exit::NotFound,
            "target",
            format!("{} is gone", run.target.url(&step.path)),
        ));
    };
    let source = step
        .source
        .as_ref()
        .filter(|_| step.action == Action::Same && run.source.is_local());
    let sha256 = match source {
        Some(source) => transfer::sha256(run, run.source.as_ref(), source).await?,
        None => transfer::sha256(run, run.target.as_ref(), &target).await?,
    };
    if let Some(against) = against {
        let expected = expected(against, step)?;
        if expected != sha256 {
            let message = format!(
                "{} has the SHA-256 {sha256}, the manifest says {expected}",
                run.target.url(&step.path)
            );
            return Err(Failure::new(Exit::Corrupt, "manifest", message));
        }
    }
    Ok(Some(Line {
        path: step.path.clone(),
        size: target.length_bytes.unwrap_or_default(),
        sha256,
        etag: target.etag.filter(|_| !run.target.is_local()),
    }))
}

pub(super) fn failed(path: String, failure: Failure) -> Failed {
    Failed {
        path,
        error: failure.to_string(),
        exit: failure.exit() as u8,
        failure,
    }
}

fn planned(run: &Run, step: &Step) -> Planned {
    Planned {
        action: match step.action {
            Action::Copy => "copy",
            Action::Replace => "replace",
            Action::Same => "same",
            Action::Keep => "keep",
            Action::Delete => "delete",
            Action::Refuse => "refuse",
        },
        target: run.target.url(&step.path),
        source: step
            .source
            .as_ref()
            .map(|entry| run.source.url(&entry.path)),
        length_bytes: step.source.as_ref().and_then(|entry| entry.length_bytes),
    }
}
