//! The program on a terminal.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Runs a command to its end on a terminal with this many columns, and gives everything that it wrote there.
pub fn on_terminal(command: &mut Command, columns: u16) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a terminal of our own");
    let name = ptsname(&terminal, Vec::new()).expect("its name");
    let program = File::options().read(true).write(true).open(OsStr::from_bytes(name.to_bytes())).expect("its end");
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&program, size).expect("its size");
    let shared = || Stdio::from(program.try_clone().expect("a second handle"));
    let command = command.env("TERM", "xterm").stdin(Stdio::null()).stdout(shared()).stderr(shared());
    let mut child = command.spawn().expect("the program starts");
    // The terminal ends when its last writer closes it.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    drop(program);
    let (mut terminal, mut written, mut part) = (File::from(terminal), Vec::new(), [0; 4096]);
    // Linux says that a terminal has ended by an error.
    while let Ok(count @ 1..) = terminal.read(&mut part) {
        written.extend_from_slice(&part[..count]);
    }
    assert!(child.wait().expect("it has ended").success(), "{}", String::from_utf8_lossy(&written));
    String::from_utf8_lossy(&written).into_owned()
}
