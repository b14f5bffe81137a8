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
    /// One character.
    One(One),
    /// `*`: any characters of one level.
    Level,
    /// Any characters at all.
    Any,
    /// `**/`: nothing, or whole levels. Goes on after the next node, or into it.
    Levels,
    /// Inside of those levels: any characters, left after a `/`.
    Through,
}

/// What one character may be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum One {
    Literal(char),
    /// `?`: any of a level.
    Wildcard,
    /// `[a-z]`, `[^a]`: first and last of each range.
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        // Some editors begin a file with a byte order mark; it belongs to no pattern.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let line = line.trim();
            let (again, pattern) = line
                .strip_prefix('!')
                .map_or((false, line), |pattern| (true, pattern.trim()));
            if again && pattern.is_empty() {
                return Err("a lone \"!\" brings nothing back: write !PATTERN".into());
            }
            let clean = clean(pattern);
            if clean.is_empty() {
                continue;
            }
            if patterns.len() == PATTERNS_MAX {
                return Err(format!("more than {PATTERNS_MAX} patterns"));
            }
            let nodes = nodes(&clean).ok_or_else(|| format!("{line:?} is no pattern"))?;
            patterns.push((again, nodes));
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

/// Without empty and `.` levels and with `..` taken back, as Go's filepath.Clean has it, and without the slash it may begin with. What leads
/// above the context stays, and fits nothing.
fn clean(pattern: &str) -> String {
    let is_rooted = pattern.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if is_rooted => {}
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
            ('*', Some('*'), next) if next.is_none() || (only_a_suffix && nodes.is_empty()) => {
                nodes.push(Node::Any);
                2
            }
            ('*', Some('*'), next) => {
                nodes.extend([Node::Levels, Node::Through]);
                if next == Some(&'/') { 3 } else { 2 }
            }
            ('*', ..) => {
                nodes.push(Node::Level);
                1
            }
            _ => {
                let (one, length) = one(rest)?;
                nodes.push(Node::One(one));
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
    let (mut now, mut next) = (vec![false; nodes.len() + 1], vec![false; nodes.len() + 1]);
    enter(nodes, &mut now, 0);
    for character in path.chars() {
        if character == '/' && now[nodes.len()] {
            return true;
        }
        if !now.contains(&true) {
            return false;
        }
        next.fill(false);
        for (at, node) in nodes.iter().enumerate().filter(|(at, _)| now[*at]) {
            match node {
                Node::One(one) if one.fits(character) => enter(nodes, &mut next, at + 1),
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
        std::mem::swap(&mut now, &mut next);
    }
    now[nodes.len()]
}

/// Marks a place and all that can be reached from it without a character.
fn enter(nodes: &[Node], places: &mut [bool], mut at: usize) {
    while !std::mem::replace(&mut places[at], true) {
        match nodes.get(at) {
            Some(Node::Level | Node::Any) => at += 1,
            Some(Node::Levels) => {
                places[at + 1] = true;
                at += 2;
            }
            _ => return,
        }
    }
}

/// One level: `*`, `?`, `[a-z]`, `[^a]` and `\x` as Go's filepath.Match has them. A broken pattern fits nothing.
pub fn fits(pattern: &str, name: &str) -> bool {
    let characters: Vec<char> = pattern.chars().collect();
    let mut nodes = Vec::new();
    let mut rest = characters.as_slice();
    while let Some(first) = rest.first() {
        let (node, length) = match first {
            '*' => (Node::Level, 1),
            _ => match one(rest) {
                Some((one, length)) => (Node::One(one), length),
                None => return false,
            },
        };
        nodes.push(node);
        rest = &rest[length..];
    }
    fits_path(&nodes, name)
}

/// Whether it has anything that is not taken literally.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// What the pattern begins with, and its length. `None` when it is broken.
fn one(pattern: &[char]) -> Option<(One, usize)> {
    match *pattern.first()? {
        '?' => Some((One::Wildcard, 1)),
        '\\' => Some((One::Literal(*pattern.get(1)?), 2)),
        '[' => set(pattern),
        literal => Some((One::Literal(literal), 1)),
    }
}

/// A set has at least one range; `-` and `]` are written with a `\` in it.
fn set(pattern: &[char]) -> Option<(One, usize)> {
    let negated = pattern.get(1) == Some(&'^');
    let mut at = if negated { 2 } else { 1 };
    let mut ranges = Vec::new();
    loop {
        let first = member(pattern, &mut at)?;
        let mut last = first;
        if pattern.get(at) == Some(&'-') {
            at += 1;
            last = member(pattern, &mut at)?;
        }
        ranges.push((first, last));
        if *pattern.get(at)? == ']' {
            return Some((One::Set { negated, ranges }, at + 1));
        }
    }
}

fn member(pattern: &[char], at: &mut usize) -> Option<char> {
    let escaped = *pattern.get(*at)? == '\\';
    *at += usize::from(escaped);
    let character = *pattern.get(*at)?;
    *at += 1;
    (escaped || !matches!(character, '-' | ']')).then_some(character)
}

impl One {
    fn fits(&self, character: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == character,
            Self::Wildcard => character != '/',
            Self::Set { negated, ranges } => {
                *negated
                    != ranges
                        .iter()
                        .any(|(first, last)| (*first..=*last).contains(&character))
            }
        }
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
            ("a[^x]b", "a/b", true),
            ("../a", "a", false),
            ("x/../../a", "a", false),
            ("/../a", "a", true),
            ("[\\]x]y", "]y", true),
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
        for text in [
            "[", "a\\", "ok\n[]", "[^]", "[a-]", "[-a]", "[]a]", "!", "a\n! \n",
        ] {
            assert!(Ignore::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn marks_and_comments_are_read_as_docker_reads_them() {
        let ignore = Ignore::parse("\u{feff}secret\n#no\n #name\n! \t#name/shown\r\n").unwrap();
        let cases = [
            ("secret", true),
            ("no", false),
            ("#no", false),
            ("#name", true),
            ("#name/shown", false),
        ];
        for (path, want) in cases {
            assert_eq!(ignore.hides(path), want, "{path}");
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
