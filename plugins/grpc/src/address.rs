//! The addresses of ranks: what `comm.address` stands for, who can reach it, where this rank listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use mdt_plugin_api::{Error, Result};
use tokio::net::TcpListener;

use crate::job::Job;

/// The addresses that `comm.address` stands for.
///
/// # Errors
/// The name is unknown, or stands for this machine only.
pub(crate) async fn resolve(address: &str, port: u16) -> Result<Vec<SocketAddr>> {
    match tokio::net::lookup_host((address, port)).await {
        Ok(found) => reachable(address, found.collect()),
        Err(error) => {
            let message = format!("comm.address names no machine that is known here: {address:?}");
            Err(Error::config(message).with("key", "comm.address").caused_by(error))
        }
    }
}

/// Leaves out the loopback addresses of a machine's name. Many systems know their own name as 127.0.1.1 or 127.0.0.1,
/// where no other machine reaches them.
fn reachable(address: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>> {
    let is_number = address.contains(':') || address.parse::<Ipv4Addr>().is_ok();
    if is_number || address.to_ascii_lowercase().contains("localhost") {
        return Ok(found);
    }
    let loopback = found.iter().map(SocketAddr::ip).find(IpAddr::is_loopback);
    found.retain(|address| !address.ip().is_loopback());
    match loopback {
        Some(loopback) if found.is_empty() => {
            let message = format!(
                "comm.address is {address:?}, which this machine knows as {loopback}: others cannot reach that"
            );
            Err(Error::config(message).with("key", "comm.address").help(
                "give the address of rank 0 on the network as a number, or 127.0.0.1 when all ranks run on this machine",
            ))
        }
        _ => Ok(found),
    }
}

/// Refuses addresses that other machines can reach, unless the user has accepted it.
///
/// # Errors
/// Says why, and what to do.
pub(crate) fn require_loopback(addresses: &[SocketAddr], insecure: bool) -> Result<()> {
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) if !insecure => Err(Error::config(format!(
            "{} is not a loopback address, and the backend `grpc` does not encrypt yet",
            address.ip()
        ))
        .with("key", "comm.address")
        .help(
            "on a network that you trust, accept it with comm.insecure = true. Ranks on one machine meet at 127.0.0.1",
        )),
        _ => Ok(()),
    }
}

/// Where higher ranks reach this one: the address from which it reaches rank 0, and any port.
///
/// # Errors
/// No address of rank 0 is reached from here, or other machines could reach the address.
pub(crate) fn of_this_rank(job: &Job, rank_0: &[SocketAddr]) -> Result<SocketAddr> {
    let way_to = |&address: &SocketAddr| {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?; // sends nothing
        let mut own = socket.local_addr()?; // with the scope id, where it has one
        own.set_port(0);
        Ok::<_, std::io::Error>(own)
    };
    let own = rank_0.iter().find_map(|address| way_to(address).ok()).ok_or_else(|| {
        Error::config("this machine has no route to comm.address").with("key", "comm.address").with("rank", job.rank)
    })?;
    require_loopback(&[own], job.config.insecure)?;
    Ok(own)
}

/// An address as other machines write it: the scope id is a number of this machine's own.
pub(crate) fn to_text(mut address: SocketAddr) -> String {
    if let SocketAddr::V6(address) = &mut address {
        address.set_scope_id(0);
    }
    address.to_string()
}

/// Reads [`to_text`]. A link-local address is reached over the interface that leads to rank 0.
pub(crate) fn from_text(text: &str, rank_0: SocketAddr) -> Option<SocketAddr> {
    let mut address = text.parse().ok()?;
    if let (SocketAddr::V6(address), SocketAddr::V6(rank_0)) = (&mut address, rank_0)
        && address.ip().is_unicast_link_local()
    {
        address.set_scope_id(rank_0.scope_id());
    }
    Some(address)
}

/// Listens at the first of these addresses that can be listened at; says which that was.
///
/// # Errors
/// None can: says why for the last one.
pub(crate) async fn listen(addresses: &[SocketAddr]) -> Result<(TcpListener, SocketAddr)> {
    let mut failure = None;
    for &address in addresses {
        let listener = TcpListener::bind(address).await;
        match listener.and_then(|listener| listener.local_addr().map(|address| (listener, address))) {
            Ok(listening) => return Ok(listening),
            Err(error) => failure = Some((address, error)),
        }
    }
    let Some((address, error)) = failure else {
        return Err(Error::config("comm.address names no address").with("key", "comm.address"));
    };
    let (port, ip) = (address.port(), address.ip());
    Err(match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::config(format!("port {port} of {ip} is taken by another process"))
            .with("key", "comm.port")
            .help("another job may run here, or rank 0 was started twice: end that, or choose another comm.port"),
        std::io::ErrorKind::AddrNotAvailable => {
            Error::config(format!("{ip} is no address of this machine, where rank 0 listens"))
                .with("key", "comm.address")
                .help("comm.address must be an address of the machine of rank 0")
        }
        _ => Error::config(format!("this rank cannot listen on port {port} of {ip}"))
            .with("key", "comm.port")
            .caused_by(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_name_of_a_machine_does_not_stand_for_a_loopback_address() {
        let [debian, network] = ["127.0.1.1:1", "10.0.0.5:1"];
        let error = reachable("node0", addresses(&[debian])).unwrap_err();
        assert!(error.message().contains("\"node0\", which this machine knows as 127.0.1.1"), "{error}");
        assert_eq!(reachable("node0", addresses(&[debian, network])).unwrap(), addresses(&[network]));
        for meant in ["127.0.1.1", "localhost"] {
            assert_eq!(reachable(meant, addresses(&[debian])).unwrap(), addresses(&[debian]));
        }
        assert_eq!(reachable("::1%1", addresses(&["[::1%1]:1"])).unwrap(), addresses(&["[::1%1]:1"]));
    }

    #[test]
    fn a_link_local_address_gets_the_scope_of_the_machine_that_dials_it() {
        let text = to_text("[fe80::2%3]:77".parse().unwrap());
        assert_eq!(text, "[fe80::2]:77");
        let dialled = from_text(&text, "[fe80::1%8]:50051".parse().unwrap());
        assert_eq!(dialled, Some("[fe80::2%8]:77".parse().unwrap()));
        assert_eq!(from_text("[fd00::2]:77", "[fd00::1]:1".parse().unwrap()), Some("[fd00::2]:77".parse().unwrap()));
    }
}
