//! What to do with each path: pure, from two listings and a rule.
//!
//! 1. Each path of the source gets one step, each path of the target at most one.
//! 2. Nothing that is there is replaced or deleted unless the rule says so.
//! 3. Only a sync that was told to deletes, and only what the source does not have.
//! 4. A plan carried out leaves nothing to do: planned again, all its steps are skips.

use super::checksum::Algorithm;
use std::collections::BTreeMap;

/// A file at one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Below the root of its side, parts divided by `/`.
    pub(crate) path: String,
    /// Bytes, if the side tells.
    pub(crate) length_bytes: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub(crate) modified_ms: Option<i64>,
    /// What changes when the content does.
    pub(crate) etag: Option<String>,
    /// Checksums as S3 writes them: base64, or `<base64>-<parts>`.
    pub(crate) sums: Vec<(Algorithm, String)>,
    /// Whether a part of it can be asked for.
    pub(crate) ranges: bool,
}

impl Entry {
    /// The same content, as far as can be told: what a half-done transfer is continued by.
    pub(crate) fn stamp(&self) -> String {
        format!(
            "{}:{}:{}",
            self.length_bytes
                .map_or_else(String::new, |length| length.to_string()),
            self.modified_ms
                .map_or_else(String::new, |time| time.to_string()),
            self.etag.as_deref().unwrap_or_default()
        )
    }
}

/// A listing: by the path at the target.
pub(crate) type Listing = BTreeMap<String, Entry>;

/// What makes two files the same for a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Compare {
    /// As long, and the target is not older
    Time,
    /// The same checksum; copied again where none is common
    Checksum,
    /// As long
    Length,
}

/// What to do where the target has the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Refuse, unless it is proven to be the same.
    Refuse,
    /// Leave it.
    Keep,
    /// Replace it.
    Replace,
    /// Make the target like the source.
    Sync {
        /// What makes two the same.
        compare: Compare,
        /// Whether to delete what the source does not have.
        delete: bool,
    },
}

/// What checksums say about a path at both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Same content.
    Same,
    /// Another content.
    Differs,
}

/// What to do with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Copy: it is not there.
    Copy,
    /// Copy in place of what is there.
    Replace,
    /// It is there with the same content.
    Same,
    /// It is there and stays, whatever it is.
    Keep,
    /// It is there, and nobody allowed to replace it.
    Refuse,
    /// It is there and not in the source.
    Delete,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The path at the target.
    pub(crate) path: String,
    /// What to do.
    pub(crate) action: Action,
    /// What the source has.
    pub(crate) source: Option<Entry>,
    /// What the target has.
    pub(crate) target: Option<Entry>,
}

/// Whether the plan depends on what checksums say about this pair.
pub(crate) fn asks_for_checksums(source: &Entry, target: &Entry, policy: Policy) -> bool {
    let asks = matches!(
        policy,
        Policy::Refuse
            | Policy::Sync {
                compare: Compare::Checksum,
                ..
            }
    );
    asks && source.length_bytes == target.length_bytes && source.length_bytes.is_some()
}

/// Decides.
pub(crate) fn plan(
    sources: &Listing,
    targets: &Listing,
    verdicts: &BTreeMap<String, Verdict>,
    policy: Policy,
) -> Vec<Step> {
    let mut steps: Vec<Step> = sources
        .iter()
        .map(|(path, source)| {
            let target = targets.get(path);
            let verdict = verdicts.get(path).copied();
            Step {
                path: path.clone(),
                action: target.map_or(Action::Copy, |target| {
                    meets(source, target, verdict, policy)
                }),
                source: Some(source.clone()),
                target: target.cloned(),
            }
        })
        .collect();
    if let Policy::Sync { delete: true, .. } = policy {
        let only_there = targets
            .iter()
            .filter(|(path, _)| !sources.contains_key(*path));
        steps.extend(only_there.map(|(path, target)| Step {
            path: path.clone(),
            action: Action::Delete,
            source: None,
            target: Some(target.clone()),
        }));
    }
    steps
}

fn meets(source: &Entry, target: &Entry, verdict: Option<Verdict>, policy: Policy) -> Action {
    let as_long = source.length_bytes.is_some() && source.length_bytes == target.length_bytes;
    let proven = as_long && verdict == Some(Verdict::Same);
    let same = match policy {
        Policy::Keep => return Action::Keep,
        Policy::Replace => return Action::Replace,
        Policy::Refuse => {
            return if proven { Action::Same } else { Action::Refuse };
        }
        Policy::Sync { compare, .. } => match compare {
            Compare::Length => as_long,
            Compare::Checksum => proven,
            Compare::Time => {
                let times = source.modified_ms.zip(target.modified_ms);
                // HTTP and CDMI tell whole seconds.
                as_long && times.is_some_and(|(source, target)| target / 1000 >= source / 1000)
            }
        },
    };
    if same { Action::Same } else { Action::Replace }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Files of a model: a path, a content (its length too), and when it was written.
    type Model = BTreeMap<String, (u8, i64)>;

    fn listing(model: &Model) -> Listing {
        model
            .iter()
            .map(|(path, (content, modified))| {
                let entry = Entry {
                    path: path.clone(),
                    length_bytes: Some(u64::from(content / 4)),
                    modified_ms: Some(modified * 1000),
                    ..Entry::default()
                };
                (path.clone(), entry)
            })
            .collect()
    }

    fn verdicts(source: &Model, target: &Model) -> BTreeMap<String, Verdict> {
        let judge = |(path, (content, _)): (&String, &(u8, i64))| {
            let (other, _) = target.get(path)?;
            Some((
                path.clone(),
                if content == other {
                    Verdict::Same
                } else {
                    Verdict::Differs
                },
            ))
        };
        source.iter().filter_map(judge).collect()
    }

    fn planned(source: &Model, target: &Model, policy: Policy) -> Vec<Step> {
        plan(
            &listing(source),
            &listing(target),
            &verdicts(source, target),
            policy,
        )
    }

    fn carry_out(steps: &[Step], source: &Model, target: &mut Model) {
        for step in steps {
            match step.action {
                Action::Copy | Action::Replace => {
                    let (content, _) = source[&step.path];
                    target.insert(step.path.clone(), (content, 1000));
                }
                Action::Delete => {
                    target.remove(&step.path);
                }
                Action::Same | Action::Keep | Action::Refuse => {}
            }
        }
    }

    fn model() -> impl Strategy<Value = Model> {
        proptest::collection::btree_map("[a-d]/?[a-d]", (0u8..16, 0i64..100), 0..8)
    }

    fn policy() -> impl Strategy<Value = Policy> {
        let compare = prop_oneof![
            Just(Compare::Time),
            Just(Compare::Checksum),
            Just(Compare::Length)
        ];
        prop_oneof![
            Just(Policy::Refuse),
            Just(Policy::Keep),
            Just(Policy::Replace),
            (compare, any::<bool>()).prop_map(|(compare, delete)| Policy::Sync { compare, delete }),
        ]
    }

    proptest! {
        #[test]
        fn each_path_has_one_step_and_the_step_fits_what_is_there(
            source in model(), target in model(), policy in policy(),
        ) {
            let steps = planned(&source, &target, policy);
            let paths: std::collections::BTreeSet<&String> = steps.iter().map(|step| &step.path).collect();
            prop_assert_eq!(paths.len(), steps.len());
            prop_assert!(source.keys().all(|path| paths.contains(path)));
            for step in &steps {
                let (has, had) = (source.contains_key(&step.path), target.contains_key(&step.path));
                let fits = match step.action {
                    Action::Copy => has && !had,
                    Action::Replace => {
                        has && had && matches!(policy, Policy::Replace | Policy::Sync { .. })
                    }
                    Action::Same | Action::Keep | Action::Refuse => has && had,
                    Action::Delete => {
                        !has && had && matches!(policy, Policy::Sync { delete: true, .. })
                    }
                };
                prop_assert!(fits, "{step:?}");
            }
        }

        #[test]
        fn a_sync_by_checksum_with_delete_makes_both_sides_the_same(source in model(), target in model()) {
            let policy = Policy::Sync { compare: Compare::Checksum, delete: true };
            let mut after = target.clone();
            carry_out(&planned(&source, &target, policy), &source, &mut after);
            let content = |model: &Model| -> Vec<(String, u8)> {
                model.iter().map(|(path, (content, _))| (path.clone(), *content)).collect()
            };
            prop_assert_eq!(content(&after), content(&source));
        }

        #[test]
        fn a_sync_carried_out_leaves_nothing_to_do(
            source in model(), target in model(), policy in policy(),
        ) {
            prop_assume!(matches!(policy, Policy::Sync { .. }));
            let mut after = target.clone();
            carry_out(&planned(&source, &target, policy), &source, &mut after);
            let again = planned(&source, &after, policy);
            prop_assert!(again.iter().all(|step| step.action == Action::Same), "{again:?}");
        }

        #[test]
        fn a_copy_cut_short_and_begun_again_is_not_refused(
            source in model(), target in model(), cut in 0usize..8,
        ) {
            let steps = planned(&source, &target, Policy::Refuse);
            prop_assume!(steps.iter().all(|step| step.action != Action::Refuse));
            let mut after = target.clone();
            carry_out(&steps[..cut.min(steps.len())], &source, &mut after);
            let again = planned(&source, &after, Policy::Refuse);
            prop_assert!(again.iter().all(|step| step.action != Action::Refuse));
            carry_out(&again, &source, &mut after);
            prop_assert!(source.iter().all(|(path, (content, _))| after[path].0 == *content));
        }
    }

    #[test]
    fn a_side_that_tells_no_length_is_never_taken_for_the_same() {
        let unknown = Entry {
            path: "a".into(),
            ..Entry::default()
        };
        let one = Listing::from([("a".to_owned(), unknown)]);
        let verdicts = BTreeMap::from([("a".to_owned(), Verdict::Same)]);
        for compare in [Compare::Time, Compare::Checksum, Compare::Length] {
            let steps = plan(
                &one,
                &one,
                &verdicts,
                Policy::Sync {
                    compare,
                    delete: false,
                },
            );
            assert_eq!(steps[0].action, Action::Replace);
        }
    }
}
