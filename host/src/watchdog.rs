//! Watches calls into plugins: warns of one that does not come back, and in the end ends the process.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use mdt_plugin_api::Event;
use mdt_plugin_api::abi::{Call, CallUnderWay, calls_under_way};
use signal_hook::low_level;

use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::{component_files, observers, progress};

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
    /// By thread and level: the call that is there, and for how long.
    seen: HashMap<(usize, usize), Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    epoch: u64,
    inner_epoch: u64,
    time: Duration,
    /// Since it last made a call.
    quiet: Duration,
    /// When the user is told next, by `quiet`.
    next_warning: Duration,
}

#[derive(Debug, PartialEq)]
enum Finding {
    /// A call that has taken this long without making a call itself.
    Slow(Duration),
    /// A call that has taken longer than the configuration allows, whatever it calls meanwhile.
    Overdue(Duration),
}

impl Watchdog {
    /// What is worth telling of the calls that are under way, when this much time has passed since the last look. The calls
    /// of a thread are together, the outermost first.
    fn look(&mut self, calls: Vec<CallUnderWay>, passed: Duration) -> Vec<(CallUnderWay, Finding)> {
        let first_warning = self.timeout.map_or(WARN_AFTER, |timeout| WARN_AFTER.min(timeout / 2));
        let mut seen = HashMap::new();
        for call in &calls {
            let (place, &CallUnderWay { epoch, inner_epoch, .. }) = ((call.thread, call.level), call);
            let zero = Duration::ZERO;
            // Another one may have just begun.
            let new = Seen { epoch, inner_epoch, time: zero, quiet: zero, next_warning: first_warning };
            let same = self.seen.get(&place).filter(|seen| seen.epoch == epoch);
            let seen_now = same.map_or(new, |seen| match seen.inner_epoch == inner_epoch {
                true => Seen { time: seen.time + passed, quiet: seen.quiet + passed, ..*seen },
                false => Seen { time: seen.time + passed, ..new },
            });
            seen.insert(place, seen_now);
        }
        self.seen = seen;
        calls.chunk_by(|one, next| one.thread == next.thread).filter_map(|calls| self.judge(calls)).collect()
    }

    /// What is worth telling of the calls of one thread.
    fn judge(&mut self, calls: &[CallUnderWay]) -> Option<(CallUnderWay, Finding)> {
        let time = |call: &CallUnderWay| self.seen[&(call.thread, call.level)].time;
        let outermost = time(calls.first()?);
        if let Some(timeout) = self.timeout.filter(|timeout| outermost >= *timeout) {
            // Each call waits for those inside of it: the innermost that has taken long does not come back.
            let long = calls.iter().rev().find(|call| time(call) >= timeout / 2)?;
            return Some((long.clone(), Finding::Overdue(outermost)));
        }
        let innermost = calls.last()?;
        let seen = self.seen.get_mut(&(innermost.thread, innermost.level))?;
        if seen.quiet < seen.next_warning {
            return None;
        }
        seen.next_warning *= 2;
        Some((innermost.clone(), Finding::Slow(seen.quiet)))
    }
}

fn seconds(time: Duration) -> String {
    counted(time.as_secs() as usize, "second")
}

fn warning(call: &CallUnderWay, time: Duration, timeout: Option<Duration>) -> String {
    let Call { component, interface, function } = call.call;
    let then = match timeout {
        Some(timeout) => format!("after {} (`plugins.timeout_s`) the process ends", seconds(timeout)),
        None => "`plugins.timeout_s` may end such a process".to_owned(),
    };
    let time = seconds(time);
    format!("warning: {component}: the call `{function}` ({interface}) has not come back for {time}; {then}")
}

fn end(call: &CallUnderWay, time: Duration) -> ! {
    let Call { component, interface, function } = call.call;
    let message = format!("a call into a plugin has not come back for {}", seconds(time));
    let failure = Failure::new(Status::Plugin, message)
        .at(format!("{component}{}", component_files::place(component)))
        .because(format!("the call `{function}` ({interface}) took longer than `plugins.timeout_s` allows"))
        .because("nothing was saved after the last checkpoint")
        .help(
            "the same command continues from there; if the call may take that long, set `plugins.timeout_s` higher, or to \
             0 to wait for good; else tell the plugin's author",
        );
    progress::tell(&failure.to_string());
    observers::finish(Event::Failed { message: failure.message().to_owned() });
    // Without exit handlers: other threads still compute with what those would free.
    low_level::exit(i32::from(Status::Plugin.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn call(thread: usize, epoch: u64) -> CallUnderWay {
        let (component, interface, function) = ("optimizer slow 1.0.0", "optimizer.slices/1", "update");
        CallUnderWay { thread, level: 0, epoch, inner_epoch: 0, call: Call { component, interface, function } }
    }

    /// A call inside of `call`.
    fn inner(thread: usize, epoch: u64) -> CallUnderWay {
        let outer = call(thread, epoch);
        CallUnderWay { level: 1, call: Call { component: "compute inner 1.0.0", ..outer.call }, ..outer }
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
    fn calls_that_come_back_are_never_told_of() {
        let mut watchdog = Watchdog { timeout: Some(5 * SECOND), seen: HashMap::new() };
        for epoch in 0..1000 {
            assert!(watchdog.look(vec![call(1, epoch), inner(1, epoch)], SECOND).is_empty());
            assert!(watchdog.look(Vec::new(), SECOND).is_empty());
        }
    }

    #[test]
    fn a_call_that_makes_calls_is_overdue_without_a_warning_and_one_inside_of_it_that_does_not_come_back_is_named() {
        for (is_inside, named) in [(false, call(1, 2)), (true, inner(1, 7))] {
            let mut watchdog = Watchdog { timeout: Some(6 * SECOND), seen: HashMap::new() };
            let calls = |look: u64| {
                let inner_epoch = if is_inside && look > 0 { 7 } else { 100 + look };
                let outer = CallUnderWay { inner_epoch, ..call(1, 2) };
                // The call that it makes may just have come back.
                if look.is_multiple_of(2) && !is_inside { vec![outer] } else { vec![outer, inner(1, inner_epoch)] }
            };
            let told: Vec<_> = (0..=6).flat_map(|look| watchdog.look(calls(look), SECOND)).collect();
            let (last, before) = told.split_last().unwrap();
            assert_eq!((last.0.call, &last.1), (named.call, &Finding::Overdue(6 * SECOND)));
            assert!(before.iter().all(|(call, _)| is_inside && call.level == 1), "{before:?}");
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
