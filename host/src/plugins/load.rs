//! Loading one plugin file, after every check that needs none of its code.

use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use mdt_plugin_api::abi::{self, ABI_VERSION, LoadedComponent};
use mdt_plugin_api::{Error, Kind};

use super::lock::Lock;
use super::manifest::Manifest;
use crate::exit::{Failure, Status};

/// A component of a loaded plugin. The library stays loaded for good: nothing that came from it may outlive it.
#[derive(Clone)]
pub struct Component {
    library: Arc<[LoadedComponent]>,
    index: usize,
}

impl Component {
    pub(super) fn find(library: Arc<[LoadedComponent]>, kind: Kind, id: &str) -> Option<Self> {
        let index = library.iter().position(|component| component.kind() == kind && component.id() == id)?;
        Some(Self { library, index })
    }
}

impl Deref for Component {
    type Target = LoadedComponent;

    fn deref(&self) -> &LoadedComponent {
        &self.library[self.index]
    }
}

/// Loads a file whose manifest is known.
pub(super) fn load(path: &Path, manifest: &Manifest, lock: Option<&Lock>) -> Result<Arc<[LoadedComponent]>, Failure> {
    let refused = |message: &str| Failure::new(Status::Plugin, message.to_owned()).at(path.display());
    if manifest.abi != ABI_VERSION {
        return Err(refused("the plugin was built for another version of the plugin boundary")
            .because(format!(
                "{} {} has version {}, this host {ABI_VERSION}",
                manifest.package, manifest.version, manifest.abi
            ))
            .help("rebuild the plugin against this host's mdt-plugin-api, or get the build for this version"));
    }
    for record in &manifest.components {
        if let Some(kind) = Kind::from_name(&record.kind).filter(|kind| kind.version() != record.kind_version) {
            return Err(refused("the plugin was built for another version of a component's kind")
                .because(format!(
                    "{kind} {} has {kind}/{}, this host {kind}/{}",
                    record.id,
                    record.kind_version,
                    kind.version()
                ))
                .help("rebuild the plugin against this host's mdt-plugin-api"));
        }
    }
    refuse_writable(path)?;
    if let Some(lock) = lock {
        lock.check(path)?;
    }
    // A path without a separator would be searched in the linker's own directories.
    let path = &fs::canonicalize(path).map_err(|error| refused("the plugin cannot be found").because(error))?;
    // SAFETY: loading runs the library's constructors: that is what the user asked for by naming the component, after
    // the checks above.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| linker_failure(refused("the plugin cannot be loaded"), manifest, error))?;
    // SAFETY: only the address is taken.
    let entry = unsafe { library.get::<*const ()>(abi::ENTRY_SYMBOL.as_bytes()) }
        .map_err(|_| refused("the plugin has records but no entry symbol").because(abi::ENTRY_SYMBOL))?
        .as_raw_ptr();
    std::mem::forget(library);
    // SAFETY: the symbol is that of a plugin by its name and records, and the library was just leaked.
    let components = unsafe { abi::load(entry.cast_const().cast()) }
        .map_err(|error| entry_failure(refused("the plugin cannot be used"), &error))?;
    Ok(components.into())
}

/// A failed entry, in the words of the boundary, which does not know the file.
fn entry_failure(failure: Failure, error: &Error) -> Failure {
    let failure = error.causes().iter().fold(failure.because(error.message()), |failure, cause| failure.because(cause));
    match error.context().iter().find(|(key, _)| key == "help") {
        Some((_, help)) => failure.help(help),
        None => failure,
    }
}

fn linker_failure(failure: Failure, manifest: &Manifest, error: libloading::Error) -> Failure {
    let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    let missing = manifest.native.iter().find(|name| cause.contains(name.as_str()));
    let failure = failure.because(&cause);
    match missing {
        Some(name) => failure.help(format!("put {name} into the `lib` directory beside the plugin's directory")),
        None => failure,
    }
}

/// Refuses a plugin that somebody else could replace.
#[cfg(unix)]
fn refuse_writable(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    for place in [Some(path), path.parent()].into_iter().flatten() {
        // An empty parent is the working directory.
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        let mode = fs::metadata(place).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
        if mode & 0o002 != 0 {
            return Err(Failure::new(
                Status::Plugin,
                "every user of this machine can write to the plugin or its directory",
            )
            .at(format!("{} (mode {:o})", place.display(), mode & 0o7777))
            .help(format!("chmod o-w {}", place.display())));
        }
    }
    Ok(())
}
