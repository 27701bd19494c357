//! Names the sources of a built-in plugin in its file, so that builds of the same sources are known as such on machines whose files
//! differ: other systems, compilers, directories.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What every plugin of the workspace is built from, relative to its package.
const COMMON: [&str; 5] = ["Cargo.toml", "build.rs", "src", "../../plugin-api/src", "../../Cargo.lock"];

/// Gives the `plugin!` of this package the checksum of its sources. `more` is what else they are, relative to the package: files, or
/// directories with all that is in them. For a build script.
///
/// # Errors
/// A file or directory that cannot be read.
pub fn declare(more: &[&str]) -> io::Result<()> {
    let paths: Vec<&str> = COMMON.iter().chain(more).copied().collect();
    paths.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    println!("cargo::rustc-env=MDT_PLUGIN_SOURCES={}", digest(&paths)?);
    Ok(())
}

/// The SHA-256, in hexadecimal, of the files at these paths, which are relative to the package: their names and what is in them. A
/// directory stands for all that is in it.
///
/// # Errors
/// A file or directory that cannot be read.
pub fn digest(paths: &[&str]) -> io::Result<String> {
    digest_in(Path::new("."), paths)
}

fn digest_in(directory: &Path, paths: &[&str]) -> io::Result<String> {
    let mut all = Sha256::new();
    for path in paths {
        for (name, file) in files(path, &directory.join(path))? {
            let content = fs::read(&file)?;
            all.update(format!("{name}\n{}\n", content.len()));
            all.update(content);
        }
    }
    Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files in a directory, or the one file, each with its name below `name`, in the same order on every machine. Hidden files are
/// no sources.
fn files(name: &str, path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    if !path.is_dir() {
        return Ok(vec![(name.to_owned(), path.to_owned())]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let own = entry.file_name().to_string_lossy().into_owned();
        if !own.starts_with('.') {
            all.extend(files(&format!("{name}/{own}"), &entry.path())?);
        }
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_names_and_content_and_of_no_place() {
        let with = |files: &[(&str, &str)]| {
            let place = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = place.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            digest_in(place.path(), &["src", "Cargo.toml"]).unwrap()
        };
        let one = with(&[("src/lib.rs", "a"), ("src/deep/b.rs", "b"), ("Cargo.toml", "c")]);
        assert_eq!(one.len(), 64);
        let same =
            [("Cargo.toml", "c"), ("src/deep/b.rs", "b"), ("src/.hidden", "x"), ("other", "y"), ("src/lib.rs", "a")];
        assert_eq!(with(&same), one);
        for other in [
            [("src/lib.rs", "a"), ("src/deep/b.rs", "B"), ("Cargo.toml", "c")],
            [("src/lib.rs", "a"), ("src/deep/c.rs", "b"), ("Cargo.toml", "c")],
            [("src/lib.rs", ""), ("src/deep/b.rs", "b"), ("Cargo.toml", "c")],
        ] {
            assert_ne!(with(&other), one, "{other:?}");
        }
        assert!(digest(&["no such file"]).is_err());
    }
}
