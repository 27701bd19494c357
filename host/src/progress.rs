//! The progress of a run on standard error: a bar on a terminal, plain lines elsewhere.

mod line;

pub use line::Line;

use crate::terminal::printable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub struct Progress {
    total: u64,
    /// Counts updates, estimates the time left, and is drawn if this is a terminal.
    bar: ProgressBar,
    view: View,
}

enum View {
    Bar,
    Plain { out: Box<dyn Write + Send>, last: Option<Instant> },
    None,
}

/// The shortest time between two plain lines, except for the first and the last.
const INTERVAL: Duration = Duration::from_secs(2);

/// On terminals with fewer columns there is no room for the bar beside its text.
const NARROW: u16 = 60;

/// The bar that is on the terminal, so that [`note`] can print above it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Whether only warnings are shown.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Shows only warnings from now on: rank 0 prints for all ranks.
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

/// Prints a line even after [`quiet`].
pub fn tell(line: &str) {
    print(&mut io::stderr(), line);
}

/// Prints a message for developers if `MDT_LOG=debug` asks for them, on any rank.
pub fn debug(line: &str) {
    if std::env::var_os("MDT_LOG").is_some_and(|level| level == "debug") {
        print(&mut io::stderr(), line);
    }
}

impl Progress {
    /// Progress over `total` updates of which `done` were done before, on standard error.
    pub fn new(total: u64, done: u64) -> Self {
        if QUIET.load(Ordering::Relaxed) {
            return Self::over(total, done, View::None);
        }
        if !io::stderr().is_terminal() {
            return Self::plain(total, done, Box::new(io::stderr()));
        }
        let progress = Self::over(total, done, View::Bar);
        // `wide_msg` is cut at the width of the terminal, so that a line never wraps.
        let is_narrow =
            rustix::termios::tcgetwinsize(io::stderr()).is_ok_and(|size| (1..NARROW).contains(&size.ws_col));
        let template = if is_narrow { "{wide_msg}" } else { "{bar:24.blue} {wide_msg}" };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        progress.bar.set_style(style);
        progress.bar.set_draw_target(ProgressDrawTarget::stderr());
        progress
    }

    /// The same, as plain lines to `out`.
    pub fn plain(total: u64, done: u64, out: Box<dyn Write + Send>) -> Self {
        Self::over(total, done, View::Plain { out, last: None })
    }

    fn over(total: u64, done: u64, view: View) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_position(done);
        // Updates of an earlier run say nothing about the speed of this one.
        bar.reset_eta();
        Progress { total, bar, view }
    }

    pub fn update(&mut self, line: &Line) {
        if let View::Bar = self.view {
            // Not before the first update: lines would be printed around an empty bar.
            BAR.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| self.bar.clone());
        }
        self.bar.set_position(line.step);
        let text = line.text(self.total, self.bar.eta());
        match &mut self.view {
            View::Bar => self.bar.set_message(text),
            View::Plain { out, last } => {
                if line.step == self.total || last.is_none_or(|last| last.elapsed() >= INTERVAL) {
                    print(out, &text);
                    *last = Some(Instant::now());
                }
            }
            View::None => {}
        }
    }

    /// Prints a line of its own, above the bar where there is one.
    pub fn note(&mut self, line: &str) {
        match &mut self.view {
            View::Plain { out, .. } => print(out, line),
            View::Bar | View::None => note(line),
        }
    }

    /// Leaves the bar as it is. Later notes are printed below it.
    pub fn finish(&mut self) {
        let View::Bar = self.view else { return };
        let shown = BAR.lock().unwrap_or_else(PoisonError::into_inner).take();
        if shown.is_some() {
            self.bar.abandon();
            // The bar leaves the cursor at its end.
            print(&mut io::stderr(), "");
        }
    }
}

impl Drop for Progress {
    /// An error that ends the run is printed below the bar.
    fn drop(&mut self) {
        self.finish();
    }
}

/// Prints a line. If the output is closed, training goes on without it.
fn print(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{}", printable(line)).and_then(|()| out.flush());
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
