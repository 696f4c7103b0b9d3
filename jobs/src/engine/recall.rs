//! All hosts are asked what they remember. Of what they say of one run the first answer counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use nearfield_protocol::Problem;
use nearfield_protocol::job::{PureReport, ResultKey};
use nearfield_protocol::problem::Blame;

use super::action::{Action, Ticket};
use super::claims::Worth;
use super::restart::Leave;
use super::sites::View;
use super::state::Engine;
use super::tasks::Recall;

/// Keys that one question names.
const RECALLED_AT_ONCE: usize = 4_096;

impl Engine {
    /// Asks all hosts what they remember under `keys`.
    pub(super) fn recall(&mut self, keys: Vec<ResultKey>, view: View<'_>) {
        self.recall = Some(Recall {
            found: vec![None; keys.len()],
            keys,
            next: 0,
            waits: BTreeMap::new(),
            hosts: 0,
        });
        self.ask_for_more(view);
    }

    fn ask_for_more(&mut self, view: View<'_>) {
        let Some(mut recall) = self.recall.take() else {
            return;
        };
        let from = recall.next;
        recall.next = recall.keys.len().min(from + RECALLED_AT_ONCE);
        let keys: Arc<[ResultKey]> = recall.keys[from..recall.next].into();
        let hosts = match keys.is_empty() {
            true => Vec::new(),
            false => self.sites.usable(view),
        };
        recall.hosts = hosts.len();
        for host in hosts {
            let ticket = self.ticket();
            recall.waits.insert(ticket, (host, from));
            let keys = keys.clone();
            self.actions.push(Action::Recall { ticket, host, keys });
        }
        self.recall = Some(recall);
    }

    pub(super) fn recalled(
        &mut self,
        ticket: Ticket,
        answer: Result<Vec<Option<PureReport>>, Problem>,
        view: View<'_>,
    ) -> Result<(), Leave> {
        let Some(recall) = &mut self.recall else {
            return Ok(());
        };
        let Some((host, from)) = recall.waits.remove(&ticket) else {
            return Ok(());
        };
        let answer = match answer {
            Ok(answer) => answer,
            // What it remembers is made again where it is needed.
            Err(problem) if problem.kind.blame() == Blame::LostHost => {
                tracing::warn!(host = host.short(), %problem, "a host was lost before it said what it remembers");
                self.sites.lost(host);
                return Ok(());
            }
            Err(problem) if recall.hosts > 1 => {
                tracing::warn!(host = host.short(), %problem, "a host does not say what it remembers");
                return Ok(());
            }
            Err(problem) => return Err(problem.into()),
        };
        let keys = &recall.keys[from..recall.next];
        let mut says_false = None;
        for (at, (report, key)) in answer.into_iter().zip(keys).enumerate() {
            let Some(report) = report else { continue };
            match self.sites.judge_remembered(view, &report, key, host) {
                Worth::Counts => recall.found[from + at] = Some(self.sites.claims.made(&report, host)),
                Worth::Unusable => {}
                Worth::False => says_false = Some(*key),
            }
        }
        let Some(key) = says_false else {
            return Ok(());
        };
        if self.input.record.check.is_some() {
            let what = self.what(&key);
            self.quarantine(host, &what);
        } else {
            for (found, key) in recall.found.iter_mut().zip(&recall.keys) {
                let others = self.sites.claims.first(key).map(|claim| &claim.hosts);
                if others.is_some_and(|hosts| *hosts == [host]) {
                    *found = None;
                }
            }
            self.sites.shun(host);
        }
        Ok(())
    }

    /// What is remembered of all that was asked for, once it is known.
    pub(super) fn all_recalled(&mut self, view: View<'_>) -> Option<Vec<Option<PureReport>>> {
        loop {
            let recall = self.recall.as_ref()?;
            if !recall.waits.is_empty() {
                return None;
            }
            if recall.next == recall.keys.len() {
                return self.recall.take().map(|recall| recall.found);
            }
            self.ask_for_more(view);
        }
    }
}
