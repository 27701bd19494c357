//! Gets pinned Python wheels and takes the native libraries out of them. pip checks their sha256.

use std::{fs, path::Path, process::Command};

use super::Folders;
use crate::{
    Result, command,
    files::{files, remove_folder},
};

/// Downloads MLX and OpenBLAS, unpacks them, and gathers their shared libraries in `lib/`.
pub fn fetch(folders: &Folders) -> Result<()> {
    let wheel = folders.out.join("wheel");
    let lib = folders.lib();
    if unpack(folders, "mlx.txt", &wheel)? == Unpacked::Before && lib.exists() {
        return Ok(());
    }
    remove_folder(&lib)?;
    fs::create_dir_all(&lib)?;
    for source in ["mlx/lib", "mlx_cpu.libs", "scipy_openblas32/lib"] {
        for file in files(&wheel.join(source))? {
            if let Some(name) = file.file_name() {
                fs::rename(&file, lib.join(name))?;
            }
        }
    }
    search_own_folder(&lib.join("libmlx.so"))
}

/// Lets libmlx.so find BLAS and LAPACK beside itself: its run path names a folder of the wheel that is gone now.
fn search_own_folder(library: &Path) -> Result<()> {
    const FROM: &[u8] = b"$ORIGIN/../../mlx_cpu.libs\0";
    const TO: &[u8] = b"$ORIGIN\0";
    let mut content = fs::read(library)?;
    let found = content.windows(FROM.len()).position(|bytes| bytes == FROM);
    let start = found.ok_or("libmlx.so has another run path than this set-up was written for")?;
    // A string in an ELF file ends at its first zero, so a shorter one may take the place.
    content[start..start + TO.len()].copy_from_slice(TO);
    Ok(fs::write(library, content)?)
}

/// Whether wheels were unpacked by this call or lay there already.
#[derive(PartialEq)]
pub enum Unpacked {
    Now,
    Before,
}

/// Downloads the wheels that `wheels/<requirements>` lists for this machine, and unpacks them into `destination`.
pub fn unpack(folders: &Folders, requirements: &str, destination: &Path) -> Result<Unpacked> {
    let wanted = fs::read(folders.wheels.join(requirements))?;
    let record = destination.join(requirements);
    if fs::read(&record).is_ok_and(|unpacked| unpacked == wanted) {
        return Ok(Unpacked::Before);
    }
    let wheels = folders.out.join("wheels").join(requirements.trim_end_matches(".txt"));
    remove_folder(&wheels)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"]);
    pip.arg(&wheels).arg("--requirement").arg(folders.wheels.join(requirements));
    command::output(&mut pip).map_err(|error| {
        format!(
            "{error}\n  the wheels exist for 64-bit x86 and ARM with glibc 2.35 or newer (Debian 12, Ubuntu 22.04); \
             for anything else see whether the network lets pip through"
        )
    })?;

    remove_folder(destination)?;
    for wheel in files(&wheels)? {
        let mut unzip = Command::new("python3");
        unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(destination);
        command::output(&mut unzip)?;
    }
    fs::write(record, wanted)?;
    Ok(Unpacked::Now)
}
