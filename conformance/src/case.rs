//! One call of an operation: inputs with their layout on the device, and attributes.

use std::fmt;

use mdt_plugin_api::{Attribute, Dtype, OpKind, Value};

use crate::array::{Array, Number};
use crate::forms::{Form, TESTED};
use crate::random::Random;

/// How an input comes to lie in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As it was copied there.
    Plain,
    /// Its axes in the opposite order, and transposed.
    Transposed,
    /// A part of a larger one.
    Sliced,
    /// The same along its first axis, of one that has length 1 there.
    Repeated,
}

/// An input.
#[derive(Clone, Debug)]
pub struct Input {
    pub array: Array,
    pub layout: Layout,
}

/// A call.
#[derive(Clone, Debug)]
pub struct Case {
    pub op: OpKind,
    pub inputs: Vec<Option<Input>>,
    pub attributes: Vec<Attribute<'static>>,
}

impl Case {
    pub fn new(op: OpKind, inputs: Vec<Array>, attributes: &[Attribute<'static>]) -> Self {
        let inputs = inputs.into_iter().map(|array| Some(Input { array, layout: Layout::Plain })).collect();
        Self { op, inputs, attributes: attributes.to_vec() }
    }

    /// The call that a form describes, with elements that suit the operation; none where its attributes do not suit the type.
    pub fn of(op: OpKind, form: &Form, dtype: Dtype, random: &mut Random) -> Option<Self> {
        let mut attributes = form.attributes.clone();
        for attribute in &mut attributes {
            match &mut attribute.value {
                Value::Dtype(of) if *of == TESTED => *of = dtype,
                Value::Dtype(_) if attribute.name == "operands" && !dtype.is_float() => return None,
                Value::Float(value) if takes_numbers(op) && !holds(dtype, *value) => return None,
                _ => {}
            }
        }
        let words = form.inputs.split_whitespace().enumerate();
        let inputs = words.map(|(place, word)| input(op, place, word, dtype, random)).collect();
        Some(Self { op, inputs, attributes })
    }

    pub fn arrays(&self) -> Vec<Option<&Array>> {
        self.inputs.iter().map(|input| input.as_ref().map(|input| &input.array)).collect()
    }

    /// The same with every input in another layout, where its shape allows that.
    pub fn in_layout(&self, layout: Layout) -> Self {
        let mut case = self.clone();
        for input in case.inputs.iter_mut().flatten() {
            let array = &mut input.array;
            match (layout, array.shape.as_slice()) {
                (_, []) | (Layout::Transposed, [_]) => continue,
                _ if array.elements.is_empty() => continue,
                (Layout::Repeated, shape) => {
                    // A first axis of equal rows.
                    let shape = shape.to_vec();
                    let row = array.elements.len() / shape[0].max(1);
                    let mut place = 0;
                    *array = array.picked(&shape, |_| {
                        place += 1;
                        (place - 1) % row
                    });
                }
                _ => {}
            }
            input.layout = layout;
        }
        case
    }
}

/// Whether the floating-point attributes are elements of the input's or the result's type.
pub fn takes_numbers(op: OpKind) -> bool {
    let is_compared = (OpKind::EQUAL.0..=OpKind::LESS_EQUAL.0).contains(&op.0);
    op.0 <= OpKind::REMAINDER.0 || is_compared || op == OpKind::FULL
}

fn holds(dtype: Dtype, value: f64) -> bool {
    if dtype.is_float() {
        return true;
    }
    let (least, largest) = crate::array::bounds(dtype);
    value.fract() == 0.0 && (least as f64..=largest as f64).contains(&value)
}

/// An input as a word describes it.
fn input(op: OpKind, place: usize, word: &str, dtype: Dtype, random: &mut Random) -> Option<Input> {
    let (letter, rest) = word.split_at(1);
    let (dims, limit) = rest.split_once('<').unwrap_or((rest, "0"));
    let shape: Vec<usize> = match dims {
        "_" | "" => vec![],
        dims => dims.split('.').map(|length| length.parse().expect("a length")).collect(),
    };
    let limit: i64 = limit.parse().expect("a number");
    let count = shape.iter().product();
    let of = |dtype, numbers: Vec<f64>| Array::of(dtype, &shape, numbers);
    let mut whole = |least, most| (0..count).map(|_| random.whole(least, most) as f64).collect::<Vec<_>>();
    let array = match letter {
        "-" => return None,
        "b" => of(Dtype::BOOL, whole(0, 2)),
        "i" => of(Dtype::I32, whole(0, limit)),
        "n" => of(Dtype::I32, whole(-limit, limit)),
        "t" => of(Dtype::I32, whole(-limit / 5 - 1, limit)),
        "p" => of(Dtype::I32, whole(0, 2000)),
        "s" => {
            let mut segments = whole(0, 3);
            let row = *shape.last().expect("rows of segments");
            segments.chunks_mut(row.max(1)).for_each(|row| row.sort_by(f64::total_cmp));
            of(Dtype::I32, segments)
        }
        "w" => of(Dtype::U32, whole(0, 1 << 32)),
        "f" | "h" | "g" => {
            let dtype = if letter == "f" {
                Dtype::F32
            } else if letter == "h" {
                Dtype::F16
            } else {
                Dtype::BF16
            };
            of(dtype, (0..count).map(|_| random.real(0.01, 1.0)).collect())
        }
        "T" => of(dtype, elements(op, place, dtype, count, random)),
        _ => panic!("there is no input {word:?}"),
    };
    Some(Input { array, layout: Layout::Plain })
}

/// Elements that suit an operation: within its domain, and where it jumps or has a kink, well away from there and distinct as
/// long as there are few.
fn elements(op: OpKind, place: usize, dtype: Dtype, count: usize, random: &mut Random) -> Vec<f64> {
    let sign = |random: &mut Random| if random.whole(0, 2) == 0 { 1.0 } else { -1.0 };
    if !dtype.is_float() {
        let least = if dtype.is_signed() { -20 } else { 0 };
        let (least, most) = match op {
            OpKind::LOG | OpKind::SQRT | OpKind::RSQRT => (1, 20),
            OpKind::EXP => (least / 4, 5),
            OpKind::LOG1P => (0, 20),
            OpKind::POWER => (least / 5, 5),
            OpKind::DIVIDE | OpKind::FLOOR_DIVIDE | OpKind::REMAINDER if place == 1 => (1, 20),
            _ => (least, 20),
        };
        return (0..count).map(|_| random.whole(least, most) as f64).collect();
    }
    match op {
        // Quotients are no whole numbers: odd numbers of twelfths or twentieths.
        OpKind::FLOOR_DIVIDE | OpKind::REMAINDER if place == 0 => {
            (0..count).map(|_| (2 * random.whole(-24, 24) + 1) as f64 / 8.0).collect()
        }
        OpKind::FLOOR_DIVIDE | OpKind::REMAINDER => {
            (0..count).map(|_| sign(random) * if random.whole(0, 2) == 0 { 1.5 } else { 2.5 }).collect()
        }
        OpKind::MAXIMUM
        | OpKind::MINIMUM
        | OpKind::MAX
        | OpKind::MIN
        | OpKind::SORT
        | OpKind::ABS
        | OpKind::FLOOR
        | OpKind::ROUND
        | OpKind::SIGN
        | OpKind::ARGSORT
        | OpKind::ARGMAX
        | OpKind::TOP_K => {
            // Distinct up to 60 of them; beyond, there are equal ones.
            let order = random.order(count);
            order
                .into_iter()
                .map(|k| (k % 61) as f64 - (count.min(61) / 2) as f64)
                .map(|k| (4.0 * k + 1.0 + place as f64) / 32.0)
                .collect()
        }
        OpKind::LOG | OpKind::SQRT | OpKind::RSQRT => (0..count).map(|_| random.real(0.05, 9.0)).collect(),
        OpKind::LOG1P => (0..count).map(|_| random.real(-0.9, 4.0)).collect(),
        OpKind::POWER if place == 0 => (0..count).map(|_| random.real(0.2, 3.0)).collect(),
        OpKind::DIVIDE => (0..count).map(|_| sign(random) * random.real(0.3, 3.0)).collect(),
        _ => (0..count).map(|_| random.real(-2.0, 2.0)).collect(),
    }
}

/// An element for messages, with as many digits as its type needs.
pub fn shown(dtype: Dtype, element: Number) -> String {
    match element {
        Number::Real(x) if dtype == Dtype::F64 => format!("{x:?}"),
        Number::Real(x) => format!("{:?}", x as f32),
        Number::Whole(x) => x.to_string(),
    }
}

/// The call in one line; the elements of inputs that are small.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.op.name())?;
        for (place, input) in self.inputs.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let Some(Input { array, layout }) = input else {
                write!(f, "{comma}none")?;
                continue;
            };
            write!(f, "{comma}{}{:?}", array.dtype, array.shape)?;
            if *layout != Layout::Plain {
                write!(f, " {}", format!("{layout:?}").to_lowercase())?;
            }
            if array.elements.len() <= 6 {
                let elements: Vec<_> = array.elements.iter().map(|&element| shown(array.dtype, element)).collect();
                write!(f, " = [{}]", elements.join(", "))?;
            }
        }
        for attribute in &self.attributes {
            write!(f, "; {} = {:?}", attribute.name, attribute.value)?;
        }
        write!(f, ")")
    }
}
