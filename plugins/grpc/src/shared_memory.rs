//! Payload between the ranks of one host goes through memory that they share; gRPC sets it up and reports faults.
//!
//! Every rank has a [`segment`], which all ranks map. When all have connected over gRPC, each tells the others where its
//! segment is to be had ([`passing`]), and after that whether it has got all of theirs. Only then, and only if every rank
//! has, do collectives run here; otherwise they run over TCP on all ranks. So ranks of several hosts, or of containers that
//! are separated from each other, use TCP, also with those of their own host: a collective ends with its slowest pair, which
//! is one between hosts. Folding within every host first would send fewer bytes between them, but has the bits of the pairwise
//! tree only where each host has an aligned block of ranks, a power of two; that would be an algorithm of its own. Sending to one
//! rank uses TCP as well, as nothing in training does it yet.
//!
//! A rank writes into its own segment how far it is and looks at the segments of the others ([`exchange`]); when there is
//! nothing to do it sleeps at a [`doorbell`], at which the others ring and which faults ring as well. No rank ever holds a
//! lock, so a rank that dies leaves nothing behind that another one waits for: its connections end, and that is the fault.

mod buffers;
mod description;
mod doorbell;
mod exchange;
mod passing;
mod segment;
mod turns;

use std::io;
use std::sync::Arc;

use mdt_plugin_api::{LogLevel, Region, Result, Work};
use tokio::task::JoinSet;

use self::passing::Offer;
use self::segment::{Own, Segment};
use self::turns::{Runner, Turns};
use crate::SharedMemoryUse;
use crate::call::Request;
use crate::engine::Engine;
use crate::job::Job;

/// The segments of all ranks.
pub(crate) struct Segments {
    own: Arc<Own>,
    rank: usize,
    world_size: usize,
    /// In order of ranks; nothing at this one's place.
    others: Vec<Option<Segment>>,
}

impl Segments {
    fn of(&self, rank: usize) -> &Segment {
        self.others[rank].as_ref().unwrap_or(&self.own.segment)
    }

    /// All ranks but this one.
    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.rank;
        (0..self.world_size).filter(move |&rank| rank != own)
    }
}

/// What runs the collectives of ranks that share memory.
pub(crate) struct SharedMemory(Runner);

impl SharedMemory {
    /// Whether this rank can share memory with others of its host.
    ///
    /// # Errors
    /// Why not, as the end of a sentence about this rank.
    pub(crate) fn is_possible(choice: SharedMemoryUse) -> Result<(), String> {
        Prepared::memory(choice).map(drop)
    }

    /// Shares memory with all other ranks, where every rank can. All ranks call it when they have connected. It notes for the
    /// user which way payload goes.
    ///
    /// # Errors
    /// A rank was lost meanwhile, or has not come.
    pub(crate) async fn connect(job: &Arc<Job>, engine: &mut Engine) -> Result<Option<Self>> {
        let prepared = Prepared::new(job);
        let offer = match &prepared {
            Ok(prepared) => prepared.offer.encode(),
            Err(reason) => reason.clone().into_bytes(),
        };
        let offers = engine.tell_all(offer).await?;
        let taken = match &prepared {
            Ok(prepared) => prepared.take(job, &offers).await,
            Err(reason) => Err(reason.clone()),
        };
        let outcome = taken.as_ref().err().cloned().unwrap_or_default();
        let outcomes = engine.tell_all(outcome.into_bytes()).await?;
        drop(prepared); // now that all ranks have asked for this one's segment
        let refusal = outcomes.iter().enumerate().find(|(_, outcome)| !outcome.is_empty());
        let (note, shared) = match (refusal, taken) {
            (None, Ok(segments)) => {
                let turns = Arc::new(Turns::new(Arc::clone(job), engine.session, segments));
                watch(job, &turns);
                let note = "the ranks of this host exchange data through shared memory".to_owned();
                (note, Some(Self(Runner::start(&turns)?)))
            }
            (refusal, _) => {
                let (rank, reason) =
                    refusal.map_or((0, "".into()), |(rank, text)| (rank, String::from_utf8_lossy(text)));
                (format!("the ranks exchange data over TCP, not through shared memory: rank {rank} {reason}"), None)
            }
        };
        if job.rank == 0 {
            job.services.log(LogLevel::Info, &note);
        }
        Ok(shared)
    }

    /// Begins a collective.
    pub(crate) fn begin(&self, request: Request) -> Box<dyn Work> {
        self.0.begin(request)
    }

    /// Memory in this rank's segment. `None` where there is none left.
    pub(crate) fn region(&self, bytes: usize) -> Option<Region> {
        self.0.turns().segments().own.region(bytes).ok()
    }
}

/// Wakes the rank when something goes wrong or when another rank leaves.
fn watch(job: &Arc<Job>, turns: &Arc<Turns>) {
    let (job, turns) = (Arc::clone(job), Arc::downgrade(turns));
    tokio::spawn(async move {
        let (mut fault, mut departed) = (job.fault.watch(), job.departed.subscribe());
        loop {
            tokio::select! {
                _ = fault.changed() => {}
                _ = departed.changed() => {}
            }
            match turns.upgrade() {
                Some(turns) => turns.alarm(),
                None => return,
            }
        }
    });
}

fn none(error: io::Error) -> String {
    format!("has no memory to share: {error}")
}

/// This rank's segment, before the others have it.
struct Prepared {
    own: Arc<Own>,
    offer: Offer,
    /// Gives the segment to the others.
    _server: JoinSet<()>,
}

impl Prepared {
    /// # Errors
    /// Why this rank shares no memory, as the end of a sentence about it.
    fn new(job: &Job) -> Result<Self, String> {
        let (own, offer) = Self::memory(job.config.shared_memory)?;
        let server = offer.serve(&own).map_err(none)?;
        Ok(Self { own, offer, _server: server })
    }

    fn memory(choice: SharedMemoryUse) -> Result<(Arc<Own>, Offer), String> {
        if choice == SharedMemoryUse::Off {
            return Err("has comm.shared_memory = \"off\"".to_owned());
        }
        let offer = Offer::new().map_err(none)?;
        let own = Own::new(offer.mark()).map_err(none)?;
        Ok((Arc::new(own), offer))
    }

    /// Gets the segments of all other ranks.
    ///
    /// # Errors
    /// Why it does not, as the end of a sentence about this rank.
    async fn take(&self, job: &Job, offers: &[Vec<u8>]) -> Result<Segments, String> {
        let mut others = Vec::new();
        for (rank, offer) in (0..).zip(offers) {
            if rank == job.rank {
                others.push(None);
                continue;
            }
            let none = || format!("gets no memory of rank {rank}, which {}", String::from_utf8_lossy(offer));
            let offer = Offer::decode(offer).ok_or_else(none)?;
            let segment = offer.take().await;
            others.push(Some(segment.map_err(|error| {
                format!(
                    "gets no memory of rank {rank}, which runs on another host or in a separated container ({error})"
                )
            })?));
        }
        let (rank, world_size) = (job.rank as usize, job.world_size as usize);
        Ok(Segments { own: Arc::clone(&self.own), rank, world_size, others })
    }
}
