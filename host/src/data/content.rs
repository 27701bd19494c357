//! A checksum of all bytes of a data file. It is kept with the file's size, time and place on the disk, so that a file that stays as
//! it is is read for it once.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::checksum;

/// How much is read at a time.
const BLOCK: usize = 1 << 20;

/// The checksum of a file, from what is kept below `cache`, or of its bytes. What is no file is identified by its name.
///
/// # Errors
/// The file cannot be read, or `cancelled` became true meanwhile. A cache that cannot be written is none.
pub(super) fn of(path: &Path, cache: &Path, cancelled: &dyn Fn() -> bool) -> io::Result<String> {
    let before = fs::metadata(path)?;
    if !before.is_file() {
        return Ok(path.to_string_lossy().into_owned());
    }
    let directory = cache.join("files");
    let known = directory.join(checksum::of_bytes(identity(path, &before).as_bytes()));
    if let Ok(content) = fs::read_to_string(&known)
        && content.len() == 64
    {
        return Ok(content);
    }
    let mut digest = Sha256::new();
    let (mut file, mut block) = (File::open(path)?, vec![0; BLOCK]);
    loop {
        if cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut block)? {
            0 => break,
            count => digest.update(&block[..count]),
        }
    }
    let content = checksum::hexadecimal(&digest.finalize());
    // What is written to meanwhile is read again the next time.
    if identity(path, &fs::metadata(path)?) == identity(path, &before) {
        let temporary = known.with_extension(std::process::id().to_string());
        let kept = fs::create_dir_all(&directory).and_then(|()| fs::write(&temporary, &content));
        if kept.and_then(|()| fs::rename(&temporary, &known)).is_err() {
            let _ = fs::remove_file(&temporary);
        }
    }
    Ok(content)
}

fn identity(path: &Path, file: &Metadata) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    json!([path, file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_bytes_and_read_once_while_it_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (path, cache) = (directory.path().join("a"), directory.path().join("cache"));
        let content = |path: &Path| of(path, &cache, &|| false).unwrap();
        fs::write(&path, "rows").unwrap();
        let first = content(&path);
        let [kept] =
            &fs::read_dir(cache.join("files")).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>()[..]
        else {
            panic!("one is kept")
        };
        fs::write(kept, "0".repeat(64)).unwrap();
        assert_eq!(content(&path), "0".repeat(64), "it is not read again");
        fs::write(kept, "half").unwrap();
        assert_eq!(content(&path), first);
        fs::copy(&path, directory.path().join("b")).unwrap();
        assert_eq!(content(&directory.path().join("b")), first);
        // Of the same size, and perhaps of the same time.
        fs::write(directory.path().join("c"), "sowr").unwrap();
        fs::rename(directory.path().join("c"), &path).unwrap();
        assert_ne!(content(&path), first);
        assert!(of(&path.with_file_name("d"), &cache, &|| false).is_err());
    }
}
