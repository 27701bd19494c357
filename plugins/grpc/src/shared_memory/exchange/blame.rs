//! Who is named when a collective does not go on.

use super::{Exchange, Stage};
use crate::fault::{named, subject};
use crate::shared_memory::Segments;
use crate::wire::Cause;

impl Exchange {
    /// The ranks without which it does not go on, and whether they have not even joined. As long as ranks have not joined,
    /// the others may wait for those.
    pub(crate) fn awaited(&self, all: &Segments) -> (Vec<u32>, bool) {
        let ranks = |is_awaited: &dyn Fn(usize) -> bool| -> Vec<u32> {
            all.peers().filter(|&peer| is_awaited(peer)).map(|peer| peer as u32).collect()
        };
        let absent = ranks(&|peer| !self.has_joined(all, peer));
        if !absent.is_empty() {
            return (absent, true);
        }
        let awaited = match &self.stage {
            Stage::Staged(steps) => {
                let step = |count: u64| steps.first + count;
                let contributions = || self.missing_contributions(all, step(steps.folded));
                let results = || self.missing_results(all, step(steps.taken));
                let space = || self.missing_space(all, step(steps.given));
                let missing: Vec<usize> = match () {
                    () if steps.folded < steps.all && contributions().next().is_some() => contributions().collect(),
                    () if results().next().is_some() => results().collect(),
                    () => space().collect(),
                };
                missing.into_iter().map(|peer| peer as u32).collect()
            }
            Stage::Leaving => ranks(&|peer| !self.has_done(all, peer)),
            Stage::Joining | Stage::Direct(_) | Stage::Done => Vec::new(),
        };
        (awaited, false)
    }

    /// The error when nothing has come from these ranks for so long.
    pub(crate) fn overdue(&self, late: &[u32], are_absent: bool, seconds: f64) -> Cause {
        let name = self.name();
        let message = match are_absent {
            true => format!("{} not joined {name} within {seconds} s", subject(late, ("has", "have"))),
            false => format!("{name} has made no progress with {} for {seconds} s", named(late)),
        };
        Cause { rank: late.first().copied(), ..Cause::new(message) }.help(
            "look at the output of that rank; `comm.timeout_s` is how long ranks wait for each other without progress",
        )
    }

    /// The error when a rank has left that is needed.
    pub(crate) fn left(&self, rank: u32) -> Cause {
        let message = format!("rank {rank} has left the job, and {} needs it", self.name());
        Cause::of(rank, message).help("all ranks must make the same number of updates: look at that rank's own output")
    }

    fn name(&self) -> String {
        format!("{} number {}", self.kind.name(), self.sequence)
    }
}
