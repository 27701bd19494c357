//! Models in this process, through the plugins that the program loads.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use mdt_host::config::{Layers, Sources};
use mdt_host::job::Job;
use mdt_host::model::{Cache, DescribedModel, Holding, Packing, Parameters, TrainedModel};
use mdt_host::plugins::{Catalog, Tier};
use mdt_plugin_api::{Batch, Compute, HostArray, HostBatch, ModelCalls, Tensor, TrainerContext};

use crate::built;

/// A job of these keys, each as `--set` takes it, with the plugins that were built.
pub fn library_job(set: &[String]) -> Job {
    job_with_plugins(set, &[built()])
}

fn job_with_plugins(set: &[String], directories: &[&Path]) -> Job {
    let layers = Layers::read(&Sources { set: set.to_vec(), ..Sources::default() }).expect("the keys are read");
    let tier = |&directory: &&Path| Tier { origin: "the tests", directory: directory.to_owned(), only_named_by: None };
    let catalog = Catalog::scan(directories.iter().map(tier).collect(), None).expect("the plugins are found");
    let resolved = layers.resolve(&catalog).expect("the keys are right");
    Job { resolved, catalog: Arc::new(catalog), services: Arc::default() }
}

/// A model with its weights on the device. Stays on the thread that made it.
pub struct LoadedModel {
    compute: Rc<dyn Compute>,
    model: DescribedModel,
    parameters: Parameters,
}

impl LoadedModel {
    /// Loads a directory.
    pub fn open(directory: &Path) -> Self {
        Self::of(directory, &[built()])
    }

    /// Loads a directory with the plugin of an example.
    pub fn open_with(directory: &Path, plugin: &Path) -> Self {
        let place = plugin.parent().expect("a file has a directory");
        Self::of(directory, &[place, built()])
    }

    /// Loads a directory with the adapter in another one.
    pub fn open_adapted(directory: &Path, adapter: &Path) -> Self {
        let keys = [("model.path", directory), ("model.adapter.path", adapter)];
        let keys = keys.map(|(key, path)| format!("{key}={}", path.display()));
        let job = library_job(&keys);
        let opened = job.open_model(job.compute().expect("the device")).expect("the model");
        let parameters = opened.weights().expect("the weights");
        Self { compute: opened.compute, model: opened.model, parameters }
    }

    /// Loads a directory, frozen and quantised: bits of an element, and elements of a group.
    pub fn open_quantised(directory: &Path, bits: usize, group_size: usize) -> Self {
        Self::loaded(directory, &[built()], Some(Packing { bits, group_size }))
    }

    fn of(directory: &Path, plugins: &[&Path]) -> Self {
        Self::loaded(directory, plugins, None)
    }

    fn loaded(directory: &Path, plugins: &[&Path], quantize: Option<Packing>) -> Self {
        let job = job_with_plugins(&[format!("model.path={}", directory.display())], plugins);
        let compute = job.compute().expect("the device");
        let directory = job.model_directory().expect("the directory");
        let model = job.model(&directory).expect("the model");
        let mut specs = model.spec().parameters.clone();
        specs.iter_mut().for_each(|spec| spec.trainable &= quantize.is_none());
        let holding = Holding { quantize, ..Holding::PLAIN };
        let parameters = Parameters::read(&compute, specs, &directory, holding).expect("the weights");
        Self { compute, model, parameters }
    }

    fn trained(&self) -> TrainedModel {
        TrainedModel::new(&self.model, self.parameters.bind(), &self.compute)
    }

    fn ids(&self, rows: usize, ids: &[i32]) -> Tensor {
        let array = HostArray::new(&[rows, ids.len() / rows], ids).expect("whole rows");
        Tensor::from_host(&self.compute, &array).expect("the ids")
    }

    /// Logits `[rows, T, V]` of ids `[rows, T]`.
    pub fn logits(&self, rows: usize, ids: &[i32]) -> Vec<f32> {
        let model = self.trained();
        let hidden = model.hidden(&self.ids(rows, ids), None, None).expect("hidden states");
        elements(&model.head(&hidden).expect("logits"))
    }

    /// The bytes of the words, scales and biases of its quantised weights, by their names.
    pub fn quantised(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        let collected = self.parameters.with_quantised_arrays(|arrays| {
            all.extend(arrays.iter().map(|array| (array.name.to_owned(), array.bytes.to_vec())));
            Ok(())
        });
        collected.expect("the quantised weights");
        all
    }

    /// All weights in f32, what is quantised made whole: names, shapes, elements.
    pub fn whole(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let specs = self.model.spec().parameters.iter().filter(|spec| spec.tied_to.is_none());
        let whole = |name: &str| self.parameters.whole(name).expect("the weights").expect("a weight");
        specs.map(|spec| (spec.name.clone(), spec.shape.clone(), elements(&whole(&spec.name)))).collect()
    }

    /// Hidden states `[T, D]` of one sequence.
    pub fn hidden(&self, ids: &[i32]) -> Vec<f32> {
        elements(&self.trained().hidden(&self.ids(1, ids), None, None).expect("hidden states"))
    }

    /// The same, given to the model piece by piece through a cache.
    pub fn hidden_in_pieces(&self, pieces: &[&[i32]]) -> Vec<f32> {
        let (model, mut cache) = (self.trained(), Cache::default());
        let next = |piece: &&[i32]| elements(&model.continue_hidden(&self.ids(1, piece), &mut cache).expect("more"));
        pieces.iter().flat_map(next).collect()
    }

    /// The logits after each of these prompts, which are continued together, and after each token that follows them: for
    /// each row one after the other.
    pub fn logits_of_rows(&self, prompts: &[&[i32]], following: &[&[i32]]) -> Vec<Vec<f32>> {
        let longest = prompts.iter().map(|prompt| prompt.len()).max().expect("a prompt");
        let padding: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.len()).collect();
        // Which token the padding has does not matter.
        let padded = prompts.iter().zip(&padding).flat_map(|(prompt, &padding)| [&vec![7; padding], *prompt].concat());
        let (model, mut cache) = (self.trained(), Cache::after_padding(padding.clone()));
        let (mut next, mut logits) = (padded.collect::<Vec<i32>>(), vec![Vec::new(); prompts.len()]);
        for step in 0.. {
            let of_step = elements(&model.next_logits(&next, prompts.len(), &mut cache).expect("logits"));
            let width = of_step.len() / prompts.len();
            logits.iter_mut().zip(of_step.chunks(width)).for_each(|(row, more)| row.extend(more));
            let following = following.iter().map(|row| row.get(step).copied());
            match following.collect::<Option<Vec<i32>>>() {
                Some(tokens) => next = tokens,
                None => break,
            }
        }
        logits
    }

    /// `-log p` of the trained tokens of these sequences of a batch, as a trainer has them.
    pub fn trained_losses(&self, batch: &HostBatch, name: &str) -> Vec<f32> {
        let uploaded = |(name, array): &(String, HostArray)| {
            (name.clone(), Tensor::from_host(&self.compute, array).expect("an array on the device"))
        };
        let batch = Batch::new(batch.arrays.iter().map(uploaded).collect());
        let ctx = TrainerContext::new(Rc::new(self.trained()), Rc::clone(&self.compute));
        elements(&ctx.trained_losses(&batch, name).expect("losses"))
    }

    /// The most likely continuation, one token after the other through a cache.
    pub fn greedy(&self, prompt: &[i32], count: usize) -> Vec<i32> {
        let (model, mut cache) = (self.trained(), Cache::default());
        let mut next = prompt.to_vec();
        let mut answer = Vec::new();
        for _ in 0..count {
            let logits = elements(&model.next_logits(&next, 1, &mut cache).expect("logits"));
            let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
            next = best.map(|(token, _)| vec![token as i32]).expect("a vocabulary");
            answer.extend(&next);
        }
        answer
    }
}

fn elements(tensor: &Tensor) -> Vec<f32> {
    let mut elements = vec![0.0; tensor.shape().expect("a shape").iter().product()];
    tensor.host_view().and_then(|view| view.copy_to(&mut elements)).expect("f32");
    elements
}
