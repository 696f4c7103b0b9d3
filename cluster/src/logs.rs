//! The lines that guests printed, on whichever hosts they ran.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{SelectAll, poll_fn};
use nearfield_protocol::{NodeId, Problem};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::host::{LogQuery, Logged};

/// Lines that may wait for a slow reader.
const LINES: usize = 256;
/// How long hosts may take to give past lines. What came until then is shown.
const PAST: Duration = Duration::from_secs(10);

/// What `query` asks for, of all hosts together: the past in the order of its times, then what comes.
pub async fn everywhere(cluster: &Cluster, query: LogQuery) -> Result<mpsc::Receiver<Logged>, Problem> {
    if let Some(host) = cluster.hosts.alone() {
        return cluster.dispatch.to(host).logs(query).await;
    }
    let hosts: Vec<NodeId> = {
        let table = cluster.hosts.table();
        table
            .iter()
            .filter(|(_, host)| host.there)
            .map(|(_, host)| host.id)
            .collect()
    };
    // Following starts before the past is read, so that no line falls between.
    let coming = match query.follow {
        true => {
            ask(
                cluster,
                &hosts,
                &LogQuery {
                    lines: 0,
                    ..query.clone()
                },
            )
            .await
        }
        false => Vec::new(),
    };
    let past_query = LogQuery {
        follow: false,
        ..query.clone()
    };
    // The hosts are read at once, since each may be slow. Of all their lines the newest that were asked for are kept.
    let mut past = BTreeMap::new();
    let mut coming_past = SelectAll::new();
    for (host, mut lines) in ask(cluster, &hosts, &past_query).await.into_iter().enumerate() {
        // A host that tells more than it was asked for is not listened to.
        let lines = poll_fn(move |context| lines.poll_recv(context));
        let lines = lines.take(query.lines).enumerate();
        coming_past.push(lines.map(move |(at, line)| ((line.unix_ms, host, at), line)));
    }
    let until = Instant::now() + PAST;
    while let Ok(Some((at, line))) = timeout_at(until, coming_past.next()).await {
        past.insert(at, line);
        if past.len() > query.lines {
            past.pop_first();
        }
    }
    let past: Vec<Logged> = past.into_values().collect();
    let (send, received) = mpsc::channel(LINES);
    tokio::spawn(async move {
        let known: HashSet<(u64, String, String)> = past.iter().map(named).collect();
        for line in past {
            if send.send(line).await.is_err() {
                return;
            }
        }
        let forwarding = coming.into_iter().map(|mut lines| {
            let (send, known) = (send.clone(), &known);
            async move {
                loop {
                    let line = tokio::select! {
                        line = lines.recv() => line,
                        () = send.closed() => return,
                    };
                    let Some(line) = line else { return };
                    if !known.contains(&named(&line)) && send.send(line).await.is_err() {
                        return;
                    }
                }
            }
        });
        join_all(forwarding).await;
    });
    Ok(received)
}

fn named(line: &Logged) -> (u64, String, String) {
    (line.unix_ms, line.call.clone(), line.line.clone())
}

async fn ask(cluster: &Cluster, hosts: &[NodeId], query: &LogQuery) -> Vec<mpsc::Receiver<Logged>> {
    let asked = hosts.iter().map(|host| async move {
        match cluster.dispatch.to(*host).logs(query.clone()).await {
            Ok(lines) => Some(lines),
            Err(problem) => {
                tracing::warn!(host = host.short(), %problem, "a host does not give its lines");
                None
            }
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}
