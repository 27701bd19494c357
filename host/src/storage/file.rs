//! Writes one file, with its size and digest.

use crate::checksum::hexadecimal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Large enough that the call per buffer costs little compared with the copy, small enough for the cache.
const BUFFER: usize = 256 * 1024;

/// The size and digest of a written file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub(crate) sha256: String,
}

/// Opens a file of results for reading and writing, at its end if `append`, and creates it where it is missing.
///
/// # Errors
/// `ELOOP` for a symbolic link and `EMLINK` for a file with a second name: what stands elsewhere is not overwritten.
pub(crate) fn open_own(path: &Path, append: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).append(append).create(true).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path)?;
    match file.metadata()?.nlink() {
        0 | 1 => Ok(file),
        _ => Err(io::Error::from_raw_os_error(libc::EMLINK)),
    }
}

/// Creates or empties the file at `path` and writes it with `content`. It may not be on the disk yet: [`Staged::publish`] and
/// [`write`] wait for that.
///
/// [`Staged::publish`]: super::Staged::publish
pub(super) fn write_with(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Written> {
    let file = open_own(path, false)?;
    file.set_len(0)?;
    let mut digesting = Digesting { file: &file, digest: Sha256::new(), bytes: 0 };
    let mut buffered = io::BufWriter::with_capacity(BUFFER, &mut digesting);
    content(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    super::crash_points::reached("file written");
    Ok(Written { bytes: digesting.bytes, sha256: hexadecimal(&digesting.digest.finalize()) })
}

/// Writes `content` to a file in a directory that is [`Staged`](super::Staged), which waits for the disk.
pub(crate) fn write_staged(path: &Path, content: &[u8]) -> io::Result<Written> {
    write_with(path, |file| file.write_all(content))
}

/// Writes `content` to the file at `path` and waits until it is on the disk.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<Written> {
    let written = write_staged(path, content)?;
    sync(path)?;
    Ok(written)
}

/// Waits until a file, or the entries of a directory, are on the disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Copies a file into a directory that is [`Staged`](super::Staged). The copy has the permissions of a new file.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    write_with(to, |file| io::copy(&mut source, file).map(drop))?;
    Ok(())
}

/// Counts and digests what passes through it.
struct Digesting<'a> {
    file: &'a File,
    digest: Sha256,
    bytes: u64,
}

impl Write for Digesting<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.digest.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::of_file;

    #[test]
    fn a_written_file_has_the_size_and_the_sha256_that_were_reported() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("abc");
        let written = write(&path, b"abc").unwrap();
        assert_eq!(written.bytes, 3);
        // FIPS 180-2, appendix B.1.
        assert_eq!(written.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(of_file(&path).unwrap(), written.sha256);
        let large: Vec<u8> = (0..3 * BUFFER + 17).map(|i| (i % 251) as u8).collect();
        let written = write(&path, &large).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), large);
        assert_eq!(of_file(&path).unwrap(), written.sha256);
    }
}
