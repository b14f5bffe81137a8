//! What a stage holds so far, as far as the builder must know it: what is at each path, and which layer it came with.
//!
//! Memory: some 150 bytes a path, those of the base image included. Names that are not UTF-8 are left out: no Containerfile can name them.

use std::collections::BTreeMap;

/// Links followed on the way to one path (path_resolution(7) has the same bound).
const LINKS_MAX: usize = 40;

/// What kind of file is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    Folder,
    File,
    Link(String),
    /// A pipe or something rarer.
    Other,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: NodeKind,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Index of the stage's layer that its content is in.
    pub layer: usize,
}

impl NodeKind {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::File => "file",
            Self::Link(_) => "symbolic link",
            Self::Other => "special file",
        }
    }
}

/// Paths have no leading slash; the root is the empty one and always there.
#[derive(Clone, Debug, Default)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// What is at a path, the path taken as it is. The root has no node.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    /// What kind of file is there.
    pub fn kind(&self, path: &str) -> Option<&NodeKind> {
        if path.is_empty() {
            return Some(&NodeKind::Folder);
        }
        self.get(path).map(|node| &node.kind)
    }

    /// True for a folder.
    pub fn has_folder(&self, path: &str) -> bool {
        self.kind(path) == Some(&NodeKind::Folder)
    }

    /// Puts something there.
    pub fn set(&mut self, path: String, node: Node) {
        self.0.insert(path, node);
    }

    /// Removes a path and all below it.
    pub fn remove(&mut self, path: &str) {
        self.0.remove(path);
        self.remove_below(path);
    }

    /// Removes all below a path.
    pub fn remove_below(&mut self, path: &str) {
        let below: Vec<String> = self.below(path).map(|(path, _)| path.to_owned()).collect();
        for path in below {
            self.0.remove(&path);
        }
    }

    /// All below a path, whole paths in order.
    pub fn below<'a>(&'a self, path: &str) -> impl Iterator<Item = (&'a str, &'a Node)> + use<'a> {
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let range = self.0.range(prefix.clone()..);
        range
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(|(path, node)| (path.as_str(), node))
    }

    /// The paths above a path, from the root on, neither of the two included.
    pub fn parents(path: &str) -> impl Iterator<Item = &str> {
        path.match_indices('/').map(|(at, _)| &path[..at])
    }

    /// Where a path leads inside the image: every link is followed, that of the last name too, as BuildKit does. Nothing leads above the root.
    /// What does not exist is taken as it is written.
    pub fn resolve(&self, path: &str) -> Result<String, String> {
        let mut to_go: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut at: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = to_go.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => drop(at.pop()),
                _ => at.push(part),
            }
            let here = at.join("/");
            match self.kind(&here) {
                Some(NodeKind::Link(target)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(format!("/{path} goes through too many symbolic links"));
                    }
                    at.pop();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    to_go.extend(target.rsplit('/').map(str::to_owned));
                }
                Some(NodeKind::File | NodeKind::Other) if to_go.iter().any(|part| !part.is_empty()) => {
                    return Err(format!("/{here} is a file, and /{path} would lie below it"));
                }
                _ => {}
            }
        }
        Ok(at.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: NodeKind) -> Node {
        Node {
            kind,
            mode: 0o755,
            owner: (0, 0),
            layer: 0,
        }
    }

    #[test]
    fn links_are_followed_inside_the_image_only() {
        let mut tree = Tree::default();
        for folder in ["usr", "usr/lib", "data"] {
            tree.set(folder.into(), node(NodeKind::Folder));
        }
        for (link, target) in [
            ("lib", "usr/lib"),
            ("up", "../../../data"),
            ("absolute", "/usr/lib"),
            ("usr/back", "../lib/"),
            ("loop", "loop"),
            ("new", "data/not/yet"),
            ("tofile", "data/file"),
        ] {
            tree.set(link.into(), node(NodeKind::Link(target.into())));
        }
        tree.set("data/file".into(), node(NodeKind::File));
        for (path, want) in [
            ("lib/x", "usr/lib/x"),
            ("lib", "usr/lib"),
            ("up/x", "data/x"),
            ("absolute/a/b", "usr/lib/a/b"),
            ("usr/back/x", "usr/lib/x"),
            ("new/x", "data/not/yet/x"),
            ("new", "data/not/yet"),
            ("tofile", "data/file"),
            ("plain/x", "plain/x"),
            ("", ""),
        ] {
            assert_eq!(tree.resolve(path).as_deref(), Ok(want), "{path}");
        }
        assert!(tree.resolve("loop/x").unwrap_err().contains("too many"));
        assert!(
            tree.resolve("tofile/x")
                .unwrap_err()
                .contains("/data/file is a file")
        );
    }

    #[test]
    fn what_is_removed_takes_what_lies_below_and_no_neighbour() {
        let mut tree = Tree::default();
        for path in ["a", "a/x", "a/x/y", "a-b", "a.c", "ab"] {
            tree.set(path.into(), node(NodeKind::Folder));
        }
        tree.remove_below("a");
        let left: Vec<_> = tree.below("").map(|(path, _)| path).collect();
        assert_eq!(left, ["a", "a-b", "a.c", "ab"]);
        tree.remove("a");
        assert_eq!(tree.below("").count(), 3);
    }
}
