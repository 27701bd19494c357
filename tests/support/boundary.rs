//! Other versions of the boundary, built: frozen ones, and today's with deliberate edits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::{Job, built, cargo, library_name, root};

/// The plugins of a version; version 0.2 had `mdt_llama`.
const PLUGINS: [&str; 7] =
    ["mdt_data", "mdt_llama", "mdt_local", "mdt_models", "mdt_optim", "mdt_sft", "mdt_test_every_kind"];

/// A file of the boundary's copy, a text in it, and what stands there instead, wherever it stands.
pub type Edit = (String, String, String);

/// A version of the boundary: a workspace as `cargo xtask freeze` packs it.
pub struct Version {
    directory: PathBuf,
}

impl Version {
    /// All frozen versions, with their names.
    pub fn frozen() -> Vec<(String, Self)> {
        let archives = fs::read_dir(root().join("tests/frozen")).expect("frozen versions");
        let mut archives: Vec<_> = archives.map(|entry| entry.expect("an entry").path()).collect();
        archives.sort();
        let unpack = |archive: PathBuf| {
            let name = archive.file_name().expect("a name").to_string_lossy().trim_end_matches(".tar.gz").to_owned();
            (name.clone(), Self::unpacked(&archive, &name))
        };
        archives.into_iter().map(unpack).collect()
    }

    fn unpacked(archive: &Path, name: &str) -> Self {
        let (directory, bytes) = (place().join(format!("frozen-{name}")), fs::read(archive).expect("an archive"));
        let stamp = directory.join("archive.sha256");
        let sha256 = format!("{:x?}", Sha256::digest(&bytes));
        let version = Self { directory };
        if fs::read_to_string(&stamp).is_ok_and(|unpacked| unpacked == sha256) {
            return version;
        }
        let _ = fs::remove_dir_all(&version.directory);
        fs::create_dir_all(&version.directory).expect("a directory");
        // With the time of now: Cargo compares it.
        let mut unpack = Command::new("tar");
        let unpacked = unpack.arg("-xzmf").arg(archive).arg("-C").arg(&version.directory).status();
        assert!(unpacked.is_ok_and(|status| status.success()), "{} cannot be unpacked", archive.display());
        version.build(&["--workspace"]);
        fs::write(stamp, sha256).expect("a file");
        version
    }

    /// Today's version with these edits, of which `packages` are built: arguments of Cargo.
    pub fn edited(name: &str, edits: &[Edit], packages: &[&str]) -> Self {
        static TODAY: OnceLock<PathBuf> = OnceLock::new();
        let today = TODAY.get_or_init(|| {
            let today = place().join("today");
            let status = cargo().args(["xtask", "freeze"]).arg(&today).current_dir(root()).status();
            assert!(status.is_ok_and(|status| status.success()), "cargo xtask freeze");
            today
        });
        let version = Self { directory: place().join(name) };
        if version.copy(today, Path::new(""), edits) || !version.plugins().is_dir() {
            // All of it anew, with the time of now: Cargo compares it with that of a library that may be another version's.
            let _ = fs::remove_dir_all(&version.directory);
            version.copy(today, Path::new(""), edits);
            // Cargo writes the version of each package into it.
            fs::copy(today.join("Cargo.lock"), version.directory.join("Cargo.lock")).expect("a copy");
            version.build(packages);
        }
        version
    }

    /// Copies a folder of a version, with edits; says whether anything differs from what was there.
    fn copy(&self, from: &Path, folder: &Path, edits: &[Edit]) -> bool {
        let mut changed = false;
        for entry in fs::read_dir(from.join(folder)).expect("a folder").map(|entry| entry.expect("an entry")) {
            let name = folder.join(entry.file_name());
            if name == Path::new("Cargo.lock") {
                continue;
            }
            changed |= match entry.path().is_dir() {
                true => self.copy(from, &name, edits),
                false => self.write(&name.display().to_string(), fs::read(entry.path()).expect("a file"), edits),
            };
        }
        changed
    }

    /// Writes a file, unless it is there as it should be; says whether it did.
    fn write(&self, name: &str, mut bytes: Vec<u8>, edits: &[Edit]) -> bool {
        for (_, from, to) in edits.iter().filter(|(file, ..)| file == name) {
            let text = String::from_utf8(bytes).expect("text");
            assert!(text.contains(from), "{name} has no {from:?} any more: write this edit anew");
            bytes = text.replace(from, to).into_bytes();
        }
        let file = self.directory.join(name);
        if fs::read(&file).is_ok_and(|old| old == bytes) {
            return false;
        }
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::write(file, bytes).expect("a file");
        true
    }

    /// Builds these packages, and keeps their libraries and the program.
    fn build(&self, packages: &[&str]) {
        let target = place().join("build");
        let names = PLUGINS.map(library_name);
        // The libraries of all versions have the same names there: Cargo must not take another version's for this one's.
        for name in &names {
            let _ = fs::remove_file(target.join("release/deps").join(name));
            let _ = fs::remove_file(target.join("release").join(name));
        }
        let mut cargo = cargo();
        cargo.args(["build", "--quiet", "--release", "--config", "profile.release.opt-level=0"]).args(packages);
        cargo.arg("--manifest-path").arg(self.directory.join("Cargo.toml"));
        // One directory for all versions: they share their dependencies.
        cargo.arg("--target-dir").arg(&target);
        let status = cargo.status();
        assert!(status.is_ok_and(|status| status.success()), "{} does not build", self.directory.display());
        fs::create_dir_all(self.plugins()).expect("a directory");
        for name in names.iter().filter(|name| target.join("release").join(name).exists()) {
            fs::copy(target.join("release").join(name), self.plugins().join(name)).expect("a copy");
        }
        fs::copy(target.join("release/every-kind"), self.program()).expect("a copy");
    }

    /// The directory of its plugins.
    pub fn plugins(&self) -> PathBuf {
        self.directory.join("built")
    }

    /// Its plugin of every kind.
    pub fn every_kind(&self) -> PathBuf {
        self.plugins().join(library_name("mdt_test_every_kind"))
    }

    /// Its program that exercises a plugin of every kind.
    pub fn program(&self) -> PathBuf {
        self.directory.join("every-kind")
    }

    /// A file of it.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.join(file)).expect("a file of the version")
    }

    /// A job with a component of every kind but compute of this version.
    pub fn job(&self) -> Job {
        job_with(&self.plugins())
    }
}

/// A job with components of the plugins in this directory: of every kind but compute, for which there is MLX.
pub fn job_with(plugins: &Path) -> Job {
    let job = Job::new().tiny_llama(&root().join("tests/fixtures/training/model"), 256);
    let job = job.argument("--plugin-dir").argument(plugins.display().to_string()).set("trainer.max_steps", 5);
    job.set("tokenizer", "every_kind").set("observers", "[\"every_kind\"]")
}

fn place() -> PathBuf {
    built().parent().expect("target/PROFILE has a parent").join("boundary")
}

/// What a program of any version prints of the components of a plugin of any version; without one, of its own.
#[track_caller]
pub fn transcript(program: &Path, plugin: Option<&Path>) -> String {
    transcript_without(&[], program, plugin)
}

/// The same, without what these interfaces have, which the program is of a version to know.
#[track_caller]
pub fn transcript_without(interfaces: &[&str], program: &Path, plugin: Option<&Path>) -> String {
    let left_out = interfaces.iter().flat_map(|interface| ["--without", interface]);
    let output = Command::new(program).args(left_out).args(plugin).output().expect("the program starts");
    let (status, stderr) = (output.status, String::from_utf8_lossy(&output.stderr));
    assert!(status.success() && stderr.is_empty(), "{} {plugin:?}: {status}\n{stderr}", program.display());
    String::from_utf8(output.stdout).expect("text")
}

/// Compares two transcripts.
#[track_caller]
pub fn assert_same(one: &str, other: &str) {
    let differs = one.lines().zip(other.lines()).enumerate().find(|(_, (one, other))| one != other);
    assert!(one == other, "{differs:?}");
}
