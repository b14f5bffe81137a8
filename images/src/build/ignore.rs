//! .dockerignore: which paths of the context do not exist for COPY. Also the patterns that COPY itself takes.
//!
//! <https://docs.docker.com/build/concepts/context/#dockerignore-files>

/// Patterns of one file.
const PATTERNS_MAX: usize = 10_000;

/// The patterns in order; the last that fits decides.
#[derive(Clone, Debug, Default)]
pub struct Ignore(Vec<(bool, Vec<Node>)>);

/// A step of a pattern over a whole path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    /// One character: a literal, `?`, a set; as [`fits_one`] reads it.
    One(Vec<char>),
    /// `*`: any characters of one level.
    Level,
    /// Any characters at all.
    Any,
    /// `**/`: nothing, or whole levels. Goes on after the next node, or into it.
    Levels,
    /// Inside of those levels: any characters, left after a `/`.
    Through,
}

impl Ignore {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if patterns.len() == PATTERNS_MAX {
                return Err(format!("more than {PATTERNS_MAX} patterns"));
            }
            let (again, pattern) = line
                .strip_prefix('!')
                .map_or((false, line), |pattern| (true, pattern.trim()));
            let clean = clean(pattern);
            if !clean.is_empty() {
                let nodes = nodes(&clean).ok_or_else(|| format!("{line:?} is no pattern"))?;
                patterns.push((again, nodes));
            }
        }
        Ok(Self(patterns))
    }

    /// Whether a path (without a leading slash) is left out. A pattern fits a path when it fits the path or a directory above it.
    pub fn hides(&self, path: &str) -> bool {
        let mut hidden = false;
        for (again, nodes) in &self.0 {
            if hidden == *again && fits_path(nodes, path) {
                hidden = !again;
            }
        }
        hidden
    }
}

/// Without empty, `.` and `..` levels, as Go's filepath.Clean of a path below `/`.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What a pattern means, as moby/patternmatcher reads it: `**` at the end is everything; at the beginning of a pattern without other
/// wildcards it is any beginning; elsewhere, together with a `/` after it, it is nothing or whole levels.
fn nodes(pattern: &str) -> Option<Vec<Node>> {
    let characters: Vec<char> = pattern.chars().collect();
    let only_a_suffix =
        pattern.starts_with("**") && !pattern[2..].starts_with('/') && !is_pattern(&pattern[2..]);
    let mut nodes = Vec::new();
    let mut rest = characters.as_slice();
    while let Some(first) = rest.first() {
        let length = match (first, rest.get(1), rest.get(2)) {
            ('*', Some('*'), None) => {
                nodes.push(Node::Any);
                2
            }
            ('*', Some('*'), Some(_)) if only_a_suffix && nodes.is_empty() => {
                nodes.push(Node::Any);
                2
            }
            ('*', Some('*'), Some(next)) => {
                nodes.extend([Node::Levels, Node::Through]);
                if *next == '/' { 3 } else { 2 }
            }
            ('*', ..) => {
                nodes.push(Node::Level);
                1
            }
            _ => {
                let length = length_of_one(rest)?;
                nodes.push(Node::One(rest[..length].to_vec()));
                length
            }
        };
        rest = &rest[length..];
    }
    Some(nodes)
}

/// Runs the pattern over the path with all ways it can be in at once: linear times linear, whatever the pattern. True as well when it
/// fits what stands before some `/`.
fn fits_path(nodes: &[Node], path: &str) -> bool {
    let mut now = vec![false; nodes.len() + 1];
    enter(nodes, &mut now, 0);
    for character in path.chars() {
        if character == '/' && now[nodes.len()] {
            return true;
        }
        let mut next = vec![false; nodes.len() + 1];
        for (at, node) in nodes.iter().enumerate().filter(|(at, _)| now[*at]) {
            match node {
                Node::One(one)
                    if fits_one(one, character).is_some() && !(character == '/' && one[0] != '/') =>
                {
                    enter(nodes, &mut next, at + 1);
                }
                Node::Level if character != '/' => enter(nodes, &mut next, at),
                Node::Any => enter(nodes, &mut next, at),
                Node::Through => {
                    next[at] = true;
                    if character == '/' {
                        enter(nodes, &mut next, at + 1);
                    }
                }
                _ => {}
            }
        }
        now = next;
    }
    now[nodes.len()]
}

/// Marks a place and all that can be reached from it without a character.
fn enter(nodes: &[Node], places: &mut [bool], at: usize) {
    if std::mem::replace(&mut places[at], true) {
        return;
    }
    match nodes.get(at) {
        Some(Node::Level | Node::Any) => enter(nodes, places, at + 1),
        Some(Node::Levels) => {
            enter(nodes, places, at + 1);
            enter(nodes, places, at + 2);
        }
        _ => {}
    }
}

/// One level: `*`, `?`, `[a-z]`, `[^a]` and `\x` as Go's filepath.Match has them. A broken pattern fits nothing.
pub fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    fits_chars(&pattern, &name)
}

/// Whether it has anything that is not taken literally.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// Backtracks only to the last `*`: linear times linear, whatever the pattern.
fn fits_chars(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, seen));
            at += 1;
            continue;
        }
        match fits_one(&pattern[at..], name[seen]) {
            Some(length) => {
                at += length;
                seen += 1;
            }
            None => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|&character| character == '*')
}

/// Length of the pattern's first element: a character, an escaped one, a set. `None` when it is broken.
fn length_of_one(pattern: &[char]) -> Option<usize> {
    match *pattern.first()? {
        '\\' => pattern.get(1).map(|_| 2),
        // A `]` that comes first is part of the set.
        '[' => Some(pattern.iter().skip(2).position(|&c| c == ']')? + 3),
        _ => Some(1),
    }
}

/// Length of the pattern's first element when it fits the character.
fn fits_one(pattern: &[char], character: char) -> Option<usize> {
    let length = length_of_one(pattern)?;
    match pattern[0] {
        '?' => Some(1),
        '\\' => (pattern[1] == character).then_some(2),
        '[' => {
            let (negated, set) = match &pattern[1..length - 1] {
                ['^', set @ ..] => (true, set),
                set => (false, set),
            };
            let mut found = false;
            let mut rest = set;
            while let [first, tail @ ..] = rest {
                (found, rest) = match tail {
                    ['-', last, tail @ ..] => (found || (*first..=*last).contains(&character), tail),
                    tail => (found || *first == character, tail),
                };
            }
            (found != negated).then_some(length)
        }
        literal => (literal == character).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_matches_as_in_go() {
        let cases = [
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "ab", false),
            ("?", "é", true),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[^a]", "b", true),
            ("[^a]", "a", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("[", "[", false),
            ("*.txt", "a.txt", true),
            ("a*b*c", "aXbYbZc", true),
        ];
        for (pattern, name, want) in cases {
            assert_eq!(fits(pattern, name), want, "{pattern} on {name}");
        }
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let text = "# comment\n*.log\nbuild\n!build/keep\n**/tmp\n/rooted\n./x/../dotted/\n";
        let ignore = Ignore::parse(text).unwrap();
        let cases = [
            ("a.log", true),
            ("x/a.log", false),
            ("build", true),
            ("build/out/x", true),
            ("build/keep", false),
            ("build/keep/y", false),
            ("a/b/tmp", true),
            ("tmp/x", true),
            ("rooted", true),
            ("dotted/x", true),
            ("other", false),
        ];
        for (path, want) in cases {
            assert_eq!(ignore.hides(path), want, "{path}");
        }
    }

    #[test]
    fn two_stars_go_over_levels_as_docker_reads_them() {
        let cases = [
            ("**", "a/b", true),
            ("**.key", "a.key", true),
            ("**.key", "a/b/c.key", true),
            ("**.key", "a.keys", false),
            ("**/key", "key", true),
            ("**/key", "a/b/key", true),
            ("**/key", "monkey", false),
            ("a/**", "a/b/c", true),
            ("a/**", "b/a/c", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("a**/b", "ab", true),
            ("a**/b", "axx/y/b", true),
            ("a**b", "ax/b", true),
            ("**/*.k?y", "x/a.key", true),
            ("**/*.k?y", "x/a.k/y", false),
            ("*/b", "a/b/c", true),
            ("*/b", "x/a/b", false),
            ("[^x]", "/", false),
        ];
        for (pattern, path, want) in cases {
            assert_eq!(
                Ignore::parse(pattern).unwrap().hides(path),
                want,
                "{pattern} on {path}"
            );
        }
    }

    #[test]
    fn a_broken_pattern_is_an_error_and_hides_nothing_by_chance() {
        for text in ["[", "a\\", "ok\n[]"] {
            assert!(Ignore::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern in "[*?\\[\\]\\\\^a/!-]{0,20}", name in "[a/-]{0,20}") {
            fits(&pattern, &name);
            if let Ok(ignore) = Ignore::parse(&pattern) {
                ignore.hides(&name);
            }
        }
    }
}
