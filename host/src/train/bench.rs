//! `mdt-host bench`: how long the parts of a job take, each measured through the plugin boundary as a run has it.

pub mod collectives;
mod data;
mod generate;
mod load;
mod optimizer;
mod updates;

pub use data::data;
pub use generate::{Request, generate};
pub use load::load;
pub use optimizer::optimizer;
pub(super) use updates::random_rows;
pub use updates::train;

use std::fmt;
use std::time::Instant;

use serde::Serialize;

/// How long something took, several times, in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub s_median: f64,
    pub s_min: f64,
    pub s_max: f64,
}

impl Spread {
    /// Of at least one time.
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |place: usize| seconds.get(place).copied().unwrap_or_default();
        Self { s_median: at(seconds.len() / 2), s_min: at(0), s_max: at(seconds.len().saturating_sub(1)) }
    }

    /// Of `body`, which runs once more before.
    fn measure<E>(times: u32, mut body: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        body()?;
        Ok(Self::of((0..times).map(|_| seconds(&mut body)).collect::<Result<_, E>>()?))
    }
}

/// How long `body` takes.
fn seconds<E>(body: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let begin = Instant::now();
    body().map(|()| begin.elapsed().as_secs_f64())
}

/// `0.151 s (median; 0.149 to 0.160)`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s (median; {:.3} to {:.3})", self.s_median, self.s_min, self.s_max)
    }
}
