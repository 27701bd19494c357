//! Arrow files and streams (<https://arrow.apache.org/docs/format/IPC.html>), which Feather of version 2 is, too: record batches,
//! each of which is decoded as a whole. A file says at its end where they are; those of a stream follow each other, as `datasets`
//! writes them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::{Block, Message, MessageHeader, MetadataVersion, root_as_footer, root_as_message};
use arrow_schema::{ArrowError, SchemaRef};
use mdt_plugin_api::Result;

use crate::damage::checked;
use crate::table::{Blocks, Group};

/// How a file begins and ends.
pub(crate) const MAGIC: &[u8; 6] = b"ARROW1";

/// How a message begins, and so a stream.
pub(crate) const CONTINUATION: [u8; 4] = [0xff; 4];

const KIND: &str = "Arrow";

/// The most bytes that a compressed buffer may say it has.
const LARGEST: i64 = 1 << 32;

/// A record batch.
struct Batch {
    block: Block,
    /// How many of the dictionaries come before it: they may change between two batches.
    dictionaries: usize,
}

/// A file or a stream.
pub(crate) struct ArrowFile {
    content: Content,
    path: PathBuf,
    schema: SchemaRef,
    version: MetadataVersion,
    dictionaries: Vec<Block>,
    batches: Vec<Batch>,
    groups: Vec<Group>,
    /// What decodes, and how many dictionaries it has read.
    decoder: (FileDecoder, usize),
}

impl ArrowFile {
    /// Opens a file.
    ///
    /// # Errors
    /// It is damaged.
    pub fn open(file: File, path: &Path) -> Result<Self> {
        checked(path, KIND, || {
            let content = Content::new(file)?;
            let end = content.bytes(content.length.checked_sub(10).ok_or_else(cut_off)?, 10)?;
            let length = read_footer_length(end[..].try_into().map_err(|_| cut_off())?)? as u64;
            let footer = content.length.checked_sub(10 + length).ok_or_else(cut_off)?;
            let bytes = content.bytes(footer, length)?;
            let footer = root_as_footer(&bytes).map_err(|error| wrong(error.to_string()))?;
            let schema = footer.schema().ok_or_else(|| wrong("it has no schema"))?;
            if !schema.endianness().equals_to_target_endianness() {
                return Err(wrong("it is from a machine of another byte order"));
            }
            let dictionaries: Vec<Block> = footer.dictionaries().iter().flatten().copied().collect();
            let mut opened = Self::new(content, path, Arc::new(try_fb_to_schema(schema)?), footer.version());
            for block in footer.recordBatches().iter().flatten() {
                let rows = opened.content.message(block.offset() as u64)?.ok_or_else(cut_off)?.rows()?;
                opened.push(*block, dictionaries.len(), rows)?;
            }
            opened.dictionaries = dictionaries;
            Ok(opened)
        })
    }

    /// Opens a stream: where its messages are is read, and not what is in them.
    ///
    /// # Errors
    /// It is damaged, or lacks the mark at its end: then some of it may be missing.
    pub fn open_stream(file: File, path: &Path) -> Result<Self> {
        checked(path, KIND, || {
            let content = Content::new(file)?;
            let first = content.message(0)?.ok_or_else(|| wrong("it has no schema"))?;
            let (schema, version) = {
                let message = first.parsed()?;
                let schema = message.header_as_schema().ok_or_else(|| wrong("it does not begin with its schema"))?;
                (Arc::new(try_fb_to_schema(schema)?), message.version())
            };
            let mut opened = Self::new(content, path, schema, version);
            let mut place = first.end();
            while let Some(message) = opened.content.message(place)? {
                let block = Block::new(place as i64, message.prefix as i32, message.body as i64);
                match message.parsed()?.header_type() {
                    MessageHeader::DictionaryBatch => opened.dictionaries.push(block),
                    MessageHeader::RecordBatch => opened.push(block, opened.dictionaries.len(), message.rows()?)?,
                    other => return Err(wrong(format!("it has a message of the kind {other:?}"))),
                }
                place = message.end();
            }
            Ok(opened)
        })
    }

    fn new(content: Content, path: &Path, schema: SchemaRef, version: MetadataVersion) -> Self {
        let decoder = (FileDecoder::new(Arc::clone(&schema), version), 0);
        let (dictionaries, batches, groups) = (Vec::new(), Vec::new(), Vec::new());
        Self { content, path: path.to_owned(), schema, version, dictionaries, batches, groups, decoder }
    }

    fn push(&mut self, block: Block, dictionaries: usize, rows: u64) -> Result<(), ArrowError> {
        let before = self.groups.last().map_or(0, |group| group.end);
        let end = before.checked_add(rows).ok_or_else(|| wrong("it has too many rows"))?;
        self.groups.push(Group { end, block: rows.max(1) });
        self.batches.push(Batch { block, dictionaries });
        Ok(())
    }

    fn decode(&mut self, group: usize) -> Result<(RecordBatch, usize), ArrowError> {
        let Batch { block, dictionaries } = &self.batches[group];
        let (decoder, known) = &mut self.decoder;
        if *known > *dictionaries {
            *decoder = FileDecoder::new(Arc::clone(&self.schema), self.version);
            *known = 0;
        }
        for block in &self.dictionaries[*known..*dictionaries] {
            decoder.read_dictionary(block, &self.content.block(block)?)?;
            *known += 1;
        }
        let buffer = self.content.block(block)?;
        let rows = decoder.read_record_batch(block, &buffer)?.ok_or_else(|| wrong("a record batch has no content"))?;
        // Its columns are parts of one buffer, where it is not compressed.
        let bytes = rows.columns().iter().map(|column| column.get_buffer_memory_size()).max().unwrap_or(0);
        Ok((rows, bytes.max(buffer.len())))
    }
}

impl Blocks for ArrowFile {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn read(&mut self, group: usize, _block: u64) -> Result<(RecordBatch, usize)> {
        let path = self.path.clone();
        let before = group.checked_sub(1).map_or(0, |before| self.groups[before].end);
        let expected = self.groups[group].end - before;
        checked(&path, KIND, || match self.decode(group)? {
            (rows, bytes) if rows.num_rows() as u64 == expected => Ok((rows, bytes)),
            _ => Err(wrong("a record batch has another number of rows than it says")),
        })
    }
}

/// The bytes of a file, none of which are read beyond its end, whatever lengths are in it.
struct Content {
    file: File,
    length: u64,
}

/// A message without its body.
struct Envelope {
    place: u64,
    /// The bytes before the body: the mark, the length and the metadata, which follows them.
    prefix: u64,
    metadata: Vec<u8>,
    body: u64,
}

impl Content {
    fn new(file: File) -> Result<Self, ArrowError> {
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    fn bytes(&self, place: u64, length: u64) -> Result<Vec<u8>, ArrowError> {
        if place.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(cut_off());
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, place)?;
        Ok(bytes)
    }

    /// A message with its body.
    fn block(&self, block: &Block) -> Result<Buffer, ArrowError> {
        let sizes = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()].map(u64::try_from);
        let [Ok(place), Ok(prefix), Ok(body)] = sizes else { return Err(wrong("a part of it has a negative size")) };
        let message = self.message(place)?.ok_or_else(cut_off)?;
        if (message.prefix, message.body) != (prefix, body) {
            return Err(wrong("a record batch has another size than the file says"));
        }
        let mut buffer = MutableBuffer::from_len_zeroed((prefix + body) as usize);
        self.file.read_exact_at(&mut buffer, place)?;
        let buffer = Buffer::from(buffer);
        message.require_sizes(&buffer.slice(prefix as usize))?;
        Ok(buffer)
    }

    /// The message that begins here; none where the stream ends here.
    fn message(&self, place: u64) -> Result<Option<Envelope>, ArrowError> {
        let start = self.bytes(place, 8)?;
        let (mark, length) = start.split_at(4);
        if *mark != CONTINUATION {
            return Err(wrong("a message does not begin where the one before it ends"));
        }
        let length = u64::from(u32::from_le_bytes(length.try_into().map_err(|_| cut_off())?));
        if length == 0 {
            return Ok(None);
        }
        let metadata = self.bytes(place + 8, length)?;
        let mut envelope = Envelope { place, prefix: 8 + length, metadata, body: 0 };
        let body = u64::try_from(envelope.parsed()?.bodyLength()).ok();
        let end = body.and_then(|body| (place + envelope.prefix).checked_add(body));
        envelope.body = body.filter(|_| end.is_some_and(|end| end <= self.length)).ok_or_else(cut_off)?;
        Ok(Some(envelope))
    }
}

impl Envelope {
    fn parsed(&self) -> Result<Message<'_>, ArrowError> {
        root_as_message(&self.metadata).map_err(|error| wrong(error.to_string()))
    }

    fn end(&self) -> u64 {
        self.place + self.prefix + self.body
    }

    /// The number of rows of a record batch.
    fn rows(&self) -> Result<u64, ArrowError> {
        let message = self.parsed()?;
        let batch = message.header_as_record_batch().ok_or_else(|| wrong("a record batch is something else"))?;
        u64::try_from(batch.length()).map_err(|_| wrong("a record batch has a negative number of rows"))
    }

    /// Refuses what would be decompressed into more memory than there is: such an allocation would end the program.
    fn require_sizes(&self, body: &Buffer) -> Result<(), ArrowError> {
        let message = self.parsed()?;
        let dictionary = message.header_as_dictionary_batch().and_then(|batch| batch.data());
        let Some(batch) = message.header_as_record_batch().or(dictionary) else { return Ok(()) };
        if batch.compression().is_none() {
            return Ok(());
        }
        for buffer in batch.buffers().iter().flatten() {
            let start = usize::try_from(buffer.offset()).ok().and_then(|start| body.get(start..)?.first_chunk::<8>());
            if buffer.length() > 8 && start.is_none_or(|length| i64::from_le_bytes(*length) > LARGEST) {
                return Err(wrong("a compressed part of it has an impossible size"));
            }
        }
        Ok(())
    }
}

fn cut_off() -> ArrowError {
    wrong("it ends too early")
}

fn wrong(what: impl Into<String>) -> ArrowError {
    ArrowError::ParseError(what.into())
}
