//! What the user sees of a run, on standard error: a bar on a terminal, plain lines elsewhere.

mod line;
mod pace;

pub use line::{Line, grouped};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pace::{Eta, Pace};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The progress of one run.
pub struct Progress {
    total: u64,
    eta: Eta,
    view: View,
}

enum View {
    Bar(ProgressBar),
    Plain { out: Box<dyn Write + Send>, pace: Pace },
    None,
}

/// Plain lines come no closer than this, the first and the last excepted.
const INTERVAL: Duration = Duration::from_secs(2);

/// The bar that is on the terminal, so that [`note`] does not tear it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Whether only warnings are shown.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Shows nothing but warnings from now on: the first rank speaks for all.
pub fn quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Prints a line of its own on standard error, above the bar where there is one. Any thread.
pub fn note(line: &str) {
    if QUIET.load(Ordering::Relaxed) && !line.starts_with("warning") {
        return;
    }
    match &*BAR.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(bar) => bar.suspend(|| print(&mut io::stderr(), line)),
        None => print(&mut io::stderr(), line),
    }
}

/// Prints a line whether others are shown or not.
pub fn tell(line: &str) {
    print(&mut io::stderr(), line);
}

/// Whether `MDT_LOG=debug` asks for what only developers read.
pub fn debugging() -> bool {
    std::env::var_os("MDT_LOG").is_some_and(|level| level == "debug")
}

/// Prints a line for developers, of any rank.
pub fn debug(line: &str) {
    if debugging() {
        print(&mut io::stderr(), line);
    }
}

impl Progress {
    /// Progress over `total` updates of which `done` were done before, on standard error.
    pub fn new(total: u64, done: u64) -> Self {
        if QUIET.load(Ordering::Relaxed) {
            return Progress { total, eta: Eta::new(done), view: View::None };
        }
        if !io::stderr().is_terminal() {
            return Self::plain(total, done, Box::new(io::stderr()));
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_position(done);
        let style =
            ProgressStyle::with_template("{bar:24.blue} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        Progress { total, eta: Eta::new(done), view: View::Bar(bar) }
    }

    /// The same as plain lines to `out`.
    pub fn plain(total: u64, done: u64, out: Box<dyn Write + Send>) -> Self {
        Progress { total, eta: Eta::new(done), view: View::Plain { out, pace: Pace::new(INTERVAL) } }
    }

    /// Shows an update.
    pub fn update(&mut self, line: &Line) {
        let now = Instant::now();
        let remaining = self.eta.remaining(line.step, self.total, now);
        let text = line.text(self.total, remaining);
        match &mut self.view {
            View::Bar(bar) => {
                // From the first update on: before it, lines would be printed around an empty bar.
                BAR.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| bar.clone());
                bar.set_message(text);
                bar.set_position(line.step);
            }
            View::Plain { out, pace } => {
                if pace.due(line.step == self.total, now) {
                    print(out, &text);
                }
            }
            View::None => {}
        }
    }

    /// Prints a line of its own, above the bar where there is one.
    pub fn note(&mut self, line: &str) {
        match &mut self.view {
            View::Bar(bar) => bar.suspend(|| print(&mut io::stderr(), line)),
            View::Plain { out, .. } => print(out, line),
            View::None => note(line),
        }
    }

    /// Leaves the bar as it stands. Later notes come below it.
    pub fn finish(&mut self) {
        let View::Bar(bar) = &self.view else { return };
        let shown = BAR.lock().unwrap_or_else(PoisonError::into_inner).take();
        if shown.is_some() {
            bar.abandon();
            // The bar leaves the cursor behind it.
            print(&mut io::stderr(), "");
        }
    }
}

impl Drop for Progress {
    /// An error that ends the run is printed below the bar, not into it.
    fn drop(&mut self) {
        self.finish();
    }
}

/// Nobody can be told that standard error is closed, and training goes on without it.
fn print(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn plain_progress_has_the_first_and_the_last_update_and_every_note() {
        let out = Shared::default();
        let mut progress = Progress::plain(100, 0, Box::new(out.clone()));
        progress.note("model: tiny");
        for step in 1..=100 {
            progress.update(&Line { step, loss: 1.0, lr: 1e-4, tokens_per_s: 10.0, grad_norm: 0.5 });
            if step == 50 {
                progress.note("checkpoint: step-000050");
            }
        }
        progress.finish();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let begins: Vec<_> = text.lines().map(|line| line.split("  loss").next().unwrap()).collect();
        assert_eq!(begins, ["model: tiny", "step   1/100", "checkpoint: step-000050", "step 100/100"]);
    }

    #[test]
    fn a_closed_output_does_not_stop_training() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut progress = Progress::plain(1, 0, Box::new(Closed));
        progress.update(&Line { step: 1, loss: 1.0, lr: 1e-4, tokens_per_s: 10.0, grad_norm: 0.5 });
        progress.note("still here");
    }
}
