//! Which calls an operation is tested with.

use mdt_plugin_api::op::{Attributes, Definition, Types, attribute, promoted};
use mdt_plugin_api::{Attribute, Dtype, OpKind, Value};

use crate::array::{Array, Number, bounds, largest, least_normal};
use crate::case::{Case, Layout, takes_numbers};
use crate::forms::{Form, forms};
use crate::random::Random;
use crate::report::Kind;

/// Element types that every compute plugin has.
pub const REQUIRED: [Dtype; 8] =
    [Dtype::BOOL, Dtype::U8, Dtype::I32, Dtype::U32, Dtype::I64, Dtype::F16, Dtype::BF16, Dtype::F32];

/// Element types that one may have.
pub const FURTHER: [Dtype; 5] = [Dtype::I8, Dtype::I16, Dtype::U16, Dtype::U64, Dtype::F64];

/// Forms of an operation that are tested with inputs that are not contiguous.
const STRIDED: usize = 16;

/// Calls whose results are compared with the reference's.
pub fn calls(definition: &Definition, dtype: Dtype) -> Vec<(Kind, Case)> {
    let op = definition.op;
    let mut random = Random(u64::from(op.0) << 8 | u64::from(dtype.0));
    let mut calls = Vec::new();
    let mut strided = 0;
    for form in forms(op) {
        let Some(case) = Case::of(op, &form, dtype, &mut random) else { continue };
        let size: usize = case.arrays().into_iter().flatten().map(|array| array.elements.len()).sum();
        if (1..=1000).contains(&size) && strided < STRIDED {
            strided += 1;
            let layouts = [Layout::Transposed, Layout::Sliced, Layout::Repeated].map(|layout| case.in_layout(layout));
            let is_laid_out = |case: &Case| case.inputs.iter().flatten().any(|input| input.layout != Layout::Plain);
            calls.extend(layouts.into_iter().filter(is_laid_out).map(|case| (Kind::Strided, case)));
        }
        calls.push((kind(definition, &case), case));
    }
    calls.extend(edges(op, dtype).into_iter().map(|case| (Kind::Edges, case)));
    calls.extend(types(definition, dtype, &mut random).into_iter().map(|case| (Kind::Types, case)));
    calls
}

fn kind(definition: &Definition, case: &Case) -> Kind {
    let shapes: Vec<_> = case.arrays().into_iter().flatten().map(|array| array.shape.as_slice()).collect();
    let is_optional = |attribute: &Attribute<'_>| {
        definition.attributes.iter().any(|spec| spec.name == attribute.name && !spec.is_required)
    };
    match () {
        () if shapes.iter().any(|shape| shape.contains(&0)) => Kind::Empty,
        () if case.attributes.iter().any(is_optional) => Kind::Attributes,
        () if broadcasts(definition.op) && shapes.windows(2).any(|pair| pair[0] != pair[1]) => Kind::Broadcast,
        () => Kind::Values,
    }
}

/// Whether an operation works on the elements of inputs that broadcast.
fn broadcasts(op: OpKind) -> bool {
    takes_numbers(op) || matches!(op, OpKind::LOGICAL_AND | OpKind::LOGICAL_OR | OpKind::WHERE)
}

/// The numbers of a type at which operations go wrong.
fn special(dtype: Dtype) -> Vec<Number> {
    if dtype.is_float() {
        let (most, least) = (largest(dtype), least_normal(dtype));
        let numbers = [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            -0.5,
            1.5,
            2.5,
            -2.5,
            3.0,
            most,
            -most,
            least,
            -least,
            least / 4.0,
            1e-3,
            -7.25,
            80.0,
            -80.0,
            100.0,
            -104.0,
            1000.0,
            -1000.0,
            2e-8,
        ];
        return Array::of(dtype, &[numbers.len()], numbers).elements;
    }
    let (least, most) = bounds(dtype);
    let numbers = [least, least + 1, most, most - 1, 0, 1, 2, 3, -1, -7, 7, most / 2, least / 2];
    let mut numbers: Vec<_> = numbers.into_iter().filter(|number| (least..=most).contains(number)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(Number::Whole).collect()
}

fn row(dtype: Dtype, elements: Vec<Number>) -> Array {
    Array { dtype, shape: vec![elements.len()], elements }
}

/// Whether an operation is defined, and to be expected exact enough, at these operands.
fn suits(op: OpKind, numbers: &[Number]) -> bool {
    let real: Vec<f64> = numbers.iter().map(|number| number.real()).collect();
    let is_whole = matches!(numbers[0], Number::Whole(_));
    match op {
        // Beyond, the reduction of the angle is a matter of the device.
        OpKind::SIN | OpKind::COS => real[0].abs() <= 1e4 || !real[0].is_finite(),
        // Real results of large integers are rounded before they are computed.
        OpKind::DIVIDE | OpKind::POWER if is_whole => real.iter().all(|x| x.abs() < 1e4),
        // The sign of a zero is defined for few operations only; overflow on the way is a matter of the formula.
        OpKind::POWER => {
            (real[0] != 0.0 || !real[0].is_sign_negative()) && (real[0].abs() < 1e5 || !real[0].is_finite())
        }
        // Quotients that are nearly whole, and infinite divisors, which the formula makes NaN.
        OpKind::REMAINDER | OpKind::FLOOR_DIVIDE if !is_whole => {
            let quotient = real[0] / real[1];
            real[1].is_finite()
                && (quotient.abs() < 1e3 || !real[0].is_finite())
                && (quotient == 0.0 || quotient.abs() > 1e-2)
                && (real[1] != 0.0 || op == OpKind::REMAINDER || real[0] == 0.0)
        }
        OpKind::GELU | OpKind::SILU | OpKind::SWIGLU => real.iter().all(|x| x.abs() <= 80.0 || x.is_nan()),
        OpKind::EXP | OpKind::LOG | OpKind::LOG1P | OpKind::SQRT | OpKind::RSQRT | OpKind::TANH | OpKind::ERF => {
            // Where a device takes subnormal numbers for 0.
            real[0] == 0.0 || real[0].abs() >= least_normal(Dtype::F32)
        }
        OpKind::EQUAL
        | OpKind::NOT_EQUAL
        | OpKind::GREATER
        | OpKind::LESS
        | OpKind::GREATER_EQUAL
        | OpKind::LESS_EQUAL
        | OpKind::DIVIDE
        | OpKind::SIGN
        | OpKind::LOGICAL_AND
        | OpKind::LOGICAL_OR
        | OpKind::LOGICAL_NOT
        | OpKind::FLOOR
        | OpKind::MAXIMUM
        | OpKind::MINIMUM => real.iter().all(|x| *x == 0.0 || x.is_nan() || x.abs() >= least_normal(Dtype::F32)),
        _ => true,
    }
}

/// Calls with special numbers.
fn edges(op: OpKind, dtype: Dtype) -> Vec<Case> {
    let specials = special(dtype);
    let axis = |axis| attribute("axis", Value::Int(axis));
    let one = |attributes: &[Attribute<'static>]| {
        let elements: Vec<_> = specials.iter().copied().filter(|&number| suits(op, &[number])).collect();
        vec![Case::new(op, vec![row(dtype, elements)], attributes)]
    };
    let rows = |attributes: &[Attribute<'static>]| {
        // A row for each special number among ordinary ones, twice, and rows of nothing but it.
        let ordinary = [1, 0, 3, 3, 1, 2].map(|number| Number::Real(f64::from(number)).cast(dtype));
        let adds = matches!(op, OpKind::SUM | OpKind::MEAN | OpKind::CUMULATIVE_SUM);
        let suits = |number: &&Number| {
            let size = number.real().abs();
            // Sums of large and small numbers are a matter of their order, and subnormal numbers may be 0.
            let is_usual = size >= 2.0 * least_normal(dtype) && (size < 1e3 || !adds);
            !dtype.is_float() || size == 0.0 || !size.is_finite() || is_usual
        };
        let specials = specials.iter().filter(suits);
        let rows = specials.flat_map(|&number| {
            let mut row = ordinary;
            (row[1], row[4]) = (number, number);
            [row, [number; 6]]
        });
        let elements: Vec<_> = rows.flatten().collect();
        let array = Array { dtype, shape: vec![elements.len() / 6, 6], elements };
        vec![Case::new(op, vec![array], attributes)]
    };
    match op {
        OpKind::SUM | OpKind::MEAN | OpKind::MAX | OpKind::MIN | OpKind::LOG_SUM_EXP => {
            if op == OpKind::MEAN && !dtype.is_float() {
                return Vec::new();
            }
            rows(&[attribute("axes", Value::Ints(&[1]))])
        }
        OpKind::ARGMAX | OpKind::ARGSORT | OpKind::SORT => rows(&[axis(1)]),
        OpKind::TOP_K => rows(&[axis(1), attribute("count", Value::Int(4))]),
        OpKind::SOFTMAX | OpKind::LOG_SOFTMAX if dtype.is_float() => rows(&[axis(1)]),
        OpKind::CUMULATIVE_SUM => rows(&[axis(1)]),
        OpKind::CAST => {
            REQUIRED.iter().flat_map(|&to| one(&[attribute("dtype", Value::Dtype(to))])).chain(casts(dtype)).collect()
        }
        OpKind::GELU => [one(&[]), one(&[attribute("approximate", Value::Text("tanh"))])].concat(),
        OpKind::STOP_GRADIENT | OpKind::LOGICAL_NOT => one(&[]),
        OpKind::RESHAPE => one(&[attribute("shape", Value::Ints(&[1, -1]))]),
        OpKind::BROADCAST_TO => vec![Case::new(
            op,
            vec![Array { shape: vec![specials.len(), 1], ..row(dtype, specials.clone()) }],
            &[attribute("shape", Value::Ints(Box::leak(Box::new([specials.len() as i64, 2]))))],
        )],
        OpKind::WHERE => {
            let condition =
                Array::of(Dtype::BOOL, &[specials.len()], (0..specials.len()).map(|place| (place % 2) as f64));
            let other = row(dtype, specials.iter().rev().copied().collect());
            vec![Case::new(op, vec![condition, row(dtype, specials.clone()), other], &[])]
        }
        OpKind::CONCATENATE => {
            vec![Case::new(op, vec![row(dtype, specials.clone()), row(dtype, specials.clone())], &[axis(0)])]
        }
        OpKind::TAKE => {
            let order = Array::of(Dtype::I32, &[specials.len()], (1..=specials.len()).map(|place| -(place as f64)));
            vec![Case::new(op, vec![row(dtype, specials.clone()), order], &[axis(0)])]
        }
        // Updates of one element: the last one stays.
        OpKind::SCATTER | OpKind::SCATTER_ADD => {
            let places = Array::of(Dtype::I32, &[9], [0.0, 2.0, 0.0, 2.0, -1.0, 0.0, 3.0, 4.0, 2.0]);
            let updates = Array::of(dtype, &[9], (1..=9).map(f64::from));
            vec![Case::new(op, vec![Array::of(dtype, &[5], [9.0, 8.0, 7.0, 6.0, 5.0]), places, updates], &[axis(0)])]
        }
        _ if broadcasts(op) && op != OpKind::FULL => {
            let mut pairs: Vec<[Number; 2]> =
                specials.iter().flat_map(|&a| specials.iter().map(move |&b| [a, b])).collect();
            pairs.retain(|pair| suits(op, pair));
            let column = |place: usize| row(dtype, pairs.iter().map(|pair| pair[place]).collect());
            vec![Case::new(op, vec![column(0), column(1)], &[])]
        }
        _ if (OpKind::NEGATIVE.0..=OpKind::SIGN.0).contains(&op.0) => one(&[]),
        OpKind::CROSS_ENTROPY => {
            let inf = f64::INFINITY;
            let logits = [0.5, 1.0, -inf, 2.0, 80.0, -80.0, 0.0, 1.0, 3.0, 3.0, 3.0, 3.0, 1.0, 2.0, 3.0, 4.0];
            let targets = Array::of(Dtype::I32, &[4], [3.0, 1.0, -1.0, 4.0]);
            vec![Case::new(op, vec![Array::of(dtype, &[4, 4], logits), targets], &[])]
        }
        _ => Vec::new(),
    }
}

/// Real numbers at the bounds of integer types.
fn casts(dtype: Dtype) -> Vec<Case> {
    if !dtype.is_float() {
        return Vec::new();
    }
    let numbers = [0.99, -0.99, 2.7, -2.7, 254.0, 255.0, 256.0, 300.0, -1.0, 3e9, -3e9, 5e9, 1e19, -1e19, 2e38];
    let to = |&to: &Dtype| {
        Case::new(OpKind::CAST, vec![Array::of(dtype, &[15], numbers)], &[attribute("dtype", Value::Dtype(to))])
    };
    REQUIRED.iter().map(to).collect()
}

/// Calls with inputs of different types.
fn types(definition: &Definition, dtype: Dtype, random: &mut Random) -> Vec<Case> {
    let op = definition.op;
    let form = |inputs: &str, attributes: &[Attribute<'static>]| Form {
        inputs: inputs.to_owned(),
        attributes: attributes.to_vec(),
    };
    let axis = attribute("axis", Value::Int(0));
    let eps = attribute("eps", Value::Float(1e-5));
    // Which inputs take the other type.
    let (form, others): (Form, &[usize]) = match op {
        _ if broadcasts(op) && op != OpKind::WHERE && op != OpKind::FULL => (form("T3.5 T5", &[]), &[1]),
        OpKind::WHERE => (form("b3.1 T3.5 T5", &[]), &[2]),
        OpKind::CONCATENATE => (form("T5 T3 T2", &[axis]), &[1]),
        OpKind::MATMUL => (form("T3.4 T4.5", &[]), &[1]),
        OpKind::LINEAR => (form("T3.4 T5.4 T5", &[]), &[1, 2]),
        OpKind::SWIGLU => (form("T3.4 T3.4", &[]), &[1]),
        OpKind::RMS_NORM => (form("T3.4 T4", &[eps]), &[1]),
        OpKind::LAYER_NORM => (form("T3.4 T4 T4", &[eps]), &[1, 2]),
        OpKind::TAKE => return indexed(op, form("T5.3 n4<5", &[axis]), dtype, random),
        OpKind::TAKE_ALONG_AXIS => return indexed(op, form("T5.3 n4.3<5", &[axis]), dtype, random),
        OpKind::SCATTER | OpKind::SCATTER_ADD => return indexed(op, form("T5.3 n4.3<5 T4.3", &[axis]), dtype, random),
        _ => return Vec::new(),
    };
    let with = |other: Dtype| {
        // The operation's domain holds for each type.
        let (mut case, second) = (Case::of(op, &form, dtype, random)?, Case::of(op, &form, other, random)?);
        others.iter().for_each(|&place| case.inputs[place] = second.inputs[place].clone());
        let result = promoted(dtype, other)?;
        definition.types.contains(result).then_some(case)
    };
    REQUIRED
        .into_iter()
        .filter(|&other| other != dtype && (definition.types != Types::Floats || other.is_float()))
        .filter_map(with)
        .collect()
}

/// The same call with indices of each integer type; those that count from the end where the type is signed.
fn indexed(op: OpKind, form: Form, dtype: Dtype, random: &mut Random) -> Vec<Case> {
    let of = |indices: Dtype| {
        let mut case = Case::of(op, &form, dtype, random)?;
        let array = &mut case.inputs[1].as_mut()?.array;
        let length = 5;
        *array = array.map(indices, |index| match index.whole() {
            index if index < 0 && !indices.is_signed() => Number::Whole(index + length),
            index => Number::Whole(index),
        });
        Some(case)
    };
    [Dtype::U8, Dtype::U32, Dtype::I64].into_iter().filter_map(of).collect()
}

/// Calls with an index out of range, and that index.
pub fn out_of_range(op: OpKind, dtype: Dtype) -> Vec<(Case, i64)> {
    let (inputs, attributes): (&str, &[Attribute<'static>]) = match op {
        OpKind::TAKE => ("T5.3 i4<5", &[attribute("axis", Value::Int(0))]),
        OpKind::TAKE_ALONG_AXIS => ("T5.3 i4.3<5", &[attribute("axis", Value::Int(0))]),
        OpKind::SCATTER | OpKind::SCATTER_ADD => ("T5.3 i4.3<5 T4.3", &[attribute("axis", Value::Int(0))]),
        OpKind::EMBEDDING => ("T5.3 i4<5", &[]),
        OpKind::GATHER_LINEAR => ("T4.1.3 T5.2.3 i4.2<5", &[]),
        _ => return Vec::new(),
    };
    let place = if op == OpKind::GATHER_LINEAR { 2 } else { 1 };
    let form = Form { inputs: inputs.to_owned(), attributes: attributes.to_vec() };
    let mut bad = vec![5, -6, 1 << 20, i64::from(i32::MAX), i64::from(i32::MIN)];
    if matches!(op, OpKind::EMBEDDING | OpKind::GATHER_LINEAR) {
        bad.push(-1);
    }
    let case = |index: i64| {
        let mut case = Case::of(op, &form, dtype, &mut Random(1))?;
        case.inputs[place].as_mut()?.array.elements[2] = Number::Whole(index.into());
        Some((case, index))
    };
    bad.into_iter().filter_map(case).collect()
}

/// The element types of a call: of its inputs, and the one that it names.
pub fn element_types(case: &Case) -> Vec<Dtype> {
    let named = Attributes::new(&case.attributes).optional::<Dtype>("dtype").ok().flatten();
    case.arrays().into_iter().flatten().map(|array| array.dtype).chain(named).collect()
}

/// Whether a device must have this call: whether its element types are all required ones.
pub fn is_required(case: &Case) -> bool {
    element_types(case).iter().all(|dtype| REQUIRED.contains(dtype))
}
