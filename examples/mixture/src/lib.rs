//! An endless weighted mixture of JSON Lines files as a plugin for `mdt-host`: every row is drawn from one of the files,
//! and a file that ends begins again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json;

mdt_plugin_api::config! {
    /// Keys of the data source `mixture`.
    pub struct Config {
        /// The files of the directory that `data.train` names, with their weights: `{ "code.jsonl" = 2, "chat.jsonl" = 1 }`
        /// draws two of three rows from the first.
        weights: BTreeMap<String, f64> = BTreeMap::new(),
    }
}

/// One of the files.
struct Part {
    path: PathBuf,
    weight: f64,
    reader: BufReader<File>,
    /// The bytes before the next line.
    offset: u64,
}

struct Mixture {
    parts: Vec<Part>,
    seed: u64,
    drawn: u64,
}

impl Component for Mixture {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let parts =
            config.weights.iter().map(|(name, &weight)| Part::open(&Path::new(&setup.source).join(name), weight));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        if parts.is_empty() {
            return Err(Error::config("a mixture needs files").with("key", "data.weights"));
        }
        Ok(Self { parts, seed: setup.seed, drawn: 0 })
    }
}

impl Part {
    fn open(path: &Path, weight: f64) -> Result<Self> {
        if !(weight > 0.0 && weight.is_finite()) {
            return Err(
                Error::config(format!("the weight {weight} is not a number above 0")).with("key", "data.weights")
            );
        }
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        Ok(Self { path: path.to_owned(), weight, reader: BufReader::new(file), offset: 0 })
    }

    /// The next line that is not blank; after the last one, the first.
    fn line(&mut self) -> Result<String> {
        let mut begun_again = false;
        loop {
            let mut line = String::new();
            let bytes = self.reader.read_line(&mut line).map_err(|error| unreadable(&self.path, &error))?;
            self.offset += bytes as u64;
            if !line.trim().is_empty() {
                return Ok(line);
            }
            if bytes == 0 {
                if std::mem::replace(&mut begun_again, true) {
                    return Err(Error::input("the data file has no rows").with("file", self.path.display()));
                }
                self.seek(0)?;
            }
        }
    }

    fn seek(&mut self, offset: u64) -> Result<()> {
        self.reader.seek(SeekFrom::Start(offset)).map_err(|error| unreadable(&self.path, &error))?;
        self.offset = offset;
        Ok(())
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::input("the data file cannot be read").with("file", path.display()).caused_by(error)
}

/// A number from [0, 1) that depends on nothing but the seed and the number of the draw (SplitMix64), so that a position
/// needs no state of a generator.
fn uniform(seed: u64, draw: u64) -> f64 {
    let mut bits = seed.wrapping_add(draw.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

impl DataSource for Mixture {
    fn length(&mut self) -> Result<Length> {
        Ok(Length::Endless)
    }

    fn next(&mut self) -> Result<Option<Example>> {
        let mut rest = uniform(self.seed, self.drawn) * self.parts.iter().map(|part| part.weight).sum::<f64>();
        let drawn = self.parts.iter().position(|part| {
            rest -= part.weight;
            rest < 0.0
        });
        let last = self.parts.len() - 1;
        let part = &mut self.parts[drawn.unwrap_or(last)];
        let start = part.offset;
        let line = part.line()?;
        self.drawn += 1;
        let columns: serde_json::Map<_, _> = serde_json::from_str(&line).map_err(|error| {
            let error = Error::input("a line is no JSON object").caused_by(error);
            error.with("file", part.path.display()).with("after byte", start)
        })?;
        let Datum::Map(values) = Datum::from(columns) else { unreachable!("an object is a map") };
        Ok(Some(Example { row: self.drawn, values }))
    }

    /// The number of rows drawn, then the place in each file.
    fn state(&self) -> Result<String> {
        let numbers = std::iter::once(self.drawn).chain(self.parts.iter().map(|part| part.offset));
        Ok(numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" "))
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        let numbers: Vec<u64> = state.split(' ').map_while(|number| number.parse().ok()).collect();
        let [drawn, offsets @ ..] = numbers.as_slice() else {
            return Err(Error::input(format!("{state:?} is no place in a mixture")));
        };
        if offsets.len() != self.parts.len() {
            return Err(Error::input(format!("{state:?} is a place in a mixture of {} files", offsets.len())));
        }
        self.drawn = *drawn;
        self.parts.iter_mut().zip(offsets).try_for_each(|(part, &offset)| part.seek(offset))
    }
}

mdt_plugin_api::plugin! { data "mixture" => Mixture; }

#[cfg(test)]
mod tests {
    use super::*;
    use mdt_plugin_api::abi::across;

    fn open(directory: &Path) -> Box<dyn DataSource> {
        let weights = [("a.jsonl".to_owned(), 3.0), ("b.jsonl".to_owned(), 1.0)].into();
        let setup = Setup { source: directory.display().to_string(), seed: 7, ..Setup::default() };
        // As a host gets it.
        across::data(Box::new(Mixture::create(Config { weights }, &setup).unwrap())).unwrap()
    }

    fn rows(source: &mut dyn DataSource, count: usize) -> Vec<String> {
        (0..count).map(|_| source.next().unwrap().unwrap().text("text").unwrap().to_owned()).collect()
    }

    #[test]
    fn rows_come_by_weight_and_a_restored_mixture_continues() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.jsonl"), "{\"text\": \"a1\"}\n\n{\"text\": \"a2\"}").unwrap();
        std::fs::write(directory.path().join("b.jsonl"), "{\"text\": \"b\"}\n").unwrap();
        let all = rows(&mut *open(directory.path()), 1000);
        let of_a = all.iter().filter(|row| row.starts_with('a')).count();
        assert!((700..800).contains(&of_a), "{of_a} of 1000 rows are of the file with weight 3 of 4");

        let mut source = open(directory.path());
        assert_eq!(rows(&mut *source, 37), all[..37]);
        let mut restored = open(directory.path());
        restored.restore(&source.state().unwrap()).unwrap();
        assert_eq!(rows(&mut *restored, 963), all[37..]);
        assert!(restored.restore("1 2").is_err());
    }
}
