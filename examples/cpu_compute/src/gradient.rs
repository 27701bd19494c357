//! Gradients: operations are recorded on a tape, which is then gone through from its end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use mdt_plugin_api::op::Recorded;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Attribute, RecomputedFunction, TensorFunction, ValueAndGrad};

use crate::array::Array;
use crate::{Cpu, ops};

/// An array, and its number on the tape if a gradient flows through it.
#[derive(Clone)]
pub struct Variable {
    pub array: Array,
    pub number: Option<usize>,
}

impl From<Array> for Variable {
    fn from(array: Array) -> Self {
        Self { array, number: None }
    }
}

/// What was computed since recording began.
#[derive(Default)]
pub struct Tape {
    nodes: RefCell<Vec<Rc<Node>>>,
    /// How many variables have had a number.
    numbers: Cell<usize>,
    pub is_recording: Cell<bool>,
}

struct Node {
    what: What,
    /// Those without a number need no gradient.
    inputs: Vec<Variable>,
    outputs: Vec<Variable>,
}

enum What {
    /// An array under a new number.
    Leaf,
    Operation(Recorded),
    /// A function that is called again for gradients.
    Call(Rc<RecomputedFunction>),
}

/// Gradients by variables.
type Gradients = Vec<(Option<usize>, Tensor)>;

impl Tape {
    fn record(&self, what: What, inputs: Vec<Variable>, outputs: impl IntoIterator<Item = Array>) -> Vec<Variable> {
        let output = |array: Array| {
            let number = self.numbers.replace(self.numbers.get() + 1);
            Variable { number: array.dtype.is_float().then_some(number), array }
        };
        let outputs: Vec<Variable> = outputs.into_iter().map(output).collect();
        self.nodes.borrow_mut().push(Rc::new(Node { what, inputs, outputs: outputs.clone() }));
        outputs
    }

    fn leaves(&self, of: &[Variable]) -> Vec<Variable> {
        of.iter().flat_map(|of| self.record(What::Leaf, vec![of.clone()], [of.array.clone()])).collect()
    }

    pub fn length(&self) -> usize {
        self.nodes.borrow().len()
    }

    /// Forgets what comes after so many nodes, unless it is recorded for an outer `value_and_grad`.
    pub fn shorten(&self, length: usize) {
        if !self.is_recording.get() {
            let dropped = self.nodes.borrow_mut().split_off(length);
            drop(dropped);
        }
    }
}

impl Cpu {
    fn tensor(&self, variable: Variable) -> Tensor {
        let compute: Rc<dyn Compute> = Rc::new(self.clone());
        Tensor::from_handle(&compute, self.insert(variable))
    }

    /// Applies an operation, and records it if a gradient flows through it.
    pub fn apply(&self, op: OpKind, mut inputs: Vec<Variable>, attributes: &[Attribute<'_>]) -> Result<Variable> {
        let arrays: Vec<&Array> = inputs.iter().map(|input| &input.array).collect();
        let result = ops::compute(op, &arrays, attributes, self.threads)?;
        // One bit for each input; the last one is for all further ones.
        let differentiable = op.definition().map_or(0, |definition| definition.differentiable);
        for (place, input) in inputs.iter_mut().enumerate() {
            input.number = input.number.filter(|_| differentiable >> place.min(7) & 1 == 1);
        }
        let flows = result.dtype.is_float() && inputs.iter().any(|input| input.number.is_some());
        if !self.state.tape.is_recording.get() || !flows {
            return Ok(result.into());
        }
        let recorded = Recorded::new(op, attributes, inputs[0].array.shape.len())?;
        Ok(self.state.tape.record(What::Operation(recorded), inputs, [result]).remove(0))
    }

    /// See `Compute::checkpoint`: only the call is recorded, nothing of what happens in it.
    pub fn recomputed(&self, function: Rc<RecomputedFunction>, inputs: Vec<Variable>) -> Result<Vec<Variable>> {
        let results = self.call(&inputs, false, |handles| function(handles))?.into_iter().map(|result| result.array);
        if !self.state.tape.is_recording.get() || inputs.iter().all(|input| input.number.is_none()) {
            return Ok(results.map(Variable::from).collect());
        }
        Ok(self.state.tape.record(What::Call(function), inputs, results))
    }

    /// See `Compute::value_and_grad`.
    pub fn differentiate(
        &self,
        function: &mut TensorFunction<'_>,
        parameters: &[Variable],
        inputs: &[Variable],
    ) -> Result<ValueAndGrad> {
        if parameters.is_empty() || parameters.iter().any(|parameter| !parameter.array.dtype.is_float()) {
            return Err(Error::plugin("value_and_grad needs parameters, all of floating-point types"));
        }
        let leaves = self.state.tape.leaves(parameters);
        let begin = self.state.tape.length();
        let values = self.call(&[&leaves, inputs].concat(), true, |handles| {
            let (parameters, inputs) = handles.split_at(leaves.len());
            function(parameters, inputs)
        })?;
        let first = values.first().ok_or_else(|| Error::plugin("value_and_grad needs a function with a result"))?;
        if !first.array.shape.is_empty() || !first.array.dtype.is_float() {
            return Err(Error::plugin("value_and_grad differentiates a floating-point scalar")
                .with("the function's first result", format!("{:?}", *first.array)));
        }
        let one = self.tensor(first.array.clone().into()).number(1.0)?;
        let gradients = self.backward(begin, vec![(first.number, one)], &leaves)?;
        let gradients = gradients.into_iter().map(Tensor::into_handle).collect::<Result<_>>()?;
        Ok(ValueAndGrad { values: values.into_iter().map(|value| self.insert(value)).collect(), gradients })
    }

    /// The gradients by `wanted`, given those by some variables: goes through the tape from its end to `begin`.
    fn backward(&self, begin: usize, known: Gradients, wanted: &[Variable]) -> Result<Vec<Tensor>> {
        let tape = &self.state.tape;
        let mut gradients: HashMap<usize, Tensor> = HashMap::new();
        let add = |gradients: &mut HashMap<usize, Tensor>, new: Gradients| {
            for (number, gradient) in new.into_iter().filter_map(|(number, gradient)| Some((number?, gradient))) {
                let sum = match gradients.remove(&number) {
                    Some(earlier) => (&earlier + &gradient)?,
                    None => gradient,
                };
                gradients.insert(number, sum);
            }
            Ok::<_, Error>(())
        };
        add(&mut gradients, known)?;
        for index in (begin..tape.length()).rev() {
            let node = Rc::clone(&tape.nodes.borrow()[index]);
            let outputs = node.outputs.iter().map(|output| gradients.remove(&output.number?));
            let by_outputs: Vec<Option<Tensor>> = outputs.collect();
            if by_outputs.iter().any(Option::is_some) {
                add(&mut gradients, self.by_inputs(&node, by_outputs)?)?;
            }
            tape.shorten(index);
        }
        let gradient = |variable: &Variable| match variable.number.and_then(|number| gradients.remove(&number)) {
            Some(gradient) => Ok(gradient),
            None => Ok(self.tensor(Array::zeros(&variable.array).into())),
        };
        wanted.iter().map(gradient).collect()
    }

    /// The gradients by the inputs of a node, given those by its outputs.
    fn by_inputs(&self, node: &Node, by_outputs: Vec<Option<Tensor>>) -> Result<Gradients> {
        let numbers = node.inputs.iter().map(|input| input.number);
        match &node.what {
            What::Leaf => Ok(numbers.zip(by_outputs.into_iter().flatten()).collect()),
            What::Operation(recorded) => {
                let gradient = by_outputs.into_iter().flatten().next().expect("an operation has one result");
                let tensors: Vec<Tensor> = node.inputs.iter().map(|input| self.tensor(input.clone())).collect();
                let (inputs, result) = (tensors.iter().collect::<Vec<_>>(), self.tensor(node.outputs[0].clone()));
                let needed = numbers.enumerate().filter(|(_, number)| number.is_some());
                needed.map(|(i, number)| Ok((number, recorded.gradient(&inputs, &result, &gradient, i)?))).collect()
            }
            What::Call(function) => {
                let leaves = self.state.tape.leaves(&node.inputs);
                let begin = self.state.tape.length();
                let outputs = self.call(&leaves, true, |handles| function(handles))?;
                let known = outputs.iter().zip(by_outputs).filter_map(|(output, by)| Some((output.number, by?)));
                Ok(numbers.zip(self.backward(begin, known.collect(), &leaves)?).collect())
            }
        }
    }
}
