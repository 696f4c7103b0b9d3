//! What an engine asks for, and what it is told.

use std::sync::Arc;

use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey};
use nearfield_protocol::{Digest, NodeId, Problem};

use crate::record::WrittenDataset;

/// What is to be done, by whoever drives the engine. An action with a [`Ticket`] is answered by the event that bears it,
/// unless it is stopped before.
#[derive(Debug)]
pub enum Action {
    /// Nothing is to be sent to this host before it is heard of again.
    Missed(NodeId),
    /// Ask `host` what it remembers under these keys: [`Event::Recalled`].
    Recall {
        ticket: Ticket,
        host: NodeId,
        keys: Arc<[ResultKey]>,
    },
    /// Run on `host`: [`Event::Ran`].
    Run {
        ticket: Ticket,
        host: NodeId,
        spec: PureSpec,
    },
    /// The same once more, whatever is remembered of it: [`Event::Replayed`].
    Replay {
        ticket: Ticket,
        host: NodeId,
        spec: PureSpec,
    },
    /// Take a result from the host that remembers it, and keep it at hand: [`Event::Taken`].
    Take {
        ticket: Ticket,
        host: NodeId,
        key: ResultKey,
    },
    /// Have `host` remember the result that was taken with this ticket: [`Event::Given`].
    Give { ticket: Ticket, host: NodeId },
    /// Read the files that a run wrote, and keep them: [`Event::Files`].
    Files {
        ticket: Ticket,
        host: NodeId,
        key: ResultKey,
    },
    /// Put the files that these runs wrote as one dataset: [`Event::Put`].
    Put { ticket: Ticket, keys: Vec<ResultKey> },
    /// Have `host` run nothing more, and all nodes forget what it made: [`Event::Quarantined`].
    Quarantine {
        ticket: Ticket,
        host: NodeId,
        reason: String,
    },
    /// Nobody waits for this any more; its guest is to end.
    Stop(Ticket),
}

/// Names an action, and the event that answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What came of an action.
#[derive(Debug)]
pub enum Event {
    Recalled(Result<Vec<Option<PureReport>>, Problem>),
    Ran(Result<PureReport, PureFailure>),
    Replayed(Result<Result<PureReport, PureFailure>, Problem>),
    /// With the bytes of its output.
    Taken(Result<Option<(PureReport, u64)>, Problem>),
    Given(Result<(), Problem>),
    /// BLAKE3 of the files.
    Files(Result<Option<Digest>, Problem>),
    Put(Result<WrittenDataset, Problem>),
    Quarantined(Result<(), Problem>),
}
