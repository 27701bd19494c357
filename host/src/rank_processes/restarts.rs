//! Starting the ranks of a job again after one of them was lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::TICK;
use super::requests::StopRequests;
use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::{checkpoint, metrics, progress};

/// The first pause before a new start, which doubles from one start without a new checkpoint to the next.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often the ranks were started again, and how often they may be.
pub struct Restarts {
    most: u32,
    made: u32,
    output_dir: PathBuf,
    /// The checkpoints that an earlier job has left.
    before: BTreeMap<u64, SystemTime>,
    /// Those of this job, at its last start.
    known: BTreeMap<u64, SystemTime>,
    pause: Duration,
}

/// A new start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// Whether this job has written a checkpoint, from which it goes on whatever `checkpoint.resume` says.
    pub has_checkpoint: bool,
}

impl Restarts {
    /// Up to `most` new starts of a job with this output directory.
    pub fn new(most: u32, output_dir: PathBuf) -> Self {
        let before = checkpoint::written(&output_dir);
        Self { most, made: 0, output_dir, known: before.clone(), before, pause: PAUSE }
    }

    /// Waits for the next start after this failure, and says what was lost.
    ///
    /// # Errors
    /// The failure itself: it is none that a new start can cure, there were enough starts, or the job is to stop.
    pub fn after(&mut self, failure: Failure, requests: &mut StopRequests) -> Result<Again, Failure> {
        if failure.status() != Status::Peer || self.most == 0 || requests.have_come() {
            return Err(failure);
        }
        if self.made == self.most {
            return Err(
                failure.because(format!("the job was started again {} before", counted(self.made as usize, "time")))
            );
        }
        self.made += 1;
        let now = checkpoint::written(&self.output_dir);
        self.pause = if now == self.known { (self.pause * 2).min(LONGEST_PAUSE) } else { PAUSE };
        if self.made == 1 {
            self.pause = PAUSE;
        }
        let newest =
            now.iter().rfind(|(update, written)| self.before.get(*update) != Some(written)).map(|(update, _)| *update);
        progress::tell(&format!(
            "restart  {} of {} in {} s: {}",
            self.made,
            self.most,
            self.pause.as_secs(),
            failure.in_one_line()
        ));
        progress::tell(&format!("restart  {}", self.loss(newest)));
        self.known = now;
        let begin = Instant::now();
        while begin.elapsed() < self.pause {
            if requests.next().is_some() {
                return Err(failure.because("it was not started again, as a signal has asked the job to stop"));
            }
            thread::sleep(TICK);
        }
        Ok(Again { has_checkpoint: newest.is_some() })
    }

    /// What was computed in vain, as far as this machine can see.
    fn loss(&self, newest: Option<u64>) -> String {
        let last = metrics::last_update(&self.output_dir).unwrap_or(0);
        match newest {
            Some(newest) if last > newest => {
                let count = counted((last - newest) as usize, "update");
                format!("goes on from the checkpoint of update {newest}; {count} after it will be computed again")
            }
            Some(newest) => format!("goes on from the checkpoint of update {newest}; no update is lost"),
            None => {
                "there is no checkpoint of this job here to go on from: it goes on from what it began with".to_owned()
            }
        }
    }
}
