use proptest::prelude::*;

use super::{Inputs, broadcast};
use crate::op::{Attribute, OpKind, Value, attribute, promoted};
use crate::{Dtype, TensorType};

/// `float32 [2, 3], none` as inputs.
fn types(text: &str) -> Vec<Option<TensorType>> {
    let parse = |input: &str| {
        let (dtype, shape) = input.trim().split_once(" [")?;
        let lengths = shape.split(", ").filter(|length| !length.is_empty());
        let shape = lengths.map(|length| length.parse().unwrap()).collect();
        Some(TensorType { shape, dtype: Dtype::from_name(dtype).unwrap() })
    };
    let text = text.replace("none", "none]");
    text.split_terminator(']').map(|input| parse(input.trim_start_matches(','))).collect()
}

/// The types of the results, or what is wrong, without the name of the operation and its inputs.
fn inferred(op: OpKind, inputs: &str, attributes: &[Attribute<'_>]) -> Result<String, String> {
    let inputs = types(inputs);
    let inputs: Vec<Option<&TensorType>> = inputs.iter().map(Option::as_ref).collect();
    match op.definition().unwrap().infer(&inputs, attributes) {
        Ok(results) => Ok(Inputs(&results.iter().map(Some).collect::<Vec<_>>()).to_string()),
        Err(error) => Err(error.message().rsplit_once("]: ").map_or(error.message(), |(_, what)| what).to_owned()),
    }
}

/// Asserts results and refusals: `OPERATION(inputs; attributes) => Ok or Err`.
macro_rules! gives {
    ($($op:ident($inputs:literal $(; $($name:ident = $value:expr),*)?) => $outcome:expr;)*) => { $(
        let attributes = [$($(attribute(stringify!($name), $value)),*)?];
        let outcome: Result<&str, &str> = $outcome;
        let found = inferred(OpKind::$op, $inputs, &attributes);
        match (&found, outcome) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{}", stringify!($op($inputs))),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{}: {found}", stringify!($op($inputs))),
            _ => panic!("{}: {found:?} and not {outcome:?}", stringify!($op($inputs))),
        }
    )* };
}

use Value::{Bool, Float, Int, Ints, Text};

#[test]
fn messages_name_the_operation_and_its_inputs() {
    let inputs = types("float32 [2, 3], none, int32 []");
    let inputs: Vec<_> = inputs.iter().map(Option::as_ref).collect();
    let error = OpKind::LAYER_NORM.definition().unwrap().infer(&inputs, &[]).unwrap_err();
    let message = "operation layer_norm on float32 [2, 3], none, int32 []: input 1 cannot be left out";
    assert_eq!(error.message(), message);
    let error = OpKind::FULL.definition().unwrap().infer(&[], &[]).unwrap_err();
    assert_eq!(error.message(), "operation full: needs the attribute \"value\", a real number");
}

#[test]
fn counts_of_inputs_and_attributes_are_checked() {
    gives! {
        EXP("float32 [2], float32 [2]") => Err("takes 1 inputs, not 2");
        CONCATENATE(""; axis = Int(0)) => Err("takes at least 1 inputs, not 0");
        ATTENTION("float32 []"; scale = Float(1.0)) => Err("takes 3 to 6 inputs, not 1");
        SUM("float32 [2]"; axis = Int(0)) => Err("has no attribute \"axis\"; it knows axes, keep_dims");
        EXP("float32 [2]"; axis = Int(0)) => Err("has no attribute \"axis\"; it takes none");
        SUM("float32 [2]"; keep_dims = Int(1)) => Err("attribute \"keep_dims\" must be a truth value, not Int(1)");
        SUM("float32 [2]"; keep_dims = Bool(true), keep_dims = Bool(true)) => Err("\"keep_dims\" is given twice");
        SOFTMAX("float32 [2]") => Err("needs the attribute \"axis\", an integer");
    }
}

#[test]
fn elements_are_broadcast_and_promoted() {
    gives! {
        ADD("float32 [2, 1], int32 [3]") => Ok("float32 [2, 3]");
        ADD("bool [2], bfloat16 [2]") => Ok("bfloat16 [2]");
        ADD("float16 [0, 1], bfloat16 [1, 4]") => Ok("float32 [0, 4]");
        ADD("bool [2], bool [2]") => Err("is not defined for bool");
        ADD("uint64 [2], int8 [2]") => Err("uint64 and int8 have no common type");
        ADD("float32 [2], float32 [3]") => Err("the shapes [2] and [3] do not broadcast");
        ADD("int32 [2]"; right = Float(-3.0)) => Ok("int32 [2]");
        ADD("int32 [2]"; right = Float(0.5)) => Err("attribute \"right\": 0.5 is no value of the element type int32");
        ADD("uint8 [2]"; left = Float(256.0)) => Err("256 is no value of the element type uint8");
        ADD("int64 [2]"; left = Float(-9_223_372_036_854_775_808.0)) => Ok("int64 [2]");
        ADD("int64 [2]"; left = Float(9_223_372_036_854_775_808.0)) => Err("is no value");
        ADD("float16 [2]"; left = Float(f64::NAN)) => Ok("float16 [2]");
        ADD("float32 [2]") => Err("takes two inputs, or one and one of the attributes");
        ADD("float32 [2], float32 [2]"; left = Float(1.0)) => Err("takes two inputs, or one and one");
        ADD("float32 [2]"; left = Float(1.0), right = Float(1.0)) => Err("takes two inputs, or one and one");
        DIVIDE("int32 [2], uint8 [1]") => Ok("float32 [2]");
        POWER("int64 [2]"; right = Float(2.0)) => Ok("float32 [2]");
        FLOOR_DIVIDE("int32 [2], uint8 [1]") => Ok("int32 [2]");
        LESS("bool [2], uint8 [1]") => Ok("bool [2]");
        EQUAL("bool [2]"; right = Float(2.0)) => Err("2 is no value of the element type bool");
        LOGICAL_AND("uint64 [2], int8 [2]") => Ok("bool [2]");
        WHERE("bool [2, 1], float16 [3], int32 []") => Ok("float16 [2, 3]");
        WHERE("int32 [2, 1], float16 [3], int32 []") => Err("a condition is bool, not int32");
    }
}

#[test]
fn elements_alone_keep_or_change_their_type() {
    gives! {
        NEGATIVE("uint8 [2]") => Ok("uint8 [2]");
        EXP("int64 [2, 0]") => Ok("float32 [2, 0]");
        EXP("float16 []") => Ok("float16 []");
        EXP("bool []") => Err("is not defined for bool");
        GELU("int32 []") => Err("is not defined for int32");
        GELU("float32 []"; approximate = Text("erf")) => Err("\"approximate\" is \"erf\"; it knows none and tanh");
        LOGICAL_NOT("float32 [2]") => Ok("bool [2]");
        CAST("float32 [2]"; dtype = Value::Dtype(Dtype::I8)) => Ok("int8 [2]");
        CAST("float32 [2]"; dtype = Value::Dtype(Dtype(99))) => Err("is not defined for unknown");
        DROPOUT("float32 [2]"; rate = Float(1.0), key = Int(1)) => Err("\"rate\" must be at least 0 and less than 1");
        DROPOUT("float32 [2]"; rate = Float(f64::NAN), key = Int(1)) => Err("not NaN");
    }
}

#[test]
fn reductions_and_orders_follow_their_axes() {
    gives! {
        SUM("float16 [2, 3]") => Ok("float16 []");
        SUM("bool [2, 3]"; axes = Ints(&[-1])) => Ok("int32 [2]");
        SUM("uint16 [2, 3]"; axes = Ints(&[0, 1]), keep_dims = Bool(true)) => Ok("uint32 [1, 1]");
        SUM("int64 [2, 3]"; axes = Ints(&[])) => Ok("int64 [2, 3]");
        SUM("float32 [2, 3]"; axes = Ints(&[1, -1])) => Err("axis -1 is given twice");
        SUM("float32 [2, 3]"; axes = Ints(&[2])) => Err("axis 2 is not one of 2 axes");
        SUM("float32 [2, 3]"; axes = Ints(&[i64::MIN])) => Err("is not one of 2 axes");
        MEAN("bool [0]") => Ok("float32 []");
        MAX("float32 [2, 0]"; axes = Ints(&[0])) => Ok("float32 [0]");
        MAX("float32 [2, 0]"; axes = Ints(&[1])) => Err("nothing has no largest");
        MIN("float32 [2, 0]") => Err("nothing has no largest");
        ARGMAX("uint8 [2, 3]"; axis = Int(0)) => Ok("int32 [3]");
        ARGMAX("float32 [2, 0]"; axis = Int(1)) => Err("nothing has no largest");
        TOP_K("float32 [2, 3]"; axis = Int(-1), count = Int(2)) => Ok("int32 [2, 2]");
        TOP_K("float32 [2, 3]"; axis = Int(-1), count = Int(4)) => Err("there are no 4 elements along axis 1");
        ARGSORT("bfloat16 [2, 3]"; axis = Int(0)) => Ok("int32 [2, 3]");
        SORT("int8 [2, 3]"; axis = Int(0)) => Ok("int8 [2, 3]");
        CUMULATIVE_SUM("bool [2]"; axis = Int(0)) => Ok("int32 [2]");
        SOFTMAX("int32 [2]"; axis = Int(0)) => Ok("float32 [2]");
        SOFTMAX("float32 []"; axis = Int(0)) => Err("axis 0 is not one of 0 axes");
    }
}

#[test]
fn products_need_inner_axes_of_one_length() {
    gives! {
        MATMUL("float32 [4, 1, 2, 3], bfloat16 [5, 3, 6]") => Ok("float32 [4, 5, 2, 6]");
        MATMUL("int32 [2, 3], uint8 [3, 1]") => Ok("float32 [2, 1]");
        MATMUL("float32 [2, 3], float32 [2, 3]") => Err("rows of 3 elements do not go with columns of 2");
        MATMUL("float32 [3], float32 [3, 2]") => Err("both inputs have two axes at least");
        LINEAR("float16 [2, 4, 3], float16 [5, 3], float16 [5]") => Ok("float16 [2, 4, 5]");
        LINEAR("float32 [3], float32 [5, 3], float32 [3]") => Err("a bias [out]");
        LINEAR("int32 [3], float32 [5, 3]") => Err("is not defined for int32");
        GATHER_LINEAR("float32 [7, 1, 3], float32 [4, 5, 3], int32 [7, 2]") => Ok("float32 [7, 2, 5]");
        GATHER_LINEAR("float32 [7, 3, 3], float32 [4, 5, 3], int32 [7, 2]") => Err("x [N, 1 or K, in]");
        QUANTIZE("float16 [5, 96]"; group_size = Int(32), bits = Int(3)) =>
            Ok("uint32 [5, 9], float16 [5, 3], float16 [5, 3]");
        QUANTIZE("float32 [5, 96]"; group_size = Int(64), bits = Int(4)) => Err("groups of 64 elements");
        QUANTIZE("float32 [5, 96]"; group_size = Int(16), bits = Int(4)) => Err("it knows 32, 64 and 128");
        QUANTIZE("float32 [5, 96]"; group_size = Int(32), bits = Int(7)) => Err("it knows 2, 3, 4, 5, 6 and 8");
        DEQUANTIZE("uint32 [5, 9], float16 [5, 3], float16 [5, 3]"; group_size = Int(32), bits = Int(3)) =>
            Ok("float16 [5, 96]");
        DEQUANTIZE("uint32 [5, 8], float16 [5, 3], float16 [5, 3]"; group_size = Int(32), bits = Int(3)) =>
            Err("expected words [.., in · bits / 32]");
        QUANTIZED_LINEAR("float32 [2, 96], uint32 [5, 9], float16 [5, 3], float16 [5, 3]"; group_size = Int(32),
            bits = Int(3)) => Ok("float32 [2, 5]");
        QUANTIZED_LINEAR("float32 [2, 64], uint32 [5, 9], float16 [5, 3], float16 [5, 3]"; group_size = Int(32),
            bits = Int(3)) => Err("expected x [.., in]");
    }
}

#[test]
fn elements_move_only_to_places_that_exist() {
    gives! {
        RESHAPE("float32 [2, 6]"; shape = Ints(&[3, -1])) => Ok("float32 [3, 4]");
        RESHAPE("float32 [2, 6]"; shape = Ints(&[5, -1])) => Err("12 elements do not have the shape [5, -1]");
        RESHAPE("float32 [2, 6]"; shape = Ints(&[-1, -1])) => Err("do not have the shape");
        RESHAPE("float32 [2, 6]"; shape = Ints(&[-2, -6])) => Err("do not have the shape");
        RESHAPE("float32 [2]"; shape = Ints(&[i64::MAX, i64::MAX, 2])) => Err("do not have the shape");
        RESHAPE("float32 [0, 6]"; shape = Ints(&[0, -1])) => Err("do not have the shape");
        RESHAPE("float32 [0, 6]"; shape = Ints(&[3, -1])) => Ok("float32 [3, 0]");
        TRANSPOSE("float32 [2, 3, 4]"; axes = Ints(&[-1, 0, 1])) => Ok("float32 [4, 2, 3]");
        TRANSPOSE("float32 [2, 3]"; axes = Ints(&[0, -2])) => Err("axis 0 is given twice");
        TRANSPOSE("float32 [2, 3]"; axes = Ints(&[0])) => Err("needs an order of 2 axes, not of 1");
        CONCATENATE("float16 [2, 3], int32 [4, 3]"; axis = Int(0)) => Ok("float16 [6, 3]");
        CONCATENATE("float16 [2, 3], int32 [4, 3]"; axis = Int(1)) => Err("one shape, but for the axis");
        SLICE("float32 [4]"; start = Ints(&[1]), stop = Ints(&[3])) => Ok("float32 [2]");
        SLICE("float32 [4]"; start = Ints(&[3]), stop = Ints(&[1])) => Err("3..1 is not a part of axis 0");
        SLICE("float32 [4]"; start = Ints(&[-1]), stop = Ints(&[4])) => Err("-1..4 is not a part of axis 0");
        SLICE("float32 [4]"; start = Ints(&[0, 0]), stop = Ints(&[4])) => Err("not 2 and 1");
        SLICE_UPDATE("float32 [4], float32 [2]"; start = Ints(&[2])) => Ok("float32 [4]");
        SLICE_UPDATE("float32 [4], float32 [2]"; start = Ints(&[3])) => Err("2 elements from 3 on");
        SLICE_UPDATE("float32 [4], float16 [2]"; start = Ints(&[2])) => Err("an update of the same type");
        TAKE("float32 [4, 5, 6], int64 [2, 3]"; axis = Int(1)) => Ok("float32 [4, 2, 3, 6]");
        TAKE("float32 [4], float32 [2]"; axis = Int(0)) => Err("indices are integers, not float32");
        TAKE("float32 [4], bool [2]"; axis = Int(0)) => Err("indices are integers, not bool");
        TAKE_ALONG_AXIS("float32 [4, 5], uint8 [4, 9]"; axis = Int(-1)) => Ok("float32 [4, 9]");
        TAKE_ALONG_AXIS("float32 [4, 5], uint8 [1, 9]"; axis = Int(-1)) => Err("indices of x's shape");
        SCATTER_ADD("float32 [4, 5], int32 [9, 5], float32 [9, 5]"; axis = Int(0)) => Ok("float32 [4, 5]");
        SCATTER_ADD("float32 [4, 5], int32 [9, 5], float32 [9, 1]"; axis = Int(0)) => Err("updates of x's type");
        SCATTER("bool [4], int32 [9], bool [9]"; axis = Int(0)) => Ok("bool [4]");
        BROADCAST_TO("float32 [2, 1]"; shape = Ints(&[3, 2, 4])) => Ok("float32 [3, 2, 4]");
        BROADCAST_TO("float32 [2, 3]"; shape = Ints(&[2, 1])) => Err("does not broadcast to [2, 1]");
        BROADCAST_TO("float32 [1]"; shape = Ints(&[1 << 40, 1 << 40])) => Err("more elements than can be counted");
    }
}

#[test]
fn constants_have_a_shape_and_hold_their_value() {
    let dtype = Value::Dtype;
    gives! {
        FULL(""; value = Float(3.0), shape = Ints(&[2, 0]), dtype = dtype(Dtype::I32)) => Ok("int32 [2, 0]");
        FULL(""; value = Float(0.5), shape = Ints(&[2]), dtype = dtype(Dtype::I32)) => Err("0.5 is no value");
        FULL(""; value = Float(3.0), shape = Ints(&[-1]), dtype = dtype(Dtype::F32)) => Err("cannot have length -1");
        FULL(""; value = Float(3.0), shape = Ints(&[i64::MAX]), dtype = dtype(Dtype::F32)) => Err("can be counted");
        ARANGE(""; count = Int(4), dtype = dtype(Dtype::F16)) => Ok("float16 [4]");
        ARANGE(""; count = Int(-4), dtype = dtype(Dtype::F16)) => Err("attribute \"count\" cannot be -4");
        ARANGE(""; count = Int(4), dtype = dtype(Dtype::BOOL)) => Err("is not defined for bool");
        RANDOM_UNIFORM(""; key = Int(4), shape = Ints(&[2]), dtype = dtype(Dtype::I32)) => Err("not defined for int32");
        RANDOM_NORMAL(""; key = Int(4), shape = Ints(&[2]), dtype = dtype(Dtype::BF16)) => Ok("bfloat16 [2]");
        RANDOM_CATEGORICAL("float32 [2, 3, 4]"; key = Int(4)) => Ok("int32 [2, 3]");
    }
}

#[test]
fn layers_take_the_shapes_that_they_document() {
    gives! {
        RMS_NORM("float32 [2, 3], bfloat16 [3]"; eps = Float(1e-5)) => Ok("float32 [2, 3]");
        LAYER_NORM("float32 [2, 3], float32 [3], float32 [2]"; eps = Float(1e-5)) => Err("if any, a bias [D]");
        ROPE("float16 [2, 4, 5, 6], float32 [3], int32 [2, 5]") => Ok("float16 [2, 4, 5, 6]");
        ROPE("float16 [2, 4, 5, 6], float32 [3], int32 [2, 5]"; offset = Int(1)) => Err("positions or an offset");
        ROPE("float16 [2, 4, 5, 7], float32 [3]") => Err("inverse frequencies [D/2]");
        ATTENTION("float32 [2, 4, 5, 6], float32 [2, 2, 7, 6], float32 [2, 2, 7, 6]"; scale = Float(1.0)) =>
            Ok("float32 [2, 4, 5, 6]");
        ATTENTION("float16 [2, 4, 5, 6], float16 [2, 2, 7, 6], float16 [2, 2, 7, 6], none, float16 [2, 1, 1, 7],
            float16 [4]"; scale = Float(1.0), causal = Bool(true)) => Ok("float16 [2, 4, 5, 6]");
        ATTENTION("float32 [2, 3, 5, 6], float32 [2, 2, 7, 6], float32 [2, 2, 7, 6]"; scale = Float(1.0)) =>
            Err("H_kv dividing H");
        ATTENTION("float32 [2, 4, 5, 6], float32 [2, 2, 4, 6], float32 [2, 2, 4, 6]"; scale = Float(1.0),
            causal = Bool(true)) => Err("no more queries than keys");
        ATTENTION("float32 [2, 4, 5, 6], float32 [2, 2, 7, 6], float32 [2, 2, 7, 6]"; scale = Float(1.0),
            dropout = Float(0.5)) => Err("\"dropout\" and \"key\" together");
        ATTENTION("float32 [2, 4, 5, 6], float32 [2, 2, 7, 6], float32 [2, 2, 7, 6]"; scale = Float(1.0),
            window = Int(0)) => Err("attribute \"window\" cannot be 0");
        ATTENTION("float32 [2, 4, 5, 6], float32 [2, 2, 7, 6], float32 [2, 2, 7, 6], int32 [2, 5]";
            scale = Float(1.0)) => Err("int32 segments [B, S]");
        ATTENTION("float32 [2, 4, 5, 6], float32 [2, 2, 7, 6], float32 [2, 2, 7, 6], none, float32 [5, 7]";
            scale = Float(1.0)) => Err("a mask [B or 1");
        SWIGLU("float32 [2], float32 [1]") => Err("gate and up of one shape");
        CROSS_ENTROPY("bfloat16 [2, 3], int32 [2]") => Ok("float32 [2]");
        CROSS_ENTROPY("bfloat16 [2, 3], int64 [2]") => Err("int32 targets [N]");
        TOKEN_LOSSES("bfloat16 [2, 3], bfloat16 [9, 3], int32 [2], bfloat16 [9]"; soft_cap = Float(30.0)) =>
            Ok("float32 [2]");
        TOKEN_LOSSES("bfloat16 [2, 3], bfloat16 [9, 3], int32 [2]"; soft_cap = Float(0.0)) => Err("must be positive");
        EMBEDDING("float16 [9, 3], int32 [2, 4]") => Ok("float16 [2, 4, 3]");
        EMBEDDING("float16 [9, 3], float32 [2, 4]") => Err("int32 ids");
    }
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..4, 0..5)
}

fn dtype() -> impl Strategy<Value = Dtype> {
    (1u32..=13).prop_map(Dtype)
}

/// The least and largest value of an integer type.
fn range(dtype: Dtype) -> (i128, i128) {
    let bits = 8 * dtype.size() as u32;
    match dtype {
        Dtype::BOOL => (0, 1),
        dtype if dtype.is_signed() => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        _ => (0, (1 << bits) - 1),
    }
}

proptest! {
    #[test]
    fn broadcasting_repeats_axes_of_length_1_alone(a in shape(), b in shape()) {
        let at = |shape: &[usize], from_end: usize| shape.iter().rev().nth(from_end).copied().unwrap_or(1);
        let rank = a.len().max(b.len());
        let fits = (0..rank).all(|axis| at(&a, axis) == at(&b, axis) || at(&a, axis) == 1 || at(&b, axis) == 1);
        match broadcast(&a, &b) {
            Ok(shape) => {
                prop_assert!(fits && shape.len() == rank);
                for axis in 0..rank {
                    let (of_a, of_b) = (at(&a, axis), at(&b, axis));
                    prop_assert_eq!(at(&shape, axis), if of_a == 1 { of_b } else { of_a });
                }
                prop_assert_eq!(&broadcast(&b, &a).unwrap(), &shape);
                prop_assert_eq!(&broadcast(&shape, &a).unwrap(), &shape);
            }
            Err(_) => prop_assert!(!fits),
        }
    }

    #[test]
    fn a_common_type_holds_the_values_of_both(a in dtype(), b in dtype()) {
        prop_assert_eq!(promoted(a, b), promoted(b, a));
        let Some(common) = promoted(a, b) else {
            prop_assert!(a.is_signed() != b.is_signed() && (a == Dtype::U64 || b == Dtype::U64));
            return Ok(());
        };
        prop_assert_eq!(promoted(common, a), Some(common));
        prop_assert_eq!(common.is_float(), a.is_float() || b.is_float());
        for of in [a, b] {
            if !common.is_float() {
                prop_assert!(range(common).0 <= range(of).0 && range(common).1 >= range(of).1);
            } else if of.is_float() {
                prop_assert!(common.size() >= of.size());
            }
        }
    }
}
