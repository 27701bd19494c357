//! Watches calls into plugins: warns of one that does not come back, and in the end ends the process.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use mdt_plugin_api::abi::{CallUnderWay, calls_under_way};
use signal_hook::low_level;

use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::progress;

/// How long a call takes before the user is told of it, and again after twice that time.
const WARN_AFTER: Duration = Duration::from_secs(60);

/// How long the watchdog sleeps between two looks.
const GLANCE: Duration = Duration::from_millis(500);

/// Starts watching the calls of this process. `timeout` is `plugins.timeout_s`; none watches and warns only.
pub fn start(timeout: Option<Duration>) -> Result<(), Failure> {
    let watch = move || {
        let mut watchdog = Watchdog { timeout, seen: HashMap::new() };
        let mut last = Instant::now();
        loop {
            thread::sleep(GLANCE);
            // A process that was stopped in between, or a machine that slept, has not computed.
            let passed = last.elapsed().min(2 * GLANCE);
            last = Instant::now();
            let mut warnings = Vec::new();
            for (call, finding) in watchdog.look(calls_under_way(), passed) {
                match finding {
                    Finding::Slow(time) => warnings.push(warning(&call, time, timeout)),
                    Finding::Overdue(time) => end(&call, time),
                }
            }
            // Several threads may be in the same function.
            warnings.dedup();
            warnings.iter().for_each(|warning| progress::note(warning));
        }
    };
    let spawned = thread::Builder::new().name("watchdog".to_owned()).spawn(watch);
    spawned.map(drop).map_err(|error| Failure::new(Status::Other, "no thread can be started").because(error))
}

struct Watchdog {
    timeout: Option<Duration>,
    /// By thread: the epoch of the call that it is in, how long it has been in it, and when the user is told next.
    seen: HashMap<usize, (u64, Duration, Duration)>,
}

#[derive(Debug, PartialEq)]
enum Finding {
    /// A call that has taken this long without making a call itself.
    Slow(Duration),
    /// The same, beyond what the configuration allows.
    Overdue(Duration),
}

impl Watchdog {
    /// What is worth telling of the calls that are under way, when this much time has passed since the last look.
    fn look(&mut self, calls: Vec<CallUnderWay>, passed: Duration) -> Vec<(CallUnderWay, Finding)> {
        self.seen.retain(|thread, _| calls.iter().any(|call| call.thread == *thread));
        let first_warning = self.timeout.map_or(WARN_AFTER, |timeout| WARN_AFTER.min(timeout / 2));
        let mut findings = Vec::new();
        for call in calls {
            let seen = match self.seen.get_mut(&call.thread) {
                Some(seen) if seen.0 == call.epoch => seen,
                // It may have just begun.
                _ => {
                    self.seen.insert(call.thread, (call.epoch, Duration::ZERO, first_warning));
                    continue;
                }
            };
            seen.1 += passed;
            if self.timeout.is_some_and(|timeout| seen.1 >= timeout) {
                findings.push((call, Finding::Overdue(seen.1)));
            } else if seen.1 >= seen.2 {
                seen.2 *= 2;
                findings.push((call, Finding::Slow(seen.1)));
            }
        }
        findings
    }
}

fn seconds(time: Duration) -> String {
    counted(time.as_secs() as usize, "second")
}

fn warning(call: &CallUnderWay, time: Duration, timeout: Option<Duration>) -> String {
    let CallUnderWay { component, interface, function, .. } = call;
    let then = match timeout {
        Some(timeout) => format!("after {} (`plugins.timeout_s`) the process ends", seconds(timeout)),
        None => "`plugins.timeout_s` may end such a process".to_owned(),
    };
    let time = seconds(time);
    format!("warning: {component}: the call `{function}` ({interface}) has not come back for {time}; {then}")
}

fn end(call: &CallUnderWay, time: Duration) -> ! {
    let CallUnderWay { component, interface, function, .. } = call;
    let message = format!("a call into a plugin has not come back for {}", seconds(time));
    let failure = Failure::new(Status::Plugin, message)
        .at(component)
        .because(format!("the call `{function}` ({interface}) took longer than `plugins.timeout_s` allows"))
        .because("nothing was saved after the last checkpoint")
        .help(
            "the same command continues from there; if the call may take that long, set `plugins.timeout_s` higher, or to \
             0 to wait for good; else tell the plugin's author",
        );
    progress::tell(&failure.to_string());
    // Without exit handlers: other threads still compute with what those would free.
    low_level::exit(i32::from(Status::Plugin.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn call(thread: usize, epoch: u64) -> CallUnderWay {
        let component = "optimizer slow 1.0.0";
        CallUnderWay { thread, component, interface: "optimizer.slices/1", function: "update", epoch }
    }

    #[test]
    fn a_call_is_warned_of_at_intervals_that_double_and_is_overdue_in_the_end() {
        let mut watchdog = Watchdog { timeout: Some(500 * SECOND), seen: HashMap::new() };
        let mut told = Vec::new();
        for _ in 0..=500 {
            told.extend(watchdog.look(vec![call(1, 2)], SECOND).into_iter().map(|(_, finding)| finding));
        }
        let slow = [60, 120, 240, 480].map(|seconds| Finding::Slow(seconds * SECOND));
        assert_eq!(told[..4], slow);
        assert_eq!(told[4], Finding::Overdue(500 * SECOND));
    }

    #[test]
    fn a_call_that_makes_calls_or_comes_back_is_never_told_of() {
        let mut watchdog = Watchdog { timeout: Some(5 * SECOND), seen: HashMap::new() };
        for epoch in 0..1000 {
            assert!(watchdog.look(vec![call(1, epoch)], SECOND).is_empty());
            assert!(watchdog.look(Vec::new(), SECOND).is_empty());
        }
    }

    #[test]
    fn each_thread_is_watched_by_itself() {
        let mut watchdog = Watchdog { timeout: Some(5 * SECOND), seen: HashMap::new() };
        let mut overdue = Vec::new();
        for epoch in 0..=5 {
            overdue.extend(watchdog.look(vec![call(1, epoch), call(2, 7)], SECOND));
        }
        assert_eq!(overdue.last(), Some(&(call(2, 7), Finding::Overdue(5 * SECOND))));
        assert!(overdue.iter().all(|(call, _)| call.thread == 2));
    }
}
