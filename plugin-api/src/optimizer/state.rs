//! The states of an optimizer: how they are declared, and how slices of them look to an update.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::{Dtype, Element, Error, Result};

/// A state that the host keeps for a parameter, saves in checkpoints and shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateSpec {
    /// Its name in checkpoints: `momentum`. No two states of a parameter have the same.
    pub name: String,
    /// Its size.
    pub shape: StateShape,
    /// The type of its elements; f32 for an [`Optimizer`](crate::Optimizer) on slices. Checkpoints can hold all types.
    pub dtype: Dtype,
    /// The initial value of its elements.
    pub initial: Initial,
}

impl StateSpec {
    /// A state of f32 and of the parameter's shape that starts at zero.
    pub fn zeros(name: &str) -> Self {
        Self { name: name.to_owned(), shape: StateShape::Parameter, dtype: Dtype::F32, initial: Initial::Value(0.0) }
    }

    /// The same state with elements of this type.
    #[must_use]
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// The same state of this size.
    #[must_use]
    pub fn with_shape(self, shape: StateShape) -> Self {
        Self { shape, ..self }
    }

    /// The same state with this initial value.
    #[must_use]
    pub fn with_initial(self, initial: Initial) -> Self {
        Self { initial, ..self }
    }
}

/// The size of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateShape {
    /// The parameter's shape: an element for each of its elements.
    Parameter,
    /// An element for each so many elements of the parameter, in row-major order, the last block perhaps shorter. Needs a
    /// granularity of a multiple of it, or of whole parameters.
    Blocks(usize),
    /// A shape of its own: the means of a matrix' rows. Needs [`Granularity::Tensor`](crate::Granularity::Tensor).
    Of(Vec<usize>),
    /// One number, which is `Of(vec![1])`.
    Scalar,
}

impl StateShape {
    /// The length of each axis of the state of a parameter of this shape.
    pub fn of(&self, parameter: &[usize]) -> Vec<usize> {
        match self {
            Self::Parameter => parameter.to_vec(),
            Self::Blocks(elements) => vec![parameter.iter().product::<usize>().div_ceil(*elements)],
            Self::Of(shape) => shape.clone(),
            Self::Scalar => vec![1],
        }
    }
}

/// The initial value of a state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Initial {
    /// All elements have this value, rounded to their type: a finite number in the range of the type.
    Value(f64),
    /// A copy of the parameter, rounded to the state's type. For a state of [`StateShape::Parameter`] and a type of
    /// floating-point numbers.
    Parameter,
}

/// A slice of a state, for writing.
#[derive(Debug)]
pub struct StateMut<'a> {
    dtype: Dtype,
    data: *mut u8,
    length: usize,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: it is an exclusive borrow of plain numbers, as `&mut [T]` is.
unsafe impl Send for StateMut<'_> {}

impl<'a> StateMut<'a> {
    /// A slice of these elements.
    pub fn new<T: Element>(elements: &'a mut [T]) -> Self {
        let length = elements.len();
        Self { dtype: T::DTYPE, data: elements.as_mut_ptr().cast(), length, memory: PhantomData }
    }

    /// A slice of a type over these bytes.
    ///
    /// # Errors
    /// The type is unknown, or the bytes are no whole elements of it, aligned for it.
    pub fn from_bytes(dtype: Dtype, bytes: &'a mut [u8]) -> Result<Self> {
        let length = count(dtype, bytes)?;
        Ok(Self { dtype, data: bytes.as_mut_ptr(), length, memory: PhantomData })
    }

    /// A slice of `length` elements of a type.
    ///
    /// # Safety
    /// `data` points to so many elements of this type, aligned for it, which nothing else uses for `'a`.
    pub(crate) unsafe fn from_raw(dtype: Dtype, data: *mut u8, length: usize) -> Self {
        Self { dtype, data, length, memory: PhantomData }
    }

    pub(crate) fn as_raw(&mut self) -> *mut u8 {
        self.data
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its elements.
    ///
    /// # Errors
    /// They are of another type.
    pub fn elements<T: Element>(&mut self) -> Result<&mut [T]> {
        expect::<T>(self.dtype)?;
        if self.length == 0 {
            return Ok(&mut []);
        }
        // SAFETY: so many elements of this type are there, borrowed exclusively for 'a, which outlives `self`.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.length) })
    }

    /// The same slice for reading.
    pub fn as_ref(&self) -> StateRef<'_> {
        StateRef { dtype: self.dtype, data: self.data, length: self.length, memory: PhantomData }
    }
}

/// A slice of a state, for reading.
#[derive(Clone, Copy, Debug)]
pub struct StateRef<'a> {
    dtype: Dtype,
    data: *const u8,
    length: usize,
    memory: PhantomData<&'a [u8]>,
}

// SAFETY: it is a shared borrow of plain numbers, as `&[T]` is.
unsafe impl Send for StateRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for StateRef<'_> {}

impl<'a> StateRef<'a> {
    /// A slice of these elements.
    pub fn new<T: Element>(elements: &'a [T]) -> Self {
        Self { dtype: T::DTYPE, data: elements.as_ptr().cast(), length: elements.len(), memory: PhantomData }
    }

    /// A slice of a type over these bytes.
    ///
    /// # Errors
    /// The type is unknown, or the bytes are no whole elements of it, aligned for it.
    pub fn from_bytes(dtype: Dtype, bytes: &'a [u8]) -> Result<Self> {
        let length = count(dtype, bytes)?;
        Ok(Self { dtype, data: bytes.as_ptr(), length, memory: PhantomData })
    }

    /// A slice of `length` elements of a type.
    ///
    /// # Safety
    /// `data` points to so many elements of this type, aligned for it, which nothing writes to for `'a`.
    pub(crate) unsafe fn from_raw(dtype: Dtype, data: *const u8, length: usize) -> Self {
        Self { dtype, data, length, memory: PhantomData }
    }

    pub(crate) fn as_raw(&self) -> *const u8 {
        self.data
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its elements.
    ///
    /// # Errors
    /// They are of another type.
    pub fn elements<T: Element>(&self) -> Result<&'a [T]> {
        expect::<T>(self.dtype)?;
        if self.length == 0 {
            return Ok(&[]);
        }
        // SAFETY: so many elements of this type are there, borrowed for 'a.
        Ok(unsafe { std::slice::from_raw_parts(self.data.cast(), self.length) })
    }
}

fn count(dtype: Dtype, bytes: &[u8]) -> Result<usize> {
    let size = dtype.size();
    if size == 0 || !bytes.len().is_multiple_of(size) || bytes.as_ptr().align_offset(size) != 0 {
        return Err(Error::plugin(format!("{} bytes are no whole, aligned elements of {dtype}", bytes.len())));
    }
    Ok(bytes.len() / size)
}

fn expect<T: Element>(dtype: Dtype) -> Result<()> {
    if dtype == T::DTYPE {
        return Ok(());
    }
    Err(Error::plugin(format!("the state's elements are of type {dtype}, not {}", T::DTYPE)))
}
