//! Where ranks find each other, in the environment variables that MLX reads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::net::{SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::os::fd::AsRawFd;

use mdt_plugin_api::{Bootstrap, Error, Result, serde_json};

/// Keeps what a variable points to until MLX has read it.
pub(super) struct Prepared {
    hostfile: Option<File>,
}

impl Prepared {
    /// Makes the addresses ready to be read, once more if need be.
    pub(super) fn rewind(&mut self) -> Result<()> {
        let rewound = self.hostfile.as_mut().map_or(Ok(()), Seek::rewind);
        rewound.map_err(|error| Error::other("the addresses of the ranks cannot be read again").caused_by(error))
    }
}

/// Sets the variables of an engine for this rank. Those that a launcher has set stay, but for the rank.
pub(super) fn prepare(engine: &str, hosts: Option<&[String]>, bootstrap: &Bootstrap) -> Result<Prepared> {
    let Bootstrap { rank, world_size, .. } = bootstrap;
    set("MLX_RANK", &rank.to_string());
    if engine != "ring" {
        let (address, port) = (bootstrap.value("address")?, bootstrap.value("port")?);
        set_missing("MLX_WORLD_SIZE", &world_size.to_string());
        match engine {
            "nccl" => {
                set_missing("NCCL_HOST_IP", address);
                set_missing("NCCL_PORT", port);
            }
            _ => set_missing("MLX_JACCL_COORDINATOR", &format!("{address}:{port}")),
        }
        return Ok(Prepared { hostfile: None });
    }
    if hosts.is_none() && std::env::var_os("MLX_HOSTFILE").is_some() {
        return Ok(Prepared { hostfile: None });
    }
    let addresses = ring(hosts, bootstrap)?;
    let lines: Vec<[String; 1]> = addresses.iter().map(|address| [address.to_string()]).collect();
    let text = serde_json::json!(lines).to_string();
    let file = nameless_file(*rank, &text).map_err(|error| {
        Error::other(format!("no file can be written in {}", std::env::temp_dir().display())).caused_by(error)
    })?;
    set("MLX_HOSTFILE", &format!("/dev/fd/{}", file.as_raw_fd()));
    Ok(Prepared { hostfile: Some(file) })
}

/// An open file without a name: nobody else can open it, and it does not stay behind.
fn nameless_file(rank: u32, text: &str) -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("mdt-ring-{}-{rank}", std::process::id()));
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// The address of every rank.
fn ring(hosts: Option<&[String]>, bootstrap: &Bootstrap) -> Result<Vec<SocketAddrV4>> {
    let ranks = bootstrap.world_size as usize;
    let first: u16 = bootstrap.value("port")?.parse().map_err(|_| Error::config("comm.port must be a port"))?;
    let hosts = match hosts {
        Some(hosts) if hosts.len() == ranks => hosts.to_vec(),
        Some(hosts) => {
            let message = format!("comm.hosts has {} addresses for {ranks} ranks: each rank needs one", hosts.len());
            return Err(Error::config(message).with("key", "comm.hosts"));
        }
        None => vec![bootstrap.value("address")?.to_owned(); ranks],
    };
    hosts.iter().enumerate().map(|(rank, host)| resolve(host, usize::from(first) + rank)).collect()
}

/// An IPv4 address and port; MLX's ring knows no other ones.
fn resolve(host: &str, port: usize) -> Result<SocketAddrV4> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()),
        None => (host, u16::try_from(port).ok()),
    };
    let refused =
        |why: String| Error::config(format!("a rank cannot listen at {host:?}: {why}")).with("key", "comm.hosts");
    let port = port.filter(|port| *port > 0).ok_or_else(|| refused("its port is none".to_owned()))?;
    let addresses = (name, port).to_socket_addrs().map_err(|error| refused(error.to_string()))?;
    let ipv4 = |address: SocketAddr| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    };
    addresses.into_iter().find_map(ipv4).ok_or_else(|| refused("MLX's ring needs an IPv4 address".to_owned()))
}

fn set_missing(name: &str, value: &str) {
    if std::env::var_os(name).is_none() {
        set(name, value);
    }
}

fn set(name: &str, value: &str) {
    // SAFETY: the host opens a backend once, before training. Rust's own readers of the environment take turns with this; a C
    // library that reads it in this moment, on another thread, would have to be called by another component meanwhile.
    unsafe { std::env::set_var(name, value) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(world_size: u32) -> Bootstrap {
        let values = [("address".to_owned(), "127.0.0.1".to_owned()), ("port".to_owned(), "65000".to_owned())].into();
        Bootstrap { world_size, values, ..Bootstrap::default() }
    }

    #[test]
    fn ranks_listen_one_port_after_the_other_unless_hosts_say_where() {
        let texts = |addresses: Vec<SocketAddrV4>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(ring(None, &bootstrap(2)).unwrap()), ["127.0.0.1:65000", "127.0.0.1:65001"]);
        let hosts = ["127.0.0.2".to_owned(), "127.0.0.3:7000".to_owned()];
        assert_eq!(texts(ring(Some(&hosts), &bootstrap(2)).unwrap()), ["127.0.0.2:65000", "127.0.0.3:7000"]);
    }

    #[test]
    fn addresses_that_cannot_be_are_refused_with_the_key() {
        let refused = |hosts: &[&str], ranks| {
            let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
            let error = ring(Some(&hosts), &bootstrap(ranks)).err().unwrap();
            assert_eq!(error.context()[0], ("key".to_owned(), "comm.hosts".to_owned()));
            error.message().to_owned()
        };
        assert_eq!(refused(&["127.0.0.1"], 2), "comm.hosts has 1 addresses for 2 ranks: each rank needs one");
        assert!(refused(&["127.0.0.1:0"], 1).contains("its port is none"));
        assert!(refused(&["::1"], 1).contains("a rank cannot listen"));
        assert!(ring(None, &bootstrap(1000)).is_err(), "there are no ports beyond 65535");
    }
}
