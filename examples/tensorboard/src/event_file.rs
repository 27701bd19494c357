//! Files of records, as TensorFlow frames them (`tensorflow/core/lib/io/record_writer.h`): length, checksum of the length,
//! bytes, checksum of the bytes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mdt_plugin_api::{Error, Result};

use crate::protobuf::{Content, event};

/// An event file that is being written. Every event reaches the system before the call returns.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a file in a directory, which is made where it is missing. TensorBoard reads the files of a directory in the
    /// order of their names, which begin with the time.
    pub fn create(directory: &Path, time: f64) -> Result<Self> {
        let name = |number: u32| match number {
            0 => format!("events.out.tfevents.{:010}.mdt-host", time as u64),
            number => format!("events.out.tfevents.{:010}.mdt-host.{number}", time as u64),
        };
        let mut path = directory.to_owned();
        let mut made = fs::create_dir_all(directory);
        for number in 0..1000 {
            if let Ok(()) = made {
                path = directory.join(name(number));
                match File::create_new(&path) {
                    Ok(file) => {
                        let mut file = Self { path, file };
                        file.write(time, 0, &Content::FileVersion)?;
                        return Ok(file);
                    }
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => made = Err(error),
                }
            }
        }
        let why = made.err().map_or("there are too many of the same second".to_owned(), |error| error.to_string());
        Err(failure(&path, &why))
    }

    /// Appends an event.
    pub fn write(&mut self, time: f64, step: u64, content: &Content<'_>) -> Result<()> {
        let record = framed(&event(time, step, content));
        self.file.write_all(&record).map_err(|error| failure(&self.path, &error.to_string()))
    }
}

fn failure(path: &Path, why: &str) -> Error {
    Error::other("the event file cannot be written").with("file", path.display()).caused_by(why)
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked_crc32c(&length), bytes, &masked_crc32c(bytes)].concat()
}

/// The checksum of the format: CRC-32C, rotated and shifted, so that a checksum of data that has checksums in it is still
/// a good one.
fn masked_crc32c(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
