//! The weights of a model directory: one safetensors file or several, memory-mapped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use mdt_plugin_api::{Dtype, HostArrayRef, ParameterSpec};
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde_json::Value;

use super::Directory;
use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::nearest::nearest;
use crate::storage::MappedTensors;
use crate::text_file;

/// The memory-mapped weight files of a directory and what is in them.
pub(super) struct Files {
    files: Vec<MappedTensors>,
    /// Which file has the tensor of a name.
    index: HashMap<String, usize>,
    /// The quantisation that `config.json` names.
    quantization: Option<String>,
}

/// A parameter as files have it: one tensor, or those that it is stacked from along its first axis, each with its name.
pub(super) type Stored<'a> = Vec<(&'a str, HostArrayRef<'a>)>;

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Files {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(super) fn open(directory: &Directory) -> Result<Self, Failure> {
        let (directory, config) = (directory.path(), directory.config());
        let single = directory.join("model.safetensors");
        let index_path = directory.join("model.safetensors.index.json");
        let names = if single.is_file() {
            vec![single]
        } else if index_path.is_file() {
            shards(directory, &index_path)?
        } else {
            return Err(Failure::new(Status::Input, "the model directory has no weights")
                .at(directory.display())
                .because("neither model.safetensors nor model.safetensors.index.json is there")
                .help(
                    "convert the model to safetensors, or train from random weights with `model.init = \"random\"`",
                ));
        };
        let files = names.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut index = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.metadata().tensors().into_keys() {
                index.insert(name, number);
            }
        }
        Ok(Self { files, index, quantization: quantization(config) })
    }

    /// A parameter, under its name or another one that files have for it, or the tensors that it is stacked from.
    ///
    /// # Errors
    /// It is missing, of another shape, or of a type that weights do not have.
    fn read(&self, spec: &ParameterSpec) -> Result<Stored<'_>, Failure> {
        let names = [&spec.name].into_iter().chain(&spec.aliases);
        let whole = names.into_iter().find(|name| self.index.contains_key(*name));
        let read =
            |name, shape| self.read_plain(name, shape).map_err(|failure| self.quantised(spec).unwrap_or(failure));
        match whole {
            None if !spec.stacked_from.is_empty() => {
                let shape = spec.shape.get(1..).unwrap_or_default();
                spec.stacked_from.iter().map(|name| read(name, shape)).collect()
            }
            _ => Ok(vec![read(whole.unwrap_or(&spec.name), &spec.shape)?]),
        }
    }

    /// Every parameter that is not another one, in their order.
    ///
    /// # Errors
    /// As [`Files::read`]; or a tied parameter has other numbers in the files than the one that it is.
    pub(super) fn read_all(&self, specs: &[ParameterSpec]) -> Result<Vec<Stored<'_>>, Failure> {
        specs.iter().filter(|spec| spec.tied_to.is_some()).try_for_each(|spec| self.check_tie(spec, specs))?;
        specs.iter().filter(|spec| spec.tied_to.is_none()).map(|spec| self.read_one(spec, specs)).collect()
    }

    /// One of these parameters that is not another one.
    pub(super) fn read_one(&self, spec: &ParameterSpec, specs: &[ParameterSpec]) -> Result<Stored<'_>, Failure> {
        self.read(&with_ties(spec, specs))
    }

    /// Checks that no numbers of a tied parameter would be dropped. A copy of the other one is ignored, because many tools
    /// write one.
    fn check_tie(&self, spec: &ParameterSpec, specs: &[ParameterSpec]) -> Result<(), Failure> {
        // One of another shape cannot be this model's.
        let Ok(own) = self.read(spec) else { return Ok(()) };
        let Some(other) = specs.iter().find(|other| spec.tied_to.as_ref() == Some(&other.name)) else { return Ok(()) };
        let others = self.read_one(other, specs)?;
        if own.iter().map(|(_, array)| array).eq(others.iter().map(|(_, array)| array)) {
            return Ok(());
        }
        let message = format!("the weights have a tensor `{}` that is not `{}`", spec.name, other.name);
        Err(Failure::new(Status::Input, message)
            .because("the model takes the two for one, as its config.json says")
            .help(
                "correct config.json (many have the key `tie_word_embeddings`), or take the tensor out of the weights",
            ))
    }

    /// A line about the tensors that no parameter takes, where there are some.
    pub(super) fn unused(&self, specs: &[ParameterSpec]) -> Option<String> {
        let taken: HashSet<&str> = specs.iter().flat_map(names_in_files).map(String::as_str).collect();
        let mut unused: Vec<_> = self.index.keys().map(String::as_str).filter(|name| !taken.contains(name)).collect();
        unused.sort_unstable();
        let first = unused.get(..unused.len().min(3)).filter(|first| !first.is_empty())?.join("`, `");
        let more = if unused.len() > 3 { ", ..." } else { "" };
        let count = counted(unused.len(), "tensor");
        Some(format!("note: {count} of the model's files are taken by no parameter: `{first}`{more}"))
    }

    /// The failure of quantised weights; `None` if nothing shows that they are quantised.
    fn quantised(&self, spec: &ParameterSpec) -> Option<Failure> {
        let layer = spec.name.strip_suffix(".weight").unwrap_or(&spec.name);
        let parts = ["scales", "biases", "qweight", "qzeros", "weight_scale", "weight.absmax"];
        let part = parts.iter().map(|part| format!("{layer}.{part}")).find(|part| self.index.contains_key(part));
        if part.is_none() && self.quantization.is_none() {
            return None;
        }
        let how = self.quantization.as_ref().map_or(String::new(), |how| format!(" ({how})"));
        let message = format!("the model is quantised{how}; this version trains unquantised weights only");
        let file = part.as_ref().map_or(&self.files[0], |part| &self.files[self.index[part]]);
        let failure = Failure::new(Status::Input, message).at(file.path().display());
        let failure = match part {
            Some(part) => failure.because(format!("the weights have a tensor `{part}`")),
            None => failure.because(format!("config.json says so, and `{}` is not as the model needs it", spec.name)),
        };
        Some(failure.help(
            "take the model that it was made from; for one that MLX quantised, \
             `mlx_lm.convert --hf-path DIR --mlx-path OUT --dequantize` writes unquantised weights",
        ))
    }

    fn read_plain(&self, name: &str, expected: &[usize]) -> Result<(&str, HostArrayRef<'_>), Failure> {
        let input = |message: String| Failure::new(Status::Input, message);
        let (name, file) =
            self.index.get_key_value(name).map(|(name, &number)| (name, &self.files[number])).ok_or_else(|| {
                let nearest = nearest(name, self.index.keys().map(String::as_str));
                let failure = input(format!("the model's weights have no tensor `{name}`"));
                let failure = self.files.iter().fold(failure, |failure, file| failure.at(file.path().display()));
                match nearest {
                    Some(near) => failure.help(format!("the nearest name there is `{near}`")),
                    None => failure,
                }
            })?;
        let info = file
            .metadata()
            .info(name)
            .ok_or_else(|| input(format!("tensor `{name}` is gone")).at(file.path().display()))?;
        let TensorInfo { dtype, shape, .. } = info;
        if *shape != expected {
            return Err(input(format!("tensor `{name}` has shape {shape:?}, the model needs {expected:?}"))
                .at(file.path().display())
                .help("the weights do not belong to this config.json"));
        }
        let dtype = match dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::BF16,
            other => {
                return Err(input(format!("tensor `{name}` has type {other:?}"))
                    .at(file.path().display())
                    .help("weights may be F32, F16 or BF16"));
            }
        };
        Ok((name, HostArrayRef { dtype, shape, bytes: file.bytes_of(info) }))
    }

    /// The failure of a tensor with numbers that are not finite.
    pub(super) fn not_finite(&self, name: &str) -> Failure {
        let failure = Failure::new(Status::Input, format!("tensor `{name}` has numbers that are not finite"));
        let file = self.index.get(name).map(|&number| &self.files[number]);
        file.map_or(failure.clone(), |file| failure.at(file.path().display()))
            .help("the model is damaged, or its training diverged: get it again, or choose an earlier checkpoint")
    }
}

/// All names that files may have for a parameter, or for its parts.
fn names_in_files(spec: &ParameterSpec) -> impl Iterator<Item = &String> {
    [&spec.name].into_iter().chain(&spec.aliases).chain(&spec.stacked_from)
}

/// A parameter that files may hold under the names of those that are tied to it, too.
fn with_ties(spec: &ParameterSpec, specs: &[ParameterSpec]) -> ParameterSpec {
    let tied = specs.iter().filter(|tied| tied.tied_to.as_ref() == Some(&spec.name));
    let names = tied.flat_map(|tied| [&tied.name].into_iter().chain(&tied.aliases)).cloned();
    ParameterSpec { aliases: spec.aliases.iter().cloned().chain(names).collect(), ..spec.clone() }
}

/// `4 bits, group size 64`, or the method's name.
fn quantization(config: &Value) -> Option<String> {
    let table = ["quantization", "quantization_config"].into_iter().find_map(|key| config.get(key)?.as_object())?;
    let text =
        |key: &str, before: &str, after: &str| Some(format!("{before}{}{after}", table.get(key)?).replace('"', ""));
    let parts = [text("quant_method", "", ""), text("bits", "", " bits"), text("group_size", "group size ", "")];
    Some(parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn open(path: &Path) -> Result<MappedTensors, Failure> {
    MappedTensors::open(path).map_err(|error| {
        let failure = |message: &str| Failure::new(Status::Input, message).at(path.display()).because(&error);
        match error.kind() {
            io::ErrorKind::InvalidData => {
                failure("a weights file is damaged").help("it is truncated or no safetensors file: get it again")
            }
            _ => failure("a weights file cannot be read"),
        }
    })
}

fn shards(directory: &Path, index_path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failure = |message: &str| Failure::new(Status::Input, message.to_owned()).at(index_path.display());
    let text = text_file::read_of_model(index_path)
        .map_err(|error| failure("the index of the weights cannot be read").because(error))?;
    let index: Index =
        serde_json::from_str(&text).map_err(|error| failure("the index of the weights is damaged").because(error))?;
    let mut names: Vec<_> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let path = directory.join(&name);
            // A name with a path in it would read files outside the model.
            if Path::new(&name).components().count() != 1 {
                return Err(failure("the index of the weights names a file outside the directory").because(name));
            }
            if !path.is_file() {
                return Err(failure("a weights file that the index names is missing")
                    .because(path.display())
                    .help("the download is not complete: get the missing file"));
            }
            Ok(path)
        })
        .collect()
}
