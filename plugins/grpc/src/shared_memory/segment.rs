//! A rank's segment: memory that all ranks of its host have mapped.
//!
//! It is a memory file without a name: nothing of it is left when the last process that has it ends, however that happens,
//! and no mount of a container limits it. It can neither shrink nor grow, so no rank can make another fail by that. It is
//! large and mostly empty: memory exists only where [`Own::allocate`] was called, before anything is written there.
//!
//! | from | what |
//! |---|---|
//! | 0 | what it is: [`MAGIC`], then the mark by which other ranks know it |
//! | 4 KiB | the [`Board`]: how far this rank is, and its doorbell |
//! | 1 MiB | what it has called, once for odd and once for even numbers of calls |
//! | 6 MiB | small payloads, likewise |
//! | 8 MiB | the window: slots through which larger payloads go in steps |
//! | 16 MiB | regions of the host |

use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use mdt_plugin_api::{Buffer, Region};
use rustix::fd::OwnedFd;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::process::{Resource, getrlimit};

use super::doorbell::Doorbell;

/// What a segment of this layout begins with.
const MAGIC: &[u8; 8] = b"mdtshm01";

/// The length of a mark, a random number.
pub(crate) const MARK: usize = 32;

/// The bytes of a segment: address space, of which almost nothing is memory.
const LENGTH: usize = 1 << 38;

const BOARD: usize = 4 << 10;
const CALLS: usize = 1 << 20;
const SMALL_PAYLOADS: usize = 6 << 20;
const WINDOW: usize = 8 << 20;
const REGIONS: usize = 16 << 20;

/// The longest description of a call, and what is allocated for it at first.
const CALL: usize = 2 << 20;
const SHORT_CALL: usize = 64 << 10;

/// The largest payload, in bytes, that a rank gives to the others with its call.
pub(crate) const SMALL: usize = 64 << 10;

/// The bytes of a window: enough that ranks need not wait for each other at every step, and small enough for the
/// processor's cache.
const WINDOW_BYTES: usize = 4 << 20;

/// Steps for which a window has slots, and the largest slot.
pub(crate) const DEPTH: u64 = 4;
const LARGEST_SLOT: usize = 256 << 10;

const PAGE: usize = 4 << 10;

const _: () = assert!(BOARD + size_of::<Board>() <= CALLS && CALLS + 2 * CALL <= SMALL_PAYLOADS);
const _: () = assert!(SMALL_PAYLOADS + 2 * SMALL <= WINDOW && WINDOW + WINDOW_BYTES <= REGIONS);

/// A number on cache lines of its own.
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub(crate) T);

/// How far a rank is. It alone writes the numbers, which only grow; all ranks read them.
#[repr(C)]
pub(crate) struct Board {
    /// The number of the last call that it has joined: description and small payload can be read.
    pub(crate) joined: Line<AtomicU64>,
    /// Steps, of all calls together, for which its contributions can be read in its window.
    pub(crate) given: Line<AtomicU64>,
    /// Steps for which it has taken the others' contributions, and for which its result can be read.
    pub(crate) folded: Line<AtomicU64>,
    /// Steps for which it has taken the others' results.
    pub(crate) taken: Line<AtomicU64>,
    /// The number of the last call for which it needs nobody's regions any more.
    pub(crate) done: Line<AtomicU64>,
    /// Grows with everything that it does.
    pub(crate) moved: Line<AtomicU64>,
    /// What it sleeps at.
    pub(crate) doorbell: Line<Doorbell>,
}

/// A segment in this process.
pub(crate) struct Segment(NonNull<u8>);

// SAFETY: the mapping may be used from any thread; who may use which bytes when is the contract of `bytes` and `bytes_mut`.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// Maps another rank's segment.
    ///
    /// # Errors
    /// It is none, or not the one with this mark; the address space is too small.
    pub(crate) fn of(file: &OwnedFd, mark: &[u8; MARK]) -> io::Result<Self> {
        let sealed = SealFlags::SHRINK | SealFlags::GROW;
        if !fcntl_get_seals(file)?.contains(sealed) || fstat(file)?.st_size as usize != LENGTH {
            return Err(io::Error::other("what it has given is no segment"));
        }
        let segment = Self::map(file)?;
        // SAFETY: nobody writes there any more once others can ask for the segment.
        let head = unsafe { segment.bytes(0..MAGIC.len() + MARK) };
        match head.strip_prefix(MAGIC) {
            Some(found) if found == mark => Ok(segment),
            _ => Err(io::Error::other("what it has given is another segment")),
        }
    }

    fn map(file: &OwnedFd) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: the system chooses a place where nothing is.
        let start = unsafe { mmap(ptr::null_mut(), LENGTH, access, flags, file, 0) }?;
        // A core dump of all that address space would take minutes.
        // SAFETY: it changes no memory.
        let _ = unsafe { madvise(start, LENGTH, Advice::LinuxDontDump) };
        NonNull::new(start.cast()).map(Self).ok_or_else(|| io::Error::other("mapped at 0"))
    }

    pub(crate) fn board(&self) -> &Board {
        // SAFETY: the file has memory there from the beginning, its numbers are atomic, and zeros are numbers.
        unsafe { self.0.add(BOARD).cast().as_ref() }
    }

    /// # Safety
    /// The bytes have memory, and no rank writes them while the slice exists.
    pub(crate) unsafe fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= LENGTH, "bytes of a segment");
        // SAFETY: the mapping has so many bytes; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0.add(range.start).as_ptr(), range.len()) }
    }

    /// # Safety
    /// The bytes have memory, and nobody else, here or in another rank, uses them while the slice exists.
    #[allow(clippy::mut_from_ref, reason = "the caller's promise, which spans processes")]
    pub(crate) unsafe fn bytes_mut(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= LENGTH, "bytes of a segment");
        // SAFETY: as in `bytes`.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start).as_ptr(), range.len()) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and everything that points into it keeps the segment.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}

/// The bytes for the description of a call with this number.
pub(crate) fn call(sequence: u64) -> Range<usize> {
    let start = CALLS + (sequence % 2) as usize * CALL;
    start..start + CALL
}

/// The bytes for the small payload of a call with this number.
pub(crate) fn small_payload(sequence: u64) -> Range<usize> {
    let start = SMALL_PAYLOADS + (sequence % 2) as usize * SMALL;
    start..start + SMALL
}

/// The bytes of a slot: every rank has one per step for each of so many ranks.
pub(crate) fn slot_bytes(world_size: usize) -> usize {
    LARGEST_SLOT.min(WINDOW_BYTES / DEPTH as usize / world_size) & !63
}

/// The slot of a step in a rank's window for what that rank has for another one; at its own number lies its result.
pub(crate) fn slot(world_size: usize, step: u64, rank: usize) -> Range<usize> {
    let bytes = slot_bytes(world_size);
    let start = WINDOW + ((step % DEPTH) as usize * world_size + rank) * bytes;
    start..start + bytes
}

/// This rank's own segment, with the file from which it gets memory.
pub(crate) struct Own {
    pub(crate) segment: Segment,
    pub(crate) file: OwnedFd,
    /// Regions, in order.
    regions: Mutex<Vec<Range<usize>>>,
}

impl Own {
    /// A segment with this mark.
    ///
    /// # Errors
    /// The system has no such files, not enough memory or address space, or limits the size of files.
    pub(crate) fn new(mark: &[u8; MARK]) -> io::Result<Self> {
        // The system would end a process that goes beyond its limit.
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < LENGTH as u64) {
            return Err(io::Error::other("the size of files is limited (ulimit -f)"));
        }
        // Some systems allow only files that can never be run; those before 6.3 do not know them.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file =
            memfd_create("mdt-grpc", flags | MemfdFlags::NOEXEC_SEAL).or_else(|_| memfd_create("mdt-grpc", flags))?;
        ftruncate(&file, LENGTH as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let own = Self { segment: Segment::map(&file)?, file, regions: Mutex::default() };
        own.allocate(0..BOARD + size_of::<Board>())?;
        [0, 1]
            .into_iter()
            .try_for_each(|call| own.allocate(self::call(call).start..self::call(call).start + SHORT_CALL))?;
        own.allocate(SMALL_PAYLOADS..SMALL_PAYLOADS + 2 * SMALL)?;
        own.allocate(WINDOW..WINDOW + WINDOW_BYTES)?;
        // SAFETY: no other rank has it yet.
        let head = unsafe { own.segment.bytes_mut(0..MAGIC.len() + MARK) };
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        head[MAGIC.len()..].copy_from_slice(mark);
        Ok(own)
    }

    /// Makes memory of these bytes, where there is none yet, so that using it cannot fail.
    ///
    /// # Errors
    /// The system has not enough memory.
    pub(crate) fn allocate(&self, range: Range<usize>) -> io::Result<()> {
        let (start, length) = (range.start / PAGE * PAGE, range.end.next_multiple_of(PAGE) - range.start / PAGE * PAGE);
        loop {
            match fallocate(&self.file, FallocateFlags::empty(), start as u64, length as u64) {
                Err(rustix::io::Errno::INTR) => {}
                done => break done?,
            }
        }
        // Page faults cost more later than now. Systems before 5.14 cannot do it.
        // SAFETY: it changes no memory.
        let _ = unsafe { madvise(self.segment.0.as_ptr().add(start).cast(), length, Advice::LinuxPopulateWrite) };
        Ok(())
    }

    /// Makes what the description of a call is written to, where that is longer than usual.
    ///
    /// # Errors
    /// The system has not enough memory.
    pub(crate) fn allocate_call(&self, range: Range<usize>) -> io::Result<()> {
        if range.len() > SHORT_CALL { self.allocate(range) } else { Ok(()) }
    }

    /// A region of this many bytes, which the other ranks can use.
    ///
    /// # Errors
    /// The system has not enough memory, or the segment is full.
    pub(crate) fn region(self: &Arc<Self>, bytes: usize) -> io::Result<Region> {
        let range = self.reserve(bytes.max(1).next_multiple_of(PAGE)).ok_or(io::ErrorKind::OutOfMemory)?;
        let lease = Lease { own: Arc::clone(self), range: range.clone() };
        self.allocate(range.clone())?;
        // SAFETY: the bytes are the lease's alone until it is dropped; it keeps the mapping. Other ranks use them only while
        // a collective has a buffer there, and the collective forgets buffers that others may still use.
        Ok(unsafe { Region::from_raw(self.segment.0.add(range.start), bytes, Box::new(lease)) })
    }

    /// Takes the first gap of this length.
    fn reserve(&self, length: usize) -> Option<Range<usize>> {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut start = REGIONS;
        let mut place = regions.len();
        for (index, region) in regions.iter().enumerate() {
            if start + length <= region.start {
                place = index;
                break;
            }
            start = region.end;
        }
        let end = start.checked_add(length).filter(|end| *end <= LENGTH)?;
        regions.insert(place, start..end);
        Some(start..end)
    }

    /// Where a buffer lies in the segment, if it does.
    pub(crate) fn offset_of(&self, buffer: &Buffer) -> Option<usize> {
        let offset = (buffer.bytes().as_ptr() as usize).checked_sub(self.segment.0.as_ptr() as usize)?;
        (!buffer.is_empty() && offset < LENGTH).then_some(offset)
    }
}

/// The bytes of a region; they are free again when it is dropped.
struct Lease {
    own: Arc<Own>,
    range: Range<usize>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Range { start, end } = self.range;
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(&self.own.file, hole, start as u64, (end - start) as u64); // else the memory stays until the end
        let mut regions = self.own.regions.lock().unwrap_or_else(PoisonError::into_inner);
        regions.retain(|region| *region != self.range);
    }
}

const _: () = assert!(offset_of!(Board, given) == 128 && size_of::<Board>() == 7 * 128);
