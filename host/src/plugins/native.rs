//! The native libraries that come with a plugin: what the system's loader finds for it in its run path.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use object::read::elf::{Dyn, FileHeader};
use object::{Endianness, elf};

/// The libraries that a file needs and that lie in its run path, then those that they need in turn: name and path. The
/// system's own are not among them. Empty where the file is not in the ELF format.
///
/// The order is that in which the system's loader searches symbols, and in which they must be loaded: `libmlxc.so`
/// redirects the matrix products of `libmlx.so`, for which it has to come first.
pub(super) fn libraries(file: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let (mut file, mut next) = (file.to_owned(), 0);
    loop {
        let Dynamic { needed, run_path, .. } = dynamic_section(&file).unwrap_or_default();
        for name in needed {
            if let Some(path) = run_path.iter().map(|place| place.join(&name)).find(|path| path.is_file())
                && found.iter().all(|(known, _)| *known != name)
            {
                found.push((name, path));
            }
        }
        let Some((_, path)) = found.get(next) else { return found };
        file.clone_from(path);
        next += 1;
    }
}

/// Whether a library has this name (`DT_SONAME`), by which the system's loader knows it once it is loaded.
pub(super) fn has_name(file: &Path, name: &str) -> bool {
    dynamic_section(file).is_some_and(|section| section.own_name.is_some_and(|own| own == name))
}

/// What an ELF file says of libraries.
#[derive(Default)]
struct Dynamic {
    own_name: Option<String>,
    /// The names of those that it needs.
    needed: Vec<String>,
    /// The directories in which those are searched.
    run_path: Vec<PathBuf>,
}

fn dynamic_section(file: &Path) -> Option<Dynamic> {
    let origin = file.parent()?.to_str()?;
    // SAFETY: the bytes are only read, and whoever may write to the file could as well replace it.
    let bytes = unsafe { Mmap::map(&File::open(file).ok()?) }.ok()?;
    let header = elf::FileHeader64::<Endianness>::parse(&*bytes).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, &*bytes).ok()?;
    let (entries, link) = sections.dynamic(endian, &*bytes).ok()??;
    let strings = sections.strings(endian, &*bytes, link).ok()?;
    let mut dynamic = Dynamic::default();
    for entry in entries {
        let text = || Some(std::str::from_utf8(entry.string(endian, strings).ok()?).ok()?.to_owned());
        match entry.tag(endian) {
            elf::DT_SONAME => dynamic.own_name = text(),
            elf::DT_NEEDED => dynamic.needed.push(text()?),
            elf::DT_RUNPATH | elf::DT_RPATH => {
                let places = text()?.replace("$ORIGIN", origin).replace("${ORIGIN}", origin);
                dynamic.run_path.extend(places.split(':').filter(|place| !place.is_empty()).map(PathBuf::from));
            }
            _ => {}
        }
    }
    Some(dynamic)
}
