//! Files and folders: listing, copying, removing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::Result;

/// The files directly in `folder`, by name.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|path| path.is_file()).collect())
}

/// Everything directly in `folder`, by name.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error| format!("{}: {error}", folder.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        entries.push(entry?.path());
    }
    entries.sort();
    Ok(entries)
}

/// Copies `file` into `folder`, which is made if it is not there.
pub fn copy_into(file: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let name = file.file_name().unwrap_or_default();
    fs::copy(file, folder.join(name)).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(())
}

/// Makes `folder` anew: `fill` writes into a folder beside it, which takes its place once it is whole. After a failure
/// or an interruption the old one is still there.
pub fn replace_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = folder.with_added_extension("partial");
    remove_folder(&partial)?;
    fs::create_dir_all(&partial)?;
    fill(&partial)?;
    remove_folder(folder)?;
    Ok(fs::rename(partial, folder)?)
}

/// Removes `folder` with all that is in it, if it is there.
pub fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(())
}
