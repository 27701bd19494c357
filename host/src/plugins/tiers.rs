//! The directories in which plugins are searched, nearest first.

use std::env;
use std::fmt;
use std::path::PathBuf;

use crate::config::{Origin, Plugins};

/// The origins of directories that a user has named.
const NAMED: [&str; 3] = ["--plugin-dir", "plugins.dirs", "MDT_PLUGIN_PATH"];

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// What named it: `--plugin-dir`, `plugins.dirs`, …
    pub origin: &'static str,
    /// The directory.
    pub directory: PathBuf,
    /// The place in a configuration file, where neither the user nor the system names the directory: nothing is loaded
    /// from it.
    pub only_named_by: Option<Origin>,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.directory.display(), self.origin)
    }
}

impl Tier {
    /// Whether a user has named the directory; the others are always searched.
    pub fn is_named(&self) -> bool {
        NAMED.contains(&self.origin)
    }
}

/// All places in their order: `--plugin-dir`, the configuration, `MDT_PLUGIN_PATH`, beside the program, the user's, the
/// system's. With `trust`, directories that only a configuration file names are as good as the others.
pub fn tiers(plugin_dirs: &[PathBuf], configured: &Plugins, trust: bool) -> Vec<Tier> {
    let mut tiers: Vec<Tier> = Vec::new();
    let mut add_named_by = |only_named_by: Option<Origin>, origin, directory: PathBuf| {
        if directory.as_os_str().is_empty() {
            return;
        }
        match tiers.iter_mut().find(|tier| tier.directory == directory) {
            // Somebody else names it as well.
            Some(earlier) => earlier.only_named_by = earlier.only_named_by.take().and(only_named_by),
            None => tiers.push(Tier { origin, directory, only_named_by }),
        }
    };
    plugin_dirs.iter().for_each(|directory| add_named_by(None, "--plugin-dir", directory.clone()));
    let only_named_by = configured.dirs_only_in_file.clone().filter(|_| !trust);
    configured.dirs.iter().for_each(|place| add_named_by(only_named_by.clone(), "plugins.dirs", place.clone()));
    let mut add = |origin, directory| add_named_by(None, origin, directory);
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
