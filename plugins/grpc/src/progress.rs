//! Signs of life and signs of progress, which tell a rank that is slow from one that is stuck, stopped or cut off.
//!
//! Every byte from a rank is a sign of life. Each rank sends a heartbeat every second, so silence means that its process
//! is stopped or that the network is cut, whatever waits in the other direction. Progress means that data moves, in
//! either direction, or that the other rank reports in its heartbeats that it exchanges data with a third one.
//!
//! Both are counted in ticks of this process, so the time in which this process was stopped itself does not count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::MAX_WORLD_SIZE;
use crate::stream::Closer;

/// Time between two heartbeats.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);

/// Time between two looks at the counters.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// Ticks of silence after which a rank is lost: 4 s.
const SILENCE: u32 = 20;

/// Bytes per tick that heartbeats and pings can cause. More are data.
const NOISE: u64 = 256;

/// The progress of this rank and of all others.
pub(crate) struct Progress {
    /// Ticks in which data moved between this rank and any other, as heartbeats report it.
    own: AtomicU64,
    /// As many as a job may have: a process of another job is told so after its handshake.
    peers: Vec<Peer>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { own: AtomicU64::new(0), peers: (0..MAX_WORLD_SIZE).map(|_| Peer::default()).collect() }
    }
}

/// What is known of one other rank.
#[derive(Default)]
struct Peer {
    /// Grows with every tick in which data moved between that rank and this one, or in which it reported progress.
    moved: AtomicU64,
    reported: AtomicU64,
    was_silent: AtomicBool,
    /// Of all connections with that rank.
    traffic: Traffic,
}

impl Progress {
    /// What this rank reports in its heartbeats.
    pub(crate) fn own(&self) -> u64 {
        self.own.load(Relaxed)
    }

    /// A number that grows as long as data moves between any two ranks.
    pub(crate) fn of_all(&self) -> u64 {
        self.peers.iter().map(|peer| peer.moved.load(Relaxed)).sum()
    }

    /// Takes the report of another rank.
    pub(crate) fn reported(&self, rank: u32, progress: u64) {
        let peer = &self.peers[rank as usize];
        if peer.reported.swap(progress, Relaxed) < progress {
            peer.moved.fetch_add(1, Relaxed);
        }
    }

    /// Whether a connection with this rank was closed because nothing came over it.
    pub(crate) fn was_silent(&self, rank: u32) -> bool {
        self.peers[rank as usize].was_silent.load(Relaxed)
    }

    /// What has moved between this rank and another.
    pub(crate) fn traffic(&self, rank: u32) -> &Traffic {
        &self.peers[rank as usize].traffic
    }

    /// Looks at what moves over the connections with this rank until the control connection has `ended`, and closes that
    /// one when it is silent for too long.
    pub(crate) async fn watch(self: Arc<Self>, rank: u32, connection: Closer, mut ended: oneshot::Receiver<()>) {
        let traffic = self.traffic(rank);
        let peer = &self.peers[rank as usize];
        let moved = || (traffic.received.load(Relaxed), traffic.sent.load(Relaxed));
        let (mut ticks, mut before, mut silent) = (every(TICK), moved(), 0);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = &mut ended => return,
            }
            let (received, sent) = moved();
            silent = if received == before.0 { silent + 1 } else { 0 };
            if received + sent > before.0 + before.1 + NOISE {
                peer.moved.fetch_add(1, Relaxed);
                self.own.fetch_add(1, Relaxed);
            }
            before = (received, sent);
            if silent == SILENCE {
                peer.was_silent.store(true, Relaxed);
                connection.close();
                return;
            }
        }
    }
}

/// Bytes that were received from a rank, and bytes to it that the system has accepted.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

/// For how long there has been no progress with each rank, since a collective was begun.
pub(crate) struct Stalls {
    ticks: Interval,
    /// For every rank: its progress at the last look, and the looks since that changed.
    looks: Vec<(u64, u32)>,
}

impl Stalls {
    pub(crate) fn new(progress: &Progress) -> Self {
        let looks = progress.peers.iter().map(|peer| (peer.moved.load(Relaxed), 0)).collect();
        Self { ticks: every(TICK), looks }
    }

    /// Waits for the next tick, and looks.
    pub(crate) async fn look(&mut self, progress: &Progress) {
        self.ticks.tick().await;
        for ((moved, looks), peer) in self.looks.iter_mut().zip(&progress.peers) {
            let now = peer.moved.load(Relaxed);
            *looks = if now == *moved { *looks + 1 } else { 0 };
            *moved = now;
        }
    }

    /// For how long there has been no progress with this rank.
    pub(crate) fn of(&self, rank: u32) -> Duration {
        TICK * self.looks[rank as usize].1
    }
}

/// A timer that does not make up for ticks that were missed.
pub(crate) fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
