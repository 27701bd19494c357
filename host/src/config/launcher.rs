//! The layers of what a launcher has told this process, below all that the user writes.

use serde_json::{Value, json};

use super::layer::Layer;
use super::origin::Origin;
use super::overrides;
use crate::exit::Failure;
use crate::launchers::{self, BACKEND, Started, Told, Variables};

/// What a launcher has told, and its layers: one for each key. Nothing where the user says which rank this is.
///
/// # Errors
/// Those of [`launchers::detect`]; the user and the launcher do not agree about the number of ranks, or neither says it.
pub(super) fn layers(variables: &Variables, user: &[Layer]) -> Result<Option<(Started, Vec<Layer>)>, Failure> {
    let set_by_user = |key: &str| {
        user.iter().rev().find(|layer| layer.values.get("comm").is_some_and(|comm| comm.get(key).is_some()))
    };
    if set_by_user("rank").is_some() {
        return Ok(None);
    }
    let Some(started) = launchers::detect(variables)? else { return Ok(None) };
    let users = set_by_user("world_size");
    let (rank, launcher) = (&started.rank, started.launcher);
    let world_size = match (users, &started.world_size) {
        (None, Some(told)) => told.value,
        (None, None) => {
            let message =
                format!("{launcher} has started rank {}, and nothing says how many ranks there are", rank.value);
            return Err(Failure::configuration(message).at(&rank.by).help(
                "set `comm.world_size`, such as with MDT_COMM__WORLD_SIZE; 1 where each process trains by itself",
            ));
        }
        (Some(layer), told) => {
            let path = ["comm".to_owned(), "world_size".to_owned()];
            let size = layer.values["comm"]["world_size"].as_u64();
            match told {
                Some(told) if size.is_some_and(|size| size != u64::from(told.value)) => {
                    let size = size.unwrap_or_default();
                    let message =
                        format!("`comm.world_size` is {size}, and {launcher} has started {} ranks", told.value);
                    return Err(Failure::configuration(message)
                        .at(layer.origin_of(&path))
                        .at(&told.by)
                        .help("leave the key out; or set `comm.rank` too, to use nothing of what the launcher says"));
                }
                // Processes that the launcher counts, of which each is a job of its own.
                None if size == Some(1) => return Ok(None),
                // What is no number is an error of the key, later.
                _ => size.unwrap_or(1) as u32,
            }
        }
    };
    let mut layers = Vec::new();
    let mut add = |key: &str, value: Value, by: &str| {
        let origin = Origin::Launcher { name: launcher, variable: by.to_owned() };
        let path = key.split('.').map(str::to_owned).collect::<Vec<_>>();
        overrides::layer(origin, &path, value).map(|layer| layers.push(layer))
    };
    let size = started.world_size.as_ref();
    if world_size > 1 {
        add("comm.use", json!(BACKEND), size.map_or(&rank.by, |size| &size.by))?;
    }
    add("comm.rank", json!(rank.value), &rank.by)?;
    size.map_or(Ok(()), |size| add("comm.world_size", json!(size.value), &size.by))?;
    started.address.as_ref().map_or(Ok(()), |told| add("comm.address", json!(told.value), &told.by))?;
    started.port.as_ref().map_or(Ok(()), |told| add("comm.port", json!(told.value), &told.by))?;
    threads(&started).map_or(Ok(()), |told| add("compute.threads", json!(told.value), &told.by))?;
    Ok(Some((started, layers)))
}

/// The cores of this rank, where they are not all that it sees.
fn threads(started: &Started) -> Option<Told<usize>> {
    let told = |value: usize, by: &str| Told { value: value.max(1), by: by.to_owned() };
    if let Some(cores) = &started.cores {
        return Some(told(cores.value as usize, &cores.by));
    }
    let share = started.share.as_ref().filter(|share| share.value > 1)?;
    let seen = std::thread::available_parallelism().map_or(1, usize::from);
    Some(told(seen / share.value as usize, &share.by))
}
