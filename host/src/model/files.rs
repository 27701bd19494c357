//! The weights of a model directory: one safetensors file or several, memory-mapped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use mdt_plugin_api::{Dtype, HalfOf, HostArrayRef, ParameterSpec};
use safetensors::tensor::TensorInfo;
use serde::Deserialize;

use super::Directory;
use super::packing::{Packing, Quantization};
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
    /// Which checkpoint has a parameter whole, among the files: it takes the place of what the model's own have.
    trained: HashMap<String, usize>,
    /// The shapes `[rows, columns]` of half an expert in the tensors of three axes.
    halves: HashMap<String, [usize; 2]>,
    /// Whether parameters that no checkpoint has are drawn, and no file of the model's own is read.
    draws_others: bool,
    /// The quantisation that `config.json` names.
    quantization: Option<Quantization>,
}

/// A tensor of a file, with its name.
pub(super) type Named<'a> = (&'a str, HostArrayRef<'a>);

/// A parameter as files have it.
pub(super) struct Stored<'a> {
    /// One tensor, or those that it is stacked from along its first axis; of a quantised one, words, scales and biases in the
    /// place of each.
    pub(super) tensors: Vec<Named<'a>>,
    /// How it is quantised, if it is.
    pub(super) packing: Option<Packing>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The bytes of the weight files of a directory; 0 where they cannot be read, which is found elsewhere.
pub fn file_bytes(directory: &Directory) -> u64 {
    Files::open(directory).map_or(0, |files| files.files.iter().map(MappedTensors::bytes).sum())
}

impl Files {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(super) fn open(directory: &Directory) -> Result<Self, Failure> {
        let mut files = Self::of_model(directory)?;
        for checkpoint in directory.checkpoints() {
            let tensors = open(&checkpoint.path.join(crate::checkpoint::MODEL))?;
            for name in tensors.metadata().tensors().into_keys() {
                files.trained.entry(name).or_insert(files.files.len());
            }
            files.files.push(tensors);
        }
        Ok(files)
    }

    /// The model's own.
    fn of_model(directory: &Directory) -> Result<Self, Failure> {
        let draws_others = directory.drawn().is_some();
        let (directory, config) = (directory.path(), directory.config());
        let single = directory.join("model.safetensors");
        let index_path = directory.join("model.safetensors.index.json");
        let names = if draws_others {
            Vec::new()
        } else if single.is_file() {
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
        let (mut index, mut halves) = (HashMap::new(), HashMap::new());
        for (number, file) in files.iter().enumerate() {
            for (name, info) in file.metadata().tensors() {
                if let &[_, rows, columns] = info.shape.as_slice() {
                    halves.insert(name.clone(), [rows / 2, columns]);
                }
                index.insert(name, number);
            }
        }
        let quantization = Quantization::of(config);
        Ok(Self { files, index, trained: HashMap::new(), halves, draws_others, quantization })
    }

    /// Checks that no parameter which is to be trained is quantised.
    ///
    /// # Errors
    /// One is.
    pub(super) fn check_trained(&self, specs: &[ParameterSpec]) -> Result<(), Failure> {
        let is_quantised = |spec: &&ParameterSpec| {
            let mut names = names_in_files(spec);
            spec.trainable && names.any(|name| self.index.contains_key(name) && self.part(name, "scales").is_some())
        };
        let Some(spec) = specs.iter().find(is_quantised) else { return Ok(()) };
        let how = self.quantization.as_ref().map_or(String::new(), |how| format!(" ({how})"));
        let message = format!("the model is quantised{how}, and quantised weights are not trained");
        Err(Failure::new(Status::Input, message)
            .because(format!("`{}` is one of those that the job would train", spec.name))
            .help(
                "train an adapter on it (`model.adapter = \"lora\"`), or name the weights to train that are not quantised \
                 (`model.train = [\"*norm*\"]`)",
            ))
    }

    /// A parameter, under its name or another one that files have for it, or the tensors that it is stacked from.
    ///
    /// # Errors
    /// It is missing, of another shape, or of a type that weights do not have.
    fn read(&self, spec: &ParameterSpec) -> Result<Stored<'_>, Failure> {
        if let Some(trained) = self.trained(spec) {
            return Ok(Stored { tensors: vec![self.read_trained(trained, &spec.shape)?], packing: None });
        }
        let names = [&spec.name].into_iter().chain(&spec.aliases);
        let whole = names.into_iter().find(|name| self.index.contains_key(*name));
        match (whole, &spec.half_of) {
            (None, Some(half)) if self.index.contains_key(&half.name) => self.read_half(half, &spec.shape),
            (None, _) if !spec.stacked_from.is_empty() => {
                let shape = spec.shape.get(1..).unwrap_or_default();
                self.read_parts(spec, &spec.stacked_from, shape)
            }
            _ => self.read_parts(spec, std::slice::from_ref(whole.unwrap_or(&spec.name)), &spec.shape),
        }
    }

    /// One half of a tensor, expert by expert.
    fn read_half(&self, HalfOf { name, second }: &HalfOf, expected: &[usize]) -> Result<Stored<'_>, Failure> {
        let whole = match *expected {
            [experts, rows, columns] => vec![experts, 2 * rows, columns],
            _ => expected.to_vec(),
        };
        let (name, HostArrayRef { dtype, bytes, .. }) = self.read_plain(name, &whole)?;
        let shape = &self.halves[name];
        let halves = bytes.chunks_exact((shape[0] * shape[1] * dtype.size()).max(1));
        let own = halves.skip(usize::from(*second)).step_by(2);
        let tensors = own.map(|bytes| (name, HostArrayRef { dtype, shape: &shape[..], bytes })).collect();
        Ok(Stored { tensors, packing: None })
    }

    /// The name that a checkpoint has for a parameter.
    fn trained<'a>(&self, spec: &'a ParameterSpec) -> Option<&'a str> {
        [&spec.name].into_iter().chain(&spec.aliases).map(String::as_str).find(|name| self.trained.contains_key(*name))
    }

    /// Whether nothing has a parameter, and it is drawn.
    pub(super) fn is_drawn(&self, spec: &ParameterSpec, specs: &[ParameterSpec]) -> bool {
        self.draws_others && self.trained(&with_ties(spec, specs)).is_none()
    }

    /// The tensor of a checkpoint.
    fn read_trained(&self, name: &str, expected: &[usize]) -> Result<Named<'_>, Failure> {
        let missing = || Failure::new(Status::Input, format!("the checkpoint has no `{name}`"));
        let (name, &number) = self.trained.get_key_value(name).ok_or_else(missing)?;
        let file = &self.files[number];
        let info = file.metadata().info(name).ok_or_else(missing)?;
        if info.shape != expected {
            let message = format!("`{name}` has shape {:?}, the model needs {expected:?}", info.shape);
            let failure = Failure::new(Status::Input, message).at(file.path().display());
            return Err(failure.help("the checkpoint does not belong to this model: was its directory changed since?"));
        }
        Ok((name, HostArrayRef { dtype: Dtype::F32, shape: &info.shape, bytes: file.bytes_of(info) }))
    }

    /// The tensors of these names, each of this shape where it is not quantised.
    fn read_parts(&self, spec: &ParameterSpec, names: &[String], shape: &[usize]) -> Result<Stored<'_>, Failure> {
        let mut stored = Stored { tensors: Vec::new(), packing: None };
        for (place, name) in names.iter().enumerate() {
            let (packing, tensors) = match self.packing(name) {
                Some(packing) => (Some(packing), self.read_quantised(name, shape, packing)?),
                None => {
                    let read = self.read_plain(name, shape);
                    (None, vec![read.map_err(|failure| self.quantised(spec).unwrap_or(failure))?])
                }
            };
            if place > 0 && packing != stored.packing {
                let message =
                    format!("`{name}` and `{}` are not quantised alike, and are parts of one weight", names[0]);
                return Err(self.of_file(name, message));
            }
            stored.tensors.extend(tensors);
            stored.packing = packing;
        }
        Ok(stored)
    }

    /// How the tensor of a name is quantised, if files have its scales, and MLX quantised it.
    fn packing(&self, name: &str) -> Option<Packing> {
        self.part(name, "scales")?;
        self.quantization.as_ref()?.packing(layer_of(name))
    }

    /// The name of a part of a quantised weight, such as its scales, where files have it.
    fn part(&self, name: &str, part: &str) -> Option<&str> {
        let (name, _) = self.index.get_key_value(&format!("{}.{part}", layer_of(name)))?;
        Some(name)
    }

    /// Words, scales and biases of a weight of this shape.
    fn read_quantised(&self, name: &str, shape: &[usize], packing: Packing) -> Result<Vec<Named<'_>>, Failure> {
        let shapes = packing.shapes(shape).ok_or_else(|| {
            let message =
                format!("tensor `{name}` is quantised ({packing}), and rows of {shape:?} are not of whole groups");
            self.of_file(name, message).help("the weights do not belong to this config.json")
        })?;
        let layer = layer_of(name);
        let names = [name.to_owned(), format!("{layer}.scales"), format!("{layer}.biases")];
        let mut tensors = Vec::new();
        for (name, shape) in names.iter().zip(&shapes) {
            let (name, file, info) = self.find(name)?;
            if info.shape != *shape {
                let message = format!(
                    "tensor `{name}` has shape {:?}; quantised as config.json says ({packing}), it would have {shape:?}",
                    info.shape
                );
                return Err(self.of_file(name, message).help("the weights do not belong to this config.json"));
            }
            let dtype = match (tensors.is_empty(), info.dtype) {
                (true, safetensors::Dtype::U32) => Dtype::U32,
                (false, dtype) if float(dtype).is_some() => float(dtype).unwrap_or(Dtype::F32),
                (is_words, other) => {
                    let expected = if is_words { "words are U32" } else { "scales and biases are F32, F16 or BF16" };
                    return Err(self.of_file(name, format!("tensor `{name}` has type {other:?}")).help(expected));
                }
            };
            tensors.push((name, HostArrayRef { dtype, shape: &info.shape, bytes: file.bytes_of(info) }));
        }
        if tensors[1].1.dtype != tensors[2].1.dtype {
            return Err(self.of_file(name, format!("`{}` and `{}` are of two types", names[1], names[2])));
        }
        Ok(tensors)
    }

    /// Every parameter that is not another one, in their order; none for those that are drawn.
    ///
    /// # Errors
    /// As [`Files::read`]; or a tied parameter has other numbers in the files than the one that it is.
    pub(super) fn read_all(&self, specs: &[ParameterSpec]) -> Result<Vec<Option<Stored<'_>>>, Failure> {
        specs.iter().filter(|spec| spec.tied_to.is_some()).try_for_each(|spec| self.check_tie(spec, specs))?;
        let read = |spec| if self.is_drawn(spec, specs) { Ok(None) } else { self.read_one(spec, specs).map(Some) };
        specs.iter().filter(|spec| spec.tied_to.is_none()).map(read).collect()
    }

    /// One of these parameters that is not another one.
    pub(super) fn read_one(&self, spec: &ParameterSpec, specs: &[ParameterSpec]) -> Result<Stored<'_>, Failure> {
        self.read(&with_ties(spec, specs))
    }

    /// Checks that no numbers of a tied parameter would be dropped. A copy of the other one is ignored, because many tools
    /// write one.
    fn check_tie(&self, spec: &ParameterSpec, specs: &[ParameterSpec]) -> Result<(), Failure> {
        // What files have under the other name is older than a checkpoint.
        if self.draws_others
            || self.trained(spec).or(spec.tied_to.as_deref().filter(|name| self.trained.contains_key(*name))).is_some()
        {
            return Ok(());
        }
        // One of another shape cannot be this model's.
        let Ok(own) = self.read(spec) else { return Ok(()) };
        let Some(other) = specs.iter().find(|other| spec.tied_to.as_ref() == Some(&other.name)) else { return Ok(()) };
        let others = self.read_one(other, specs)?;
        if own.tensors.iter().map(|(_, array)| array).eq(others.tensors.iter().map(|(_, array)| array)) {
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
        let names = || specs.iter().flat_map(names_in_files).map(String::as_str);
        let parts = names().flat_map(|name| [self.part(name, "scales"), self.part(name, "biases")]).flatten();
        let taken: HashSet<&str> = names().chain(parts).collect();
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
        let message = format!("the model is quantised{how} as this version cannot read it");
        let file = part.as_ref().map_or(self.files.first(), |part| self.files.get(self.index[part]));
        let failure = Failure::new(Status::Input, message);
        let failure = file.into_iter().fold(failure, |failure, file| failure.at(file.path().display()));
        let failure = match part {
            Some(part) => failure.because(format!("the weights have a tensor `{part}`")),
            None => failure.because(format!("config.json says so, and `{}` is not as the model needs it", spec.name)),
        };
        Some(failure.help(
            "it reads what `mlx_lm.convert -q` writes: `mode` affine, 2, 3, 4, 5, 6 or 8 bits, groups of 32, 64 or 128. Take \
             the model that it was made from, and set `model.quantize`; `mlx_lm.convert --hf-path DIR --mlx-path OUT \
             --dequantize` writes unquantised weights of one that MLX reads",
        ))
    }

    fn find(&self, name: &str) -> Result<(&str, &MappedTensors, &TensorInfo), Failure> {
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
        Ok((name, file, info))
    }

    fn read_plain(&self, name: &str, expected: &[usize]) -> Result<Named<'_>, Failure> {
        let (name, file, info) = self.find(name)?;
        let TensorInfo { dtype, shape, .. } = info;
        if *shape != expected {
            let message = format!("tensor `{name}` has shape {shape:?}, the model needs {expected:?}");
            return Err(self.of_file(name, message).help("the weights do not belong to this config.json"));
        }
        let dtype = float(*dtype).ok_or_else(|| {
            self.of_file(name, format!("tensor `{name}` has type {dtype:?}")).help("weights may be F32, F16 or BF16")
        })?;
        Ok((name, HostArrayRef { dtype, shape, bytes: file.bytes_of(info) }))
    }

    /// The failure of a tensor with numbers that are not finite.
    pub(super) fn not_finite(&self, name: &str) -> Failure {
        self.of_file(name, format!("tensor `{name}` has numbers that are not finite"))
            .help("the model is damaged, or its training diverged: get it again, or choose an earlier checkpoint")
    }

    /// A failure with the file of a tensor.
    fn of_file(&self, name: &str, message: String) -> Failure {
        let failure = Failure::new(Status::Input, message);
        match self.index.get(name) {
            Some(&number) => failure.at(self.files[number].path().display()),
            None => failure,
        }
    }
}

/// All names that files may have for a parameter, or for its parts.
fn names_in_files(spec: &ParameterSpec) -> impl Iterator<Item = &String> {
    let half = spec.half_of.iter().map(|half| &half.name);
    [&spec.name].into_iter().chain(&spec.aliases).chain(&spec.stacked_from).chain(half)
}

/// A parameter that files may hold under the names of those that are tied to it, too.
fn with_ties(spec: &ParameterSpec, specs: &[ParameterSpec]) -> ParameterSpec {
    let tied = specs.iter().filter(|tied| tied.tied_to.as_ref() == Some(&spec.name));
    let names = tied.flat_map(|tied| [&tied.name].into_iter().chain(&tied.aliases)).cloned();
    ParameterSpec { aliases: spec.aliases.iter().cloned().chain(names).collect(), ..spec.clone() }
}

/// The layer that a weight is of: `a.b` of `a.b.weight`.
fn layer_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// The type of a plain weight's elements.
fn float(dtype: safetensors::Dtype) -> Option<Dtype> {
    match dtype {
        safetensors::Dtype::F32 => Some(Dtype::F32),
        safetensors::Dtype::F16 => Some(Dtype::F16),
        safetensors::Dtype::BF16 => Some(Dtype::BF16),
        _ => None,
    }
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
