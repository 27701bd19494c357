//! A registered component across the boundary: its kind and id, and how one is created.

use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::RSlice;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::guard::{self, Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, exports};
use super::record::{decode, encode, replies};
use super::services::SetupRecord;
use super::table::interfaces;
use super::types::filled;
use super::{comm, compute, data, model, observer, optimizer, tokenizer, trainer};
use crate::register::{Connects, Create, ModelComponent, OptimizerComponent, Registration, TrainerComponent};
use crate::{Compute, DataSource, Error, Kind, Observer, Result, Setup, Tokenizer};

interfaces! {
    /// A component that can be made. Any thread.
    "plugin.component/1" PluginComponent ComponentFunctions {
        /// Its kind, its id and the version of its crate.
        fn describe() -> ComponentRecord;
        /// Makes one, from its configuration and a [`Setup`]; the services and the tokenizer, which may be nothing, are the
        /// component's from then on.
        fn create(
            config: RSlice<'_, u8>, setup: RSlice<'_, u8>, services: &mut RawObject, tokenizer: &mut RawObject,
            made: &mut RawObject
        );
    }
}

/// What a component says of itself. The kind is a name, so that an older host can pass over one that it does not know.
#[derive(Serialize, Deserialize)]
pub(super) struct ComponentRecord {
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) version: String,
}

replies! { ComponentRecord }
exports! { &'static Registration: PluginComponent; }
// SAFETY: a registration holds functions and constants only.
unsafe impl AnyThread for PluginComponent {}

/// The object of a component.
pub(super) fn export(registration: &'static Registration) -> RawObject {
    RawObject::new(Guarded::factory(registration, Owner::named(name(registration))))
}

fn name(registration: &Registration) -> String {
    format!("{} {} {}", registration.kind, registration.id, registration.version)
}

impl ComponentFunctions for &'static Registration {
    fn describe(&self) -> Result<ComponentRecord> {
        let [kind, id, version] = [self.kind.name(), self.id, self.version].map(str::to_owned);
        Ok(ComponentRecord { kind, id, version })
    }

    fn create(
        &self,
        config: RSlice<'_, u8>,
        setup: RSlice<'_, u8>,
        services: &mut RawObject,
        tokenizer: &mut RawObject,
        made: &mut RawObject,
    ) -> Result<()> {
        let config = decode(config.as_slice())?;
        let setup = decode::<SetupRecord>(setup.as_slice())?;
        let setup = &setup.import(std::mem::take(services), std::mem::take(tokenizer))?;
        guard::log_panics_to(&setup.services);
        let owner = Owner::new(name(self), &setup.services);
        *made = match self.create {
            Create::Compute(create) => compute::export(&create(config, setup)?, || owner),
            Create::Model(create) => model::export(create(config, setup)?, owner),
            Create::Tokenizer(create) => tokenizer::export(create(config, setup)?, || owner),
            Create::Trainer(create) => trainer::export(create(config, setup)?, owner),
            Create::Optimizer(create) => optimizer::export(create(config, setup)?, owner),
            Create::Data(create) => data::export(create(config, setup)?, owner),
            Create::Comm(create) => comm::export(create(config, setup)?, owner),
            Create::Observer(create) => observer::export(create(config, setup)?, owner),
        };
        Ok(())
    }
}

/// A component of a loaded plugin.
pub struct LoadedComponent {
    functions: Imported<PluginComponent>,
    kind: Kind,
    id: String,
    version: String,
}

macro_rules! makers {
    ($($(#[$doc:meta])* $method:ident, $kind:ident => $made:ty;)*) => { $(
        $(#[$doc])*
        pub fn $method(&self, config: &Value, setup: &Setup) -> Result<$made> {
            $method::import(self.make(Kind::$kind, config, setup)?, self.functions.name())
        }
    )* };
}

impl LoadedComponent {
    /// The component of an object; none where its kind is unknown here.
    pub(super) fn import(object: RawObject) -> Result<Option<Self>> {
        let mut functions = Imported::<PluginComponent>::of(object, "plugin")?;
        let ComponentRecord { kind, id, version } = functions.describe()?;
        // A component lives as long as its library, which is never unloaded.
        functions.rename(format!("{kind} {id} {version}").leak());
        Ok(Kind::from_name(&kind).map(|kind| Self { functions, kind, id, version }))
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What errors call it: `optimizer lion 0.1.0`.
    pub fn name(&self) -> &'static str {
        self.functions.name()
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The version of the crate that it is in.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn make(&self, kind: Kind, config: &Value, setup: &Setup) -> Result<RawObject> {
        if kind != self.kind {
            return Err(Error::plugin(format!("{} is no {kind}", self.functions.name())));
        }
        let (record, [mut services, mut tokenizer]) = SetupRecord::export(setup)?;
        let (config, record) = (encode(config)?, encode(&record)?);
        let (config, record) = (config.as_slice().into(), record.as_slice().into());
        filled(|made| self.functions.create(config, record, &mut services, &mut tokenizer, made))
    }

    makers! {
        /// Makes a compute, which stays on this thread.
        compute, Compute => Rc<dyn Compute>;
        /// Makes a model, which stays on this thread.
        model, Model => ModelComponent;
        /// Makes a tokenizer.
        tokenizer, Tokenizer => Arc<dyn Tokenizer>;
        /// Makes a trainer.
        trainer, Trainer => TrainerComponent;
        /// Makes an optimizer.
        optimizer, Optimizer => OptimizerComponent;
        /// Makes a data source.
        data, Data => Box<dyn DataSource>;
        /// Makes a communication backend.
        comm, Comm => Box<dyn Connects>;
        /// Makes an observer.
        observer, Observer => Box<dyn Observer>;
    }
}
