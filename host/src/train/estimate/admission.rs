//! Whether a job fits into memory, and what would make it fit.

use super::Estimate;
use crate::config::{CheckpointActivations, Dtype, Settings};
use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::memory::size;

/// The memory that a job may use.
#[derive(Clone, Copy, Debug)]
pub struct Available {
    /// Bytes that are available beside those that this process has already.
    pub bytes: u64,
    /// Bytes that this process has already.
    pub resident: u64,
    /// Ranks of the job that share this memory.
    pub ranks: u64,
}

impl Available {
    /// Whether such a job fits.
    pub(super) fn holds(self, estimate: &Estimate) -> bool {
        let to_come = estimate.needed().saturating_sub(self.resident);
        // An estimate may be a few percent too low.
        (to_come + to_come / 20).saturating_mul(self.ranks) <= self.bytes
    }

    /// What this process may have, with what it has, in words.
    pub fn text(self) -> String {
        size(self.of_a_rank())
    }

    /// The same in bytes.
    pub fn of_a_rank(self) -> u64 {
        self.all() / self.ranks
    }

    /// All that the ranks of a job may have together.
    fn all(self) -> u64 {
        self.bytes.saturating_add(self.resident.saturating_mul(self.ranks))
    }
}

/// A change of the configuration that makes a job smaller.
pub(super) struct Change {
    /// The keys that it sets, as `--set` takes them.
    pub(super) keys: String,
    pub(super) settings: Settings,
}

/// The changes that are tried, those that change least of what is trained first, or only those that help without training; of
/// changes of one kind, the first one that fits is named.
pub(super) fn changes(settings: &Settings, trains: bool) -> Vec<Vec<Change>> {
    let change = |keys: String, apply: &dyn Fn(&mut Settings)| {
        let mut settings = settings.clone();
        apply(&mut settings);
        Change { keys, settings }
    };
    let trainer = &settings.trainer;
    let halves = |of: u32, least: u32| {
        std::iter::successors(Some(of / 2), |half| Some(half / 2)).take_while(move |&half| half >= least)
    };
    let batches = halves(trainer.batch_size, 1).map(|rows| {
        let steps = trainer.gradient_accumulation_steps * trainer.batch_size.div_ceil(rows);
        change(format!("trainer.batch_size={rows} trainer.gradient_accumulation_steps={steps}"), &|settings| {
            settings.trainer.batch_size = rows;
            settings.trainer.gradient_accumulation_steps = steps;
        })
    });
    let half = change("compute.dtype=bfloat16".to_owned(), &|settings| settings.compute.dtype = Dtype::Bfloat16);
    let half: Vec<_> = (settings.compute.dtype == Dtype::Float32).then_some(half).into_iter().collect();
    let mut changes = vec![batches.collect::<Vec<_>>()];
    if !trains {
        changes.push(half);
        return changes;
    }
    if trainer.checkpoint_activations == CheckpointActivations::None {
        changes.push(vec![change("trainer.checkpoint_activations=all".to_owned(), &|settings| {
            settings.trainer.checkpoint_activations = CheckpointActivations::All;
        })]);
    }
    let lengths = halves(trainer.max_seq_len, 64).map(|tokens| {
        change(format!("trainer.max_seq_len={tokens}"), &|settings| settings.trainer.max_seq_len = tokens)
    });
    changes.push(lengths.collect());
    changes.push(half);
    let model = &settings.model;
    if model.adapter.is_none() && model.freeze.is_empty() && model.train.is_none() {
        changes.push(vec![change("model.adapter=lora".to_owned(), &|settings| {
            settings.model.adapter = Some(Default::default());
        })]);
    }
    if model.quantize.is_none() {
        let with_adapter = if model.adapter.is_none() { "model.adapter=lora " } else { "" };
        changes.push(vec![change(format!("{with_adapter}model.quantize.bits=4"), &|settings| {
            settings.model.adapter.get_or_insert_default();
            settings.model.quantize = Some(Default::default());
        })]);
    }
    changes
}

/// The error of a job that does not fit. `smaller` has the changes that would make it fit, with their estimates.
pub(super) fn refusal(estimate: &Estimate, available: Available, smaller: &[(String, Estimate)]) -> Failure {
    let whose = match available.ranks {
        1 => "the job needs".to_owned(),
        ranks => format!("{} of the job on this machine need", counted(ranks as usize, "rank")),
    };
    let message = format!(
        "{whose} about {} of memory, and {} are available",
        size(estimate.needed().saturating_mul(available.ranks)),
        size(available.all())
    );
    let each = if available.ranks > 1 { "each rank: " } else { "" };
    let failure = Failure::new(Status::Input, message).because(format!("{each}{estimate}"));
    let anyway = "run it anyway with `--force`: the system may end it";
    let changes: Vec<String> = smaller
        .iter()
        .map(|(keys, estimate)| format!("`{}` ({})", set(keys), size(estimate.needed() * available.ranks)))
        .collect();
    failure.help(match changes.as_slice() {
        [] => format!("choose a smaller model, or a machine with more memory; or {anyway}"),
        changes => format!("one of these would make it fit: {}; or {anyway}", changes.join(", ")),
    })
}

fn set(keys: &str) -> String {
    keys.split(' ').map(|key| format!("--set {key}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn of(activations: u64) -> Estimate {
        Estimate {
            weights: GIB,
            states: 2 * GIB,
            gradients: GIB,
            activations: Some(activations),
            ..Estimate::default()
        }
    }

    #[test]
    fn ranks_of_one_machine_count_together() {
        let available = |ranks| Available { bytes: 11 * GIB, resident: 0, ranks };
        assert!(available(1).holds(&of(GIB)) && available(2).holds(&of(GIB)), "two ranks need 10 GiB");
        assert!(!available(3).holds(&of(GIB)));
        let text = refusal(&of(GIB), available(3), &[]).to_string();
        assert!(
            text.contains("3 ranks of the job on this machine need about 15.0 GiB of memory, and 11.0 GiB"),
            "{text}"
        );
    }

    #[test]
    fn what_the_process_has_already_is_not_needed_again() {
        let available = |resident| Available { bytes: 9 * GIB / 2, resident, ranks: 1 };
        assert!(!available(0).holds(&of(GIB)) && available(GIB).holds(&of(GIB)));
    }

    #[test]
    fn files_that_weights_are_read_from_need_no_memory_that_the_system_could_not_free() {
        let read = Estimate { files: 100 * GIB, ..of(0) };
        assert_eq!((read.needed(), read.peak()), (4 * GIB, 101 * GIB));
    }

    #[test]
    fn a_refusal_names_what_would_make_the_job_fit_with_its_estimate() {
        let available = Available { bytes: 5 * GIB, resident: 0, ranks: 1 };
        let smaller = [("trainer.batch_size=1 trainer.gradient_accumulation_steps=8".to_owned(), of(GIB / 2))];
        let text = refusal(&of(9 * GIB), available, &smaller).to_string();
        assert!(
            text.contains("`--set trainer.batch_size=1 --set trainer.gradient_accumulation_steps=8` (4.5 GiB)"),
            "{text}"
        );
        assert!(text.contains("13.0 GiB") && text.contains("--force"), "{text}");
    }

    #[test]
    fn a_smaller_batch_keeps_the_rows_of_an_update() {
        let mut settings = Settings::default();
        (settings.trainer.batch_size, settings.trainer.gradient_accumulation_steps) = (8, 2);
        let batches: Vec<_> = changes(&settings, true).remove(0);
        let rows = |trainer: &crate::config::Trainer| trainer.batch_size * trainer.gradient_accumulation_steps;
        assert_eq!(batches.len(), 3);
        assert!(batches.iter().all(|change| rows(&change.settings.trainer) == 16));
    }
}
