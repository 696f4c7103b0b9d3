//! The shape of a reduction's tree: which parts are reduced together.

use std::ops::Range;

use super::Fields;
use crate::Digest;

/// Most parts that one reduction takes.
const MAX_GROUP: usize = 64;
/// A group ends at a part whose shape has these low bits zero: at one in sixteen.
const GROUP_MASK: u8 = 0x0f;
/// Fewest parts that one reduction takes, the last one of a level aside: each level has at most half the parts of the
/// one below, whatever the shapes are, so a tree always ends.
const MIN_GROUP: usize = 2;

/// What the shape of a reduction's tree follows from: for a leaf the digest of its shard, for a node a hash of the shapes of
/// its parts. No function, argument or result goes into it, so equal data is grouped equally by every job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape(Digest);

impl Shape {
    pub fn of_shard(shard: Digest) -> Self {
        Shape(shard)
    }

    pub fn of_node(parts: &[Shape]) -> Self {
        let mut hasher = Fields::new("nearfield 2026-11 shape of a reduction");
        for part in parts {
            hasher.field(part.0.as_bytes());
        }
        Shape(hasher.finish())
    }

    fn ends_group(&self) -> bool {
        self.0.as_bytes()[0] & GROUP_MASK == 0
    }
}

/// Splits the parts of one level into the groups that are reduced together. A group ends at a shape with
/// four low zero bits, if it has two parts by then, or after 64. So every run over the same shards agrees on the groups,
/// and a shard more changes the groups on one path only.
pub fn groups(parts: &[Shape]) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut start = 0;
    for (index, part) in parts.iter().enumerate() {
        let len = index + 1 - start;
        let ends = part.ends_group() && len >= MIN_GROUP;
        if ends || len == MAX_GROUP || index + 1 == parts.len() {
            groups.push(start..index + 1);
            start = index + 1;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(count: u32) -> Vec<Shape> {
        (0..count)
            .map(|n| Shape::of_shard(Digest::of(&n.to_le_bytes())))
            .collect()
    }

    #[test]
    fn groups_cover_all_parts_in_order() {
        for count in [0, 1, 2, 17, 64, 65, 10_000] {
            let shapes = shapes(count);
            let groups = groups(&shapes);
            let covered: Vec<_> = groups.iter().cloned().flatten().collect();
            assert_eq!(covered, (0..shapes.len()).collect::<Vec<_>>());
            assert!(groups.iter().all(|group| group.len() <= MAX_GROUP));
        }
    }

    /// Shards that are alike, or were chosen so that each ends a group, make no tree of many levels.
    #[test]
    fn a_level_halves_whatever_its_shapes_are() {
        let (end, other) = (
            Shape::of_shard(Digest::from_bytes([0; 32])),
            Shape::of_shard(Digest::from_bytes([1; 32])),
        );
        for every in 1..9 {
            for count in [2_usize, 3, 200, 1_001] {
                let shapes: Vec<_> = (0..count)
                    .map(|n| if n % every == 0 { end } else { other })
                    .collect();
                let groups = groups(&shapes).len();
                assert!(groups <= count.div_ceil(2), "{count} parts made {groups} groups");
            }
        }
    }

    #[test]
    fn a_shard_more_changes_one_group() {
        let before = shapes(1_000);
        let mut after = before.clone();
        after.insert(500, Shape::of_shard(Digest::of(b"new")));
        let members = |shapes: &[Shape]| -> Vec<Vec<Shape>> {
            groups(shapes)
                .into_iter()
                .map(|group| shapes[group].to_vec())
                .collect()
        };
        let before = members(&before);
        let new: Vec<_> = members(&after)
            .into_iter()
            .filter(|group| !before.contains(group))
            .collect();
        assert!(new.len() <= 2, "{} groups changed", new.len());
    }
}
