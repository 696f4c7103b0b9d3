//! Where a node is reached: by clients over TCP, by other nodes over UDP.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, bail};
use nearfield_net::Node;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::data_dir::DataDir;

/// Where other nodes reach a node that says nothing else.
const USUAL_PEERS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8082);

/// Refuses to serve tokens in plain text to others.
pub fn check_encrypted(config: &Config) -> anyhow::Result<()> {
    for (name, address) in [("--listen", config.listen), ("--admin", config.admin)] {
        if !address.ip().is_loopback() && config.tls.is_none() && !config.insecure {
            bail!(
                "{name} {address} would serve tokens in plain text to the network: give --tls-cert and \
                 --tls-key, or --insecure if something in front of it encrypts"
            );
        }
    }
    Ok(())
}

/// Listens at `address`, which `flag` says.
pub async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!(
                "{address} is taken, perhaps by another nearfield: stop that, or choose another with {flag}"
            )
        }
        Err(error) => Err(error).with_context(|| format!("listening on {address}")),
    }
}

/// Where other nodes reach this one: as asked, else as before, else at the usual port if that is free.
pub fn peers_address(config: &Config) -> anyhow::Result<SocketAddr> {
    let before = fs::read_to_string(config.data_dir.peers_address()).ok();
    let before: Option<SocketAddr> = before.and_then(|text| text.trim().parse().ok());
    Ok(match (config.peers, before) {
        // Any port is the one that others know.
        (Some(asked), Some(before)) if asked.port() == 0 && asked.ip() == before.ip() => before,
        (Some(asked), _) => asked,
        (None, Some(before)) => before,
        (None, None) => match UdpSocket::bind(USUAL_PEERS) {
            Ok(_) => USUAL_PEERS,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => SocketAddr::new(USUAL_PEERS.ip(), 0),
            Err(error) => return Err(error).with_context(|| format!("listening on UDP {USUAL_PEERS}")),
        },
    })
}

/// After a restart this node is where others look for it.
pub fn keep_peers_address(data_dir: &DataDir, node: &Node) -> anyhow::Result<()> {
    if let Some(address) = node.listening().first() {
        fs::write(data_dir.peers_address(), address.to_string())
            .context("writing down the address for other nodes")?;
    }
    Ok(())
}
