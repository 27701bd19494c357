//! Tensors: a type, and elements in row-major order, which tensors of one number of elements may share.
//!
//! The only module with `unsafe` for memory: elements lie in words of 64 bits and are seen as what their type says.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use mdt_plugin_api::{Dtype, Element, MemoryInfo, TensorType, bf16, f16};

/// Runs an expression with `$type` as the Rust type of an element type.
macro_rules! with_number {
    ($dtype:expr, $type:ident => $body:expr) => {
        with_number!(@ $dtype, $type => $body; BOOL u8, U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, U64 u64, I64 i64,
            F16 mdt_plugin_api::f16, BF16 mdt_plugin_api::bf16, F32 f32, F64 f64)
    };
    (@ $dtype:expr, $type:ident => $body:expr; $($constant:ident $rust:ty),*) => {
        match $dtype {
            $(Dtype::$constant => { type $type = $rust; $body })*
            other => unreachable!("{other}: there are no tensors of it"),
        }
    };
}

pub(crate) use with_number;

thread_local! {
    /// Tensors belong to the compute thread, and so do the bytes that they hold.
    static MEMORY: Cell<MemoryInfo> = Cell::default();
}

/// Bytes held by tensors.
pub fn memory() -> MemoryInfo {
    MEMORY.get()
}

struct Storage {
    words: Vec<u64>,
    bytes: u64,
}

impl Drop for Storage {
    fn drop(&mut self) {
        let memory = MEMORY.get();
        MEMORY.set(MemoryInfo { active_bytes: memory.active_bytes - self.bytes, ..memory });
    }
}

/// An array. A clone shares its elements.
#[derive(Clone)]
pub struct Array {
    kind: Rc<TensorType>,
    storage: Rc<Storage>,
}

impl Deref for Array {
    type Target = TensorType;

    fn deref(&self) -> &TensorType {
        &self.kind
    }
}

impl Array {
    /// All elements are 0.
    pub fn zeros(to: &TensorType) -> Self {
        let bytes = to.shape.iter().product::<usize>() * to.dtype.size();
        let memory = MEMORY.get();
        let active_bytes = memory.active_bytes + bytes as u64;
        MEMORY.set(MemoryInfo { active_bytes, peak_bytes: memory.peak_bytes.max(active_bytes), ..memory });
        let storage = Storage { words: vec![0; bytes.div_ceil(8)], bytes: bytes as u64 };
        Self { kind: Rc::new(to.clone()), storage: Rc::new(storage) }
    }

    /// Elements that `fill` writes as `W`, each converted to the tensor's type once.
    pub fn build<W: Number>(to: &TensorType, fill: impl FnOnce(&mut [W])) -> Self {
        let mut array = Self::zeros(to);
        if to.dtype == W::DTYPE || (to.dtype, W::DTYPE) == (Dtype::BOOL, Dtype::U8) {
            fill(array.elements_mut());
        } else {
            let mut wide = vec![W::default(); to.shape.iter().product()];
            fill(&mut wide);
            array.convert(&wide);
        }
        array
    }

    /// A copy of these bytes, of which there are as many as the type needs.
    pub fn from_bytes(to: &TensorType, bytes: &[u8]) -> Self {
        let mut array = Self::zeros(&TensorType { shape: vec![bytes.len()], dtype: Dtype::U8 });
        array.elements_mut().copy_from_slice(bytes);
        array.reshaped(to)
    }

    /// The same bytes as a tensor of another shape or type.
    pub fn reshaped(&self, to: &TensorType) -> Self {
        Self { kind: Rc::new(to.clone()), storage: Rc::clone(&self.storage) }
    }

    /// How many arrays have the same memory.
    pub fn owners(&self) -> usize {
        Rc::strong_count(&self.storage)
    }

    /// Where the elements begin.
    pub fn pointer(&self) -> *mut u8 {
        self.storage.words.as_ptr().cast_mut().cast()
    }

    fn count_as<T>(&self) -> usize {
        assert_eq!(size_of::<T>(), self.dtype.size(), "elements of {}", self.dtype);
        self.shape.iter().product()
    }

    /// The elements as they lie in memory.
    pub fn elements<T: Element>(&self) -> &[T] {
        // SAFETY: the words hold as many elements of this size, are aligned for every type, and every bit pattern is one of T's.
        unsafe { std::slice::from_raw_parts(self.storage.words.as_ptr().cast(), self.count_as::<T>()) }
    }

    /// The same for writing, while no other tensor shares them.
    pub fn elements_mut<T: Element>(&mut self) -> &mut [T] {
        let count = self.count_as::<T>();
        let storage = Rc::get_mut(&mut self.storage).expect("an array that is being made is not shared");
        // SAFETY: as above, and nothing else refers to the words.
        unsafe { std::slice::from_raw_parts_mut(storage.words.as_mut_ptr().cast(), count) }
    }

    /// The elements as `W`.
    pub fn read<W: Number>(&self) -> Cow<'_, [W]> {
        if self.dtype == W::DTYPE {
            return Cow::Borrowed(self.elements());
        }
        with_number!(self.dtype, T => self.elements::<T>().iter().map(|&x| W::of(x.wide())).collect())
    }

    /// The elements converted to another type; see the operation `cast`.
    pub fn cast(&self, dtype: Dtype) -> Self {
        if dtype == self.dtype {
            return self.clone();
        }
        let mut array = Self::zeros(&TensorType { dtype, ..(**self).clone() });
        with_number!(self.dtype, T => array.convert::<T>(self.elements()));
        array
    }

    fn convert<W: Number>(&mut self, from: &[W]) {
        let dtype = self.dtype;
        with_number!(dtype, T => for (to, &x) in self.elements_mut::<T>().iter_mut().zip(from) {
            *to = if dtype != Dtype::BOOL { T::of(x.wide()) } else { T::of(Wide::Whole((x != W::default()).into())) };
        });
    }
}

/// What numbers are computed as.
#[derive(Clone, Copy)]
pub enum Wide {
    Real(f32),
    Whole(i64),
}

/// The Rust type of an element type.
pub trait Number: Element + Default + PartialOrd {
    fn wide(self) -> Wide;
    /// The nearest real number; the nearest whole number towards 0 of a real one; the lowest bits of a whole one.
    fn of(x: Wide) -> Self;
}

macro_rules! numbers {
    ($wide:ident($x:ident) $widen:expr, $of_real:expr, $of_whole:expr; $($type:ty)*) => { $(
        impl Number for $type {
            fn wide(self) -> Wide { let $x = self; Wide::$wide($widen) }
            fn of(x: Wide) -> Self { match x { Wide::Real($x) => $of_real, Wide::Whole($x) => $of_whole } }
        }
    )* };
}
numbers! { Whole(x) x as i64, x as Self, x as Self; u8 i8 u16 i16 u32 i32 u64 i64 }
numbers! { Real(x) x as f32, x as Self, x as Self; f32 f64 }
numbers! { Real(x) x.to_f32(), Self::from_f32(x), Self::from_f64(x as f64); f16 bf16 }
