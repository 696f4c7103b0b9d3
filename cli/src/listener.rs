//! Who listens at a port of this machine: the admin token of a node's folder is for that node, not for another user's program that
//! took its port.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use ureq::http::Uri;

use crate::failure::{Exit, Failure};

/// A socket that listens, in the kernel's words.
const LISTENS: &str = "0A";
const ROOT: u32 = 0;

/// Refuses to show what `file` holds to a program of another user than the file's owner, if `url` leads to one on this machine. Where the kernel does
/// not tell who listens, it is shown as ever.
pub fn check(url: &str, file: &Path) -> Result<()> {
    let (Ok(url), Ok(found)) = (url.parse::<Uri>(), fs::metadata(file)) else {
        return Ok(());
    };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let port = url.port_u16().unwrap_or(80);
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let mut users = tables.iter().flat_map(|table| users_at(table, port));
    match users.find(|user| is_here && *user != found.uid() && *user != ROOT) {
        None => Ok(()),
        Some(user) => Err(Failure::new(
            Exit::NotAllowed,
            format!(
                "a program of the user {user} listens at port {port}, not the node whose token lies in {}: start the node, name its \
                 --url, or give --token",
                file.display()
            ),
        )
        .into()),
    }
}

/// The users whose sockets listen at `port`, by a table of the kernel's.
fn users_at(table: &str, port: u16) -> impl Iterator<Item = u32> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, user) = (fields.get(1)?, fields.get(3)?, fields.get(7)?);
        let (_, at) = local.rsplit_once(':')?;
        let is_it = *state == LISTENS && u16::from_str_radix(at, 16) == Ok(port);
        is_it.then(|| user.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 23 1 0 100 0 0 10 0
   1: 0100007F:1F91 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000  1001        0 24 1 0 20 4 30 10 -1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 25 1 0 100 0 0 10 0\n";

    #[test]
    fn the_kernel_tells_whose_sockets_listen() {
        let users = |port| users_at(TABLE, port).collect::<Vec<_>>();
        assert_eq!(users(8081), [1000]);
        assert_eq!(users(22), [0]);
        assert!(users(80).is_empty() && users_at("", 8081).next().is_none());
    }

    #[test]
    fn a_token_is_shown_to_its_owners_programs() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("admin.token");
        fs::write(&token, "t").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        check(&url, &token).unwrap();
        check("http://192.0.2.1:8081", &token).unwrap();
    }
}
