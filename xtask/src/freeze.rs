//! Frozen copies of the boundary: `cargo xtask freeze` packs `plugin-api`, the plugin of every kind with the program that
//! exercises it, and the small built-in plugins, as a workspace of its own, into `tests/frozen/VERSION.tar.gz`.
//!
//! `tests/frozen.rs` builds each copy, and runs its plugins in today's host and today's plugins in its program. Until a
//! version is published its copy is made again; after that never.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Result, command,
    files::{entries, remove_folder},
    workspace::{cargo, root},
};

/// The members of a copy. The other plugins need much that is slow to build.
const MEMBERS: [&str; 8] = [
    "plugin-api",
    "tests/plugins/every_kind",
    "plugins/data",
    "plugins/data/columns",
    "plugins/local",
    "plugins/models",
    "plugins/optim",
    "plugins/sft",
];

/// Packs the copy of this version.
pub fn run() -> Result<()> {
    let copy = root().join("target/frozen");
    stage(&copy)?;
    let archive = root().join(format!("tests/frozen/{}.tar.gz", version()?));
    fs::create_dir_all(root().join("tests/frozen"))?;
    pack(&copy, &archive)?;
    println!("{} ({} KiB)", archive.display(), fs::metadata(&archive)?.len() / 1024);
    Ok(())
}

/// Makes the copy in a folder.
pub fn stage(copy: &Path) -> Result<()> {
    remove_folder(copy)?;
    fs::create_dir_all(copy)?;
    fs::write(copy.join("Cargo.toml"), workspace_manifest(&fs::read_to_string(root().join("Cargo.toml"))?))?;
    for member in MEMBERS {
        let (from, to) = (root().join(member), copy.join(member));
        for folder in ["src", "include"] {
            copy_folder(&from.join(folder), &to.join(folder))?;
        }
        fs::write(to.join("Cargo.toml"), member_manifest(&fs::read_to_string(from.join("Cargo.toml"))?))?;
    }
    fs::copy(root().join("Cargo.lock"), copy.join("Cargo.lock"))?;
    // Removes from the lock file what the copy does not need, and fails where the copy lacks something.
    command::output(cargo().current_dir(copy).args(["tree", "--offline"]))?;
    Ok(())
}

/// The version of the boundary, as its macro has it.
fn version() -> Result<String> {
    let source = fs::read_to_string(root().join("plugin-api/src/abi/version.rs"))?;
    let version = source.split_once("macro_rules! __abi_version").and_then(|(_, source)| source.split('"').nth(1));
    Ok(version.ok_or("plugin-api/src/abi/version.rs has no __abi_version")?.to_owned())
}

/// The manifest of the workspace for these members alone.
fn workspace_manifest(manifest: &str) -> String {
    let members: Vec<_> = MEMBERS.iter().map(|member| format!("{member:?}")).collect();
    let mut lines = Vec::new();
    for line in manifest.lines() {
        match line.split(' ').next() {
            Some("members") => lines.push(format!("members = [{}]", members.join(", "))),
            Some("exclude" | "mdt-host") => {}
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

/// A member's manifest without what is for its own tests and benchmarks, and without its build script, which names its sources.
fn member_manifest(manifest: &str) -> String {
    let mut is_kept = true;
    let mut keep = |line: &&str| {
        if line.starts_with('[') {
            is_kept = !matches!(*line, "[build-dependencies]" | "[dev-dependencies]" | "[[bench]]" | "[[test]]");
        }
        is_kept
    };
    manifest.lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect()
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in entries(from)? {
        let copy = to.join(entry.file_name().unwrap_or_default());
        if entry.is_dir() {
            copy_folder(&entry, &copy)?;
        } else {
            fs::copy(&entry, copy)?;
        }
    }
    Ok(())
}

/// The same bytes for the same files: names in order, and nothing of this machine or this moment. With GNU tar.
fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let tar = PathBuf::from(archive).with_extension("");
    let same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"];
    let mut packed = Command::new("tar");
    packed.args(same).args(["--format=ustar", "--create", "--file"]).arg(&tar).arg("--directory").arg(folder).arg(".");
    command::run(&mut packed)?;
    command::run(Command::new("gzip").args(["--no-name", "--best", "--force"]).arg(&tar))
}
