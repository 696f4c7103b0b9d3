//! What stays in GPU memory: pieces of blobs by content, and room for the buffers of calls, under one budget of bytes. Pure:
//! whoever uploads asks for room, uploads, and says what it took. It has one owner, so nothing is ever brought twice at once.
//!
//! What goes first is what is cheapest to bring again for the bytes it takes, and was not used for long (GreedyDual-Size,
//! Cao and Irani 1997): each piece is worth its cost by byte, from the worth of what went last upwards.

use std::collections::{BTreeSet, HashMap};

use nearfield_protocol::Digest;

use crate::limits::LEAST_BUFFER_BYTES;

/// Bytes of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    pub digest: Digest,
    pub offset: u64,
    pub len: u64,
}

/// The pieces on one device, as buffers `B`.
#[derive(Debug)]
pub struct Resident<B> {
    budget_bytes: u64,
    held_bytes: u64,
    /// Bytes of the above that are in pieces that nobody uses.
    idle_bytes: u64,
    /// The worth of what went last.
    floor: u64,
    pieces: HashMap<Piece, HeldPiece<B>>,
    /// Those that nobody uses, the least worth first.
    idle: BTreeSet<(u64, Piece)>,
}

#[derive(Debug)]
struct HeldPiece<B> {
    buffer: B,
    users: u32,
    /// Microseconds that it took to bring, for each KiB.
    cost: u64,
    worth: u64,
}

/// What is in use leaves too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes of GPU memory are wanted, {free} of {budget} are not in use")]
pub struct NoRoom {
    pub wanted: u64,
    pub free: u64,
    pub budget: u64,
}

impl<B> Resident<B> {
    pub fn new(budget_bytes: u64) -> Self {
        Resident {
            budget_bytes,
            held_bytes: 0,
            idle_bytes: 0,
            floor: 0,
            pieces: HashMap::new(),
            idle: BTreeSet::new(),
        }
    }

    /// Bytes that are held: never above the budget.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// What is here.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.pieces.keys().copied()
    }

    /// Uses a piece until [`Resident::release`], if it is here.
    pub fn take(&mut self, piece: &Piece) -> Option<&B> {
        let held = self.pieces.get_mut(piece)?;
        if held.users == 0 {
            self.idle.remove(&(held.worth, *piece));
            self.idle_bytes -= room(piece.len);
        }
        held.users += 1;
        Some(&held.buffer)
    }

    /// The end of one use.
    pub fn release(&mut self, piece: &Piece) {
        let Some(held) = self.pieces.get_mut(piece) else {
            return;
        };
        held.users -= 1;
        if held.users == 0 {
            held.worth = self.floor.saturating_add(held.cost);
            self.idle.insert((held.worth, *piece));
            self.idle_bytes += room(piece.len);
        }
    }

    /// Makes room for a buffer and takes it. What goes is to be freed before anything is made.
    pub fn claim(&mut self, bytes: u64) -> Result<Vec<B>, NoRoom> {
        let bytes = room(bytes);
        let free = self.budget_bytes - self.held_bytes + self.idle_bytes;
        if bytes > free {
            return Err(NoRoom {
                wanted: bytes,
                free,
                budget: self.budget_bytes,
            });
        }
        let mut gone = Vec::new();
        while self.budget_bytes - self.held_bytes < bytes
            && let Some((worth, least)) = self.idle.pop_first()
        {
            self.floor = worth;
            self.held_bytes -= room(least.len);
            self.idle_bytes -= room(least.len);
            gone.extend(self.pieces.remove(&least).map(|held| held.buffer));
        }
        self.held_bytes += bytes;
        Ok(gone)
    }

    /// Gives back room that was claimed.
    pub fn unclaim(&mut self, bytes: u64) {
        self.held_bytes -= room(bytes);
    }

    /// The piece for whose length room was claimed is here, and used by who brought it. That took so many microseconds.
    pub fn fill(&mut self, piece: Piece, buffer: B, took_us: u64) {
        let held = HeldPiece {
            buffer,
            users: 1,
            cost: took_us.saturating_mul(1 << 10) / piece.len.max(1),
            worth: 0,
        };
        let before = self.pieces.insert(piece, held);
        debug_assert!(before.is_none(), "only what is absent is brought");
    }
}

/// What a buffer of so many bytes takes.
fn room(bytes: u64) -> u64 {
    bytes.max(LEAST_BUFFER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(n: u8, len: u64) -> Piece {
        Piece {
            digest: Digest::of(&[n]),
            offset: 0,
            len,
        }
    }

    fn bring(resident: &mut Resident<u8>, n: u8, len: u64, took_us: u64) -> Vec<u8> {
        let piece = piece(n, len);
        let gone = resident.claim(len).unwrap();
        resident.fill(piece, n, took_us);
        resident.release(&piece);
        gone
    }

    #[test]
    fn what_is_used_stays_and_what_is_cheap_goes_first() {
        let mut resident = Resident::new(100 << 20);
        bring(&mut resident, 1, 50 << 20, 5_000_000);
        bring(&mut resident, 2, 50 << 20, 100_000);
        // As large, and dearer to bring again.
        assert_eq!(bring(&mut resident, 3, 50 << 20, 900_000), [2]);
        assert_eq!(resident.take(&piece(3, 50 << 20)), Some(&3));
        assert_eq!(
            bring(&mut resident, 4, 50 << 20, 1_000),
            [1],
            "the other one is in use"
        );
        let refused = resident.claim(51 << 20).unwrap_err();
        assert_eq!((refused.free, refused.budget), (50 << 20, 100 << 20));
        resident.release(&piece(3, 50 << 20));
        assert_eq!(resident.claim(100 << 20).unwrap().len(), 2);
        assert!(resident.claim(1).is_err(), "all is claimed");
        resident.unclaim(100 << 20);
        assert_eq!((resident.held_bytes(), resident.pieces().count()), (0, 0));
    }

    #[test]
    fn what_was_dear_goes_when_it_was_not_used_for_long() {
        let mut resident = Resident::new(10 << 20);
        bring(&mut resident, 0, 5 << 20, 1_000_000);
        let rounds = (1..=200).take_while(|n| !bring(&mut resident, *n, 5 << 20, 50_000).contains(&0));
        let rounds = rounds.count();
        assert!((10..=40).contains(&rounds), "{rounds}");
    }

    proptest! {
        /// Whatever is done in whatever order.
        #[test]
        fn never_above_the_budget_and_never_wrong(
            steps in prop::collection::vec((0_u8..12, 1_u64..40, 0_u8..4), 1..300)
        ) {
            const UNIT: u64 = LEAST_BUFFER_BYTES;
            let mut resident = Resident::new(100 * UNIT);
            let (mut used, mut claimed) = (Vec::new(), 0);
            for (n, len, step) in steps {
                // The first ones are smaller than a buffer can be.
                let len = (len - 1) * UNIT + 1;
                let piece = piece(n, len);
                match (step, resident.take(&piece).copied()) {
                    (_, Some(found)) => {
                        prop_assert_eq!(found, n);
                        used.push(piece);
                    }
                    (0, None) if claimed == 0 => {
                        if resident.claim(len).is_ok() {
                            claimed = len;
                        }
                    }
                    (0, None) => resident.unclaim(std::mem::take(&mut claimed)),
                    (_, None) => {
                        if resident.claim(len).is_ok() {
                            resident.fill(piece, n, u64::from(step) * 10_000);
                            used.push(piece);
                        }
                    }
                }
                if step == 3 && let Some(done) = used.pop() {
                    resident.release(&done);
                }
                prop_assert!(resident.held_bytes() <= 100 * UNIT);
                for piece in &used {
                    prop_assert!(resident.take(piece).is_some());
                    resident.release(piece);
                }
            }
            for piece in used {
                resident.release(&piece);
            }
            if claimed > 0 {
                resident.unclaim(claimed);
            }
            prop_assert!(resident.claim(100 * UNIT).is_ok());
        }
    }
}
