//! Models as other programs read them: an adapter merged into its model, and what that changes.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use mdt_plugin_api::{HostArray, HostServices, ModelCalls, ModelSpec, ParameterSpec, Tensor};
use serde_json::{Map, Value, json};

use crate::exit::{Failure, Status};
use crate::export::{Card, Export, Types};
use crate::finite::all_finite;
use crate::job::{Job, OpenedModel};
use crate::model::{
    Adapter, AdapterDirectory, BoundWeights, DescribedModel, Directory, Holding, Packing, Parameters, TrainedModel,
};
use crate::random::Stream;
use crate::staging;
use crate::storage::unwritable;
use crate::tokenizer_files::TokenizerFiles;
use crate::training_format::{self, TrainingFormat};

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

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// What transformers reads: nothing is quantised.
    Transformers,
    /// What mlx-lm reads. What was quantised stays so, unless an adapter was merged into it.
    Mlx {
        /// How layers are quantised.
        quantize: Option<Packing>,
    },
}

/// A model that an adapter was merged into.
pub struct Merged {
    /// Its weights, none of which is quantised or trained.
    pub parameters: Parameters,
    /// Keys that its `config.json` gets.
    pub config: Map<String, Value>,
    /// The parameters that are tied to others no longer.
    pub untied: Vec<String>,
}

impl Merged {
    /// Merges an adapter, in f32, into the weights of a job that it is trained beside; `model` is what the model is without it.
    ///
    /// # Errors
    /// The weights cannot be computed.
    pub fn of(adapter: &Adapter, model: &ModelSpec, weights: &Parameters) -> Result<Self, Failure> {
        let specs = &model.parameters;
        let parameters = adapter.fused(specs, weights)?;
        let apart = adapter.fused_specs(specs);
        let was_tied = specs.iter().zip(&apart).filter(|(before, after)| before.tied_to != after.tied_to);
        let untied: Vec<_> = was_tied.map(|(spec, _)| spec.name.clone()).collect();
        let mut config = model.config.clone();
        if !untied.is_empty() {
            config.insert("tie_word_embeddings".to_owned(), json!(false));
        }
        Ok(Self { parameters, config, untied })
    }
}

/// Merges the adapter of a job, in f32, into the weights of its model, and writes what a model of its own is made of. The
/// directory is read again, so that what is compared is what was written.
///
/// # Errors
/// The job has no adapter; `out` exists or cannot be written; the model cannot be computed, or cannot have its weights apart.
pub fn fuse(job: &Job, out: &Path) -> Result<Fused, Failure> {
    require_new(out)?;
    let opened = job.open_model(job.compute()?)?.held_as_stored();
    let adapter = opened.adapter.clone().ok_or_else(|| {
        Failure::configuration("there is no adapter to merge")
            .help("name it with --adapter; `mdt-host export` writes a model as it is")
    })?;
    opened.check_files()?;
    let parameters = opened.weights()?;
    let tokens = tokens(job.resolved.settings.seed, opened.model.spec().vocabulary_size);
    let before = logits(&opened.model, parameters.bind(), &opened, &tokens)?;
    let untied = write(job, &opened, parameters, Form::Transformers, out)?;

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

/// Writes the model of a job for other programs, its adapter merged into it. Returns the names of parameters that are tied to others
/// no longer.
///
/// # Errors
/// `out` exists or cannot be written; the model cannot be read.
pub fn export(job: &Job, out: &Path, form: Form) -> Result<Vec<String>, Failure> {
    require_new(out)?;
    let opened = job.open_model(job.compute()?)?.held_as_stored();
    opened.check_files()?;
    let weights = opened.weights()?;
    let Form::Mlx { quantize: Some(packing) } = form else { return write(job, &opened, weights, form, out) };
    // As mlx-lm does: of the numbers that the files would have.
    let plain = out.with_file_name(format!(".{}.whole", out.file_name().unwrap_or_default().to_string_lossy()));
    let _ = fs::remove_dir_all(&plain);
    let untied = write(job, &opened, weights, Form::Transformers, &plain);
    let written = untied.and_then(|untied| write_quantised(job, &opened, &plain, packing, out).map(|()| untied));
    let _ = fs::remove_dir_all(&plain);
    written
}

/// What is said of a parameter that was tied to another one.
pub fn untied_note(name: &str) -> String {
    format!("note: `{name}` was tied to another weight, and has values of its own now")
}

fn require_new(out: &Path) -> Result<(), Failure> {
    match out.exists() {
        true => Err(Failure::new(Status::Storage, "the directory for the model exists already")
            .at(out.display())
            .help("name another one with --out, or remove it")),
        false => out
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .map_err(|error| unwritable("the directory for the model cannot be made", out, &error)),
    }
}

fn write(job: &Job, opened: &OpenedModel, weights: Parameters, form: Form, out: &Path) -> Result<Vec<String>, Failure> {
    let own = job.model(&opened.directory)?;
    let specs = &own.spec().parameters;
    let unmerged = |parameters| Merged { parameters, config: own.spec().config.clone(), untied: Vec::new() };
    let Merged { parameters, config, untied } = match &opened.adapter {
        Some(adapter) => Merged::of(adapter, own.spec(), &weights)?,
        None if form == Form::Transformers => unmerged(weights.made_whole(specs)?),
        None => unmerged(weights),
    };
    let types = Types::of(&job.resolved.settings, specs, &opened.directory)?;
    let types = if form == Form::Transformers { types } else { types.taken_apart() };
    let (tokenizer, card) = (recorded(job, opened.tokenizer_files()?)?, card(job, opened, form).text());
    parameters.with_arrays(|trained| {
        parameters.with_frozen_arrays(|frozen| {
            parameters.with_quantised_arrays(|quantised| {
                let export = Export {
                    source: &opened.directory,
                    tokenizer: &tokenizer,
                    config: &config,
                    parameters: &[trained, frozen].concat(),
                    specs,
                    quantised,
                    types: &types,
                    packing: None,
                    adapter: None,
                    card: Some(&card),
                };
                export.write_to(out, &|| job.services.cancelled())
            })
        })
    })?;
    Ok(untied)
}

/// Quantises a model that was written whole.
fn write_quantised(job: &Job, opened: &OpenedModel, whole: &Path, packing: Packing, out: &Path) -> Result<(), Failure> {
    let directory = Directory::open(whole)?;
    let own = job.model(&directory)?;
    let specs: Vec<ParameterSpec> = own.spec().parameters.iter().cloned().map(ParameterSpec::frozen).collect();
    let types = Types::of_source(&specs, &directory)?.taken_apart();
    let tokenizer = recorded(job, TokenizerFiles::of(directory.path(), &job.tokenizer(&directory)?)?)?;
    let form = Form::Mlx { quantize: Some(packing) };
    let card = card(job, opened, form).text();
    let holding = Holding { quantize: Some(packing), ..Holding::PLAIN };
    let parameters = Parameters::read(&opened.compute, specs.clone(), &directory, holding)?;
    parameters.with_frozen_arrays(|frozen| {
        parameters.with_quantised_arrays(|quantised| {
            let export = Export {
                source: &directory,
                tokenizer: &tokenizer,
                config: &own.spec().config,
                parameters: frozen,
                specs: &specs,
                quantised,
                types: &types,
                packing: Some(packing),
                adapter: None,
                card: Some(&card),
            };
            export.write_to(out, &|| job.services.cancelled())
        })
    })
}

/// The files of a tokenizer with the record of how the model was trained, where there is one.
fn recorded(job: &Job, files: TokenizerFiles) -> Result<TokenizerFiles, Failure> {
    Ok(match TrainingFormat::passed_on(job)? {
        Some(record) => files.with(training_format::FILE, record.text()),
        None => files,
    })
}

fn card(job: &Job, opened: &OpenedModel, form: Form) -> Card {
    let adapter = opened.adapter.as_ref().and_then(|adapter| adapter.directory.as_ref()).map(AdapterDirectory::path);
    let library = if form == Form::Transformers { "transformers" } else { "mlx" };
    let card = Card::of(&job.resolved.settings, &opened.directory, adapter, library);
    match form {
        Form::Mlx { quantize: Some(packing) } => card.tagged(format!("{}-bit", packing.bits)),
        _ => card,
    }
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
