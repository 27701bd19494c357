//! A job: its resolved configuration, the plugins that it names, and the components made of them.

mod opened;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use mdt_plugin_api::abi::LoadedComponent;
use mdt_plugin_api::register::{Connects, ModelComponent, OptimizerComponent, TrainerComponent};
use mdt_plugin_api::{Compute, DataSource, HostServices, Kind, Services, Setup, SharedTokenizer};
use serde_json::{Map, Value, json};

use crate::config::{Chosen, Components as _, Init, Resolved};
use crate::data;
use crate::exit::{Failure, Status};
use crate::model::{DescribedModel, Directory, Precision, check_parameters, in_cache};
use crate::observers::Named;
use crate::plugins::Catalog;
use crate::services::LocalServices;

pub use opened::OpenedModel;

/// A job that has been configured and not yet begun.
#[derive(Clone)]
pub struct Job {
    /// Its configuration.
    pub resolved: Resolved,
    /// The plugins.
    pub catalog: Arc<Catalog>,
    /// What the host does for them.
    pub services: Arc<LocalServices>,
}

impl Job {
    /// Number of threads that the job may use.
    pub fn threads(&self) -> usize {
        self.resolved.settings.compute.thread_count()
    }

    /// The model's directory.
    ///
    /// # Errors
    /// None is configured, or it cannot be read.
    pub fn model_directory(&self) -> Result<Directory, Failure> {
        self.resolved.require_model()?;
        let model = &self.resolved.settings.model;
        match (&model.path, &model.name) {
            (Some(path), _) => Directory::open(path),
            (None, Some(name)) => {
                let weights = model.init == Init::Pretrained;
                Directory::open(&in_cache(name, model.revision.as_deref(), weights)?)
            }
            (None, None) => Err(Failure::configuration("there is no model: `model.path` is not set")
                .help("set it in a --config file, or with `--set model.path=DIR`")),
        }
    }

    /// Makes the compute component, on the thread that will use it.
    pub fn compute(&self) -> Result<Rc<dyn Compute>, Failure> {
        let precision = self.precision()?;
        let (component, config) = self.component(Kind::Compute)?;
        let compute = component.compute(config, &self.setup(None, ""))?;
        precision.check(&self.chosen(Kind::Compute)?.id, &*compute)?;
        Ok(compute)
    }

    /// The element types that models are computed in.
    ///
    /// # Errors
    /// Types that training would not be right in.
    pub fn precision(&self) -> Result<Precision, Failure> {
        Precision::of(&self.resolved.settings)
    }

    /// Makes the model component, on the compute thread, and checks the parameters that it declares.
    pub fn model(&self, directory: &Directory) -> Result<DescribedModel, Failure> {
        let (component, config) = self.component(Kind::Model)?;
        let model = component.model(config, &self.setup(Some(directory), ""))?;
        described(&self.chosen(Kind::Model)?.id, component.version(), model, self.precision()?)
    }

    /// Makes the model component for another model's directory, with the defaults of its configuration.
    pub fn other_model(&self, directory: &Directory) -> Result<DescribedModel, Failure> {
        let id = directory.model_type()?;
        let component = self.catalog.component(Kind::Model, &id)?;
        let model = component.model(&Value::Object(Map::new()), &self.setup(Some(directory), ""))?;
        described(&id, component.version(), model, self.precision()?)
    }

    /// Makes the tokenizer component.
    pub fn tokenizer(&self, directory: &Directory) -> Result<SharedTokenizer, Failure> {
        let (component, config) = self.component(Kind::Tokenizer)?;
        Ok(SharedTokenizer::new(component.tokenizer(config, &self.setup(Some(directory), ""))?)?)
    }

    /// Makes the trainer component, which borrows the tokenizer.
    pub fn trainer(&self, directory: &Directory, tokenizer: &SharedTokenizer) -> Result<TrainerComponent, Failure> {
        let (component, config) = self.component(Kind::Trainer)?;
        let setup = Setup { tokenizer: Some(tokenizer.clone()), ..self.setup(Some(directory), "") };
        Ok(component.trainer(config, &setup)?)
    }

    /// Makes the optimizer component.
    pub fn optimizer(&self) -> Result<OptimizerComponent, Failure> {
        let (component, config) = self.component(Kind::Optimizer)?;
        Ok(component.optimizer(config, &self.setup(None, ""))?)
    }

    /// Makes a data component for one source.
    pub fn data(&self, source: &str) -> Result<Box<dyn DataSource>, Failure> {
        self.data_unpacked(source, None)
    }

    /// The same, where the component keeps the text of a compressed file in another one if it knows the key `unpacked`.
    pub fn data_unpacked(&self, source: &str, unpacked: Option<&Path>) -> Result<Box<dyn DataSource>, Failure> {
        let Chosen { id: chosen, config } = self.chosen(Kind::Data)?;
        let by_extension = self.data_by_extension(source);
        let id = by_extension.as_ref().unwrap_or(chosen);
        let mut keys = config.as_object().cloned().unwrap_or_default();
        if by_extension.is_some() || unpacked.is_some() {
            let schema = self.catalog.schema(Kind::Data, id)?;
            let is_known = |key: &str| !schema["properties"][key].is_null();
            // Components of files share most keys; one of these has its default where the other has none of that name.
            keys.retain(|key, _| by_extension.is_none() || is_known(key));
            if let Some(unpacked) = unpacked.filter(|_| is_known("unpacked")) {
                keys.insert("unpacked".to_owned(), json!(unpacked));
            }
        }
        Ok(self.catalog.component(Kind::Data, id)?.data(&Value::Object(keys), &self.setup(None, source))?)
    }

    /// The data component for a source by its extension, where that is another one than the chosen one.
    fn data_by_extension(&self, source: &str) -> Option<String> {
        let is_other = |id: &String| self.resolved.component(Kind::Data).is_some_and(|chosen| chosen.id != *id);
        let by_extension = self.resolved.reads_by_extension();
        by_extension.then(|| data::component(source, &self.catalog.ids(Kind::Data))).flatten().filter(is_other)
    }

    /// The components that the job uses: kinds and ids.
    pub fn components(&self) -> Vec<(Kind, String)> {
        let data = &self.resolved.settings.data;
        let chosen = |kind| self.resolved.component(kind).map(|chosen| chosen.id.clone());
        let ids = |kind| match kind {
            Kind::Data => {
                let sources = data.train.iter().map(|source| &source.path).chain(&data.eval);
                let mut ids: Vec<String> =
                    sources.filter_map(|source| self.data_by_extension(source).or(chosen(kind))).collect();
                ids.sort();
                ids.dedup();
                if ids.is_empty() { chosen(kind).into_iter().collect() } else { ids }
            }
            kind => chosen(kind).into_iter().collect(),
        };
        Kind::ALL.iter().flat_map(|&kind| ids(kind).into_iter().map(move |id| (kind, id)).collect::<Vec<_>>()).collect()
    }

    /// Makes the observers of this rank, with their names.
    pub fn observers(&self) -> Result<Vec<Named>, Failure> {
        let settings = &self.resolved.settings;
        let here = settings.observers.iter().filter(|observer| settings.comm.rank == 0 || observer.every_rank);
        here.map(|observer| {
            let component = self.catalog.component(Kind::Observer, &observer.id)?;
            let config = Value::Object(observer.keys.clone());
            Ok((component.name().to_owned(), component.observer(&config, &self.setup(None, ""))?))
        })
        .collect()
    }

    /// Makes the communication component.
    pub fn comm(&self) -> Result<Box<dyn Connects>, Failure> {
        let (component, config) = self.component(Kind::Comm)?;
        Ok(component.comm(config, &self.setup(None, ""))?)
    }

    /// Makes any communication component there is, with a configuration of its own.
    pub fn other_comm(&self, id: &str, config: &Value) -> Result<Box<dyn Connects>, Failure> {
        Ok(self.catalog.component(Kind::Comm, id)?.comm(config, &self.setup(None, ""))?)
    }

    /// The components that the job uses, as `optimizer adamw 0.1.0`, for checkpoints.
    pub fn component_names(&self) -> Result<Vec<String>, Failure> {
        let name = |(kind, id): (Kind, String)| {
            let component = self.catalog.component(kind, &id)?;
            Ok(format!("{kind} {id} {}", component.version()))
        };
        self.components().into_iter().map(name).collect()
    }

    /// The trainer, as errors name it.
    pub fn trainer_name(&self) -> String {
        let Some(Chosen { id, .. }) = self.resolved.component(Kind::Trainer) else { return Kind::Trainer.to_string() };
        let version = self.catalog.component(Kind::Trainer, id).map(|component| component.version().to_owned());
        format!("trainer {id} {}", version.unwrap_or_default())
    }

    /// The trainer with those of its keys that are no tables, as `sft: train_on = assistant`; none where it has none.
    pub fn trainer_keys(&self) -> Option<String> {
        let Chosen { id, config } = self.resolved.component(Kind::Trainer)?;
        let own = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Some(format!("{key} = {text}")),
            Value::Bool(_) | Value::Number(_) => Some(format!("{key} = {value}")),
            _ => None,
        };
        let keys: Vec<_> = config.as_object()?.iter().filter_map(own).collect();
        (!keys.is_empty()).then(|| format!("{id}: {}", keys.join(", ")))
    }

    fn component(&self, kind: Kind) -> Result<(Arc<LoadedComponent>, &Value), Failure> {
        let Chosen { id, config } = self.chosen(kind)?;
        Ok((self.catalog.component(kind, id)?, config))
    }

    fn chosen(&self, kind: Kind) -> Result<&Chosen, Failure> {
        let chosen = self.resolved.component(kind);
        chosen.ok_or_else(|| Failure::new(Status::Configuration, format!("no {kind} component is chosen")))
    }

    fn setup(&self, directory: Option<&Directory>, source: &str) -> Setup {
        let services: Arc<dyn HostServices> = Arc::<LocalServices>::clone(&self.services);
        Setup {
            services: Services::new(services),
            seed: self.resolved.settings.seed,
            threads: self.threads(),
            model_path: directory.map(|directory| PathBuf::from(directory.path())),
            model_config: directory.map_or(Value::Null, |directory| directory.config().clone()),
            tokenizer: None,
            source: source.to_owned(),
            max_seq_len: self.resolved.settings.trainer.max_seq_len as usize,
        }
    }
}

/// A model with its description, whose parameters are checked.
fn described(
    id: &str,
    version: &str,
    component: ModelComponent,
    precision: Precision,
) -> Result<DescribedModel, Failure> {
    let model = DescribedModel::new(component.forward, &format!("{} {id} {version}", Kind::Model));
    check_parameters(id, &model.spec().parameters)?;
    Ok(model.in_precision(precision))
}
