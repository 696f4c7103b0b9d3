//! Puts whose bytes may not rest on the node that was asked: they stream through it to one that may keep them.
//!
//! The request goes on as it came, as HTTP/1.1 on a stream of its own. The other node cuts, sorts and seals as it would for
//! a client of its own, so no piece of the data, however small, touches this node's disk. It has the version written down by
//! the gateway that it serves, which grants it this one put.

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use iroh::endpoint::{RecvStream, SendStream};
use nearfield_protocol::node::Label;
use nearfield_protocol::{DatasetName, Digest, NodeId, Problem, ProblemKind};

use super::client::{Driver, handshake, open};
use super::message::Op;
use crate::body::Body;
use crate::cluster::Cluster;
use crate::place::table::{HostEntry, HostTable};
use crate::place::{Ask, best};
use crate::problem::{lost, unreachable};

/// Hosts that are tried before the first byte of a put is sent.
const TRIED: usize = 4;

/// A put on its way to another node.
pub struct Forwarded<'a> {
    pub name: &'a DatasetName,
    /// Labels of those that may keep it.
    pub only: &'a [Label],
    /// As the admin API takes them. `only` goes in place of any that stand here: the other node may know less of the dataset.
    pub parameters: Vec<(String, String)>,
    /// Content types that the client takes.
    pub accept: Option<HeaderValue>,
}

impl Forwarded<'_> {
    fn path(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.parameters.iter().filter(|(key, _)| key != "only"));
        query.extend_pairs(self.only.iter().map(|label| ("only", label.to_string())));
        let name =
            percent_encoding::utf8_percent_encode(self.name.as_str(), percent_encoding::NON_ALPHANUMERIC);
        format!("/v1/datasets/{name}?{}", query.finish())
    }
}

/// The hosts that may keep what is put, in the order in which they are asked. The same one takes what the same dataset grows
/// by, as long as it is there: it has what the rest follows.
fn takers(name: &DatasetName, only: &[Label], table: &HostTable) -> Vec<NodeId> {
    let key = Digest::of(name.as_str().as_bytes());
    let ask = Ask {
        key,
        component: key,
        component_bytes: 0,
        located: None,
        needs: &[],
        only,
        gpu: None,
    };
    let takes = |slot| table.get(slot).is_some_and(HostEntry::has_room);
    let slots = best(&ask, table, TRIED, takes);
    let ids = slots.into_iter().filter_map(|slot| Some(table.get(slot)?.id));
    ids.collect()
}

/// Has a node take a put that may keep it, and gives its answer.
pub async fn forward(cluster: &Cluster, put: Forwarded<'_>, body: Body) -> Result<Response<Body>, Problem> {
    let catalog = &cluster.catalog;
    let takers = {
        let table = cluster.hosts.table();
        takers(put.name, put.only, &table)
    };
    // What the other node has not heard of yet, it waits for: what is put may follow it.
    let op = Op::Put {
        name: put.name.clone(),
        newest: catalog.newest_number(put.name),
    };
    let mut failed = None;
    for host in takers {
        match open(catalog.node.peers(), host, &op).await {
            Ok(stream) => {
                let granted = catalog.grant(host, put.name.clone());
                let (response, driver) = send(stream, &put, body).await?;
                return Ok(response.map(|incoming| {
                    let failed = move |error: hyper::Error| {
                        // The put may be under way until its answer has ended.
                        let _ = (&granted, &driver);
                        lost(error)
                    };
                    incoming.map_err(failed).boxed_unsync()
                }));
            }
            Err(problem) => {
                tracing::warn!(host = host.short(), %problem, "a put goes to another host");
                cluster.hosts.missed(&host);
                failed = Some(problem);
            }
        }
    }
    Err(failed.unwrap_or_else(|| catalog.may_not_keep(put.name, put.only)))
}

/// Sends a put. Dropped, the driver ends it.
async fn send(
    stream: (SendStream, RecvStream),
    put: &Forwarded<'_>,
    body: Body,
) -> Result<(Response<Incoming>, Driver), Problem> {
    let (mut sender, driver) = handshake(stream).await?;
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = put.path().parse().map_err(|error| {
        let text = format!("the put's parameters do not form a path: {error}");
        Problem::new(ProblemKind::BadRequest, text)
    })?;
    if let Some(accept) = &put.accept {
        request.headers_mut().insert(ACCEPT, accept.clone());
    }
    let response = sender.send_request(request).await.map_err(lost)?;
    Ok((response, driver))
}

/// What a node put for this one answered, whole.
pub async fn answered(response: Response<Body>, max_bytes: usize) -> Result<Bytes, Problem> {
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), max_bytes);
    let bytes = body.collect().await.map_err(|error| lost(&*error))?.to_bytes();
    if status.is_success() {
        return Ok(bytes);
    }
    let told = serde_json::from_slice(&bytes);
    Err(told.unwrap_or_else(|_| unreachable(format!("the host answered with {status}"))))
}

/// The content types that the client of `headers` takes, to be passed on.
pub fn accepted(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ACCEPT).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_this_node_knows_goes_with_the_put() {
        let name: DatasetName = "logs/web".parse().unwrap();
        let only = ["region=eu".parse().unwrap(), "tier=1".parse().unwrap()];
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let put = Forwarded {
            name: &name,
            only: &only,
            parameters: vec![
                pair("source", "a b&c"),
                pair("only", "region=us"),
                pair("append", "true"),
            ],
            accept: None,
        };
        assert_eq!(
            put.path(),
            "/v1/datasets/logs%2Fweb?source=a+b%26c&append=true&only=region%3Deu&only=tier%3D1"
        );
    }
}
