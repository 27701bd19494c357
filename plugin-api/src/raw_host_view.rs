//! Memory of tensors as a device gives it to the host, and copies out of it.

use half::{bf16, f16};

use crate::{Dtype, Error, Result};

/// Borrowed memory of an evaluated tensor, shaped as DLPack shapes it.
///
/// Valid until its handle is released or the tensor is written to. The holder must ensure that;
/// [`crate::Tensor::host_view`] does so with lifetimes.
#[derive(Clone, Debug)]
pub struct RawHostView {
    /// The first element.
    pub data: *mut u8,
    /// Element type.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Distance between neighbours along each axis, in elements.
    pub strides: Vec<isize>,
}

impl RawHostView {
    /// Whether the elements lie one after another in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1isize;
        self.shape.iter().zip(&self.strides).rev().all(|(&length, &stride)| {
            let fits = length <= 1 || stride == expected;
            expected *= length as isize;
            fits
        })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn expect<T: crate::Element>(&self) -> Result<()> {
        if self.dtype != T::DTYPE {
            return Err(Error::plugin(format!("the tensor holds {}, not {}", self.dtype, T::DTYPE)));
        }
        if !self.is_contiguous() {
            return Err(Error::plugin("the tensor's memory is not row-contiguous"));
        }
        if !self.is_empty() && (self.data.is_null() || !self.data.cast::<T>().is_aligned()) {
            return Err(Error::plugin(format!("the address {:p} holds no elements of {}", self.data, T::DTYPE)));
        }
        Ok(())
    }

    /// Copies the elements in row-major order, as elements of `dtype`.
    ///
    /// # Safety
    /// The view is valid: at every place of its shape lies an element of its type.
    ///
    /// # Errors
    /// `out` has another length than that takes, or there is no conversion between the types.
    pub unsafe fn copy_to(&self, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        if out.len() != self.len() * dtype.size() || dtype.size() == 0 {
            return Err(Error::plugin(format!(
                "cannot copy a tensor of shape {:?} and type {} into {} bytes of {dtype}",
                self.shape,
                self.dtype,
                out.len(),
            )));
        }
        if self.is_empty() {
            return Ok(());
        }
        if self.dtype == dtype && self.is_contiguous() {
            // SAFETY: the caller's promise; there are as many bytes as `out` has.
            out.copy_from_slice(unsafe { std::slice::from_raw_parts(self.data, out.len()) });
            return Ok(());
        }
        /// Reads every element of one type and writes it as another.
        macro_rules! convert {
            ($from:ty, $to:ty, $convert:expr) => {{
                let convert: fn($from) -> $to = $convert;
                for (slot, place) in out.chunks_exact_mut(size_of::<$to>()).zip(Places::of(self)) {
                    // SAFETY: the caller's promise, and `Places` stays within the shape.
                    let element = unsafe { self.data.cast::<$from>().offset(place).read_unaligned() };
                    slot.copy_from_slice(&convert(element).to_ne_bytes());
                }
            }};
        }
        match (self.dtype, dtype) {
            (from, to) if from == to => match from.size() {
                1 => convert!(u8, u8, |x| x),
                2 => convert!(u16, u16, |x| x),
                4 => convert!(u32, u32, |x| x),
                _ => convert!(u64, u64, |x| x),
            },
            (Dtype::BF16, Dtype::F32) => convert!(bf16, f32, bf16::to_f32),
            (Dtype::F16, Dtype::F32) => convert!(f16, f32, f16::to_f32),
            (Dtype::F64, Dtype::F32) => convert!(f64, f32, |x| x as f32),
            (Dtype::F32, Dtype::BF16) => convert!(f32, bf16, bf16::from_f32),
            (Dtype::F32, Dtype::F16) => convert!(f32, f16, f16::from_f32),
            (Dtype::F32, Dtype::F64) => convert!(f32, f64, f64::from),
            (Dtype::BF16, Dtype::F64) => convert!(bf16, f64, bf16::to_f64),
            (Dtype::F16, Dtype::F64) => convert!(f16, f64, f16::to_f64),
            (Dtype::BOOL | Dtype::U8, Dtype::F64) => convert!(u8, f64, f64::from),
            (Dtype::I8, Dtype::F64) => convert!(i8, f64, f64::from),
            (Dtype::U16, Dtype::F64) => convert!(u16, f64, f64::from),
            (Dtype::I16, Dtype::F64) => convert!(i16, f64, f64::from),
            (Dtype::I32, Dtype::F64) => convert!(i32, f64, f64::from),
            (Dtype::U32, Dtype::F64) => convert!(u32, f64, f64::from),
            (Dtype::I64, Dtype::F64) => convert!(i64, f64, |x| x as f64),
            (Dtype::U64, Dtype::F64) => convert!(u64, f64, |x| x as f64),
            (from, to) => {
                return Err(Error::plugin(format!("a tensor of {from} is not read as {to}: cast it first")));
            }
        }
        Ok(())
    }
}

/// The places of a view's elements in row-major order, counted in elements.
struct Places<'a> {
    view: &'a RawHostView,
    position: Vec<usize>,
    place: isize,
}

impl<'a> Places<'a> {
    fn of(view: &'a RawHostView) -> Self {
        Self { view, position: vec![0; view.shape.len()], place: 0 }
    }
}

impl Iterator for Places<'_> {
    type Item = isize;

    /// It begins again after the last one.
    fn next(&mut self) -> Option<isize> {
        let place = self.place;
        let axes = self.position.iter_mut().zip(&self.view.shape).zip(&self.view.strides).rev();
        for ((at, &length), &stride) in axes {
            *at += 1;
            self.place += stride;
            if *at < length {
                break;
            }
            self.place -= *at as isize * stride;
            *at = 0;
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    fn view<T: Element>(elements: &[T], shape: &[usize], strides: &[isize]) -> RawHostView {
        let data = elements.as_ptr().cast_mut().cast();
        RawHostView { data, dtype: T::DTYPE, shape: shape.to_vec(), strides: strides.to_vec() }
    }

    fn copied<const N: usize>(view: &RawHostView, dtype: Dtype) -> [u8; N] {
        let mut out = [0; N];
        // SAFETY: the elements outlive the view.
        unsafe { view.copy_to(dtype, &mut out) }.unwrap();
        out
    }

    #[test]
    fn strided_elements_are_copied_in_row_major_order_and_converted_in_the_same_pass() {
        let elements = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let transposed = view(&elements, &[3, 2], &[1, 3]);
        let bytes = [1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0].map(f32::to_ne_bytes);
        assert_eq!(copied::<24>(&transposed, Dtype::F32), bytes.concat()[..]);
        let bytes = [1.0f64, 4.0, 2.0, 5.0, 3.0, 6.0].map(f64::to_ne_bytes);
        assert_eq!(copied::<48>(&transposed, Dtype::F64), bytes.concat()[..]);
        let last_first =
            RawHostView { data: elements.as_ptr().wrapping_add(5).cast_mut().cast(), ..view(&elements, &[2], &[-1]) };
        assert_eq!(copied::<4>(&last_first, Dtype::BF16), [0x40c0u16, 0x40a0].map(u16::to_ne_bytes).concat()[..]);
    }

    #[test]
    fn an_address_that_elements_cannot_have_is_no_slice() {
        let elements = [1.0f32, 2.0];
        let whole = view(&elements, &[1], &[1]);
        assert!(whole.expect::<f32>().is_ok());
        for data in [whole.data.wrapping_add(1), std::ptr::null_mut()] {
            let error = RawHostView { data, ..whole.clone() }.expect::<f32>().unwrap_err();
            assert!(error.message().contains("holds no elements of float32"), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let elements = [1.0f32, 2.0];
        // SAFETY: the elements outlive the view.
        let error = unsafe { view(&elements, &[2], &[1]).copy_to(Dtype::F32, &mut [0; 4]) }.unwrap_err();
        assert!(error.message().contains("into 4 bytes of float32"), "{error}");
        // SAFETY: as above.
        let error = unsafe { view(&elements, &[2], &[1]).copy_to(Dtype::I32, &mut [0; 8]) }.unwrap_err();
        assert!(error.message().contains("float32 is not read as int32"), "{error}");
    }
}
