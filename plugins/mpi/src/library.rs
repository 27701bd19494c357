//! The MPI library. All `unsafe` of this plugin is here and in `reduce`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use mdt_plugin_api::{Error, ErrorCode, Result};
use mpi_sys as mpi;

/// A message of one kind does not match a receive of another.
#[derive(Clone, Copy)]
pub(crate) enum Tag {
    /// What all ranks gather.
    Gather = 1,
    /// Elements that the receiver folds.
    Fold = 2,
    /// Elements that the sender has folded.
    Folded = 3,
    /// The reason why a rank ends the job.
    Abort = 4,
}

/// MPI, started, with a communicator of all ranks that only this plugin uses. It must be used on the thread that it was
/// started on.
pub(crate) struct Library {
    communicator: mpi::MPI_Comm,
    rank: c_int,
    size: c_int,
}

/// A transfer under way.
pub(crate) struct Request {
    request: mpi::MPI_Request,
    /// The other rank; none where all take part.
    pub(crate) peer: Option<usize>,
}

impl Library {
    pub(crate) fn start() -> Result<Self> {
        make_global()?;
        let mut provided = 0;
        // SAFETY: MPI is started once in this process, by the one thread that uses it. It may be given no arguments.
        unsafe {
            let wanted = mpi::RSMPI_THREAD_FUNNELED;
            checked("MPI_Init_thread", mpi::MPI_Init_thread(null_mut(), null_mut(), wanted, &raw mut provided))?;
            if provided < wanted {
                return Err(Error::plugin("this MPI library cannot be used by a program with several threads"));
            }
            let world = mpi::RSMPI_COMM_WORLD;
            checked("MPI_Comm_set_errhandler", mpi::MPI_Comm_set_errhandler(world, mpi::RSMPI_ERRORS_RETURN))?;
            let (mut communicator, mut rank, mut size) = (mpi::RSMPI_COMM_NULL, 0, 0);
            checked("MPI_Comm_dup", mpi::MPI_Comm_dup(world, &raw mut communicator))?;
            checked("MPI_Comm_set_errhandler", mpi::MPI_Comm_set_errhandler(communicator, mpi::RSMPI_ERRORS_RETURN))?;
            checked("MPI_Comm_rank", mpi::MPI_Comm_rank(communicator, &raw mut rank))?;
            checked("MPI_Comm_size", mpi::MPI_Comm_size(communicator, &raw mut size))?;
            Ok(Self { communicator, rank, size })
        }
    }

    pub(crate) fn rank(&self) -> usize {
        self.rank as usize
    }

    pub(crate) fn size(&self) -> usize {
        self.size as usize
    }

    /// Begins to send bytes, fewer than 2^31.
    ///
    /// # Safety
    /// They are not written to before the request is done, and live until then: for ever, if it never is.
    pub(crate) unsafe fn send(&self, peer: usize, tag: Tag, bytes: *const u8, length: usize) -> Result<Request> {
        let mut request = self.none();
        // SAFETY: the promise of this function.
        let status = unsafe {
            mpi::MPI_Isend(
                bytes.cast::<c_void>(),
                count(length)?,
                mpi::RSMPI_UINT8_T,
                peer as c_int,
                tag as c_int,
                self.communicator,
                &raw mut request,
            )
        };
        checked("MPI_Isend", status).map(|()| Request { request, peer: Some(peer) })
    }

    /// Begins to receive bytes, fewer than 2^31; from whichever rank sends, if none is named.
    ///
    /// # Safety
    /// They are not used before the request is done, and live until then: for ever, if it never is.
    pub(crate) unsafe fn receive(
        &self,
        peer: Option<usize>,
        tag: Tag,
        bytes: *mut u8,
        length: usize,
    ) -> Result<Request> {
        let mut request = self.none();
        // SAFETY: the promise of this function.
        let status = unsafe {
            mpi::MPI_Irecv(
                bytes.cast::<c_void>(),
                count(length)?,
                mpi::RSMPI_UINT8_T,
                peer.map_or(mpi::RSMPI_ANY_SOURCE, |peer| peer as c_int),
                tag as c_int,
                self.communicator,
                &raw mut request,
            )
        };
        checked("MPI_Irecv", status).map(|()| Request { request, peer })
    }

    /// Begins to send the root's bytes, fewer than 2^31, to all ranks.
    ///
    /// # Safety
    /// As [`Library::receive`].
    pub(crate) unsafe fn broadcast(&self, root: u32, bytes: *mut u8, length: usize) -> Result<Request> {
        let mut request = self.none();
        // SAFETY: the promise of this function.
        let status = unsafe {
            mpi::MPI_Ibcast(
                bytes.cast::<c_void>(),
                count(length)?,
                mpi::RSMPI_UINT8_T,
                root as c_int,
                self.communicator,
                &raw mut request,
            )
        };
        checked("MPI_Ibcast", status).map(|()| Request { request, peer: None })
    }

    /// Whether a transfer is done. Moves others forward meanwhile.
    pub(crate) fn is_done(&self, request: &mut Request) -> Result<bool> {
        let mut done = 0;
        // SAFETY: the request was made by this library; once it is done it is a null request, which may be tested again.
        let status = unsafe { mpi::MPI_Test(&raw mut request.request, &raw mut done, mpi::RSMPI_STATUS_IGNORE) };
        checked("MPI_Test", status).map(|()| done != 0)
    }

    /// Takes back a receive that nobody has sent for.
    pub(crate) fn cancel(&self, request: &mut Request) {
        // SAFETY: the request was made by this library; waiting for a cancelled receive ends at once.
        unsafe {
            mpi::MPI_Cancel(&raw mut request.request);
            mpi::MPI_Wait(&raw mut request.request, mpi::RSMPI_STATUS_IGNORE);
        }
    }

    fn none(&self) -> mpi::MPI_Request {
        // SAFETY: a constant of the library.
        unsafe { mpi::RSMPI_REQUEST_NULL }
    }
}

impl Drop for Library {
    /// Waits until all ranks have come to their end.
    fn drop(&mut self) {
        // SAFETY: started by `start`, on this thread, and ended once. Errors here can help nobody.
        unsafe {
            mpi::MPI_Comm_free(&raw mut self.communicator);
            mpi::MPI_Finalize();
        }
    }
}

fn count(length: usize) -> Result<c_int> {
    c_int::try_from(length).map_err(|_| Error::plugin("MPI moves fewer than 2^31 bytes at once"))
}

/// The error of a call, in the library's words.
fn checked(call: &str, status: c_int) -> Result<()> {
    if status == mpi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0 as c_char; mpi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length = 0;
    // SAFETY: the text has room for the longest message and a zero behind it.
    let known =
        unsafe { mpi::MPI_Error_string(status, text.as_mut_ptr(), &raw mut length) } == mpi::MPI_SUCCESS as c_int;
    // SAFETY: the last element is always zero.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
    let text = if known { text.into_owned() } else { format!("error {status}") };
    Err(Error::new(ErrorCode::Peer, format!("{call}: {text}")))
}

/// Opens the MPI library again so that its own plugins find its symbols: a host loads this plugin, and MPI with it, for
/// itself only.
fn make_global() -> Result<()> {
    let mut place = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is that of a function, and `place` is filled in where the result is not zero.
    let file = unsafe {
        if libc::dladdr(mpi::MPI_Init_thread as *const c_void, place.as_mut_ptr()) == 0 {
            return Err(Error::plugin("the file of the MPI library is not known"));
        }
        place.assume_init().dli_fname
    };
    // SAFETY: a string of the dynamic linker. The library is loaded already; its code does not run again.
    let opened = unsafe { libc::dlopen(file, libc::RTLD_NOW | libc::RTLD_GLOBAL | libc::RTLD_NOLOAD) };
    match opened.is_null() {
        false => Ok(()),
        true => Err(Error::plugin("the MPI library cannot be opened for its own plugins")),
    }
}
