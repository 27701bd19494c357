//! Adapters: small matrices that are trained beside the weights of a model's layers, which stay as they are.
//!
//! They are ordinary parameters whose names lie inside of their layer's: `model.layers.0.self_attn.q_proj.lora_A.weight`. So
//! blocks, checkpoints, optimizers and ranks treat them as any other, and [`super::layer`] adds them to what a layer computes.

mod directory;
mod layer;
mod merge;
mod mlx;
mod peft;
mod start;
mod targets;
mod written;

use mdt_plugin_api::{Init, Layout, ModelSpec, ParameterSpec, Role};
use serde_json::{Value, json};

use crate::config::{self, AdapterFormat, AdapterKind};
use crate::exit::Failure;

pub use directory::{AdapterDirectory, CONFIG as ADAPTER_CONFIG};
pub(super) use layer::LayerAdapter;
pub use written::WrittenAdapter;

/// What an adapter is called in its layer, as peft names it.
pub(super) mod name {
    pub(in crate::model) const A: &str = "lora_A.weight";
    pub(in crate::model) const B: &str = "lora_B.weight";
    pub(in crate::model) const EMBEDDING_A: &str = "lora_embedding_A";
    pub(in crate::model) const EMBEDDING_B: &str = "lora_embedding_B";
    pub(in crate::model) const MAGNITUDE: &str = "lora_magnitude_vector";
}

/// What is the same in every layer that has an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What the product of the two matrices is multiplied by.
    pub scale: f64,
    /// The part of the adapter's inputs that is set to 0 in training.
    pub dropout: f64,
}

/// The adapter of a job: which layers have one, and how they use it.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What it adds to a layer.
    pub kind: AdapterKind,
    /// The rank of what it adds.
    pub rank: usize,
    /// What `rule.scale` is made of, together with the rank.
    pub alpha: f64,
    /// Whether it is `alpha / √rank`.
    pub rslora: bool,
    /// How every layer uses it.
    pub rule: Rule,
    /// How it is written.
    pub format: AdapterFormat,
    /// The layers that have one, in the model's order.
    pub layers: Vec<AdaptedLayer>,
    /// The names of modules that are trained as they are.
    pub modules_to_save: Vec<String>,
    /// Where it begins; none where it is new.
    pub directory: Option<AdapterDirectory>,
}

/// A layer that has an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedLayer {
    /// Its name, without `.weight`.
    pub name: String,
    /// Whether it looks up rows.
    pub is_embedding: bool,
    /// The shape of its weight.
    pub shape: [usize; 2],
    /// The order of the axes of its weight.
    pub layout: Layout,
    /// Whether its weight is another one's, too.
    pub is_tied: bool,
}

impl Adapter {
    /// The adapter that a configuration describes, for a model.
    ///
    /// # Errors
    /// Keys that exclude each other, names that the model does not have, a directory that is no adapter or another model's.
    pub fn new(settings: &config::Adapter, model: &ModelSpec) -> Result<Self, Failure> {
        let adapter = match &settings.path {
            Some(path) => {
                refuse_keys_of_a_new_one(settings)?;
                let adapter = AdapterDirectory::open(path)?.adapter(model)?;
                let rule = Rule { dropout: settings.dropout.unwrap_or(adapter.rule.dropout), ..adapter.rule };
                Self { format: settings.format.unwrap_or(adapter.format), rule, ..adapter }
            }
            None => Self::begin(settings, model)?,
        };
        if adapter.format == AdapterFormat::Mlx {
            mlx::require_same_meaning(&adapter).map_err(|failure| {
                failure.help("`model.adapter.format` is \"mlx\": write it as peft has it, with `model.adapter.format = \"peft\"`")
            })?;
        }
        Ok(adapter)
    }

    fn begin(settings: &config::Adapter, model: &ModelSpec) -> Result<Self, Failure> {
        let (rank, alpha) = (settings.rank.unwrap_or(8) as usize, settings.alpha.unwrap_or(8.0));
        let rslora = settings.rslora.unwrap_or_default();
        let modules_to_save = targets::modules(settings.modules_to_save.as_deref().unwrap_or_default(), model)?;
        Ok(Self {
            kind: settings.kind.unwrap_or_default(),
            rank,
            alpha,
            rslora,
            rule: Rule { scale: scale(alpha, rank, rslora), dropout: settings.dropout.unwrap_or_default() },
            format: settings.format.unwrap_or_default(),
            layers: targets::layers(settings, &modules_to_save, model)?,
            modules_to_save,
            directory: None,
        })
    }

    /// The model's own parameters beside it: none is trained but those of `modules_to_save`, which are tied to no other.
    pub fn beside(&self, specs: &[ParameterSpec]) -> Vec<ParameterSpec> {
        let saved = |name: &str| self.saves(name);
        let parted: Vec<&str> = specs
            .iter()
            .filter(|spec| spec.tied_to.is_some())
            .filter(|spec| saved(&spec.name) || spec.tied_to.as_deref().is_some_and(saved))
            .map(|spec| spec.name.as_str())
            .collect();
        let beside = |spec: &ParameterSpec| {
            let spec = ParameterSpec { trainable: spec.trainable && saved(&spec.name), ..spec.clone() };
            if parted.contains(&spec.name.as_str()) { untied(spec) } else { spec }
        };
        specs.iter().map(beside).collect()
    }

    /// Whether a parameter is one of a module that is trained as it is.
    pub fn saves(&self, parameter: &str) -> bool {
        self.modules_to_save
            .iter()
            .any(|module| parameter.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Where it was read, for errors.
    pub fn place(&self) -> String {
        self.directory.as_ref().map_or_else(|| "model.adapter".to_owned(), AdapterDirectory::place)
    }

    /// How it is used, which its matrices do not say: its scale, and what that is made of.
    pub fn use_of(&self) -> Value {
        json!({ "alpha": self.alpha, "rslora": self.rslora, "scale": self.rule.scale, "dropout": self.rule.dropout })
    }

    /// Its own parameters, all of which are trained, layer by layer.
    pub fn specs(&self) -> Vec<ParameterSpec> {
        self.layers.iter().flat_map(|layer| layer.specs(self.rank, self.kind)).collect()
    }
}

impl AdaptedLayer {
    /// The layers of a model that can have an adapter: its linear layers and embeddings, in its order.
    fn all(specs: &[ParameterSpec]) -> Vec<Self> {
        let layer = |spec: &ParameterSpec| {
            let name = spec.name.strip_suffix(".weight")?.to_owned();
            let is_embedding = match spec.role {
                Role::Linear => false,
                Role::Embedding => true,
                _ => return None,
            };
            let shape = <[usize; 2]>::try_from(spec.shape.as_slice()).ok()?;
            let is_tied =
                spec.tied_to.is_some() || specs.iter().any(|other| other.tied_to.as_ref() == Some(&spec.name));
            Some(Self { name, is_embedding, shape, layout: spec.layout, is_tied })
        };
        specs.iter().filter_map(layer).collect()
    }

    /// Where the outputs are among the axes of its weight. The outputs of an embedding are columns.
    pub(super) fn orientation(&self) -> Layout {
        if self.is_embedding { Layout::InOut } else { self.layout }
    }

    /// The numbers of its inputs and outputs; an embedding's inputs are ids.
    fn sizes(&self) -> [usize; 2] {
        let [first, second] = self.shape;
        match self.orientation() {
            Layout::InOut => [first, second],
            Layout::OutIn => [second, first],
        }
    }

    /// The full names of its two matrices.
    fn matrices(&self) -> [String; 2] {
        let names = if self.is_embedding { [name::EMBEDDING_A, name::EMBEDDING_B] } else { [name::A, name::B] };
        names.map(|name| format!("{}.{name}", self.name))
    }

    fn specs(&self, rank: usize, kind: AdapterKind) -> Vec<ParameterSpec> {
        let ([inputs, outputs], [a, b]) = (self.sizes(), self.matrices());
        let spec = |name, shape: [usize; 2], init| ParameterSpec::new(name, shape, Role::Linear, init);
        // The values of a linear layer's A are uniform, with this deviation.
        let drawn = Init::Normal { std: if self.is_embedding { 1.0 } else { (1.0 / (3.0 * inputs as f64)).sqrt() } };
        let (of_a, of_b) = if self.is_embedding { (Init::Zeros, drawn) } else { (drawn, Init::Zeros) };
        let mut specs = vec![spec(a, [rank, inputs], of_a), spec(b, [outputs, rank], of_b)];
        if kind == AdapterKind::Dora {
            let name = format!("{}.{}", self.name, name::MAGNITUDE);
            specs.push(ParameterSpec::new(name, [outputs], Role::Other, Init::Ones));
        }
        specs
    }
}

/// What the product of two matrices is multiplied by.
fn scale(alpha: f64, rank: usize, rslora: bool) -> f64 {
    if rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
}

/// A parameter that was another one, with values of its own: in files without it, those of the other one.
pub(super) fn untied(mut spec: ParameterSpec) -> ParameterSpec {
    spec.aliases.extend(spec.tied_to.take());
    spec
}

/// An adapter that is read says what these keys would say.
fn refuse_keys_of_a_new_one(settings: &config::Adapter) -> Result<(), Failure> {
    let config::Adapter { kind, rank, alpha, rslora, targets, layers, modules_to_save, .. } = settings;
    let keys = [
        ("kind", kind.is_some()),
        ("rank", rank.is_some()),
        ("alpha", alpha.is_some()),
        ("rslora", rslora.is_some()),
        ("targets", targets.is_some()),
        ("layers", layers.is_some()),
        ("modules_to_save", modules_to_save.is_some()),
    ];
    match keys.into_iter().find(|&(_, is_set)| is_set) {
        None => Ok(()),
        Some((key, _)) => Err(Failure::configuration(format!(
            "`model.adapter.{key}` is set beside `model.adapter.path`, whose adapter has its own"
        ))
        .help(format!("remove one of the two: without `{key}` the adapter goes on, without `path` a new one begins"))),
    }
}
