//! How much is done at once for each other node: what one asks for keeps nobody else waiting.

use std::collections::HashMap;
use std::sync::Arc;

use nearfield_protocol::NodeId;
use tokio::sync::Semaphore;

/// Nodes that are remembered, until those that hold nothing are forgotten.
const REMEMBERED: usize = 64;

/// Places of each node. Those who wait for one are bounded by the streams of their node's connection.
pub struct NodePlaces {
    most: usize,
    by_node: HashMap<NodeId, Arc<Semaphore>>,
}

impl NodePlaces {
    /// `most` places for each node.
    pub fn new(most: usize) -> Self {
        NodePlaces {
            most,
            by_node: HashMap::new(),
        }
    }

    /// The places of one node.
    pub fn of(&mut self, node: NodeId) -> Arc<Semaphore> {
        if self.by_node.len() >= REMEMBERED {
            self.by_node.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let places = self.by_node.entry(node);
        places
            .or_insert_with(|| Arc::new(Semaphore::new(self.most)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn one_node_takes_no_place_of_another_and_idle_ones_are_forgotten() {
        let mut places = NodePlaces::new(2);
        let busy = places.of(id(0));
        let _held = [busy.try_acquire().unwrap(), busy.try_acquire().unwrap()];
        assert!(places.of(id(0)).try_acquire().is_err());
        for other in 1..=255 {
            assert!(places.of(id(other)).try_acquire().is_ok());
        }
        assert!(places.by_node.len() <= REMEMBERED);
        assert!(places.of(id(0)).try_acquire().is_err(), "it is busy still");
    }
}
