//! What a job came to, wherever that is remembered.

use bytes::Bytes;
use futures_util::future::join_all;
use nearfield_cluster::Cluster;
use nearfield_net::vouches;
use nearfield_protocol::job::{PureReport, ResultKey};
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};

use crate::engine::{Terms, Worth};
use crate::record::{JobRecord, JobState};

/// A result and who remembers it, wherever that is.
pub async fn find(cluster: &Cluster, key: ResultKey) -> Result<Option<(NodeId, PureReport)>, Problem> {
    Ok(find_all(cluster, key).await?.into_iter().next())
}

/// All hosts that remember a result, and what they say of it.
async fn find_all(cluster: &Cluster, key: ResultKey) -> Result<Vec<(NodeId, PureReport)>, Problem> {
    let records = cluster.catalog.node.records();
    let usable = |host: &NodeId| {
        let member = records.node(host);
        member.is_some_and(|member| member.quarantined.is_none())
    };
    let hosts: Vec<NodeId> = {
        let table = cluster.hosts.table();
        let there = table.iter().filter(|(_, host)| host.there);
        there.map(|(_, host)| host.id).filter(usable).collect()
    };
    let asked = hosts.iter().map(|host| async move {
        cluster.catalog.see_forgotten(*host).await?;
        cluster.dispatch.to(*host).recall(&[key], &[]).await
    });
    let terms = Terms {
        max_fuel: u64::MAX,
        distrusted: records.distrusted().clone(),
        vouches,
    };
    let mut found = Vec::new();
    for (host, answer) in hosts.iter().zip(join_all(asked).await) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(problem) if hosts.len() > 1 => {
                tracing::warn!(host = host.short(), %problem, "a host does not say what it remembers");
                continue;
            }
            Err(problem) => return Err(problem),
        };
        if let Some(Some(report)) = answer.into_iter().next()
            && terms.judge(&report, &key, *host, &records) == Worth::Counts
        {
            found.push((*host, report));
        }
    }
    Ok(found)
}

/// What the job came to, as its function gave it: JSON from the SDK, any bytes from others.
pub async fn output(cluster: &Cluster, record: &JobRecord) -> Result<Bytes, Problem> {
    let JobState::Done(report) = &record.state else {
        return Err(Problem::new(
            ProblemKind::Conflict,
            format!("job {} has no output: it is not done", record.id),
        ));
    };
    let Some(key) = report.output_key else {
        return Ok(Bytes::from_static(b"null"));
    };
    let mut failed = Problem::new(
        ProblemKind::UnknownBlob,
        format!("the output of job {} was forgotten; run the job again", record.id),
    );
    // One host that is wrong, or gone since it answered, does not hide what others have.
    for (host, found) in find_all(cluster, key).await? {
        match output_of(cluster, host, &found, report.digest).await {
            Ok(Some(output)) => return Ok(output),
            Ok(None) => {}
            Err(problem) => {
                tracing::warn!(job = record.id, host = host.short(), %problem, "a host does not give a job's output");
                failed = problem;
            }
        }
    }
    Err(failed)
}

/// The output that one host remembers, if it still does; refused unless it has the digest that the job came to.
async fn output_of(
    cluster: &Cluster,
    host: NodeId,
    found: &PureReport,
    digest: Digest,
) -> Result<Option<Bytes>, Problem> {
    let output = match found.output == digest {
        true => cluster.dispatch.to(host).output(found.key).await?,
        false => None,
    };
    let is_other =
        found.output != digest || output.as_ref().is_some_and(|output| Digest::of(output) != digest);
    match is_other {
        false => Ok(output),
        true => Err(Problem::new(
            ProblemKind::Corrupt,
            format!(
                "host {} has other bytes than the job came to: `nearfield run … --check 100%` finds out who is wrong",
                host.short()
            ),
        )),
    }
}
