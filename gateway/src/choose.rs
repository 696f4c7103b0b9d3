//! Which hosts a call may run on, the best first.

use std::collections::BTreeMap;

use nearfield_cluster::Cluster;
use nearfield_cluster::place::table::HostEntry;
use nearfield_cluster::place::{self, Ask, Candidate, Need, Standing};
use nearfield_net::Records;
use nearfield_protocol::gpu::GpuKind;
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};

use crate::calls::CallPlacement;
use crate::locate::Located;
use crate::route::Served;

/// Why nobody takes a call.
pub fn nobody(cluster: &Cluster, placement: &CallPlacement, required: Option<GpuKind>) -> Problem {
    let has =
        |host: &HostEntry, kind: GpuKind| host.load.gpu.as_ref().is_some_and(|gpu| kind.takes(gpu.kind));
    if let Some(kind) = required
        && !cluster.hosts.table().iter().any(|(_, host)| has(host, kind))
    {
        let (what, next) = match kind {
            GpuKind::Any => ("GPU", "`nearfield doctor` tells what a host lacks"),
            GpuKind::Hardware => (
                "GPU that is hardware",
                "a function that requires `gpu = \"any\"` runs on the software adapter, too",
            ),
        };
        return Problem::new(ProblemKind::NoGpu, format!("no host has a {what} now; {next}"));
    }
    let reason = placement
        .candidates
        .first()
        .map(|candidate| candidate.standing.to_string());
    Problem::new(
        ProblemKind::Overload,
        match reason {
            Some(reason) => format!("no host takes this call now; the nearest one {reason}"),
            None => "no host takes calls now: none is there".to_owned(),
        },
    )
}

/// Where there is but one host.
pub fn only(
    cluster: &Cluster,
    host: NodeId,
    located: Option<&Located>,
    inputs: &BTreeMap<String, Digest>,
) -> CallPlacement {
    let store = &cluster.catalog.store;
    CallPlacement {
        candidates: vec![Candidate {
            host,
            standing: Standing::Costs {
                ms: 0,
                missing_bytes: 0,
                upload_bytes: None,
            },
        }],
        inputs: inputs.len(),
        local: inputs.values().filter(|digest| store.has(digest)).count(),
        moved_bytes: 0,
        located: located.map(|located| located.blob),
    }
}

/// Asks placement with what this gateway knows of the hosts.
pub async fn choose(
    cluster: &Cluster,
    records: &Records,
    served: &Served,
    located: Option<&Located>,
    inputs: &BTreeMap<String, Digest>,
) -> Result<CallPlacement, Problem> {
    let (store, function) = (&cluster.catalog.store, &served.function);
    let located_in = function.manifest.locate.as_ref().map(|locate| &locate.input);
    let mut spreads = Vec::new();
    for (name, digest) in inputs {
        // Of the input that is looked into, only what was found is needed.
        if located.is_none() || Some(name) != located_in {
            let dataset = cluster.dataset(digest).await?;
            let resident = match function.manifest.require.gpu {
                Some(_) => cluster.hosts.resident(&dataset),
                None => Default::default(),
            };
            spreads.push((dataset.meta.size_bytes, cluster.hosts.spread(&dataset), resident));
        }
    }
    let mut needs: Vec<Need<'_>> = spreads
        .iter()
        .map(|(size_bytes, held, resident)| Need::Spread {
            size_bytes: *size_bytes,
            held,
            resident,
        })
        .collect();
    needs.extend(located.map(|located| Need::Blob {
        digest: located.blob,
        size_bytes: located.size_bytes,
    }));
    let only: Vec<_> = inputs.values().flat_map(|input| records.rule_of(input)).collect();
    let ask = Ask {
        key: located.map_or(function.component, |located| located.blob),
        component: function.component,
        component_bytes: store.size_of(&function.component).unwrap_or_default(),
        located: located
            .filter(|located| located.size_bytes > 0)
            .map(|located| located.blob),
        needs: &needs,
        only: &only,
        gpu: function.manifest.require.gpu,
    };
    let table = cluster.hosts.table();
    let candidates = place::place(&ask, &table);
    let (local, moved_bytes) = match candidates
        .first()
        .map(|best| (table.slot(&best.host), &best.standing))
    {
        Some((Some(slot), Standing::Costs { missing_bytes, .. })) => {
            let missing = |need: &&Need<'_>| need.missing_bytes(&table, slot) == 0;
            (needs.iter().filter(missing).count(), *missing_bytes)
        }
        _ => (0, 0),
    };
    drop(table);
    Ok(CallPlacement {
        candidates,
        inputs: inputs.len(),
        local,
        moved_bytes,
        located: located.map(|located| located.blob),
    })
}
