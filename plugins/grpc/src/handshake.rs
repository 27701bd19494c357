//! The handshake at the beginning of every connection between ranks, before HTTP/2: both sides prove that they know the
//! job token. The token itself is never sent. With `comm.tls` all of it is inside of the encrypted stream.
//!
//! | from | bytes |
//! |---|---|
//! | dialler | `mdtrank`, version, 32 random bytes |
//! | listener | `mdtrank`, version, 32 random bytes |
//! | dialler | its rank and the lane (4 bytes each), its proof (32 bytes) |
//! | listener | 1 and its proof (32 bytes); or 0 when the dialler's proof is wrong |
//!
//! A proof is the HMAC-SHA256, with the token as key, of the name of its side, both first messages, the ranks of both
//! sides, the lane and the session. So a proof is worth nothing in another connection, in the other direction, for another
//! rank or lane, or another session. Who is not a rank of the job learns the version and that a rank listens here.

use std::fmt;
use std::io;
use std::time::Duration;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stream::Stream;
use crate::token::{Token, random};
use crate::wire::PROTOCOL;

/// What a handshake begins with.
const MAGIC: &[u8; 7] = b"mdtrank";

/// How long a handshake may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The length of random numbers and proofs.
const LENGTH: usize = 32;

/// The first message of a side: the magic, the version, a random number.
type Opening = [u8; MAGIC.len() + 1 + LENGTH];

/// The other side has said something else than a rank does.
#[derive(Debug)]
pub(crate) struct NotARank {
    /// Whether it was a message of TLS.
    pub(crate) speaks_tls: bool,
}

impl fmt::Display for NotARank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.speaks_tls { "it speaks TLS" } else { "it is no rank of a job" })
    }
}

impl std::error::Error for NotARank {}

/// Whether the bytes begin a record of TLS with an alert or a handshake.
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, 0..=4, ..])
}

/// Why a handshake failed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The other side is no rank, or the connection ended.
    Stranger(io::Error),
    /// The other side speaks this version of the protocol.
    Version(u8),
    /// The other side, which says that it has this rank, has another token.
    Token(u32),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Stranger(error)
    }
}

/// Proves to the rank that listens at the other end who this one is, and lets it prove the same.
///
/// # Errors
/// The other side has another token or version, or is no rank.
pub(crate) async fn dial(
    stream: &mut Stream,
    token: &Token,
    [own, listener]: [u32; 2],
    lane: u32,
    session: u64,
) -> Result<(), Refusal> {
    let ours = opening()?;
    send(stream, &ours).await?;
    let theirs = read_opening(stream).await?;
    let proofs = Proofs { token, openings: [ours, theirs], ranks: [own, listener], lane, session };
    let mut message = [own.to_le_bytes(), lane.to_le_bytes()].concat();
    message.extend(proofs.of("dialler").finalize().into_bytes());
    send(stream, &message).await?;
    let is_proved = stream.read_u8().await? == 1 && proofs.check("listener", stream).await?;
    if is_proved { Ok(()) } else { Err(Refusal::Token(listener)) }
}

/// Lets the rank that has dialled prove who it is, and proves the same to it; gives its rank and the lane. `session` is waited for
/// before the proof is checked.
///
/// # Errors
/// The other side has another token or version, or is no rank.
pub(crate) async fn answer(
    stream: &mut Stream,
    token: &Token,
    own: u32,
    session: impl Future<Output = u64>,
) -> Result<(u32, u32), Refusal> {
    let theirs = read_opening(stream).await;
    let ours = opening()?;
    // A dialler of another version is told which one this is.
    if !matches!(theirs, Err(Refusal::Stranger(_))) {
        send(stream, &ours).await?;
    }
    let theirs = theirs?;
    let dialler = stream.read_u32_le().await?;
    let lane = stream.read_u32_le().await?;
    let proofs = Proofs { token, openings: [theirs, ours], ranks: [dialler, own], lane, session: session.await };
    if !proofs.check("dialler", stream).await? {
        send(stream, &[0]).await?;
        return Err(Refusal::Token(dialler));
    }
    let mut message = vec![1];
    message.extend(proofs.of("listener").finalize().into_bytes());
    send(stream, &message).await?;
    Ok((dialler, lane))
}

/// Sends a message. What is encrypted waits until it is flushed.
async fn send(stream: &mut Stream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message).await?;
    stream.flush().await
}

fn opening() -> io::Result<Opening> {
    let mut opening = [PROTOCOL; size_of::<Opening>()];
    opening[..MAGIC.len()].copy_from_slice(MAGIC);
    opening[MAGIC.len() + 1..].copy_from_slice(&random::<LENGTH>()?);
    Ok(opening)
}

async fn read_opening(stream: &mut Stream) -> Result<Opening, Refusal> {
    let mut opening = [0; size_of::<Opening>()];
    stream.read_exact(&mut opening[..MAGIC.len()]).await?;
    if opening[..MAGIC.len()] != *MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, NotARank { speaks_tls: is_tls(&opening) }).into());
    }
    stream.read_exact(&mut opening[MAGIC.len()..]).await?;
    match opening[MAGIC.len()] {
        PROTOCOL => Ok(opening),
        other => Err(Refusal::Version(other)),
    }
}

/// What the proofs of one connection are made of.
struct Proofs<'a> {
    token: &'a Token,
    /// Of the dialler and of the listener, as the ranks.
    openings: [Opening; 2],
    ranks: [u32; 2],
    lane: u32,
    session: u64,
}

impl Proofs<'_> {
    /// The proof of one side. All parts have fixed lengths, so no two connections give the same bytes.
    fn of(&self, side: &str) -> Hmac<Sha256> {
        let mut mac = self.token.mac();
        mac.update(&[side.len() as u8]);
        mac.update(side.as_bytes());
        self.openings.iter().for_each(|opening| mac.update(opening));
        self.ranks.iter().for_each(|rank| mac.update(&rank.to_le_bytes()));
        mac.update(&self.lane.to_le_bytes());
        mac.update(&self.session.to_le_bytes());
        mac
    }

    /// Reads the proof of the other side and says whether it is right. The comparison takes constant time.
    async fn check(&self, side: &str, stream: &mut Stream) -> io::Result<bool> {
        let mut proof = [0; LENGTH];
        stream.read_exact(&mut proof).await?;
        Ok(self.of(side).verify_slice(&proof).is_ok())
    }
}
