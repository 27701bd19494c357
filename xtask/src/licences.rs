//! The licences of everything in `dist/`: their texts, and a list of files and licences.

use std::{fs, path::Path};

use crate::{
    Result, dependencies,
    files::{entries, files},
    setup,
    workspace::{self, Metadata},
};

/// The list, as a file of the repository.
const LIST: &str = "plugins/mlx/native/licenses/README.md";

/// Writes the list, the texts that it names and the table of Rust crates into `destination`.
///
/// # Errors
/// A library in `libraries` is not in the list.
pub fn stage(libraries: Option<&Path>, destination: &Path) -> Result<()> {
    let root = workspace::root();
    fs::create_dir_all(destination)?;
    for file in files(&root.join(LIST).with_file_name(""))? {
        fs::copy(&file, destination.join(file.file_name().unwrap_or_default()))?;
    }
    fs::copy(root.join("LICENSE"), destination.join("mdt-host.txt"))?;
    fs::write(destination.join("rust-crates.txt"), dependencies::linked_crates()?)?;
    let mlx_c = Metadata::read()?.package_directory("mlx-sys")?.join("src/mlx-c/LICENSE");
    fs::copy(mlx_c, destination.join("mlx-c.txt"))?;
    let Some(libraries) = libraries else { return Ok(()) };
    for folder in entries(&setup::wheel_folder())?.iter().map(|folder| folder.join("licenses")) {
        for text in files(&folder).unwrap_or_default() {
            let name = if folder.to_string_lossy().contains("openblas") { "openblas.txt" } else { "mlx.txt" };
            fs::copy(text, destination.join(name))?;
        }
    }
    let list = fs::read_to_string(root.join(LIST))?;
    for library in files(libraries)? {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.split(['.', '-']).next().unwrap_or_default();
        if !list.contains(&format!("`{stem}`")) {
            return Err(format!("{name} has no row in {LIST}").into());
        }
    }
    let mut named = list.split('`').filter(|word| word.ends_with(".txt"));
    match named.find(|text| !destination.join(text).is_file()) {
        Some(text) => Err(format!("{LIST} names {text}, which is not there").into()),
        None => Ok(()),
    }
}
