//! Data sources across the boundary.

use std::sync::{Arc, Mutex, PoisonError};

use abi_stable::std_types::RStr;

use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, exports};
use super::record::replies;
use super::table::interfaces;
use crate::{DataSource, Example, Result};

interfaces! {
    /// A source of examples. Any thread, one at a time.
    "data.examples/1" DataExamples ExampleFunctions {
        /// [`DataSource::len`].
        fn length() -> Option<u64>;
        /// [`DataSource::next`].
        fn next_example() -> Option<Example>;
        /// [`DataSource::state`].
        fn position() -> String;
        /// [`DataSource::restore`].
        fn restore_position(position: RStr<'_>);
    }
}
replies! { Option<u64>, Option<Example> }

/// A source for which calls wait for each other, so that it is only used by one thread at a time.
type Source = Mutex<Box<dyn DataSource>>;

exports! { Source: DataExamples; }
// SAFETY: `DataSource` is `Send`, and its mutex makes it `Sync`.
unsafe impl AnyThread for DataExamples {}

/// Makes an object of a plain source.
pub(super) fn export(source: Box<dyn DataSource>, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new(Mutex::new(source), owner))
}

/// Makes a plain source of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<Box<dyn DataSource>> {
    Ok(Box::new(Imported::<DataExamples>::of(object, name)?))
}

impl ExampleFunctions for Source {
    fn length(&self) -> Result<Option<u64>> {
        Ok(self.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    fn next_example(&self) -> Result<Option<Example>> {
        self.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn position(&self) -> Result<String> {
        self.lock().unwrap_or_else(PoisonError::into_inner).state()
    }

    fn restore_position(&self, position: RStr<'_>) -> Result<()> {
        self.lock().unwrap_or_else(PoisonError::into_inner).restore(position.as_str())
    }
}

impl DataSource for Imported<DataExamples> {
    fn len(&self) -> Option<u64> {
        self.length().ok().flatten()
    }

    fn next(&mut self) -> Result<Option<Example>> {
        self.next_example()
    }

    fn state(&self) -> Result<String> {
        self.position()
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        self.restore_position(state.into())
    }
}
