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

    /// Where rows are that are not read in their order. Any thread, one at a time.
    "data.places/1" DataPlaces PlaceFunctions {
        /// [`DataSource::state_of`].
        fn position_of(row: u64) -> Option<String>;
    }
}
replies! { Length, RowBatch, Option<String> }

/// A source for which calls wait for each other, so that it is only used by one thread at a time.
type Source = Mutex<Box<dyn DataSource>>;

exports! { Source: DataRows, DataPlaces; }
// SAFETY: `DataSource` is `Send`, and its mutex makes it `Sync`.
unsafe impl AnyThread for DataRows {}
// SAFETY: as above.
unsafe impl AnyThread for DataPlaces {}

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

impl PlaceFunctions for Source {
    fn position_of(&self, row: u64) -> Result<Option<String>> {
        lock(self).state_of(row)
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

    fn state_of(&mut self, row: u64) -> Result<Option<String>> {
        self.beside::<DataPlaces>()?.map_or(Ok(None), |places| places.position_of(row))
    }

    fn batch(&mut self, most: usize) -> Result<RowBatch> {
        let mut batch = self.next_rows(most as u64)?;
        batch.error = batch.error.map(|error| error.in_component(self.name()));
        if batch.rows.len() > most {
            let error = format!("{} rows came where {most} at most were asked for", batch.rows.len());
            return Err(Error::plugin(error).in_component(self.name()));
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::across;

    /// Six rows, of which the fifth is unreadable.
    struct Numbers {
        given: u64,
    }

    impl DataSource for Numbers {
        fn length(&mut self) -> Result<Length> {
            Ok(Length::Rows(6))
        }

        fn next(&mut self) -> Result<Option<Example>> {
            self.given += 1;
            match self.given {
                5 => Err(Error::input("unreadable")),
                7.. => Ok(None),
                given => Ok(Some(Example::new(given).with("number", given))),
            }
        }

        fn state(&self) -> Result<String> {
            Ok(self.given.to_string())
        }

        fn restore(&mut self, state: &str) -> Result<()> {
            self.given = state.parse().map_err(|_| Error::input(format!("{state:?} is no state")))?;
            Ok(())
        }
    }

    #[test]
    fn each_row_of_a_batch_has_the_state_after_it() {
        let native: Box<dyn DataSource> = Box::new(Numbers { given: 0 });
        for mut source in [native, across::data(Box::new(Numbers { given: 0 })).unwrap()] {
            let RowBatch { rows, error } = source.batch(100).unwrap();
            assert_eq!(rows.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
            assert_eq!(error.unwrap().message(), "unreadable", "the rows before it are not lost");
            for (number, row) in (1..).zip(&rows) {
                source.restore(&row.state).unwrap();
                assert_eq!(source.batch(1).unwrap().rows, rows.get(number).map_or(Vec::new(), |row| vec![row.clone()]));
                if number == 3 {
                    break;
                }
            }
            source.restore("6").unwrap();
            assert_eq!(source.batch(5).unwrap(), RowBatch::default());
        }
    }

    #[test]
    fn a_batch_ends_before_it_takes_much_memory_or_time() {
        struct Wide(u64, std::time::Duration);
        impl DataSource for Wide {
            fn length(&mut self) -> Result<Length> {
                Ok(Length::Endless)
            }

            fn next(&mut self) -> Result<Option<Example>> {
                std::thread::sleep(self.1);
                Ok(Some(Example::new(1).with("bytes", vec![0u8; self.0 as usize])))
            }

            fn state(&self) -> Result<String> {
                Ok(String::new())
            }

            fn restore(&mut self, _state: &str) -> Result<()> {
                Ok(())
            }
        }
        let wide = across::data(Box::new(Wide(1 << 20, std::time::Duration::ZERO))).unwrap().batch(1000).unwrap();
        assert!(wide.rows.len() < 10);
        let slow = across::data(Box::new(Wide(1, std::time::Duration::from_millis(5)))).unwrap().batch(1000).unwrap();
        assert!(slow.rows.len() < 10);
    }
}
