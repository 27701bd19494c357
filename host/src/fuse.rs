//! Merging an adapter into its model, and what that changes.

use std::path::Path;
use std::rc::Rc;

use mdt_plugin_api::{HostArray, HostServices, ModelCalls, Tensor};
use serde_json::json;

use crate::exit::{Failure, Status};
use crate::export::{Export, Types};
use crate::finite::all_finite;
use crate::job::{Job, OpenedModel};
use crate::model::{BoundWeights, DescribedModel, Directory, Holding, Parameters, TrainedModel, as_stored};
use crate::random::Stream;
use crate::staging;

/// A difference above this part of the largest logit is worth a warning: rounding in f32 is far below it.
pub const WARN_ABOVE: f64 = 1e-3;

/// Rows and columns of the tokens whose logits are compared.
const TOKENS: [usize; 2] = [2, 32];

/// What was merged, and how far the merged model is from the model with its adapter.
pub struct Fused {
    /// The number of layers that had an adapter.
    pub layers: usize,
    /// The parameters that were tied to others.
    pub untied: Vec<String>,
    /// The largest difference of two logits.
    pub difference: f64,
    /// The largest logit.
    pub largest: f64,
    /// The number of tokens that were compared.
    pub tokens: usize,
}

/// Merges the adapter of a job, in f32, into the weights of its model, and writes what a model of its own is made of. The
/// directory is read again, so that what is compared is what was written.
///
/// # Errors
/// The job has no adapter; `out` exists or cannot be written; the model cannot be computed, or cannot have its weights apart.
pub fn fuse(job: &Job, out: &Path) -> Result<Fused, Failure> {
    if out.exists() {
        return Err(Failure::new(Status::Storage, "the directory for the merged model exists already")
            .at(out.display())
            .help("name another one with --out, or remove it"));
    }
    let opened = job.open_model(job.compute()?)?.held_as_stored();
    let adapter = opened.adapter.clone().ok_or_else(|| Failure::configuration("there is no adapter to merge"))?;
    opened.check_files()?;
    let own = job.model(&opened.directory)?;
    let specs = &own.spec().parameters;
    let parameters = opened.weights()?;
    let tokens = tokens(job.resolved.settings.seed, opened.model.spec().vocabulary_size);
    let before = logits(&opened.model, parameters.bind(), &opened, &tokens)?;

    let fused = adapter.fused(specs, &parameters)?;
    drop(parameters);
    let apart = adapter.fused_specs(specs);
    let was_tied = specs.iter().zip(&apart).filter(|(before, after)| before.tied_to != after.tied_to);
    let untied: Vec<String> = was_tied.map(|(spec, _)| spec.name.clone()).collect();
    let mut config = own.spec().config.clone();
    if !untied.is_empty() {
        config.insert("tie_word_embeddings".to_owned(), json!(false));
    }
    let tokenizer = opened.tokenizer_files()?;
    let types = Types::of(&job.resolved.settings, specs, &opened.directory)?;
    fused.with_frozen_arrays(|arrays| {
        let parameters = as_stored(specs, arrays);
        let (source, config) = (&opened.directory, &config);
        let export = Export {
            source,
            tokenizer: &tokenizer,
            config,
            parameters: &parameters,
            quantised: &[],
            types: &types,
            packing: None,
            adapter: None,
        };
        export.write_to(out, &|| job.services.cancelled())
    })?;
    drop(fused);

    let directory = Directory::open(out)?;
    let model = job.model(&directory)?;
    let parameters = Parameters::read(&opened.compute, model.spec().parameters.clone(), &directory, Holding::PLAIN)?;
    let after = logits(&model, parameters.bind(), &opened, &tokens)?;
    if !all_finite(&before) || !all_finite(&after) {
        return Err(Failure::new(Status::NonFinite, "the logits of the model are not finite").at(out.display()));
    }
    let differences = before.iter().zip(&after).map(|(before, after)| f64::from(before - after).abs());
    Ok(Fused {
        layers: adapter.layers.len(),
        untied,
        difference: differences.fold(0.0, f64::max),
        largest: before.iter().map(|logit| f64::from(logit.abs())).fold(0.0, f64::max),
        tokens: tokens.len(),
    })
}

/// Random tokens.
fn tokens(seed: u64, vocabulary: usize) -> Vec<i32> {
    let mut stream = Stream::new(seed, "fuse", 0);
    (0..TOKENS.iter().product()).map(|_| stream.below(vocabulary as u64) as i32).collect()
}

fn logits(
    model: &DescribedModel,
    weights: Rc<BoundWeights>,
    opened: &OpenedModel,
    tokens: &[i32],
) -> Result<Vec<f32>, Failure> {
    let model = TrainedModel::new(model, weights, &opened.compute);
    let tokens = Tensor::from_host(&opened.compute, &HostArray::new(&TOKENS, tokens)?)?;
    Ok(staging::copy(&model.head(&model.hidden(&tokens, None, None)?)?)?)
}
