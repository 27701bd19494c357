//! The text of a compressed file, which can be read from any offset again.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};

/// A way in which files are compressed. All check what they have read by its checksums, and all read files of several parts, one
/// after the other.
#[derive(Clone, Copy)]
pub(crate) struct Codec {
    pub name: &'static str,
    /// How a file begins.
    magic: &'static [u8],
    /// The command that says whether a file is whole.
    pub test: &'static str,
    decoder: fn(BufReader<File>) -> io::Result<Box<dyn Read + Send>>,
}

/// All of them.
const CODECS: [Codec; 4] = [
    Codec {
        name: "gzip",
        magic: b"\x1f\x8b",
        test: "gzip -t",
        decoder: |file| Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file))),
    },
    Codec {
        name: "zstd",
        magic: b"\x28\xb5\x2f\xfd",
        test: "zstd -t",
        decoder: |file| Ok(Box::new(zstd::stream::read::Decoder::with_buffer(file)?)),
    },
    Codec {
        name: "bzip2",
        magic: b"BZh",
        test: "bzip2 -t",
        decoder: |file| Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(file))),
    },
    Codec {
        name: "xz",
        magic: b"\xfd7zXZ\0",
        test: "xz -t",
        decoder: |file| Ok(Box::new(lzma_rust2::XzReader::new(file, true))),
    },
];

impl Codec {
    /// That of a file that begins so.
    pub fn of(start: &[u8]) -> Option<Self> {
        CODECS.into_iter().find(|codec| start.starts_with(codec.magic))
    }

    /// That of a file of which this says that it is damaged.
    pub fn named_in(error: &str) -> Option<Self> {
        CODECS.into_iter().find(|codec| error.contains(&format!("the {} data is damaged", codec.name)))
    }
}

/// Decompresses a file.
///
/// Offsets count bytes of the text. Seeking back decompresses again from the beginning, because none of these can be entered in
/// the middle; the length is known once the text was read to its end.
pub(crate) struct Compressed {
    pub codec: Codec,
    file: File,
    decoder: Box<dyn Read + Send>,
    offset: u64,
    end: Option<u64>,
}

impl Compressed {
    /// Reads a file that is at its beginning.
    pub fn new(codec: Codec, file: File) -> io::Result<Self> {
        let decoder = (codec.decoder)(BufReader::with_capacity(1 << 16, file.try_clone()?))?;
        Ok(Self { codec, file, decoder, offset: 0, end: None })
    }

    fn rewind_file(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        *self = Self { end: self.end, ..Self::new(self.codec, self.file.try_clone()?)? };
        Ok(())
    }

    /// Reads up to this place, or to the end if that comes first.
    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        let distance = offset - self.offset;
        io::copy(&mut self.by_ref().take(distance), &mut io::sink())?;
        Ok(())
    }
}

impl Read for Compressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer).map_err(|error| damaged(self.codec, self.offset, &error))?;
        self.offset += read as u64;
        if read == 0 && !buffer.is_empty() {
            self.end = Some(self.offset);
        }
        Ok(read)
    }
}

impl Seek for Compressed {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match (to, self.end) {
            (SeekFrom::Start(offset), _) => Some(offset),
            (SeekFrom::Current(by), _) => self.offset.checked_add_signed(by),
            (SeekFrom::End(by), Some(end)) => end.checked_add_signed(by),
            (SeekFrom::End(by), None) => {
                self.skip_to(u64::MAX)?;
                self.offset.checked_add_signed(by)
            }
        };
        let target = target.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        if target < self.offset {
            self.rewind_file()?;
        }
        self.skip_to(target)?;
        Ok(self.offset)
    }
}

fn damaged(codec: Codec, offset: u64, error: &io::Error) -> io::Error {
    match error.kind() {
        // What these libraries call a file that is wrong.
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof | ErrorKind::Other => {
            io::Error::new(
                ErrorKind::InvalidData,
                format!("the {} data is damaged or cut off, {offset} bytes of text into it: {error}", codec.name),
            )
        }
        kind => io::Error::new(kind, error.to_string()),
    }
}
