//! Gets pinned Python wheels and takes the native libraries out of them. pip checks their sha256.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::Folders;
use crate::{
    Result, command,
    files::{files, replace_folder},
};

/// Downloads MLX and OpenBLAS, unpacks them, and gathers their shared libraries in `lib/`.
pub fn fetch(folders: &Folders) -> Result<()> {
    let wheel = folders.out.join("wheel");
    unpack(folders, "mlx.txt", &wheel)?;
    replace_folder(&folders.lib(), |lib| {
        for source in ["mlx/lib", "mlx_cpu.libs", "scipy_openblas32/lib"] {
            for file in files(&wheel.join(source))? {
                fs::rename(&file, lib.join(file.file_name().unwrap_or_default()))?;
            }
        }
        search_own_folder(&lib.join("libmlx.so"))
    })
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

/// Unpacks the wheels that `wheels/<requirements>` lists for this machine into `destination`.
pub fn unpack(folders: &Folders, requirements: &str, destination: &Path) -> Result<()> {
    let wheels = download(folders, requirements)?;
    replace_folder(destination, |destination| {
        for wheel in files(&wheels)?.iter().filter(|file| file.extension().is_some_and(|extension| extension == "whl"))
        {
            let mut unzip = Command::new("python3");
            unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(destination);
            command::output(&mut unzip)?;
        }
        Ok(())
    })
}

/// The folder with these wheels, downloaded unless it has what the requirements list today.
fn download(folders: &Folders, requirements: &str) -> Result<PathBuf> {
    let wanted = folders.wheels.join(requirements);
    let wheels = folders.out.join("wheels").join(requirements.trim_end_matches(".txt"));
    if fs::read(wheels.join(requirements)).is_ok_and(|had| fs::read(&wanted).is_ok_and(|wanted| had == wanted)) {
        return Ok(wheels);
    }
    replace_folder(&wheels, |wheels| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"]);
        pip.arg(wheels).arg("--requirement").arg(&wanted);
        command::output(&mut pip).map_err(|error| {
            format!(
                "{error}\n  the wheels exist for 64-bit x86 and ARM with glibc 2.35 or newer (Debian 12, Ubuntu 22.04); \
                 for anything else see whether the network lets pip through"
            )
        })?;
        fs::copy(&wanted, wheels.join(requirements))?;
        Ok(())
    })?;
    Ok(wheels)
}
