//! A directory with an adapter, as peft or mlx-lm writes it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, HostArrayRef, ModelSpec, ParameterSpec, Tensor};
use serde_json::{Map, Value};

use super::{AdaptedLayer, Adapter, Rule, mlx, name, peft};
use crate::checkpoint::{self, Checkpoint};
use crate::config::{AdapterFormat, AdapterKind};
use crate::exit::{Failure, Status};
use crate::finite::all_finite;
use crate::model::{OWN, Source};
use crate::nearest::nearest;
use crate::staging;
use crate::storage::MappedTensors;
use crate::text_file;

/// The file with its configuration, in both formats.
pub const CONFIG: &str = "adapter_config.json";

/// A directory with an adapter.
#[derive(Clone, Debug)]
pub struct AdapterDirectory {
    path: PathBuf,
    config: Rc<Map<String, Value>>,
    form: Form,
    tensors: Rc<MappedTensors>,
}

/// How it is written.
#[derive(Clone, Debug)]
enum Form {
    Peft,
    Mlx,
    /// By a job, whose names and shapes are those of training.
    Checkpoint(Rc<Checkpoint>),
}

/// What the configuration of an adapter says.
pub(super) struct Described {
    pub(super) kind: AdapterKind,
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) rslora: bool,
    pub(super) rule: Rule,
}

impl AdapterDirectory {
    /// Opens a directory that peft or mlx-lm wrote, a checkpoint of a job that trained an adapter, or its output directory.
    ///
    /// # Errors
    /// It has no `adapter_config.json`, or no safetensors file that goes with it; a checkpoint is of another job.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        match Source::of(path)? {
            Source::Checkpoint(checkpoint) => Self::of_checkpoint(*checkpoint),
            Source::Adapter(path) | Source::Model(path) => Self::open_written(&path),
        }
    }

    fn of_checkpoint(checkpoint: Checkpoint) -> Result<Self, Failure> {
        let Some(config) = checkpoint.state.adapter.as_object().cloned() else {
            return Err(Failure::new(Status::Input, "the checkpoint is that of a whole model, and not of an adapter")
                .at(checkpoint.path.display())
                .help("name it with `model.path` or --model"));
        };
        let (path, tensors) = (checkpoint.path.clone(), checkpoint.path.join(checkpoint::MODEL));
        let tensors = MappedTensors::open(&tensors).map_err(|error| {
            Failure::new(Status::Storage, "a file of the checkpoint is damaged").at(tensors.display()).because(error)
        })?;
        Ok(Self {
            path,
            config: Rc::new(config),
            form: Form::Checkpoint(Rc::new(checkpoint)),
            tensors: Rc::new(tensors),
        })
    }

    /// The checkpoint that it is from.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.form {
            Form::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        }
    }

    fn open_written(path: &Path) -> Result<Self, Failure> {
        let file = path.join(CONFIG);
        let failure = |message: &str| Failure::new(Status::Input, message.to_owned()).at(file.display());
        let text = text_file::read_of_model(&file).map_err(|error| {
            failure("the adapter's configuration cannot be read")
                .because(error)
                .help("`model.adapter.path` names a directory that peft or mlx-lm wrote, such as the `final/` of a run")
        })?;
        let config: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| failure("the adapter's configuration is no JSON object").because(error))?;
        let (form, file) = match (config.get("peft_type"), config.get("lora_parameters")) {
            (Some(_), _) => (Form::Peft, peft::TENSORS),
            (None, Some(_)) => (Form::Mlx, mlx::TENSORS),
            (None, None) => return Err(failure("this is neither an adapter of peft nor one of mlx-lm")),
        };
        let tensors = path.join(file);
        let tensors = MappedTensors::open(&tensors).map_err(|error| {
            let failure = Failure::new(Status::Input, "the adapter's tensors cannot be read").at(tensors.display());
            match error.kind() {
                io::ErrorKind::NotFound if path.join("adapter_model.bin").exists() => failure
                    .because("they are in adapter_model.bin, a pickle, which could run anything")
                    .help("load it in peft and save it again with `save_pretrained`, which writes safetensors"),
                _ => failure.because(error),
            }
        })?;
        Ok(Self { path: path.to_owned(), config: Rc::new(config), form, tensors: Rc::new(tensors) })
    }

    /// The adapter in it, for a model.
    ///
    /// # Errors
    /// It is of a kind that is not here, or another model's.
    pub(super) fn adapter(self, model: &ModelSpec) -> Result<Adapter, Failure> {
        let described = match &self.form {
            Form::Peft => peft::describe(&self.config),
            Form::Mlx => mlx::describe(&self.config),
            Form::Checkpoint(_) => self.describe(),
        };
        let Described { kind, rank, alpha, rslora, rule } = described.map_err(|failure| self.located(failure))?;
        let mut layers = AdaptedLayer::all(&model.parameters);
        let names = self.names(&layers);
        layers.retain(|layer| names.contains(&layer.matrices()[0]));
        let own: BTreeSet<String> =
            layers.iter().flat_map(|layer| layer.specs(rank, kind)).map(|spec| spec.name).collect();
        let mut modules_to_save: Vec<String> = Vec::new();
        for name in names.difference(&own) {
            let parameter = model.parameters.iter().find(|spec| spec.name == *name);
            let Some((module, _)) = parameter.and_then(|spec| spec.name.rsplit_once('.')) else {
                return Err(self.foreign(name, model));
            };
            if !modules_to_save.iter().any(|other| other == module) {
                modules_to_save.push(module.to_owned());
            }
        }
        let format = match &self.form {
            Form::Peft => AdapterFormat::Peft,
            Form::Mlx => AdapterFormat::Mlx,
            Form::Checkpoint(checkpoint) => {
                serde_json::from_value(checkpoint.state.config["model"]["adapter"]["format"].clone())
                    .unwrap_or_default()
            }
        };
        let adapter =
            Adapter { kind, rank, alpha, rslora, rule, format, layers, modules_to_save, directory: Some(self) };
        if adapter.layers.is_empty() {
            let failure = Failure::new(Status::Input, "the adapter has no matrices of any layer of the model");
            return Err(failure.at(adapter.place()));
        }
        if adapter.format == AdapterFormat::Mlx {
            mlx::require_same_meaning(&adapter).map_err(|failure| failure.at(adapter.place()))?;
        }
        for spec in adapter.specs().iter().chain(adapter.beside(&model.parameters).iter().filter(|spec| spec.trainable))
        {
            adapter.directory.iter().try_for_each(|directory| directory.array(spec).map(drop))?;
        }
        Ok(adapter)
    }

    /// A parameter on the device, of the name and the shape that it has here.
    ///
    /// # Errors
    /// It is missing, of another shape, or not finite.
    pub(super) fn parameter(&self, compute: &Rc<dyn Compute>, spec: &ParameterSpec) -> Result<Tensor, Failure> {
        let (array, is_transposed) = self.array(spec)?;
        let tensor = Tensor::from_handle(compute, compute.from_host(array)?).cast(Dtype::F32)?;
        let tensor = if is_transposed { tensor.transpose(&[1, 0])? } else { tensor };
        let values = staging::copy(&tensor)?;
        if !all_finite(&values) {
            let message = format!("the adapter's `{}` has numbers that are not finite", spec.name);
            return Err(self.located(Failure::new(Status::Input, message)));
        }
        Ok(staging::upload_f32(compute, &spec.shape, &values)?)
    }

    /// The elements of a parameter, and whether its axes are the other way round in the file.
    fn array(&self, spec: &ParameterSpec) -> Result<(HostArrayRef<'_>, bool), Failure> {
        let failure = |message: String| self.located(Failure::new(Status::Input, message));
        let (stored, is_transposed) = match self.form {
            Form::Checkpoint(_) => (spec.name.clone(), false),
            Form::Peft => (peft::stored_name(&spec.name), false),
            Form::Mlx => (mlx::stored_name(&spec.name), spec.shape.len() == 2),
        };
        let info = self.tensors.metadata().info(&stored);
        let info = info.ok_or_else(|| failure(format!("the adapter has no tensor `{stored}`")))?;
        let mut expected = spec.shape.clone();
        if is_transposed {
            expected.reverse();
        }
        if info.shape != expected {
            return Err(failure(format!("`{stored}` of the adapter has shape {:?}, and not {expected:?}", info.shape))
                .help("it was trained on another model, or its configuration does not belong to it"));
        }
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::BF16,
            other => return Err(failure(format!("`{stored}` of the adapter has type {other:?}"))),
        };
        Ok((HostArrayRef { dtype, shape: &info.shape, bytes: self.tensors.bytes_of(info) }, is_transposed))
    }

    /// The names that its tensors have in a job.
    fn names(&self, layers: &[AdaptedLayer]) -> BTreeSet<String> {
        let stored = self.tensors.metadata().tensors().into_keys();
        let is_embedding = |name: &str| layers.iter().any(|layer| layer.is_embedding && layer.name == name);
        match self.form {
            Form::Checkpoint(_) => stored.filter(|name| !name.starts_with(OWN)).collect(),
            Form::Peft => stored.filter_map(|stored| peft::name(&stored)).collect(),
            Form::Mlx => stored.map(|stored| mlx::name(&stored, is_embedding)).collect(),
        }
    }

    /// What a checkpoint says of its adapter, with its tensors.
    fn describe(&self) -> Result<Described, Failure> {
        let missing =
            |key: &str| Failure::new(Status::Input, format!("the checkpoint does not say the adapter's {key}"));
        let number = |key: &str| self.config.get(key).and_then(Value::as_f64).ok_or_else(|| missing(key));
        let ranks = self.tensors.metadata().tensors().into_iter().filter_map(|(name, info)| match name {
            _ if name.ends_with(name::A) || name.ends_with(name::EMBEDDING_A) => info.shape.first().copied(),
            _ => None,
        });
        let is_dora = self.tensors.metadata().tensors().keys().any(|name| name.ends_with(name::MAGNITUDE));
        Ok(Described {
            kind: if is_dora { AdapterKind::Dora } else { AdapterKind::Lora },
            rank: ranks.max().ok_or_else(|| missing("rank"))?,
            alpha: number("alpha")?,
            rslora: self.config.get("rslora").and_then(Value::as_bool).unwrap_or_default(),
            rule: Rule { scale: number("scale")?, dropout: number("dropout")? },
        })
    }

    fn foreign(&self, tensor: &str, model: &ModelSpec) -> Failure {
        let failure =
            Failure::new(Status::Input, format!("the adapter has a tensor `{tensor}`, of which the model has nothing"));
        let suffixes = [name::A, name::B, name::EMBEDDING_A, name::EMBEDDING_B, name::MAGNITUDE];
        let layer = suffixes.iter().find_map(|suffix| tensor.strip_suffix(suffix)?.strip_suffix('.')).unwrap_or(tensor);
        let names = model.parameters.iter().map(|spec| spec.name.strip_suffix(".weight").unwrap_or(&spec.name));
        let failure = match nearest(layer, names) {
            Some(name) if name == layer => failure.because(format!("`{name}` is of a kind that has no adapters")),
            Some(name) => failure.help(format!("the nearest name in the model is `{name}`")),
            None => failure.help("it was trained on another model"),
        };
        self.located(failure)
    }

    fn located(&self, failure: Failure) -> Failure {
        failure.at(self.place())
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path in words.
    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }
}
