//! Writes `cargo.toml`, the Cargo configuration that replaces mlx-sys's build script.

use std::{env, fs, path::Path};

use super::{Folders, mlx_c};
use crate::{Result, workspace};

/// Writes the file.
///
/// `include`, `defines` and `version` are what mlx-sys's own build script tells its dependents, as `DEP_MLX_INCLUDE`
/// (a path list) and so on; `lib` is the folder of the shared libraries, there on Linux only.
pub fn write(folders: &Folders) -> Result<()> {
    let include = env::join_paths([folders.mlx_include(), folders.mlx_c.clone()])?;
    let lib = quoted(&folders.lib())?;
    let config = format!(
        "# Written by `cargo xtask setup`.\n\
         [target.{triple}.mlx]\n\
         rustc-link-lib = [\"dylib=mlxc\", \"dylib=mlx\"]\n\
         rustc-link-search = [{search}]\n\
         rustc-env = {{ OUT_DIR = {out} }}\n\
         include = {include}\n\
         lib = {lib}\n\
         defines = \"\"\n\
         version = \"{version}\"\n",
        triple = workspace::host_triple(),
        search = lib.replacen('"', "\"native=", 1),
        out = quoted(&folders.out.join("out"))?,
        include = quoted(Path::new(&include))?,
        version = mlx_c::mlx_version(folders)?,
    );
    Ok(fs::write(folders.out.join("cargo.toml"), config)?)
}

/// The path as a TOML string.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| format!("{}: the path is not UTF-8", path.display()))?;
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}
