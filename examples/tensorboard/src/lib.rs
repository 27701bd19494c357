//! An observer for `mdt-host` that writes event files for TensorBoard (<https://www.tensorflow.org/tensorboard>).

mod event_file;
mod protobuf;

use std::path::{Path, PathBuf};

use event_file::EventFile;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Metrics, Sample, Started, serde_json};
use protobuf::Content;

mdt_plugin_api::config! {
    /// Keys of the observer `tensorboard`.
    pub struct Config {
        /// The directory of the event files. Default: `tensorboard` in the output directory of the run.
        directory: Option<PathBuf> = None,
    }
}

struct TensorBoard {
    config: Config,
    file: Option<EventFile>,
}

impl Component for TensorBoard {
    type Config = Config;

    fn create(config: Config, _setup: &Setup) -> Result<Self> {
        Ok(Self { config, file: None })
    }
}

impl Observer for TensorBoard {
    fn observe(&mut self, Observation { unix_time_s: time, event }: &Observation) -> Result<()> {
        match event {
            Event::Started(started) => self.start(*time, started),
            Event::Updated(metrics) => self.numbers(*time, "train", metrics),
            Event::Evaluated(metrics) => self.numbers(*time, "eval", metrics),
            Event::Sampled(sample) => self.sample(*time, sample),
            _ => Ok(()),
        }
    }
}

impl TensorBoard {
    /// A file of its own for every start, as TensorBoard wants it: it joins the files of a directory.
    fn start(&mut self, time: f64, started: &Started) -> Result<()> {
        let own = || Path::new(&started.output_dir).join("tensorboard");
        let mut file = EventFile::create(&self.config.directory.clone().unwrap_or_else(own), time)?;
        // What a run that was interrupted did after the checkpoint from which this one goes on counts no more.
        file.write(time, started.updates_done + 1, &Content::SessionStart)?;
        let configuration = serde_json::to_string_pretty(&started.configuration).unwrap_or_default();
        let text = format!("{}\n\n```json\n{configuration}\n```", started.components.join(", "));
        file.write(time, started.updates_done, &Content::Text("configuration", &text))?;
        self.file = Some(file);
        Ok(())
    }

    /// A prompt and its answer, as indented blocks in Markdown.
    fn sample(&mut self, time: f64, Sample { update, evaluation, prompt, answer }: &Sample) -> Result<()> {
        let block = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let text = format!("{}\n**answer**\n\n{}", block(prompt), block(answer));
        let tag = if *evaluation { "eval/sample" } else { "train/sample" };
        match &mut self.file {
            Some(file) => file.write(time, *update, &Content::Text(tag, &text)),
            None => Ok(()),
        }
    }

    fn numbers(&mut self, time: f64, group: &str, metrics: &Metrics) -> Result<()> {
        let named = metrics.values.iter().filter(|(name, _)| *name != "step");
        let tag = |name: &str| format!("{group}/{}", name.strip_prefix("eval_").unwrap_or(name));
        let numbers: Vec<_> = named.map(|(name, &value)| (tag(name), value as f32)).collect();
        match &mut self.file {
            Some(file) => file.write(time, metrics.update, &Content::Numbers(&numbers)),
            None => Ok(()),
        }
    }
}

mdt_plugin_api::plugin! { observer "tensorboard" => TensorBoard; }

#[cfg(test)]
mod tests {
    use super::*;

    fn told(event: Event) -> Observation {
        Observation { unix_time_s: 1_700_000_000.5, event }
    }

    fn metrics(update: u64, values: &[(&str, f64)]) -> Metrics {
        Metrics { update, values: values.iter().map(|&(name, value)| (name.to_owned(), value)).collect() }
    }

    /// The file that `check.py` reads with TensorBoard's own reader.
    #[test]
    fn a_run_gives_the_bytes_that_tensorboards_reader_was_seen_to_read() {
        let place = tempfile::tempdir().unwrap();
        let config = Config { directory: Some(place.path().to_owned()) };
        let mut observer = TensorBoard { config, file: None };
        let started = Started {
            configuration: serde_json::json!({ "seed": 1 }),
            output_dir: "out".to_owned(),
            components: vec!["optimizer lion 0.1.0".to_owned()],
            updates_done: 0,
            updates_planned: 2,
            rank: 0,
            world_size: 1,
        };
        observer.observe(&told(Event::Started(started))).unwrap();
        for event in [
            Event::Updated(metrics(1, &[("step", 1.0), ("loss", 2.5), ("lr", 1e-4)])),
            Event::Updated(metrics(2, &[("step", 2.0), ("loss", 2.0), ("lr", 5e-5)])),
            Event::Evaluated(metrics(2, &[("step", 2.0), ("eval_loss", 2.25)])),
            Event::Sampled(Sample { update: 2, evaluation: true, prompt: "2 + 2\n= ".into(), answer: "4".into() }),
            Event::Finished,
        ] {
            observer.observe(&told(event)).unwrap();
        }
        let name = "events.out.tfevents.1700000000.mdt-host";
        let written = std::fs::read(place.path().join(name)).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
            std::fs::write(&golden, &written).unwrap();
        }
        assert_eq!(written, std::fs::read(golden).unwrap());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
        let error = EventFile::create(Path::new("/dev/null/x"), 0.0).err().unwrap();
        assert_eq!(error.context()[0], ("file".to_owned(), "/dev/null/x".to_owned()));
    }
}
