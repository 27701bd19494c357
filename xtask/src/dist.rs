//! `cargo xtask dist`: builds everything and stages it under `dist/`, a tree that can be moved and packed as it is.
//!
//!     dist/bin/mdt-host
//!     dist/plugins/          every plugin in the workspace
//!     dist/lib/              the native libraries that plugins need (Linux), found by a run path relative to the plugin
//!     dist/share/plugin-api  the source that a third-party plugin is built against

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Result, command,
    files::{copy_into, entries, files, remove_folder},
    setup,
    workspace::{self, Metadata},
};

/// Builds and stages. The tree that was there is replaced once the new one is whole.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let target = Metadata::read()?.target_directory()?;
    let plugins = plugins(&root)?;
    build(&plugins)?;

    let release = target.join("release");
    let staged = root.join("dist.partial");
    remove_folder(&staged)?;
    copy_into(&release.join(format!("mdt-host{}", env::consts::EXE_SUFFIX)), &staged.join("bin"))?;
    for plugin in &plugins {
        let file = format!("{}mdt_{plugin}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        copy_into(&release.join(file), &staged.join("plugins"))?;
    }
    if let Some(libraries) = setup::library_folder() {
        for library in files(&libraries)? {
            copy_into(&library, &staged.join("lib"))?;
        }
    }
    stage_plugin_api(&target, &staged.join("share/plugin-api"))?;

    remove_folder(&root.join("dist"))?;
    Ok(fs::rename(staged, root.join("dist"))?)
}

/// The folder names under `plugins/`: `x` holds package `mdt-plugin-x` with library `mdt_x`.
fn plugins(root: &Path) -> Result<Vec<String>> {
    let folders = entries(&root.join("plugins"))?.into_iter().filter(|path| path.join("Cargo.toml").exists());
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

    let archive = files(&packages.join("package"))?.into_iter().find(|file| is_crate(file));
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

fn is_crate(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "crate")
}
