//! Checks that all ranks run the same job: their manifests before the first update, their bits at every save.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::builds::{Build, Builds, Sameness};
use crate::checkpoint::State;
use crate::checksum;
use crate::config::{self, Difference};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::model::Parameters;
use crate::peers::Peers;
use crate::progress;

/// What each rank reports before training, so that ranks can be compared.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RankManifest {
    /// Version of the program.
    program: String,
    /// Configuration keys that results depend on, with their values.
    keys: BTreeMap<String, Value>,
    /// The build of each component.
    builds: Builds,
    /// The components whose builds are equivalent because the configuration says so.
    #[serde(default)]
    equivalent: Vec<String>,
    /// Fingerprints of the training and held-out data.
    data: BTreeMap<String, Value>,
    /// The processor of the rank, as far as bits depend on it.
    processor: String,
    /// Where the first rank starts; the others follow it.
    pub(super) start: Start,
}

/// Where a run starts: from the checkpoint of the first rank, if it has one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Start {
    /// Updates that are done.
    pub(super) update: u64,
    /// What the loop stored in the checkpoint beside arrays.
    pub(super) progress: Value,
    /// Whether weights and states are those of a checkpoint.
    pub(super) resumed: bool,
}

impl Start {
    /// Where a run continues from a checkpoint with this state.
    pub(super) fn of(state: &State) -> Self {
        Self { update: state.update, progress: state.progress.clone(), resumed: true }
    }
}

impl RankManifest {
    pub(super) fn new(job: &Job, data: BTreeMap<String, Value>, builds: Builds, processor: &str, start: Start) -> Self {
        let (program, processor) = (env!("CARGO_PKG_VERSION").to_owned(), processor.to_owned());
        let equivalent = job.resolved.settings.plugins.equivalent.clone();
        Self { program, keys: job.resolved.fixed_keys(), builds, equivalent, data, processor, start }
    }

    /// Exchanges manifests with all other ranks and compares them. Returns the start of rank 0, which all ranks follow.
    ///
    /// # Errors
    /// The first difference from rank 0, with what else differs; the same on all ranks.
    pub(super) fn agree(&self, peers: &Peers) -> Result<Start, Failure> {
        let manifests = peers.gather_values("what each rank runs", self)?;
        let Some((first, others)) = manifests.split_first() else { return Ok(self.start.clone()) };
        for (rank, other) in (1..).zip(others) {
            first.require_same(other, rank)?;
        }
        if peers.is_first() {
            note_builds(&manifests).iter().chain(&note_processors(&manifests)).for_each(|note| progress::note(note));
        }
        Ok(first.start.clone())
    }

    /// How the build of a component on another rank is known to be the same as here.
    fn sameness(&self, component: &str, build: &Build) -> Option<Sameness> {
        self.builds.get(component)?.sameness(build)
    }

    /// The builds of two ranks that may be different programs.
    fn other_builds(&self, other: &Self) -> [BTreeMap<String, Value>; 2] {
        let is_same = |component: &String| match (self.builds.get(component), other.builds.get(component)) {
            (Some(one), Some(other)) => one.sameness(other).is_some() || self.equivalent.contains(component),
            _ => false,
        };
        [self, other].map(|manifest| {
            let others = manifest.builds.iter().filter(|(component, _)| !is_same(component));
            others.map(|(component, build)| (component.clone(), build.to_string().into())).collect()
        })
    }

    fn require_same(&self, other: &RankManifest, rank: usize) -> Result<(), Failure> {
        let program = |manifest: &RankManifest| {
            BTreeMap::from([("version of mdt-host".to_owned(), manifest.program.clone().into())])
        };
        let [builds, other_builds] = self.other_builds(other);
        let parts = [
            (Status::Configuration, &program(self), &program(other), "run the same version on every rank"),
            (Status::Configuration, &self.keys, &other.keys, "give every rank the same configuration"),
            (
                Status::Plugin,
                &builds,
                &other_builds,
                "copy the same plugin files to every rank, or build them from the same sources; if you know that builds \
                 are equivalent, name them in `plugins.equivalent`",
            ),
            (Status::Input, &self.data, &other.data, "give every rank the same data and tokenizer"),
        ];
        for (status, first, other, help) in parts {
            let differences = config::differing(first, other);
            let Some(Difference { key, .. }) = differences.first() else { continue };
            let more = match differences.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            let message = format!("rank {rank} differs from rank 0 in `{key}`{more}");
            let failure = differences.iter().fold(Failure::new(status, message), |failure, difference| {
                let (key, [first, other]) = (&difference.key, difference.values());
                failure.because(format!("{key} is {first} on rank 0 and {other} on rank {rank}"))
            });
            return Err(failure.help(help));
        }
        Ok(())
    }
}

/// A note of the components whose files differ between ranks.
fn note_builds(manifests: &[RankManifest]) -> Option<String> {
    let (first, others) = manifests.split_first()?;
    let differs = |component: &str, how: Option<Sameness>| {
        let has_it = |manifest: &RankManifest| {
            manifest.builds.get(component).is_some_and(|build| first.sameness(component, build) == how)
        };
        others.iter().any(has_it)
    };
    let named = |how| -> Vec<&str> {
        first.builds.keys().map(String::as_str).filter(|component| differs(component, how)).collect()
    };
    let (by_sources, by_configuration) = (named(Some(Sameness::Sources)), named(None));
    let parts =
        [(by_sources, "built from the same sources"), (by_configuration, "equivalent, as `plugins.equivalent` says")];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(components, _)| !components.is_empty())
        .map(|(components, why)| format!("{} ({why})", components.join(", ")))
        .collect();
    (!parts.is_empty()).then(|| format!("note: ranks have different files of {}", parts.join(" and of ")))
}

/// A warning if ranks compute with something else: which one with what.
fn note_processors(manifests: &[RankManifest]) -> Option<String> {
    let mut ranks_of: Vec<(&str, Vec<String>)> = Vec::new();
    for (rank, manifest) in manifests.iter().enumerate() {
        match ranks_of.iter_mut().find(|(processor, _)| *processor == manifest.processor) {
            Some((_, ranks)) => ranks.push(rank.to_string()),
            None => ranks_of.push((&manifest.processor, vec![rank.to_string()])),
        }
    }
    let is_told = ranks_of.len() > 1;
    let parts = ranks_of.into_iter().map(|(processor, ranks)| {
        let noun = if ranks.len() == 1 { "rank" } else { "ranks" };
        format!("{noun} {} with {processor}", ranks.join(", "))
    });
    is_told.then(|| {
        format!(
            "warning: ranks do not compute with the same, so the results are not bit for bit those of equal machines, and an \
             optimizer on the device may end the job at its next checkpoint: {}",
            parts.collect::<Vec<_>>().join("; ")
        )
    })
}

/// Checks that all ranks hold the same bits, `what` saying of what and when.
///
/// # Errors
/// Names a rank whose bits are not those of rank 0; the same on all ranks.
pub(super) fn require_same_bits<'a>(
    peers: &Peers,
    what: &str,
    arrays: impl Iterator<Item = &'a [f32]>,
) -> Result<(), Failure> {
    require_same_bytes(peers, what, arrays.map(bytemuck::cast_slice))
}

/// The same for the quantised ones of these weights.
///
/// # Errors
/// As [`require_same_bits`].
pub(super) fn require_same_quantised(peers: &Peers, what: &str, parameters: &Parameters) -> Result<(), Failure> {
    if peers.world_size() == 1 {
        return Ok(());
    }
    parameters.with_quantised_arrays(|arrays| require_same_bytes(peers, what, arrays.iter().map(|array| array.bytes)))
}

/// The same of elements of any type.
///
/// # Errors
/// As [`require_same_bits`].
pub(super) fn require_same_bytes<'a>(
    peers: &Peers,
    what: &str,
    arrays: impl Iterator<Item = &'a [u8]>,
) -> Result<(), Failure> {
    if peers.world_size() == 1 {
        return Ok(());
    }
    let digest = checksum::of_arrays(arrays);
    progress::debug(&format!("sha256 of {what}: {digest}"));
    let digests = peers.gather_texts(&format!("the checksum of {what}"), digest.clone())?;
    let Some(rank) = digests.iter().position(|other| *other != digests[0]) else {
        return Ok(());
    };
    let mut failure =
        Failure::new(Status::Peer, format!("rank {rank} does not have the same bits as rank 0 in {what}"));
    for (rank, digest) in digests.iter().enumerate() {
        failure = failure.because(format!("sha256 on rank {rank}: {digest}"));
    }
    Err(failure
        .help("ranks with different processors, libraries or model files cannot promise equal bits; use equal ones"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn build(sha256: &str, sources: &str) -> Build {
        Build { version: "1".to_owned(), sha256: sha256.to_owned(), sources: sources.to_owned() }
    }

    fn manifest(rate: f64, sha: &str) -> RankManifest {
        RankManifest {
            program: "1".to_owned(),
            keys: BTreeMap::from([("optimizer.learning_rate".to_owned(), json!(rate))]),
            builds: BTreeMap::from([("optimizer/adamw".to_owned(), build(sha, ""))]),
            equivalent: Vec::new(),
            data: BTreeMap::new(),
            processor: "x86_64".to_owned(),
            start: Start::default(),
        }
    }

    #[test]
    fn a_difference_names_rank_key_and_both_values() {
        assert!(manifest(0.1, "a").require_same(&manifest(0.1, "a"), 1).is_ok());
        let failure = manifest(0.1, "a").require_same(&manifest(0.2, "b"), 3).unwrap_err();
        assert_eq!(failure.status(), Status::Configuration);
        let text = failure.to_string();
        assert!(text.contains("rank 3 differs from rank 0 in `optimizer.learning_rate`"), "{text}");
        assert!(text.contains("is 0.1 on rank 0 and 0.2 on rank 3"), "{text}");
        let failure = manifest(0.1, "a").require_same(&manifest(0.1, "b"), 1).unwrap_err();
        assert_eq!(failure.status(), Status::Plugin);
    }

    #[test]
    fn ranks_that_compute_with_something_else_are_named_and_not_refused() {
        let first = manifest(0.1, "a");
        let other = RankManifest { processor: "aarch64".to_owned(), ..manifest(0.1, "a") };
        assert!(first.require_same(&other, 2).is_ok());
        let note = note_processors(&[first, other, manifest(0.1, "a")]).unwrap();
        assert!(note.ends_with(": ranks 0, 2 with x86_64; rank 1 with aarch64"), "{note}");
        assert_eq!(note_processors(&[manifest(0.1, "a"), manifest(0.1, "a")]), None);
    }

    #[test]
    fn files_may_differ_where_sources_are_the_same_or_the_configuration_says_so() {
        let with = |builds: [Build; 2], equivalent: &[&str]| RankManifest {
            builds: ["data/jsonl", "optimizer/lion"].map(str::to_owned).into_iter().zip(builds).collect(),
            equivalent: equivalent.iter().map(|&component| component.to_owned()).collect(),
            ..manifest(0.1, "a")
        };
        let first = with([build("a", "s"), build("b", "")], &[]);
        assert_eq!(note_builds(&[first, with([build("a", "s"), build("b", "")], &[])]), None);
        let first = with([build("a", "s"), build("b", "")], &[]);
        let same_sources = with([build("c", "s"), build("b", "")], &[]);
        assert!(first.require_same(&same_sources, 1).is_ok());
        let note = note_builds(&[first, same_sources]).unwrap();
        assert_eq!(note, "note: ranks have different files of data/jsonl (built from the same sources)");
        let other = || with([build("c", "s"), build("d", "")], &["optimizer/lion"]);
        let failure = with([build("a", "s"), build("b", "")], &[]).require_same(&other(), 1).unwrap_err().to_string();
        assert!(failure.contains("rank 1 differs from rank 0 in `optimizer/lion`"), "{failure}");
        assert!(!failure.contains("data/jsonl"), "{failure}");
        let first = with([build("a", "s"), build("b", "")], &["optimizer/lion"]);
        assert!(first.require_same(&other(), 1).is_ok());
        let note = note_builds(&[first, other()]).unwrap();
        assert!(note.ends_with("and of optimizer/lion (equivalent, as `plugins.equivalent` says)"), "{note}");
    }
}
