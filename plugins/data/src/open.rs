//! Opens a data file, and says what it is if it is no text file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use mdt_plugin_api::{Error, Result};

use crate::compressed::{Codec, Compressed};

/// How files of other kinds begin, and what to do with them.
const FOREIGN: [(&[u8], &str, &str); 8] = [
    (b"\x5d\0\0", "compressed with lzma", "decompress it first: unlzma FILE"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "decompress it first: unlz4 FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x FILE"),
    (b"PK\x03\x04", "a zip archive", "unpack it first: unzip FILE"),
    (b"PAR1", "a Parquet file", "name it so, FILE.parquet, or set data.use = \"parquet\""),
    (b"ARROW1", "an Arrow file", "name it so, FILE.arrow, or set data.use = \"arrow\""),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8, such as with: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8, such as with: iconv -f UTF-16 -t UTF-8"),
];

/// The offset and bytes that identify a tar archive.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// The text of a data file.
pub(crate) enum Data {
    Plain(File),
    Compressed(Box<Compressed>),
}

impl Read for Data {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Compressed(file) => file.read(buffer),
        }
    }
}

impl Seek for Data {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Plain(file) => file.seek(to),
            Self::Compressed(file) => file.seek(to),
        }
    }
}

/// Opens a data file at its beginning.
pub(crate) fn file(path: &Path) -> Result<Data> {
    if path.as_os_str().is_empty() {
        return Err(Error::config("the data source is empty; the name of a file is expected"));
    }
    // Before it is opened: opening a named pipe waits for a writer.
    let kind = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_found(path),
        _ => unreadable(path, &error),
    })?;
    if kind.is_dir() {
        return Err(directory(path));
    }
    // Rows are counted first and read again afterwards, which only a regular file allows.
    if !kind.is_file() {
        return Err(Error::input("the data source is not a regular file, but a pipe, a device or a socket")
            .with("file", path.display())
            .help("write the rows to a file and name that"));
    }
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let start = beginning(&mut file).map_err(|error| unreadable(path, &error))?;
    let Some(codec) = Codec::of(&start) else {
        refuse_foreign(path, &start, "")?;
        return Ok(Data::Plain(file));
    };
    let mut text = Compressed::new(codec, file).map_err(|error| unreadable(path, &error))?;
    let start = beginning(&mut text).map_err(|error| unreadable(path, &error))?;
    refuse_foreign(path, &start, &format!(", inside {}", codec.name))?;
    Ok(Data::Compressed(Box::new(text)))
}

/// The first bytes of a file, enough to know its kind; leaves it at its beginning.
fn beginning(file: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    file.by_ref().take((TAR.0 + TAR.1.len()) as u64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start)
}

fn refuse_foreign(path: &Path, start: &[u8], inside: &str) -> Result<()> {
    let foreign = FOREIGN.iter().find(|(magic, ..)| start.starts_with(magic)).map(|&(_, what, advice)| (what, advice));
    let tar = start.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1));
    match foreign.or(tar.then_some(("a tar archive", "unpack it first: tar -xf FILE"))) {
        Some((what, advice)) => Err(Error::input(format!("the data file is {what}{inside}, not text"))
            .with("file", path.display())
            .help(advice)),
        None => Ok(()),
    }
}

/// The error for a file that is there and cannot be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Error {
    let described = Error::input("the data file cannot be read").with("file", path.display()).caused_by(error);
    match Codec::named_in(&error.to_string()) {
        Some(codec) => {
            described.help(format!("fetch or compress it again; {} FILE says whether it is whole", codec.test))
        }
        None => described,
    }
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
        None if name.contains(['*', '?', '[']) => error.help("no file has a name of this pattern"),
        None if path.is_relative() => error.help("the path is relative to the directory that the job was started in"),
        None => error,
    }
}

fn directory(path: &Path) -> Error {
    let error = Error::input("the data source is a directory, not a file").with("file", path.display());
    let files = siblings(path).into_iter().find(|name| Path::new(name).extension() == Some(OsStr::new("jsonl")));
    match files {
        Some(name) => error.help(format!("name a file in it, such as {}", path.join(name).display())),
        None => error.help(
            "there is no file of rows in it: their names end in jsonl, json, csv, tsv, parquet or arrow, or in one of these \
             and gz, zst, bz2 or xz",
        ),
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
