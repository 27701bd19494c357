//! The weights of a model directory: one safetensors file or several, memory-mapped.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mdt_plugin_api::{Dtype, HostArrayRef, ParameterSpec};
use safetensors::tensor::TensorInfo;
use serde::Deserialize;

use crate::exit::{Failure, Status};
use crate::nearest::nearest;
use crate::storage::MappedTensors;

/// The memory-mapped weight files of a directory and what is in them.
pub(super) struct Files {
    files: Vec<MappedTensors>,
    /// Which file has the tensor of a name.
    index: HashMap<String, usize>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Files {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(super) fn open(directory: &Path) -> Result<Self, Failure> {
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
        Ok(Self { files, index })
    }

    /// The bytes of a parameter.
    ///
    /// # Errors
    /// It is missing, of another shape, or of a type that weights do not have.
    pub(super) fn read(&self, spec: &ParameterSpec) -> Result<HostArrayRef<'_>, Failure> {
        let input = |message: String| Failure::new(Status::Input, message);
        let file = self.index.get(&spec.name).map(|&number| &self.files[number]).ok_or_else(|| {
            let nearest = nearest(&spec.name, self.index.keys().map(String::as_str));
            let failure = input(format!("the model's weights have no tensor `{}`", spec.name));
            let failure = self.files.iter().fold(failure, |failure, file| failure.at(file.path().display()));
            match nearest {
                Some(near) => failure.help(format!("the nearest name there is `{near}`")),
                None => failure,
            }
        })?;
        let info = file
            .metadata()
            .info(&spec.name)
            .ok_or_else(|| input(format!("tensor `{}` is gone", spec.name)).at(file.path().display()))?;
        let TensorInfo { dtype, shape, .. } = info;
        if *shape != spec.shape {
            return Err(input(format!("tensor `{}` has shape {shape:?}, the model needs {:?}", spec.name, spec.shape))
                .at(file.path().display())
                .help("the weights do not belong to this config.json"));
        }
        let dtype = match dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::BF16,
            other => {
                return Err(input(format!("tensor `{}` has type {other:?}", spec.name))
                    .at(file.path().display())
                    .help("weights may be F32, F16 or BF16"));
            }
        };
        Ok(HostArrayRef { dtype, shape, bytes: file.bytes_of(info) })
    }

    /// The failure of a tensor with numbers that are not finite.
    pub(super) fn not_finite(&self, name: &str) -> Failure {
        let failure = Failure::new(Status::Input, format!("tensor `{name}` has numbers that are not finite"));
        let file = self.index.get(name).map(|&number| &self.files[number]);
        file.map_or(failure.clone(), |file| failure.at(file.path().display()))
            .help("the model is damaged, or its training diverged: get it again, or choose an earlier checkpoint")
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
    let text = fs::read_to_string(index_path)
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
