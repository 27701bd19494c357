//! Plain values that cross in calls of every operation, and their conversions.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::rc::Rc;

use abi_stable::std_types::{RSlice, RSliceMut, RStr};

use super::few::{by_words, with_few};
use super::object::RawSink;
use super::table::c_struct;
use crate::{Attribute, Compute, Dtype, Error, Handle, HostArrayRef, Result, Tensor, Value};

c_struct! {
    /// [`Attribute`]. A tag that the receiver does not know is an error there.
    "MdtAttribute" RawAttribute<'a> {
        name: RStr<'a>,
        /// 1 a truth value, 2 an integer, 3 a real number, 4 integers, 5 an element type, 6 a text, 7 real numbers.
        tag: u32,
        integer: i64,
        real: f64,
        integers: RSlice<'a, i64>,
        text: RStr<'a>,
        reals: RSlice<'a, f64>,
    }

    /// [`HostArrayRef`].
    "MdtArray" RawArrayRef<'a> {
        dtype: u32,
        shape: RSlice<'a, usize>,
        bytes: RSlice<'a, u8>,
    }

    /// A tensor with a name.
    "MdtNamed" RawNamed<'a> {
        name: RStr<'a>,
        tensor: u64,
    }
}

impl<'a> From<&Attribute<'a>> for RawAttribute<'a> {
    #[inline(always)]
    fn from(attribute: &Attribute<'a>) -> Self {
        let (name, integers, text, reals) = (attribute.name.into(), RSlice::EMPTY, RStr::empty(), RSlice::EMPTY);
        let mut raw = Self { name, tag: 0, integer: 0, real: 0.0, integers, text, reals };
        match attribute.value {
            Value::Bool(value) => (raw.tag, raw.integer) = (1, i64::from(value)),
            Value::Int(value) => (raw.tag, raw.integer) = (2, value),
            Value::Float(value) => (raw.tag, raw.real) = (3, value),
            Value::Ints(values) => (raw.tag, raw.integers) = (4, values.into()),
            Value::Dtype(dtype) => (raw.tag, raw.integer) = (5, i64::from(dtype.0)),
            Value::Text(text) => (raw.tag, raw.text) = (6, text.into()),
            Value::Floats(values) => (raw.tag, raw.reals) = (7, values.into()),
        }
        raw
    }
}

impl<'a> RawAttribute<'a> {
    /// Its value, if the kind of that is known here.
    #[inline(always)]
    fn value(&self) -> Option<Value<'a>> {
        Some(match self.tag {
            1 => Value::Bool(self.integer != 0),
            2 => Value::Int(self.integer),
            3 => Value::Float(self.real),
            4 => Value::Ints(self.integers.as_slice()),
            5 => Value::Dtype(Dtype(self.integer as u32)),
            6 => Value::Text(self.text.as_str()),
            7 => Value::Floats(self.reals.as_slice()),
            _ => return None,
        })
    }
}

/// Calls with attributes that crossed.
///
/// # Errors
/// One has a value of a kind that is not known here.
#[inline(always)]
pub(super) fn with_attributes<'a, 'b, R>(
    raw: RSlice<'a, RawAttribute<'b>>,
    call: impl FnOnce(&[Attribute<'_>]) -> Result<R>,
) -> Result<R> {
    let unknown = Cell::new(None);
    let plain = |attribute: &'a RawAttribute<'b>| {
        let RawAttribute { name, .. } = attribute;
        let value = attribute.value().unwrap_or_else(|| {
            unknown.set(Some(attribute));
            Value::Int(0)
        });
        Attribute { name: by_words(name).as_str(), value }
    };
    with_few(raw.as_slice(), plain, |attributes| match unknown.get() {
        None => call(attributes),
        Some(unknown) => Err(too_new(unknown)),
    })
}

#[cold]
fn too_new(attribute: &RawAttribute<'_>) -> Error {
    Error::plugin(format!(
        "attribute {:?} has a value of kind {}, which this plugin is too old to know",
        attribute.name, attribute.tag
    ))
}

impl<'a> From<HostArrayRef<'a>> for RawArrayRef<'a> {
    fn from(array: HostArrayRef<'a>) -> Self {
        Self { dtype: array.dtype.0, shape: array.shape.into(), bytes: array.bytes.into() }
    }
}

impl<'a> RawArrayRef<'a> {
    pub(super) fn plain(&self) -> HostArrayRef<'a> {
        HostArrayRef { dtype: Dtype(self.dtype), shape: self.shape.as_slice(), bytes: self.bytes.as_slice() }
    }
}

// Rust does not promise the layout of a slice: it is checked here.
const _: () = {
    let slice: &[u8] = &[0; 7];
    // SAFETY: any bytes are such words.
    let [_, length] = unsafe { std::mem::transmute::<&[u8], [MaybeUninit<usize>; 2]>(slice) };
    // SAFETY: if it is the pointer, the compiler says so.
    assert!(unsafe { length.assume_init() } == 7, "a slice is its pointer and its length");
};

/// Slices as they cross, where they are.
#[inline(always)]
pub(super) fn raw_slices<'s, 'a, T>(slices: &'s mut [&'a mut [T]]) -> RSliceMut<'s, RSliceMut<'a, T>> {
    let (data, length) = (slices.as_mut_ptr(), slices.len());
    // SAFETY: both are pointer and length, as checked above.
    unsafe { RSliceMut::from_raw_parts_mut(data.cast(), length) }
}

/// The way back.
#[inline(always)]
pub(super) fn plain_slices<'s, 'a, T>(mut slices: RSliceMut<'s, RSliceMut<'a, T>>) -> &'s mut [&'a mut [T]] {
    let (data, length) = (slices.as_mut_ptr(), slices.len());
    // SAFETY: both are pointer and length, as checked above.
    unsafe { std::slice::from_raw_parts_mut(data.cast(), length) }
}

/// What a call writes to its slot.
pub(super) fn filled<T: Default>(call: impl FnOnce(&mut T) -> Result<()>) -> Result<T> {
    let mut slot = T::default();
    call(&mut slot)?;
    Ok(slot)
}

/// The handle of a tensor that may be absent, which is then 0.
pub(super) fn handle_or_none(tensor: Option<&Tensor>) -> Handle {
    tensor.map_or(0, Tensor::handle)
}

/// The tensor of a handle that the caller owns from now on; none for 0.
pub(super) fn owned_or_none(compute: &Rc<dyn Compute>, handle: Handle) -> Option<Tensor> {
    (handle != 0).then(|| Tensor::from_handle(compute, handle))
}

/// The tensor of a handle, borrowed; none for 0.
pub(super) fn tensor_or_none(compute: &Rc<dyn Compute>, handle: Handle) -> Option<Tensor> {
    (handle != 0).then(|| Tensor::borrowed(compute, handle))
}

/// What a call writes to its sink.
pub(super) fn collected<T: Copy>(call: impl FnOnce(RawSink<'_, T>) -> Result<()>) -> Result<Vec<T>> {
    let mut elements = Vec::new();
    call(RawSink::of(&mut elements))?;
    Ok(elements)
}

/// The ability of a component, whose interface is only given where it has it.
#[inline(always)]
pub(super) fn having<T>(ability: &Option<T>) -> Result<&T> {
    #[cold]
    fn missing() -> Error {
        Error::plugin("the component does not have this ability")
    }
    ability.as_ref().ok_or_else(missing)
}
