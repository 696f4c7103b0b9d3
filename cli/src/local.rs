//! Dispatch to the host in this same process.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use nearfield_gateway::{Body, Boxed, Dispatch, Logged, Surface};
use nearfield_host::{Host, LogLine};
use nearfield_protocol::call::{CallSpec, OnReport};
use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey};
use nearfield_protocol::{Digest, FunctionName, NodeId, Problem, ProblemKind};
use tokio::sync::{broadcast, mpsc};

/// Log lines that may wait for a slow reader.
const LOG_LINES: usize = 256;

/// This node's own host.
pub struct LocalHost {
    pub id: NodeId,
    pub host: Host,
}

impl Dispatch for LocalHost {
    fn call(
        &self,
        host: NodeId,
        spec: CallSpec,
        request: Request<Body>,
        report: OnReport,
    ) -> Boxed<'_, Result<Response<Body>, Problem>> {
        debug_assert_eq!(host, self.id, "placement knows this host alone");
        Box::pin(async move {
            let response = self.host.call(spec, request, report).await?;
            Ok(response.map(|body| body.boxed_unsync()))
        })
    }

    fn check(&self, _host: NodeId, component: Digest) -> Boxed<'_, Result<Surface, Problem>> {
        Box::pin(async move {
            let inspection = self.host.check(component).await?;
            Ok(Surface {
                imports: inspection.imports,
                exports: inspection.exports,
            })
        })
    }

    fn run_pure(&self, _host: NodeId, spec: PureSpec) -> Boxed<'_, Result<PureReport, PureFailure>> {
        Box::pin(self.host.run_pure(spec))
    }

    fn recall<'a>(
        &'a self,
        _host: NodeId,
        key: ResultKey,
        origins: &'a [String],
    ) -> Boxed<'a, Result<Option<PureReport>, Problem>> {
        Box::pin(async move { self.host.recall(&key, origins).await })
    }

    fn output(&self, _host: NodeId, key: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>> {
        Box::pin(async move { self.host.output(&key).await })
    }

    fn written(&self, _host: NodeId, key: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>> {
        Box::pin(async move { self.host.written(&key).await })
    }

    fn logs(
        &self,
        _host: NodeId,
        function: FunctionName,
        lines: usize,
        follow: bool,
    ) -> Result<mpsc::Receiver<Logged>, Problem> {
        let logs = self.host.logs().clone();
        // Following starts before the past is read, so that no line falls between.
        let coming = follow.then(|| logs.follow());
        let past = logs.tail(&function, lines).map_err(|error| {
            Problem::new(
                ProblemKind::Internal,
                format!("reading the log of `{function}`: {error}"),
            )
        })?;
        let (send, received) = mpsc::channel(LOG_LINES);
        tokio::spawn(async move {
            let last = past.last().cloned();
            for line in past {
                if send.send(logged(line)).await.is_err() {
                    return;
                }
            }
            if let Some(coming) = coming {
                forward(coming, function, last, send).await;
            }
        });
        Ok(received)
    }
}

/// Passes on a function's lines as they come, until nobody listens.
async fn forward(
    mut coming: broadcast::Receiver<LogLine>,
    function: FunctionName,
    last: Option<LogLine>,
    send: mpsc::Sender<Logged>,
) {
    loop {
        let line = tokio::select! {
            line = coming.recv() => line,
            () = send.closed() => return,
        };
        match line {
            Ok(line) if line.function == function.as_str() && Some(&line) != last.as_ref() => {
                if send.send(logged(line)).await.is_err() {
                    return;
                }
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn logged(line: LogLine) -> Logged {
    Logged {
        unix_ms: line.unix_ms,
        function: line.function,
        call: line.call,
        line: line.line,
    }
}
