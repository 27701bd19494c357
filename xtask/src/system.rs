//! The tools that the operating system must have, and the command that installs what is missing.

use std::{
    env,
    ffi::OsString,
    process::{Command, Stdio},
};

use crate::{Result, workspace};

/// The C++ compiler: `$CXX`, else `c++`.
pub fn cxx() -> OsString {
    env::var_os("CXX").unwrap_or_else(|| "c++".into())
}

/// Checks that the tools for the set-up are there: an error names each missing one and how to install all of them.
pub fn require_tools() -> Result<()> {
    let cxx = cxx();
    let python = OsString::from("python3");
    let tools: [(&str, &str, &OsString, &[&str]); 3] = [
        ("a C++20 compiler (c++, or $CXX)", "g++", &cxx, &["--version"]),
        ("python3", "python3", &python, &["--version"]),
        ("pip for python3 (python3 -m pip)", "python3-pip", &python, &["-m", "pip", "--version"]),
    ];
    let missing: Vec<_> =
        tools.iter().filter(|(_, _, program, arguments)| !succeeds(Command::new(program).args(*arguments))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|tool| tool.0).collect();
    let packages: Vec<_> = missing.iter().map(|tool| tool.1).collect();
    Err(format!(
        "missing on this machine: {}\n  on Debian and Ubuntu: sudo apt install {}",
        names.join(", "),
        packages.join(" ")
    )
    .into())
}

/// Checks that Cargo has its formatter and its linter, which minimal installations of Rust leave out.
pub fn require_cargo_components() -> Result<()> {
    let answers = |component: &str| {
        let mut command = workspace::cargo();
        succeeds(command.args([component, "--version"]))
    };
    if answers("fmt") && answers("clippy") {
        return Ok(());
    }
    Err("missing: rustfmt or clippy\n  install both with: rustup component add rustfmt clippy".into())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
