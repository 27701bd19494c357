//! The metrics file while a run writes it.

use super::line::line;
use super::{Extra, FILE};
use crate::exit::Failure;
use crate::progress;
use crate::storage::{open_own, unwritable};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `<output_dir>/metrics.jsonl`, open for writing. Each line reaches the system before the call returns.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    /// Its length, unless somebody else writes to it.
    bytes: u64,
}

impl Metrics {
    /// Creates the file, or empties an earlier one: see `Store::set_aside_earlier`, which keeps it.
    pub fn create(output_dir: &Path) -> Result<Self, Failure> {
        let (metrics, _) = Self::resume(output_dir, 0)?;
        Ok(metrics)
    }

    /// Opens the file of a resumed run and cuts it back to the length that it had at the checkpoint. Where its length is
    /// not the checkpoint's, because it was edited or deleted, the run goes on with the warning that is returned: no
    /// result depends on metrics.
    pub fn resume(output_dir: &Path, bytes: u64) -> Result<(Self, Option<String>), Failure> {
        let path = output_dir.join(FILE);
        let failed = |error: io::Error| unwritable("the metrics file cannot be written", &path, &error);
        // Every line is written to the end of the file, wherever that is by then.
        let mut file = open_own(&path, true).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        let whole = cut_to_whole_lines(&mut file, bytes.min(found)).map_err(failed)?;
        let warning = (whole != bytes).then(|| {
            format!(
                "{} is not the one of the checkpoint: it has {found} bytes, the checkpoint says {bytes}; \
                 its first {whole} are kept",
                path.display()
            )
        });
        Ok((Metrics { path, file, bytes: whole }, warning))
    }

    /// Length of the file, which a checkpoint remembers.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends the line of an update, an evaluation or an early stop.
    pub fn append(&mut self, documented: &impl Serialize, extra: &Extra) -> Result<(), Failure> {
        let line = line(documented, extra);
        // One write for the line: a reader, or a kill, sees whole lines.
        let written = self.repair().and_then(|()| self.file.write_all(line.as_bytes()));
        written.map_err(|error| {
            // A full disk may have taken half of it.
            let _ = self.file.set_len(self.bytes);
            unwritable("the metrics file cannot be written", &self.path, &error)
        })?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Goes on with whole lines where somebody cut, removed or replaced the file during the run. No result depends on
    /// metrics, so that is a warning.
    fn repair(&mut self) -> io::Result<()> {
        let open_file = self.file.metadata()?;
        let identity = |file: &fs::Metadata| (file.dev(), file.ino());
        let in_place = fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == identity(&open_file));
        if in_place && open_file.len() == self.bytes {
            return Ok(());
        }
        if !in_place {
            self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
            self.file = open_own(&self.path, true)?;
        }
        let found = self.file.metadata()?.len();
        let whole = cut_to_whole_lines(&mut self.file, found)?;
        let lost = self.bytes.saturating_sub(whole);
        let file = self.path.display();
        progress::note(&format!("warning: {file} was changed during the run: {lost} bytes of it are gone"));
        self.bytes = whole;
        Ok(())
    }
}

/// Cuts the file to the largest length up to `limit` at which a line ends, and gives that.
fn cut_to_whole_lines(file: &mut File, limit: u64) -> io::Result<u64> {
    const STRIDE: u64 = 4096;
    let mut end = limit;
    while end > 0 {
        let start = end.saturating_sub(STRIDE);
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        if let Some(newline) = bytes.iter().rposition(|&byte| byte == b'\n') {
            end = start + newline as u64 + 1;
            break;
        }
        end = start;
    }
    file.set_len(end)?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::super::line::update;
    use super::*;
    use std::fs;

    fn written(output_dir: &Path, steps: u64) -> u64 {
        let mut metrics = Metrics::create(output_dir).unwrap();
        (1..=steps).for_each(|step| metrics.append(&update(step, 1.0), &Extra::new()).unwrap());
        metrics.bytes()
    }

    #[test]
    fn each_line_is_in_the_file_when_the_call_returns() {
        let root = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::create(root.path()).unwrap();
        for step in 1..=3 {
            metrics.append(&update(step, 1.0), &Extra::new()).unwrap();
            let text = fs::read_to_string(root.path().join(FILE)).unwrap();
            assert_eq!(text.lines().count() as u64, step);
            assert_eq!(text.len() as u64, metrics.bytes());
        }
    }

    #[test]
    fn a_resumed_file_is_cut_back_to_the_checkpoint_and_goes_on() {
        let (straight, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        written(straight.path(), 5);
        let at_checkpoint = written(stopped.path(), 3);
        {
            let (mut metrics, _) = Metrics::resume(stopped.path(), at_checkpoint).unwrap();
            metrics.append(&update(4, 77.0), &Extra::new()).unwrap();
        }
        // A line torn by a kill is behind the checkpoint as well.
        let path = stopped.path().join(FILE);
        let torn = fs::read_to_string(&path).unwrap() + "{\"step\":5,";
        fs::write(&path, torn).unwrap();
        let (mut metrics, warning) = Metrics::resume(stopped.path(), at_checkpoint).unwrap();
        assert_eq!(warning, None);
        metrics.append(&update(4, 1.0), &Extra::new()).unwrap();
        metrics.append(&update(5, 1.0), &Extra::new()).unwrap();
        let text = |root: &Path| fs::read_to_string(root.join(FILE)).unwrap();
        assert_eq!(text(stopped.path()), text(straight.path()));
    }

    #[test]
    fn a_metrics_file_that_was_cut_or_deleted_is_a_warning_and_stays_whole_lines() {
        let root = tempfile::tempdir().unwrap();
        let bytes = written(root.path(), 3);
        let path = root.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        for kept in [0, 10, text.len() / 2, text.len() - 1] {
            fs::write(&path, &text[..kept]).unwrap();
            let (metrics, warning) = Metrics::resume(root.path(), bytes).unwrap();
            assert!(warning.unwrap().contains(FILE));
            let left = fs::read_to_string(&path).unwrap();
            assert!(left.is_empty() || left.ends_with('\n'));
            assert_eq!(left.len() as u64, metrics.bytes());
            assert!(text.starts_with(&left));
        }
        fs::remove_file(&path).unwrap();
        assert!(Metrics::resume(root.path(), bytes).unwrap().1.is_some());
    }

    #[test]
    fn a_new_run_empties_the_file() {
        let root = tempfile::tempdir().unwrap();
        written(root.path(), 3);
        assert_eq!(Metrics::create(root.path()).unwrap().bytes(), 0);
        assert_eq!(fs::read(root.path().join(FILE)).unwrap(), b"");
    }
}
