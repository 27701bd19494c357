//! The places where plugins are searched, nearest first.

use std::env;
use std::path::PathBuf;

/// The origins of directories that somebody has named.
const NAMED: [&str; 3] = ["--plugin-dir", "plugins.dirs", "MDT_PLUGIN_PATH"];

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Who named it: `--plugin-dir`, `plugins.dirs`, …
    pub origin: &'static str,
    /// The directory.
    pub directory: PathBuf,
}

impl Tier {
    /// Whether somebody has named the directory, rather than that it is always searched.
    pub fn is_named(&self) -> bool {
        NAMED.contains(&self.origin)
    }
}

/// All places in their order: `--plugin-dir`, the configuration, `MDT_PLUGIN_PATH`, beside the program, the user's, the
/// system's.
pub fn tiers(plugin_dirs: &[PathBuf], configured: &[PathBuf]) -> Vec<Tier> {
    let mut tiers = Vec::new();
    let mut add = |origin, directory: PathBuf| {
        if !directory.as_os_str().is_empty() && !tiers.iter().any(|tier: &Tier| tier.directory == directory) {
            tiers.push(Tier { origin, directory });
        }
    };
    plugin_dirs.iter().for_each(|directory| add("--plugin-dir", directory.clone()));
    configured.iter().for_each(|directory| add("plugins.dirs", directory.clone()));
    if let Some(paths) = env::var_os("MDT_PLUGIN_PATH") {
        env::split_paths(&paths).for_each(|directory| add("MDT_PLUGIN_PATH", directory));
    }
    if let Some(beside) = beside_the_program() {
        add("beside the program", beside);
    }
    if let Some(data) = user_data() {
        add("user", data.join("mdt/plugins"));
    }
    add("system", PathBuf::from("/usr/local/lib/mdt/plugins"));
    tiers
}

/// `<exe>/../plugins`, where a staged tree has them; in a Cargo tree, the program's own directory.
fn beside_the_program() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let directory = program.parent()?;
    let staged = directory.parent()?.join("plugins");
    Some(if staged.is_dir() { staged } else { directory.to_owned() })
}

/// The directory for a user's data: `XDG_DATA_HOME`, `~/Library/Application Support`, `~/.local/share`.
fn user_data() -> Option<PathBuf> {
    if let Some(xdg) = env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Some(xdg);
    }
    let home = PathBuf::from(env::var_os("HOME")?);
    Some(home.join(if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" }))
}
