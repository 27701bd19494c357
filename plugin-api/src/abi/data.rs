//! Data sources across the boundary.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi_stable::std_types::RStr;

use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, exports};
use super::record::replies;
use super::table::interfaces;
use crate::{DataSource, Error, Example, Length, Result, Row, RowBatch};

interfaces! {
    /// A source of examples. Any thread, one at a time.
    "data.rows/1" DataRows RowFunctions {
        /// [`DataSource::length`].
        fn row_count() -> Length;
        /// [`DataSource::batch`].
        fn next_rows(most: u64) -> RowBatch;
        /// [`DataSource::state`].
        fn position() -> String;
        /// [`DataSource::restore`].
        fn restore_position(position: RStr<'_>);
    }
}
replies! { Length, RowBatch }

/// A source for which calls wait for each other, so that it is only used by one thread at a time.
type Source = Mutex<Box<dyn DataSource>>;

exports! { Source: DataRows; }
// SAFETY: `DataSource` is `Send`, and its mutex makes it `Sync`.
unsafe impl AnyThread for DataRows {}

/// Makes an object of a plain source.
pub(super) fn export(source: Box<dyn DataSource>, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new(Mutex::new(source), owner))
}

/// Makes a plain source of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<Box<dyn DataSource>> {
    Ok(Box::new(Imported::<DataRows>::of(object, name)?))
}

fn lock(source: &Source) -> MutexGuard<'_, Box<dyn DataSource>> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RowFunctions for Source {
    fn row_count(&self) -> Result<Length> {
        lock(self).length()
    }

    fn next_rows(&self, most: u64) -> Result<RowBatch> {
        lock(self).batch(usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn position(&self) -> Result<String> {
        lock(self).state()
    }

    fn restore_position(&self, position: RStr<'_>) -> Result<()> {
        lock(self).restore(position.as_str())
    }
}

impl DataSource for Imported<DataRows> {
    fn length(&mut self) -> Result<Length> {
        self.row_count()
    }

    fn next(&mut self) -> Result<Option<Example>> {
        let RowBatch { mut rows, error } = self.batch(1)?;
        match (rows.pop(), error) {
            (Some(Row { example, .. }), _) => Ok(Some(example)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    fn state(&self) -> Result<String> {
        self.position()
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        self.restore_position(state.into())
    }

    fn batch(&mut self, most: usize) -> Result<RowBatch> {
        let batch = self.next_rows(most as u64)?;
        if batch.rows.len() > most {
            let error = format!("{} rows came where {most} at most were asked for", batch.rows.len());
            return Err(Error::plugin(error).in_component(self.name()));
        }
        Ok(batch)
    }
}
