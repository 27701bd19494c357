//! Loading one plugin file, after every check that needs none of its code.

use std::collections::BTreeMap;
use std::mem::forget;
use std::path::Path;
use std::sync::Arc;

use libloading::os::unix::{Library as DynamicLibrary, RTLD_LOCAL, RTLD_NOW};
use mdt_plugin_api::abi::{self, ABI_VERSION, HOST_INTERFACES, LoadedComponent};
use mdt_plugin_api::{Error, Kind};

use super::checked_file::CheckedFile;
use super::lock::Lock;
use super::manifest::{Manifest, Record};
use super::native;
use super::tiers::Tier;
use crate::component_files;
use crate::exit::{Failure, Status};

/// The place of a component.
#[derive(Clone, Copy)]
pub struct Found<'a> {
    /// The file.
    pub path: &'a Path,
    /// The records in it.
    pub manifest: &'a Manifest,
    /// The tier that it is in.
    pub tier: &'a Tier,
}

impl Found<'_> {
    /// The checksums of the file and, by name, of the native libraries that come with it, in hexadecimal.
    pub fn checksums(&self) -> Result<(String, BTreeMap<String, String>), Failure> {
        let (file, libraries) = open(self.path)?;
        let native = libraries.into_iter().map(|(name, file)| Ok((name, file.sha256()?)));
        Ok((file.sha256()?, native.collect::<Result<_, Failure>>()?))
    }
}

/// A loaded plugin, and its file. The library stays loaded for good: nothing that came from it may outlive it.
pub(super) struct Library {
    pub(super) components: Vec<Arc<LoadedComponent>>,
    pub(super) file: CheckedFile,
}

/// A plugin's file and the native libraries that come with it, by name.
pub(super) type Files = (CheckedFile, Vec<(String, CheckedFile)>);

/// Makes every check of a plugin that needs none of its code.
pub(super) fn check(found: Found<'_>, lock: Option<&Lock>) -> Result<Files, Failure> {
    let Found { path, tier, .. } = found;
    check_version(found)?;
    let refused = |message: &str| Failure::new(Status::Plugin, message.to_owned()).at(path.display());
    if let Some(place) = &tier.only_named_by {
        return Err(refused("a plugin is not loaded from a directory that only a configuration file names")
            .at(place)
            .help(
                "a plugin can do all that you can: if you trust it, pass --trust-plugin-dirs, or name a lock file that \
                 has its checksum with --set plugins.lock=FILE",
            ));
    }
    let (file, libraries) = open(path)?;
    if let Some(lock) = lock {
        lock.check(&file, &libraries)?;
    }
    Ok((file, libraries))
}

/// Loads a plugin whose records are known.
pub(super) fn load(found: Found<'_>, lock: Option<&Lock>) -> Result<Library, Failure> {
    let Found { path, manifest, .. } = found;
    let refused = |message: &str| Failure::new(Status::Plugin, message.to_owned()).at(path.display());
    let (file, libraries) = check(found, lock)?;
    let library = link(&file, &libraries)
        .map_err(|error| linker_failure(refused("the plugin cannot be loaded"), manifest, error))?;
    libraries.iter().map(|(_, library)| library).chain([&file]).try_for_each(CheckedFile::require_unchanged)?;
    // SAFETY: only the address is taken.
    let entry = unsafe { library.get::<*const ()>(abi::ENTRY_SYMBOL.as_bytes()) }
        .map_err(|_| refused("the plugin has records but no entry symbol").because(abi::ENTRY_SYMBOL))?
        .as_raw_ptr();
    forget(library);
    // SAFETY: the symbol is that of a plugin by its name and records, and the library was just leaked.
    let components = unsafe { abi::load(entry.cast_const().cast()) }
        .map_err(|error| entry_failure(refused("the plugin cannot be used"), &error))?;
    components.iter().for_each(|component| component_files::note(component.name(), path));
    Ok(Library { components: components.into_iter().map(Arc::new).collect(), file })
}

/// Loads a plugin, its native libraries first.
///
/// The plugin's code is that of the file that was checked: it is loaded by its descriptor. `$ORIGIN` is not its directory
/// then, so the loader must know the native libraries already, each by the name that stands in it. They are loaded by
/// their paths, by which such libraries find files of their own; so is a plugin whose native libraries have no names.
///
/// What remains: a file that is loaded by its path and was replaced since its checks, and a write into a file while it
/// is loaded, are noticed only after constructors have run. Only the user and root can do either (`permissions`), and
/// both can change this program as well.
fn link(file: &CheckedFile, libraries: &[(String, CheckedFile)]) -> Result<DynamicLibrary, libloading::Error> {
    // SAFETY: loading runs the library's constructors: that is what the user asked for by naming the component, after
    // all checks.
    let open = |path: &Path| unsafe { DynamicLibrary::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let is_known_by = |name: &str, library: &Path| native::has_name(library, name) && open(library).map(forget).is_ok();
    let are_known = libraries.iter().all(|(name, library)| is_known_by(name, library.path()));
    open(&if are_known { file.open_path() } else { file.path().to_owned() })
}

/// Opens a plugin and the native libraries that come with it, by name.
pub(super) fn open(path: &Path) -> Result<Files, Failure> {
    let file = CheckedFile::open(path)?;
    let libraries = native::libraries(file.path());
    let libraries = libraries.into_iter().map(|(name, path)| Ok((name, CheckedFile::open(&path)?)));
    let libraries = libraries.collect::<Result<_, Failure>>()?;
    Ok((file, libraries))
}

/// Refuses a plugin that was built for another version of the boundary.
fn check_version(Found { path, manifest, .. }: Found<'_>) -> Result<(), Failure> {
    if manifest.abi == ABI_VERSION {
        return Ok(());
    }
    Err(Failure::new(Status::Plugin, "the plugin was built for another version of the plugin boundary")
        .at(path.display())
        .because(format!(
            "{} {} has version {}, this host {ABI_VERSION}",
            manifest.package, manifest.version, manifest.abi
        ))
        .help("rebuild the plugin against this host's mdt-plugin-api, or get the build for this version"))
}

/// Refuses a component that this host cannot use; others of its library are not concerned.
pub(super) fn check_component(kind: Kind, record: &Record, found: Found<'_>) -> Result<(), Failure> {
    check_version(found)?;
    let path = found.path;
    let refused = |because: String| {
        Failure::new(Status::Plugin, format!("this host cannot use the {kind} `{}`", record.id))
            .at(path.display())
            .because(because)
    };
    if !record.interfaces.iter().any(|name| kind.interfaces().contains(&name.as_str())) {
        let (offered, used) = (record.interfaces.join(", "), kind.interfaces().join(", "));
        return Err(refused(format!("it has the interface {offered}, and this host uses {used}"))
            .help("use a build of the plugin, or of mdt-host, that has the other's interface"));
    }
    match record.needs.iter().find(|name| !HOST_INTERFACES.contains(&name.as_str())) {
        None => Ok(()),
        Some(missing) => Err(refused(format!("it needs {missing}, which this host does not have"))
            .help("use a newer mdt-host, or an older build of the plugin")),
    }
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
