//! The most rows that are read.

use super::row_order::Plan;
use crate::config::Settings;
use crate::exit::Failure;

/// The most rows that are read from all sources together.
#[derive(Clone, Copy, Default)]
pub(super) struct Limits {
    /// `data.limit`.
    configured: Option<usize>,
    /// The rows that `trainer.max_steps` updates can use. It applies only to sources that do not say how many rows they
    /// have: the others have an end, and all their rows are shuffled.
    useful: Option<usize>,
}

impl Limits {
    /// The limits of the training rows.
    pub(super) fn of(settings: &Settings) -> Result<Self, Failure> {
        let useful = settings.trainer.max_steps.map(|updates| {
            let rows = updates.saturating_mul(Plan::of(settings, 0).rows_per_update() as u64);
            usize::try_from(rows).unwrap_or(usize::MAX)
        });
        let split = settings.data.split()?;
        let useful = useful.map(|rows| split.map_or(rows, |split| split.with_held_out(rows)));
        let configured = settings.data.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Self { configured, useful })
    }

    /// The most rows after a source of this length, and the key that sets this limit, for a message.
    pub(super) fn of_source(self, length: Option<u64>) -> (usize, &'static str) {
        let useful = self.useful.filter(|_| length.is_none()).unwrap_or(usize::MAX);
        let configured = self.configured.unwrap_or(usize::MAX);
        if configured <= useful { (configured, "`data.limit` allows") } else { (useful, "`trainer.max_steps` can use") }
    }
}
