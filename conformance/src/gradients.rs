//! Gradients: against differences of the reference's values, and against stated values where these say nothing.

use mdt_plugin_api::op::{Definition, attribute};
use mdt_plugin_api::{Attribute, Dtype, Handle, OpKind, Result, Tensor, Value};

use crate::array::{Array, Number, ulp};
use crate::case::Case;
use crate::cases::calls;
use crate::random::Random;
use crate::report::Kind;
use crate::run::{Bench, apply, array, difference, laid_out, one, tensor};

/// Elements of the inputs of a call that is differentiated.
const MOST_ELEMENTS: usize = 130;

/// The step of the differences.
const STEP: f64 = 2e-5;

/// A call, and the inputs by which it is differentiated.
pub struct Differentiated {
    pub case: Case,
    pub parameters: Vec<usize>,
    /// The factors of the result's elements in the sum that is differentiated.
    pub weights: Vec<f64>,
    /// The stated gradients; without, they are differences of values.
    pub want: Option<Vec<Vec<f64>>>,
}

/// The calls of an operation whose gradients are compared with differences.
pub fn differentiated(definition: &Definition, dtype: Dtype) -> Vec<Case> {
    let suits = |(kind, case): &(Kind, Case)| {
        let kind = matches!(kind, Kind::Values | Kind::Attributes | Kind::Broadcast | Kind::Types)
            || *kind == Kind::Strided && format!("{case}").contains("transposed");
        let size: usize = case.arrays().into_iter().flatten().map(|array| array.elements.len()).sum();
        let is_small = size <= if definition.op == OpKind::QUANTIZED_LINEAR { 180 } else { MOST_ELEMENTS };
        kind && is_small && is_smooth(case) && !parameters(definition, case).is_empty()
    };
    calls(definition, dtype).into_iter().filter(suits).map(|(_, case)| case).collect()
}

/// Whether the values do not jump near the inputs, and are numbers.
fn is_smooth(case: &Case) -> bool {
    let first = case.arrays().first().copied().flatten();
    let has = |name: &str| case.attributes.iter().any(|attribute| attribute.name == name);
    let has_left = has("left");
    match case.op {
        // Rounded operands change in steps.
        _ if has("operands") => false,
        OpKind::POWER => has_left || first.is_none_or(|base| base.elements.iter().all(|x| x.real() > 0.0)),
        OpKind::REMAINDER => !has_left && case.arrays().into_iter().flatten().all(|array| array.dtype.is_float()),
        _ => true,
    }
}

/// The inputs of a floating-point type through which a gradient flows; all of that type where none is to flow through any.
pub fn parameters(definition: &Definition, case: &Case) -> Vec<usize> {
    let flows = |place: usize| definition.differentiable == 0 || definition.differentiable >> place.min(7) & 1 == 1;
    let is_real = |place: usize| case.arrays()[place].is_some_and(|array| array.dtype.is_float());
    (0..case.inputs.len()).filter(|&place| flows(place) && is_real(place)).collect()
}

impl Bench {
    /// Compares the gradients of a call with differences of the reference's values. None where the result has no gradient.
    pub fn compare_with_differences(&self, case: &Case, parameters: Vec<usize>) -> Option<Result<(), String>> {
        let result = self.reference.evaluate(case.op, &case.arrays(), &case.attributes).ok()?.swap_remove(0);
        if !result.dtype.is_float() {
            return None;
        }
        let mut random = Random(result.elements.len() as u64);
        let weights = result.elements.iter().map(|_| random.whole(-8, 8) as f64 / 4.0 + 0.125).collect();
        let want = case.op.definition().is_some_and(|definition| definition.differentiable == 0).then(|| {
            parameters
                .iter()
                .map(|&place| vec![0.0; case.arrays()[place].expect("a parameter").elements.len()])
                .collect()
        });
        Some(self.compare_gradients(&Differentiated { case: case.clone(), parameters, weights, want }))
    }

    /// Compares gradients with those that are stated, or with differences.
    pub fn compare_gradients(&self, of: &Differentiated) -> Result<(), String> {
        let Differentiated { case, parameters, weights, want } = of;
        let got = self.gradients(of).map_err(|error| format!("the gradient of {case} gave an error: {error}"))?;
        if got.len() != parameters.len() {
            return Err(format!("{case} has {} gradients for {} parameters", got.len(), parameters.len()));
        }
        for (order, (&place, got)) in parameters.iter().zip(&got).enumerate() {
            let input = case.arrays()[place].expect("a parameter");
            if (&got.shape, got.dtype) != (&input.shape, input.dtype) {
                let (dtype, shape) = (input.dtype, &input.shape);
                return Err(format!(
                    "the gradient of {case} by input {place} is {}{:?} and not {dtype}{shape:?}",
                    got.dtype, got.shape
                ));
            }
            let numbers = match want {
                Some(want) => want[order].clone(),
                None => self.differences(case, place, weights)?,
            };
            let largest = numbers.iter().filter(|x| x.is_finite()).fold(0.0, |most: f64, x| most.max(x.abs()));
            let is_near = |got: f64, want: f64| match want.is_finite() {
                true => (got - want).abs() <= allowed(input.dtype, want, largest, of.want.is_some()),
                false => got == want || got.is_nan() && want.is_nan(),
            };
            let pairs = got.elements.iter().zip(&numbers);
            let wrong: Vec<_> =
                pairs.enumerate().filter(|(_, (got, want))| !is_near(got.real(), **want)).map(|(at, _)| at).collect();
            if let Some(&first) = wrong.first() {
                let elements = numbers.into_iter().map(Number::Real).collect();
                let want = Array { dtype: input.dtype, shape: input.shape.clone(), elements };
                let what = difference(got, &want, first, wrong.len());
                return Err(format!("the gradient of {case} by input {place} is {what}"));
            }
        }
        Ok(())
    }

    /// The device's gradients of the weighted sum of a call's result.
    fn gradients(&self, of: &Differentiated) -> Result<Vec<Array>> {
        let Differentiated { case, parameters, weights, .. } = of;
        let compute = &self.compute;
        let inputs = case.inputs.iter().map(|input| input.as_ref().map(|input| laid_out(compute, input)).transpose());
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let result = self.reference.evaluate(case.op, &case.arrays(), &case.attributes)?.swap_remove(0);
        let weights = tensor(compute, &Array::of(result.dtype, &result.shape, weights.iter().copied()))?;
        let is_other = |place: &usize| !parameters.contains(place) && inputs[*place].is_some();
        let others: Vec<usize> = (0..inputs.len()).filter(is_other).collect();
        let handle = |place: &usize| inputs[*place].as_ref().map_or(0, Tensor::handle);
        let given: Vec<Handle> = parameters.iter().map(handle).collect();
        let further: Vec<Handle> = others.iter().map(handle).chain([weights.handle()]).collect();
        let mut function = |given: &[Handle], further: &[Handle]| {
            let mut ordered: Vec<Option<Tensor>> = (0..inputs.len()).map(|_| None).collect();
            for (&place, &handle) in parameters.iter().zip(given).chain(others.iter().zip(further)) {
                ordered[place] = Some(Tensor::borrowed(compute, handle));
            }
            let weights = Tensor::borrowed(compute, further[further.len() - 1]);
            let ordered: Vec<_> = ordered.iter().map(Option::as_ref).collect();
            let result = apply(compute, case.op, &ordered, &case.attributes)?.swap_remove(0);
            let weighted = one(apply(compute, OpKind::MULTIPLY, &[Some(&result), Some(&weights)], &[])?)?;
            Ok(vec![one(apply(compute, OpKind::SUM, &[Some(&weighted)], &[])?)?.into_handle()?])
        };
        let result = compute.value_and_grad(&mut function, &given, &further)?;
        result.values.into_iter().for_each(|value| compute.release(value));
        let gradients: Vec<_> =
            result.gradients.into_iter().map(|handle| Tensor::from_handle(compute, handle)).collect();
        gradients.iter().map(array).collect()
    }

    fn differences(&self, case: &Case, place: usize, weights: &[f64]) -> Result<Vec<f64>, String> {
        let mut input = case.arrays()[place].expect("a parameter").clone();
        let mut value = |at: usize, step: f64| -> Result<f64> {
            let element = input.elements[at];
            input.elements[at] = Number::Real(element.real() + step);
            let mut inputs = case.arrays();
            inputs[place] = Some(&input);
            let result = self.reference.evaluate(case.op, &inputs, &case.attributes)?.swap_remove(0);
            input.elements[at] = element;
            Ok(result.elements.iter().zip(weights).map(|(element, weight)| element.real() * weight).sum())
        };
        let count = case.arrays()[place].expect("a parameter").elements.len();
        let slope = |at| Ok((value(at, STEP)? - value(at, -STEP)?) / (2.0 * STEP));
        (0..count).map(slope).collect::<Result<_>>().map_err(|error| format!("{case} has no reference: {error}"))
    }
}

/// How far a gradient may be off: stated ones are exact but for the rounding of logarithms and the like.
fn allowed(dtype: Dtype, want: f64, largest: f64, is_stated: bool) -> f64 {
    let scale = if is_stated { want.abs() } else { largest + 0.1 };
    match dtype {
        Dtype::F64 => 1e-7 * scale,
        Dtype::F32 if is_stated => 4.0 * ulp(dtype, want) * f64::from(u8::from(want != 0.0)),
        Dtype::F32 => 3e-5 * scale,
        half => 2.0 * ulp(half, 1.0) * scale,
    }
}

/// Gradients at points where differences say nothing.
pub fn stated(dtype: Dtype) -> Vec<Differentiated> {
    let axis = attribute("axis", Value::Int(0));
    let of = |shape: &[usize], numbers: &[f64]| Array::of(dtype, shape, numbers.iter().copied());
    let row = |numbers: &[f64]| of(&[numbers.len()], numbers);
    let places = |numbers: &[f64]| Array::of(Dtype::I32, &[numbers.len()], numbers.iter().copied());
    let mut all = Vec::new();
    let mut add = |op: OpKind,
                   inputs: Vec<Array>,
                   attributes: &[Attribute<'static>],
                   weights: &[f64],
                   want: &[(usize, &[f64])]| {
        all.push(Differentiated {
            case: Case::new(op, inputs, attributes),
            parameters: want.iter().map(|&(place, _)| place).collect(),
            weights: weights.to_vec(),
            want: Some(want.iter().map(|(_, numbers)| numbers.to_vec()).collect()),
        });
    };
    let inf = f64::INFINITY;
    let (a, b, w) = (row(&[1.0, 2.0, 3.0]), row(&[1.0, 5.0, 2.0]), [1.0, 2.0, 4.0]);
    add(OpKind::MAXIMUM, vec![a.clone(), b.clone()], &[], &w, &[(0, &[0.0, 0.0, 4.0]), (1, &[1.0, 2.0, 0.0])]);
    add(OpKind::MINIMUM, vec![a.clone(), b.clone()], &[], &w, &[(0, &[0.0, 2.0, 0.0]), (1, &[1.0, 0.0, 4.0])]);
    add(OpKind::MAXIMUM, vec![a.clone()], &[attribute("right", Value::Float(2.0))], &w, &[(0, &[0.0, 0.0, 4.0])]);
    add(OpKind::MAX, vec![row(&[1.0, 3.0, 3.0, 2.0])], &[], &[4.0], &[(0, &[0.0, 2.0, 2.0, 0.0])]);
    add(OpKind::MIN, vec![row(&[1.0, 3.0, 1.0, 1.0, 1.0])], &[], &[4.0], &[(0, &[1.0, 0.0, 1.0, 1.0, 1.0])]);
    let axes = attribute("axes", Value::Ints(&[1]));
    add(OpKind::MAX, vec![of(&[2, 2], &[5.0, 5.0, 7.0, 6.0])], &[axes], &[1.0, 2.0], &[(0, &[0.5, 0.5, 2.0, 0.0])]);
    add(OpKind::ABS, vec![row(&[-1.0, 0.0, 2.0])], &[], &w, &[(0, &[-1.0, 0.0, 4.0])]);
    add(OpKind::SQRT, vec![row(&[0.0, 4.0, 0.25])], &[], &w, &[(0, &[inf, 0.5, 4.0])]);
    add(OpKind::SQUARE, vec![row(&[0.0, -3.0, 2.0])], &[], &w, &[(0, &[0.0, -12.0, 16.0])]);
    add(
        OpKind::POWER,
        vec![row(&[0.0, 2.0, 0.0, 4.0]), row(&[0.0, 0.0, 2.0, 0.5])],
        &[],
        &[1.0; 4],
        &[(0, &[0.0, 0.0, 0.0, 0.25]), (1, &[0.0, 2f64.ln(), 0.0, 2.0 * 4f64.ln()])],
    );
    add(
        OpKind::REMAINDER,
        vec![row(&[7.0, -7.0]), row(&[2.0, 2.0])],
        &[],
        &[1.0, 2.0],
        &[(0, &[1.0, 2.0]), (1, &[-3.0, 8.0])],
    );
    add(
        OpKind::ADD,
        vec![of(&[3, 1], &w), row(&[1.0, 2.0])],
        &[],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        &[(0, &[3.0, 7.0, 11.0]), (1, &[9.0, 12.0])],
    );
    add(OpKind::MULTIPLY, vec![of(&[], &[3.0]), row(&w)], &[], &[1.0; 3], &[(0, &[7.0]), (1, &[3.0; 3])]);
    let x = row(&[1.0, 2.0, 3.0, 4.0]);
    add(OpKind::TAKE, vec![x.clone(), places(&[1.0, 1.0, -1.0])], &[axis], &w, &[(0, &[0.0, 3.0, 0.0, 4.0])]);
    add(
        OpKind::TAKE_ALONG_AXIS,
        vec![x.clone(), places(&[1.0, 1.0, -1.0])],
        &[axis],
        &w,
        &[(0, &[0.0, 3.0, 0.0, 4.0])],
    );
    let updates = row(&[7.0, 8.0, 9.0]);
    let scattered = vec![x.clone(), places(&[1.0, 1.0, 3.0]), updates];
    add(
        OpKind::SCATTER,
        scattered.clone(),
        &[axis],
        &[1.0, 2.0, 4.0, 8.0],
        &[(0, &[1.0, 0.0, 4.0, 0.0]), (2, &[0.0, 2.0, 8.0])],
    );
    add(
        OpKind::SCATTER_ADD,
        scattered,
        &[axis],
        &[1.0, 2.0, 4.0, 8.0],
        &[(0, &[1.0, 2.0, 4.0, 8.0]), (2, &[2.0, 2.0, 8.0])],
    );
    let condition = Array::of(Dtype::BOOL, &[2], [1.0, 0.0]);
    let branches = vec![condition, row(&[1.0, f64::NAN]), row(&[f64::NAN, 2.0])];
    add(OpKind::WHERE, branches, &[], &[1.0, 2.0], &[(1, &[1.0, 0.0]), (2, &[0.0, 2.0])]);
    add(OpKind::SORT, vec![row(&[2.0, 1.0, 2.0])], &[axis], &w, &[(0, &[2.0, 1.0, 4.0])]);
    let table = of(&[3, 2], &[1.0; 6]);
    add(
        OpKind::EMBEDDING,
        vec![table, places(&[2.0, 0.0, 2.0])],
        &[],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        &[(0, &[3.0, 4.0, 0.0, 0.0, 6.0, 8.0])],
    );
    let masked = || row(&[-inf, 0.0, 0.0]);
    add(OpKind::LOG_SUM_EXP, vec![masked()], &[], &[4.0], &[(0, &[0.0, 2.0, 2.0])]);
    add(OpKind::SOFTMAX, vec![masked()], &[axis], &[1.0, 1.0, 2.0], &[(0, &[0.0, -0.25, 0.25])]);
    let logits = of(&[2, 3], &[-inf, 0.0, 0.0, 1.0, 2.0, 3.0]);
    add(
        OpKind::CROSS_ENTROPY,
        vec![logits, places(&[1.0, -1.0])],
        &[],
        &[2.0, 1.0],
        &[(0, &[0.0, -1.0, 1.0, 0.0, 0.0, 0.0])],
    );
    for op in [OpKind::SIGMOID, OpKind::TANH] {
        add(op, vec![row(&[-2000.0, 0.0, 2000.0])], &[], &[1.0, 0.0, 1.0], &[(0, &[0.0; 3])]);
    }
    for op in [OpKind::SOFTPLUS, OpKind::SILU, OpKind::GELU] {
        add(op, vec![row(&[-2000.0, 0.0, 2000.0])], &[], &[1.0, 2.0, 1.0], &[(0, &[0.0, 1.0, 1.0])]);
    }
    let head = |numbers: &[f64]| of(&[1, 1, numbers.len() / 2, 2], numbers);
    let none = of(&[1, 1, 1, 2], &[0.0, -inf]);
    let mut masked = Case::new(
        OpKind::ATTENTION,
        vec![head(&[1.0, 2.0]), head(&[1.0, 1.0, 2.0, 2.0]), head(&[1.0, 2.0, 3.0, 4.0]), none.clone(), none],
        &[attribute("scale", Value::Float(1.0))],
    );
    masked.inputs[3] = None;
    let want = Some(vec![vec![0.0; 2], vec![0.0; 4], vec![1.0, 2.0, 0.0, 0.0]]);
    all.push(Differentiated { case: masked, parameters: vec![0, 1, 2], weights: vec![1.0, 2.0], want });
    all
}
