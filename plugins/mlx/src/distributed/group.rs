//! MLX's distributed groups, behind safe functions. One of the plugin's few places with `unsafe`.
//!
//! A group is made and used on one thread, which has a stream of its own: MLX's streams belong to threads, and the compute
//! thread evaluates on another one at the same time.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Once;

use mdt_plugin_api::{Dtype, Error, HostArrayRef, Result};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Device, DeviceType, Stream, memory};
use mlx_sys::{mlx_array, mlx_distributed_group};

use crate::fault::Fault;
use crate::host_view;

/// Whether this build of MLX has an engine.
pub(super) fn has(engine: &str) -> bool {
    let Ok(name) = CString::new(engine) else { return false };
    // SAFETY: the call reads the name, which lives until its end.
    unsafe { mlx_sys::mlx_distributed_is_available(name.as_ptr()) }
}

/// The processes of a job. Without others it has no engine.
pub(super) struct Group {
    group: Option<mlx_distributed_group>,
    stream: Stream,
}

impl Group {
    /// Connects with the other ranks, and waits for them, for ever if they do not come.
    pub(super) fn connect(engine: &str, rank: u32, world_size: u32) -> Result<Self> {
        keep_errors()?;
        let kind = if engine == "nccl" { DeviceType::Gpu } else { DeviceType::Cpu };
        let stream = Stream::new_with_device(&Device::new(kind, 0));
        if world_size == 1 {
            return Ok(Self { group: None, stream });
        }
        let name = CString::new(engine).map_err(|_| Error::config("comm.backend has a zero byte in it"))?;
        // SAFETY: the call reads the name and fills in the group.
        let group = unsafe {
            let mut group = mlx_sys::mlx_distributed_group_new();
            let status = mlx_sys::mlx_distributed_init(&raw mut group, true, name.as_ptr());
            checked(status)?;
            group
        };
        // SAFETY: the group was made above.
        let found = unsafe { (mlx_sys::mlx_distributed_group_rank(group), mlx_sys::mlx_distributed_group_size(group)) };
        let group = Self { group: Some(group), stream };
        if found != (rank as c_int, world_size as c_int) {
            let (rank_there, size_there) = found;
            return Err(Error::config(format!(
                "MLX has connected rank {rank_there} of {size_there}, where the job has rank {rank} of {world_size}"
            ))
            .help("comm.rank and comm.world_size must agree with MLX_RANK and the addresses in comm.hosts or MLX_HOSTFILE"));
        }
        Ok(group)
    }

    /// Gathers equally many bytes of every rank.
    pub(super) fn all_gather(&self, own: &[u8], all: &mut [u8]) -> Result<()> {
        let Some(group) = self.group.filter(|_| !own.is_empty()) else {
            all.copy_from_slice(own);
            return Ok(());
        };
        let own = array(Dtype::U8, own)?;
        // SAFETY: group, array and stream live until the end of the call, which fills in the result.
        let gathered = result(|result| unsafe {
            mlx_sys::mlx_distributed_all_gather(result, own.as_ptr(), group, self.stream.as_ptr())
        })?;
        drop(own);
        copy_out(&gathered, Dtype::U8, all)
    }

    /// Adds every rank's elements, in place.
    pub(super) fn all_sum(&self, dtype: Dtype, bytes: &mut [u8]) -> Result<()> {
        let Some(group) = self.group.filter(|_| !bytes.is_empty()) else { return Ok(()) };
        let own = array(dtype, bytes)?;
        // SAFETY: as in `all_gather`.
        let sum = result(|result| unsafe {
            mlx_sys::mlx_distributed_all_sum(result, own.as_ptr(), group, self.stream.as_ptr())
        })?;
        // MLX adds in its memory where nobody else has it.
        drop(own);
        copy_out(&sum, dtype, bytes)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // SAFETY: the group was made in `connect`, and is freed once. Its connections live as long as the process.
            unsafe { mlx_sys::mlx_distributed_group_free(group) };
        }
    }
}

/// A copy of elements of this type.
fn array(dtype: Dtype, bytes: &[u8]) -> Result<Array> {
    host_view::copy_in(HostArrayRef { dtype, shape: &[bytes.len() / dtype.size()], bytes })
}

/// The array that a call fills in.
fn result(call: impl FnOnce(*mut mlx_array) -> c_int) -> Result<Array> {
    // SAFETY: an empty array, which the call fills in, and which is freed with what it then holds.
    let mut array = unsafe { Array::from_ptr(mlx_sys::mlx_array_new()) };
    let mut pointer = array.as_ptr();
    let status = call(&raw mut pointer);
    // SAFETY: the call has put the array where the pointer is, in the place of the empty one.
    array = unsafe {
        std::mem::forget(array);
        Array::from_ptr(pointer)
    };
    checked(status).map(|()| array)
}

/// Waits until the elements are there, and copies them.
fn copy_out(array: &Array, dtype: Dtype, out: &mut [u8]) -> Result<()> {
    array.eval().map_err(|exception| Error::plugin(Fault::from(exception).to_string()))?;
    let view = host_view::read(array)?;
    // SAFETY: the view is of an evaluated array, which lives until the end of this function.
    unsafe { view.copy_to(dtype, out) }
}

/// The text of an error that MLX has reported on this thread, where the call's status says that there was one.
fn checked(status: c_int) -> Result<()> {
    match status {
        0 => Ok(()),
        _ => Err(Error::plugin(LAST_ERROR.take().unwrap_or_else(|| "MLX does not say why".to_owned()))),
    }
}

thread_local! {
    static LAST_ERROR: RefCell<Option<String>> = const { RefCell::new(None) };
}

unsafe extern "C" {
    /// The handler of mlx-rs, which keeps the text for its own calls.
    fn default_mlx_error_handler(text: *const c_char, data: *mut c_void);
}

/// Keeps the text of an error for [`checked`], and passes it on: mlx-rs shows the text of errors of its own calls only.
///
/// # Safety
/// MLX calls it with a C string.
unsafe extern "C" fn keep_error(text: *const c_char, data: *mut c_void) {
    // SAFETY: the text lives until the end of the call.
    let said = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    LAST_ERROR.set(Some(Fault::from(Exception::custom(said)).to_string()));
    // SAFETY: as mlx-rs registers it: the data is not used.
    unsafe { default_mlx_error_handler(text, data) };
}

/// Registers [`keep_error`].
fn keep_errors() -> Result<()> {
    static REGISTERED: Once = Once::new();
    // The first checked call of mlx-rs registers its own handler, once.
    memory::active_memory().map_err(|exception| Error::plugin(exception.what().to_owned()))?;
    // SAFETY: the handler takes any text and lives as long as the process.
    REGISTERED.call_once(|| unsafe { mlx_sys::mlx_set_error_handler(Some(keep_error), std::ptr::null_mut(), None) });
    Ok(())
}
