//! A doorbell: where a rank sleeps until another one has done something.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, fence};
use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};

/// A doorbell in shared memory. Its rank alone waits at it, one thread at a time; every rank may ring it.
#[repr(C)]
pub(crate) struct Doorbell {
    /// Counts what woke the sleeper.
    rung: AtomicU32,
    /// Whether somebody may be asleep. A rank that died has left it as it was, which costs others a system call.
    armed: AtomicU32,
}

impl Doorbell {
    /// Says that this rank is about to sleep. What it waits for must be looked at once more before [`Doorbell::sleep`],
    /// which takes the number.
    pub(crate) fn arm(&self) -> u32 {
        self.armed.store(1, SeqCst);
        fence(SeqCst); // before what is waited for is looked at; `ring` has the other half
        self.rung.load(SeqCst)
    }

    /// Sleeps until somebody rings who has not since [`Doorbell::arm`] gave this number, at most so long.
    pub(crate) fn sleep(&self, rung: u32, limit: Duration) {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        // It also ends for signals and without a reason: the caller looks again.
        let _ = futex::wait(&self.rung, Flags::empty(), rung, Some(&limit));
        self.disarm();
    }

    pub(crate) fn disarm(&self) {
        self.armed.store(0, Relaxed);
    }

    /// Wakes the rank if it sleeps. What it waits for must have been written before.
    pub(crate) fn ring(&self) {
        fence(SeqCst); // after what was written; `arm` has the other half
        if self.armed.load(SeqCst) != 0 {
            self.rung.fetch_add(1, SeqCst);
            let _ = futex::wake(&self.rung, Flags::empty(), 1); // nobody may sleep there
        }
    }
}
