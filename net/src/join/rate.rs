//! How often who may try to join: a nonce has 256 bits, so this protects the node's time and its log, not its tickets.
//!
//! Attempts are counted by where they come from, so that whoever tries wrong tickets without end keeps nobody else from
//! showing a right one. A stranger can have any number of identities, and not of addresses: of IPv6 a network counts as one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Attempts of one source at once, and a second.
const BURST: f64 = 20.0;
const PER_SECOND: f64 = 5.0;
/// Sources that are told apart. Beyond that those that come new share one.
const SOURCES: usize = 4_096;
/// What one customer of a provider has at least of IPv6.
const IPV6_NETWORK: u128 = !0 << 64;

/// Attempts by source.
#[derive(Default)]
pub(crate) struct Rate {
    /// What is left to each, as of when; `None` is all that have no place of their own. The lock is held for one sum, or, once
    /// the table is full, for one look at all of it.
    left: Mutex<HashMap<Option<IpAddr>, (f64, Instant)>>,
}

impl Rate {
    /// Whether one from `source` may be looked at; `None` where that is not known.
    pub fn take(&self, source: Option<IpAddr>, now: Instant) -> bool {
        let mut left = self.left.lock();
        let mut source = source.map(network);
        if left.len() >= SOURCES && !left.contains_key(&source) {
            // Whoever has all attempts again is as good as new.
            left.retain(|_, bucket| filled(bucket, now) < BURST);
            if left.len() >= SOURCES {
                source = None;
            }
        }
        let bucket = left.entry(source).or_insert((BURST, now));
        let full = filled(bucket, now);
        let taken = full >= 1.0;
        *bucket = (full - f64::from(u8::from(taken)), now);
        taken
    }
}

fn filled((left, since): &(f64, Instant), now: Instant) -> f64 {
    let since: Duration = now.saturating_duration_since(*since);
    (left + since.as_secs_f64() * PER_SECOND).min(BURST)
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & IPV6_NETWORK).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn attempts_come_back_with_time() {
        let (rate, start, source) = (Rate::default(), Instant::now(), address("192.0.2.1"));
        let taken = (0..100).filter(|_| rate.take(source, start)).count();
        assert_eq!(taken, BURST as usize);
        assert!(rate.take(source, start + Duration::from_secs(1)));
        let later = start + Duration::from_secs(100);
        assert_eq!(
            (0..100).filter(|_| rate.take(source, later)).count(),
            BURST as usize
        );
    }

    #[test]
    fn who_tries_without_end_locks_nobody_else_out() {
        let (rate, now) = (Rate::default(), Instant::now());
        while rate.take(address("2001:db8::1"), now) {}
        assert!(!rate.take(address("2001:db8::ffff:2"), now), "the same network");
        for other in ["2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.2"] {
            assert!(rate.take(address(other), now), "{other}");
        }
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_stopped() {
        let (rate, now) = (Rate::default(), Instant::now());
        let source = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        for n in 0..10_000 {
            rate.take(source(n), now);
        }
        assert!(rate.left.lock().len() <= SOURCES + 1);
        assert!(
            !rate.take(source(20_000), now),
            "those beyond it share what they have"
        );
        assert!(rate.take(source(20_001), now + Duration::from_secs(10)));
        assert!(rate.left.lock().len() < 10);
    }
}
