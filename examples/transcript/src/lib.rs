//! Conversations in plain text as a plugin for `mdt-host`: a line for each turn, an empty line between conversations.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the data source `transcript`.
    pub struct Config {
        /// Who speaks in which role, beside `User` and `Bot`: `{ Anna = "user", Helpdesk = "assistant" }`.
        speakers: BTreeMap<String, String> = BTreeMap::new(),
    }
}

struct Transcript {
    path: PathBuf,
    speakers: BTreeMap<String, String>,
    reader: BufReader<File>,
    /// The bytes and lines before the next conversation.
    place: (u64, u64),
}

impl Component for Transcript {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        Self::open(Path::new(&setup.source), config)
    }
}

impl Transcript {
    fn open(path: &Path, config: Config) -> Result<Self> {
        let mut speakers = config.speakers;
        for (name, role) in [("User", "user"), ("Bot", "assistant")] {
            speakers.entry(name.to_owned()).or_insert(role.to_owned());
        }
        let reader = BufReader::new(File::open(path).map_err(|error| unreadable(path, &error))?);
        Ok(Self { path: path.to_owned(), speakers, reader, place: (0, 0) })
    }

    /// The lines of the next conversation, and the number of the first.
    fn lines(&mut self) -> io::Result<(u64, Vec<String>)> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let bytes = self.reader.read_line(&mut line)?;
            self.place.0 += bytes as u64;
            self.place.1 += u64::from(bytes > 0);
            match line.trim_end() {
                "" if bytes == 0 => return Ok((self.place.1 + 1 - lines.len() as u64, lines)),
                "" if !lines.is_empty() => return Ok((self.place.1 - lines.len() as u64, lines)),
                "" => {}
                text => lines.push(text.to_owned()),
            }
        }
    }

    fn turn(&self, line: &str) -> Result<Message> {
        let (speaker, text) =
            line.split_once(": ").ok_or_else(|| Error::input(format!("no speaker and colon in {line:?}")))?;
        let Some(role) = self.speakers.get(speaker) else {
            let known: Vec<&str> = self.speakers.keys().map(String::as_str).collect();
            return Err(Error::input(format!("{speaker:?} is none of the speakers {}", known.join(", ")))
                .help(format!("give it a role: data.speakers = {{ {speaker:?} = \"user\" }}")));
        };
        Ok(Message::new(role.as_str(), text))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::input("the data file cannot be read").with("file", path.display()).caused_by(error)
}

impl DataSource for Transcript {
    /// Unknown until the file is read.
    fn length(&mut self) -> Result<Length> {
        Ok(Length::Unknown)
    }

    /// After an error the source stands behind the conversation that cannot be used, so that a job can skip it.
    fn next(&mut self) -> Result<Option<Example>> {
        let (first, lines) = self.lines().map_err(|error| unreadable(&self.path, &error))?;
        if lines.is_empty() {
            return Ok(None);
        }
        let in_file = |error: Error| error.with("file", self.path.display()).with("line", first);
        let turns = lines.iter().map(|line| self.turn(line)).collect::<Result<Vec<_>>>().map_err(in_file)?;
        Ok(Some(Example::new(first).with("messages", turns)))
    }

    fn state(&self) -> Result<String> {
        Ok(format!("{} {}", self.place.0, self.place.1))
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        let numbers: Vec<u64> = state.split(' ').map_while(|number| number.parse().ok()).collect();
        let [byte, line] = numbers[..] else {
            return Err(Error::input(format!("{state:?} is not a place in a transcript")));
        };
        self.place = (byte, line);
        self.reader.seek(SeekFrom::Start(byte)).map_err(|error| unreadable(&self.path, &error))?;
        Ok(())
    }
}

mdt_plugin_api::plugin! { data "transcript" => Transcript; }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_read_bad_ones_are_passed_and_a_restored_source_continues() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.transcript");
        std::fs::write(&path, "\nUser: Hi\nBot: Hello: you\n\n\nAnna: Hi\n\nCat: Meow\n\nUser: Bye\nBot: Bye").unwrap();
        let speakers = [("Anna".to_owned(), "user".to_owned())].into();
        let open = || Transcript::open(&path, Config { speakers: BTreeMap::clone(&speakers) }).unwrap();
        let row = |row, turns: &[(&str, &str)]| {
            let turns: Vec<_> = turns.iter().map(|&(role, text)| Message::new(role, text)).collect();
            Some(Example::new(row).with("messages", turns))
        };

        let mut source = open();
        assert_eq!(source.next().unwrap(), row(2, &[("user", "Hi"), ("assistant", "Hello: you")]));
        let state = source.state().unwrap();
        assert_eq!(source.next().unwrap(), row(6, &[("user", "Hi")]));
        assert_eq!(source.next().unwrap_err().context()[1], ("file".to_owned(), path.display().to_string()));
        assert_eq!(source.next().unwrap(), row(10, &[("user", "Bye"), ("assistant", "Bye")]));
        assert_eq!(source.next().unwrap(), None);

        let mut restored = open();
        restored.restore(&state).unwrap();
        assert_eq!(restored.next().unwrap(), row(6, &[("user", "Hi")]));
    }
}
