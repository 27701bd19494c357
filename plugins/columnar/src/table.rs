//! The rows of a file in any order. They are decoded in blocks, of which the last ones that were needed are kept.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, FieldRef, SchemaRef};
use mdt_plugin_api::{Error, Result};

use crate::arrow_file::{self, ArrowFile};
use crate::parquet_file::{self, ParquetFile};

/// The bytes of decoded blocks that are kept. Rows in a random order meet a block again only while it is there: that is all of
/// a small file.
const KEPT: usize = 64 << 20;

/// Rows that a file has together: a row group of Parquet, a record batch of Arrow.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// The rows of the file up to and with its last one.
    pub end: u64,
    /// The rows of it that are decoded together; the last block may have fewer.
    pub block: u64,
}

/// A kind of file.
pub(crate) trait Blocks: Send {
    fn schema(&self) -> &SchemaRef;

    fn groups(&self) -> &[Group];

    /// Decodes a block of a group, and says how many bytes it takes.
    ///
    /// # Errors
    /// The file is damaged.
    fn read(&mut self, group: usize, block: u64) -> Result<(RecordBatch, usize)>;
}

struct Kept {
    group: usize,
    block: u64,
    rows: RecordBatch,
    bytes: usize,
}

/// The rows of a file.
pub(crate) struct Table {
    file: Box<dyn Blocks>,
    kept: VecDeque<Kept>,
}

impl Table {
    /// Opens a file, of which little is read.
    ///
    /// # Errors
    /// It is not there, of another kind or damaged; a column has a type that has no form in JSON.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = |error: io::Error| {
            Error::input("the data file cannot be read").with("file", path.display()).caused_by(error)
        };
        if fs::metadata(path).is_ok_and(|kind| !kind.is_file()) {
            return Err(Error::input("the data source is not a regular file").with("file", path.display()));
        }
        let file = File::open(path).map_err(unreadable)?;
        let mut start = [0; 8];
        let whole = match file.read_exact_at(&mut start, 0) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            result => result.map(|()| true).map_err(unreadable)?,
        };
        let file: Box<dyn Blocks> = match &start {
            _ if !whole && file.metadata().map_err(unreadable)?.len() == 0 => {
                return Err(Error::input("the data file is empty").with("file", path.display()));
            }
            start if start.starts_with(parquet_file::MAGIC) => Box::new(ParquetFile::open(file, path)?),
            start if start.starts_with(arrow_file::MAGIC) => Box::new(ArrowFile::open(file, path)?),
            start if start.starts_with(&arrow_file::CONTINUATION) => Box::new(ArrowFile::open_stream(file, path)?),
            start => return Err(foreign(path, start)),
        };
        for field in file.schema().fields() {
            if let Some(kind) = without_json(field) {
                return Err(Error::input(format!(
                    "the column `{}` has the type {kind}, which has no form in JSON",
                    field.name()
                ))
                .with("file", path.display())
                .help("write the file again with it as text or numbers, or without it"));
            }
        }
        Ok(Self { file, kept: VecDeque::new() })
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.file.groups().last().map_or(0, |group| group.end)
    }

    /// The block that has this row, and the row's place in it.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn row(&mut self, row: u64) -> Result<(&RecordBatch, usize)> {
        let groups = self.file.groups();
        let group = groups.partition_point(|group| group.end <= row);
        let (start, size) = (group.checked_sub(1).map_or(0, |before| groups[before].end), groups[group].block);
        let (block, place) = ((row - start) / size, (row - start) % size);
        match self.kept.iter().position(|kept| (kept.group, kept.block) == (group, block)) {
            Some(at) => {
                // The one that was used last comes first.
                let kept = self.kept.remove(at);
                self.kept.extend(kept);
                self.kept.rotate_right(1);
            }
            None => {
                let (rows, bytes) = self.file.read(group, block)?;
                self.kept.push_front(Kept { group, block, rows, bytes });
                let mut bytes = 0;
                self.kept.retain(|kept| {
                    let fits = bytes == 0 || bytes + kept.bytes <= KEPT;
                    bytes += kept.bytes;
                    fits
                });
            }
        }
        Ok((&self.kept[0].rows, place as usize))
    }
}

/// The error for a file of another kind.
fn foreign(path: &Path, start: &[u8]) -> Error {
    let known: [(&[u8], &str, &str); 5] = [
        (b"FEA1", "Feather of version 1", "write it again: pyarrow.feather.write_feather(table, FILE)"),
        (b"PARE", "encrypted", "write it again without encryption"),
        (b"\x1f\x8b", "compressed with gzip as a whole", "decompress it first: gunzip FILE"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd as a whole", "decompress it first: unzstd FILE"),
        (b"version http", "a pointer of Git LFS", "fetch what it stands for: git lfs pull"),
    ];
    let found = known.into_iter().find(|(magic, ..)| start.starts_with(&magic[..magic.len().min(start.len())]));
    let (what, advice) = match found {
        Some((_, what, advice)) => (what, advice),
        None if start.trim_ascii_start().starts_with(b"{") => ("JSON", "name it so: FILE.jsonl"),
        None => ("neither Parquet nor Arrow", "its name says that it is, by its extension"),
    };
    Error::input(format!("the data file is {what}")).with("file", path.display()).help(advice)
}

/// The type of a column, or of what is in it, that has no form in JSON.
fn without_json(field: &FieldRef) -> Option<&DataType> {
    match field.data_type() {
        DataType::List(inner)
        | DataType::LargeList(inner)
        | DataType::FixedSizeList(inner, _)
        | DataType::Map(inner, _) => without_json(inner),
        DataType::Struct(fields) => fields.iter().find_map(without_json),
        DataType::Dictionary(_, values) => Some(&**values).filter(|values| values.is_nested()),
        other @ (DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)) => Some(other),
        _ => None,
    }
}
