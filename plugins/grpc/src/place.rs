//! Where a rank is reached: a TCP address with the name that its certificate must have, or a Unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::ServerName;

/// What begins the text of a Unix socket.
const UNIX: &str = "unix:";

/// Where a rank is reached.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// An address, and the host name or address that a certificate of the rank is for.
    Tcp(SocketAddr, ServerName<'static>),
    /// A socket of this machine.
    Unix(PathBuf),
}

impl Place {
    /// The place with this address; its certificate is for the name by which that was found, else for the address.
    pub(crate) fn tcp(address: SocketAddr, name: Option<&str>) -> Self {
        let of_name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        Self::Tcp(address, of_name.unwrap_or_else(|| ServerName::from(address.ip())))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address, _) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The path of a Unix socket, of a text such as `unix:/run/job.sock`.
pub(crate) fn unix_path(text: &str) -> Option<&Path> {
    text.strip_prefix(UNIX).map(Path::new)
}

/// The socket of a rank other than 0, beside that of rank 0.
pub(crate) fn unix_path_of(rank_0: &Path, rank: u32) -> PathBuf {
    let mut path = rank_0.as_os_str().to_owned();
    path.push(format!(".{rank}"));
    path.into()
}

/// A host and a port as one text. The scope of an IPv6 address is left out: it is a number of one machine.
pub(crate) fn to_text(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The text of a place at which a rank listens.
pub(crate) fn unix_to_text(path: &Path) -> String {
    format!("{UNIX}{}", path.display())
}

/// Reads [`to_text`] and [`unix_to_text`], and looks names up. A link-local address is reached over the interface that
/// leads to rank 0.
///
/// # Errors
/// It is no such text, or no machine has the name: in words.
pub(crate) async fn from_text(text: &str, rank_0: &Place) -> Result<Vec<Place>, String> {
    if let Some(path) = unix_path(text) {
        return Ok(vec![Place::Unix(path.to_owned())]);
    }
    if let Ok(mut address) = text.parse::<SocketAddr>() {
        if let (SocketAddr::V6(own), Place::Tcp(SocketAddr::V6(rank_0), _)) = (&mut address, rank_0)
            && own.ip().is_unicast_link_local()
        {
            own.set_scope_id(rank_0.scope_id());
        }
        return Ok(vec![Place::tcp(address, None)]);
    }
    let name = text.rsplit_once(':').map(|(name, _)| name);
    let found = tokio::net::lookup_host(text).await.map_err(|error| error.to_string())?;
    Ok(found.map(|address| Place::tcp(address, name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, name: Option<&str>) -> Place {
        Place::tcp(text.parse().unwrap(), name)
    }

    fn read(text: &str, rank_0: &str) -> Result<Vec<Place>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(from_text(text, &at(rank_0, None)))
    }

    #[test]
    fn a_link_local_address_gets_the_scope_of_the_machine_that_dials_it() {
        assert_eq!(to_text("fe80::2", 77), "[fe80::2]:77");
        assert_eq!(read("[fe80::2]:77", "[fe80::1%8]:50051"), Ok(vec![at("[fe80::2%8]:77", None)]));
        assert_eq!(read("[fd00::2]:77", "[fd00::1]:1"), Ok(vec![at("[fd00::2]:77", None)]));
    }

    #[test]
    fn a_certificate_is_for_the_name_that_was_told_else_for_the_address() {
        let names = |places: Vec<Place>| -> Vec<String> {
            let name = |place| match place {
                Place::Tcp(_, name) => name.to_str().into_owned(),
                Place::Unix(path) => panic!("{path:?}"),
            };
            places.into_iter().map(name).collect()
        };
        assert!(names(read("localhost:5", "10.0.0.1:1").unwrap()).iter().all(|name| name == "localhost"));
        assert_eq!(names(read("10.0.0.2:5", "10.0.0.1:1").unwrap()), ["10.0.0.2"]);
        assert_eq!(names(read("[fe80::2]:77", "[fe80::1%8]:5").unwrap()), ["fe80::2"]);
    }

    #[test]
    fn the_socket_of_a_rank_is_beside_that_of_rank_0() {
        let path = unix_path("unix:/run/job.sock").unwrap();
        let told = unix_to_text(&unix_path_of(path, 3));
        assert_eq!(told, "unix:/run/job.sock.3");
        assert_eq!(read(&told, "10.0.0.1:1"), Ok(vec![Place::Unix("/run/job.sock.3".into())]));
    }

    #[test]
    fn what_is_no_place_is_refused() {
        assert!(read("no port", "10.0.0.1:1").is_err());
    }
}
