//! Gets pinned Python wheels and takes the native libraries out of them. pip checks their sha256.

use std::{fs, path::Path, process::Command};

use super::{Folders, files};
use crate::{Result, command};

/// Downloads MLX and OpenBLAS, unpacks them, and gathers their shared libraries in `lib/`.
pub fn fetch(folders: &Folders) -> Result<()> {
    let wheel = folders.out.join("wheel");
    unpack(folders, "requirements.txt", &wheel)?;

    let lib = folders.lib();
    remove_folder(&lib)?;
    fs::create_dir_all(&lib)?;
    for source in ["mlx/lib", "mlx_cpu.libs", "scipy_openblas32/lib"] {
        for file in files(&wheel.join(source))? {
            if let Some(name) = file.file_name() {
                fs::rename(&file, lib.join(name))?;
            }
        }
    }
    Ok(())
}

/// Downloads the wheels that `native/<requirements>` lists for this machine, and unpacks them into `destination`.
pub fn unpack(folders: &Folders, requirements: &str, destination: &Path) -> Result<()> {
    let wheels = folders.out.join("wheels").join(requirements.trim_end_matches(".txt"));
    remove_folder(&wheels)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"]);
    pip.arg(&wheels).arg("--requirement").arg(folders.native.join(requirements));
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
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}
