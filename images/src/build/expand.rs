//! Variables and quotes in the words of instructions, by Docker's rules: `$v`, `${v}`, `${v:-default}`, `${v:+instead}`; single quotes keep everything.

/// Bytes of an expanded word: as long as one argument of execve(2) may be.
const WORD_BYTES_MAX: usize = 128 * 1024;

/// Bytes of an expanded here-document: some times a whole Containerfile.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// `${a:-${b:-...}}` deeper than this is a mistake.
const DEPTH_MAX: usize = 8;

/// Expands one word. Names without a value are empty.
pub fn expand(word: &str, escape: char, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    expand_inner(word, escape, value, 0, Quotes::Mean)
}

/// Expands a text in which quotes are quotes: a here-document.
pub fn expand_text(
    text: &str,
    escape: char,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    expand_inner(text, escape, value, 0, Quotes::Stand)
}

/// What quotes are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// They keep what is in them together, and go.
    Mean,
    /// Characters like others; then the escape character takes the meaning from `$` and itself only.
    Stand,
}

fn expand_inner(
    word: &str,
    escape: char,
    value: &dyn Fn(&str) -> Option<String>,
    depth: usize,
    quotes: Quotes,
) -> Result<String, String> {
    let bytes_max = match quotes {
        Quotes::Mean => WORD_BYTES_MAX,
        Quotes::Stand => TEXT_BYTES_MAX,
    };
    let stand = quotes == Quotes::Stand;
    if depth > DEPTH_MAX {
        return Err("variables are nested too deep".into());
    }
    let mut out = String::new();
    let mut rest = word;
    let mut quote: Option<char> = None;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match (character, quote) {
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            (_, Some('\'')) => out.push(character),
            ('\'' | '"', None) if !stand => quote = Some(character),
            (character, _) if character == escape => {
                let Some(next) = rest.chars().next() else { break };
                rest = &rest[next.len_utf8()..];
                // Within double quotes it takes the meaning only from what has one there.
                let keeps = match quote {
                    Some(_) => !matches!(next, '"' | '$') && next != escape,
                    None => stand && next != '$' && next != escape,
                };
                if keeps {
                    out.push(escape);
                }
                out.push(next);
            }
            ('$', _) => {
                let (text, after) = variable(rest, escape, value, depth)?;
                out += &text;
                rest = after;
            }
            _ => out.push(character),
        }
        if out.len() > bytes_max {
            return Err(format!("it expands to more than {bytes_max} bytes"));
        }
    }
    match quote {
        Some(quote) => Err(format!("a quote ({quote}) is not closed")),
        None => Ok(out),
    }
}

/// What stands behind a `$`: its value, and what follows.
fn variable<'a>(
    rest: &'a str,
    escape: char,
    value: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<(String, &'a str), String> {
    let Some(braced) = rest.strip_prefix('{') else {
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        return Ok(match end {
            0 => ("$".into(), rest),
            end => (value(&rest[..end]).unwrap_or_default(), &rest[end..]),
        });
    };
    let end = closing(braced).ok_or("`${` is not closed")?;
    let (inside, after) = (&braced[..end], &braced[end + 1..]);
    let name_end = inside
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(inside.len());
    let (name, form) = inside.split_at(name_end);
    if name.is_empty() {
        return Err(format!("`${{{inside}}}` names no variable"));
    }
    let known = value(name);
    let text = match form {
        "" => known.unwrap_or_default(),
        form => {
            let other = |from: usize| expand_inner(&form[from..], escape, value, depth + 1, Quotes::Mean);
            match (form.get(..2), form.get(..1), known) {
                (Some(":-"), _, Some(known)) if !known.is_empty() => known,
                (Some(":-"), ..) => other(2)?,
                (Some(":+"), _, Some(known)) if !known.is_empty() => other(2)?,
                (Some(":+"), ..) => String::new(),
                (_, Some("-"), Some(known)) => known,
                (_, Some("-"), None) => other(1)?,
                (_, Some("+"), Some(_)) => other(1)?,
                (_, Some("+"), None) => String::new(),
                (Some(":?"), _, Some(known)) if !known.is_empty() => known,
                (_, Some("?"), Some(known)) => known,
                (Some(":?"), ..) => return Err(format!("{name} is not set: {}", other(2)?)),
                (_, Some("?"), None) => return Err(format!("{name} is not set: {}", other(1)?)),
                _ => {
                    return Err(format!(
                        "`${{{inside}}}` is not understood: ${{v}}, ${{v:-x}}, ${{v:+x}} and ${{v:?x}} are"
                    ));
                }
            }
        }
    };
    Ok((text, after))
}

fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(offset);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_and_quotes_are_docker_s() {
        let cases = [
            ("$A", "alpha"),
            ("${A}b", "alphab"),
            ("$Ab", ""),
            ("x$A-y", "xalpha-y"),
            ("${N:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${A:-d}", "alpha"),
            ("${A:+i}", "i"),
            ("${N:+i}", ""),
            ("${N:-${A}}", "alpha"),
            ("'$A'", "$A"),
            ("\"$A b\"", "alpha b"),
            ("\\$A", "$A"),
            ("a\\ b", "a b"),
            ("\"a\\nb\"", "a\\nb"),
            ("$", "$"),
            ("1$2", "1"),
            ("${A:?x}", "alpha"),
            ("${EMPTY?x}", ""),
        ];
        for (word, want) in cases {
            assert_eq!(expand(word, '\\', &value).as_deref(), Ok(want), "{word}");
        }
    }

    #[test]
    fn what_is_not_closed_or_not_understood_is_an_error() {
        for word in [
            "${A",
            "\"x",
            "'x",
            "${}",
            "${A#x}",
            "${:-x}",
            "${N:?x}",
            "${EMPTY:?x}",
            "${N?x}",
        ] {
            assert!(expand(word, '\\', &value).is_err(), "{word}");
        }
    }

    #[test]
    fn quotes_stand_in_a_text() {
        let text = "it's \"$A\"\n\\$A \\n ${N:-'d'}\n";
        assert_eq!(
            expand_text(text, '\\', &value).as_deref(),
            Ok("it's \"alpha\"\n$A \\n d\n")
        );
    }

    #[test]
    fn nesting_and_length_are_bounded() {
        let nested = "${N:-".repeat(20) + "x" + &"}".repeat(20);
        assert!(expand(&nested, '\\', &value).is_err());
        let long = |_: &str| Some("x".repeat(100_000));
        assert!(expand("$A$A", '\\', &long).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_word_makes_it_panic(word in "[$\\{\\}:\\-+'\"\\\\Aé ]{0,30}") {
            drop(expand(&word, '\\', &value));
        }
    }
}
