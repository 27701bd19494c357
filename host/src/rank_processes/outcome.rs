//! What a launched job came to: success, or the failure that came first.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Instant;

use signal_hook::low_level::signal_name;

use super::child::DONE;
use crate::exit::{Failure, Status};
use crate::signals::stopped_at_once;

const RESUME: &str = "checkpoints already written are intact: run the same command again to resume";

/// What the shell of another machine says of a program that it cannot run, or does not find.
const NOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// How a rank's process ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) rank: usize,
    /// The machine that it ran on, if that was another one.
    pub(super) host: Option<String>,
    pub(super) when: Instant,
    pub(super) how: ExitStatus,
    /// Whether this program has sent it a signal.
    pub(super) signalled: bool,
    /// Whether it was stopped, as by SIGSTOP, when it was killed.
    pub(super) stopped: bool,
    /// Why nothing is known of it: what became of the way to its machine.
    pub(super) lost: Option<String>,
}

impl End {
    /// `rank 1`, or `rank 1 on node1`.
    fn name(&self) -> String {
        match &self.host {
            Some(host) => format!("rank {} on {host}", self.rank),
            None => format!("rank {}", self.rank),
        }
    }
}

/// The outcome of all ranks. The causes of a failure come before its consequences: a rank that was killed, then one that
/// failed by itself, then one that had to be killed because it did not answer, then those that lost a peer.
/// `killed` says whether a second signal had all ranks killed.
pub(super) fn of(ends: &[End], killed: bool) -> Result<(), Failure> {
    let earliest = |is_such: fn(&End) -> bool| ends.iter().filter(|end| is_such(end)).min_by_key(|end| end.when);

    let killed_by_others: Vec<String> = ends.iter().filter_map(killed_by_others).collect();
    if let [first, more @ ..] = killed_by_others.as_slice() {
        let failure = more.iter().fold(Failure::new(Status::Peer, first), Failure::because);
        let memory = if ends.iter().any(|end| end.lost.is_some()) {
            ""
        } else {
            ". A rank that the system killed may have run out of memory"
        };
        return Err(failure.help(format!("{RESUME}{memory}")));
    }
    if let Some(end) = earliest(failed_by_itself) {
        return Err(own_failure(end));
    }
    // The first rank writes the results, so what became of the others no longer matters.
    match ends.iter().find(|end| end.rank == 0).and_then(|end| end.how.code()) {
        Some(code) if code == i32::from(DONE) => return Ok(()),
        Some(130) => return Err(Failure::new(Status::Interrupted, "interrupted: all ranks have stopped")),
        _ if killed => return Err(stopped_at_once()),
        _ => {}
    }
    if let Some(end) = earliest(|end| end.stopped).or_else(|| earliest(|end| end.how.code().is_none())) {
        let rank = end.name();
        let message = if end.stopped {
            format!("{rank} was stopped by a signal, such as SIGSTOP, and the others lost it")
        } else {
            format!("{rank} did not end after the others, and was killed")
        };
        return Err(Failure::new(Status::Peer, message).help(RESUME));
    }
    earliest(|end| !is_done(end)).map_or(Ok(()), |end| Err(own_failure(end)))
}

/// How a rank failed, in words, if it did by itself.
pub(super) fn failed(end: &End) -> Option<String> {
    let status = || end.how.code().filter(|_| failed_by_itself(end));
    killed_by_others(end).or_else(|| Some(format!("{} ended with status {}", end.name(), status()?)))
}

fn own_failure(end: &End) -> Failure {
    let rank = end.name();
    if let Some(lost) = &end.lost {
        return Failure::new(Status::Peer, format!("{rank} was lost: {lost}")).help(RESUME);
    }
    if end.host.is_some() && matches!(end.how.code(), Some(NOT_RUN | NOT_FOUND)) {
        return Failure::new(Status::Other, format!("{rank} was not started: mdt-host is not there, or cannot be run"))
            .help("name its path on the other machines with `--remote-program`");
    }
    if end.how.code() == Some(0) {
        let message = format!("{rank} ended with status 0 before the job was done");
        return Failure::new(Status::Plugin, message)
            .because("something in its process has called exit")
            .help(format!("look for a plugin, or a library of one, that ends the process; {RESUME}"));
    }
    let status = end.how.code().map_or(Status::Other, Status::of_code);
    Failure::new(status, format!("{rank} ended with status {}", status.code())).help("its own error stands above")
}

/// Whether a rank exited with a failure that neither another rank nor an interruption explains.
fn failed_by_itself(end: &End) -> bool {
    end.how.code().is_some()
        && end.lost.is_none()
        && !is_done(end)
        && !matches!(end.how.code().map(Status::of_code), Some(Status::Peer | Status::Interrupted))
}

fn is_done(end: &End) -> bool {
    end.how.code() == Some(i32::from(DONE))
}

/// What to say of a rank that was killed by a signal that this program did not send.
fn killed_by_others(end: &End) -> Option<String> {
    if end.signalled {
        return None;
    }
    if let Some(lost) = &end.lost {
        return Some(format!("{} was lost: {lost}", end.name()));
    }
    end.how.signal().map(|_| format!("{} was killed by {}", end.name(), name_of_signal(end.how)))
}

/// The signal that has ended a process.
pub(super) fn name_of_signal(how: ExitStatus) -> String {
    let signal = how.signal().unwrap_or_default();
    signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn killed() -> ExitStatus {
        ExitStatus::from_raw(9)
    }

    /// The outcome of ranks that ended in this order of time, the first of them rank 0.
    fn outcome(ends: &[(ExitStatus, bool)], killed: bool) -> Option<(Status, String)> {
        let begin = Instant::now();
        let end = |(rank, &(how, signalled)): (usize, &(ExitStatus, bool))| {
            let stopped = signalled && how.signal() == Some(9);
            let when = begin + Duration::from_secs(rank as u64);
            End { rank, host: None, when, how, signalled, stopped, lost: None }
        };
        let ends: Vec<_> = ends.iter().enumerate().map(end).collect();
        of(&ends, killed).err().map(|failure| (failure.status(), failure.message().to_owned()))
    }

    #[test]
    fn the_cause_of_a_failure_is_named_before_its_consequences() {
        let (done, lost, interrupted) = (exited(i32::from(DONE)), exited(5), exited(130));
        let (disk, killed) = (exited(7), killed());
        let named =
            |ends: &[(ExitStatus, bool)]| outcome(ends, false).map(|(status, message)| (status.code(), message));
        let of = |status, message: &str| Some((status, message.to_owned()));
        assert_eq!(named(&[(done, false), (done, false)]), None);
        assert_eq!(named(&[(lost, false), (killed, false)]), of(5, "rank 1 was killed by SIGKILL"));
        assert_eq!(named(&[(lost, false), (disk, false)]), of(7, "rank 1 ended with status 7"));
        assert_eq!(named(&[(lost, false), (lost, true)]), of(5, "rank 0 ended with status 5"));
        for other in [interrupted, lost] {
            let message = "interrupted: all ranks have stopped";
            assert_eq!(named(&[(interrupted, false), (other, false)]), of(130, message), "{other:?}");
        }
        let stopped = "rank 1 was stopped by a signal, such as SIGSTOP, and the others lost it";
        assert_eq!(named(&[(lost, false), (killed, true)]), of(5, stopped));
    }

    #[test]
    fn a_rank_whose_machine_is_out_of_reach_is_lost_and_one_without_the_program_is_not_started() {
        let end = |code: i32, lost: bool| End {
            rank: 1,
            host: Some("node1".to_owned()),
            when: Instant::now(),
            how: exited(code),
            signalled: false,
            stopped: false,
            lost: lost.then(|| "ssh has failed".to_owned()),
        };
        let failure = of(&[end(255, true)], false).unwrap_err();
        assert_eq!(failure.status(), Status::Peer);
        assert_eq!(failure.message(), "rank 1 on node1 was lost: ssh has failed");
        let failure = of(&[end(127, false)], false).unwrap_err();
        assert!(failure.message().contains("was not started") && failure.help_text().is_some(), "{failure}");
    }

    #[test]
    fn a_job_is_done_when_its_first_rank_is_and_no_other_has_failed() {
        for other in [(exited(130), true), (exited(5), false), (killed(), true)] {
            assert_eq!(outcome(&[(exited(i32::from(DONE)), false), other], false), None, "{other:?}");
        }
        let failed = outcome(&[(exited(i32::from(DONE)), false), (exited(7), false)], false);
        assert_eq!(failed.map(|(status, _)| status), Some(Status::Storage));
    }

    #[test]
    fn a_rank_that_ends_with_status_0_and_is_not_done_has_failed() {
        let of = |message: &str| Some((Status::Plugin, message.to_owned()));
        let (done, ended, lost) = (exited(i32::from(DONE)), exited(0), exited(5));
        let first = of("rank 0 ended with status 0 before the job was done");
        assert_eq!(outcome(&[(ended, false), (ended, false)], false), first);
        assert_eq!(outcome(&[(ended, false), (lost, false)], false), first);
        let second = of("rank 1 ended with status 0 before the job was done");
        assert_eq!(outcome(&[(lost, false), (ended, false)], false), second);
        assert_eq!(outcome(&[(done, false), (ended, false)], false), second);
    }
}
