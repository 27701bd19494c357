//! Opening a data file, and what to say when what is there is no text file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;

use mdt_plugin_api::{Error, Result};

/// How files begin that are no JSON Lines but are given for them, and what to do with them.
const FOREIGN: [(&[u8], &str, &str); 6] = [
    (b"\x1f\x8b", "compressed with gzip", "decompress it first: gunzip FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it first: unzstd FILE"),
    (b"PK\x03\x04", "a zip archive", "unpack it first: unzip FILE"),
    (b"PAR1", "a Parquet file", "choose a data plugin that reads Parquet"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8, such as with: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8, such as with: iconv -f UTF-16 -t UTF-8"),
];

/// Opens a data file at its beginning.
pub(super) fn file(path: &Path) -> Result<File> {
    if path.as_os_str().is_empty() {
        return Err(Error::config("the data source is empty; the name of a JSON Lines file is expected"));
    }
    let mut file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_found(path),
        _ => unreadable(path, &error),
    })?;
    let kind = file.metadata().map_err(|error| unreadable(path, &error))?.file_type();
    if kind.is_dir() {
        return Err(directory(path));
    }
    // Rows are counted first and read again afterwards, which a pipe cannot do.
    if !kind.is_file() {
        return Err(Error::input("the data source is not a regular file").with("file", path.display()));
    }
    let mut start = Vec::new();
    file.by_ref().take(4).read_to_end(&mut start).map_err(|error| unreadable(path, &error))?;
    if let Some((_, what, advice)) = FOREIGN.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return Err(Error::input(format!("the data file is {what}, not JSON Lines"))
            .with("file", path.display())
            .help(advice));
    }
    file.rewind().map_err(|error| unreadable(path, &error))?;
    Ok(file)
}

/// The error for a file that is there and cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::input("the data file cannot be read").with("file", path.display()).caused_by(error)
}

fn not_found(path: &Path) -> Error {
    let error = Error::input("the data file does not exist").with("file", path.display());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let nearest = siblings(path.parent().unwrap_or(Path::new("")))
        .into_iter()
        .map(|sibling| (strsim::jaro_winkler(&name, &sibling), sibling))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, sibling)) => error.help(format!("there is {}", path.with_file_name(sibling).display())),
        None if path.is_relative() => error.help("the path is relative to the directory that the job was started in"),
        None => error,
    }
}

fn directory(path: &Path) -> Error {
    let error = Error::input("the data source is a directory, not a file").with("file", path.display());
    let files = siblings(path).into_iter().find(|name| Path::new(name).extension() == Some(OsStr::new("jsonl")));
    match files {
        Some(name) => error.help(format!("name a file in it, such as {}", path.join(name).display())),
        None => error.help("there is no file with the extension jsonl in it"),
    }
}

/// The names of the files in a directory, sorted; none if it cannot be read.
fn siblings(directory: &Path) -> Vec<String> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
