//! Results on their way to the host of a run that is over them: from holder after holder, several at once, until all are there.

use std::time::Duration;

use nearfield_protocol::job::PureReport;
use nearfield_protocol::{NodeId, Problem};

use super::action::{Action, Ticket};
use super::claims::Worth;
use super::restart::{Leave, Restart};
use super::sites::View;
use super::state::Engine;
use super::tasks::{Moving, RunId, Stage, Task};

/// Results that are brought to the host of one run at once: enough that hosts far apart are not waited for once for each.
const MOVED_AT_ONCE: usize = 8;

impl Engine {
    /// Asks the next holders of the next results that are missing, or runs if none is.
    pub(super) fn bring(&mut self, id: RunId, view: View<'_>, now: Duration) -> Result<(), Leave> {
        let trusted = self.is_still_trusted(view);
        loop {
            let ticket = self.ticket();
            let Some(run) = self.runs.get_mut(&id) else {
                return Ok(());
            };
            let Stage::Brings(bringing) = &mut run.stage else {
                return Ok(());
            };
            if bringing.under_way.len() >= MOVED_AT_ONCE {
                return Ok(());
            }
            let Some(mut part) = bringing.missing.pop_front() else {
                if bringing.under_way.is_empty() {
                    let host = bringing.host;
                    self.run_on(id, host, now);
                }
                return Ok(());
            };
            let holder = trusted.and_then(|()| part.holders.pop_front().ok_or(Restart::PartsLost));
            let from = match holder {
                Ok(holder) => holder,
                Err(why) => return self.cannot_begin(id, why, view, now),
            };
            let key = part.key;
            let taken = None;
            bringing.under_way.insert(ticket, Moving { part, from, taken });
            self.tickets.insert(ticket, id);
            self.actions.push(Action::Take {
                ticket,
                host: from,
                key,
            });
        }
    }

    /// Stops all results that are on their way to a run's host. Returns the host, if results were to come there.
    pub(super) fn stop_bringing(&mut self, id: RunId) -> Option<NodeId> {
        let run = self.runs.get_mut(&id)?;
        let Stage::Brings(bringing) = &mut run.stage else {
            return None;
        };
        let host = bringing.host;
        for ticket in std::mem::take(&mut bringing.under_way).into_keys() {
            self.tickets.remove(&ticket);
            self.actions.push(Action::Stop(ticket));
        }
        run.stage = Stage::Idle;
        Some(host)
    }

    /// What a run is over cannot be brought to its host.
    pub(super) fn cannot_begin(
        &mut self,
        id: RunId,
        why: Restart,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(host) = self.stop_bringing(id) else {
            return Ok(());
        };
        match self.runs.get(&id).map(|run| &run.task) {
            Some(Task::Check(check)) => {
                tracing::warn!(run = %check.what, host = host.short(), ?why, "what a run is over cannot be brought there");
                self.sites.release(&host);
                self.checked_on(id, host, None, view, now)
            }
            _ => Err(why.into()),
        }
    }

    /// A holder gave a result, or did not.
    pub(super) fn taken(
        &mut self,
        id: RunId,
        ticket: Ticket,
        given: Result<Option<(PureReport, u64)>, Problem>,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        let Stage::Brings(bringing) = &mut run.stage else {
            return Ok(());
        };
        let host = bringing.host;
        let Some(moving) = bringing.under_way.get_mut(&ticket) else {
            return Ok(());
        };
        let (key, from) = (moving.part.key, moving.from);
        match given {
            Ok(Some((report, bytes))) => match self.sites.judge(view, &report, &key, from) {
                // The host may have replaced the result that it said it remembers.
                Worth::Counts if report.made.is_some() && self.sites.claims.is_first(&report) => {
                    moving.taken = Some((report, bytes));
                    self.actions.push(Action::Give { ticket, host });
                    return Ok(());
                }
                Worth::False if self.input.record.check.is_some() => {
                    let what = self.what(&key);
                    self.quarantine(from, &what);
                    return Ok(());
                }
                Worth::False => self.sites.shun(from),
                Worth::Counts | Worth::Unusable => {}
            },
            Ok(None) => {}
            Err(problem) => {
                tracing::warn!(host = from.short(), %problem, "a host does not give a partial result that it remembers");
                self.sites.failed_to_give(from, &key, &problem);
            }
        }
        // Somebody else may have it.
        if let Some(moving) = bringing.under_way.remove(&ticket) {
            bringing.missing.push_front(moving.part);
        }
        self.tickets.remove(&ticket);
        self.actions.push(Action::Stop(ticket));
        self.bring(id, view, now)
    }

    /// A run's host remembers what was brought, or does not.
    pub(super) fn given(
        &mut self,
        id: RunId,
        ticket: Ticket,
        given: Result<(), Problem>,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        let Stage::Brings(bringing) = &mut run.stage else {
            return Ok(());
        };
        let Some(moving) = bringing.under_way.remove(&ticket) else {
            return Ok(());
        };
        let problem = match given {
            Ok(()) => {
                if let Some((report, bytes)) = moving.taken {
                    self.partial_bytes_moved += bytes;
                    self.sites.claims.made(&report, bringing.host);
                }
                return self.bring(id, view, now);
            }
            Err(problem) => problem,
        };
        let Some(host) = self.stop_bringing(id) else {
            return Ok(());
        };
        match self.runs.get(&id).map(|run| &run.task) {
            Some(Task::Check(check)) => {
                tracing::warn!(run = %check.what, host = host.short(), %problem, "a run cannot be checked there");
                self.sites.release(&host);
                self.checked_on(id, host, None, view, now)
            }
            _ => self.ended_on(id, host, Err(problem.into()), view, now),
        }
    }
}
