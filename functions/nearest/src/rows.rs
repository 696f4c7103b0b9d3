//! Where a shard's rows are in the whole dataset.

use std::collections::{HashMap, HashSet};

use nearfield::{Dataset, Result};

use crate::top::Tops;
use crate::{Found, name};

/// The first row of each shard, at all of its places: equal shards are one, and may be there more than once.
pub struct Rows(HashMap<String, Vec<u64>>);

impl Rows {
    pub fn of(vectors: &Dataset, dim: u64) -> Result<Self> {
        let (mut places, mut first) = (HashMap::<String, Vec<u64>>::new(), 0);
        for shard in vectors.shards() {
            let shard = shard?;
            places.entry(name(shard.digest())).or_default().push(first);
            first += shard.size() / (4 * dim);
        }
        Ok(Rows(places))
    }

    /// The rows as they are counted over the whole dataset, the first of equal ones first.
    pub fn found(&self, tops: Tops) -> Vec<Vec<Found>> {
        let (k, queries) = tops.into_queries();
        let found = queries.into_iter().map(|top| {
            // A job finds a row as often as its shard is there.
            let mut seen = HashSet::new();
            let mut found: Vec<Found> = top
                .iter()
                .filter(|near| seen.insert((&near.shard, near.row)))
                .flat_map(|near| {
                    let places = self.0.get(&near.shard).into_iter().flatten();
                    places.map(|first| Found {
                        row: first + near.row,
                        score: near.score,
                    })
                })
                .collect();
            found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
            found.truncate(k);
            found
        });
        found.collect()
    }
}
