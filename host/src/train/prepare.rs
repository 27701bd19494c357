//! What a trainer does outside of the gradient: it prepares items, and has numbers of its own for evaluations.

use std::rc::Rc;

use mdt_plugin_api::{BatchRows, Error, HostBatch, Item, PrepareContext, Result, TrainerContext};

use super::accumulate::Sums;
use super::gradient::Objective;
use crate::config::Packing;
use crate::data::packing;
use crate::generation::Sampler;
use crate::model::{Parameters, TrainedModel};
use crate::random::Stream;

/// The place of a micro-batch in a run, from which its random numbers follow.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What the numbers are for.
    pub purpose: &'static str,
    /// The update, from 1.
    pub update: u64,
    /// The number of the micro-batch in its epoch, over all ranks.
    pub number: u64,
}

impl Place {
    fn seed(self, job: u64) -> u64 {
        let of_update = Stream::new(job, self.purpose, self.update).bits();
        Stream::new(of_update, "micro-batch", self.number).bits()
    }
}

impl Objective {
    /// Items as a batch, after the trainer has prepared them, if it does so. What it has prepared is packed where the job
    /// packs.
    ///
    /// # Errors
    /// The trainer's own; items that are not as items must be.
    pub fn prepared(&self, parameters: &Parameters, place: Place, items: &[&Item]) -> Result<HostBatch> {
        let Some(ability) = &self.trainer.prepare else {
            return self.trainer.collate(&BatchRows::new(items, &vec![1; items.len()])?);
        };
        let prepared = ability.prepare(&self.prepare_context(parameters, place)?, items);
        let mut prepared = prepared.map_err(|error| error.called_by(&self.trainer_name))?;
        let of_trainer = |error: Error| error.in_component(self.trainer_name.as_str());
        prepared.iter_mut().try_for_each(|item| self.items.enforce(item)).map_err(of_trainer)?;
        prepared.retain(|item| item.supervised_tokens() > 0);
        if prepared.is_empty() {
            let message = format!("of {} items none was prepared that has anything to train", items.len());
            return Err(of_trainer(Error::plugin(message)));
        }
        let prepared: Vec<&Item> = prepared.iter().collect();
        let rows = match self.packing {
            Packing::None => (0..prepared.len()).map(|item| vec![item]).collect(),
            Packing::BestFit => {
                let lengths: Vec<_> = prepared.iter().map(|item| packing::lengths(item)).collect();
                packing::best_fit(&lengths, self.items.max_seq_len)
            }
        };
        let in_order: Vec<&Item> = rows.iter().flatten().map(|&item| prepared[item]).collect();
        let items_per_row: Vec<usize> = rows.iter().map(Vec::len).collect();
        self.trainer.collate(&BatchRows::new(&in_order, &items_per_row)?)
    }

    /// Adds the trainer's own numbers of an evaluation, where it has some.
    pub fn add_own_numbers(
        &self,
        parameters: &Parameters,
        place: Place,
        items: &[&Item],
        sums: &mut Sums,
    ) -> Result<()> {
        let Some(ability) = &self.trainer.evaluation else { return Ok(()) };
        for (name, sum, weight) in ability.evaluate(&self.prepare_context(parameters, place)?, items)? {
            sums.add_metric(name, [sum, weight]);
        }
        Ok(())
    }

    /// Prompt and answer of the first one that was drawn since the last call, as text.
    pub fn take_sample(&self) -> Option<[String; 2]> {
        let (prompt, answer) = self.drawn.take()?;
        let text = |tokens: Vec<u32>| self.tokenizer.decode(&tokens).unwrap_or_else(|error| error.to_string());
        Some([text(prompt), text(answer)])
    }

    fn prepare_context(&self, parameters: &Parameters, place: Place) -> Result<PrepareContext> {
        let model = |weights| TrainedModel::new(&self.model, weights, &self.compute);
        let trained = model(parameters.bind()).with_frozen(self.frozen.bind(&self.compute));
        let trainer = TrainerContext::new(Rc::new(trained), Rc::clone(&self.compute));
        let weights = parameters.bind_for_generation(self.model.precision())?;
        let sampler = Sampler { model: model(weights), first: Rc::clone(&self.drawn) };
        Ok(PrepareContext::new(trainer, Rc::new(sampler), place.seed(self.seed)))
    }
}
