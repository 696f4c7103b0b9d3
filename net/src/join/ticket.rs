//! What is handed to whoever is invited.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use nearfield_protocol::NodeId;
use nearfield_protocol::node::{Labels, Role};
use serde::{Deserialize, Serialize};

use crate::error::NetError;

/// What a ticket begins with: the digit is its format.
const PREFIX: &str = "nearfield1";

/// An invitation as text. It holds no key: all it gives is the right to be let in once, by its issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub issuer: NodeId,
    /// Where the issuer was reached when it made the ticket.
    pub addresses: Vec<SocketAddr>,
    pub role: Role,
    pub labels: Labels,
    pub expires_unix_ms: u64,
    pub nonce: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Wire {
    issuer: [u8; 32],
    addresses: Vec<SocketAddr>,
    gateway: bool,
    labels: Labels,
    expires_unix_ms: u64,
    nonce: [u8; 32],
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = Wire {
            issuer: *self.issuer.as_bytes(),
            addresses: self.addresses.clone(),
            gateway: self.role == Role::Gateway,
            labels: self.labels.clone(),
            expires_unix_ms: self.expires_unix_ms,
            nonce: self.nonce,
        };
        let bytes = postcard::to_allocvec(&wire).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let torn =
            || NetError::Ticket("the ticket is torn: copy all of what `nearfield invite` printed".into());
        let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(|| {
            NetError::Ticket(format!(
                "a ticket begins with `{PREFIX}`: make one with `nearfield invite` at a gateway"
            ))
        })?;
        let bytes = BASE32_NOPAD
            .decode(encoded.to_ascii_uppercase().as_bytes())
            .map_err(|_| torn())?;
        let (wire, rest): (Wire, _) = postcard::take_from_bytes(&bytes).map_err(|_| torn())?;
        if !rest.is_empty() {
            return Err(torn());
        }
        Ok(Ticket {
            issuer: NodeId::from_bytes(wire.issuer),
            addresses: wire.addresses,
            role: match wire.gateway {
                true => Role::Gateway,
                false => Role::Host,
            },
            labels: wire.labels,
            expires_unix_ms: wire.expires_unix_ms,
            nonce: wire.nonce,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_is_told_from_other_text() {
        let ticket = Ticket {
            issuer: NodeId::from_bytes([7; 32]),
            addresses: vec!["10.0.0.1:8082".parse().unwrap(), "[::1]:8082".parse().unwrap()],
            role: Role::Host,
            labels: [("region".to_owned(), "eu".to_owned())].into(),
            expires_unix_ms: 1,
            nonce: [9; 32],
        };
        let text = ticket.to_string();
        assert_eq!(text.parse::<Ticket>().unwrap(), ticket);
        assert_eq!(format!(" {text}\n").parse::<Ticket>().unwrap(), ticket);
        let twice = format!("{text}{}", &text[PREFIX.len()..]);
        for other in ["", "nearfield1", "doc123", &text[..text.len() - 8], &twice] {
            assert!(other.parse::<Ticket>().is_err(), "{other}");
        }
    }
}
