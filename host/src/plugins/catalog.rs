//! Every plugin file in the search tiers, and the way from a component's name to the component.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mdt_plugin_api::Kind;
use mdt_plugin_api::abi::LoadedComponent;
use serde_json::Value;

use super::load::{self, Found, Library};
use super::lock::Lock;
use super::manifest::{self, Manifest, Record};
use super::tiers::Tier;
use crate::config::Components;
use crate::exit::{Failure, Status};
use crate::nearest::nearest;

/// The plugins that were found in all search directories.
pub struct Catalog {
    tiers: Vec<(Tier, Searched)>,
    lock: Option<Lock>,
    loaded: Mutex<HashMap<PathBuf, Library>>,
}

/// The content of a search directory.
pub enum Searched {
    /// There is no such directory.
    Missing,
    /// It cannot be listed.
    Unreadable(String),
    /// It was listed.
    Files {
        /// The plugins in it.
        plugins: Vec<(PathBuf, Manifest)>,
        /// Libraries that are not plugins, with the reason.
        others: Vec<(PathBuf, String)>,
    },
}

/// One component of a listing.
pub struct Listed<'a> {
    /// The name of its kind.
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Where it is.
    pub found: Found<'a>,
    /// The file of an earlier directory that has a component of the same kind and id, which hides this one.
    pub shadowed_by: Option<&'a Path>,
}

impl Catalog {
    /// Reads the records of every file in the tiers. Runs no foreign code.
    ///
    /// # Errors
    /// The same (kind, id) twice in one tier; a lock file that cannot be read.
    pub fn scan(tiers: Vec<Tier>, lock: Option<&Path>) -> Result<Self, Failure> {
        let tiers: Vec<_> = tiers
            .into_iter()
            .map(|tier| {
                let contents = contents(&tier.directory);
                (tier, contents)
            })
            .collect();
        let catalog = Self { tiers, lock: lock.map(Lock::read).transpose()?, loaded: Mutex::default() };
        catalog.refuse_twins()?;
        Ok(catalog)
    }

    fn refuse_twins(&self) -> Result<(), Failure> {
        for (tier, contents) in &self.tiers {
            let mut seen: HashMap<(&str, &str), &Path> = HashMap::new();
            for (path, manifest) in contents.plugins() {
                for record in &manifest.components {
                    if let Some(first) = seen.insert((&record.kind, &record.id), path) {
                        let message = format!("two plugins in one directory have the {} `{}`", record.kind, record.id);
                        return Err(Failure::new(Status::Plugin, message)
                            .at(first.display())
                            .at(path.display())
                            .help(format!("remove one of them from {}", tier.directory.display())));
                    }
                }
            }
        }
        Ok(())
    }

    /// All components, in the order of tiers, files, kinds and ids.
    pub fn list(&self) -> Vec<Listed<'_>> {
        let mut first: HashMap<(&str, &str), &Path> = HashMap::new();
        let mut list = Vec::new();
        for found in self.files() {
            for Record { kind, id, .. } in &found.manifest.components {
                let earlier = *first.entry((kind, id)).or_insert(found.path);
                list.push(Listed { kind, id, found, shadowed_by: (earlier != found.path).then_some(earlier) });
            }
        }
        list
    }

    /// Libraries in the tiers that are not plugins, with the reason.
    pub fn passed_over(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.tiers.iter().flat_map(|(_, contents)| contents.others()).map(|(path, why)| (path.as_path(), why.as_str()))
    }

    /// Every directory that was searched, nearest first.
    pub fn searched(&self) -> &[(Tier, Searched)] {
        &self.tiers
    }

    /// Compares every file that has components with the lock file; none where no lock file is configured.
    pub fn check_lock(&self) -> Option<Vec<Result<(), Failure>>> {
        let check = |lock: &Lock, found: Found<'_>| {
            let (file, libraries) = load::open(found.path)?;
            lock.check(&file, &libraries)
        };
        self.lock.as_ref().map(|lock| self.files().map(|found| check(lock, found)).collect())
    }

    /// The files that have components, nearest first.
    pub fn files(&self) -> impl Iterator<Item = Found<'_>> {
        self.tiers.iter().flat_map(|(tier, contents)| {
            contents.plugins().iter().map(move |(path, manifest)| Found { path, manifest, tier })
        })
    }

    /// Finds a component.
    ///
    /// # Errors
    /// It is not there; the failure lists every place that was searched.
    pub fn find(&self, kind: Kind, id: &str) -> Result<Found<'_>, Failure> {
        self.files().find(|found| found.manifest.component(kind, id).is_some()).ok_or_else(|| self.not_found(kind, id))
    }

    fn not_found(&self, kind: Kind, id: &str) -> Failure {
        let mut failure = Failure::new(Status::Plugin, format!("there is no {kind} plugin `{id}`"));
        for (tier, contents) in &self.tiers {
            failure = failure.at(format!("{} ({}): {}", tier.directory.display(), tier.origin, contents.summary(kind)));
            for (path, why) in contents.others() {
                failure = failure.at(format!("{}: passed over: {why}", path.display()));
            }
        }
        let known = self.ids(kind);
        if kind == Kind::Model {
            // The name is the model's own `model_type`, so the nearest one is another architecture and no misspelling.
            let types = known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
            return failure.help(format!(
                "the model types that can be trained here are {types}; another one needs a plugin that registers \
                 `model \"{id}\"`: a library of your own or another's, put into one of these directories (examples/gpt_neox \
                 is one)"
            ));
        }
        match nearest(id, known.iter().map(String::as_str)) {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure
                .help("copy the plugin's file into one of these directories, or name its directory with --plugin-dir"),
        }
    }

    /// The record of a component that this host can use, and where it is.
    fn usable(&self, kind: Kind, id: &str) -> Result<(Found<'_>, &Record), Failure> {
        let in_file = |found: Found<'_>| found.manifest.component(kind, id).is_some();
        let found = self.files().find(|&found| in_file(found)).ok_or_else(|| self.not_found(kind, id))?;
        let record = found.manifest.component(kind, id).ok_or_else(|| self.not_found(kind, id))?;
        load::check_component(kind, record, found)?;
        Ok((found, record))
    }

    /// Makes every check of a component that needs none of its code.
    ///
    /// # Errors
    /// It is not there, or is refused.
    pub fn check(&self, kind: Kind, id: &str) -> Result<(), Failure> {
        load::check(self.usable(kind, id)?.0, self.lock.as_ref()).map(drop)
    }

    /// A component, loaded.
    ///
    /// # Errors
    /// It is not there, or is refused, or does not load.
    pub fn component(&self, kind: Kind, id: &str) -> Result<Arc<LoadedComponent>, Failure> {
        let (found, _) = self.usable(kind, id)?;
        let is_it = |component: &&Arc<LoadedComponent>| component.kind() == kind && component.id() == id;
        let component = self.with_library(found, |library| Ok(library.components.iter().find(is_it).cloned()))?;
        let refused = |message: String| Failure::new(Status::Plugin, message).at(found.path.display());
        let component = component
            .ok_or_else(|| refused(format!("the plugin's records name the {kind} `{id}`, but it has none")))?;
        let (stated, own) = (&found.manifest.version, component.version());
        if stated != own {
            let message =
                format!("the plugin's records say that the {kind} `{id}` is version {stated}, and it says {own}");
            return Err(refused(message).help("rebuild the plugin"));
        }
        Ok(component)
    }

    /// The checksum of the file that a component was loaded from, in hexadecimal.
    pub fn checksum(&self, kind: Kind, id: &str) -> Result<String, Failure> {
        self.with_library(self.find(kind, id)?, |library| library.file.sha256())
    }

    /// Loads a file, unless it is loaded already.
    fn with_library<T>(
        &self,
        found: Found<'_>,
        body: impl FnOnce(&Library) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded.entry(found.path.to_owned()) {
            Entry::Occupied(entry) => body(entry.get()),
            Entry::Vacant(entry) => body(entry.insert(load::load(found, self.lock.as_ref())?)),
        }
    }
}

impl Searched {
    fn plugins(&self) -> &[(PathBuf, Manifest)] {
        match self {
            Self::Files { plugins, .. } => plugins,
            _ => &[],
        }
    }

    fn others(&self) -> &[(PathBuf, String)] {
        match self {
            Self::Files { others, .. } => others,
            _ => &[],
        }
    }

    fn summary(&self, kind: Kind) -> String {
        let Self::Files { plugins, .. } = self else {
            return match self {
                Self::Unreadable(why) => why.clone(),
                _ => "no such directory".to_owned(),
            };
        };
        let records = plugins.iter().flat_map(|(_, manifest)| &manifest.components);
        let ids: Vec<_> = records.filter(|record| record.kind == kind.name()).map(|record| &*record.id).collect();
        if ids.is_empty() {
            format!("no {kind} among {} plugins", plugins.len())
        } else {
            format!("has {}", ids.join(", "))
        }
    }
}

fn contents(directory: &Path) -> Searched {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Searched::Missing,
        Err(error) => return Searched::Unreadable(error.to_string()),
    };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == std::env::consts::DLL_EXTENSION))
        .collect();
    paths.sort();
    let (mut plugins, mut others) = (Vec::new(), Vec::new());
    for path in paths {
        match manifest::read(&path) {
            Ok(manifest) => plugins.push((path, manifest)),
            Err(why) => others.push((path, why)),
        }
    }
    Searched::Files { plugins, others }
}

impl Components for Catalog {
    fn schema(&self, kind: Kind, id: &str) -> Result<Value, Failure> {
        let (found, record) = self.usable(kind, id)?;
        if record.schema.is_object() {
            return Ok(record.schema.clone());
        }
        Err(Failure::new(Status::Plugin, format!("the record of the {kind} `{id}` has no schema of its configuration"))
            .at(found.path.display())
            .help("declare the configuration with `config!`, or write the schema into the record"))
    }

    fn ids(&self, kind: Kind) -> Vec<String> {
        let mut ids: Vec<_> =
            self.list().iter().filter(|listed| listed.kind == kind.name()).map(|listed| listed.id.to_owned()).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    fn model_for(&self, path: Option<&str>, name: Option<(&str, Option<&str>)>) -> Result<String, Failure> {
        crate::model::model_type(path, name)
    }
}
