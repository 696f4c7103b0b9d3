//! Data that is kept to some nodes: what its rule is, whether it may rest here, and which other node may put it for this one.

use nearfield_protocol::node::{Label, Role};
use nearfield_protocol::{DatasetName, NodeId, Problem, ProblemKind};
use nearfield_store::Placement;

use super::guards::Granted;
use super::put::Keeping;
use super::state::Catalog;
use crate::recording::labels;

/// Nodes that a refusal names.
const MAX_NAMED: usize = 4;

impl Catalog {
    /// Whether what is kept to nodes with these labels may rest here.
    pub fn may_keep(&self, only: &[Label]) -> bool {
        self.node.satisfies(&self.node.id(), only)
    }

    /// The labels that whoever keeps what is put must have.
    pub fn rule_of(&self, name: &DatasetName, placement: &Placement, keeping: &Keeping) -> Vec<Label> {
        match keeping.only.is_empty() && *placement != Placement::Whole {
            true => self
                .node
                .records()
                .dataset(name)
                .map_or(Vec::new(), |newest| newest.only.clone()),
            false => keeping.only.clone(),
        }
    }

    /// Lets `node` put `name` once, for as long as the guard is there.
    pub fn grant(&self, node: NodeId, name: DatasetName) -> Granted {
        let granted = (node, name);
        let mut all = self.granted.lock();
        all.push(granted.clone());
        Granted {
            all: self.granted.clone(),
            granted,
        }
    }

    /// Whether a put that `node` takes for this one is under way.
    pub fn has_granted(&self, node: &NodeId, name: &DatasetName) -> bool {
        let all = self.granted.lock();
        all.iter().any(|granted| granted == &(*node, name.clone()))
    }

    /// Why a put is refused that no node takes which may keep it, and what helps.
    pub fn may_not_keep(&self, name: &DatasetName, only: &[Label]) -> Problem {
        let (records, present) = (self.node.records(), self.node.present());
        let members = records.nodes().map(|member| &member.node);
        let may: Vec<String> = members
            .filter(|member| self.node.satisfies(&member.id, only))
            .map(|member| {
                // A host meets gateways alone.
                let away = self.node.role() == Role::Gateway
                    && member.id != self.node.id()
                    && !present.contains(&member.id);
                let away = if away { ", away" } else { "" };
                format!("{} ({}{away})", member.id.short(), member.role)
            })
            .take(MAX_NAMED)
            .collect();
        let labels = labels(only);
        let next = match may.as_slice() {
            [] => {
                let flags: Vec<String> = only.iter().map(|label| format!("--label {label}")).collect();
                format!(
                    "no node has that: `nearfield invite {}` makes a ticket for one",
                    flags.join(" ")
                )
            }
            some => format!(
                "those that may are {}: start one of them, or put it there",
                some.join(", ")
            ),
        };
        Problem::new(
            ProblemKind::NotPermitted,
            format!(
                "`{name}` is kept to nodes with {labels}, and its bytes may not rest on this one; {next}"
            ),
        )
    }
}
