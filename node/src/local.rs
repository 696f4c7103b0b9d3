//! The handle of the host in this same process.

use std::collections::HashSet;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use nearfield_cluster::body::Body;
use nearfield_cluster::host::{Boxed, Given, Host, LogQuery, Logged, Replayed, RunOf, Runs, Surface};
use nearfield_host::{LogLine, Logs};
use nearfield_net::Identity;
use nearfield_protocol::call::{CallSpec, OnReport};
use nearfield_protocol::job::{Made, PureFailure, PureReport, PureSpec, ResultKey, Signature};
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};
use tokio::sync::{broadcast, mpsc};

/// Log lines that may wait for a slow reader.
const LOG_LINES: usize = 256;

/// This node's own host.
pub struct LocalHost {
    pub id: NodeId,
    pub host: nearfield_host::Host,
    /// Vouches for what the host made.
    pub identity: Identity,
}

impl Host for LocalHost {
    fn call(
        &self,
        spec: CallSpec,
        request: Request<Body>,
        report: OnReport,
    ) -> Boxed<'_, Result<Response<Body>, Problem>> {
        Box::pin(async move {
            let response = self.host.call(spec, request, report).await?;
            Ok(response.map(|body| body.boxed_unsync()))
        })
    }

    fn check(&self, component: Digest) -> Boxed<'_, Result<Surface, Problem>> {
        Box::pin(async move {
            let checked = self.host.check(component).await?;
            Ok(Surface {
                imports: checked.inspection.imports,
                exports: checked.inspection.exports,
                code_bytes: checked.inspection.code_bytes,
                compiled_in_ms: checked.compiled_in.map(|took| took.as_millis() as u64),
            }
            .cut())
        })
    }

    fn logs(&self, query: LogQuery) -> Boxed<'_, Result<mpsc::Receiver<Logged>, Problem>> {
        Box::pin(logs(self.host.logs().clone(), query))
    }
}

impl Runs for LocalHost {
    fn run_pure(&self, spec: PureSpec) -> Boxed<'_, Result<PureReport, PureFailure>> {
        Box::pin(self.host.run_pure(spec))
    }

    fn replay(&self, spec: PureSpec) -> Boxed<'_, Result<Replayed, Problem>> {
        Box::pin(async move {
            let replayed = self.host.replay(spec).await?;
            Ok(Replayed {
                outcome: replayed.outcome,
                remembered: replayed.remembered,
                log: replayed.log,
            })
        })
    }

    fn recall<'a>(
        &'a self,
        keys: &'a [ResultKey],
        origins: &'a [String],
    ) -> Boxed<'a, Result<Vec<Option<PureReport>>, Problem>> {
        Box::pin(async move {
            let mut found = Vec::with_capacity(keys.len());
            for key in keys {
                found.push(self.host.recall(key, origins).await?);
            }
            Ok(found)
        })
    }

    fn output(&self, key: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>> {
        Box::pin(async move { self.host.output(&key).await })
    }

    fn written(&self, key: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>> {
        Box::pin(async move { self.host.written(&key).await })
    }

    fn take(&self, key: ResultKey) -> Boxed<'_, Result<Option<Given>, Problem>> {
        Box::pin(async move {
            let mut report = self.host.recall(&key, &[]).await?;
            if let Some(report) = &mut report {
                let own = || Made {
                    by: self.id,
                    signature: Signature(self.identity.sign(report.claim().as_bytes())),
                };
                report.made = Some(report.made.unwrap_or_else(own));
            }
            let output = self.host.output(&key).await?;
            Ok(report
                .zip(output)
                .map(|(report, output)| Given { report, output }))
        })
    }

    fn give<'a>(&'a self, given: Given, origins: &'a [String]) -> Boxed<'a, Result<(), Problem>> {
        Box::pin(async move { self.host.remember(given.report, given.output, origins).await })
    }
}

async fn logs(logs: Logs, query: LogQuery) -> Result<mpsc::Receiver<Logged>, Problem> {
    // Following starts before the past is read, so that no line falls between.
    let coming = query.follow.then(|| logs.follow());
    let past = {
        let query = query.clone();
        let tail = move || logs.tail(&query.function, query.lines, |line| wanted(&query, line));
        tokio::task::spawn_blocking(tail).await
    };
    let past = past.map_err(std::io::Error::other).flatten().map_err(|error| {
        Problem::new(
            ProblemKind::Internal,
            format!("reading the log of `{}`: {error}", query.function),
        )
    })?;
    let (send, received) = mpsc::channel(LOG_LINES);
    tokio::spawn(async move {
        // Lines that came between the two are in both.
        let known: HashSet<LogLine> = past.iter().cloned().collect();
        for line in past {
            if send.send(logged(&query, line)).await.is_err() {
                return;
            }
        }
        if let Some(coming) = coming {
            forward(coming, query, known, send).await;
        }
    });
    Ok(received)
}

/// Passes on the lines that are asked for as they come, until nobody listens.
async fn forward(
    mut coming: broadcast::Receiver<LogLine>,
    query: LogQuery,
    known: HashSet<LogLine>,
    send: mpsc::Sender<Logged>,
) {
    loop {
        let line = tokio::select! {
            line = coming.recv() => line,
            () = send.closed() => return,
        };
        match line {
            Ok(line) if wanted(&query, &line) && !known.contains(&line) => {
                if send.send(logged(&query, line)).await.is_err() {
                    return;
                }
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn wanted(query: &LogQuery, line: &LogLine) -> bool {
    line.function == query.function.as_str() && (query.runs.is_none() || run_of(query, line).is_some())
}

/// What of a job the line's run is, if a job's lines are asked for.
fn run_of(query: &LogQuery, line: &LogLine) -> Option<RunOf> {
    query.runs.as_ref()?.get(&line.call.parse().ok()?).copied()
}

fn logged(query: &LogQuery, line: LogLine) -> Logged {
    Logged {
        run: run_of(query, &line).map(|run| run.to_string()),
        unix_ms: line.unix_ms,
        function: line.function,
        call: line.call,
        line: line.line,
    }
}
