//! The learning rate of each update: a pure function of the update number.
//!
//! Updates count from 1. Nothing here knows of micro-batches, ranks or what ran before, so a schedule is the same under
//! any accumulation and world size, and after every resume. All arithmetic is in f64.

use crate::config::Scheduler;
use std::f64::consts::FRAC_PI_2;

/// The schedule of one job.
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
    pub fn learning_rate(&self, update: u64) -> f64 {
        match &self.scheduler {
            Scheduler::Constant(c) => warm_up(self.peak, update, c.warmup_steps).unwrap_or(self.peak),
            Scheduler::Cosine(c) => warm_up(self.peak, update, c.warmup_steps).unwrap_or_else(|| {
                let (done, total) = (update - c.warmup_steps, self.total - c.warmup_steps.min(self.total));
                self.peak * (c.min_ratio + (1.0 - c.min_ratio) * half_cosine(done, total))
            }),
        }
    }
}

/// The linear rise from `peak / warmup` at update 1 to `peak` at update `warmup`; `None` once that is over.
fn warm_up(peak: f64, update: u64, warmup: u64) -> Option<f64> {
    (update <= warmup && warmup > 0).then(|| peak * (update as f64 / warmup as f64))
}

/// (1 + cos(π · done / (total + 1))) / 2 for `done` in 1..=total, and its last value from there on.
///
/// The `+ 1` keeps the last update above zero: an update with learning rate 0 would be computed and thrown away.
/// Written as sin² of the remaining part, which loses no digits where 1 + cos would cancel.
fn half_cosine(done: u64, total: u64) -> f64 {
    let remaining = total.saturating_sub(done) + 1;
    let sine = (FRAC_PI_2 * (remaining as f64 / (total as f64 + 1.0))).sin();
    sine * sine
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Constant, Cosine};
    use proptest::prelude::*;
    use std::f64::consts::PI;

    fn cosine(warmup_steps: u64, min_ratio: f64, total: u64) -> Schedule {
        let scheduler = Scheduler::Cosine(Cosine { warmup_steps, min_ratio });
        Schedule::new(&scheduler, 1e-4, total)
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs()
    }

    #[test]
    fn warm_up_of_100_starts_at_a_hundredth_and_reaches_the_peak_at_100() {
        for schedule in
            [cosine(100, 0.0, 1000), Schedule::new(&Scheduler::Constant(Constant { warmup_steps: 100 }), 1e-4, 1000)]
        {
            assert!(close(schedule.learning_rate(1), 1e-6));
            assert_eq!(schedule.learning_rate(100), 1e-4);
            assert!(schedule.learning_rate(101) <= 1e-4);
            assert!(schedule.learning_rate(1000) > 0.0);
        }
    }

    #[test]
    fn the_last_of_a_million_updates_still_moves_the_weights() {
        assert!(cosine(0, 0.0, 1_000_000).learning_rate(1_000_000) > 0.0);
        assert!(cosine(0, 0.0, u64::MAX / 2).learning_rate(u64::MAX / 2) > 0.0);
    }

    #[test]
    fn a_job_shorter_than_its_warm_up_never_reaches_the_peak() {
        let schedule = cosine(100, 0.0, 10);
        assert!(close(schedule.learning_rate(10), 1e-5));
        assert!(schedule.learning_rate(200) <= 1e-4);
    }

    #[test]
    fn a_constant_schedule_without_warm_up_is_the_peak_from_the_first_update() {
        let schedule = Schedule::new(&Scheduler::Constant(Constant { warmup_steps: 0 }), 0.5, 3);
        assert_eq!([1, 2, 3].map(|u| schedule.learning_rate(u)), [0.5; 3]);
    }

    proptest! {
        #[test]
        fn cosine_follows_the_textbook_formula(
            warmup in 0u64..50, length in 1u64..500, min_ratio in 0.0f64..=1.0, part in 0.0f64..1.0,
        ) {
            let total = warmup + length;
            let update = warmup + 1 + (part * length as f64) as u64;
            let angle = PI * (update - warmup) as f64 / (total - warmup + 1) as f64;
            let expected = 1e-4 * (min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + angle.cos()));
            let got = cosine(warmup, min_ratio, total).learning_rate(update);
            prop_assert!((got - expected).abs() <= 1e-18 + 1e-9 * expected, "{got} {expected}");
        }

        #[test]
        fn the_rate_rises_to_the_peak_then_falls_and_stays_within_bounds(
            warmup in 0u64..40, length in 2u64..200, min_ratio in 0.0f64..1.0,
        ) {
            let total = warmup + length;
            let schedule = cosine(warmup, min_ratio, total);
            let rates: Vec<f64> = (1..=total).map(|u| schedule.learning_rate(u)).collect();
            prop_assert!(rates.iter().all(|&r| r > 0.0 && r <= 1e-4));
            let turn = warmup.saturating_sub(1) as usize;
            prop_assert!(rates[..=turn].windows(2).all(|w| w[0] < w[1]));
            prop_assert!(rates[turn..].windows(2).all(|w| w[0] > w[1]));
            prop_assert!(rates[warmup as usize..].iter().all(|&r| r >= 1e-4 * min_ratio));
        }
    }
}
