//! A run of the program in the background, to be signalled or killed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Run;

/// How long a run may take before the test gives it up.
const DEADLINE: Duration = Duration::from_secs(60);

/// A run that has been started. Dropped, it is killed.
pub struct Process {
    child: Child,
    stdout: File,
    stderr: File,
}

impl Process {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Self {
        // Files, because a full pipe would stop a run that nobody reads from.
        let file = || tempfile::tempfile().expect("a temporary file");
        let (stdout, stderr) = (file(), file());
        let shared = |file: &File| file.try_clone().expect("a second handle");
        let child = command.stdout(shared(&stdout)).stderr(shared(&stderr)).spawn().expect("the program starts");
        Process { child, stdout, stderr }
    }

    /// The system's number of it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed on standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits until the condition holds or the run has ended, and says whether it still runs.
    pub fn wait_until(&mut self, condition: impl Fn() -> bool) -> bool {
        let begin = Instant::now();
        while self.runs() && !condition() {
            assert!(begin.elapsed() < DEADLINE, "the run came nowhere");
            sleep(Duration::from_millis(1));
        }
        self.runs()
    }

    /// Waits until it has printed this text on standard error, or has ended.
    pub fn wait_for(&mut self, text: &str) {
        let printed = self.stderr.try_clone().expect("a second handle");
        self.wait_until(|| self::text(&printed).contains(text));
    }

    /// Kills it where it stands.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    /// Sends a signal by its name: `INT`, `TERM`. One that finds the run ended goes nowhere.
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.child.id().to_string()]).stderr(std::process::Stdio::null());
        kill.status().expect("the command kill");
    }

    /// Waits for its end.
    pub fn end(mut self) -> Run {
        self.wait_until(|| false);
        Run {
            status: self.child.wait().expect("it has ended").code(),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a file that others write to has in it by now. They share its position, so it is read from a place, not sought.
fn text(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().expect("a file").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("what it printed");
    String::from_utf8_lossy(&bytes).into_owned()
}
