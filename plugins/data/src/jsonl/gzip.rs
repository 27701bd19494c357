//! The text of a gzip file (RFC 1952), which can be read from any offset again.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};

use flate2::bufread::MultiGzDecoder;

/// How a gzip file begins.
pub(super) const MAGIC: &[u8] = b"\x1f\x8b";

/// Decompresses a file of one gzip member or several.
///
/// Offsets count bytes of the text. Seeking back decompresses again from the beginning, because deflate cannot be entered in
/// the middle; the length is known once the text was read to its end.
pub(super) struct Gzip {
    decoder: MultiGzDecoder<BufReader<File>>,
    offset: u64,
    end: Option<u64>,
}

impl Gzip {
    /// Reads a file that is at its beginning.
    pub fn new(file: File) -> Self {
        Self { decoder: MultiGzDecoder::new(BufReader::new(file)), offset: 0, end: None }
    }

    fn rewind_file(&mut self) -> io::Result<()> {
        let mut file = self.decoder.get_ref().get_ref().try_clone()?;
        file.rewind()?;
        self.decoder = MultiGzDecoder::new(BufReader::new(file));
        self.offset = 0;
        Ok(())
    }

    /// Reads up to this place, or to the end if that comes first.
    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        let distance = offset - self.offset;
        io::copy(&mut self.by_ref().take(distance), &mut io::sink())?;
        Ok(())
    }
}

impl Read for Gzip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer).map_err(|error| damaged(self.offset, &error))?;
        self.offset += read as u64;
        if read == 0 && !buffer.is_empty() {
            self.end = Some(self.offset);
        }
        Ok(read)
    }
}

impl Seek for Gzip {
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

fn damaged(offset: u64, error: &io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => io::Error::new(
            ErrorKind::InvalidData,
            format!("the gzip data is damaged or cut off, {offset} bytes of text into it: {error}"),
        ),
        kind => io::Error::new(kind, error.to_string()),
    }
}
