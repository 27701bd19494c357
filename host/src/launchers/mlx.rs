//! `mlx.launch`, of the Python package mlx: its ring, JACCL and NCCL.

use std::fs;

use serde_json::Value;

use super::variables::wrong;
use super::{Started, Told, Variables};
use crate::exit::Failure;

pub(super) fn launch(variables: &Variables) -> Result<Option<Started>, Failure> {
    let Some(rank) = variables.number::<u32>("MLX_RANK")? else { return Ok(None) };
    let ring = list(variables, "MLX_HOSTFILE")?;
    let devices = list(variables, "MLX_IBV_DEVICES")?;
    let counted = |name: &str, list: &Option<Vec<Value>>| {
        // For one host the file is empty.
        list.as_ref().map(|hosts| Told::new(hosts.len().max(1) as u32, name))
    };
    let world_size = variables
        .number("MLX_WORLD_SIZE")?
        .or_else(|| counted("MLX_HOSTFILE", &ring))
        .or_else(|| counted("MLX_IBV_DEVICES", &devices));
    let Some(world_size) = world_size else {
        return Err(wrong("MLX_RANK", "is set, and none of MLX_HOSTFILE, MLX_IBV_DEVICES and MLX_WORLD_SIZE is"));
    };
    let mut started = Started::new("mlx.launch", rank, Some(world_size))?;
    // Each host is a list of places, `[["10.0.0.1:32323"], ["10.0.0.2:32324"]]`.
    let first = ring.iter().flatten().next().map(|host| host.get(0).unwrap_or(host));
    if let Some(place) = first {
        started.place(place.as_str().unwrap_or_default(), "MLX_HOSTFILE")?;
    } else if let Some(place) = variables.text("MLX_JACCL_COORDINATOR") {
        started.place(place, "MLX_JACCL_COORDINATOR")?;
    } else {
        started.address = variables.told("NCCL_HOST_IP");
        started.port = variables.number("NCCL_PORT")?;
    }
    Ok(Some(started))
}

impl Started {
    /// Takes the address and the port of rank 0 from a text such as `10.0.0.1:32323`.
    fn place(&mut self, place: &str, by: &str) -> Result<(), Failure> {
        let split = place.rsplit_once(':').and_then(|(address, port)| Some((address, port.parse().ok()?)));
        let (address, port) =
            split.ok_or_else(|| wrong(by, &format!("names {place:?} for rank 0, where address:port is expected")))?;
        self.address = Some(Told::new(address.trim_matches(['[', ']']).to_owned(), by));
        self.port = Some(Told::new(port, by));
        Ok(())
    }
}

/// The JSON list in the file that a variable names. An empty file is an empty list.
fn list(variables: &Variables, name: &str) -> Result<Option<Vec<Value>>, Failure> {
    let Some(path) = variables.text(name) else { return Ok(None) };
    let text = fs::read_to_string(path)
        .map_err(|error| wrong(name, &format!("names {path}, which cannot be read")).because(error))?;
    if text.trim().is_empty() {
        return Ok(Some(Vec::new()));
    }
    let list = serde_json::from_str(&text);
    list.map(Some).map_err(|error| wrong(name, &format!("names {path}, which has no list in JSON")).because(error))
}
