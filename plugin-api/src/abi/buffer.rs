//! Buffers of collectives across the boundary: they change hands in slots, without a copy.

use std::ffi::c_void;

use abi_stable::StableAbi;
use abi_stable::std_types::RSliceMut;

use super::guard::caught;
use super::table::{CType, Declarations, Member};
use crate::region::check_layout;
use crate::{Buffer, Dtype, Error, Region, Result};

/// [`Buffer`]: elements that are its owner's alone until it calls `release`, once, on any thread.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawBuffer {
    data: *mut u8,
    /// Bytes.
    length: usize,
    dtype: u32,
    owner: *const c_void,
    release: unsafe extern "C" fn(*const c_void),
}

// SAFETY: a buffer is `Send + Sync`, and so is whatever the other side of the boundary releases on any thread.
unsafe impl Send for RawBuffer {}
// SAFETY: as above; nothing can be done with a shared one.
unsafe impl Sync for RawBuffer {}

/// An empty slot.
impl Default for RawBuffer {
    fn default() -> Self {
        unsafe extern "C" fn nothing(_: *const c_void) {}
        Self { data: std::ptr::null_mut(), length: 0, dtype: 0, owner: std::ptr::null(), release: nothing }
    }
}

impl Drop for RawBuffer {
    fn drop(&mut self) {
        // SAFETY: the function belongs to this owner, and is called once.
        unsafe { (self.release)(self.owner) }
    }
}

impl From<Buffer> for RawBuffer {
    fn from(buffer: Buffer) -> Self {
        unsafe extern "C" fn release(owner: *const c_void) {
            // SAFETY: it was boxed below, and a buffer is released once.
            let buffer = unsafe { Box::from_raw(owner.cast_mut().cast::<Buffer>()) };
            // What keeps the memory may panic when it is dropped.
            let _ = caught(|| {
                drop(buffer);
                Ok(())
            });
        }
        // One that came across goes back as it is.
        match buffer.into_keep::<RawBuffer>() {
            Ok(raw) => *raw,
            Err(buffer) => {
                let (data, length, dtype) = buffer.place();
                let owner = Box::into_raw(Box::new(buffer)).cast();
                Self { data: data.as_ptr(), length, dtype: dtype.0, owner, release }
            }
        }
    }
}

impl RawBuffer {
    /// The buffer, if it can be one.
    fn plain(self) -> Result<Buffer> {
        let (data, length, dtype) = (self.data, self.length, Dtype(self.dtype));
        check_layout(data, length, dtype)?;
        if length > 0 && data.is_null() || length > isize::MAX as usize {
            return Err(Error::plugin(format!("{length} bytes at {data:p} are no memory")));
        }
        // SAFETY: whoever made it promises that the memory is the owner's alone until it is released.
        Ok(unsafe { Buffer::from_raw(data, length, dtype, Box::new(self)) })
    }
}

/// All of a region, which the other side may then divide.
pub(super) fn lent_region(region: &Region) -> Result<RawBuffer> {
    Ok(region.buffer::<u8>(0..region.bytes())?.into())
}

/// A region of what the other side has lent.
pub(super) fn taken_region(slot: RawBuffer) -> Result<Region> {
    let buffer = slot.plain()?;
    let (data, bytes, _) = buffer.place();
    // SAFETY: the buffer has the memory for itself until it is dropped.
    Ok(unsafe { Region::from_raw(data, bytes, Box::new(buffer)) })
}

/// Buffers, to be taken from their slots by the other side.
pub(super) fn lent(buffers: Vec<Buffer>) -> Vec<RawBuffer> {
    buffers.into_iter().map(RawBuffer::from).collect()
}

/// Takes buffers from their slots.
pub(super) fn taken(slots: &mut [RawBuffer]) -> Result<Vec<Buffer>> {
    slots.iter_mut().map(|slot| std::mem::take(slot).plain()).collect()
}

/// Puts buffers into the other side's slots, of which there must be as many.
pub(super) fn put(buffers: Vec<Buffer>, mut slots: RSliceMut<'_, RawBuffer>) -> Result<()> {
    let (given, expected) = (buffers.len(), slots.len());
    if given != expected {
        return Err(Error::plugin(format!("the collective gave {given} buffers back, not {expected}")));
    }
    slots.iter_mut().zip(buffers).for_each(|(slot, buffer)| *slot = buffer.into());
    Ok(())
}

impl CType for RawBuffer {
    fn name() -> String {
        "MdtBuffer".to_owned()
    }

    fn declare(declarations: &mut Declarations) {
        let member = |text: &str, name, offset| Member { text: text.to_owned(), name, offset };
        let members = vec![
            member("uint8_t *data", "data", std::mem::offset_of!(Self, data)),
            member("size_t length", "length", std::mem::offset_of!(Self, length)),
            member("uint32_t dtype", "dtype", std::mem::offset_of!(Self, dtype)),
            member("const void *owner", "owner", std::mem::offset_of!(Self, owner)),
            member("void (*release)(const void *owner)", "release", std::mem::offset_of!(Self, release)),
        ];
        declarations.add(Self::name(), size_of::<Self>(), members);
    }
}
