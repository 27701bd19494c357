//! States and updates on the device.

use std::rc::Rc;

use mdt_plugin_api::{Compute, Error, HostArrayRef, NewValues, Result, Tensor, TensorType, Update};

use super::plan::Rule;
use super::state::HostState;
use crate::staging;

/// Bytes of new values that are computed at once: the old ones are freed before the next ones are made.
pub(super) const AT_ONCE: usize = 256 << 20;

/// The states of each parameter, on the device.
pub(super) struct DeviceStates {
    compute: Rc<dyn Compute>,
    states: Vec<Vec<(Tensor, TensorType)>>,
    /// States of the same shapes and types in host memory, without elements.
    layout: Vec<Vec<HostState>>,
}

impl DeviceStates {
    /// Copies states to the device.
    pub(super) fn upload(compute: &Rc<dyn Compute>, states: Vec<Vec<HostState>>) -> Result<Self> {
        let upload = |state: &HostState| {
            let array = HostArrayRef { dtype: state.dtype, shape: &state.shape, bytes: state.bytes() };
            let tensor_type = TensorType { shape: state.shape.clone(), dtype: state.dtype };
            Ok((staging::upload(compute, array)?, tensor_type))
        };
        let tensors = states.iter().map(|states| states.iter().map(upload).collect::<Result<_>>());
        let tensors = tensors.collect::<Result<_>>()?;
        let layout = states.iter().map(|states| states.iter().map(HostState::without_elements).collect()).collect();
        Ok(Self { compute: Rc::clone(compute), states: tensors, layout })
    }

    /// The same device with other values.
    pub(super) fn with(&self, states: Vec<Vec<HostState>>) -> Result<Self> {
        Self::upload(&self.compute, states)
    }

    /// Copies the states to host memory.
    pub(super) fn read(&self) -> Result<Vec<Vec<HostState>>> {
        let read = |((tensor, _), layout): (&(Tensor, TensorType), &HostState)| {
            let mut state = layout.with_room();
            staging::read_as(state.dtype, tensor, state.bytes_mut())?;
            Ok(state)
        };
        let all = self.states.iter().zip(&self.layout);
        all.map(|(states, layout)| states.iter().zip(layout).map(read).collect()).collect()
    }

    /// Updates parameters and states, in the order of the parameters.
    pub(super) fn apply<'a>(
        &mut self,
        rule: &Rule,
        parameters: &mut [Tensor],
        gradients: Vec<Tensor>,
        update: impl Fn(usize) -> Update<'a>,
    ) -> Result<()> {
        let Rule::Device(rule) = rule else { return Err(Error::other("the optimizer has no updates on the device")) };
        let (mut pending, mut bytes) = (Vec::new(), 0);
        let of_parameters = parameters.iter_mut().zip(gradients).zip(&mut self.states).enumerate();
        for (place, ((parameter, gradient), states)) in of_parameters {
            let (before, update) = (parameter.tensor_type()?, update(place));
            let borrowed: Vec<Tensor> =
                states.iter().map(|(state, _)| Tensor::borrowed(&self.compute, state.handle())).collect();
            let NewValues { parameter: new, states: new_states } =
                rule.update(&update, parameter, &gradient, &borrowed)?;
            drop(borrowed);
            expect(&update, "parameter", &new, &before)?;
            if new_states.len() != states.len() {
                let (expected, given) = (states.len(), new_states.len());
                return Err(Error::plugin(format!("an update gave {given} states back, not {expected}"))
                    .with("parameter", update.name));
            }
            for ((_, tensor_type), new) in states.iter().zip(&new_states) {
                expect(&update, "state", new, tensor_type)?;
                bytes += size(tensor_type);
            }
            bytes += size(&before);
            *parameter = new;
            states.iter_mut().zip(new_states).for_each(|((state, _), new)| *state = new);
            pending.extend(std::iter::once(parameter.handle()).chain(states.iter().map(|(state, _)| state.handle())));
            if bytes >= AT_ONCE {
                self.compute.eval(&pending)?;
                pending.clear();
                bytes = 0;
            }
        }
        self.compute.eval(&pending)
    }
}

fn size(tensor_type: &TensorType) -> usize {
    tensor_type.shape.iter().product::<usize>() * tensor_type.dtype.size()
}

fn expect(update: &Update<'_>, what: &str, new: &Tensor, before: &TensorType) -> Result<()> {
    let now = new.tensor_type()?;
    if now == *before {
        return Ok(());
    }
    Err(Error::plugin(format!(
        "an update made a {what} of {} and shape {:?} of one of {} and shape {:?}",
        now.dtype, now.shape, before.dtype, before.shape
    ))
    .with("parameter", update.name))
}
