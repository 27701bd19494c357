//! The text of one update.

use std::time::Duration;

/// What is shown of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// The update, from 1.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
    /// Its learning rate.
    pub lr: f64,
    /// Tokens per second, all ranks.
    pub tokens_per_s: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
}

impl Line {
    /// `step 120/400  loss 1.2340  lr 1.0e-4  3,210 tok/s  grad 0.53  ETA 1m20s`.
    pub(super) fn text(&self, total: u64, remaining: Option<Duration>) -> String {
        let Line { step, loss, lr, tokens_per_s, grad_norm } = self;
        // Under another width, a column would jump when the number of updates gains a digit.
        let width = total.to_string().len();
        let speed = grouped(tokens_per_s.round() as u64);
        let mut text =
            format!("step {step:>width$}/{total}  loss {loss:.4}  lr {lr:.1e}  {speed} tok/s  grad {grad_norm:.2}");
        if let Some(remaining) = remaining {
            text += &format!("  ETA {}", duration(remaining));
        }
        text
    }
}

/// A number with a comma at each thousand.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration with its two largest units.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_has_step_loss_rate_speed_norm_and_time_left() {
        let line = Line { step: 120, loss: 1.234, lr: 1e-4, tokens_per_s: 3209.6, grad_norm: 0.5312 };
        assert_eq!(
            line.text(400, Some(Duration::from_secs(80))),
            "step 120/400  loss 1.2340  lr 1.0e-4  3,210 tok/s  grad 0.53  ETA 1m20s"
        );
        let line = Line { step: 7, loss: 0.05, lr: 2.5e-5, tokens_per_s: 12_345_678.0, grad_norm: 12.0 };
        assert_eq!(line.text(1000, None), "step    7/1000  loss 0.0500  lr 2.5e-5  12,345,678 tok/s  grad 12.00");
    }

    #[test]
    fn durations_have_their_two_largest_units() {
        let text = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        let seconds = [0.0, 59.4, 59.6, 60.0, 3599.0, 3600.0, 86399.0, 86400.0, 200_000.0];
        let texts = ["0s", "59s", "1m00s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "2d07h"];
        assert_eq!(seconds.map(text), texts);
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 10_000, 1_234_567].map(grouped), ["0", "999", "1,000", "10,000", "1,234,567"]);
    }
}
