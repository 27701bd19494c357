//! Communication for a job of one process: [`Local`], by the name `local`.
//!
//! With one rank every collective completes at once and returns its input. What would be wrong with more ranks is an
//! error here too, so that it is found on the first machine.

use mdt_plugin_api::Finished;
use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the backend `local`: it has none.
    pub struct Config {}
}

/// The backend `local`.
pub struct Local;

/// Element types that are reduced.
const REDUCED: [Dtype; 8] =
    [Dtype::F32, Dtype::F64, Dtype::BF16, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::U32, Dtype::U64];

impl Component for Local {
    type Config = Config;

    fn create(_config: Config, _setup: &Setup) -> Result<Self> {
        Ok(Self)
    }
}

impl CommBackend for Local {
    type Communicator = OneProcess;

    fn capabilities(&self) -> Result<Capabilities> {
        let ops = vec![ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Mean];
        Ok(Capabilities {
            dtypes: REDUCED.to_vec(),
            ops,
            max_world_size: 1,
            deterministic: true,
            ..Capabilities::default()
        })
    }

    /// # Errors
    /// Another world size than 1, or another rank than 0.
    fn open(&self, bootstrap: &Bootstrap) -> Result<OneProcess> {
        if bootstrap.world_size != 1 {
            return Err(Error::config(format!(
                "the backend `local` is for one process: world_size must be 1, not {}",
                bootstrap.world_size
            ))
            .with("key", "comm.world_size")
            .help("choose a backend that connects processes, such as comm = \"grpc\""));
        }
        if bootstrap.rank != 0 {
            return Err(Error::config(format!("the only rank of one process is 0, not {}", bootstrap.rank))
                .with("key", "comm.rank"));
        }
        Ok(OneProcess)
    }
}

/// The communicator of a single process. It has no state.
pub struct OneProcess;

impl Communicator for OneProcess {
    fn rank(&self) -> u32 {
        0
    }

    fn world_size(&self) -> u32 {
        1
    }

    fn all_reduce(&self, buffers: Vec<Buffer>, _op: ReduceOp) -> Result<Box<dyn Work>> {
        if let Some(other) = buffers.iter().find(|buffer| !REDUCED.contains(&buffer.dtype())) {
            return Err(Error::plugin(format!("{} cannot be reduced, only broadcast and gathered", other.dtype())));
        }
        finished(buffers)
    }

    fn all_gather(&self, buffer: Buffer) -> Result<Box<dyn Work>> {
        finished(vec![buffer])
    }

    fn broadcast(&self, buffers: Vec<Buffer>, root: u32) -> Result<Box<dyn Work>> {
        if root != 0 {
            return Err(Error::plugin(format!("the root of a broadcast among 1 rank must be 0, not {root}")));
        }
        finished(buffers)
    }

    fn barrier(&self) -> Result<Box<dyn Work>> {
        finished(Vec::new())
    }

    /// No collective is ever running.
    fn abort(&self, _reason: &str) {}
}

impl ReduceScatter for OneProcess {
    fn reduce_scatter(&self, buffer: Buffer, op: ReduceOp) -> Result<Box<dyn Work>> {
        self.all_reduce(vec![buffer], op)
    }
}

fn finished(buffers: Vec<Buffer>) -> Result<Box<dyn Work>> {
    Ok(Box::new(Finished(Some(buffers))))
}

mdt_plugin_api::plugin! { comm "local" => Local: reduce_scatter; }

#[cfg(test)]
mod tests;
