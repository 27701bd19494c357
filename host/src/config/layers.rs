//! The layers of a configuration in their order of precedence, and the sources that they are read from.

use super::layer::Layer;
use super::overrides::{self, Flag};
use super::{files, flat, launcher, of_checkpoint};
use crate::exit::Failure;
use crate::launchers::{Started, Variables};
use crate::nearest::nearest;
use std::path::PathBuf;

/// The sources of a configuration, as the command line names them.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The variables by which a launcher may have told this process its rank; none where it is no rank.
    pub launcher: Option<Variables>,
    /// `--config`, in order.
    pub files: Vec<PathBuf>,
    /// `--profile`.
    pub profile: Option<String>,
    /// Environment variables; those that are not keys are ignored.
    pub environment: Vec<(String, String)>,
    /// `--set`, in order.
    pub set: Vec<String>,
    /// Options that stand for a key. They override all other sources.
    pub flags: Vec<Flag>,
}

/// The environment variables of this process that may be keys.
pub fn process_environment() -> Result<Vec<(String, String)>, Failure> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("MDT_")) else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| Failure::configuration(format!("the environment variable {name} is not valid UTF-8")))?;
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

/// The layers that the user wrote, lowest precedence first: parsed and normalised, not yet merged.
#[derive(Debug, Clone)]
pub struct Layers {
    pub(super) layers: Vec<Layer>,
    /// What a launcher has told this process.
    pub(super) started: Option<Started>,
}

impl Layers {
    /// Reads and parses all sources.
    ///
    /// # Errors
    /// A file cannot be read or parsed, no file has the profile, or a `--set` is malformed.
    pub fn read(sources: &Sources) -> Result<Self, Failure> {
        let mut layers = Vec::new();
        let mut chosen_profile = Vec::new();
        let mut profile_names = Vec::new();
        for path in &sources.files {
            let mut file = files::read(path)?;
            layers.push(file.base);
            let profile = sources.profile.as_ref().and_then(|name| file.profiles.remove(name));
            chosen_profile.extend(profile);
            profile_names.extend(file.profiles.into_keys());
        }
        if let Some(name) = sources.profile.as_ref().filter(|_| chosen_profile.is_empty()) {
            let failure = Failure::configuration(format!("no configuration file has a profile `{name}`"));
            return Err(match nearest(name, profile_names.iter().map(String::as_str)) {
                Some(near) => failure.help(format!("did you mean `--profile {near}`?")),
                None if profile_names.is_empty() => failure.help("a profile is a table `[profile.NAME]` in a file"),
                None => failure.help(format!("the profiles are: {}", profile_names.join(", "))),
            });
        }
        let is_flat = layers.iter().any(Layer::is_flat);
        layers.extend(chosen_profile);
        layers.extend(overrides::environment(&sources.environment)?);
        layers.extend(overrides::set(&sources.set)?);
        layers.extend(overrides::flags(&sources.flags)?);
        let told =
            sources.launcher.as_ref().map(|variables| launcher::layers(variables, &layers)).transpose()?.flatten();
        let (started, told) = told.unzip();
        let of_checkpoint = of_checkpoint::layer(&layers)?;
        let below = of_checkpoint
            .into_iter()
            .chain(is_flat.then(flat::defaults).transpose()?)
            .chain(told.into_iter().flatten());
        layers.splice(0..0, below);
        Ok(Layers { layers, started })
    }

    /// What a launcher has told this process.
    pub fn started(&self) -> Option<&Started> {
        self.started.as_ref()
    }

    /// Whether a layer sets a key of a section.
    pub fn set(&self, section: &str, key: &str) -> bool {
        self.layers.iter().any(|layer| layer.values.get(section).is_some_and(|values| values.get(key).is_some()))
    }
}
