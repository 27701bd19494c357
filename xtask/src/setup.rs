//! `cargo xtask setup`: MLX for Rust on Linux, under `target/mlx/`.
//!
//! mlx-sys links MLX on Apple systems only. In Cargo a configuration file can replace the build script of a package with
//! a `links` key, so this writes such a file, and everything that it points to:
//!
//! | in `target/mlx/` | what |
//! |---|---|
//! | `wheels/`, `wheel/` | MLX's C++ library and OpenBLAS as PyPI has them, and unpacked (headers) |
//! | `lib/` | every shared library needed at run time, ready to be staged |
//! | `out/bindings.rs` | what mlx-sys's build script would have generated |
//! | `cargo.toml` | the configuration, included by `.cargo/config.toml` |
//! | `stamp` | digest of all inputs, size of every result: while both stay the same, there is nothing to do |

mod bindings;
mod cargo_config;
mod mlx_c;
mod wheels;

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{
    Result,
    files::files,
    system,
    workspace::{self, Metadata},
};

/// The folders that the steps of the set-up share.
struct Folders {
    /// `xtask/wheels`: which wheels, with their checksums.
    wheels: PathBuf,
    /// `plugins/mlx/native/libmlxc`: what `libmlxc.so` holds beside mlx-c.
    native: PathBuf,
    /// mlx-c's source in the mlx-sys package.
    mlx_c: PathBuf,
    /// `target/mlx`.
    out: PathBuf,
}

impl Folders {
    /// MLX's C++ headers.
    fn mlx_include(&self) -> PathBuf {
        self.out.join("wheel/mlx/include")
    }

    /// The shared libraries.
    fn lib(&self) -> PathBuf {
        self.out.join("lib")
    }
}

/// The folder with the native libraries that must be beside the plugins at run time; none on macOS, where mlx-sys
/// links MLX statically.
pub fn library_folder() -> Option<PathBuf> {
    cfg!(target_os = "linux").then(|| workspace::root().join("target/mlx/lib"))
}

/// The folder with the unpacked wheels of MLX and OpenBLAS, licences included.
pub fn wheel_folder() -> PathBuf {
    workspace::root().join("target/mlx/wheel")
}

/// Does what is missing: everything on a fresh checkout, nothing when called again.
pub fn run() -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let root = workspace::root();
    let folders = Folders {
        wheels: root.join("xtask/wheels"),
        native: root.join("plugins/mlx/native/libmlxc"),
        mlx_c: Metadata::read()?.package_directory("mlx-sys")?.join("src/mlx-c"),
        out: root.join("target/mlx"),
    };
    fs::create_dir_all(&folders.out)?;
    let lock = File::create(folders.out.join("lock"))?;
    lock.lock()?;

    let stamp_file = folders.out.join("stamp");
    let inputs = inputs(&root, &folders)?;
    let found = fs::read_to_string(&stamp_file).unwrap_or_default();
    if results(&folders).is_ok_and(|results| found == inputs.clone() + &results) {
        return Ok(());
    }
    system::require_tools()?;
    fs::write(&stamp_file, "incomplete")?;
    timed("MLX and OpenBLAS from PyPI", || wheels::fetch(&folders))?;
    timed("mlx-c compiled", || mlx_c::build(&folders))?;
    timed("Rust bindings", || bindings::generate(&folders))?;
    cargo_config::write(&folders)?;
    Ok(fs::write(&stamp_file, inputs + &results(&folders)?)?)
}

fn timed(name: &str, step: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    step().map_err(|error| format!("setup, {name}: {error}"))?;
    println!("setup: {name} ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(())
}

/// Every file that the set-up leaves for others, with its size: one that is missing or cut short is noticed.
fn results(folders: &Folders) -> Result<String> {
    let mut results = files(&folders.lib())?;
    results.extend([folders.out.join("out/bindings.rs"), folders.out.join("cargo.toml")]);
    let line = |file: PathBuf| Ok(format!("{} {}\n", fs::metadata(&file)?.len(), file.display()));
    results.into_iter().map(line).collect()
}

/// Digest of everything that the results depend on.
fn inputs(root: &Path, folders: &Folders) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (root, &folders.mlx_c).hash(&mut hasher);
    // The steps themselves count: a changed flag or key is a changed result.
    let mut inputs = vec![root.join("xtask/bindings/src/main.rs")];
    for folder in [&root.join("xtask/src/setup"), &folders.wheels, &folders.native] {
        inputs.extend(files(folder)?);
    }
    for file in inputs {
        let content = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        (file.file_name(), content).hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}
