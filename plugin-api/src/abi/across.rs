//! Sends a component through the boundary and back, for tests: it must answer as before, errors and panics included.

use std::rc::Rc;
use std::sync::Arc;

use super::guard::Owner;
use super::{comm, compute, data, model, observer, optimizer, tokenizer, trainer};
use crate::register::{Connects, ModelComponent, OptimizerComponent, TrainerComponent};
use crate::{Compute, DataSource, Observer, Result, Tokenizer};

const NAME: &str = "component under test";

/// A compute as a host gets it.
pub fn compute(compute: &Rc<dyn Compute>) -> Result<Rc<dyn Compute>> {
    compute::import(compute::export(compute, || Owner::named(NAME)), NAME)
}

/// A tokenizer as a host gets it.
pub fn tokenizer(tokenizer: Arc<dyn Tokenizer>) -> Result<Arc<dyn Tokenizer>> {
    tokenizer::import(tokenizer::export(tokenizer, || Owner::named(NAME)), NAME)
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $component:ty;)*) => { $(
        $(#[$doc])*
        pub fn $kind(component: $component) -> Result<$component> {
            $kind::import($kind::export(component, Owner::named(NAME)), NAME)
        }
    )* };
}
kinds! {
    /// A model as a host gets it.
    model ModelComponent;
    /// A trainer as a host gets it.
    trainer TrainerComponent;
    /// An optimizer as a host gets it.
    optimizer OptimizerComponent;
    /// A data source as a host gets it.
    data Box<dyn DataSource>;
    /// A communication backend as a host gets it.
    comm Box<dyn Connects>;
    /// An observer as a host gets it.
    observer Box<dyn Observer>;
}
