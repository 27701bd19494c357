//! The learning rate of each update: a pure function of the update number.
//!
//! Updates count from 1. It does not depend on micro-batches, ranks or earlier updates, so a schedule is the same under
//! any accumulation and world size, and after every resume. All arithmetic is in f64, with sine and power in software: the
//! same bits on every machine.

#[cfg(test)]
mod tests;

use crate::config::Scheduler;
use std::f64::consts::FRAC_PI_2;

#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    scheduler: Scheduler,
    peak: f64,
    total: u64,
}

impl Schedule {
    /// A schedule that reaches `peak` and is laid out over `total` updates.
    pub fn new(scheduler: &Scheduler, peak: f64, total: u64) -> Self {
        Schedule { scheduler: scheduler.clone(), peak, total }
    }

    /// The learning rate of update number `update`, the first being 1.
    ///
    /// The warm-up is a straight line from `peak / warmup` at update 1 to exactly `peak` at update `warmup`. Without one,
    /// update 1 has the peak.
    pub fn learning_rate(&self, update: u64) -> f64 {
        let warmup = self.scheduler.warmup_steps().max(1);
        if update <= warmup {
            return self.peak * (update as f64 / warmup as f64);
        }
        self.peak * self.part_of_peak(update - warmup, self.total - warmup.min(self.total))
    }

    /// The fraction of the peak at update `done` of the `total` ones after the warm-up.
    fn part_of_peak(&self, done: u64, total: u64) -> f64 {
        match &self.scheduler {
            Scheduler::Constant(_) => 1.0,
            Scheduler::Cosine(c) => above(c.min_ratio, half_cosine(remaining(done, total))),
            Scheduler::Linear(c) => above(c.min_ratio, remaining(done, total)),
            Scheduler::Polynomial(c) => above(c.min_ratio, libm::pow(remaining(done, total), c.power)),
            Scheduler::Wsd(c) => {
                let of_all = || (c.decay_ratio * self.total as f64).round() as u64;
                let decay = c.decay_steps.unwrap_or_else(of_all).min(total);
                let stable = total - decay;
                if done <= stable { 1.0 } else { above(c.min_ratio, remaining(done - stable, decay)) }
            }
        }
    }
}

/// From `floor` for a `part` of 0 up to 1 for a `part` of 1.
fn above(floor: f64, part: f64) -> f64 {
    floor + (1.0 - floor) * part
}

/// The fraction of the decay that remains at update `done` of the `total` updates after the peak. It falls in equal steps
/// that would reach zero one update after the last: an update with learning rate 0 would be computed for nothing.
fn remaining(done: u64, total: u64) -> f64 {
    (total.saturating_sub(done) + 1) as f64 / (total as f64 + 1.0)
}

/// (1 + cos(π · (1 − remaining))) / 2, written as sin², which loses no digits where 1 + cos would cancel.
fn half_cosine(remaining: f64) -> f64 {
    let sine = libm::sin(FRAC_PI_2 * remaining);
    sine * sine
}
