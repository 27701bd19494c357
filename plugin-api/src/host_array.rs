//! Arrays in host memory: `collate` makes them, and weights are loaded from them.

use serde::{Deserialize, Serialize};

use crate::{Dtype, Error, Result};

/// An element type that host arrays, views and buffers can hold.
///
/// # Safety
/// The type is a plain number of `DTYPE`'s size: without padding, and every bit pattern is a value.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// Its number on the boundary.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => { $(
        // SAFETY: it is a plain number of this size.
        unsafe impl Element for $rust {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )* };
}
elements!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64, f32 => F32, f64 => F64,
    half::bf16 => BF16, half::f16 => F16
);

/// Elements as bytes, for writing.
pub(crate) fn bytes_mut<T: Element>(elements: &mut [T]) -> &mut [u8] {
    // SAFETY: `Element` is implemented for plain numbers only: no padding, and every bit pattern is valid.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast::<u8>(), size_of_val(elements)) }
}

/// A borrowed row-major array in host memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostArrayRef<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: &'a [usize],
    /// The elements' bytes, row-major, in the machine's byte order, not aligned.
    pub bytes: &'a [u8],
}

/// A row-major array in host memory, as bytes in the machine's byte order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct HostArray {
    dtype: Dtype,
    shape: Vec<usize>,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

/// A [`HostArray`] from the other side of the boundary.
#[derive(Deserialize)]
struct Unchecked {
    dtype: Dtype,
    shape: Vec<usize>,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

impl TryFrom<Unchecked> for HostArray {
    type Error = Error;

    fn try_from(array: Unchecked) -> Result<Self> {
        Self::from_bytes(array.dtype, &array.shape, array.bytes)
    }
}

impl<'a> HostArrayRef<'a> {
    /// An array of these elements, which the shape has as many of.
    pub fn of<T: Element>(shape: &'a [usize], elements: &'a [T]) -> Self {
        // SAFETY: `Element` is implemented for plain numbers only, which have no padding and no invalid bytes to read.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) };
        Self { dtype: T::DTYPE, shape, bytes }
    }

    /// Checks what everybody who is given an array relies on.
    ///
    /// # Errors
    /// The bytes are not as many as shape and type need, the type is unknown, a boolean is neither 0 nor 1.
    pub fn check(&self) -> Result<()> {
        let Self { dtype, shape, bytes } = self;
        let expected = shape.iter().try_fold(dtype.size(), |size, &length| size.checked_mul(length));
        if dtype.size() == 0 || expected != Some(bytes.len()) {
            let count = bytes.len();
            return Err(Error::plugin(format!("{count} bytes are not an array of {dtype} and shape {shape:?}")));
        }
        let byte = if *dtype == Dtype::BOOL { bytes.iter().find(|&&byte| byte > 1) } else { None };
        match byte {
            Some(byte) => {
                Err(Error::input(format!("a boolean array holds the byte {byte}; only 0 and 1 are booleans")))
            }
            _ => Ok(()),
        }
    }
}

impl HostArray {
    /// An array of these elements.
    ///
    /// # Errors
    /// The number of elements is not that of the shape.
    pub fn new<T: Element>(shape: &[usize], elements: &[T]) -> Result<Self> {
        Self::from_bytes(T::DTYPE, shape, HostArrayRef::of(shape, elements).bytes.to_vec())
    }

    /// An array of these bytes.
    ///
    /// # Errors
    /// The number of bytes is not that of the shape and the element type.
    pub fn from_bytes(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Result<Self> {
        let expected = shape
            .iter()
            .try_fold(dtype.size(), |size, &length| size.checked_mul(length))
            .ok_or_else(|| Error::input(format!("an array of shape {shape:?} is too large")))?;
        if expected != bytes.len() {
            return Err(Error::plugin(format!(
                "an array of shape {shape:?} and type {dtype} needs {expected} bytes, not {}",
                bytes.len()
            )));
        }
        Ok(Self { dtype, shape: shape.to_vec(), bytes })
    }

    /// The array, borrowed.
    pub fn borrow(&self) -> HostArrayRef<'_> {
        HostArrayRef { dtype: self.dtype, shape: &self.shape, bytes: &self.bytes }
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements' bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Turns the array into its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A copy of the elements.
    ///
    /// # Errors
    /// The array holds another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype != T::DTYPE {
            return Err(Error::plugin(format!("the array holds {}, not {}", self.dtype, T::DTYPE)));
        }
        let count = self.bytes.len() / size_of::<T>();
        let mut elements = Vec::<T>::with_capacity(count);
        // SAFETY: the vector has room for `count` elements, the source holds exactly their bytes, and every bit
        // pattern is a valid number.
        unsafe {
            std::ptr::copy_nonoverlapping(self.bytes.as_ptr(), elements.as_mut_ptr().cast::<u8>(), self.bytes.len());
            elements.set_len(count);
        }
        Ok(elements)
    }
}
