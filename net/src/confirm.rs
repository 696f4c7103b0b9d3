//! A record is acknowledged when a second node has it.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nearfield_protocol::NodeId;
use nearfield_protocol::records::RecordKey;
use tokio::time::timeout;

use crate::control::{Question, Reply};
use crate::error::NetError;
use crate::node::Node;

/// How long other nodes may take to have a record that was written here.
const CONFIRM: Duration = Duration::from_secs(5);
/// How long gateways may take once a host has it.
const GATEWAYS_FIRST: Duration = Duration::from_secs(1);
/// How many gateways, and how many hosts, are asked whether they have a record.
const CONFIRMING: usize = 3;

impl Node {
    /// Waits until a record that was just written is on disk at another node, if one is there: at a gateway, which can go on
    /// without this one; at a host, if no gateway says so soon.
    pub(crate) async fn confirm(&self, key: &RecordKey) -> Result<(), NetError> {
        let present = self.present();
        if present.is_empty() {
            return Ok(());
        }
        let records = self.records();
        let (gateways, hosts): (Vec<_>, Vec<_>) =
            present.into_iter().partition(|node| records.is_gateway(node));
        let key: String = key.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let (gateways, hosts) = (pin!(self.has(&key, gateways)), pin!(self.has(&key, hosts)));
        let confirmed = match select(gateways, hosts).await {
            Either::Left((true, _)) => true,
            Either::Left((false, hosts)) => hosts.await,
            Either::Right((false, gateways)) => gateways.await,
            Either::Right((true, gateways)) => {
                let _ = timeout(GATEWAYS_FIRST, gateways).await;
                true
            }
        };
        // If they are gone meanwhile, there is no second node.
        if confirmed || self.present().is_empty() {
            return Ok(());
        }
        Err(NetError::Unconfirmed {
            seconds: CONFIRM.as_secs(),
        })
    }

    /// Whether some of `nodes` has a record, once one has.
    async fn has(&self, key: &str, nodes: Vec<NodeId>) -> bool {
        let question = || Question::Confirm { key: key.to_owned() };
        let mut asked: FuturesUnordered<_> = nodes
            .into_iter()
            .take(CONFIRMING)
            .map(|node| self.ask(node, question(), CONFIRM))
            .collect();
        while let Some(answer) = asked.next().await {
            if let Ok(Reply::Confirmed(true)) = answer {
                return true;
            }
        }
        false
    }
}
