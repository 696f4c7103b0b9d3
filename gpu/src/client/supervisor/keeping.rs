//! The worker, kept: started when it is needed, asked, replaced when it is lost, and what is known of its memory told to others.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nearfield_protocol::Digest;

use super::super::State;
use super::super::owned::Owned;
use super::super::process::{Lost, Worker};
use super::{HeldWorker, Supervisor, Trouble};
use crate::resident::{NoRoom, Piece, Resident};
use crate::wire::{Description, Id, Reply, Request};
use crate::{GpuError, limits};

/// Ids that one message lets go of.
const DROPPED_AT_ONCE: usize = 4_096;

impl Supervisor {
    /// What adapter there is. A software adapter's worker is then ended: most nodes never need it.
    pub(super) fn look(&mut self) {
        if self.held().is_ok_and(|held| held.worker.description.software) {
            self.worker = None;
        }
        self.is_news = true;
        self.tell();
    }

    /// The worker, started if there is none. For the beginning of an ask alone: what an ask has taken of a worker is no other's.
    pub(super) fn held(&mut self) -> Result<&mut HeldWorker, GpuError> {
        if self.worker.as_mut().is_some_and(|held| held.worker.has_ended()) {
            self.lose("it ended");
        }
        if self.worker.is_none() {
            self.start()?;
        }
        self.current()
    }

    pub(super) fn start(&mut self) -> Result<(), GpuError> {
        if let Some((at, error)) = &self.failed
            && at.elapsed() < limits::RESTART_WAIT
        {
            return Err(error.clone());
        }
        self.generation += 1;
        let options = &self.options;
        let started = Worker::start(&options.worker, &options.choice, options.budget_bytes);
        let same = |worker: &Worker| {
            self.first
                .as_ref()
                .is_none_or(|first| **first == worker.description)
        };
        let worker = match started {
            Ok(worker) if same(&worker) => worker,
            Ok(worker) => return Err(self.absent(another(self.first.as_deref(), &worker.description))),
            Err(error) => return Err(self.absent(error)),
        };
        self.failed = None;
        self.look_again = limits::RESTART_WAIT;
        let description = self
            .first
            .get_or_insert_with(|| Arc::new(worker.description.clone()))
            .clone();
        let usual = match description.software {
            true => limits::SOFTWARE_MEMORY_BYTES,
            false => limits::HARDWARE_MEMORY_BYTES,
        };
        let budget_bytes = options.budget_bytes.unwrap_or(usual);
        self.shared.budget_bytes.store(budget_bytes, Ordering::Relaxed);
        self.worker = Some(HeldWorker {
            worker,
            resident: Resident::new(budget_bytes),
            owned: Owned::default(),
            pipelines: HashMap::new(),
            drop: Vec::new(),
            clock: 0,
        });
        if !matches!(*self.state.borrow(), State::Here(_)) {
            self.is_news = true;
            self.state.send_replace(State::Here(description));
        }
        Ok(())
    }

    /// There is no adapter, for now.
    pub(super) fn absent(&mut self, error: GpuError) -> GpuError {
        self.failed = Some((Instant::now(), error.clone()));
        self.is_news = true;
        self.state.send_replace(State::Absent(error.to_string().into()));
        error
    }

    /// The worker that this ask began with.
    pub(super) fn current(&mut self) -> Result<&mut HeldWorker, GpuError> {
        let lost = || GpuError::DeviceLost("the GPU's worker was lost".to_owned());
        self.worker.as_mut().ok_or_else(lost)
    }

    /// Ends a worker that is of no more use, and starts the next one, since others wait.
    pub(super) fn lose(&mut self, why: &str) {
        let begun = Instant::now();
        self.worker = None;
        self.is_news = true;
        self.shared.restarts.fetch_add(1, Ordering::Relaxed);
        let mut started = self.start();
        if started.is_err() && begun.elapsed() < limits::RESTART_WAIT {
            // Whatever ended the last one may have ended this one before it was ready.
            self.failed = None;
            started = self.start();
        }
        match started {
            Ok(()) => tracing::warn!(
                why,
                recovery_ms = begun.elapsed().as_millis() as u64,
                "the GPU's worker was started anew"
            ),
            Err(error) => tracing::error!(why, %error, "the GPU's worker is gone"),
        }
    }

    /// Notes what was dropped since.
    pub(super) fn note_dropped(&mut self) {
        let dropped = std::mem::take(&mut *self.shared.dropped.lock());
        let Some(held) = &mut self.worker else { return };
        dropped.into_iter().for_each(|buffer| held.free(buffer));
    }

    /// Has the worker let go of what nobody needs, when it is asked nothing else.
    pub(super) fn let_go(&mut self) {
        if self.worker.as_ref().is_some_and(|held| !held.drop.is_empty()) {
            // Without an answer the worker is another one, which has none of it.
            let _ = self.ask(Request::LetGo, None, limits::UPLOAD_TIME);
        }
    }

    /// Tells the others what is in GPU memory.
    pub(super) fn tell(&mut self) {
        let resident = self.worker.as_ref().map(|held| &held.resident);
        let bytes = resident.map_or(0, Resident::held_bytes);
        self.shared.resident_bytes.store(bytes, Ordering::Relaxed);
        if std::mem::take(&mut self.is_news) {
            let pieces: HashSet<Piece> = resident.into_iter().flat_map(Resident::pieces).collect();
            let blobs: HashSet<Digest> = pieces.iter().map(|piece| piece.digest).collect();
            *self.shared.pieces.lock() = Arc::new(pieces);
            self.shared.residents.send_replace(Arc::new(blobs));
        }
    }

    pub(super) fn next_id(&mut self) -> Id {
        self.last_id += 1;
        self.last_id
    }

    /// Asks the worker. Without an answer the worker is another one.
    pub(super) fn ask(
        &mut self,
        request: Request,
        file: Option<&File>,
        timeout: Duration,
    ) -> Result<Reply, Trouble> {
        let begun = Instant::now();
        let held = self.current()?;
        // Far too many at once would be more than a message holds.
        let mut dropped = std::mem::take(&mut held.drop);
        let mut lost = None;
        while dropped.len() > DROPPED_AT_ONCE && lost.is_none() {
            let some = dropped.split_off(dropped.len() - DROPPED_AT_ONCE);
            lost = held
                .worker
                .ask(some, Request::LetGo, None, limits::UPLOAD_TIME)
                .err();
        }
        let answer = match lost {
            Some(lost) => Err(lost),
            None => held.worker.ask(
                dropped,
                request,
                file.map(AsFd::as_fd),
                timeout.max(limits::GRACE),
            ),
        };
        let late = || {
            GpuError::Timeout(format!(
                "the GPU worked on this for more than {} ms and was stopped",
                timeout.as_millis()
            ))
        };
        match answer {
            // wgpu does not go on after that.
            Ok(Reply::Failed(error @ GpuError::DeviceLost(_))) => {
                self.lose("its device was lost");
                Err(Trouble::Ended(error))
            }
            // It was spared, since it needed little more; its caller was to have an answer before.
            Ok(_) if begun.elapsed() > timeout => Err(late().into()),
            Ok(Reply::Failed(error)) => Err(error.into()),
            Ok(reply) => Ok(reply),
            Err(Lost::TooLong) => Err(GpuError::Quota("the submission is too long".to_owned()).into()),
            Err(Lost::Late) => {
                self.lose("it took too long");
                Err(Trouble::Late(late()))
            }
            Err(Lost::Ended(error)) => {
                self.lose("it ended");
                let text = format!("the GPU's worker was lost over this: {error}");
                Err(Trouble::Ended(GpuError::DeviceLost(text)))
            }
        }
    }

    /// Takes room in GPU memory.
    pub(super) fn claim(&mut self, bytes: u64) -> Result<(), GpuError> {
        let held = self.current()?;
        let gone = held
            .resident
            .claim(bytes)
            .map_err(|NoRoom { wanted, free, budget }| {
                let text =
                    format!("{wanted} bytes of GPU memory are wanted, {free} of {budget} are not in use");
                match wanted > budget {
                    true => GpuError::Quota(text),
                    // Others will let go of theirs.
                    false => GpuError::Unavailable(text),
                }
            })?;
        self.is_news |= !gone.is_empty();
        self.current()?.drop.extend(gone);
        Ok(())
    }
}

fn another(first: Option<&Description>, found: &Description) -> GpuError {
    let first = first.map_or("", |first| first.name.as_str());
    GpuError::Unavailable(format!(
        "{first} is not there any more, or is another than before; there is {} ({})",
        found.name, found.driver
    ))
}
