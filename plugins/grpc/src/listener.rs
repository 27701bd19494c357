//! Where a rank listens for the others: a TCP port, one of several, or a Unix socket.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mdt_plugin_api::{Error, Result};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::address::Listening;
use crate::stream::Stream;

/// How many connections to a Unix socket wait to be accepted, as tokio has it for TCP.
const BACKLOG: i32 = 1024;

/// The ports that a rank may listen on: from one to another, both included. Port 0 is any that is free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    pub(crate) const ANY: Self = Self::one(0);

    pub(crate) const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Reads `50052` or `50052-50060`.
    ///
    /// # Errors
    /// It is neither.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(Error::config(format!("comm.ports must be a port or a range of ports, not {text:?}"))
                .with("key", "comm.ports")
                .help("write it as `50052` or `50052-50060`")),
        }
    }
}

/// A socket that listens. A Unix socket is removed when it is dropped.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _path: Removed },
}

/// The path of a socket, which is removed at the end.
pub(crate) struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // the user may have removed it
    }
}

impl Listener {
    /// Listens; says at which address, where it has one.
    ///
    /// # Errors
    /// None of the addresses and ports can be listened at: says why for the last one.
    pub(crate) async fn open(listening: &Listening) -> Result<(Self, Option<SocketAddr>)> {
        match listening {
            Listening::Unix(path) => Ok((Self::unix(path).await?, None)),
            Listening::Tcp { addresses, ports, .. } => {
                let mut failure = None;
                for port in ports.first..=ports.last {
                    for address in addresses.iter().map(|address| address.at(port)) {
                        let listener = TcpListener::bind(address).await;
                        match listener.and_then(|listener| listener.local_addr().map(|address| (listener, address))) {
                            Ok((listener, address)) => return Ok((Self::Tcp(listener), Some(address))),
                            Err(error) => failure = Some((address, error)),
                        }
                    }
                }
                Err(failure.map_or_else(
                    || Error::config("comm.address names no address").with("key", "comm.address"),
                    |(address, error)| refused(address, *ports, error),
                ))
            }
        }
    }

    async fn unix(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::config(format!("this rank cannot listen at the socket {}", path.display()))
                .with("key", "comm.address")
                .caused_by(error)
        };
        // What a rank that was killed has left behind is in the way; a socket that answers is not.
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if UnixStream::connect(path).await.is_ok() {
                return Err(Error::config(format!("the socket {} is taken by another process", path.display()))
                    .with("key", "comm.address")
                    .help("another job may run here, or a rank was started twice: end that, or choose another path"));
            }
            fs::remove_file(path).map_err(failed)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
        let removed = Removed(path.to_owned());
        // Before it listens, when nobody can connect yet.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        socket.listen(BACKLOG).and_then(|()| socket.set_nonblocking(true)).map_err(failed)?;
        let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
        Ok(Self::Unix { listener, _path: removed })
    }

    /// The next connection, and where it comes from, in words.
    ///
    /// # Errors
    /// It failed, or the system has no file descriptors left.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Origin)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Origin(Some(address))))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Origin(None)))
            }
        }
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy)]
pub(crate) struct Origin(Option<SocketAddr>);

impl From<SocketAddr> for Origin {
    fn from(address: SocketAddr) -> Self {
        Self(Some(address))
    }
}

impl Origin {
    /// What all connections of one machine have in common: its address, or of an IPv6 address the network, in which a
    /// machine may have as many as it likes. 0 for a Unix socket.
    pub(crate) fn machine(self) -> u128 {
        match self.0.map(|address| address.ip().to_canonical()) {
            Some(std::net::IpAddr::V4(ip)) => ip.to_ipv6_mapped().to_bits(),
            Some(std::net::IpAddr::V6(ip)) => ip.to_bits() >> 64,
            None => 0,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("the Unix socket"),
        }
    }
}

fn refused(address: SocketAddr, ports: Ports, error: io::Error) -> Error {
    let (port, ip) = (address.port(), address.ip());
    match error.kind() {
        ErrorKind::AddrInUse if ports.first < ports.last => {
            Error::config(format!("ports {} to {} of {ip} are taken by other processes", ports.first, ports.last))
                .with("key", "comm.ports")
                .help("give comm.ports at least as many ports as this machine has ranks")
        }
        ErrorKind::AddrInUse => Error::config(format!("port {port} of {ip} is taken by another process"))
            .with("key", "comm.port")
            .help("another job may run here, or rank 0 was started twice: end that, or choose another comm.port"),
        ErrorKind::AddrNotAvailable => Error::config(format!("{ip} is no address of this machine, where it listens"))
            .with("key", "comm.address")
            .help(
                "comm.address must be an address of the machine of rank 0, and comm.bind one of the machine whose rank it \
                 is set for",
            ),
        _ => Error::config(format!("this rank cannot listen on port {port} of {ip}"))
            .with("key", "comm.port")
            .caused_by(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!(Ports::read("50052").unwrap(), Ports::one(50052));
        assert_eq!(Ports::read("50052-50060").unwrap(), Ports { first: 50052, last: 50060 });
        for wrong in ["", "0", "60-50", "a", "50052-", "50052-70000", "-5"] {
            assert!(Ports::read(wrong).unwrap_err().message().contains("comm.ports must be a port"), "{wrong}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_machine() {
        let machine = |address: &str| Origin(Some(address.parse().unwrap())).machine();
        assert_eq!(machine("[fd00::1]:5"), machine("[fd00::2:3]:6"));
        assert_ne!(machine("[fd00::1]:5"), machine("[fd00:0:0:1::1]:5"));
        assert_eq!(machine("10.0.0.1:5"), machine("[::ffff:10.0.0.1]:6"));
        assert_ne!(machine("10.0.0.1:5"), machine("10.0.0.2:5"));
    }
}
