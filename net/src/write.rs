//! The records that this node writes: only a gateway's count. What is written is durable here, and elsewhere if another gateway
//! is there, when the write returns.

use nearfield_protocol::node::NodeRecord;
use nearfield_protocol::records::{
    DatasetRecord, DatasetVersion, FunctionRecord, FunctionVersion, RecordKind, TokenRecord, TokenVersion,
};
use nearfield_protocol::{DatasetName, FunctionName, NodeId};
use serde::Serialize;

use crate::error::NetError;
use crate::node::Node;

impl Node {
    async fn write(&self, kind: RecordKind, name: &str, value: &impl Serialize) -> Result<(), NetError> {
        let written = {
            let _writing = self.document().lock().await;
            self.document().write(kind, name, value).await?
        };
        self.confirm(&written.key).await
    }

    /// What has a newest version that cannot be read has no next one.
    fn is_readable(&self, kind: RecordKind, name: &str) -> Result<(), NetError> {
        match self.records().is_lost(kind, name) {
            false => Ok(()),
            true => Err(NetError::Unreadable(name.to_owned())),
        }
    }

    /// Writes the next version of a function; `make` gets its number. Durable when this returns.
    pub async fn write_function(
        &self,
        name: &FunctionName,
        make: impl FnOnce(u64) -> FunctionVersion,
    ) -> Result<FunctionVersion, NetError> {
        let (written, version) = {
            let _writing = self.document().lock().await;
            self.is_readable(RecordKind::Function, name.as_str())?;
            let newest = self.records().function(name).map(|newest| newest.version);
            let version = make(newest.unwrap_or_default() + 1);
            let record = FunctionRecord::Deployed(Box::new(version.clone()));
            let document = self.document();
            let written = document
                .write(RecordKind::Function, name.as_str(), &record)
                .await?;
            (written, version)
        };
        self.confirm(&written.key).await?;
        Ok(version)
    }

    /// Writes the next version of a dataset; `make` gets its number. Durable when this returns.
    /// With `expected`, only if that is the newest version now (0: there is none).
    pub async fn write_dataset(
        &self,
        name: &DatasetName,
        expected: Option<u64>,
        make: impl FnOnce(u64) -> DatasetVersion,
    ) -> Result<DatasetVersion, NetError> {
        let (written, version) = {
            let _writing = self.document().lock().await;
            self.is_readable(RecordKind::Dataset, name.as_str())?;
            let found = self.records().dataset(name).map_or(0, |newest| newest.version);
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                let name = name.to_string();
                return Err(NetError::Conflict {
                    name,
                    found,
                    expected,
                });
            }
            let version = make(found + 1);
            let record = DatasetRecord::Put(version.clone());
            let document = self.document();
            let written = document
                .write(RecordKind::Dataset, name.as_str(), &record)
                .await?;
            (written, version)
        };
        self.confirm(&written.key).await?;
        Ok(version)
    }

    pub async fn remove_function(&self, name: &FunctionName) -> Result<(), NetError> {
        self.write(RecordKind::Function, name.as_str(), &FunctionRecord::Removed)
            .await
    }

    pub async fn remove_dataset(&self, name: &DatasetName) -> Result<(), NetError> {
        self.write(RecordKind::Dataset, name.as_str(), &DatasetRecord::Removed)
            .await
    }

    /// Forgets the versions of a dataset before `before`, which must be one of them.
    pub async fn prune_dataset(&self, name: &DatasetName, before: u64) -> Result<(), NetError> {
        let record = DatasetRecord::Pruned { before };
        self.write(RecordKind::Dataset, name.as_str(), &record).await
    }

    pub async fn issue_token(&self, token: TokenVersion) -> Result<(), NetError> {
        let id = token.id.clone();
        self.write(RecordKind::Token, &id, &TokenRecord::Issued(token))
            .await
    }

    pub async fn revoke_token(&self, id: &str) -> Result<(), NetError> {
        self.write(RecordKind::Token, id, &TokenRecord::Revoked).await
    }

    pub async fn drain(&self, node: &NodeId, draining: bool) -> Result<(), NetError> {
        let record = NodeRecord::Draining { draining };
        self.write(RecordKind::Node, &node.to_string(), &record).await
    }

    /// Has a node run nothing, and nothing that it made be used.
    pub async fn quarantine(&self, node: &NodeId, reason: String) -> Result<(), NetError> {
        let record = NodeRecord::Quarantined { reason };
        self.write(RecordKind::Node, &node.to_string(), &record).await
    }

    /// Writes down that a node has gone by its own will.
    pub async fn let_go(&self, node: &NodeId) -> Result<(), NetError> {
        self.write(RecordKind::Node, &node.to_string(), &NodeRecord::Left)
            .await
    }

    /// Trusts a node no more. What it wrote up to now, and this node has, goes on to count, but for its function tokens, unless
    /// those are kept.
    pub async fn expel(&self, node: &NodeId, keep_tokens: bool) -> Result<(), NetError> {
        if !self.records().may_expel(&self.id(), node) {
            return Err(NetError::Membership(format!(
                "a gateway expels only nodes that joined after it, and nobody the founder: expel {} at a gateway that \
                 joined earlier",
                node.short()
            )));
        }
        let accepted = self.document().accepted_of(node).await?;
        let record = NodeRecord::Expelled {
            accepted,
            keep_tokens,
        };
        self.write(RecordKind::Node, &node.to_string(), &record).await?;
        self.shut_out().await;
        Ok(())
    }
}
