//! Elements in host memory: copies in, borrowed views out. All `unsafe` of the compute side is here and in `device`.

use std::ffi::c_void;
use std::ops::Range;

use mdt_plugin_api::{Error, HostArrayRef, RawHostView, Result};
use mlx_rs::{Array, Dtype as MlxDtype};

use crate::fault::Fault;
use crate::{dtype, fused};

/// A tensor with a copy of these elements.
///
/// # Errors
/// An axis too long for MLX, bytes that do not fit the shape or are no booleans.
pub fn copy_in(array: HostArrayRef<'_>) -> Result<Array> {
    let HostArrayRef { dtype, shape, bytes } = array;
    let kind = dtype::to_mlx(dtype)?;
    array.check()?;
    let shape = shape
        .iter()
        .map(|&length| i32::try_from(length))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::input(format!("shape {shape:?} has an axis beyond MLX's 32 bits")))?;
    // A memory-mapped file need not be aligned, and MLX's copy reads whole elements.
    let aligned: Vec<u64>;
    let start = if bytes.as_ptr().align_offset(dtype.size()) == 0 {
        bytes.as_ptr()
    } else {
        aligned = bytes.chunks(8).map(word).collect();
        aligned.as_ptr().cast::<u8>()
    };
    // SAFETY: from `start` on there are as many bytes as shape and type need, aligned for the type; MLX copies them
    // during the call; and any of its types but booleans, checked above, may hold any bits.
    Ok(unsafe { Array::from_raw_data(start.cast::<c_void>(), &shape, kind) })
}

/// Up to eight bytes as they lie in memory, the rest zero.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

/// Length of each axis.
pub fn shape(array: &Array) -> Vec<usize> {
    array.shape().iter().map(|&length| length as usize).collect()
}

/// A view of a tensor's elements, computed first if need be. The memory lives as long as the array.
pub fn read(array: &Array) -> Result<RawHostView> {
    array.eval().map_err(failed_evaluation)?;
    Ok(RawHostView {
        data: data(array),
        dtype: dtype::from_mlx(array.dtype())?,
        shape: shape(array),
        // MLX's strides are signed 64-bit numbers behind an unsigned type.
        strides: array.strides().iter().map(|&stride| stride as isize).collect(),
    })
}

/// The error of an evaluation.
pub fn failed_evaluation(exception: mlx_rs::error::Exception) -> Error {
    fused::settle();
    let fault = Fault::from(exception).to_string();
    if fault.starts_with(OUT_OF_MEMORY) {
        let help = "use fewer rows at a time (`trainer.batch_size`) or shorter ones (`trainer.max_seq_len`), or end other programs";
        return Error::other(fault).help(help);
    }
    Error::plugin(format!("evaluation: {fault}"))
}

/// How `native/primitives/primitive.cpp` says it.
const OUT_OF_MEMORY: &str = "out of memory";

/// A view for writing; `others` are all the other live tensors.
///
/// # Errors
/// The tensor is not evaluated, not row-contiguous, or something else refers to it or to its memory.
pub fn write<'a>(array: &Array, others: impl Iterator<Item = &'a Array>) -> Result<RawHostView> {
    let refused = |why: &str| {
        Err(Error::plugin(format!("a tensor of shape {:?} cannot be written to in place: {why}", array.shape())))
    };
    if !asks(array, mlx_sys::_mlx_array_is_available)? {
        return refused("it is not evaluated yet");
    }
    if !asks(array, mlx_sys::_mlx_array_is_row_contiguous)? {
        return refused("its elements do not lie one after another");
    }
    let exclusive = if cfg!(mdt_native) { fused::is_exclusive(array) } else { exclusive_among(array, others)? };
    if !exclusive {
        return refused(
            "something else still refers to its memory (another handle, a reshape or slice, a pending loss)",
        );
    }
    read(array)
}

/// Whether no other live tensor refers to this evaluated one's memory, without MLX's use counts, which are not in its C
/// interface: a pending tensor may refer to any memory, an evaluated one only to that of its elements.
fn exclusive_among<'a>(array: &Array, others: impl Iterator<Item = &'a Array>) -> Result<bool> {
    let own = extent(array);
    for other in others {
        if !asks(other, mlx_sys::_mlx_array_is_available)? {
            return Ok(false);
        }
        let other = extent(other);
        if own.start < other.end && other.start < own.end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The addresses from an evaluated array's first element to its last one.
fn extent(array: &Array) -> Range<usize> {
    let start = data(array).addr();
    if array.size() == 0 {
        return start..start;
    }
    let steps = array.shape().iter().zip(array.strides()).map(|(&length, &stride)| (length as usize - 1) * stride);
    start..start + (steps.sum::<usize>() + 1) * array.item_size()
}

/// One of MLX's questions about an evaluated array.
fn asks(array: &Array, question: unsafe extern "C" fn(*mut bool, mlx_sys::mlx_array) -> i32) -> Result<bool> {
    let mut answer = false;
    // SAFETY: the array is alive during the call, and `answer` is written to only.
    match unsafe { question(&raw mut answer, array.as_ptr()) } {
        0 => Ok(answer),
        status => Err(Error::plugin(format!("MLX gave status {status} when asked about an array"))),
    }
}

/// Where an evaluated array's elements start.
fn data(array: &Array) -> *mut u8 {
    let array_pointer = array.as_ptr();
    macro_rules! start {
        ($function:ident) => {
            // SAFETY: the array is alive and evaluated, and the function is the one for its element type.
            unsafe { mlx_sys::$function(array_pointer) }.cast_mut().cast::<u8>()
        };
    }
    match array.dtype() {
        MlxDtype::Bool => start!(mlx_array_data_bool),
        MlxDtype::Uint8 => start!(mlx_array_data_uint8),
        MlxDtype::Uint16 => start!(mlx_array_data_uint16),
        MlxDtype::Uint32 => start!(mlx_array_data_uint32),
        MlxDtype::Uint64 => start!(mlx_array_data_uint64),
        MlxDtype::Int8 => start!(mlx_array_data_int8),
        MlxDtype::Int16 => start!(mlx_array_data_int16),
        MlxDtype::Int32 => start!(mlx_array_data_int32),
        MlxDtype::Int64 => start!(mlx_array_data_int64),
        MlxDtype::Float16 => start!(mlx_array_data_float16),
        MlxDtype::Float32 => start!(mlx_array_data_float32),
        MlxDtype::Float64 => start!(mlx_array_data_float64),
        MlxDtype::Bfloat16 => start!(mlx_array_data_bfloat16),
        MlxDtype::Complex64 => start!(mlx_array_data_complex64),
    }
}

#[cfg(test)]
mod tests {
    use mdt_plugin_api::HostArray;
    use mlx_rs::Array;

    use super::{copy_in, exclusive_among};

    fn array(elements: &[f32]) -> Array {
        copy_in(HostArray::new(&[elements.len()], elements).unwrap().borrow()).unwrap()
    }

    #[test]
    fn without_use_counts_a_view_or_anything_pending_forbids_writing() {
        let weight = array(&[1.0, 2.0, 3.0, 4.0]);
        let exclusive = |others: &[&Array]| exclusive_among(&weight, others.iter().copied()).unwrap();
        assert!(exclusive(&[]));
        let (unrelated, empty) = (array(&[5.0]), array(&[]));
        assert!(exclusive(&[&unrelated, &empty]));
        let sum = unrelated.add(&unrelated).unwrap();
        assert!(!exclusive(&[&sum]), "pending");
        sum.eval().unwrap();
        assert!(exclusive(&[&sum]));
        let tail = weight.reshape(&[2, 2]).unwrap();
        assert!(!exclusive(&[&tail]), "a pending view");
        tail.eval().unwrap();
        assert!(!exclusive(&[&tail]), "an evaluated view");
        let last = mlx_rs::ops::split_equal(&weight, 2, 0).unwrap().remove(1);
        last.eval().unwrap();
        assert!(!exclusive(&[&last]), "a view of a part");
        assert!(!exclusive_among(&last, [&weight].into_iter()).unwrap(), "a view of more");
    }
}
