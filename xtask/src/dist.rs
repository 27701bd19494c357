//! `cargo xtask dist`: builds everything and stages it under `dist/`, a tree that can be moved and packed as it is. With
//! `--with mpi` the plugin `mpi` is among it, which works with the MPI library that it was built against.
//!
//!     dist/bin/mdt-host
//!     dist/plugins/          every plugin in the workspace
//!     dist/lib/              the native libraries that plugins need (Linux), found by a run path relative to the plugin
//!     dist/share/plugin-api  the source that a third-party plugin is built against
//!     dist/share/licenses    the licences of all of it, and a list

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Result, command,
    files::{copy_into, entries, files, remove_folder, replace_folder},
    licences, mpi, setup,
    workspace::{self, Metadata},
};

/// Builds and stages. The tree that was there is replaced once the new one is whole.
pub fn run() -> Result<()> {
    stage(&[])
}

/// The same with the plugin `mpi`.
pub fn run_with_mpi() -> Result<()> {
    stage(&[mpi::build()?])
}

/// The same with libraries that were built outside of the workspace.
fn stage(further: &[PathBuf]) -> Result<()> {
    let root = workspace::root();
    let target = Metadata::read()?.target_directory()?;
    let plugins = plugins(&root)?;
    build(&plugins)?;

    let release = target.join("release");
    replace_folder(&root.join("dist"), |staged| {
        copy_into(&release.join(format!("mdt-host{}", env::consts::EXE_SUFFIX)), &staged.join("bin"))?;
        for plugin in &plugins {
            let file = format!("{}mdt_{plugin}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
            copy_into(&release.join(&file), &staged.join("plugins"))?;
            forget_build_folder(&staged.join("plugins").join(file))?;
        }
        for plugin in further {
            copy_into(plugin, &staged.join("plugins"))?;
        }
        let libraries = setup::library_folder();
        if let Some(libraries) = &libraries {
            for library in files(libraries)? {
                copy_into(&library, &staged.join("lib"))?;
            }
        }
        licences::stage(libraries.as_deref(), &staged.join("share/licenses"))?;
        stage_plugin_api(&target, &staged.join("share/plugin-api"))
    })
}

/// Leaves the relative part of a plugin's run path, and removes the folder of this build: what lies there on another
/// machine is not ours.
fn forget_build_folder(plugin: &Path) -> Result<()> {
    const RELATIVE: &[u8] = b"$ORIGIN/../lib";
    let mut content = fs::read(plugin)?;
    let Some(start) = content.windows(RELATIVE.len()).position(|bytes| bytes == RELATIVE) else { return Ok(()) };
    // A string in an ELF file ends at its first zero.
    content[start + RELATIVE.len()..].iter_mut().take_while(|byte| **byte != 0).for_each(|byte| *byte = 0);
    Ok(fs::write(plugin, content)?)
}

/// The folder names under `plugins/`, but for `mpi`: `x` holds package `mdt-plugin-x` with library `mdt_x`.
fn plugins(root: &Path) -> Result<Vec<String>> {
    let is_member = |path: &PathBuf| path.join("Cargo.toml").exists() && *path != root.join(mpi::FOLDER);
    let folders = entries(&root.join("plugins"))?.into_iter().filter(is_member);
    Ok(folders.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}

fn build(plugins: &[String]) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package=mdt-host"]);
    cargo.args(plugins.iter().map(|plugin| format!("--package=mdt-plugin-{plugin}")));
    command::run(&mut cargo)
}

/// Stages plugin-api as `cargo package` writes it: without a word that only this workspace understands.
fn stage_plugin_api(target: &Path, destination: &Path) -> Result<()> {
    let packages = target.join("plugin-api-package");
    remove_folder(&packages)?;
    let mut cargo = workspace::cargo();
    cargo.args(["package", "--quiet", "--package=mdt-plugin-api", "--no-verify", "--allow-dirty"]);
    cargo.args(["--exclude-lockfile", "--target-dir"]).arg(&packages);
    command::output(&mut cargo)?;

    let is_archive = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "crate");
    let archive = files(&packages.join("package"))?.into_iter().find(is_archive);
    let archive = archive.ok_or("`cargo package` wrote no archive of plugin-api")?;
    fs::create_dir_all(destination)?;
    let mut tar = Command::new("tar");
    tar.args(["-xzf"]).arg(archive).arg("-C").arg(destination).arg("--strip-components=1");
    command::output(&mut tar)?;
    for leftover in [".cargo_vcs_info.json", "Cargo.toml.orig"] {
        let leftover: PathBuf = destination.join(leftover);
        if leftover.exists() {
            fs::remove_file(leftover)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staged_plugin_searches_libraries_beside_it_and_nowhere_else() {
        let plugin = env::temp_dir().join(format!("xtask-run-path-{}", std::process::id()));
        fs::write(&plugin, b"\0a.so\0$ORIGIN/../lib:/home/me/target/mlx/lib\0next\0").unwrap();
        forget_build_folder(&plugin).unwrap();
        let content = fs::read(&plugin).unwrap();
        fs::remove_file(&plugin).unwrap();
        assert!(content.starts_with(b"\0a.so\0$ORIGIN/../lib\0\0") && content.ends_with(b"\0next\0"));
        assert!(!content.windows(5).any(|bytes| bytes == b"/home"), "{content:?}");
    }
}
