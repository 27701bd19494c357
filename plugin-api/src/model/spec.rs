//! What a model says of itself: its parameters, its vocabulary, its head.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{Error, Result};

/// One parameter of a model.
///
/// `ParameterSpec::new("h.0.mlp.c_fc.weight", [64, 256], Role::Linear, init).in_out()`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterSpec {
    /// Its name in checkpoints: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Its initial values where no weights are loaded.
    pub init: Init,
    /// What it does; optimizers may treat roles differently.
    #[serde(default)]
    pub role: Role,
    /// The order of a linear layer's axes.
    #[serde(default)]
    pub layout: Layout,
    /// The parameter that this one is: both names stand for the same values, which are kept, trained and saved once, under
    /// the other name. A file may hold a copy under this one.
    #[serde(default)]
    pub tied_to: Option<String>,
    /// Other names that files have for it, tried in this order where its name is absent. It is saved under its name.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The names of the tensors that files have in its place, one for each place of its first axis and each of the shape of
    /// the other axes; none where files have one tensor. It is loaded from these unless a file has it whole, under its name
    /// or an alias, and saved as these.
    #[serde(default)]
    pub stacked_from: Vec<String>,
    /// The tensor of which some files have it as one half, where neither its own name nor an alias is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_of: Option<HalfOf>,
    /// Whether it is trained. One that is not has no gradient and no optimizer state; it is saved with the model.
    #[serde(default = "trainable")]
    pub trainable: bool,
}

/// A tensor `[E, 2 · rows, columns]` whose halves along the second axis are two parameters: gates and what they are multiplied with,
/// of all experts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfOf {
    /// Its name in files.
    pub name: String,
    /// Whether the second half is meant.
    pub second: bool,
}

fn trainable() -> bool {
    true
}

impl ParameterSpec {
    /// A parameter that is trained, `[out, in]` where it is a linear layer's weight.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, role: Role, init: Init) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            init,
            role,
            layout: Layout::OutIn,
            tied_to: None,
            aliases: Vec::new(),
            stacked_from: Vec::new(),
            half_of: None,
            trainable: true,
        }
    }

    /// A linear layer's weight that is `[in, out]`.
    pub fn in_out(self) -> Self {
        Self { layout: Layout::InOut, ..self }
    }

    /// A second name for the parameter `name`.
    pub fn tied_to(self, name: impl Into<String>) -> Self {
        Self { tied_to: Some(name.into()), ..self }
    }

    /// Another name that files have for it.
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.aliases.push(name.into());
        self
    }

    /// One half of this tensor in some files.
    pub fn half_of(self, name: impl Into<String>, second: bool) -> Self {
        Self { half_of: Some(HalfOf { name: name.into(), second }), ..self }
    }

    /// Made of these tensors of files, in their order along its first axis:
    /// `.stacked_from((0..8).map(|e| format!("model.layers.0.block_sparse_moe.experts.{e}.w1.weight")))`.
    pub fn stacked_from(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { stacked_from: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// Not trained.
    pub fn frozen(self) -> Self {
        Self { trainable: false, ..self }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What a parameter does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The weight of a linear layer, the head's too unless it is tied to an embedding.
    Linear,
    /// The weights of linear layers of as many experts, `[E, out, in]`. An optimizer that works on matrices (Muon) takes it
    /// for E of them.
    Experts,
    /// A table whose rows are looked up.
    Embedding,
    /// The weight or bias of a norm.
    Norm,
    /// A bias, or anything else; a role of a later version counts as this one.
    #[default]
    #[serde(other)]
    Other,
}

/// The order of the axes of a linear layer's weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// `[out, in]`, as PyTorch's `Linear` has it.
    #[default]
    OutIn,
    /// `[in, out]`, as GPT-2's `Conv1D` has it.
    InOut,
}

/// The initial values of a parameter with `model.init = "random"`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Init {
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// All ones (norms).
    Ones,
    /// All zeros (biases).
    Zeros,
}

/// The linear layer that makes logits of hidden states: `soft_cap · tanh(scale · W x / soft_cap)`, or `scale · W x` without
/// a cap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Its name: `lm_head`, whose weight is `lm_head.weight`.
    pub name: String,
    /// What logits are multiplied by.
    #[serde(default = "one")]
    pub scale: f64,
    /// What logits stay below.
    #[serde(default)]
    pub soft_cap: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl Head {
    /// A head of this name without scale and cap.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), scale: 1.0, soft_cap: None }
    }
}

/// What a model says of itself, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Every parameter, in the order of the forward pass.
    pub parameters: Vec<ParameterSpec>,
    /// Size of the vocabulary: logits have this many columns, token ids are below it.
    pub vocabulary_size: usize,
    /// What makes logits of its hidden states.
    pub head: Head,
    /// Keys that the trained model's `config.json` gets, in the place of those that it began with: for readers that have
    /// other defaults for absent keys than this model.
    #[serde(default)]
    pub config: Map<String, Json>,
    /// The number of positions that it has learnt, where it has learnt some: no sequence may be longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// The length beyond which a sequence has other keys than a shorter one, as with LongRoPE: generation computes all of them
    /// again when it gets there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_keys_beyond: Option<usize>,
}

impl ModelSpec {
    /// A model without further keys for its `config.json`.
    pub fn new(parameters: Vec<ParameterSpec>, vocabulary_size: usize, head: Head) -> Self {
        let (config, max_positions, other_keys_beyond) = (Map::new(), None, None);
        Self { parameters, vocabulary_size, head, config, max_positions, other_keys_beyond }
    }

    /// The number of features of its hidden states, which is that of its head's inputs.
    ///
    /// # Errors
    /// It declares no weight of its head.
    pub fn hidden_size(&self) -> Result<usize> {
        let name = format!("{}.weight", self.head.name);
        let weight = self.parameters.iter().find(|spec| spec.name == name).map(|spec| (spec.layout, &spec.shape[..]));
        match weight {
            Some((Layout::OutIn, &[_, size]) | (Layout::InOut, &[size, _])) => Ok(size),
            _ => Err(Error::plugin(format!("the model declares no weight `{name}` of two axes, which its head has"))),
        }
    }
}
