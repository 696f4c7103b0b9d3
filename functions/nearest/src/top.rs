//! The best rows so far, of each query.

use std::cmp::Reverse;

use nearfield::Digest;

use crate::name;

/// The rows that are nearest to each query, the nearest first.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Tops {
    k: usize,
    queries: Vec<Vec<Near>>,
}

/// A row of a shard.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Near {
    pub score: f32,
    pub shard: String,
    pub row: u64,
}

impl Near {
    /// Nearest first; of equal ones in an order that depends on content alone.
    fn order(&self) -> (Reverse<i32>, &str, u64) {
        // As IEEE 754 numbers are ordered; all are finite.
        let bits = self.score.to_bits() as i32;
        let order = bits ^ (((bits >> 31) as u32) >> 1) as i32;
        (Reverse(order), &self.shard, self.row)
    }
}

impl Tops {
    pub fn new(queries: usize, k: usize) -> Self {
        Tops {
            k,
            queries: vec![Vec::new(); queries],
        }
    }

    /// Takes in the scores of rows from `first` on of a shard.
    pub fn take(&mut self, query: usize, shard: Digest, first: u64, scores: &[f32]) {
        let shard = name(shard);
        let top = &mut self.queries[query];
        for (row, score) in scores.iter().enumerate() {
            // Of numbers too large for the shader's sums nothing is known.
            if !score.is_finite() {
                continue;
            }
            let worst = top.get(self.k - 1).map_or(f32::NEG_INFINITY, |near| near.score);
            if top.len() < self.k || *score >= worst {
                let near = Near {
                    score: *score,
                    shard: shard.clone(),
                    row: first + row as u64,
                };
                insert(top, near, self.k);
            }
        }
    }

    /// Takes in those of others.
    pub fn merge(&mut self, more: Tops) {
        for (top, more) in self.queries.iter_mut().zip(more.queries) {
            for near in more {
                insert(top, near, self.k);
            }
        }
    }

    pub fn into_queries(self) -> (usize, Vec<Vec<Near>>) {
        (self.k, self.queries)
    }
}

fn insert(top: &mut Vec<Near>, near: Near, k: usize) {
    let at = top.partition_point(|other| other.order() <= near.order());
    if at < k {
        top.insert(at, near);
        top.truncate(k);
    }
}
