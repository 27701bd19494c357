//! Shapes and attributes with which each operation is tested, whatever the element type.
//!
//! Inputs are written as words: a letter, and lengths of axes (`_` for a scalar):
//! `T3.5` of the tested type; `b` bool; `i4<9` int32 indices from 0..9, `n4<9` from -9..9; `t` int32 targets, a few of them
//! negative; `p` int32 positions; `s` int32 segments; `f` float32, `h` float16, `g` bfloat16; `w` packed words; `-` is left out.

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{Attribute, Dtype, OpKind, Value};

/// Inputs and attributes.
#[derive(Clone, Debug)]
pub struct Form {
    pub inputs: String,
    pub attributes: Vec<Attribute<'static>>,
}

/// Stands for the tested element type in an attribute.
pub const TESTED: Dtype = Dtype(0);

fn int(name: &'static str, value: i64) -> Attribute<'static> {
    attribute(name, Value::Int(value))
}

fn float(name: &'static str, value: f64) -> Attribute<'static> {
    attribute(name, Value::Float(value))
}

fn flag(name: &'static str) -> Attribute<'static> {
    attribute(name, Value::Bool(true))
}

fn ints(name: &'static str, value: &'static [i64]) -> Attribute<'static> {
    attribute(name, Value::Ints(value))
}

fn form(inputs: impl Into<String>, attributes: &[Attribute<'static>]) -> Form {
    Form { inputs: inputs.into(), attributes: attributes.to_vec() }
}

/// Several inputs with the same attributes.
fn each(inputs: &[&str], attributes: &[Attribute<'static>]) -> Vec<Form> {
    inputs.iter().map(|&inputs| form(inputs, attributes)).collect()
}

/// The same inputs with one list of attributes after another.
fn with(inputs: &str, attributes: &[&[Attribute<'static>]]) -> Vec<Form> {
    attributes.iter().map(|attributes| form(inputs, attributes)).collect()
}

const ELEMENTWISE: &[&str] = &["T_", "T1", "T33", "T257", "T3.1000", "T2.3.4", "T0", "T2.0.3"];
const PAIRS: &[&str] = &[
    "T33 T33",
    "T_ T_",
    "T3.1000 T3.1000",
    "T257 T257",
    "T5 T_",
    "T_ T5",
    "T3.1000 T1000",
    "T3.1 T1.4",
    "T4.1 T2.1.3",
    "T257 T1",
    "T0 T0",
    "T0 T1",
    "T2.0 T1.1",
];

const PRODUCTS: &[&str] = &[
    "T3.4 T4.5",
    "T1.1 T1.1",
    "T33.17 T17.9",
    "T2.3.4 T4.5",
    "T3.4 T2.4.5",
    "T2.1.3.4 T3.4.2",
    "T64.65 T65.33",
    "T1.257 T257.1",
    "T257.1 T1.3",
    "T0.3 T3.2",
    "T2.0 T0.3",
    "T0.2.3 T3.4",
];

/// Inputs whose elements are rounded to each half-precision type before they are multiplied.
fn rounding(inputs: &[&str]) -> Vec<Form> {
    let operands = [Dtype::BF16, Dtype::F16].map(|dtype| attribute("operands", Value::Dtype(dtype)));
    operands.into_iter().flat_map(|operands| each(inputs, &[operands])).collect()
}

/// The forms of an operation.
pub fn forms(op: OpKind) -> Vec<Form> {
    match op {
        OpKind::LOGICAL_AND | OpKind::LOGICAL_OR => each(PAIRS, &[]),
        OpKind::SWIGLU => each(&["T33 T33", "T_ T_", "T3.1000 T3.1000", "T2.3.4 T2.3.4", "T0 T0"], &[]),
        OpKind::GELU => [
            &[][..],
            &[attribute("approximate", Value::Text("none"))],
            &[attribute("approximate", Value::Text("tanh"))],
        ]
        .into_iter()
        .flat_map(|attributes| each(ELEMENTWISE, attributes))
        .collect(),
        OpKind::STOP_GRADIENT | OpKind::LOGICAL_NOT => each(ELEMENTWISE, &[]),
        _ if (OpKind::NEGATIVE.0..=OpKind::SIGN.0).contains(&op.0) => each(ELEMENTWISE, &[]),
        _ if op.0 <= OpKind::REMAINDER.0 || (OpKind::EQUAL.0..=OpKind::LESS_EQUAL.0).contains(&op.0) => {
            let scalars = [float("left", 3.0), float("right", 2.0), float("right", 0.1), float("left", 0.7)];
            let scalars = scalars.iter().flat_map(|&scalar| each(&["T33", "T_", "T3.1000", "T0"], &[scalar]));
            each(PAIRS, &[]).into_iter().chain(scalars).collect()
        }
        OpKind::SUM | OpKind::MEAN | OpKind::MAX | OpKind::MIN | OpKind::LOG_SUM_EXP => {
            let keep = flag("keep_dims");
            let mut forms = each(&["T_", "T1", "T257", "T3.1000", "T2.3.4"], &[]);
            forms.extend(each(&["T3.1000"], &[ints("axes", &[1])]));
            forms.extend(each(&["T3.1000"], &[ints("axes", &[0])]));
            for axes in [&[1][..], &[-1], &[0, 2], &[2, 0], &[-3, 1], &[], &[0, 1, 2]] {
                forms.extend(with("T2.3.4", &[&[ints("axes", axes)], &[ints("axes", axes), keep]]));
            }
            forms.extend(each(&["T2.3.4", "T_"], &[keep]));
            forms.extend(with("T2.0.3", &[&[ints("axes", &[0])], &[ints("axes", &[-1]), keep]]));
            if !matches!(op, OpKind::MAX | OpKind::MIN) {
                forms.extend(with("T2.0.3", &[&[], &[ints("axes", &[1])], &[ints("axes", &[1]), keep]]));
            }
            forms
        }
        OpKind::ARGMAX
        | OpKind::SOFTMAX
        | OpKind::LOG_SOFTMAX
        | OpKind::ARGSORT
        | OpKind::SORT
        | OpKind::CUMULATIVE_SUM => {
            let (descending, reverse, exclusive) = (flag("descending"), flag("reverse"), flag("exclusive"));
            let further: &[&[Attribute<'static>]] = match op {
                OpKind::ARGSORT | OpKind::SORT => &[&[], &[descending]],
                OpKind::CUMULATIVE_SUM => &[&[], &[reverse], &[exclusive], &[reverse, exclusive]],
                _ => &[&[]],
            };
            let of = |inputs: &str, axis: i64| {
                let attributes = further.iter().map(|further| [&[int("axis", axis)], *further].concat());
                attributes.map(|attributes| form(inputs, &attributes)).collect::<Vec<_>>()
            };
            let inputs = [
                ("T1", 0),
                ("T5", 0),
                ("T257", -1),
                ("T3.1000", 1),
                ("T3.300", 0),
                ("T2.3.4", 1),
                ("T2.3.4", -3),
                ("T0.3", 1),
            ];
            inputs.into_iter().flat_map(|(inputs, axis)| of(inputs, axis)).collect()
        }
        OpKind::TOP_K => {
            [("T7", 0, 3), ("T257", -1, 257), ("T3.1000", 1, 10), ("T5.4", 0, 2), ("T5.4", 1, 0), ("T0.4", 1, 2)]
                .into_iter()
                .map(|(inputs, axis, count)| form(inputs, &[int("axis", axis), int("count", count)]))
                .collect()
        }
        OpKind::MATMUL => {
            let mut forms = each(PRODUCTS, &[]);
            forms.extend(rounding(&["T3.4 T4.5", "T33.17 T17.9", "T2.3.4 T4.5", "T64.65 f65.33", "f1.257 T257.1"]));
            forms
        }
        OpKind::LINEAR => {
            let plain = each(
                &[
                    "T5.8 T3.8",
                    "T8 T3.8",
                    "T2.3.4 T5.4 T5",
                    "T2.3.33 T17.33 T17",
                    "T33.64 T65.64",
                    "T1.512 T7.512 T7",
                    "T0.4 T3.4",
                ],
                &[],
            );
            let rounded =
                rounding(&["T5.8 T3.8", "T2.3.33 f17.33 f17", "f33.64 T65.64", "T1.512 T7.512 T7", "T0.4 T3.4"]);
            [plain, rounded].concat()
        }
        OpKind::GATHER_LINEAR => {
            let plain = each(
                &[
                    "T3.1.4 T3.2.4 i3.2<3",
                    "T3.2.4 T3.2.4 i3.2<3",
                    "T33.1.16 T4.9.16 i33.2<4",
                    "T33.3.16 T4.9.16 i33.3<4",
                    "T0.1.8 T3.4.8 i0.2<3",
                ],
                &[],
            );
            [plain, rounding(&["T33.1.16 f4.9.16 i33.2<4", "T33.3.16 T4.9.16 i33.3<4"])].concat()
        }
        OpKind::QUANTIZED_LINEAR | OpKind::QUANTIZE | OpKind::DEQUANTIZE => quantised(op),
        OpKind::TOKEN_LOSSES => {
            let (scale, cap, rows) = (float("scale", 0.5), float("soft_cap", 2.0), int("rows", 2));
            let mut forms =
                with("T5.4 T7.4 t5<7", &[&[], &[scale], &[cap], &[scale, cap], &[rows], &[scale, cap, rows]]);
            forms.extend(with("T5.4 T7.4 t5<7 T7", &[&[], &[scale, cap, rows]]));
            forms.extend(each(&["T33.16 T257.16 t33<257", "T0.4 T7.4 t0<7"], &[]));
            forms
        }
        OpKind::RESHAPE => {
            let mut forms = Vec::new();
            for shape in [&[4, 6][..], &[-1], &[2, -1, 2], &[24], &[1, 24, 1]] {
                forms.push(form("T2.3.4", &[ints("shape", shape)]));
            }
            forms.extend(each(&["T_"], &[ints("shape", &[1])]));
            forms.extend(each(&["T1"], &[ints("shape", &[])]));
            forms.extend(each(&["T0.3"], &[ints("shape", &[3, 0])]));
            forms.extend(each(&["T3.1000"], &[ints("shape", &[1000, 3])]));
            forms
        }
        OpKind::TRANSPOSE => {
            let mut forms = Vec::new();
            for axes in [&[2, 0, 1][..], &[0, 2, 1], &[-1, 0, 1], &[0, 1, 2]] {
                forms.push(form("T2.3.4", &[ints("axes", axes)]));
            }
            forms.extend(each(&["T33.17", "T3.1000", "T0.3"], &[ints("axes", &[1, 0])]));
            forms.extend(each(&["T_"], &[ints("axes", &[])]));
            forms.extend(each(&["T2.3.4.5"], &[ints("axes", &[0, 2, 1, 3])]));
            forms
        }
        OpKind::CONCATENATE => {
            let mut forms =
                each(&["T3", "T3 T4", "T2.3 T4.3", "T0.3 T2.3", "T1 T2 T1 T1 T3 T1 T1 T2 T1 T1"], &[int("axis", 0)]);
            forms.extend(each(&["T2.3 T2.5 T2.1", "T3.1000 T3.7"], &[int("axis", 1)]));
            forms.extend(each(&["T2.3.4 T2.1.4"], &[int("axis", -2)]));
            forms
        }
        OpKind::SLICE => [
            ("T2.3.4", &[0, 1, 1][..], &[2, 3, 3][..]),
            ("T2.3.4", &[0, 0, 0], &[2, 3, 4]),
            ("T2.3.4", &[1, 3, 0], &[2, 3, 4]),
            ("T3.1000", &[1, 10], &[3, 900]),
            ("T257", &[256], &[257]),
            ("T_", &[], &[]),
            ("T0.3", &[0, 1], &[0, 2]),
        ]
        .into_iter()
        .map(|(inputs, start, stop)| form(inputs, &[ints("start", start), ints("stop", stop)]))
        .collect(),
        OpKind::SLICE_UPDATE => {
            let mut forms = with("T5.4 T2.3", &[&[ints("start", &[1, 1])], &[ints("start", &[3, 0])]]);
            forms.extend(each(&["T5 T5"], &[ints("start", &[0])]));
            forms.extend(each(&["T5 T0"], &[ints("start", &[5])]));
            forms.extend(each(&["T_ T_"], &[ints("start", &[])]));
            forms.extend(each(&["T3.1000 T2.500"], &[ints("start", &[1, 400])]));
            forms
        }
        OpKind::TAKE => [
            ("T5.3 n4<5", 0),
            ("T5.3 n2.2<3", -1),
            ("T5.3 n_<5", 0),
            ("T257 n33<257", 0),
            ("T3.1000 n7<1000", 1),
            ("T2.3.4 n2.2<3", 1),
            ("T5.3 i0<5", 0),
            ("T0.3 i0<1", 0),
            ("T0.3 n2<3", 1),
        ]
        .into_iter()
        .map(|(inputs, axis)| form(inputs, &[int("axis", axis)]))
        .collect(),
        OpKind::TAKE_ALONG_AXIS => {
            [("T5.3 n4.3<5", 0), ("T5.3 n5.7<3", -1), ("T33 n257<33", 0), ("T3.1000 n3.10<1000", 1), ("T5.3 i0.3<5", 0)]
                .into_iter()
                .map(|(inputs, axis)| form(inputs, &[int("axis", axis)]))
                .collect()
        }
        OpKind::SCATTER | OpKind::SCATTER_ADD => [
            ("T5.3 n4.3<5 T4.3", 0),
            ("T3.5 n3.9<5 T3.9", -1),
            ("T33 n257<33 T257", 0),
            ("T3.1000 n3.50<1000 T3.50", 1),
            ("T2.3.2 n2.4.2<3 T2.4.2", 1),
            ("T5 i0<5 T0", 0),
        ]
        .into_iter()
        .map(|(inputs, axis)| form(inputs, &[int("axis", axis)]))
        .collect(),
        OpKind::BROADCAST_TO => [
            ("T_", &[3][..]),
            ("T_", &[]),
            ("T1.3", &[4, 3]),
            ("T3", &[2, 3]),
            ("T2.1.3", &[5, 2, 4, 3]),
            ("T1000", &[3, 1000]),
            ("T3.1", &[3, 1000]),
            ("T1", &[0]),
            ("T0.1", &[0, 3]),
        ]
        .into_iter()
        .map(|(inputs, shape)| form(inputs, &[ints("shape", shape)]))
        .collect(),
        OpKind::CAST => {
            let to = |dtype| attribute("dtype", Value::Dtype(dtype));
            crate::cases::REQUIRED
                .iter()
                .flat_map(|&dtype| each(&["T_", "T33", "T3.1000", "T0"], &[to(dtype)]))
                .collect()
        }
        OpKind::WHERE => each(
            &[
                "b33 T33 T33",
                "b_ T5 T5",
                "b3.1 T1.4 T_",
                "b5 T_ T_",
                "b3.1000 T1000 T3.1000",
                "b2.3 T2.3 T1",
                "b0 T0 T1",
            ],
            &[],
        ),
        OpKind::FULL => {
            let shapes: [&'static [i64]; 4] = [&[2, 3], &[], &[0], &[3, 1000]];
            let of = |shape| {
                let values = [1.0, 0.0, 100.0, 0.1, f64::NAN, f64::NEG_INFINITY, -5.0];
                values.map(|value| {
                    form("", &[float("value", value), ints("shape", shape), attribute("dtype", Value::Dtype(TESTED))])
                })
            };
            shapes.into_iter().flat_map(of).collect()
        }
        OpKind::ARANGE => [0, 1, 5, 100]
            .map(|count| form("", &[int("count", count), attribute("dtype", Value::Dtype(TESTED))]))
            .to_vec(),
        OpKind::RANDOM_UNIFORM | OpKind::RANDOM_NORMAL => {
            let shapes: [&'static [i64]; 6] = [&[], &[2], &[33], &[3, 1000], &[0], &[5, 7]];
            let of = |shape| {
                let keys = [0, 1, -1, 0x0123_4567_89ab_cdef];
                keys.map(|key| {
                    form("", &[int("key", key), ints("shape", shape), attribute("dtype", Value::Dtype(TESTED))])
                })
            };
            shapes.into_iter().flat_map(of).collect()
        }
        OpKind::RANDOM_CATEGORICAL => ["T5.11", "T7", "T2.3.5", "T3.1000", "T0.5"]
            .into_iter()
            .flat_map(|inputs| [5, -1].map(|key| form(inputs, &[int("key", key)])))
            .collect(),
        OpKind::RMS_NORM | OpKind::LAYER_NORM => {
            let inputs = ["T3.4 T4", "T8 T8", "T3.1000 T1000", "T2.3.33 T33", "T0.8 T8"];
            let biased = ["T3.4 T4 T4", "T2.3.33 T33 T33", "T3.1000 T1000 T1000"];
            let biased = if op == OpKind::LAYER_NORM { &biased[..] } else { &[] };
            let eps = [1e-5, 0.1];
            eps.iter()
                .flat_map(|&eps| [each(&inputs, &[float("eps", eps)]), each(biased, &[float("eps", eps)])].concat())
                .collect()
        }
        OpKind::ROPE => {
            let (offset, scale) = (int("offset", 7), float("scale", 0.5));
            let mut forms = with("T1.2.3.4 f2", &[&[], &[offset], &[scale], &[offset, scale]]);
            forms.extend(with("T2.1.3.4 f2 p2.3", &[&[], &[scale]]));
            forms.extend(each(&["T2.3.5.8 f4", "T1.2.33.64 f32", "T2.3.5.8 f4 p2.5", "T0.2.3.4 f2"], &[]));
            forms
        }
        OpKind::ATTENTION => attention(),
        OpKind::CROSS_ENTROPY => each(&["T5.7 t5<7", "T3.1000 t3<1000", "T33.257 t33<257", "T0.7 i0<7"], &[]),
        OpKind::EMBEDDING => each(&["T7.3 i3.2<7", "T7.3 i_<7", "T257.33 i3.100<257", "T7.3 i0<7"], &[]),
        OpKind::DROPOUT => [0.25, 0.0, 0.5, 0.1]
            .into_iter()
            .flat_map(|rate| each(&["T33", "T_", "T3.1000", "T2.3.4", "T0"], &[float("rate", rate), int("key", 42)]))
            .collect(),
        _ => Vec::new(),
    }
}

fn quantised(op: OpKind) -> Vec<Form> {
    let mut forms = Vec::new();
    for (group_size, bits) in [32, 64, 128].into_iter().flat_map(|size| [2, 3, 4, 5, 6, 8].map(|bits| (size, bits))) {
        let attributes = [int("group_size", group_size), int("bits", bits)];
        let (words, groups) = (128 * bits / 32, 128 / group_size);
        match op {
            OpKind::QUANTIZE => forms.extend(each(&["T3.128", "T2.2.128", "T0.128"], &attributes)),
            OpKind::DEQUANTIZE => forms.extend(
                ['f', 'h', 'g'].map(|of| form(format!("w3.{words} {of}3.{groups} {of}3.{groups}"), &attributes)),
            ),
            _ => {
                let rest = format!("w3.{words} T3.{groups} T3.{groups}");
                forms.extend(["T2.128", "T128", "T33.128"].map(|x| form(format!("{x} {rest}"), &attributes)));
                forms.extend(["T2.1.128", "T128"].map(|x| form(format!("{x} {rest} T3"), &attributes)));
                // Not of float16, in which a weight that was rounded to float32 before may be rounded to another neighbour.
                let operands = attribute("operands", Value::Dtype(Dtype::BF16));
                for x in ["T3.128", "T33.128"] {
                    let attributes = [attributes[0], attributes[1], operands];
                    forms.push(form(format!("{x} w3.{words} f3.{groups} f3.{groups} f3"), &attributes));
                }
            }
        }
    }
    forms
}

fn attention() -> Vec<Form> {
    let (scale, causal, cap) = (float("scale", 0.5), flag("causal"), float("soft_cap", 2.0));
    let (dropout, key) = (float("dropout", 0.25), int("key", 7));
    let windows = [1, 2, 3].map(|window| int("window", window));
    let square = "T1.2.5.4 T1.1.5.4 T1.1.5.4";
    let mut forms = with(
        square,
        &[&[scale], &[scale, causal], &[scale, cap], &[scale, dropout, key], &[scale, causal, cap, dropout, key]],
    );
    forms.extend(windows.map(|window| form(square, &[scale, causal, window])));
    // Queries that are the last ones of the keys.
    forms.extend(with("T1.2.3.4 T1.1.4.4 T1.1.4.4", &[&[scale, causal], &[scale, windows[1], causal]]));
    forms.extend(with("T2.4.3.4 T2.2.7.4 T2.2.7.4", &[&[scale], &[scale, causal], &[scale, causal, windows[2]]]));
    for further in ["s1.5", "- T1.2.5.5", "- T1.1.1.5", "- T1.2.1.5", "- - T2", "s1.5 T1.1.5.5 T2"] {
        forms.extend(with(
            &format!("{square} {further}"),
            &[&[scale], &[scale, causal], &[scale, causal, windows[1], cap]],
        ));
    }
    forms.extend(each(&["T2.4.5.4 T2.2.5.4 T2.2.5.4 s2.5 - T4"], &[scale, causal, dropout, key]));
    forms.extend(with(
        "T1.4.33.64 T1.2.33.64 T1.2.33.64",
        &[&[float("scale", 0.125)], &[float("scale", 0.125), causal]],
    ));
    forms.extend(each(&["T2.2.17.80 T2.2.17.80 T2.2.17.80 s2.17"], &[float("scale", 0.11), causal]));
    forms.extend(each(&["T0.2.3.4 T0.1.3.4 T0.1.3.4"], &[scale]));
    forms
}
