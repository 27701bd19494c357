//! Checks that all ranks run the same job: their manifests before the first update, their bits at every save.

use std::collections::BTreeMap;

use mdt_plugin_api::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

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
    /// Each component, as `optimizer adamw`, with its version and the checksum of its file.
    plugins: BTreeMap<String, Value>,
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
    pub(super) fn new(
        job: &Job,
        data: BTreeMap<String, Value>,
        processor: &str,
        start: Start,
    ) -> Result<Self, Failure> {
        let mut plugins = BTreeMap::new();
        for kind in Kind::ALL {
            let Some(chosen) = job.resolved.component(kind) else { continue };
            let version = job.catalog.component(kind, &chosen.id)?.version().to_owned();
            let checksum = job.catalog.checksum(kind, &chosen.id)?;
            plugins.insert(format!("{kind} {}", chosen.id), format!("{version}, sha256 {checksum}").into());
        }
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self { program, keys: job.resolved.fixed_keys(), plugins, data, processor: processor.to_owned(), start })
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
            first.compare_processors(other, rank).iter().for_each(|note| progress::note(note));
        }
        Ok(first.start.clone())
    }

    /// A note for ranks whose bits may differ, because they compute with something else.
    fn compare_processors(&self, other: &RankManifest, rank: usize) -> Option<String> {
        (self.processor != other.processor).then(|| {
            format!(
                "warning: ranks may compute different bits, which stops the job at its next checkpoint: rank 0 computes \
                 with {}, rank {rank} with {}",
                self.processor, other.processor
            )
        })
    }

    fn require_same(&self, other: &RankManifest, rank: usize) -> Result<(), Failure> {
        let program = |manifest: &RankManifest| {
            BTreeMap::from([("version of mdt-host".to_owned(), manifest.program.clone().into())])
        };
        let parts = [
            (Status::Configuration, &program(self), &program(other), "run the same version on every rank"),
            (Status::Configuration, &self.keys, &other.keys, "give every rank the same configuration"),
            (Status::Plugin, &self.plugins, &other.plugins, "copy the same plugin files to every rank"),
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
    let digest = digest(arrays);
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

/// A checksum of all elements in order.
pub(super) fn digest<'a>(arrays: impl Iterator<Item = &'a [u8]>) -> String {
    use rayon::prelude::*;
    const CHUNK: usize = 1 << 20;
    let chunks: Vec<&[u8]> = arrays.flat_map(|array| array.chunks(CHUNK)).collect();
    let leaves: Vec<_> = chunks
        .into_par_iter()
        .map(|chunk| {
            let mut digest = Sha256::new();
            digest.update(chunk);
            digest.finalize()
        })
        .collect();
    let mut digest = Sha256::new();
    leaves.iter().for_each(|leaf| digest.update(leaf));
    checksum::hexadecimal(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest(rate: f64, sha: &str) -> RankManifest {
        RankManifest {
            program: "1".to_owned(),
            keys: BTreeMap::from([("optimizer.learning_rate".to_owned(), json!(rate))]),
            plugins: BTreeMap::from([("optimizer adamw".to_owned(), json!(sha))]),
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
        let note = first.compare_processors(&other, 2).unwrap();
        assert!(note.contains("rank 0 computes with x86_64, rank 2 with aarch64"), "{note}");
        assert_eq!(first.compare_processors(&manifest(0.1, "a"), 2), None);
    }

    #[test]
    fn the_digest_sees_every_bit_and_not_where_arrays_end_up_in_memory() {
        let values: Vec<f32> = (0..600_000).map(|n| n as f32).collect();
        let digest = |values: &[f32]| digest(std::iter::once(bytemuck::cast_slice(values)));
        let whole = digest(&values);
        assert_eq!(whole, digest(&values.clone()));
        let mut other = values;
        other[599_999] = -other[599_999];
        assert_ne!(whole, digest(&other));
    }
}
