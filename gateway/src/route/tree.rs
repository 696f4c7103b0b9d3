//! Which route answers for a path: a tree of segments.
//!
//! A route answers for its own path and all below it. Of several the one that goes on longest does; of equally long ones
//! the one with a text where the other has a parameter. `{*rest}` goes on no longer than what is before it, but before a
//! route that ends there.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use nearfield_protocol::manifest::{Route, Segment};

/// Routes by their segments.
#[derive(Default)]
pub struct Tree {
    root: Node,
    shapes: HashSet<String>,
}

#[derive(Default)]
struct Node {
    texts: HashMap<String, Node>,
    parameter: Option<Box<Node>>,
    /// The route whose `{*rest}` begins here.
    rest: Option<usize>,
    /// The route that ends here.
    here: Option<usize>,
}

/// A route for a path.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteMatch {
    pub index: usize,
    /// Bytes of the path before what the guest sees. The value of a `{*rest}` is left to it.
    pub prefix_bytes: usize,
    /// Where the parameters' values lie in the path.
    pub values: Vec<Range<usize>>,
}

impl Tree {
    /// False if a route for the same paths is there already. `{id}` and `{*rest}` in the same place are that, because a
    /// route answers for all below it, too.
    pub fn insert(&mut self, route: &Route, index: usize) -> bool {
        if !self.shapes.insert(route.shape()) {
            return false;
        }
        let (mut node, mut rest) = (&mut self.root, false);
        for segment in route.segments() {
            match segment {
                Segment::Text(text) => node = node.texts.entry(text.to_owned()).or_default(),
                Segment::Parameter(_) => node = node.parameter.get_or_insert_default(),
                Segment::Rest(_) => rest = true,
            }
        }
        let place = match rest {
            true => &mut node.rest,
            false => &mut node.here,
        };
        *place = Some(index);
        true
    }

    pub fn find(&self, path: &str) -> Option<RouteMatch> {
        let mut best = None;
        self.root.find(path, 0, &mut Vec::new(), &mut best);
        best
    }
}

impl Node {
    /// Of `path` the first `at` bytes led here; `values` are those of the parameters on the way. Each node of the tree is
    /// looked at once at most.
    fn find(&self, path: &str, at: usize, values: &mut Vec<Range<usize>>, best: &mut Option<RouteMatch>) {
        let offer = |index: Option<usize>, values: &[Range<usize>], best: &mut Option<RouteMatch>| {
            if let Some(index) = index
                && best.as_ref().is_none_or(|best| best.prefix_bytes < at)
            {
                *best = Some(RouteMatch {
                    index,
                    prefix_bytes: at,
                    values: values.to_vec(),
                });
            }
        };
        if let Some(left) = path[at..].strip_prefix('/') {
            let start = at + 1;
            let end = start + left.find('/').unwrap_or(left.len());
            if let Some(node) = self.texts.get(&path[start..end]) {
                node.find(path, end, values, best);
            }
            if let Some(node) = self.parameter.as_ref().filter(|_| start < end) {
                values.push(start..end);
                node.find(path, end, values, best);
                values.pop();
            }
            if !left.is_empty() {
                values.push(start..path.len());
                offer(self.rest, values, best);
                values.pop();
            }
        }
        offer(self.here, values, best);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(text: &str) -> Route {
        Route::try_from(text.to_owned()).unwrap()
    }

    fn tree(routes: &[&str]) -> Tree {
        let mut tree = Tree::default();
        for (index, text) in routes.iter().enumerate() {
            assert!(tree.insert(&route(text), index), "{text}");
        }
        tree
    }

    /// A path, and what is found for it: the route, what the guest sees, and the values.
    type Case<'a> = (&'a str, Option<(&'a str, &'a str, &'a [&'a str])>);

    /// The route, what the guest sees, and the values.
    fn found<'a>(routes: &[&'a str], path: &'a str) -> Option<(&'a str, &'a str, Vec<&'a str>)> {
        let found = tree(routes).find(path)?;
        let values = found.values.iter().map(|value| &path[value.clone()]).collect();
        Some((routes[found.index], &path[found.prefix_bytes..], values))
    }

    #[test]
    fn routes_find_their_paths() {
        let routes = [
            "/greet",
            "/greet/all",
            "/users",
            "/users/me",
            "/users/{id}",
            "/users/{id}/posts/{post}",
            "/users/{id}/{what}/raw",
            "/files/{*path}",
            "/files/about",
            "/fn-x",
        ];
        let cases: &[Case<'_>] = &[
            ("/greet", Some(("/greet", "", &[]))),
            ("/greet/", Some(("/greet", "/", &[]))),
            ("/greet/a//b", Some(("/greet", "/a//b", &[]))),
            ("/greet/all/x", Some(("/greet/all", "/x", &[]))),
            ("/greeting", None),
            ("/gree", None),
            ("/", None),
            ("", None),
            ("*", None),
            ("/users", Some(("/users", "", &[]))),
            ("/users/", Some(("/users", "/", &[]))),
            ("/users//x", Some(("/users", "//x", &[]))),
            ("/users/me", Some(("/users/me", "", &[]))),
            ("/users/7", Some(("/users/{id}", "", &["7"]))),
            ("/users/7/", Some(("/users/{id}", "/", &["7"]))),
            ("/users/a%2Fb/c", Some(("/users/{id}", "/c", &["a%2Fb"]))),
            ("/users/7/posts", Some(("/users/{id}", "/posts", &["7"]))),
            (
                "/users/7/posts/9/x",
                Some(("/users/{id}/posts/{post}", "/x", &["7", "9"])),
            ),
            ("/users/me/x", Some(("/users/me", "/x", &[]))),
            // Longer than `/users/me`.
            (
                "/users/me/posts/9",
                Some(("/users/{id}/posts/{post}", "", &["me", "9"])),
            ),
            (
                "/users/7/notes/raw",
                Some(("/users/{id}/{what}/raw", "", &["7", "notes"])),
            ),
            // Back from `posts`, which does not go on, to the parameter.
            (
                "/users/7/notes/rare",
                Some(("/users/{id}", "/notes/rare", &["7"])),
            ),
            ("/files/a/b", Some(("/files/{*path}", "/a/b", &["a/b"]))),
            ("/files/about", Some(("/files/about", "", &[]))),
            ("/files/about/us", Some(("/files/about", "/us", &[]))),
            ("/files/", None),
            ("/files", None),
        ];
        for (path, expected) in cases {
            let expected = expected.map(|(route, below, values)| (route, below, values.to_vec()));
            assert_eq!(found(&routes, path), expected, "{path}");
        }
        // A route and all below it can be two functions'.
        let both = ["/files", "/files/{*path}"];
        assert_eq!(found(&both, "/files/"), Some(("/files", "/", vec![])));
        assert_eq!(
            found(&both, "/files/a"),
            Some(("/files/{*path}", "/a", vec!["a"]))
        );
    }

    #[test]
    fn one_path_has_one_route() {
        let mut tree = tree(&["/a", "/a/{x}", "/a/{x}/b", "/c/{*x}", "/c/{x}/d"]);
        for taken in ["/a", "/a/{y}", "/a/{y}/b", "/a/{*y}", "/c/{*y}", "/c/{y}"] {
            assert!(!tree.insert(&route(taken), 9), "{taken}");
        }
        assert_eq!(tree.find("/a/1").unwrap().index, 1, "who came first stays");
        assert_eq!(tree.find("/c/1").unwrap().index, 3);
    }

    fn segment() -> impl Strategy<Value = String> {
        prop_oneof!["[ab]", Just("{p}".to_owned())]
    }

    /// What the tree does, said plainly: does this route answer for this path?
    fn answers(route: &Route, path: &str) -> bool {
        let mut left: Vec<&str> = path.split('/').skip(1).collect();
        left.reverse();
        route.segments().all(|segment| match segment {
            Segment::Text(text) => left.pop() == Some(text),
            Segment::Parameter(_) => left.pop().is_some_and(|value| !value.is_empty()),
            Segment::Rest(_) => left.len() > 1 || left.last().is_some_and(|value| !value.is_empty()),
        })
    }

    proptest! {
        /// A path has a function exactly if some route answers for it; then its parts add up to the path.
        #[test]
        fn the_tree_finds_what_a_list_would(
            routes in proptest::collection::vec((proptest::collection::vec(segment(), 0..3), any::<bool>()), 1..8),
            path in proptest::collection::vec("[abc]?", 0..5),
        ) {
            let (mut tree, mut kept) = (Tree::default(), Vec::new());
            for (segments, rest) in routes {
                let numbered = segments.iter().enumerate();
                let segments = numbered.map(|(at, segment)| segment.replace("{p}", &format!("{{p{at}}}")));
                let mut text = format!("/x{}", segments.map(|segment| format!("/{segment}")).collect::<String>());
                if rest {
                    text.push_str("/{*all}");
                }
                if tree.insert(&route(&text), kept.len()) {
                    kept.push(route(&text));
                }
            }
            let path = format!("/x{}", path.iter().map(|segment| format!("/{segment}")).collect::<String>());
            let found = tree.find(&path);
            prop_assert_eq!(found.is_some(), kept.iter().any(|route| answers(route, &path)), "{}", path);
            if let Some(found) = found {
                let route = &kept[found.index];
                prop_assert!(answers(route, &path), "{} {}", route.as_str(), path);
                prop_assert_eq!(found.values.len(), route.parameters().count());
                prop_assert!(found.prefix_bytes <= path.len());
                prop_assert!(path[found.prefix_bytes..].is_empty() || path[found.prefix_bytes..].starts_with('/'));
            }
        }
    }
}
