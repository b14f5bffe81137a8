//! What the image holds so far, as far as COPY must know it: where folders, files and links are.

use std::collections::BTreeMap;

/// Links followed on the way to one path (path_resolution(7) has the same bound).
const LINKS_MAX: usize = 40;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Folder,
    File,
    Link(String),
}

impl Node {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::File => "file",
            Self::Link(_) => "symbolic link",
        }
    }
}

/// Paths have no leading slash; the root is the empty one and always there.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// What is at a path, the path taken as it is.
    pub fn get(&self, path: &str) -> Option<&Node> {
        if path.is_empty() {
            Some(&Node::Folder)
        } else {
            self.0.get(path)
        }
    }

    /// True for a folder.
    pub fn has_folder(&self, path: &str) -> bool {
        self.get(path) == Some(&Node::Folder)
    }

    /// Puts something there.
    pub fn set(&mut self, path: String, node: Node) {
        self.0.insert(path, node);
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
            match self.get(&here) {
                Some(Node::Link(target)) => {
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
                Some(Node::File) if to_go.iter().any(|part| !part.is_empty()) => {
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

    #[test]
    fn links_are_followed_inside_the_image_only() {
        let mut tree = Tree::default();
        for folder in ["usr", "usr/lib", "data"] {
            tree.set(folder.into(), Node::Folder);
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
            tree.set(link.into(), Node::Link(target.into()));
        }
        tree.set("data/file".into(), Node::File);
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
}
