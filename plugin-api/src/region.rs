//! Memory that collectives work on: regions, and buffers, which are exclusive ranges of regions.

use std::any::Any;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Dtype, Element, Error, Result};

/// Memory that is allocated once and lent to collectives, range by range.
///
/// [`Region::of`] makes one of a vector; a communicator may offer memory of its own, such as memory that it shares with
/// other processes. Clones are the same region.
#[derive(Clone)]
pub struct Region(Arc<Shared>);

struct Shared {
    data: NonNull<u8>,
    /// Bytes.
    length: usize,
    /// The byte ranges that buffers have.
    taken: Mutex<Vec<Range<usize>>>,
    /// Keeps the memory alive.
    owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the memory may be used from any thread (the promise of `Region::from_raw`), and `taken` lets only one buffer
// use a byte at a time.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A vector in parts, so that no reference to its elements exists while buffers point to them.
struct VectorParts<T: Element> {
    data: *mut T,
    length: usize,
    capacity: usize,
}

// SAFETY: it owns its elements, which are plain numbers.
unsafe impl<T: Element> Send for VectorParts<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for VectorParts<T> {}

impl<T: Element> VectorParts<T> {
    fn into_vec(self) -> Vec<T> {
        let parts = ManuallyDrop::new(self);
        // SAFETY: `Region::of` took a vector apart into these, and they are used once: there is no drop any more.
        unsafe { Vec::from_raw_parts(parts.data, parts.length, parts.capacity) }
    }
}

impl<T: Element> Drop for VectorParts<T> {
    fn drop(&mut self) {
        // SAFETY: as in `into_vec`, which forgets the parts.
        drop(unsafe { Vec::from_raw_parts(self.data, self.length, self.capacity) });
    }
}

impl Region {
    /// A region of these elements. They are not copied.
    pub fn of<T: Element>(elements: Vec<T>) -> Self {
        let mut elements = ManuallyDrop::new(elements);
        let (data, length, capacity) = (elements.as_mut_ptr(), elements.len(), elements.capacity());
        let owner = Box::new(VectorParts { data, length, capacity });
        // A vector's pointer is never null.
        let data = NonNull::new(data).unwrap_or(NonNull::dangling()).cast();
        // SAFETY: the vector's elements live until its parts are dropped, and nothing else points to them.
        unsafe { Self::from_raw(data, length * size_of::<T>(), owner) }
    }

    /// A region of memory that `owner` keeps: shared memory, say.
    ///
    /// # Safety
    /// Until `owner` is dropped, `length` bytes from `data` on can be read and written from any thread, and nothing else in
    /// this process uses them while a buffer has them.
    pub unsafe fn from_raw(data: NonNull<u8>, length: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self(Arc::new(Shared { data, length, taken: Mutex::new(Vec::new()), owner }))
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.0.length
    }

    /// Takes these elements, counted in elements of this type from the region's beginning, until the buffer is dropped.
    ///
    /// # Errors
    /// The range lies outside of the region; part of it is taken. A buffer that was forgotten keeps its range for ever.
    pub fn buffer<T: Element>(&self, elements: Range<usize>) -> Result<Buffer> {
        let bytes = |element: usize| element.saturating_mul(size_of::<T>());
        self.buffer_of(T::DTYPE, bytes(elements.start)..bytes(elements.end))
    }

    /// The same for a type that is known when the program runs, with a range in bytes.
    ///
    /// # Errors
    /// As [`Region::buffer`]; an unknown type; bytes that are no whole elements or not aligned for them.
    pub fn buffer_of(&self, dtype: Dtype, bytes: Range<usize>) -> Result<Buffer> {
        let Range { start, end } = bytes.clone();
        if start > end || end > self.0.length {
            let length = self.0.length;
            return Err(Error::plugin(format!(
                "a buffer at bytes {start} to {end} is not in a region of {length} bytes"
            )));
        }
        // SAFETY: `start` is in the region, or at its end.
        let data = unsafe { self.0.data.add(start) };
        check_layout(data.as_ptr(), end - start, dtype)?;
        if start < end {
            let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(other) = taken.iter().find(|other| other.start < end && start < other.end) {
                return Err(Error::plugin(format!(
                    "bytes {start} to {end} of a region cannot be used: a collective still has bytes {} to {}",
                    other.start, other.end
                )));
            }
            taken.push(bytes.clone());
        }
        let claim = Claim { region: self.clone(), bytes };
        // SAFETY: the range was noted as taken, until the claim is dropped, which keeps the region alive.
        Ok(unsafe { Buffer::from_raw(data.as_ptr(), end - start, dtype, Box::new(claim)) })
    }

    /// At which byte of this region a buffer begins, if it lies in it: also one that has come back from the host.
    pub fn offset_of(&self, buffer: &Buffer) -> Option<usize> {
        let offset = (buffer.data.as_ptr() as usize).checked_sub(self.0.data.as_ptr() as usize)?;
        (offset + buffer.bytes <= self.0.length && buffer.bytes > 0).then_some(offset)
    }

    /// The elements, without a copy.
    ///
    /// # Errors
    /// The region itself, where something else still has it or where it was not made of a vector of this type.
    pub fn into_vec<T: Element>(self) -> Result<Vec<T>, Self> {
        // Whoever has a buffer has the region.
        let shared = Arc::try_unwrap(self.0).map_err(Self)?;
        let Shared { data, length, taken, owner } = shared;
        match owner.downcast::<VectorParts<T>>() {
            Ok(parts) => Ok(parts.into_vec()),
            Err(owner) => Err(Self(Arc::new(Shared { data, length, taken, owner }))),
        }
    }

    /// Whether it is aligned for every element type.
    pub(crate) fn is_aligned(&self) -> bool {
        (self.0.data.as_ptr() as usize).is_multiple_of(align_of::<u64>())
    }

    /// Where its memory is.
    pub(crate) fn data(&self) -> NonNull<u8> {
        self.0.data
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a region of {} bytes", self.0.length)
    }
}

/// What a buffer of a region has taken.
struct Claim {
    region: Region,
    bytes: Range<usize>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut taken = self.region.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = taken.iter().position(|taken| *taken == self.bytes) {
            taken.swap_remove(place);
        }
    }
}

/// Elements in a region that nothing else can use while the buffer exists. It keeps the region alive.
///
/// Collectives take buffers and give them back with the result. A backend may move them to its own threads and keep them
/// for as long as it needs them: their owner cannot use these elements before they are dropped.
pub struct Buffer {
    data: NonNull<u8>,
    bytes: usize,
    dtype: Dtype,
    /// Gives the range back when it is dropped.
    keep: Box<dyn Any + Send + Sync>,
}

// SAFETY: a buffer owns its elements as a vector does.
unsafe impl Send for Buffer {}
// SAFETY: a shared buffer gives shared slices only.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of memory that `keep` keeps.
    ///
    /// # Safety
    /// Until `keep` is dropped, the bytes can be read and written from any thread, by nothing but this buffer, and are
    /// aligned for the type.
    pub(crate) unsafe fn from_raw(data: *mut u8, bytes: usize, dtype: Dtype, keep: Box<dyn Any + Send + Sync>) -> Self {
        // Slices without elements have aligned pointers, too.
        let data = NonNull::new(data).filter(|_| bytes > 0).unwrap_or(NonNull::<u64>::dangling().cast());
        Self { data, bytes, dtype, keep }
    }

    /// What keeps the memory, where it is a `K`; this buffer otherwise.
    pub(crate) fn into_keep<K: 'static>(self) -> Result<Box<K>, Self> {
        let Self { data, bytes, dtype, keep } = self;
        keep.downcast().map_err(|keep| Self { data, bytes, dtype, keep })
    }

    /// A copy of elements of this type, given as bytes in the machine's byte order, in a region of its own.
    ///
    /// # Errors
    /// An unknown type; bytes that are no whole elements.
    pub fn copy_of(dtype: Dtype, bytes: &[u8]) -> Result<Self> {
        check_layout(std::ptr::null(), bytes.len(), dtype)?;
        Ok(Self::copy(dtype, bytes))
    }

    fn copy(dtype: Dtype, bytes: &[u8]) -> Self {
        // Words are aligned for every type.
        let mut copy = Self::from(vec![0u64; bytes.len().div_ceil(size_of::<u64>())]);
        (copy.bytes, copy.dtype) = (bytes.len(), dtype);
        copy.bytes_mut().copy_from_slice(bytes);
        copy
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes / self.dtype.size().max(1)
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The elements' bytes, in the machine's byte order.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the promise of `from_raw`; no reference to write with exists beside this one.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }

    /// The elements' bytes, to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the promise of `from_raw`; this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.bytes) }
    }

    /// The elements.
    ///
    /// # Errors
    /// They have another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.check_type::<T>()?;
        // SAFETY: as in `bytes`; the memory is aligned for the type, of which every bit pattern is a value.
        Ok(unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), self.len()) })
    }

    /// The elements, to write to.
    ///
    /// # Errors
    /// They have another type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check_type::<T>()?;
        // SAFETY: as in `bytes_mut` and `as_slice`.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr().cast(), self.len()) })
    }

    /// Where its memory is, in how many bytes, of which type: by this a collective gives back what it was given.
    pub(crate) fn place(&self) -> (NonNull<u8>, usize, Dtype) {
        (self.data, self.bytes, self.dtype)
    }

    fn check_type<T: Element>(&self) -> Result<()> {
        match self.dtype == T::DTYPE {
            true => Ok(()),
            false => Err(Error::plugin(format!("the buffer holds {}, not {}", self.dtype, T::DTYPE))),
        }
    }
}

/// A buffer of a region of its own.
impl<T: Element> From<Vec<T>> for Buffer {
    fn from(elements: Vec<T>) -> Self {
        let (region, bytes) = (Region::of(elements), 0);
        let claim = Claim { bytes: bytes..region.bytes(), region };
        let (data, length) = (claim.region.data().as_ptr(), claim.region.bytes());
        // SAFETY: nothing else has the region, so nothing else can take a range of it.
        unsafe { Self::from_raw(data, length, T::DTYPE, Box::new(claim)) }
    }
}

/// A copy of the elements, in a region of its own.
impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self::copy(self.dtype, self.bytes())
    }
}

/// The same elements of the same type, bit by bit.
impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.dtype, self.len())
    }
}

/// Whether these bytes can be elements of this type.
pub(crate) fn check_layout(data: *const u8, bytes: usize, dtype: Dtype) -> Result<()> {
    let size = dtype.size();
    if size == 0 {
        return Err(Error::plugin(format!("the element type number {} is unknown here", dtype.0)));
    }
    if !bytes.is_multiple_of(size) || bytes > 0 && !(data as usize).is_multiple_of(size) {
        return Err(Error::plugin(format!("{bytes} bytes at {data:p} are no aligned elements of type {dtype}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_lent_once_and_can_be_lent_again_when_its_buffer_is_dropped() {
        let region = Region::of(vec![1.0f32, 2.0, 3.0, 4.0]);
        let mut first = region.buffer::<f32>(0..2).unwrap();
        let second = region.buffer::<f32>(2..4).unwrap();
        first.as_mut_slice::<f32>().unwrap()[1] = 7.0;
        assert_eq!(second.as_slice::<f32>().unwrap(), [3.0, 4.0]);
        let error = region.buffer::<f32>(1..3).unwrap_err();
        assert!(error.message().contains("a collective still has bytes 0 to 8"), "{error}");
        drop(first);
        assert_eq!(region.buffer::<f32>(0..2).unwrap().as_slice::<f32>().unwrap(), [1.0, 7.0]);
        let region = region.into_vec::<f32>().unwrap_err();
        drop(second);
        let region = region.into_vec::<f64>().unwrap_err();
        assert_eq!(region.into_vec::<f32>().unwrap(), [1.0, 7.0, 3.0, 4.0]);
    }

    #[test]
    fn a_forgotten_buffer_keeps_its_range_and_its_memory_for_ever() {
        let region = Region::of(vec![1u64; 4]);
        std::mem::forget(region.buffer::<u64>(1..2).unwrap());
        assert!(region.buffer::<u64>(0..4).is_err());
        assert_eq!(region.buffer::<u64>(2..4).unwrap().len(), 2);
        assert!(region.into_vec::<u64>().is_err());
    }

    #[test]
    fn a_buffer_outlives_its_region_and_moves_to_other_threads() {
        let mut buffer = Region::of(vec![5u8; 3]).buffer::<u8>(0..3).unwrap();
        let thread = std::thread::spawn(move || {
            buffer.bytes_mut()[0] = 6;
            buffer
        });
        let buffer = thread.join().unwrap();
        assert_eq!(buffer, Buffer::from(vec![6u8, 5, 5]));
        assert_eq!(Buffer::copy_of(Dtype::U8, &[6, 5, 5]).unwrap(), buffer);
        assert!(Buffer::copy_of(Dtype::F32, &[6, 5, 5]).is_err());
    }

    #[test]
    fn ranges_that_cannot_be_are_errors() {
        let region = Region::of(vec![0u64; 2]);
        assert!(region.buffer::<u64>(1..3).is_err());
        assert!(region.buffer::<u64>(usize::MAX..usize::MAX).is_err());
        #[allow(clippy::reversed_empty_ranges, reason = "that is what is tested")]
        let reversed = region.buffer::<u64>(1..0);
        assert!(reversed.is_err());
        assert!(region.buffer_of(Dtype::F32, 2..6).is_err(), "not aligned");
        assert!(region.buffer_of(Dtype::F32, 0..6).is_err(), "half an element");
        assert!(region.buffer_of(Dtype(99), 0..8).is_err(), "no such type");
        assert_eq!(region.buffer_of(Dtype::F32, 4..12).unwrap().len(), 2);
        assert!(region.buffer::<u64>(2..2).unwrap().is_empty());
        assert!(region.buffer::<u64>(0..2).unwrap().as_slice::<f64>().is_err());
    }
}
