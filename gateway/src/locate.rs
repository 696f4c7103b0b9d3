//! Where what a request asks for lies: the shard that a manifest's `locate` names.

use std::collections::BTreeMap;

use http::HeaderName;
use nearfield_cluster::Cluster;
use nearfield_protocol::manifest::{Locate, Sought, Template};
use nearfield_protocol::{Digest, Problem, ProblemKind};

/// What fills the holes of a `locate`.
pub struct Filling<'a> {
    /// The path below the route, decoded.
    pub rest: &'a str,
    pub query: &'a str,
    pub parameters: &'a [(String, HeaderName)],
    /// Of each parameter, decoded.
    pub values: &'a [String],
}

impl Filling<'_> {
    fn fill(&self, template: &Template) -> Option<String> {
        let query = |name: &str| {
            form_urlencoded::parse(self.query.as_bytes())
                .find(|(key, _)| key == name)
                .map(|(_, value)| value)
        };
        let parameter = |name: &str| {
            let mut told = self.parameters.iter().zip(self.values);
            let (_, value) = told.find(|((known, _), _)| known.eq_ignore_ascii_case(name))?;
            Some(value.as_str().into())
        };
        template.fill(self.rest, query, parameter)
    }
}

/// The shard that the manifest's `locate` names for this request. A path or key that is not there is no
/// error here: the function decides what to answer.
pub async fn locate_shard(
    cluster: &Cluster,
    locate: &Locate,
    inputs: &BTreeMap<String, Digest>,
    filling: &Filling<'_>,
) -> Result<Located, Problem> {
    let digest = inputs.get(&locate.input).ok_or_else(|| {
        Problem::new(
            ProblemKind::BadManifest,
            format!("locate names `{}`, which is no input", locate.input),
        )
    })?;
    let dataset = cluster.dataset(digest).await?;
    let shard = match locate.sought() {
        Some(Sought::Path(path)) => filling
            .fill(path)
            .and_then(|path| dataset.locate(&path))
            .map(|at| at.shard),
        Some(Sought::Key(key)) => filling
            .fill(key)
            .and_then(|key| dataset.meta.key.as_ref()?.shard_of(key.as_bytes())),
        None => None,
    };
    let shard = shard.and_then(|index| dataset.shard(index));
    Ok(match shard {
        Some((meta, shard)) => Located {
            blob: shard,
            size_bytes: meta.size_bytes,
        },
        None => Located {
            blob: *digest,
            size_bytes: 0,
        },
    })
}

/// What `locate` came to.
pub struct Located {
    /// A shard, or the dataset's list of them where it has no such path or key.
    pub blob: Digest,
    pub size_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holes_of_a_locate_are_filled_from_the_request() {
        let parameters = [("id".to_owned(), HeaderName::from_static("nearfield-param-id"))];
        let values = ["a b".to_owned()];
        let filling = Filling {
            rest: "2024/x.csv",
            query: "day=7%2F1&day=8",
            parameters: &parameters,
            values: &values,
        };
        for (template, filled) in [
            ("{rest}", Some("2024/x.csv")),
            ("logs/{query.day}.txt", Some("logs/7/1.txt")),
            ("{id}", Some("a b")),
            ("{ID}", Some("a b")),
            ("{query.none}", None),
        ] {
            let template = Template::try_from(template.to_owned()).unwrap();
            assert_eq!(filling.fill(&template).as_deref(), filled, "{template:?}");
        }
    }
}
