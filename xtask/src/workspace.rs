//! The folders of this workspace and of its dependencies, as Cargo reports them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, command};

/// The top folder of the workspace.
pub fn root() -> PathBuf {
    // Cargo sets the variable when it runs a program, so a moved checkout is no problem.
    let xtask = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    xtask.parent().unwrap_or(Path::new(".")).to_owned()
}

/// The Cargo that runs this program, started in the top folder, without the variables that it sets for this package: build
/// scripts of dependencies ask for them, and would run again where a user calls Cargo.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars().filter(|(name, _)| of_package(name)) {
        cargo.env_remove(name);
    }
    cargo
}

/// The triple of this machine. MLX's wheels, and so this project, need glibc on Linux.
pub fn host_triple() -> String {
    let system = if cfg!(target_os = "macos") { "apple-darwin" } else { "unknown-linux-gnu" };
    format!("{}-{system}", env::consts::ARCH)
}

/// The output of `cargo metadata`, kept as text: a JSON reader would be this crate's only dependency.
pub struct Metadata(String);

impl Metadata {
    /// Asks Cargo, which downloads missing dependencies on the way.
    pub fn read() -> Result<Self> {
        let mut cargo = cargo();
        cargo.args(["metadata", "--format-version=1", "--filter-platform", &host_triple()]);
        Ok(Self(command::output(&mut cargo)?))
    }

    /// The folder with the source of package `name`, wherever Cargo unpacked it.
    pub fn package_directory(&self, name: &str) -> Result<PathBuf> {
        // A mention of the package as a dependency has no version right behind its name.
        let package = format!("{{\"name\":\"{name}\",\"version\":\"");
        let start =
            self.0.find(&package).ok_or_else(|| format!("no package `{name}` in the workspace's dependencies"))?;
        let manifest = string_value(&self.0[start..], "manifest_path")?;
        Ok(Path::new(&manifest).parent().unwrap_or(Path::new("/")).to_owned())
    }

    /// The folder that Cargo builds into.
    pub fn target_directory(&self) -> Result<PathBuf> {
        Ok(string_value(&self.0, "target_directory")?.into())
    }
}

/// The first string under `key` in `json`.
fn string_value(json: &str, key: &str) -> Result<String> {
    let key = format!("\"{key}\":\"");
    let missing = || format!("`cargo metadata` shows no {key}");
    let start = json.find(&key).ok_or_else(missing)? + key.len();
    let mut value = String::new();
    let mut characters = json[start..].chars();
    loop {
        match characters.next().ok_or_else(missing)? {
            '"' => return Ok(value),
            '\\' => value.extend(characters.next()),
            character => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_found_by_its_own_entry_not_by_a_mention_as_a_dependency() {
        let json = r#"{"packages":[{"name":"user","version":"1.0.0","dependencies":[{"name":"mlx-sys","source":null}],
            "manifest_path":"/user/Cargo.toml"},{"name":"mlx-sys","version":"0.7.0","manifest_path":"/a \"b\"/Cargo.toml"}],
            "target_directory":"/t"}"#;
        let metadata = Metadata(json.to_owned());
        assert_eq!(metadata.package_directory("mlx-sys").unwrap(), Path::new("/a \"b\""));
        assert_eq!(metadata.target_directory().unwrap(), Path::new("/t"));
        assert!(metadata.package_directory("absent").is_err());
    }
}
