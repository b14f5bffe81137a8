//! .dockerignore: which paths of the context do not exist for COPY. Also the patterns that COPY itself takes.
//!
//! <https://docs.docker.com/build/concepts/context/#dockerignore-files>

/// Patterns of one file.
const PATTERNS_MAX: usize = 10_000;

/// The patterns in order; the last that fits decides.
#[derive(Clone, Debug, Default)]
pub struct Ignore(Vec<(bool, Vec<String>)>);

impl Ignore {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Self {
        let mut patterns = Vec::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .take(PATTERNS_MAX)
        {
            let (again, pattern) = line
                .strip_prefix('!')
                .map_or((false, line), |pattern| (true, pattern.trim()));
            let parts: Vec<String> = pattern
                .split('/')
                .filter(|part| !part.is_empty() && *part != ".")
                .map(str::to_owned)
                .collect();
            if !parts.is_empty() {
                patterns.push((again, parts));
            }
        }
        Self(patterns)
    }

    /// Whether a path (without a leading slash) is left out. A pattern fits a path when it fits the path or a directory above it.
    pub fn hides(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let mut hidden = false;
        for (again, pattern) in &self.0 {
            if hidden == *again && (1..=parts.len()).any(|end| fits_path(pattern, &parts[..end])) {
                hidden = !again;
            }
        }
        hidden
    }
}

fn fits_path(pattern: &[String], parts: &[&str]) -> bool {
    match (pattern.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            fits_path(rest, parts)
                || parts
                    .split_first()
                    .is_some_and(|(_, below)| fits_path(pattern, below))
        }
        (Some((first, rest)), Some((name, below))) => fits(first, name) && fits_path(rest, below),
        _ => false,
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

/// Length of the pattern's first element when it fits the character.
fn fits_one(pattern: &[char], character: char) -> Option<usize> {
    match *pattern.first()? {
        '?' => Some(1),
        '\\' => (*pattern.get(1)? == character).then_some(2),
        '[' => {
            let end = 1 + pattern.iter().skip(1).skip(1).position(|&c| c == ']')? + 1;
            let (negated, set) = match &pattern[1..end] {
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
            (found != negated).then_some(end + 1)
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
        let ignore = Ignore::parse("# comment\n*.log\nbuild\n!build/keep\n**/tmp\n/rooted\n");
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
            ("other", false),
        ];
        for (path, want) in cases {
            assert_eq!(ignore.hides(path), want, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern in "[*?\\[\\]\\\\^a/!-]{0,20}", name in "[a/-]{0,20}") {
            fits(&pattern, &name);
            Ignore::parse(&pattern).hides(&name);
        }
    }
}
