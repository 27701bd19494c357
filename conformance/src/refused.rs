//! Calls that must be an error: what the table says of counts, attributes, element types and shapes.

use mdt_plugin_api::op::{Definition, ValueKind, attribute, compose};
use mdt_plugin_api::{Attribute, Dtype, OpKind, Result, Tensor, Value};

use crate::array::Array;
use crate::case::{Case, Input, Layout};
use crate::forms::{Form, forms};
use crate::random::Random;
use crate::run::{Bench, laid_out};

/// Calls of an operation that are refused, each with what is wrong in it.
pub fn refused(definition: &Definition, dtype: Dtype) -> Vec<(&'static str, Case)> {
    let op = definition.op;
    let forms = forms(op);
    let fitting = forms.iter().filter_map(|form| Case::of(op, form, dtype, &mut Random(3)));
    let Some(good) = fitting.into_iter().find(|case| !format!("{case}").contains("[0")) else { return Vec::new() };
    let mut all = Vec::new();
    let mut add = |what, change: &dyn Fn(&mut Case)| {
        let mut case = good.clone();
        change(&mut case);
        all.push((what, case));
    };
    if definition.least_inputs > 0 {
        add("an input is missing", &|case| case.inputs.truncate(definition.least_inputs - 1));
        add("no inputs", &|case| case.inputs.clear());
        add("a required input is left out", &|case| case.inputs[0] = None);
    }
    if definition.most_inputs < usize::MAX {
        let one = Input { array: Array::of(dtype, &[1], [1.0]), layout: Layout::Plain };
        add("too many inputs", &|case| case.inputs.resize(definition.most_inputs + 1, Some(one.clone())));
    }
    add("an unknown attribute", &|case| case.attributes.push(attribute("nonsense", Value::Int(1))));
    for spec in definition.attributes {
        let without = |case: &mut Case| case.attributes.retain(|attribute| attribute.name != spec.name);
        let wrong = if spec.kind == ValueKind::Text { Value::Bool(true) } else { Value::Text("nonsense") };
        add("an attribute of another kind", &|case| {
            without(case);
            case.attributes.push(attribute(spec.name, wrong));
        });
        if spec.is_required {
            add("a required attribute is missing", &without);
        }
        if let Some(&given) = good.attributes.iter().find(|attribute| attribute.name == spec.name) {
            add("an attribute is given twice", &|case| case.attributes.push(given));
        }
        if spec.name == "axis" {
            let rank = good.inputs[0].as_ref().map_or(0, |input| input.array.shape.len()) as i64;
            for axis in [rank, -rank - 1] {
                add("an axis outside", &|case| {
                    without(case);
                    case.attributes.push(attribute("axis", Value::Int(axis)));
                });
            }
        }
    }
    for (inputs, attributes) in unfit(op) {
        let form = Form { inputs: inputs.to_owned(), attributes };
        all.extend(Case::of(op, &form, dtype, &mut Random(3)).map(|case| ("it does not fit", case)));
    }
    all
}

/// Calls with an element type that the operation is not defined for.
pub fn of_other_types(definition: &Definition) -> Vec<Case> {
    let others = [Dtype::BOOL, Dtype::I32, Dtype::F32].into_iter().filter(|&dtype| !definition.types.contains(dtype));
    let form = forms(definition.op).into_iter().find(|form| form.inputs.split(' ').all(|word| word.starts_with('T')));
    let case = |dtype| Case::of(definition.op, form.as_ref()?, dtype, &mut Random(3));
    if definition.op == OpKind::WHERE { Vec::new() } else { others.filter_map(case).collect() }
}

/// Shapes and attributes that do not fit.
fn unfit(op: OpKind) -> Vec<(&'static str, Vec<Attribute<'static>>)> {
    let int = |name, value| attribute(name, Value::Int(value));
    let ints = |name, value| attribute(name, Value::Ints(value));
    let float = |name, value| attribute(name, Value::Float(value));
    let size = |group_size, bits| vec![int("group_size", group_size), int("bits", bits)];
    match op {
        _ if op.0 <= OpKind::REMAINDER.0 || (OpKind::EQUAL.0..=OpKind::LESS_EQUAL.0).contains(&op.0) => vec![
            ("T3 T4", vec![]),
            ("T2.3 T3.2", vec![]),
            ("T3", vec![]),
            ("T3 T3", vec![float("left", 1.0)]),
            ("T3", vec![float("left", 1.0), float("right", 1.0)]),
        ],
        OpKind::LOGICAL_AND | OpKind::LOGICAL_OR => vec![("T3 T4", vec![])],
        OpKind::SUM | OpKind::MEAN | OpKind::LOG_SUM_EXP => {
            vec![
                ("T2.3", vec![ints("axes", &[2])]),
                ("T2.3", vec![ints("axes", &[0, -2])]),
                ("T2.3", vec![ints("axes", &[-3])]),
            ]
        }
        OpKind::MAX | OpKind::MIN => vec![
            ("T2.3", vec![ints("axes", &[2])]),
            ("T2.3", vec![ints("axes", &[1, 1])]),
            ("T0", vec![]),
            ("T2.0", vec![ints("axes", &[1])]),
        ],
        OpKind::ARGMAX => vec![("T0", vec![int("axis", 0)]), ("T_", vec![int("axis", 0)])],
        OpKind::TOP_K => {
            vec![("T5", vec![int("axis", 0), int("count", 6)]), ("T5", vec![int("axis", 0), int("count", -1)])]
        }
        OpKind::MATMUL => {
            vec![
                ("T3.4 T4.5", vec![attribute("operands", Value::Dtype(Dtype::F32))]),
                ("T3.4 T3.4", vec![]),
                ("T4 T4.3", vec![]),
                ("T3.4 T4", vec![]),
                ("T2.3.4 T3.4.5", vec![]),
            ]
        }
        OpKind::LINEAR => {
            vec![("T3.4 T4.5", vec![]), ("T3.4 T5.4 T4", vec![]), ("T_ T5.4", vec![]), ("T3.4 T4", vec![])]
        }
        OpKind::GATHER_LINEAR => {
            vec![("T3.1.4 T3.2.5 i3.2<3", vec![]), ("T3.3.4 T3.2.4 i3.2<3", vec![]), ("T3.1.4 T3.2.4 f3.2", vec![])]
        }
        OpKind::QUANTIZE => {
            vec![("T3.100", size(32, 4)), ("T3.128", size(16, 4)), ("T3.128", size(32, 7)), ("T_", size(32, 4))]
        }
        OpKind::DEQUANTIZE => {
            vec![("w3.16 f3.2 f3.2", size(32, 4)), ("w3.16 f3.4 f3.2", size(32, 4)), ("w3.16 f3.4 h3.4", size(32, 4))]
        }
        OpKind::QUANTIZED_LINEAR => {
            vec![("T2.64 w3.16 T3.4 T3.4", size(32, 4)), ("T2.128 w3.16 T3.4 T3.4 T4", size(32, 4))]
        }
        OpKind::TOKEN_LOSSES => vec![
            ("T5.4 T7.3 t5<7", vec![]),
            ("T5.4 T7.4 t4<7", vec![]),
            ("T5.4 T7.4 t5<7 T5", vec![]),
            ("T5.4 T7.4 t5<7", vec![int("rows", 0)]),
            ("T5.4 T7.4 t5<7", vec![float("soft_cap", 0.0)]),
        ],
        OpKind::RESHAPE => vec![
            ("T2.3", vec![ints("shape", &[5])]),
            ("T2.3", vec![ints("shape", &[-1, -1])]),
            ("T2.3", vec![ints("shape", &[-1, 4])]),
            ("T2.3", vec![ints("shape", &[-2, -3])]),
            ("T0", vec![ints("shape", &[-1, 0])]),
        ],
        OpKind::TRANSPOSE => {
            vec![
                ("T2.3", vec![ints("axes", &[0])]),
                ("T2.3", vec![ints("axes", &[0, 0])]),
                ("T2.3", vec![ints("axes", &[0, 2])]),
            ]
        }
        OpKind::CONCATENATE => {
            vec![
                ("T2.3 T2.4", vec![int("axis", 0)]),
                ("T2.3 T3", vec![int("axis", 0)]),
                ("T_ T_", vec![int("axis", 0)]),
            ]
        }
        OpKind::SLICE => [(&[0, 0][..], &[3, 3][..]), (&[-1, 0], &[2, 3]), (&[1, 2], &[2, 1]), (&[0], &[2])]
            .map(|(start, stop)| ("T2.3", vec![ints("start", start), ints("stop", stop)]))
            .to_vec(),
        OpKind::SLICE_UPDATE => vec![
            ("T5 T3", vec![ints("start", &[3])]),
            ("T5 T3", vec![ints("start", &[-1])]),
            ("T5 T3.1", vec![ints("start", &[0])]),
            ("T5 T3", vec![ints("start", &[0, 0])]),
        ],
        OpKind::TAKE => {
            vec![("T5 f3", vec![int("axis", 0)]), ("T_ i3<1", vec![int("axis", 0)]), ("T5 b3", vec![int("axis", 0)])]
        }
        OpKind::TAKE_ALONG_AXIS => vec![
            ("T5.3 i4.2<5", vec![int("axis", 0)]),
            ("T5.3 i4<5", vec![int("axis", 0)]),
            ("T5 f4", vec![int("axis", 0)]),
        ],
        OpKind::SCATTER | OpKind::SCATTER_ADD => {
            vec![
                ("T5.3 i4.2<5 T4.2", vec![int("axis", 0)]),
                ("T5 i3<5 T4", vec![int("axis", 0)]),
                ("T5 f3 T3", vec![int("axis", 0)]),
            ]
        }
        OpKind::BROADCAST_TO => {
            vec![
                ("T3", vec![ints("shape", &[4])]),
                ("T2.3", vec![ints("shape", &[3])]),
                ("T3", vec![ints("shape", &[3, 1])]),
            ]
        }
        OpKind::WHERE => vec![("b2 T3 T3", vec![]), ("f3 T3 T3", vec![])],
        OpKind::ARANGE => vec![("", vec![int("count", -1), attribute("dtype", Value::Dtype(crate::forms::TESTED))])],
        OpKind::RMS_NORM | OpKind::LAYER_NORM => {
            vec![
                ("T3.4 T3", vec![float("eps", 1e-5)]),
                ("T3.4 T1.4", vec![float("eps", 1e-5)]),
                ("T_ T_", vec![float("eps", 1e-5)]),
            ]
        }
        OpKind::ROPE => vec![
            ("T1.2.3.4 f4", vec![]),
            ("T2.3.4 f2", vec![]),
            ("T1.2.3.3 f1", vec![]),
            ("T1.2.3.4 f2 p1.2", vec![]),
            ("T1.2.3.4 f2 p1.3", vec![int("offset", 1)]),
        ],
        OpKind::ATTENTION => {
            let scale = float("scale", 0.5);
            let square = "T1.2.5.4 T1.1.5.4 T1.1.5.4";
            vec![
                ("T1.3.5.4 T1.2.5.4 T1.2.5.4", vec![scale]),
                ("T1.2.5.4 T1.1.5.3 T1.1.5.3", vec![scale]),
                ("T1.2.5.4 T1.1.5.4 T1.1.4.4", vec![scale]),
                ("T1.2.5.4 T1.1.4.4 T1.1.4.4", vec![scale, attribute("causal", Value::Bool(true))]),
                ("T1.2.5.4 T1.1.5.4 T1.1.5.4 s1.4", vec![scale]),
                ("T1.2.5.4 T1.1.5.4 T1.1.5.4 - T1.1.5.4", vec![scale]),
                ("T1.2.5.4 T1.1.5.4 T1.1.5.4 - - T3", vec![scale]),
                (square, vec![scale, int("window", 0)]),
                (square, vec![scale, float("dropout", 0.5)]),
                (square, vec![scale, float("dropout", 1.0), int("key", 1)]),
                (square, vec![scale, float("soft_cap", -1.0)]),
            ]
        }
        OpKind::SWIGLU => vec![("T3 T4", vec![]), ("T3 T1", vec![])],
        OpKind::CROSS_ENTROPY => vec![("T3.4 t2<4", vec![]), ("T3 t3<4", vec![]), ("T3.4 f3", vec![])],
        OpKind::EMBEDDING => vec![("T3 i2<3", vec![]), ("T3.4 f2", vec![])],
        OpKind::DROPOUT => [1.0, -0.1].map(|rate| ("T3", vec![float("rate", rate), int("key", 1)])).to_vec(),
        OpKind::GELU => vec![("T3", vec![attribute("approximate", Value::Text("fast"))])],
        _ => Vec::new(),
    }
}

impl Bench {
    /// Makes a call that must be refused: by the device, and by what composes it of others.
    pub fn refuses(&self, what: &str, case: &Case, results: usize) -> Result<(), String> {
        let inputs =
            case.inputs.iter().map(|input| input.as_ref().map(|input| laid_out(&self.compute, input)).transpose());
        let inputs = inputs.collect::<Result<Vec<_>>>().map_err(|error| format!("{case}: {error}"))?;
        let handles: Vec<_> = inputs.iter().map(|input| input.as_ref().map_or(0, Tensor::handle)).collect();
        let mut slots = vec![u64::MAX; results];
        if self.compute.op(case.op, &handles, &case.attributes, &mut slots).is_ok() {
            slots.into_iter().for_each(|slot| self.compute.release(slot));
            return Err(format!("{case} gave a value and no error: {what}"));
        }
        if slots.iter().any(|&slot| slot != u64::MAX) {
            return Err(format!("{case} is an error and yet wrote to a result's slot: {what}"));
        }
        match compose(&self.compute, case.op, &handles, &case.attributes, &mut slots) {
            Ok(()) => Err(format!("{case} is composed and gave a value: {what}")),
            Err(_) => Ok(()),
        }
    }
}
