//! The text of one update.

use indicatif::{FormattedDuration, HumanCount};
use std::time::Duration;

/// What is shown of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    pub step: u64,
    pub loss: f64,
    pub lr: f64,
    /// Tokens per second, all ranks.
    pub tokens_per_s: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
}

impl Line {
    /// `step 120/400  loss 1.2340  lr 1.0e-4  3,210 tok/s  grad 0.53  ETA 00:01:20`, the time left where it is known.
    pub(super) fn text(&self, total: u64, remaining: Duration) -> String {
        let Line { step, loss, lr, tokens_per_s, grad_norm } = self;
        // Under another width, a column would jump when the number of updates gains a digit.
        let width = total.to_string().len();
        let speed = HumanCount(tokens_per_s.round() as u64);
        let mut text =
            format!("step {step:>width$}/{total}  loss {loss:.4}  lr {lr:.1e}  {speed} tok/s  grad {grad_norm:.2}");
        if !remaining.is_zero() {
            text += &format!("  ETA {}", FormattedDuration(remaining));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_has_step_loss_rate_speed_norm_and_time_left() {
        let line = Line { step: 120, loss: 1.234, lr: 1e-4, tokens_per_s: 3209.6, grad_norm: 0.5312 };
        assert_eq!(
            line.text(400, Duration::from_secs(80)),
            "step 120/400  loss 1.2340  lr 1.0e-4  3,210 tok/s  grad 0.53  ETA 00:01:20"
        );
        let line = Line { step: 7, loss: 0.05, lr: 2.5e-5, tokens_per_s: 12_345_678.0, grad_norm: 12.0 };
        assert_eq!(
            line.text(1000, Duration::ZERO),
            "step    7/1000  loss 0.0500  lr 2.5e-5  12,345,678 tok/s  grad 12.00"
        );
    }
}
