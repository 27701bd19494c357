//! Models, and what the host does for them, across the boundary.

use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::{RSlice, RSliceMut, RStr};

use super::compute;
use super::guard::{Guarded, Owner};
use super::object::{Imported, RawObject, RawSink, exports};
use super::record::replies;
use super::table::{c_struct, interfaces};
use super::types::{collected, filled, owned_or_none};
use crate::register::ModelComponent;
use crate::{
    Attention, BlockFunction, Compute, Handle, Model, ModelContext, ModelHost, ModelSpec, Pass, Result, Tensor,
};

c_struct! {
    /// [`Attention`]; 0 where there is no window or no cap.
    "MdtAttention" RawAttention {
        scale: f64,
        window: usize,
        soft_cap: f64,
        dropout: f64,
    }

    /// [`Pass`].
    "MdtPass" RawPass {
        training: bool,
        length: usize,
    }
}

interfaces! {
    /// What the host does for a model; handles go in borrowed and come out owned. The compute thread.
    "host.forward/1" HostForward ForwardPassFunctions {
        /// [`ModelHost::linears`]; a slot for each.
        fn apply_linears(names: RSlice<'_, RStr<'_>>, x: u64, results: RSliceMut<'_, u64>);
        /// [`ModelHost::expert_linears`]; a slot for each.
        fn apply_expert_linears(names: RSlice<'_, RStr<'_>>, x: u64, experts: u64, results: RSliceMut<'_, u64>);
        /// [`ModelHost::embedding`].
        fn look_up(name: RStr<'_>, ids: u64, result: &mut u64);
        /// [`ModelHost::parameter`]; 0 where there is none.
        fn parameter_named(name: RStr<'_>, result: &mut u64);
        /// [`ModelHost::positions`].
        fn token_positions(result: &mut u64);
        /// [`ModelHost::rope`].
        fn rotate(x: u64, inverse_frequencies: u64, scale: f64, result: &mut u64);
        /// [`ModelHost::attention`].
        fn attend(
            name: RStr<'_>, queries: u64, keys: u64, values: u64, options: &RawAttention, result: &mut u64
        );
        /// [`ModelHost::block`]; the function is an object with `model.block/1`, which is the host's from then on.
        fn run_block(name: RStr<'_>, inputs: RSlice<'_, u64>, function: &mut RawObject, results: &RawSink<'_, u64>);
        /// [`ModelHost::auxiliary_loss`].
        fn add_auxiliary_loss(name: RStr<'_>, value: u64, coefficient: f64);
        /// [`ModelHost::earlier`]; 0 where there is none.
        fn earlier_state(name: RStr<'_>, result: &mut u64);
        /// [`ModelHost::keep`].
        fn keep_state(name: RStr<'_>, tensor: u64);
        /// [`ModelHost::key`].
        fn random_key(place: RStr<'_>, key: &mut u64);
        /// [`ModelHost::pass`].
        fn describe_pass(pass: &mut RawPass);
    }

    /// A part of a model. The compute thread. The host and the compute that it is given are its own from then on.
    "model.block/1" ModelBlock BlockFunctions {
        /// A [`BlockFunction`].
        fn compute_block(
            host: &mut RawObject, compute: &mut RawObject, inputs: RSlice<'_, u64>, results: &RawSink<'_, u64>
        );
    }

    /// A model. The compute thread. The host and the compute that it is given are its own from then on.
    "model.forward/1" ModelForward ForwardFunctions {
        /// [`Model::spec`].
        fn describe() -> ModelSpec;
        /// [`Model::hidden`].
        fn forward(host: &mut RawObject, compute: &mut RawObject, tokens: u64, hidden: &mut u64);
    }
}

/// What the host does, and its device.
type LocalHost = (Rc<dyn ModelHost>, Rc<dyn Compute>);

replies! { ModelSpec }
exports! { LocalHost: HostForward; Rc<BlockFunction>: ModelBlock; ModelComponent: ModelForward; }

impl ForwardPassFunctions for LocalHost {
    fn apply_linears(&self, names: RSlice<'_, RStr<'_>>, x: u64, results: RSliceMut<'_, u64>) -> Result<()> {
        let names: Vec<&str> = names.iter().map(RStr::as_str).collect();
        give(self.0.linears(&names, &Tensor::borrowed(&self.1, x))?, results)
    }

    fn apply_expert_linears(
        &self,
        names: RSlice<'_, RStr<'_>>,
        x: u64,
        experts: u64,
        results: RSliceMut<'_, u64>,
    ) -> Result<()> {
        let names: Vec<&str> = names.iter().map(RStr::as_str).collect();
        let [x, experts] = [x, experts].map(|handle| Tensor::borrowed(&self.1, handle));
        give(self.0.expert_linears(&names, &x, &experts)?, results)
    }

    fn look_up(&self, name: RStr<'_>, ids: u64, result: &mut u64) -> Result<()> {
        *result = self.0.embedding(name.as_str(), &Tensor::borrowed(&self.1, ids))?.into_handle()?;
        Ok(())
    }

    fn parameter_named(&self, name: RStr<'_>, result: &mut u64) -> Result<()> {
        *result = self.0.parameter(name.as_str())?.map_or(Ok(0), Tensor::into_handle)?;
        Ok(())
    }

    fn token_positions(&self, result: &mut u64) -> Result<()> {
        *result = self.0.positions()?.into_handle()?;
        Ok(())
    }

    fn rotate(&self, x: u64, inverse_frequencies: u64, scale: f64, result: &mut u64) -> Result<()> {
        let [x, frequencies] = [x, inverse_frequencies].map(|handle| Tensor::borrowed(&self.1, handle));
        *result = self.0.rope(&x, &frequencies, scale)?.into_handle()?;
        Ok(())
    }

    fn attend(
        &self,
        name: RStr<'_>,
        queries: u64,
        keys: u64,
        values: u64,
        options: &RawAttention,
        result: &mut u64,
    ) -> Result<()> {
        let qkv = [queries, keys, values].map(|handle| Tensor::borrowed(&self.1, handle));
        let options = Attention {
            scale: options.scale,
            window: Some(options.window).filter(|&window| window > 0),
            soft_cap: Some(options.soft_cap).filter(|&cap| cap != 0.0),
            dropout: options.dropout,
        };
        *result = self.0.attention(name.as_str(), qkv.each_ref(), &options)?.into_handle()?;
        Ok(())
    }

    fn run_block(
        &self,
        name: RStr<'_>,
        inputs: RSlice<'_, u64>,
        function: &mut RawObject,
        results: &RawSink<'_, u64>,
    ) -> Result<()> {
        let function = Imported::<ModelBlock>::of(std::mem::take(function), "model")?;
        let call = move |ctx: &ModelContext, inputs: &[Tensor]| {
            let (mut host, mut compute) = export_context(ctx);
            let handles: Vec<Handle> = inputs.iter().map(Tensor::handle).collect();
            let inputs = handles.as_slice().into();
            let results = collected(|results| function.compute_block(&mut host, &mut compute, inputs, &results))?;
            Ok(results.into_iter().map(|handle| Tensor::from_handle(ctx.compute(), handle)).collect())
        };
        let tensors: Vec<Tensor> = inputs.iter().map(|&handle| Tensor::borrowed(&self.1, handle)).collect();
        let tensors = self.0.block(name.as_str(), &tensors.iter().collect::<Vec<_>>(), Rc::new(call))?;
        results.write(&tensors.into_iter().map(Tensor::into_handle).collect::<Result<Vec<_>>>()?);
        Ok(())
    }

    fn add_auxiliary_loss(&self, name: RStr<'_>, value: u64, coefficient: f64) -> Result<()> {
        self.0.auxiliary_loss(name.as_str(), &Tensor::borrowed(&self.1, value), coefficient)
    }

    fn earlier_state(&self, name: RStr<'_>, result: &mut u64) -> Result<()> {
        *result = self.0.earlier(name.as_str())?.map_or(Ok(0), Tensor::into_handle)?;
        Ok(())
    }

    fn keep_state(&self, name: RStr<'_>, tensor: u64) -> Result<()> {
        self.0.keep(name.as_str(), &Tensor::borrowed(&self.1, tensor))
    }

    fn random_key(&self, place: RStr<'_>, key: &mut u64) -> Result<()> {
        *key = self.0.key(place.as_str());
        Ok(())
    }

    fn describe_pass(&self, pass: &mut RawPass) -> Result<()> {
        let Pass { training, length } = self.0.pass();
        *pass = RawPass { training, length };
        Ok(())
    }
}

/// Fills a slot for each tensor.
fn give(tensors: Vec<Tensor>, mut slots: RSliceMut<'_, u64>) -> Result<()> {
    for (slot, tensor) in slots.iter_mut().zip(tensors) {
        *slot = tensor.into_handle()?;
    }
    Ok(())
}

/// The host on a model's side.
struct LoadedHost {
    functions: Imported<HostForward>,
    compute: Rc<dyn Compute>,
    pass: Pass,
}

impl LoadedHost {
    fn tensor(&self, call: impl FnOnce(&Imported<HostForward>, &mut u64) -> Result<()>) -> Result<Tensor> {
        Ok(Tensor::from_handle(&self.compute, filled(|result| call(&self.functions, result))?))
    }

    fn tensor_or_none(
        &self,
        call: impl FnOnce(&Imported<HostForward>, &mut u64) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let handle = filled(|result| call(&self.functions, result))?;
        Ok(owned_or_none(&self.compute, handle))
    }

    /// A tensor for each name.
    fn tensors(
        &self,
        names: &[&str],
        call: impl FnOnce(&Imported<HostForward>, RSlice<'_, RStr<'_>>, RSliceMut<'_, u64>) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let mut handles = vec![0; names.len()];
        let names: Vec<RStr<'_>> = names.iter().map(|&name| name.into()).collect();
        call(&self.functions, names.as_slice().into(), handles.as_mut_slice().into())?;
        Ok(handles.into_iter().map(|handle| Tensor::from_handle(&self.compute, handle)).collect())
    }
}

impl ModelHost for LoadedHost {
    fn linears(&self, names: &[&str], x: &Tensor) -> Result<Vec<Tensor>> {
        self.tensors(names, |host, names, results| host.apply_linears(names, x.handle(), results))
    }

    fn expert_linears(&self, names: &[&str], x: &Tensor, experts: &Tensor) -> Result<Vec<Tensor>> {
        let (x, experts) = (x.handle(), experts.handle());
        self.tensors(names, |host, names, results| host.apply_expert_linears(names, x, experts, results))
    }

    fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        self.tensor(|host, result| host.look_up(name.into(), ids.handle(), result))
    }

    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        self.tensor_or_none(|host, result| host.parameter_named(name.into(), result))
    }

    fn positions(&self) -> Result<Tensor> {
        self.tensor(|host, result| host.token_positions(result))
    }

    fn rope(&self, x: &Tensor, inverse_frequencies: &Tensor, scale: f64) -> Result<Tensor> {
        self.tensor(|host, result| host.rotate(x.handle(), inverse_frequencies.handle(), scale, result))
    }

    fn attention(&self, name: &str, qkv: [&Tensor; 3], options: &Attention) -> Result<Tensor> {
        let [queries, keys, values] = qkv.map(Tensor::handle);
        let &Attention { scale, window, soft_cap, dropout } = options;
        let (window, soft_cap) = (window.unwrap_or_default(), soft_cap.unwrap_or_default());
        let raw = RawAttention { scale, window, soft_cap, dropout };
        self.tensor(|host, result| host.attend(name.into(), queries, keys, values, &raw, result))
    }

    fn block(&self, name: &str, inputs: &[&Tensor], function: Rc<BlockFunction>) -> Result<Vec<Tensor>> {
        let mut function = RawObject::new(Guarded::for_this_thread(function, Owner::named("model")));
        let inputs: Vec<Handle> = inputs.iter().map(|tensor| tensor.handle()).collect();
        let inputs = inputs.as_slice().into();
        let handles = collected(|results| self.functions.run_block(name.into(), inputs, &mut function, &results))?;
        Ok(handles.into_iter().map(|handle| Tensor::from_handle(&self.compute, handle)).collect())
    }

    fn auxiliary_loss(&self, name: &str, value: &Tensor, coefficient: f64) -> Result<()> {
        self.functions.add_auxiliary_loss(name.into(), value.handle(), coefficient)
    }

    fn earlier(&self, name: &str) -> Result<Option<Tensor>> {
        self.tensor_or_none(|host, result| host.earlier_state(name.into(), result))
    }

    fn keep(&self, name: &str, tensor: &Tensor) -> Result<()> {
        self.functions.keep_state(name.into(), tensor.handle())
    }

    fn key(&self, place: &str) -> u64 {
        filled(|key| self.functions.random_key(place.into(), key)).unwrap_or_default()
    }

    fn pass(&self) -> Pass {
        self.pass
    }
}

/// Host and compute as objects.
fn export_context(ctx: &ModelContext) -> (RawObject, RawObject) {
    let host = (Rc::clone(ctx.host()), Rc::clone(ctx.compute()));
    (
        RawObject::new(Guarded::for_this_thread(host, Owner::named("host model"))),
        compute::export(ctx.compute(), || Owner::named("host compute")),
    )
}

/// Takes host and compute out of their slots.
fn import_context(host: &mut RawObject, compute: &mut RawObject) -> Result<ModelContext> {
    let compute = compute::import(std::mem::take(compute), "compute")?;
    let functions = Imported::<HostForward>::of(std::mem::take(host), "host model")?;
    let mut pass = RawPass { training: false, length: 0 };
    functions.describe_pass(&mut pass)?;
    let pass = Pass { training: pass.training, length: pass.length };
    let host = LoadedHost { functions, compute: Rc::clone(&compute), pass };
    Ok(ModelContext::new(Rc::new(host), compute))
}

impl BlockFunctions for Rc<BlockFunction> {
    fn compute_block(
        &self,
        host: &mut RawObject,
        compute: &mut RawObject,
        inputs: RSlice<'_, u64>,
        results: &RawSink<'_, u64>,
    ) -> Result<()> {
        let ctx = import_context(host, compute)?;
        let inputs: Vec<Tensor> = inputs.iter().map(|&handle| Tensor::borrowed(ctx.compute(), handle)).collect();
        let tensors = self(&ctx, &inputs)?;
        results.write(&tensors.into_iter().map(Tensor::into_handle).collect::<Result<Vec<_>>>()?);
        Ok(())
    }
}

/// Makes an object of a plain model.
pub(super) fn export(model: ModelComponent, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::for_this_thread(model, owner))
}

impl ForwardFunctions for ModelComponent {
    fn describe(&self) -> Result<ModelSpec> {
        Ok(self.spec())
    }

    fn forward(&self, host: &mut RawObject, compute: &mut RawObject, tokens: u64, hidden: &mut u64) -> Result<()> {
        let ctx = import_context(host, compute)?;
        *hidden = self.hidden(&ctx, &Tensor::borrowed(ctx.compute(), tokens))?.into_handle()?;
        Ok(())
    }
}

struct Loaded {
    functions: Imported<ModelForward>,
    spec: ModelSpec,
}

/// Makes a plain model of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<ModelComponent> {
    let functions = Imported::<ModelForward>::of(object, name)?;
    let spec = functions.describe()?;
    Ok(ModelComponent::new(Rc::new(Loaded { functions, spec })))
}

impl Model for Loaded {
    fn spec(&self) -> ModelSpec {
        self.spec.clone()
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        let (mut host, mut compute) = export_context(ctx);
        let hidden = filled(|hidden| self.functions.forward(&mut host, &mut compute, tokens.handle(), hidden))?;
        Ok(Tensor::from_handle(ctx.compute(), hidden))
    }
}
