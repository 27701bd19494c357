//! The text of a compressed file as a file of its own, so that its rows can be read in any order. It is made once, by one process of
//! a machine, and has its name when it is whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use mdt_plugin_api::prelude::*;

use crate::open::{self, Data};

/// How much is decompressed at a time.
const BLOCK: usize = 1 << 20;

/// Opens a data file; the text of a compressed one from `unpacked`, which is made if it is not there. Where it cannot be made, the
/// file itself is read.
///
/// # Errors
/// As for [`open::file`]; the compressed data is damaged; the job is cancelled.
pub(crate) fn open(path: &Path, unpacked: Option<&Path>, services: &Services) -> Result<Data> {
    let (mut data, text) = match (open::file(path)?, unpacked) {
        (Data::Compressed(data), Some(text)) => (data, text),
        (data, _) => return Ok(data),
    };
    if let Ok(text) = File::open(text) {
        return Ok(Data::Plain(text));
    }
    let unwritable = |error: &io::Error| {
        services.log(LogLevel::Warn, &format!("{} is not unpacked to {}: {error}", path.display(), text.display()));
    };
    let lock =
        match text.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(text.with_extension("lock")))
        {
            Ok(lock) => lock,
            Err(error) => {
                unwritable(&error);
                return Ok(Data::Compressed(data));
            }
        };
    while let Err(TryLockError::WouldBlock) = lock.try_lock() {
        require_not_cancelled(path, services)?;
        thread::sleep(Duration::from_millis(100));
    }
    // Another process may have made it meanwhile.
    if let Ok(text) = File::open(text) {
        return Ok(Data::Plain(text));
    }
    services.log(LogLevel::Info, &format!("unpacking {} into the cache", path.display()));
    let temporary = text.with_extension("incomplete");
    let mut block = vec![0; BLOCK];
    let mut written = File::create(&temporary);
    while let Ok(file) = &mut written {
        require_not_cancelled(path, services)?;
        match data.read(&mut block).map_err(|error| open::unreadable(path, &error))? {
            0 => break,
            count => {
                if let Err(error) = file.write_all(&block[..count]) {
                    written = Err(error);
                }
            }
        }
    }
    let whole = written.and_then(|file| file.sync_all()).and_then(|()| fs::rename(&temporary, text));
    match whole.and_then(|()| File::open(text)) {
        Ok(text) => Ok(Data::Plain(text)),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            unwritable(&error);
            open::file(path)
        }
    }
}

fn require_not_cancelled(path: &Path, services: &Services) -> Result<()> {
    match services.cancelled() {
        false => Ok(()),
        true => Err(Error::new(ErrorCode::Cancelled, "interrupted while the data file was unpacked")
            .with("file", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_file_is_unpacked_once_and_never_in_part() {
        let directory = tempfile::tempdir().unwrap();
        let (path, text) = (directory.path().join("a.jsonl.zst"), directory.path().join("cache/text"));
        let rows = b"{\"text\": \"a\"}\n".repeat(200_000);
        let packed = zstd::stream::encode_all(&rows[..], 1).unwrap();
        let services = Setup::default().services;
        let read = |data: Result<Data>| {
            let mut bytes = Vec::new();
            data.unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        fs::write(&path, &packed[..packed.len() - 9]).unwrap();
        let error = open(&path, Some(&text), &services).err().unwrap();
        assert!(error.to_string().contains("damaged or cut off") && !text.exists(), "{error}");
        fs::write(&path, &packed).unwrap();
        assert!(matches!(open(&path, None, &services), Ok(Data::Compressed(_))));
        let ranks: Vec<_> = (0..3)
            .map(|_| {
                let (path, text, services) = (path.clone(), text.clone(), services.clone());
                thread::spawn(move || open(&path, Some(&text), &services))
            })
            .collect();
        for rank in ranks {
            let data = rank.join().unwrap();
            assert!(matches!(data, Ok(Data::Plain(_))) && read(data) == rows);
        }
        // It is taken as it is, and where it cannot be written the file itself is read.
        fs::write(&text, "{}").unwrap();
        assert_eq!(read(open(&path, Some(&text), &services)), b"{}");
        assert!(read(open(&path, Some(&path.join("no/text")), &services)) == rows);
    }
}
