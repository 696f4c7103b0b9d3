//! `--into`: the files that a job's runs wrote are read from who made each result, and put as one dataset. Of those that
//! remember a result, only its makers have its files.

use std::collections::BTreeMap;
use std::time::Duration;

use nearfield_protocol::job::PureReport;
use nearfield_protocol::{Digest, Problem};

use super::action::{Action, Ticket};
use super::restart::{Leave, Restart};
use super::sites::View;
use super::state::{Engine, Phase};
use super::tasks::{Files, Wanted};
use crate::record::WrittenDataset;

/// Runs whose files are read at once: enough that a host far away is not waited for once for each.
const AT_ONCE: usize = 8;

impl Engine {
    /// Who has the results is known.
    pub(super) fn begin_files(&mut self, found: &[Option<PureReport>]) -> Result<(), Leave> {
        let reports: Option<Vec<PureReport>> = found.iter().copied().collect();
        let reports = reports.ok_or(Restart::FilesLost)?;
        let wrote = reports.into_iter().filter(|report| report.written_files > 0);
        self.phase = Phase::Files(Files {
            left: wrote
                .map(|report| Wanted {
                    report,
                    tried: Vec::new(),
                })
                .collect(),
            asked: BTreeMap::new(),
            read: Vec::new(),
            puts: None,
        });
        Ok(())
    }

    /// Asks the next maker for the next files, or puts all.
    pub(super) fn next_files(&mut self, view: View<'_>) -> Result<bool, Leave> {
        let trusted = self.is_still_trusted(view);
        let ticket = self.ticket();
        let Phase::Files(files) = &mut self.phase else {
            return Ok(false);
        };
        if files.asked.len() >= AT_ONCE || files.puts.is_some() {
            return Ok(false);
        }
        let Some(wanted) = files.left.pop_front() else {
            if files.asked.is_empty() {
                trusted?;
                files.puts = Some(ticket);
                let keys = files.read.clone();
                self.actions.push(Action::Put { ticket, keys });
            }
            return Ok(false);
        };
        let key = wanted.report.key;
        let mut makers = self.sites.makers(view, &key).into_iter();
        let maker = makers.find(|maker| !wanted.tried.contains(maker));
        // They are written again.
        let host = maker.ok_or(Restart::FilesLost)?;
        files.asked.insert(ticket, (host, wanted));
        self.actions.push(Action::Files { ticket, host, key });
        Ok(true)
    }

    pub(super) fn got_files(
        &mut self,
        ticket: Ticket,
        got: Result<Option<Digest>, Problem>,
    ) -> Result<(), Leave> {
        let Phase::Files(files) = &mut self.phase else {
            return Ok(());
        };
        let Some((host, mut wanted)) = files.asked.remove(&ticket) else {
            return Ok(());
        };
        let PureReport { key, written, .. } = wanted.report;
        match got {
            Ok(Some(digest)) if digest == written => {
                files.read.push(key);
                return Ok(());
            }
            Ok(given) => {
                tracing::error!(
                    host = host.short(),
                    result = key.0.short(),
                    "a host has not the files that it says it wrote"
                );
                // They may have been evicted meanwhile, once.
                if !self.without_files.insert((key, host)) || given.is_some() {
                    self.sites.shun(host);
                }
            }
            Err(problem) => {
                tracing::warn!(host = host.short(), %problem, "files that a host wrote cannot be had");
                self.sites.failed_to_give(host, &key, &problem);
            }
        }
        wanted.tried.push(host);
        files.left.push_back(wanted);
        Ok(())
    }

    /// What was written is a dataset now.
    pub(super) fn put(
        &mut self,
        ticket: Ticket,
        put: Result<WrittenDataset, Problem>,
        now: Duration,
    ) -> Result<(), Leave> {
        match &self.phase {
            Phase::Files(files) if files.puts == Some(ticket) => {
                self.into = Some(put?);
                self.end(now);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
