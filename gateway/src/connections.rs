//! The connections of a listener: so many in all, and so many from each address.
//!
//! A connection costs its client nothing until it asks for something that not everybody gets. Until then it gives way to a
//! newer one, and the oldest goes first: nobody keeps others out with half requests.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nearfield_protocol::limits;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub struct Connections {
    /// The lock is held for one connection that comes, proves itself or goes.
    state: Mutex<State>,
    most: usize,
    most_per_address: usize,
}

#[derive(Default)]
struct State {
    /// By number, which grows: the address that a connection counts for, if any.
    open: HashMap<u64, Option<IpAddr>>,
    by_address: HashMap<IpAddr, usize>,
    /// Of these, those that may be pushed out, the oldest first.
    unproven: BTreeMap<u64, CancellationToken>,
    last: u64,
}

/// A connection's place, until it is dropped or pushed out.
pub struct ConnectionPlace {
    connections: Arc<Connections>,
    number: u64,
    /// Cancelled once it is pushed out.
    pub pushed_out: CancellationToken,
    pub proof: Arc<Proof>,
}

/// What a connection's requests hold of its place.
pub struct Proof {
    connections: Arc<Connections>,
    number: u64,
    given: AtomicBool,
}

impl Default for Connections {
    fn default() -> Self {
        Connections::new(limits::CONNECTIONS, limits::CONNECTIONS_PER_ADDRESS)
    }
}

impl Connections {
    fn new(most: usize, most_per_address: usize) -> Self {
        Connections {
            state: Mutex::default(),
            most,
            most_per_address,
        }
    }

    /// A place for one more, which counts for `address`: a trusted proxy's counts for none.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<ConnectionPlace> {
        let mut state = self.state.lock();
        if let Some(address) = address {
            let there = state.by_address.get(&address).copied().unwrap_or_default();
            if there >= self.most_per_address && !state.push_out(Some(address)) {
                return None;
            }
        }
        if state.open.len() >= self.most && !state.push_out(None) {
            return None;
        }
        state.last += 1;
        let (number, pushed_out) = (state.last, CancellationToken::new());
        state.open.insert(number, address);
        state.unproven.insert(number, pushed_out.clone());
        if let Some(address) = address {
            *state.by_address.entry(address).or_default() += 1;
        }
        Some(ConnectionPlace {
            connections: self.clone(),
            number,
            pushed_out,
            proof: Arc::new(Proof {
                connections: self.clone(),
                number,
                given: AtomicBool::new(false),
            }),
        })
    }
}

impl State {
    /// Makes room, of one address or of all. Whether some connection could be pushed out.
    fn push_out(&mut self, address: Option<IpAddr>) -> bool {
        let is_of = |number: &&u64| address.is_none() || self.open.get(*number) == Some(&address);
        let Some(oldest) = self.unproven.keys().find(is_of).copied() else {
            return false;
        };
        if let Some(connection) = self.unproven.get(&oldest) {
            connection.cancel();
        }
        self.remove(oldest);
        true
    }

    fn remove(&mut self, number: u64) {
        self.unproven.remove(&number);
        let Some(Some(address)) = self.open.remove(&number) else {
            return;
        };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Proof {
    /// From now on only its own end closes the connection.
    pub fn give(&self) {
        if !self.given.swap(true, Ordering::Relaxed) {
            self.connections.state.lock().unproven.remove(&self.number);
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.connections.state.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::origin::sharer;

    fn enter(connections: &Arc<Connections>, address: &str) -> Option<ConnectionPlace> {
        connections.enter(Some(sharer(address.parse().unwrap())))
    }

    #[test]
    fn one_address_has_its_share() {
        let connections = Arc::new(Connections::new(100, 5));
        let proven = |address: &str| {
            let place = enter(&connections, address)?;
            place.proof.give();
            Some(place)
        };
        let held: Vec<_> = (0..5).map(|_| proven("192.0.2.1").unwrap()).collect();
        assert!(
            proven("::ffff:192.0.2.1").is_none(),
            "the same client in IPv6 clothes"
        );
        assert!(proven("192.0.2.2").is_some());
        // Whoever has one address of IPv6 has its whole network.
        let many: Vec<_> = (0..9)
            .filter_map(|low| proven(&format!("2001:db8:0:1::{low}")))
            .collect();
        assert_eq!(many.len(), 5);
        assert!(proven("2001:db8:0:2::1").is_some());
        drop((held, many));
        assert!(proven("192.0.2.1").is_some());
        let state = connections.state.lock();
        assert!(state.open.is_empty() && state.by_address.is_empty() && state.unproven.is_empty());
    }

    #[test]
    fn what_has_proved_nothing_gives_way_the_oldest_first() {
        let connections = Arc::new(Connections::new(4, 3));
        let old: Vec<_> = (0..3)
            .map(|_| enter(&connections, "192.0.2.1").unwrap())
            .collect();
        old[0].proof.give();
        let new = enter(&connections, "192.0.2.1").unwrap();
        assert!(!old[0].pushed_out.is_cancelled() && old[1].pushed_out.is_cancelled());
        // All places together, and a client that has none.
        let other = enter(&connections, "192.0.2.2").unwrap();
        let third = enter(&connections, "192.0.2.3").unwrap();
        assert!(old[2].pushed_out.is_cancelled() && !new.pushed_out.is_cancelled());
        for place in [&new, &other, &third] {
            place.proof.give();
        }
        assert!(enter(&connections, "192.0.2.4").is_none());
    }

    proptest! {
        #[test]
        fn places_are_never_more_than_there_are(steps in proptest::collection::vec((0u8..4, 0u8..3, 0usize..8), 0..200)) {
            let connections = Arc::new(Connections::new(6, 3));
            let mut places: Vec<(Option<IpAddr>, ConnectionPlace)> = Vec::new();
            for (address, what, which) in steps {
                let address = (address > 0).then(|| IpAddr::from([192, 0, 2, address]));
                match what {
                    0 => places.extend(connections.enter(address).map(|place| (address, place))),
                    1 if which < places.len() => places[which].1.proof.give(),
                    2 if which < places.len() => drop(places.swap_remove(which)),
                    _ => {}
                }
                places.retain(|(_, place)| !place.pushed_out.is_cancelled());
                let state = connections.state.lock();
                prop_assert_eq!(state.open.len(), places.len());
                prop_assert!(places.len() <= 6);
                for address in 1..4 {
                    let address = Some(IpAddr::from([192, 0, 2, address]));
                    prop_assert!(places.iter().filter(|(own, _)| *own == address).count() <= 3);
                }
            }
        }
    }
}
