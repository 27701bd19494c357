//! What a model computes with: weights by name, positions, attention, blocks.

use std::rc::Rc;

use crate::{Compute, Error, Result, Tensor};

/// A part of a model, called with a context whose weights are the block's own and with the block's inputs.
pub type BlockFunction = dyn Fn(&ModelContext, &[Tensor]) -> Result<Vec<Tensor>>;

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Whether its loss is differentiated.
    pub training: bool,
    /// Number of tokens of each row so far, those in a cache included.
    pub length: usize,
}

/// What the host does for a model. The host decides what is behind a name, plain or quantised weights, with an adapter beside them or
/// without, and no model knows of it.
///
/// Called on the compute thread.
pub trait ModelHost {
    /// Several linear layers of one input; see [`ModelContext::linear`].
    fn linears(&self, names: &[&str], x: &Tensor) -> Result<Vec<Tensor>>;
    /// Several linear layers of experts of one input; see [`ModelContext::expert_linears`].
    fn expert_linears(&self, names: &[&str], x: &Tensor, experts: &Tensor) -> Result<Vec<Tensor>>;
    /// See [`ModelContext::embedding`].
    fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor>;
    /// A parameter by its full name; none where the model declares none of this name.
    fn parameter(&self, name: &str) -> Result<Option<Tensor>>;
    /// See [`ModelContext::positions`].
    fn positions(&self) -> Result<Tensor>;
    /// See [`ModelContext::rope`].
    fn rope(&self, x: &Tensor, inverse_frequencies: &Tensor, scale: f64) -> Result<Tensor>;
    /// See [`ModelContext::attention`].
    fn attention(&self, name: &str, qkv: [&Tensor; 3], options: &Attention) -> Result<Tensor>;
    /// See [`ModelContext::block`].
    fn block(&self, name: &str, inputs: &[&Tensor], function: Rc<BlockFunction>) -> Result<Vec<Tensor>>;
    /// See [`ModelContext::auxiliary_loss`].
    fn auxiliary_loss(&self, name: &str, value: &Tensor, coefficient: f64) -> Result<()>;
    /// See [`ModelContext::earlier`].
    fn earlier(&self, name: &str) -> Result<Option<Tensor>>;
    /// See [`ModelContext::keep`].
    fn keep(&self, name: &str, tensor: &Tensor) -> Result<()>;
    /// See [`ModelContext::key`].
    fn key(&self, place: &str) -> u64;
    /// What this pass is for.
    fn pass(&self) -> Pass;
}

/// How [`ModelContext::attention`] scores keys and which ones a query sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// What scores are multiplied by, often `1 / √D`.
    pub scale: f64,
    /// How many tokens a query sees at most, its own included; all earlier ones where that is `None`.
    pub window: Option<usize>,
    /// Where it is set, a score becomes `soft_cap · tanh(score / soft_cap)`.
    pub soft_cap: Option<f64>,
    /// The part of the weights of attention that is set to 0 in training, as by [`ModelContext::dropout`].
    pub dropout: f64,
}

impl Attention {
    /// Attention to all earlier tokens, with plain scores.
    pub fn new(scale: f64) -> Self {
        Self { scale, window: None, soft_cap: None, dropout: 0.0 }
    }
}

/// The weights and the device for one forward pass, or for one block of it.
///
/// Shapes: B rows, T tokens in this pass, D features.
pub struct ModelContext {
    host: Rc<dyn ModelHost>,
    compute: Rc<dyn Compute>,
}

impl ModelContext {
    /// A context over this host and this device.
    pub fn new(host: Rc<dyn ModelHost>, compute: Rc<dyn Compute>) -> Self {
        Self { host, compute }
    }

    /// `W x (+ b)` with `<name>.weight` and, where the model declares one, `<name>.bias`; x `[.., in]`, result `[.., out]`.
    pub fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let [result] = self.linears([name], x)?;
        Ok(result)
    }

    /// Several linear layers of one input, which the host may compute as one product.
    pub fn linears<const N: usize>(&self, names: [&str; N], x: &Tensor) -> Result<[Tensor; N]> {
        exactly(self.host.linears(&names, x)?, "linear layers")
    }

    /// A linear layer of experts: `<name>.weight` is `[E, out, in]` and, where the model declares one, `<name>.bias`
    /// `[E, out]`. Of N tokens each has K experts, `experts` `[N, K]`, int32; x is `[N, K, in]`, or `[N, 1, in]` where all
    /// experts of a token have the same input. The result is `[N, K, out]`.
    ///
    /// # Errors
    /// Shapes that do not fit; an expert that there is none of, which is an error when the result is evaluated.
    pub fn expert_linear(&self, name: &str, x: &Tensor, experts: &Tensor) -> Result<Tensor> {
        let [result] = self.expert_linears([name], x, experts)?;
        Ok(result)
    }

    /// Several linear layers of experts of one input, which the host may compute as one product.
    pub fn expert_linears<const N: usize>(
        &self,
        names: [&str; N],
        x: &Tensor,
        experts: &Tensor,
    ) -> Result<[Tensor; N]> {
        exactly(self.host.expert_linears(&names, x, experts)?, "linear layers of experts")
    }

    /// Rows of `<name>.weight` at these ids; ids `[..]`, result `[.., D]`.
    pub fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        self.host.embedding(name, ids)
    }

    /// A parameter by its full name.
    ///
    /// # Errors
    /// The model declares none of this name, or it lies outside of the present block.
    pub fn parameter(&self, name: &str) -> Result<Tensor> {
        self.host
            .parameter(name)?
            .ok_or_else(|| Error::plugin(format!("the model asked for `{name}`, which it did not declare")))
    }

    /// Root mean square norm over the last axis (Zhang and Sennrich 2019) with `<name>.weight`.
    pub fn rms_norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        x.rms_norm(&self.parameter(&format!("{name}.weight"))?, eps)
    }

    /// Layer norm over the last axis (Ba et al. 2016) with `<name>.weight` and, where the model declares one,
    /// `<name>.bias`.
    pub fn layer_norm(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let bias = self.host.parameter(&format!("{name}.bias"))?;
        x.layer_norm(&weight, bias.as_ref(), eps)
    }

    /// The position of each token in its document, int32, `[B, T]` or `[1, T]` where they are those of all rows.
    pub fn positions(&self) -> Result<Tensor> {
        self.host.positions()
    }

    /// Rotary positions (Su et al. 2021) on x `[B, H, T, D]`: feature i is rotated against i + D/2 by position times inverse
    /// frequency `[D/2]` radians, and multiplied by `scale`.
    pub fn rope(&self, x: &Tensor, inverse_frequencies: &Tensor, scale: f64) -> Result<Tensor> {
        self.host.rope(x, inverse_frequencies, scale)
    }

    /// Causal attention of queries `[B, H, T, D]` to keys and values `[B, H_kv, T, D]`, H_kv dividing H; result
    /// `[B, H, T, D]`.
    ///
    /// The host masks what lies in other documents of a packed row, and keeps keys and values under `name` for the tokens
    /// that follow when text is generated. Every layer has a name of its own, any name.
    pub fn attention(
        &self,
        name: &str,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        options: &Attention,
    ) -> Result<Tensor> {
        self.host.attention(name, [queries, keys, values], options)
    }

    /// Computes a part of the model, such as a layer, which has the parameters `<name>.*`; the function returns a tensor, or
    /// an array of them.
    ///
    /// The host may compute it again instead of keeping what lies inside of it. So the function is pure; it gets all
    /// tensors that it uses as `inputs` and by the names of the block's own parameters, from the context that it is given. A
    /// tensor that it takes from elsewhere would get no gradient, and is an error when the block is computed again.
    pub fn block<const N: usize, R: BlockResults>(
        &self,
        name: &str,
        inputs: [&Tensor; N],
        function: impl Fn(&ModelContext, [&Tensor; N]) -> Result<R> + 'static,
    ) -> Result<R> {
        let function = move |ctx: &ModelContext, inputs: &[Tensor]| {
            let inputs = exactly(inputs.iter().collect(), "inputs of a block")?;
            Ok(function(ctx, inputs)?.into_tensors())
        };
        R::from_tensors(self.host.block(name, &inputs, Rc::new(function))?)
    }

    /// Adds `coefficient · value` to what is trained: a loss of the model's own, such as one that balances its experts. `value`
    /// is a scalar. A block may call it too.
    ///
    /// In training the host differentiates, for each micro-batch, the trainer's summed loss plus its weight times
    /// `coefficient · value`, and divides all by the sum of the weights: the gradient of an update is that of the mean loss plus
    /// the mean over its micro-batches of `coefficient · value`, weighted by their weights. `value` is a metric of this name,
    /// with the same mean, in evaluations as `eval_<name>`; `loss` and `eval_loss` stay the trainer's. Values of one name in
    /// one forward pass are added up; of several passes over one micro-batch the mean is taken. In a frozen model, and when text
    /// is generated, nothing happens.
    ///
    /// # Errors
    /// `value` is no scalar.
    pub fn auxiliary_loss(&self, name: &str, value: &Tensor, coefficient: f64) -> Result<()> {
        self.host.auxiliary_loss(name, value, coefficient)
    }

    /// What [`ModelContext::keep`] kept under this name in the pass over the tokens before these, for state that is neither keys
    /// nor values: of convolutions, of recurrent layers. `None` where these tokens begin a sequence, and in every pass that is
    /// not part of a generation.
    ///
    /// What a layer computes of a sequence in pieces, with what it kept, is what it computes of the whole. In a pass with
    /// packed rows a document begins where [`ModelContext::positions`] are 0: no state may reach over that.
    pub fn earlier(&self, name: &str) -> Result<Option<Tensor>> {
        self.host.earlier(name)
    }

    /// Keeps a tensor under a name for the tokens that follow, in the place of an earlier one. All rows of such a pass have the
    /// same number of tokens, none of them padding. Where no tokens follow, in training and evaluation, nothing is kept.
    pub fn keep(&self, name: &str, tensor: &Tensor) -> Result<()> {
        self.host.keep(name, tensor)
    }

    /// The key of random numbers at a place of the model (`h.0.attn_dropout`): a function of the job's seed, the update, the
    /// number of the micro-batch among those of all ranks, and the place.
    pub fn key(&self, place: &str) -> u64 {
        self.host.key(place)
    }

    /// Sets a part of the elements to 0 in training and scales the others up (Srivastava et al. 2014), by the key of
    /// `place`; outside of training, nothing changes.
    pub fn dropout(&self, place: &str, x: &Tensor, rate: f64) -> Result<Tensor> {
        if rate == 0.0 || !self.training() {
            return x.try_clone();
        }
        x.dropout(rate, self.key(place))
    }

    /// Whether the loss of this pass is differentiated.
    pub fn training(&self) -> bool {
        self.host.pass().training
    }

    /// Number of tokens of each row so far, those in a cache included; of a packed row, those of all its items.
    pub fn length(&self) -> usize {
        self.host.pass().length
    }

    /// The device, for operations without inputs.
    pub fn compute(&self) -> &Rc<dyn Compute> {
        &self.compute
    }

    /// What the host does.
    pub fn host(&self) -> &Rc<dyn ModelHost> {
        &self.host
    }
}

/// The results of a block: a tensor, or an array of them.
pub trait BlockResults: Sized {
    /// In their order.
    fn into_tensors(self) -> Vec<Tensor>;
    /// The same back.
    ///
    /// # Errors
    /// Another number of tensors.
    fn from_tensors(tensors: Vec<Tensor>) -> Result<Self>;
}

impl<const N: usize> BlockResults for [Tensor; N] {
    fn into_tensors(self) -> Vec<Tensor> {
        self.into()
    }

    fn from_tensors(tensors: Vec<Tensor>) -> Result<Self> {
        exactly(tensors, "results of a block")
    }
}

impl BlockResults for Tensor {
    fn into_tensors(self) -> Vec<Tensor> {
        vec![self]
    }

    fn from_tensors(tensors: Vec<Tensor>) -> Result<Self> {
        let [tensor] = exactly(tensors, "results of a block")?;
        Ok(tensor)
    }
}

/// As many as are expected.
pub(crate) fn exactly<T, const N: usize>(items: Vec<T>, what: &str) -> Result<[T; N]> {
    <[T; N]>::try_from(items).map_err(|items| Error::plugin(format!("{N} {what} were expected, not {}", items.len())))
}
