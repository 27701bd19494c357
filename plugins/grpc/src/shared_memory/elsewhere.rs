//! Where memory cannot be shared: all ranks exchange data over TCP. Sharing needs sealed memory files and futexes, which Linux
//! has.

use std::sync::Arc;

use mdt_plugin_api::{Region, Work};

use crate::SharedMemoryUse;
use crate::call::Request;
use crate::engine::Engine;
use crate::job::Job;

/// There is none.
pub(crate) enum SharedMemory {}

/// Why not, as the end of a sentence about this rank.
const WHY: &str = "runs on a system on which this plugin shares no memory";

impl SharedMemory {
    /// # Errors
    /// Always.
    pub(crate) fn is_possible(_: SharedMemoryUse) -> Result<(), String> {
        Err(WHY.to_owned())
    }

    /// Tells the other ranks, which may run on another system, that this one shares no memory.
    ///
    /// # Errors
    /// A rank was lost meanwhile, or has not come.
    pub(crate) async fn connect(_: &Arc<Job>, engine: &mut Engine) -> mdt_plugin_api::Result<Option<Self>> {
        for _ in ["the offer", "the outcome"] {
            engine.tell_all(WHY.into()).await?;
        }
        Ok(None)
    }

    pub(crate) fn begin(&self, _: Request) -> Box<dyn Work> {
        match *self {}
    }

    pub(crate) fn region(&self, _: usize) -> Option<Region> {
        match *self {}
    }
}
