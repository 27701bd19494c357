//! The ranks of a job, connected by MPI.

use std::thread;
use std::time::{Duration, Instant};

use mdt_plugin_api::engine::{Course, Engine, fold_gathered};
use mdt_plugin_api::{Buffer, Error, ErrorCode, ReduceOp, Result};

use crate::library::{Library, Request, Tag};
use crate::reduce;

/// Up to this many bytes each rank sends all it has to every other, in one step.
const SMALL: usize = 32 << 10;

/// Bytes that are broadcast at once.
const BROADCAST: usize = 64 << 20;

/// The longest reason that is told to other ranks.
const REASON: usize = 1 << 10;

/// How long a rank that aborts works on telling it.
const TELLING: Duration = Duration::from_millis(100);

/// How often a waiting thread looks before it lets others run, and how long it does that before it sleeps.
const SPINS: u32 = 200;
const YIELDING: Duration = Duration::from_millis(2);
const SLEEP: Duration = Duration::from_micros(50);

/// An engine over MPI. Memory that transfers use is never freed before they are done: the host's buffers are kept for ever
/// after an error, and so is this.
pub(crate) struct Ranks {
    pub(crate) library: Library,
    /// Where other ranks' pieces arrive.
    pub(crate) scratch: Vec<u8>,
    timeout: Duration,
    /// A receive for a rank that aborts, and where its reason arrives: the rank, the length, the text.
    aborted: Option<Request>,
    reason: Box<[u8; REASON]>,
}

impl Ranks {
    pub(crate) fn new(library: Library, timeout: Duration) -> Self {
        let mut reason = Box::new([0; REASON]);
        // SAFETY: the memory lives as long as the request, which is taken back before it is freed.
        let aborted = unsafe { library.receive(None, Tag::Abort, reason.as_mut_ptr(), REASON) }.ok();
        Self { library, scratch: Vec::new(), timeout, aborted, reason }
    }

    /// All ranks but this one.
    pub(crate) fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.library.rank();
        (0..self.library.size()).filter(move |rank| *rank != own)
    }

    /// Waits until these transfers are done.
    ///
    /// # Errors
    /// A transfer failed; the job was aborted, here or elsewhere; nothing moved for `comm.timeout_s`, with the ranks that are
    /// late.
    pub(crate) fn wait(&mut self, requests: &mut Vec<Request>, course: &Course) -> Result<()> {
        let (mut since, mut looks, mut first) = (Instant::now(), 0u32, 0);
        while first < requests.len() {
            if self.library.is_done(&mut requests[first])? {
                (first, since, looks) = (first + 1, Instant::now(), 0);
                continue;
            }
            looks = looks.saturating_add(1);
            if looks < SPINS {
                continue;
            }
            course.check()?;
            self.check_others()?;
            let waited = since.elapsed();
            if waited > self.timeout {
                return Err(self.late(&mut requests[first..]));
            }
            match waited < YIELDING {
                true => thread::yield_now(),
                false => thread::sleep(SLEEP),
            }
        }
        requests.clear();
        Ok(())
    }

    /// # Errors
    /// Another rank has aborted.
    fn check_others(&mut self) -> Result<()> {
        let Some(aborted) = &mut self.aborted else { return Ok(()) };
        if !self.library.is_done(aborted)? {
            return Ok(());
        }
        let (rank, text) = (u16::from_le_bytes([self.reason[0], self.reason[1]]), &self.reason[2..]);
        let text = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
        self.aborted = None;
        Err(Error::new(ErrorCode::Peer, format!("rank {rank} aborted: {text}")).with("rank", rank))
    }

    /// The error where these transfers do not go on.
    fn late(&self, requests: &mut [Request]) -> Error {
        let is_late = |request: &mut Request| !self.library.is_done(request).unwrap_or(false);
        let mut late: Vec<usize> =
            requests.iter_mut().filter_map(|request| is_late(request).then_some(request.peer)?).collect();
        late.sort_unstable();
        late.dedup();
        let seconds = self.timeout.as_secs_f64();
        let error = |who: String| Error::new(ErrorCode::Peer, format!("{who} made no progress for {seconds} s"));
        match late.as_slice() {
            [] => error("the ranks".to_owned()),
            [rank] => error(format!("rank {rank}")).with("rank", rank),
            [first, ..] => error(format!("ranks {late:?}")).with("rank", first),
        }
        .help("look at that rank's output; a job with slow updates needs a larger `comm.timeout_s`")
    }
}

impl Engine for Ranks {
    fn gather(&mut self, own: &[u8], all: &mut [u8], course: &Course) -> Result<()> {
        let (rank, length) = (self.library.rank(), own.len());
        self.scratch.resize(self.scratch.len().max(all.len()), 0);
        self.scratch[rank * length..][..length].copy_from_slice(own);
        let place = self.scratch.as_mut_ptr();
        let mut requests = Vec::new();
        for peer in self.peers() {
            // SAFETY: each rank's place is in the scratch memory, is used by its own transfers only until they are done, and
            // is never freed if they fail; this rank's place is only read.
            unsafe {
                requests.push(self.library.receive(Some(peer), Tag::Gather, place.add(peer * length), length)?);
                requests.push(self.library.send(peer, Tag::Gather, place.add(rank * length), length)?);
            }
        }
        self.wait(&mut requests, course)?;
        all.copy_from_slice(&self.scratch[..all.len()]);
        course.moved(length);
        Ok(())
    }

    fn all_reduce(&mut self, buffers: &mut [Buffer], op: ReduceOp, course: &Course) -> Result<()> {
        for buffer in buffers {
            match buffer.bytes().len() <= SMALL {
                true => fold_gathered(self, buffer, op, course)?,
                false => reduce::reduce(self, buffer, op, true, course)?,
            }
        }
        Ok(())
    }

    fn broadcast(&mut self, buffers: &mut [Buffer], root: u32, course: &Course) -> Result<()> {
        for chunk in buffers.iter_mut().flat_map(|buffer| buffer.bytes_mut().chunks_mut(BROADCAST)) {
            // SAFETY: nothing else uses the buffers until the transfer is done, and after an error they are kept for ever.
            let request = unsafe { self.library.broadcast(root, chunk.as_mut_ptr(), chunk.len())? };
            self.wait(&mut vec![request], course)?;
            course.moved(chunk.len());
        }
        Ok(())
    }

    fn reduce_scatter(&mut self, buffer: &mut Buffer, op: ReduceOp, course: &Course) -> Result<()> {
        reduce::reduce(self, buffer, op, false, course)
    }

    fn abort(&mut self, reason: &str) {
        let mut message = vec![0; REASON];
        message[..2].copy_from_slice(&(self.library.rank() as u16).to_le_bytes());
        let reason = &reason.as_bytes()[..reason.floor_char_boundary(REASON - 2)];
        message[2..2 + reason.len()].copy_from_slice(reason);
        // Kept for ever, as the process is about to end.
        let message = message.leak();
        // SAFETY: the memory is never freed and not written to.
        let send = |peer| unsafe { self.library.send(peer, Tag::Abort, message.as_ptr(), REASON) };
        let mut requests: Vec<_> = self.peers().filter_map(|peer| send(peer).ok()).collect();
        let begin = Instant::now();
        while begin.elapsed() < TELLING && !requests.is_empty() {
            requests.retain_mut(|request| !self.library.is_done(request).unwrap_or(true));
            thread::sleep(SLEEP);
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        if let Some(aborted) = &mut self.aborted {
            self.library.cancel(aborted);
        }
    }
}
