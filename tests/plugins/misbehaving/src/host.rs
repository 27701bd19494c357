//! The kinds that work in host memory.

use std::sync::Arc;
use std::time::Duration;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::{Connected, Connects};
use mdt_plugin_api::{NamedFile, RowBatch};

use super::Wrapped;

impl Tokenizer for Wrapped<Arc<dyn Tokenizer>> {
    fn vocabulary(&self) -> Result<Vocabulary> {
        self.at("vocabulary").vocabulary()
    }

    fn encode(&self, text: &str) -> Result<Tokens> {
        self.at("encode").encode(text)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.at("decode").decode(tokens)
    }

    fn render(&self, messages: &[Message]) -> Result<Rendered> {
        self.at("render").render(messages)
    }

    fn render_prompt(&self, messages: &[Message]) -> Result<Rendered> {
        self.at("render_prompt").render_prompt(messages)
    }

    fn files(&self) -> Result<Vec<NamedFile>> {
        self.at("files").files()
    }
}

impl Trainer for Wrapped<Arc<dyn Trainer>> {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        self.at("encode").encode(example)
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        self.at("collate").collate(rows)
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        self.at("loss").loss(ctx, batch)
    }
}

impl Wrapped<Option<Arc<dyn Optimizer>>> {
    fn slices(&self, method: &str) -> &dyn Optimizer {
        &**self.at(method).as_ref().expect("the optimizer works on slices")
    }
}

impl Optimizer for Wrapped<Option<Arc<dyn Optimizer>>> {
    fn states(&self) -> Vec<StateSpec> {
        self.slices("states").states()
    }

    fn granularity(&self, parameter: &ParameterSpec) -> Granularity {
        self.slices("granularity").granularity(parameter)
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()> {
        self.slices("update").update(update, parameter, gradient, states)
    }
}

impl DataSource for Wrapped<Box<dyn DataSource>> {
    fn length(&mut self) -> Result<Length> {
        self.at_mut("length").length()
    }

    fn next(&mut self) -> Result<Option<Example>> {
        self.inner.next()
    }

    fn state(&self) -> Result<String> {
        self.at("state").state()
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        self.at_mut("restore").restore(state)
    }

    fn batch(&mut self, most: usize) -> Result<RowBatch> {
        self.at_mut("batch").batch(most)
    }
}

impl CommBackend for Wrapped<Box<dyn Connects>> {
    type Communicator = Wrapped<Connected>;

    fn capabilities(&self) -> Result<Capabilities> {
        self.at("capabilities").capabilities()
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<Wrapped<Connected>> {
        Ok(Wrapped { inner: self.at("open").open(bootstrap)?, trap: self.trap.clone() })
    }
}

impl Wrapped<Connected> {
    fn work(&self, inner: Box<dyn Work>) -> Box<dyn Work> {
        Box::new(Wrapped { inner, trap: self.trap.clone() })
    }
}

impl Communicator for Wrapped<Connected> {
    fn rank(&self) -> u32 {
        self.at("rank").rank()
    }

    fn world_size(&self) -> u32 {
        self.at("world_size").world_size()
    }

    fn all_reduce(&self, buffers: Vec<Buffer>, op: ReduceOp) -> Result<Box<dyn Work>> {
        Ok(self.work(self.at("all_reduce").all_reduce(buffers, op)?))
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        Ok(self.work(self.at("all_gather").all_gather(buffer)?))
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        Ok(self.work(self.at("broadcast").broadcast(buffers, root)?))
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        Ok(self.work(self.at("barrier").barrier()?))
    }

    fn abort(&self, reason: &str) {
        self.at("abort").abort(reason);
    }
}

impl Work for Wrapped<Box<dyn Work>> {
    fn wait(&mut self, deadline: Duration) -> Result<Outcome> {
        self.at_mut("wait").wait(deadline)
    }

    fn progress(&self) -> u64 {
        self.at("progress").progress()
    }
}

impl Observer for Wrapped<Box<dyn Observer>> {
    fn observe(&mut self, observation: &Observation) -> Result<()> {
        self.at_mut("observe").observe(observation)
    }
}
