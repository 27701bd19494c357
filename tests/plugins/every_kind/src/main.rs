//! Prints what components of every kind answer: `every-kind` those of this program, as they are; `every-kind --exported`
//! the same, exported and imported; `every-kind FILE` those of a plugin. `--without INTERFACE`, before these and as often as there
//! are any, leaves out what a plugin of an earlier version does not have.

use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use mdt_plugin_api::abi::{ENTRY_SYMBOL, load};
use mdt_plugin_api::{Error, Result};
use mdt_test_every_kind::{MDT_PLUGIN_ENTRY, Source, transcript};

fn main() -> Result<()> {
    // Every panic that should be is in the transcript.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut arguments, mut without) = (std::env::args().skip(1).peekable(), Vec::new());
    while arguments.next_if_eq("--without").is_some() {
        without.extend(arguments.next());
    }
    let source = match arguments.next().as_deref() {
        None => Source::Native,
        // SAFETY: it is the entry of this program, which is never unloaded.
        Some("--exported") => Source::Loaded(unsafe { load((&raw const MDT_PLUGIN_ENTRY).cast()) }?),
        Some(file) => Source::Loaded(loaded(Path::new(file))?),
    };
    print!("{}", transcript(&source, &without));
    Ok(())
}

fn loaded(file: &Path) -> Result<Vec<mdt_plugin_api::abi::LoadedComponent>> {
    let failed = |error: libloading::Error| Error::plugin(file.display().to_string()).caused_by(error);
    // SAFETY: the caller trusts the plugin.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) }.map_err(failed)?;
    // SAFETY: only the address is taken.
    let entry = unsafe { library.get::<*const ()>(ENTRY_SYMBOL.as_bytes()) }.map_err(failed)?.as_raw_ptr();
    std::mem::forget(library);
    // SAFETY: it is the entry of a plugin, which was just leaked.
    unsafe { load(entry.cast_const().cast()) }
}
