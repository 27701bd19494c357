//! When a line is due, and how long the rest will take.

use std::time::{Duration, Instant};

/// Lets the first and the last line through, and in between one per interval.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    last: Option<Instant>,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Pace { interval, last: None }
    }

    /// Whether a line is due now.
    pub(super) fn due(&mut self, is_last: bool, now: Instant) -> bool {
        let due = is_last || self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// Time left, from the speed of this run. The first update is left out of the speed: it compiles and warms caches.
#[derive(Debug)]
pub(super) struct Eta {
    done: u64,
    first: Option<(u64, Instant)>,
}

impl Eta {
    /// For a run that goes on after `done` updates.
    pub(super) fn new(done: u64) -> Self {
        Eta { done, first: None }
    }

    /// Time left after update `step`; none until two updates give a speed.
    pub(super) fn remaining(&mut self, step: u64, total: u64, now: Instant) -> Option<Duration> {
        if step <= self.done {
            return None;
        }
        let (first, since) = *self.first.get_or_insert((step, now));
        let measured = step.checked_sub(first).filter(|&steps| steps > 0)?;
        let each = now.saturating_duration_since(since).as_secs_f64() / measured as f64;
        Duration::try_from_secs_f64(each * total.saturating_sub(step) as f64).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_come_at_most_once_per_interval_but_first_and_last_always() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(2));
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let due: Vec<u64> = (0..=55).filter(|&tenths| pace.due(tenths == 55, at(tenths))).collect();
        assert_eq!(due, [0, 20, 40, 55]);
    }

    #[test]
    fn time_left_follows_the_speed_of_this_run_and_ignores_resumed_updates() {
        let start = Instant::now();
        let mut eta = Eta::new(100);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(eta.remaining(101, 200, at(30)), None);
        assert_eq!(eta.remaining(102, 200, at(32)), Some(Duration::from_secs(2 * 98)));
        assert_eq!(eta.remaining(111, 200, at(50)), Some(Duration::from_secs(2 * 89)));
        assert_eq!(eta.remaining(200, 200, at(230)), Some(Duration::ZERO));
    }
}
