//! Who is there now.

use std::collections::HashMap;
use std::sync::Arc;

use nearfield_protocol::NodeId;
use tokio::sync::watch;

/// The members with which this node has a stream of reports now, each as often as it has.
#[derive(Default)]
pub(crate) struct Present(watch::Sender<HashMap<NodeId, usize>>);

impl Present {
    /// Counts one stream with `node` until it is dropped.
    pub fn enter(self: &Arc<Self>, node: NodeId) -> Here {
        self.0
            .send_modify(|present| *present.entry(node).or_default() += 1);
        Here {
            present: self.clone(),
            node,
        }
    }

    pub fn all(&self) -> Vec<NodeId> {
        self.0.borrow().keys().copied().collect()
    }

    /// Told each time somebody comes or goes.
    pub fn changes(&self) -> watch::Receiver<HashMap<NodeId, usize>> {
        self.0.subscribe()
    }
}

/// A stream of reports.
pub(crate) struct Here {
    present: Arc<Present>,
    node: NodeId,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.present.0.send_modify(|present| {
            if let Some(streams) = present.get_mut(&self.node) {
                *streams -= 1;
                if *streams == 0 {
                    present.remove(&self.node);
                }
            }
        });
    }
}
