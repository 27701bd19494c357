//! The program on a terminal.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// How long something may take to appear before the test gives it up.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a command to its end on a terminal with this many columns, and gives everything that it wrote there.
pub fn on_terminal(command: &mut Command, columns: u16) -> String {
    let (mut terminal, program) = terminal(columns);
    let mut child = started(command.stdin(Stdio::null()), program);
    let (mut written, mut part) = (Vec::new(), [0; 4096]);
    // Linux says that a terminal has ended by an error.
    while let Ok(count @ 1..) = terminal.read(&mut part) {
        written.extend_from_slice(&part[..count]);
    }
    assert!(child.wait().expect("it has ended").success(), "{}", String::from_utf8_lossy(&written));
    String::from_utf8_lossy(&written).into_owned()
}

/// A terminal, and the end of it that a program uses.
fn terminal(columns: u16) -> (File, File) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a terminal of our own");
    let name = ptsname(&terminal, Vec::new()).expect("its name");
    let program = File::options().read(true).write(true).open(OsStr::from_bytes(name.to_bytes())).expect("its end");
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&program, size).expect("its size");
    (File::from(terminal), program)
}

/// Starts a command that writes to a terminal, which ends when its last writer closes it.
fn started(command: &mut Command, program: File) -> Child {
    let shared = || Stdio::from(program.try_clone().expect("a second handle"));
    let child = command.env("TERM", "xterm").stdout(shared()).stderr(shared()).spawn().expect("the program starts");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    child
}

/// A program on a terminal at which somebody types. Dropped, it is killed.
pub struct Typing {
    child: Child,
    terminal: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Typing {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Self {
        let (terminal, program) = terminal(80);
        let child = started(command.stdin(program.try_clone().expect("a second handle")), program);
        let (shown, mut reader) = (Arc::<Mutex<Vec<u8>>>::default(), terminal.try_clone().expect("a second handle"));
        let collected = Arc::clone(&shown);
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut part) {
                collected.lock().expect("no panic").extend_from_slice(&part[..count]);
            }
        });
        Self { child, terminal, shown }
    }

    /// Types this.
    pub fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("the terminal takes it");
    }

    /// Everything that the terminal shows so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()
    }

    /// Waits until what the terminal shows is as wanted.
    #[track_caller]
    pub fn wait_until(&self, wanted: impl Fn(&str) -> bool) {
        let begin = Instant::now();
        while !wanted(&self.shown()) {
            assert!(begin.elapsed() < DEADLINE, "the terminal shows:\n{}", self.shown());
            sleep(Duration::from_millis(5));
        }
    }

    /// Sends the signal that Ctrl-C sends.
    pub fn interrupt(&self) {
        Command::new("kill").args(["-s", "INT", &self.child.id().to_string()]).status().expect("the command kill");
    }

    /// Waits for the end; gives the exit status.
    pub fn end(mut self) -> Option<i32> {
        let begin = Instant::now();
        while self.child.try_wait().expect("a child can be asked").is_none() {
            assert!(begin.elapsed() < DEADLINE, "the terminal shows:\n{}", self.shown());
            sleep(Duration::from_millis(5));
        }
        self.child.wait().expect("it has ended").code()
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
