//! Generates `out/bindings.rs` with the `mlx-bindings` package, and a libclang for it.

use std::{env, fs, process::Command};

use super::{Folders, wheels};
use crate::{Result, command, system, workspace};

/// Writes the bindings of mlx-c.
///
/// libclang is PyPI's, pinned, so that the bindings are the same on every machine; `LIBCLANG_PATH` overrides it.
pub fn generate(folders: &Folders) -> Result<()> {
    let out = folders.out.join("out");
    fs::create_dir_all(&out)?;
    let mut cargo = workspace::cargo();
    // Optimising bindgen would take a minute, and its run is over in a second.
    cargo.args(["run", "--quiet", "--config", "profile.dev.package.'*'.opt-level=0"]);
    cargo.args(["--package=mlx-bindings", "--"]);
    cargo.arg(&folders.mlx_c).arg(out.join("bindings.rs"));
    if env::var_os("LIBCLANG_PATH").is_none() {
        let libclang = folders.out.join("libclang");
        wheels::unpack(folders, "libclang.txt", &libclang)?;
        let version = fs::read_dir(&libclang)?.filter_map(|entry| entry.ok());
        let data = version
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "data"))
            .ok_or("the libclang wheel has no data folder")?;
        cargo.env("LIBCLANG_PATH", data.join("platlib/clang/native"));
    }
    // The library comes without clang's own headers; stddef.h and stdint.h of the C++ compiler do as well.
    let include = command::output(Command::new(system::cxx()).arg("-print-file-name=include"))?;
    cargo.arg("-isystem").arg(include.trim_end());
    command::run(&mut cargo)
}
