//! Observers across the boundary.

use std::sync::{Arc, Mutex, PoisonError};

use abi_stable::std_types::RSlice;

use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, exports};
use super::record::{decode, encode};
use super::table::interfaces;
use crate::{Observation, Observer, Result};

interfaces! {
    /// An observer. Any thread, one at a time.
    "observer.events/1" ObserverEvents EventFunctions {
        /// [`Observer::observe`], with an [`Observation`].
        fn observe_event(observation: RSlice<'_, u8>);
    }
}

/// An observer for which calls wait for each other, so that it is only used by one thread at a time.
type Watching = Mutex<Box<dyn Observer>>;

exports! { Watching: ObserverEvents; }
// SAFETY: `Observer` is `Send`, and its mutex makes it `Sync`.
unsafe impl AnyThread for ObserverEvents {}

/// Makes an object of a plain observer.
pub(super) fn export(observer: Box<dyn Observer>, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new(Mutex::new(observer), owner))
}

/// Makes a plain observer of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<Box<dyn Observer>> {
    Ok(Box::new(Imported::<ObserverEvents>::of(object, name)?))
}

impl EventFunctions for Watching {
    fn observe_event(&self, observation: RSlice<'_, u8>) -> Result<()> {
        let observation = decode(observation.as_slice())?;
        self.lock().unwrap_or_else(PoisonError::into_inner).observe(&observation)
    }
}

impl Observer for Imported<ObserverEvents> {
    fn observe(&mut self, observation: &Observation) -> Result<()> {
        self.observe_event(encode(observation)?.as_slice().into())
    }
}
