//! Who is named when a collective does not go on.

use super::{Exchange, Stage};
use crate::shared_memory::Segments;

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

    /// The name of the collective in errors.
    pub(crate) fn name(&self) -> String {
        format!("{} number {}", self.kind.name(), self.sequence)
    }
}
