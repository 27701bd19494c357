//! A registered component across the boundary: its kind and id, its schema, and how one is created.

use std::rc::Rc;
use std::sync::Arc;

use abi_stable::std_types::{RBox, RResult, RStr, RString};
use abi_stable::{sabi_trait, sabi_trait::TD_Opaque};
use serde_json::Value;

use super::comm::{self, CommObject};
use super::compute::{self, ComputeObject};
use super::data::{self, DataObject};
use super::guard::{Guard, Owner};
use super::model::{self, ModelObject};
use super::optimizer::{self, OptimizerObject};
use super::services::RawSetup;
use super::trainer::{self, TrainerObject};
use super::types::{RawError, plain};
use crate::register::{Create, Registration};
use crate::{CommBackend, Compute, DataSource, Error, Kind, Model, Optimizer, Result, Setup, Trainer};

/// A component that can be made, with a stable layout. A component is of one kind; the others' methods are errors.
#[sabi_trait]
pub trait RawComponent: Send + Sync {
    /// The number of its [`Kind`].
    fn kind(&self) -> u32;
    /// Its id.
    fn id(&self) -> RString;
    /// The version of its crate.
    fn version(&self) -> RString;
    /// The JSON Schema of its configuration, as text.
    fn schema(&self) -> RResult<RString, RawError>;
    /// Makes a [`Compute`].
    fn compute(&self, config: RStr<'_>, setup: RawSetup) -> RResult<ComputeObject, RawError>;
    /// Makes a [`Model`].
    fn model(&self, config: RStr<'_>, setup: RawSetup) -> RResult<ModelObject, RawError>;
    /// Makes a [`Trainer`].
    fn trainer(&self, config: RStr<'_>, setup: RawSetup) -> RResult<TrainerObject, RawError>;
    /// Makes an [`Optimizer`].
    fn optimizer(&self, config: RStr<'_>, setup: RawSetup) -> RResult<OptimizerObject, RawError>;
    /// Makes a [`DataSource`].
    fn data(&self, config: RStr<'_>, setup: RawSetup) -> RResult<DataObject, RawError>;
    /// Makes a [`CommBackend`].
    #[sabi(last_prefix_field)]
    fn comm(&self, config: RStr<'_>, setup: RawSetup) -> RResult<CommObject, RawError>;
}

pub(crate) type ComponentObject = RawComponent_TO<'static, RBox<()>>;

struct Exported(&'static Registration);

pub(crate) fn export(registration: &'static Registration) -> ComponentObject {
    RawComponent_TO::from_value(Exported(registration), TD_Opaque)
}

impl Exported {
    fn name(&self) -> String {
        format!("{} {} {}", self.0.kind, self.0.id, self.0.version)
    }

    /// Guards one call. Making a component that panics spoils only that one, not the next attempt.
    fn call<T>(&self, body: impl FnOnce() -> Result<T>) -> RResult<T, RawError> {
        Guard::new(Owner::named(self.name())).call(body)
    }

    fn wrong_kind<T>(&self, asked: Kind) -> Result<T> {
        Err(Error::plugin(format!("{} is no {asked}", self.name())))
    }
}

macro_rules! makers {
    ($($method:ident, $kind:ident, $object:ident;)*) => { $(
        fn $method(&self, config: RStr<'_>, setup: RawSetup) -> RResult<$object, RawError> {
            self.call(|| {
                let config = serde_json::from_str(config.as_str())
                    .map_err(|error| Error::plugin(format!("the host sent a configuration that is no JSON: {error}")))?;
                let setup = setup.import()?;
                match self.0.create {
                    Create::$kind(create) => {
                        Ok(wrap::$method(create(config, &setup)?, Owner::new(self.name(), &setup.services)))
                    }
                    _ => self.wrong_kind(Kind::$kind),
                }
            })
        }
    )* };
}

impl RawComponent for Exported {
    fn kind(&self) -> u32 {
        self.0.kind as u32
    }

    fn id(&self) -> RString {
        self.0.id.into()
    }

    fn version(&self) -> RString {
        self.0.version.into()
    }

    fn schema(&self) -> RResult<RString, RawError> {
        self.call(|| Ok((self.0.schema)().to_string().into()))
    }

    makers! {
        compute, Compute, ComputeObject;
        model, Model, ModelObject;
        trainer, Trainer, TrainerObject;
        optimizer, Optimizer, OptimizerObject;
        data, Data, DataObject;
        comm, Comm, CommObject;
    }
}

/// The exporters under the names of their kinds.
mod wrap {
    use super::*;

    pub(super) fn compute(made: Rc<dyn Compute>, owner: Arc<Owner>) -> ComputeObject {
        super::compute::export(&made, || owner)
    }
    pub(super) use super::comm::export as comm;
    pub(super) use super::data::export as data;
    pub(super) use super::model::export as model;
    pub(super) use super::optimizer::export as optimizer;
    pub(super) use super::trainer::export as trainer;
}

/// A component of a loaded plugin.
pub struct LoadedComponent {
    object: ComponentObject,
    kind: Kind,
    id: String,
    version: String,
}

impl LoadedComponent {
    pub(crate) fn import(object: ComponentObject) -> Result<Self> {
        let number = object.kind();
        let kind = Kind::from_number(number)
            .ok_or_else(|| Error::plugin(format!("component {} is of kind {number}, unknown here", object.id())))?;
        Ok(Self { kind, id: object.id().into(), version: object.version().into(), object })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The version of the crate that it is in.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The JSON Schema of its configuration.
    pub fn schema(&self) -> Result<Value> {
        let text = plain(self.object.schema())?;
        serde_json::from_str(&text).map_err(|error| Error::plugin(format!("its schema is no JSON: {error}")))
    }

    /// Makes a compute, which stays on this thread.
    pub fn compute(&self, config: &Value, setup: &Setup) -> Result<Rc<dyn Compute>> {
        let object = plain(self.object.compute(config.to_string().as_str().into(), RawSetup::export(setup)?))?;
        Ok(compute::import(object))
    }

    /// Makes a model, which stays on this thread.
    pub fn model(&self, config: &Value, setup: &Setup) -> Result<Box<dyn Model>> {
        model::import(plain(self.object.model(config.to_string().as_str().into(), RawSetup::export(setup)?))?)
    }

    /// Makes a trainer.
    pub fn trainer(&self, config: &Value, setup: &Setup) -> Result<Box<dyn Trainer>> {
        let object = plain(self.object.trainer(config.to_string().as_str().into(), RawSetup::export(setup)?))?;
        Ok(trainer::import(object))
    }

    /// Makes an optimizer.
    pub fn optimizer(&self, config: &Value, setup: &Setup) -> Result<Box<dyn Optimizer>> {
        let object = plain(self.object.optimizer(config.to_string().as_str().into(), RawSetup::export(setup)?))?;
        Ok(optimizer::import(object))
    }

    /// Makes a data source.
    pub fn data(&self, config: &Value, setup: &Setup) -> Result<Box<dyn DataSource>> {
        let object = plain(self.object.data(config.to_string().as_str().into(), RawSetup::export(setup)?))?;
        Ok(data::import(object))
    }

    /// Makes a communication backend.
    pub fn comm(&self, config: &Value, setup: &Setup) -> Result<Box<dyn CommBackend>> {
        let object = plain(self.object.comm(config.to_string().as_str().into(), RawSetup::export(setup)?))?;
        Ok(comm::import(object))
    }
}
