//! The addresses of this rank and of rank 0: what `comm.address` stands for, where this rank listens, and what it tells
//! the others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::time::Duration;

use mdt_plugin_api::{Error, LogLevel, Result};
use tokio::time::Instant;

use crate::job::Job;
use crate::listener::Ports;
use crate::place::{Place, to_text, unix_path, unix_path_of, unix_to_text};

/// An address that no machine has (RFC 5737). The way to it is the way to everywhere.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// How long after a name was not known it is looked up again.
const AGAIN: Duration = Duration::from_millis(500);

/// What `comm.address` and `comm.port` stand for.
pub(crate) struct Meeting {
    /// Where rank 0 is reached.
    pub(crate) places: Vec<Place>,
    /// Whether this machine knows the name as its own loopback address, by which others do not reach it. Debian knows its
    /// own name as 127.0.1.1.
    is_own_name: bool,
}

/// Where a rank listens, and what it tells the others.
#[derive(Debug, PartialEq)]
pub(crate) enum Listening {
    /// At one of these addresses, on a port of the range. `told` is the host that others dial; where there is none, the
    /// address at which it listens.
    Tcp { addresses: Vec<IpAddress>, ports: Ports, told: Option<String> },
    /// At a socket of this machine.
    Unix(std::path::PathBuf),
}

/// An IP address with the scope that it has on this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct IpAddress(SocketAddr);

impl IpAddress {
    /// With this port.
    pub(crate) fn at(self, port: u16) -> SocketAddr {
        let mut address = self.0;
        address.set_port(port);
        address
    }

    fn ip(self) -> IpAddr {
        self.0.ip()
    }
}

/// Finds out where rank 0 is.
///
/// # Errors
/// The name stays unknown for `comm.connect_timeout_s`, or stands for this machine only.
pub(crate) async fn resolve(job: &Job, address: &str, port: u16) -> Result<Meeting> {
    if let Some(path) = unix_path(address) {
        return Ok(Meeting { places: vec![Place::Unix(path.to_owned())], is_own_name: false });
    }
    reachable(address, look_up(job, address, port).await?, &|| own_addresses(None))
}

/// The addresses of a name. In a cluster such as Kubernetes names come to be known while ranks start, so one that nobody knows is
/// looked up again for as long as ranks wait for each other.
async fn look_up(job: &Job, address: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let deadline = Instant::now() + Duration::from_secs_f64(job.config.connect_timeout_s);
    let message = || format!("comm.address names no machine that is known here: {address:?}");
    let mut was_told = false;
    loop {
        match tokio::net::lookup_host((address, port)).await {
            Ok(found) => return Ok(found.collect()),
            Err(error) if Instant::now() + AGAIN > deadline => {
                return Err(Error::config(message()).with("key", "comm.address").caused_by(error));
            }
            Err(_) if was_told => {}
            Err(_) => {
                let note = format!("{}; looking for {} s", message(), job.config.connect_timeout_s);
                job.services.log(LogLevel::Warn, &note);
                was_told = true;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Leaves out the loopback addresses of a machine's name, where others do not reach it. If it has no others, the name is
/// this machine's own, and it is reached at all of its addresses.
fn reachable(
    address: &str,
    mut found: Vec<SocketAddr>,
    own: &dyn Fn() -> std::io::Result<Vec<IpAddress>>,
) -> Result<Meeting> {
    let is_number = address.contains(':') || address.parse::<Ipv4Addr>().is_ok();
    let meeting = |found: Vec<SocketAddr>, is_own_name| {
        let name = (!is_number).then_some(address);
        let places = found.into_iter().map(|found| Place::tcp(found, name)).collect();
        Ok(Meeting { places, is_own_name })
    };
    if is_number || address.to_ascii_lowercase().contains("localhost") {
        return meeting(found, false);
    }
    let loopback = found.iter().copied().find(|found| found.ip().is_loopback());
    found.retain(|address| !address.ip().is_loopback());
    match loopback {
        Some(loopback) if found.is_empty() => {
            let own = own().unwrap_or_default();
            let known: Vec<_> = own.into_iter().map(|own| own.at(loopback.port())).chain([loopback]).collect();
            if known.len() > 1 {
                return meeting(known, true);
            }
            let message = format!(
                "comm.address is {address:?}, which this machine knows as {}: others cannot reach that",
                loopback.ip()
            );
            Err(Error::config(message).with("key", "comm.address").help(
                "give the address of rank 0 on the network as a number, or 127.0.0.1 when all ranks run on this machine",
            ))
        }
        _ => meeting(found, false),
    }
}

/// The addresses of this machine's interfaces, or of one of them, by which others can reach it.
fn own_addresses(interface: Option<&str>) -> std::io::Result<Vec<IpAddress>> {
    let is_meant = |found: &if_addrs::Interface| match interface {
        Some(name) => found.name == name,
        None => !found.is_loopback() && !found.is_link_local(),
    };
    let address = |found: if_addrs::Interface| {
        IpAddress(match found.ip() {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, 0, 0, found.index.unwrap_or_default()).into()
            }
            ip => SocketAddr::new(ip, 0),
        })
    };
    Ok(if_addrs::get_if_addrs()?.into_iter().filter(is_meant).map(address).collect())
}

/// Where this rank listens.
///
/// # Errors
/// An address, an interface or a port that this machine does not have; or other machines could reach what is not
/// encrypted.
pub(crate) async fn of_this_rank(job: &Job, meeting: &Meeting, port: u16) -> Result<Listening> {
    let listening = match meeting.places.first() {
        Some(Place::Unix(path)) => Listening::Unix(of_unix(job, path)),
        _ if job.rank == 0 => of_rank_0(job, meeting, port).await?,
        _ => of_other(job, meeting).await?,
    };
    if let Listening::Tcp { addresses, .. } = &listening {
        require_private(job, addresses.iter().map(|address| address.ip()))?;
    }
    Ok(listening)
}

/// Refuses addresses that other machines can reach without encryption, unless the user has accepted it.
///
/// # Errors
/// Says why, and what to do.
pub(crate) fn require_private(job: &Job, mut addresses: impl Iterator<Item = IpAddr>) -> Result<()> {
    if job.tls.is_some() || job.config.insecure {
        return Ok(());
    }
    match addresses.find(|address| !address.is_loopback()) {
        Some(address) => Err(Error::config(format!(
            "{address} is not a loopback address, and without comm.tls nothing is encrypted"
        ))
        .with("key", "comm.tls")
        .help(
            "make certificates with `mdt-host certs new` and set comm.tls. On a network that you trust, accept it with \
             comm.insecure = true. Ranks on one machine meet at 127.0.0.1",
        )),
        None => Ok(()),
    }
}

fn of_unix(job: &Job, rank_0: &Path) -> std::path::PathBuf {
    if job.rank == 0 { rank_0.to_owned() } else { unix_path_of(rank_0, job.rank) }
}

/// Rank 0 listens where the others look for it, unless something else is configured.
async fn of_rank_0(job: &Job, meeting: &Meeting, port: u16) -> Result<Listening> {
    let addresses = match chosen(job, meeting).await? {
        Some(addresses) => addresses,
        // By which of its addresses the others know its name is not known here.
        None if meeting.is_own_name => vec![IpAddress(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))],
        None => meeting.addresses().map(IpAddress).collect(),
    };
    Ok(Listening::Tcp { addresses, ports: Ports::one(port), told: None })
}

/// Another rank listens at the address from which it reaches rank 0, unless something else is configured.
async fn of_other(job: &Job, meeting: &Meeting) -> Result<Listening> {
    let on_the_way = || {
        let ways = meeting.addresses().filter(|way| !(meeting.is_own_name && way.ip().is_loopback()));
        let elsewhere = meeting.is_own_name.then_some(ELSEWHERE);
        elsewhere.into_iter().chain(ways).find_map(|address| way_to(address).ok()).ok_or_else(|| {
            Error::config("this machine has no route to comm.address")
                .with("key", "comm.address")
                .with("rank", job.rank)
        })
    };
    let addresses = match chosen(job, meeting).await? {
        Some(addresses) => addresses,
        None => vec![on_the_way()?],
    };
    let told = match &job.config.advertise {
        Some(host) => Some(host.clone()),
        // Nobody is reached at "all addresses".
        None if addresses.iter().any(|address| address.ip().is_unspecified()) => Some(on_the_way()?.ip().to_string()),
        None => None,
    };
    let ports = match &job.config.ports {
        Some(text) => Ports::read(text)?,
        None => Ports::ANY,
    };
    Ok(Listening::Tcp { addresses, ports, told })
}

/// The addresses of `comm.bind` or `comm.interface`, of the kind by which rank 0 is reached.
async fn chosen(job: &Job, meeting: &Meeting) -> Result<Option<Vec<IpAddress>>> {
    let (key, text, found) = match (&job.config.bind, &job.config.interface) {
        (Some(host), _) => {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            ("comm.bind", host, found.map(|found| found.map(IpAddress).collect::<Vec<_>>()))
        }
        (None, Some(interface)) => ("comm.interface", interface, own_addresses(Some(interface))),
        (None, None) => return Ok(None),
    };
    let refused = |why: &str| Error::config(format!("{key} is {text:?}, {why}")).with("key", key);
    let found = found.map_err(|error| refused("which is no address of this machine").caused_by(error))?;
    if found.is_empty() {
        return Err(refused("and this machine has no such interface, or it has no address").help(interfaces()));
    }
    let is_alike = |found: &IpAddress| {
        meeting.addresses().any(|way| {
            let is_local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            way.is_ipv4() == found.0.is_ipv4() && is_local(way.ip()) == is_local(found.ip())
        })
    };
    let alike: Vec<_> = found.iter().copied().filter(is_alike).collect();
    Ok(Some(if alike.is_empty() { found } else { alike }))
}

/// Names the interfaces that there are.
fn interfaces() -> String {
    let mut names: Vec<_> = if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|found| found.name).collect();
    names.sort();
    names.dedup();
    format!("the interfaces with addresses are {}", names.join(", "))
}

/// The address from which this machine reaches another one.
fn way_to(address: SocketAddr) -> std::io::Result<IpAddress> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?; // sends nothing
    socket.local_addr().map(IpAddress) // with the scope id, where it has one
}

impl Meeting {
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.places.iter().filter_map(|place| match place {
            Place::Tcp(address, _) => Some(*address),
            Place::Unix(_) => None,
        })
    }

    /// Refuses to look for rank 0 where others could listen in.
    ///
    /// # Errors
    /// As [`require_private`].
    pub(crate) fn require_private(&self, job: &Job) -> Result<()> {
        require_private(job, self.addresses().map(|address| address.ip()))
    }
}

impl Listening {
    /// What others are told of a rank that listens at this address.
    pub(crate) fn told(&self, address: Option<SocketAddr>) -> String {
        match (self, address) {
            (Self::Unix(path), _) => unix_to_text(path),
            (Self::Tcp { told: Some(host), .. }, Some(address)) => to_text(host, address.port()),
            (Self::Tcp { told: None, .. }, Some(address)) => to_text(&address.ip().to_string(), address.port()),
            (Self::Tcp { .. }, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn of_name(name: &str, found: &[&str], own: &[&str]) -> Result<Meeting> {
        let own = addresses(own);
        reachable(name, addresses(found), &|| Ok(own.iter().copied().map(IpAddress).collect()))
    }

    fn found(meeting: Result<Meeting>) -> (Vec<SocketAddr>, bool) {
        let meeting = meeting.unwrap();
        (meeting.addresses().collect(), meeting.is_own_name)
    }

    #[test]
    fn the_name_of_a_machine_does_not_stand_for_a_loopback_address() {
        let [debian, network] = ["127.0.1.1:1", "10.0.0.5:1"];
        let error = of_name("node0", &[debian], &[]).err().unwrap();
        assert!(error.message().contains("\"node0\", which this machine knows as 127.0.1.1"), "{error}");
        assert_eq!(found(of_name("node0", &[debian, network], &[])), (addresses(&[network]), false));
        for meant in ["127.0.1.1", "localhost"] {
            assert_eq!(found(of_name(meant, &[debian], &[network])), (addresses(&[debian]), false));
        }
        assert_eq!(found(of_name("::1%1", &["[::1%1]:1"], &[])), (addresses(&["[::1%1]:1"]), false));
    }

    #[test]
    fn a_machine_that_knows_its_own_name_as_127_0_1_1_is_reached_at_its_addresses() {
        let meeting = of_name("node0", &["127.0.1.1:50051"], &["10.0.0.5:0", "[fd00::5]:0"]);
        let expected = addresses(&["10.0.0.5:50051", "[fd00::5]:50051", "127.0.1.1:50051"]);
        assert_eq!(found(meeting), (expected, true));
    }

    #[test]
    fn what_is_told_is_the_host_that_was_chosen_with_the_port_that_was_found() {
        let told = |told: Option<&str>, at: &str| {
            let told = told.map(str::to_owned);
            Listening::Tcp { addresses: Vec::new(), ports: Ports::ANY, told }.told(Some(at.parse().unwrap()))
        };
        assert_eq!(told(Some("node1"), "0.0.0.0:50052"), "node1:50052");
        assert_eq!(told(Some("fd00::7"), "[::]:50052"), "[fd00::7]:50052");
        assert_eq!(told(None, "[fe80::7%3]:50052"), "[fe80::7]:50052");
    }
}
