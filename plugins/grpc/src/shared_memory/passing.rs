//! How a rank gets the segments of the others: over Unix sockets, whose names and secrets the ranks have told each other
//! over gRPC.
//!
//! Reaching the socket at all shows that both ranks run on one machine: the names are random, and no other machine or
//! separated container has them. A rank gives its segment only to a process of its own user that knows the secret.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self as unix, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::geteuid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::segment::{MARK, Own, Segment};
use crate::token::random;

/// How long a rank may take to give its segment, or to say its secret.
const LIMIT: Duration = Duration::from_secs(2);

/// What an offer begins with, and no sentence does.
const TAG: &[u8] = b"\0offer\0";

/// What a rank tells the others so that they get its segment.
pub(crate) struct Offer {
    /// The socket's name.
    name: [u8; 16],
    /// What a process must know to get the segment.
    secret: [u8; 32],
    /// What the segment begins with.
    mark: [u8; MARK],
}

impl Offer {
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { name: random()?, secret: random()?, mark: random()? })
    }

    pub(crate) fn mark(&self) -> &[u8; MARK] {
        &self.mark
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        [TAG, &self.name, &self.secret, &self.mark].concat()
    }

    /// What another rank has told. `None` where it is no offer but a reason.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (name, rest) = bytes.strip_prefix(TAG)?.split_first_chunk()?;
        let (secret, mark) = rest.split_first_chunk()?;
        Some(Self { name: *name, secret: *secret, mark: mark.try_into().ok()? })
    }

    /// The socket's address: it has no file, and is gone when its listener is.
    fn address(&self) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name([b"mdt-grpc-", &self.name[..]].concat())
    }

    /// Begins to give this rank's segment to those that ask, for as long as the tasks are kept.
    ///
    /// # Errors
    /// The system lets nobody listen.
    pub(crate) fn serve(&self, own: &Arc<Own>) -> io::Result<JoinSet<()>> {
        let listener = unix::UnixListener::bind_addr(&self.address()?)?;
        listener.set_nonblocking(true)?;
        let (listener, secret, own) = (UnixListener::from_std(listener)?, self.secret, Arc::clone(own));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut answers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let own = Arc::clone(&own);
                // A process that is no rank gets nothing, and its connection ends.
                answers.spawn(async move { timeout(LIMIT, give(stream, &secret, &own)).await });
                while answers.try_join_next().is_some() {}
            }
        });
        Ok(tasks)
    }

    /// Gets the segment that was offered.
    ///
    /// # Errors
    /// The socket is not reached: the rank runs elsewhere. It gives something else.
    pub(crate) async fn take(&self) -> io::Result<Segment> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let file = timeout(LIMIT, self.ask()).await.map_err(late)??;
        Segment::of(&file, &self.mark)
    }

    async fn ask(&self) -> io::Result<OwnedFd> {
        let stream = unix::UnixStream::connect_addr(&self.address()?)?;
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream)?;
        require_own_user(&stream)?;
        stream.write_all(&self.secret).await?;
        stream.async_io(Interest::READABLE, || receive(&stream)).await
    }
}

/// Gives the segment to a process that knows the secret.
async fn give(mut stream: UnixStream, secret: &[u8; 32], own: &Own) -> io::Result<()> {
    require_own_user(&stream)?;
    let mut said = [0; 32];
    stream.read_exact(&mut said).await?;
    // In constant time.
    if said.iter().zip(secret).fold(0, |differs, (said, known)| differs | (said ^ known)) != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.async_io(Interest::WRITABLE, || send(&stream, &own.file)).await
}

/// Refuses processes of other users.
fn require_own_user(stream: &UnixStream) -> io::Result<()> {
    match socket_peercred(stream)?.uid == geteuid() {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

fn send(stream: &UnixStream, file: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let (mut control, files) = (SendAncillaryBuffer::new(&mut space), [file.as_fd()]);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(stream, &[IoSlice::new(&[1])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    files.last().ok_or_else(|| io::Error::other("it has refused to give its segment"))
}
