//! Parquet files (<https://parquet.apache.org/docs/file-format/>): row groups, which are decoded a block of rows at a time.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use mdt_plugin_api::Result;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::reader::{ChunkReader, Length};

use crate::damage::{checked, damaged};
use crate::table::{Blocks, Group};

/// How a file begins and ends.
pub(crate) const MAGIC: &[u8; 4] = b"PAR1";

const KIND: &str = "Parquet";

/// About how many decoded bytes a block has. A row group may be as large as the file.
const BLOCK: u64 = 1 << 20;

/// The most rows of a block.
const MOST: u64 = 4096;

/// A file.
pub(crate) struct ParquetFile {
    file: Chunks,
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    groups: Vec<Group>,
    /// What reads on, and the group and block that it reads next: the next block of a group takes no search.
    next: Option<(usize, u64, ParquetRecordBatchReader)>,
}

impl ParquetFile {
    /// Opens a file.
    ///
    /// # Errors
    /// It is damaged.
    pub fn open(file: File, path: &Path) -> Result<Self> {
        let file = Chunks(Arc::new(file));
        // Where pages begin, if the file has it: rows are then found without reading those before.
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = checked(path, KIND, || ArrowReaderMetadata::load(&file, options))?;
        let mut groups = Vec::new();
        let mut end = 0u64;
        for group in metadata.metadata().row_groups() {
            let sizes = [group.num_rows(), group.total_byte_size()].map(u64::try_from);
            let [Ok(rows), Ok(bytes)] = sizes else {
                return Err(damaged(path, KIND, "a row group has a negative size"));
            };
            end = end.checked_add(rows).ok_or_else(|| damaged(path, KIND, "it has too many rows"))?;
            let block =
                (u128::from(rows) * u128::from(BLOCK) / u128::from(bytes.max(1))).clamp(1, u128::from(MOST)) as u64;
            groups.push(Group { end, block });
        }
        Ok(Self { file, path: path.to_owned(), metadata, groups, next: None })
    }

    /// What reads a group from this row on, so many at a time.
    fn reader(&self, group: usize, first: u64) -> Result<ParquetRecordBatchReader, ParquetError> {
        let before = group.checked_sub(1).map_or(0, |before| self.groups[before].end);
        let Group { end, block } = self.groups[group];
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone());
        let builder = builder.with_row_groups(vec![group]).with_batch_size(block as usize);
        let rest = RowSelector::select((end - before - first) as usize);
        match first {
            0 => builder.build(),
            _ => builder.with_row_selection(RowSelection::from(vec![RowSelector::skip(first as usize), rest])).build(),
        }
    }
}

impl Blocks for ParquetFile {
    fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn read(&mut self, group: usize, block: u64) -> Result<(RecordBatch, usize)> {
        let size = self.groups[group].block;
        let before = group.checked_sub(1).map_or(0, |before| self.groups[before].end);
        let expected = (self.groups[group].end - before - block * size).min(size);
        // After an error nothing reads on.
        let next = self.next.take().filter(|next| (next.0, next.1) == (group, block));
        let (rows, reader) = checked(&self.path, KIND, || {
            let mut reader = match next {
                Some((_, _, reader)) => reader,
                None => self.reader(group, block * size).map_err(|error| error.to_string())?,
            };
            let rows = reader.next().ok_or("a row group has fewer rows than the file says")?;
            rows.map(|rows| (rows, reader)).map_err(|error| error.to_string())
        })?;
        if rows.num_rows() as u64 != expected {
            return Err(damaged(&self.path, KIND, "a row group has fewer rows than the file says"));
        }
        self.next = Some((group, block + 1, reader));
        let bytes = rows.get_array_memory_size();
        Ok((rows, bytes))
    }
}

/// A file that is read at any place, and never beyond its end, whatever lengths are in it.
#[derive(Clone)]
struct Chunks(Arc<File>);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.metadata().map_or(0, |file| file.len())
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(From { file: Arc::clone(&self.0), place: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(ParquetError::EOF("a part of it is said to be behind its end".to_owned()));
        }
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A file from a place on.
struct From {
    file: Arc<File>,
    place: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}
