//! What rows have become, kept for later passes and runs, so that they are tokenized once.
//!
//! A directory belongs to one content of the sources and one way of encoding them. It has segments: files that are written whole,
//! under another name first, and never changed. So whoever reads sees whole ones only, whatever interrupts a run, and processes
//! share the directory without waiting for each other. A segment is the encoded rows one after the other; their places, lengths
//! and checksums; and the checksum of these. What does not fit its checksum is encoded again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mdt_plugin_api::Item;
use memmap2::Mmap;

use super::long_rows::{Encoded, LeftOut, Part};
use crate::progress;

/// A segment is written when its rows have so many bytes.
const SEGMENT: usize = 32 << 20;

/// The bytes of all directories together from which on the oldest are removed.
const LARGEST: u64 = 16 << 30;

/// The end of a whole segment.
const MAGIC: &[u8; 8] = b"MDTROWS2";

/// Bytes of an entry in a segment, and of what ends it: the number of entries, their checksum, the magic.
const ENTRY: usize = 24;
const FOOTER: usize = 8 + 4 + MAGIC.len();

/// Where an encoded row is.
#[derive(Clone, Copy)]
struct Entry {
    /// The place of the row in the order of the sources.
    place: u64,
    segment: u32,
    length: u32,
    offset: u32,
    checksum: u32,
}

/// Encoded rows in a directory.
pub(super) struct Cache {
    directory: Option<PathBuf>,
    segments: Vec<Mmap>,
    /// By place.
    entries: Vec<Entry>,
    /// Rows of the segment that is not written yet, and their entries.
    bytes: Vec<u8>,
    waiting: Vec<Entry>,
}

impl Cache {
    /// The cache with this key below a directory. Without a directory, or where it cannot be used, nothing is kept.
    pub fn open(below: Option<&Path>, key: &str) -> Self {
        let mut cache =
            Self { directory: None, segments: Vec::new(), entries: Vec::new(), bytes: Vec::new(), waiting: Vec::new() };
        let Some(below) = below else { return cache };
        let directory = below.join("rows").join(key);
        if let Err(error) = fs::create_dir_all(&directory).and_then(|()| cache.read(&directory)) {
            progress::note(&format!("warning: rows are not kept in {}: {error}", directory.display()));
            return cache;
        }
        limit(&below.join("rows"), &directory);
        cache.directory = Some(directory);
        cache
    }

    /// Writes what is not written yet, and looks at what others have written meanwhile.
    pub fn refresh(&mut self) {
        self.seal();
        let Some(directory) = self.directory.clone() else { return };
        (self.segments, self.entries) = (Vec::new(), Vec::new());
        if let Err(error) = self.read(&directory) {
            progress::debug(&format!("{}: {error}", directory.display()));
        }
    }

    fn read(&mut self, directory: &Path) -> io::Result<()> {
        let mut paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("segment") => match self.add(&path) {
                    Ok(true) => {}
                    // It is not whole: the disk was full, or the machine stopped.
                    Ok(false) => drop(fs::remove_file(&path)),
                    Err(error) => progress::debug(&format!("{}: {error}", path.display())),
                },
                // What a process left behind that was killed.
                _ => {
                    let age = fs::metadata(&path).and_then(|file| file.modified()).map(|time| time.elapsed());
                    if age.is_ok_and(|age| age.is_ok_and(|age| age > Duration::from_secs(24 * 3600))) {
                        let _ = fs::remove_file(&path);
                    }
                }
            }
        }
        self.sort();
        Ok(())
    }

    /// Adds a segment, if it is whole.
    fn add(&mut self, path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(false);
        }
        let bytes = map(&file)?;
        let Some((rest, footer)) = bytes.split_last_chunk::<FOOTER>() else { return Ok(false) };
        let count = u64::from_le_bytes(footer[..8].try_into().unwrap_or_default());
        let start = count.checked_mul(ENTRY as u64).and_then(|entries| (rest.len() as u64).checked_sub(entries));
        let Some(start) = start.filter(|_| footer[12..] == *MAGIC) else { return Ok(false) };
        let entries = &rest[start as usize..];
        if crc_fast::crc32_iscsi(entries).to_le_bytes() != footer[8..12] {
            return Ok(false);
        }
        let segment = self.segments.len() as u32;
        self.entries.extend(entries.chunks_exact(ENTRY).map(|entry| {
            let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap_or_default());
            let place = u64::from_le_bytes(entry[..8].try_into().unwrap_or_default());
            Entry { place, segment, offset: word(8), length: word(12), checksum: word(16) }
        }));
        self.segments.push(bytes);
        Ok(true)
    }

    fn sort(&mut self) {
        self.entries.sort_by_key(|entry| entry.place);
        self.entries.dedup_by_key(|entry| entry.place);
    }

    /// The number of rows in it.
    pub fn rows(&self) -> usize {
        self.entries.len()
    }

    /// The row of this place: its number in its source, and its items.
    pub fn get(&self, place: u64) -> Option<(u64, Encoded)> {
        let entry = self.entries[self.entries.binary_search_by_key(&place, |entry| entry.place).ok()?];
        let start = entry.offset as usize;
        let mut bytes = self.segments[entry.segment as usize].get(start..start.checked_add(entry.length as usize)?)?;
        (crc_fast::crc32_iscsi(bytes) == entry.checksum).then(|| read(&mut bytes)).flatten()
    }

    /// Keeps a row.
    pub fn put(&mut self, place: u64, row: u64, encoded: &Encoded) {
        if self.directory.is_none() {
            return;
        }
        let start = self.bytes.len();
        write(row, encoded, &mut self.bytes);
        let bytes = &self.bytes[start..];
        let (length, checksum) = (bytes.len() as u32, crc_fast::crc32_iscsi(bytes));
        let segment = self.segments.len() as u32;
        self.waiting.push(Entry { place, segment, length, offset: start as u32, checksum });
        if self.bytes.len() >= SEGMENT {
            self.seal();
        }
    }

    /// Writes the segment that is not written yet.
    fn seal(&mut self) {
        let Some(directory) = self.directory.as_ref().filter(|_| !self.waiting.is_empty()) else { return };
        let entries: Vec<u8> = self.waiting.iter().flat_map(Entry::bytes).collect();
        let mut footer = (self.waiting.len() as u64).to_le_bytes().to_vec();
        footer.extend(crc_fast::crc32_iscsi(&entries).to_le_bytes());
        footer.extend(MAGIC);
        let written = write_segment(directory, &[&self.bytes, &entries, &footer]);
        self.bytes.clear();
        let waiting = std::mem::take(&mut self.waiting);
        match written.and_then(|file| map(&file)) {
            Ok(bytes) => {
                self.segments.push(bytes);
                self.entries.extend(waiting);
                self.sort();
            }
            Err(error) => {
                progress::note(&format!("warning: no more rows are kept in {}: {error}", directory.display()));
                self.directory = None;
            }
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.seal();
    }
}

impl Entry {
    fn bytes(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.place.to_le_bytes());
        for (at, word) in [(8, self.offset), (12, self.length), (16, self.checksum)] {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A segment in memory, as far as it is read.
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: a segment is written whole, under another name first, and never changed; nobody but the user may write here.
    unsafe { Mmap::map(file) }
}

/// Writes a segment under a name of its own, whoever else writes here, and opens it.
fn write_segment(directory: &Path, parts: &[&[u8]]) -> io::Result<File> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let temporary = directory.join(format!("{}-{}.tmp", now.as_nanos(), std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&temporary)?;
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    let written = written.and_then(|()| fs::rename(&temporary, temporary.with_extension("segment")));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| file)
}

/// Removes the directories that were not used for longest, until all together have 16 GiB at most; `own` is used now and stays.
pub(super) fn limit(all: &Path, own: &Path) {
    let _ = File::open(own).and_then(|file| file.set_modified(SystemTime::now()));
    limit_to(all, own, LARGEST);
}

fn limit_to(all: &Path, own: &Path, most: u64) {
    let size = |directory: &Path| -> u64 {
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    };
    let directories = fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path());
    let used = |path: &Path| fs::metadata(path).and_then(|directory| directory.modified()).ok();
    let mut directories: Vec<_> = directories.map(|path| (used(&path), size(&path), path)).collect();
    directories.sort();
    let mut total: u64 = directories.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in directories {
        if total <= most {
            return;
        }
        if path != own && fs::remove_dir_all(&path).is_ok() {
            total -= size;
        }
    }
}

/// A row and its items as bytes.
fn write(row: u64, Encoded { items, parts, left_out }: &Encoded, out: &mut Vec<u8>) {
    let number = |out: &mut Vec<u8>, number: u64| out.extend(number.to_le_bytes());
    let text = |out: &mut Vec<u8>, text: &str| {
        number(out, text.len() as u64);
        out.extend(text.as_bytes());
    };
    number(out, row);
    out.push(match left_out {
        None => 0,
        Some(LeftOut::TooLong) => 1,
        Some(LeftOut::MaxTokens) => 2,
    });
    number(out, items.len() as u64);
    for (Item { sequences, numbers, notes }, part) in items.iter().zip(parts) {
        out.push(match part {
            Part::Whole => 0,
            Part::FirstPiece => 1,
            Part::LaterPiece => 2,
        });
        number(out, sequences.len() as u64);
        for sequence in sequences {
            text(out, &sequence.name);
            number(out, sequence.truncated);
            number(out, sequence.tokens.len() as u64);
            sequence.tokens.iter().for_each(|token| out.extend(token.to_le_bytes()));
            out.extend(sequence.supervised.iter().map(|&mark| u8::from(mark)));
        }
        number(out, numbers.len() as u64);
        for (name, values) in numbers {
            text(out, name);
            number(out, values.len() as u64);
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        number(out, notes.len() as u64);
        notes.iter().for_each(|note| text(out, note));
    }
}

/// The same back; none where the bytes are no such row.
fn read(bytes: &mut &[u8]) -> Option<(u64, Encoded)> {
    fn number(bytes: &mut &[u8]) -> Option<u64> {
        Some(u64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?))
    }
    fn count(bytes: &mut &[u8]) -> Option<usize> {
        // Each of what is counted takes a byte at least.
        usize::try_from(number(bytes)?).ok().filter(|&count| count <= bytes.len())
    }
    fn text(bytes: &mut &[u8]) -> Option<String> {
        let length = count(bytes)?;
        String::from_utf8(bytes.split_off(..length)?.to_vec()).ok()
    }
    let row = number(bytes)?;
    let left_out = match bytes.split_off_first()? {
        0 => None,
        1 => Some(LeftOut::TooLong),
        2 => Some(LeftOut::MaxTokens),
        _ => return None,
    };
    let mut encoded = Encoded { left_out, ..Encoded::default() };
    for _ in 0..count(bytes)? {
        encoded.parts.push(match bytes.split_off_first()? {
            0 => Part::Whole,
            1 => Part::FirstPiece,
            2 => Part::LaterPiece,
            _ => return None,
        });
        let mut item = Item::default();
        for _ in 0..count(bytes)? {
            let (name, truncated) = (text(bytes)?, number(bytes)?);
            let length = count(bytes)?;
            let tokens = bytes.split_off(..length.checked_mul(4)?)?.chunks_exact(4);
            let tokens = tokens.map(|token| u32::from_le_bytes(token.try_into().unwrap_or_default())).collect();
            let supervised = bytes.split_off(..length)?.iter().map(|&mark| mark == 1).collect();
            item = item.with(&name, tokens, supervised);
            item.sequences.last_mut()?.truncated = truncated;
        }
        for _ in 0..count(bytes)? {
            let (name, length) = (text(bytes)?, count(bytes)?);
            let values = bytes.split_off(..length.checked_mul(8)?)?.chunks_exact(8);
            let values = values.map(|value| f64::from_le_bytes(value.try_into().unwrap_or_default()));
            item = item.with_numbers(&name, values.collect::<Vec<_>>());
        }
        for _ in 0..count(bytes)? {
            item.notes.push(text(bytes)?);
        }
        encoded.items.push(item);
    }
    bytes.is_empty().then_some((row, encoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(place: u32) -> Encoded {
        let item = Item::of(vec![place, 1, 2], vec![false, true, true]).with("ä", vec![3], vec![false]);
        let item = item.with_numbers("reward", [0.5, f64::from(place)]).with_notes(["ü".to_owned()]);
        Encoded {
            items: vec![item, Item::of(vec![7], vec![true])],
            parts: vec![Part::FirstPiece, Part::LaterPiece],
            left_out: None,
        }
    }

    fn same(one: &Encoded, other: &Encoded) -> bool {
        (&one.items, &one.parts, one.left_out) == (&other.items, &other.parts, other.left_out)
    }

    fn segments(directory: &Path) -> Vec<PathBuf> {
        let files = fs::read_dir(directory.join("rows/key")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect()
    }

    #[test]
    fn rows_come_back_as_they_were_in_the_same_process_and_in_others() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Cache::open(Some(directory.path()), "key");
        let [mut one, mut other] = [open(), open()];
        (0..50).for_each(|place| one.put(place, place + 1, &encoded(place as u32)));
        (40..60).for_each(|place| other.put(place, place + 1, &encoded(place as u32)));
        other.put(60, 61, &Encoded { left_out: Some(LeftOut::TooLong), ..Encoded::default() });
        assert!(one.get(3).is_none(), "not written yet");
        one.seal();
        drop(other);
        for cache in [one, open()] {
            let (row, found) = cache.get(3).unwrap();
            assert!(row == 4 && same(&found, &encoded(3)));
        }
        let both = open();
        assert_eq!(both.rows(), 61);
        assert!(same(&both.get(59).unwrap().1, &encoded(59)) && both.get(61).is_none());
        assert_eq!(both.get(60).unwrap().1.left_out, Some(LeftOut::TooLong));
        assert!(Cache::open(Some(directory.path()), "another").get(3).is_none());
    }

    #[test]
    fn no_part_of_a_damaged_segment_is_taken_for_a_row() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Cache::open(Some(directory.path()), "key");
        let mut cache = open();
        (0..4).for_each(|place| cache.put(place, place, &encoded(place as u32)));
        drop(cache);
        let [path] = &segments(directory.path())[..] else { panic!("one segment") };
        let whole = fs::read(path).unwrap();
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1;
            fs::write(path, &damaged).unwrap();
            let cache = open();
            let all =
                (0..4).filter(|&place| cache.get(place).is_some_and(|(_, row)| same(&row, &encoded(place as u32))));
            let wrong =
                (0..4).any(|place| cache.get(place).is_some_and(|(_, row)| !same(&row, &encoded(place as u32))));
            assert!(all.count() < 4 && !wrong, "byte {byte}");
        }
        for length in 0..whole.len() {
            fs::write(path, &whole[..length]).unwrap();
            assert_eq!(open().rows(), 0, "{length} bytes");
        }
    }

    #[test]
    fn what_was_not_used_for_longest_is_removed_first() {
        let directory = tempfile::tempdir().unwrap();
        for (place, name) in ["old", "new", "own"].into_iter().enumerate() {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("a.segment"), [0; 100]).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(place as u64);
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
        let left = |most| {
            limit_to(directory.path(), &directory.path().join("own"), most);
            ["old", "new", "own"].map(|name| directory.path().join(name).exists())
        };
        assert_eq!(left(300), [true; 3]);
        assert_eq!(left(200), [false, true, true]);
        assert_eq!(left(0), [false, false, true]);
    }
}
