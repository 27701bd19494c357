//! The losses of a metrics file.

use super::FILE;
use crate::exit::Failure;
use crate::storage::unreadable;
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Losses by update.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// `loss` of each update.
    pub train: Vec<(u64, f64)>,
    /// `eval_loss` of each evaluation.
    pub eval: Vec<(u64, f64)>,
}

/// Reads the losses of a metrics file. Lines without a loss, with null, or incomplete at the end of the file are skipped.
///
/// # Errors
/// Status 7: the file cannot be read, or a line before the last is not JSON.
pub fn read_losses(path: &Path) -> Result<Curve, Failure> {
    #[derive(Deserialize)]
    struct Losses {
        step: u64,
        loss: Option<f64>,
        eval_loss: Option<f64>,
    }
    let failed = |cause: &dyn std::fmt::Display| unreadable("the metrics file cannot be read", path, cause);
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut lines = BufReader::new(file).lines().enumerate().peekable();
    let mut curve = Curve::default();
    while let Some((number, line)) = lines.next() {
        let line = line.map_err(|error| failed(&error))?;
        match serde_json::from_str::<Losses>(&line) {
            Ok(Losses { step, loss, eval_loss }) => {
                curve.train.extend(loss.map(|loss| (step, loss)));
                curve.eval.extend(eval_loss.map(|loss| (step, loss)));
            }
            Err(_) if lines.peek().is_none() => {}
            Err(error) => return Err(failed(&format!("line {}: {error}", number + 1))),
        }
    }
    Ok(curve)
}

/// The last update in the metrics file of an output directory, if that can be read.
pub fn last_update(output_dir: &Path) -> Option<u64> {
    read_losses(&output_dir.join(FILE)).ok()?.train.last().map(|(update, _)| *update)
}

#[cfg(test)]
mod tests {
    use super::super::line::{evaluation, update};
    use super::super::{Extra, Metrics};
    use super::*;
    use std::fs;

    #[test]
    fn the_reader_gives_back_the_losses_that_were_written() {
        let root = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::create(root.path()).unwrap();
        metrics.append(&update(1, 3.25), &Extra::new()).unwrap();
        metrics.append(&update(2, f64::NAN), &Extra::new()).unwrap();
        metrics.append(&evaluation(2, 2.5), &Extra::new()).unwrap();
        metrics.append(&update(3, 2.75), &Extra::new()).unwrap();
        let path = root.path().join(FILE);
        let torn = fs::read_to_string(&path).unwrap() + "{\"step\":";
        fs::write(&path, torn).unwrap();
        let curve = read_losses(&path).unwrap();
        assert_eq!(curve, Curve { train: vec![(1, 3.25), (3, 2.75)], eval: vec![(2, 2.5)] });
    }

    #[test]
    fn a_damaged_line_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(FILE);
        fs::write(&path, "{\"step\":1,\"loss\":1.0}\nnonsense\n{\"step\":2,\"loss\":1.0}\n").unwrap();
        assert!(read_losses(&path).unwrap_err().to_string().contains("line 2"));
    }
}
