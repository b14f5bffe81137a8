//! The `WWW-Authenticate` header: which proof of identity a server asks for.
//!
//! <https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1>: one header may carry several challenges, and commas part both challenges and the
//! parameters of one. What cannot be read ends the list: a registry that writes garbage gets no credentials.

/// Challenges of one answer: a registry has one or two ways.
const CHALLENGES_MAX: usize = 8;
/// Parameters of one challenge: realm, service, scope, error and some to spare.
const PARAMETERS_MAX: usize = 16;

/// One way to prove who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// `basic`, `bearer`, ... in lower case.
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter by its name in lower case.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }
}

/// Reads the values of all `WWW-Authenticate` headers of an answer.
pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for header in headers {
        let mut text = Text(header);
        while challenges.len() < CHALLENGES_MAX {
            let Some(challenge) = text.challenge() else {
                break;
            };
            challenges.push(challenge);
        }
    }
    challenges
}

/// What of a header is still to be read.
#[derive(Clone, Copy)]
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn challenge(&mut self) -> Option<Challenge> {
        self.skip(" \t,");
        let scheme = self.token()?.to_ascii_lowercase();
        let mut parameters = Vec::new();
        let spaces = self.skip(" \t");
        // `Negotiate TOKEN68` carries no parameters; its token is none of ours.
        if spaces > 0 && !self.is_parameter() {
            self.token68();
        }
        loop {
            let before = *self;
            self.skip(" \t,");
            if !self.is_parameter() || parameters.len() == PARAMETERS_MAX {
                *self = before;
                return Some(Challenge { scheme, parameters });
            }
            let Some(parameter) = self.parameter() else {
                // Nothing after it can be trusted to be where it seems.
                self.0 = "";
                return Some(Challenge { scheme, parameters });
            };
            parameters.push(parameter);
        }
    }

    /// `name = `, which no scheme and no token68 of a single `=`-less word is.
    fn is_parameter(mut self) -> bool {
        self.token().is_some() && {
            self.skip(" \t");
            self.0.strip_prefix('=').is_some_and(|value| {
                !matches!(value.trim_start().as_bytes().first(), None | Some(b'=' | b','))
            })
        }
    }

    fn parameter(&mut self) -> Option<(String, String)> {
        let name = self.token()?.to_ascii_lowercase();
        self.skip(" \t");
        self.0 = self.0.strip_prefix('=')?;
        self.skip(" \t");
        let value = match self.0.strip_prefix('"') {
            Some(rest) => {
                self.0 = rest;
                self.quoted()?
            }
            None => self.token()?.to_owned(),
        };
        Some((name, value))
    }

    /// The rest of a quoted-string, its opening quote read.
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.0.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                other => value.push(other),
            }
        }
        None
    }

    fn token(&mut self) -> Option<&'a str> {
        self.take(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    }

    fn token68(&mut self) -> Option<&'a str> {
        self.take(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte))
    }

    fn take(&mut self, fits: impl Fn(u8) -> bool) -> Option<&'a str> {
        let end = self
            .0
            .bytes()
            .position(|byte| !fits(byte))
            .unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        (!taken.is_empty()).then_some(taken)
    }

    fn skip(&mut self, characters: &str) -> usize {
        let rest = self
            .0
            .trim_start_matches(|character| characters.contains(character));
        let count = self.0.len() - rest.len();
        self.0 = rest;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scheme(name=value;...)`, one after another.
    fn shown(header: &str) -> String {
        let one = |challenge: &Challenge| {
            let parameters: Vec<_> = challenge
                .parameters
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{}({})", challenge.scheme, parameters.join(";"))
        };
        let challenges = parse([header].into_iter());
        challenges.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn challenges_are_read_as_rfc_9110_writes_them() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="hub",scope="repository:library/x:pull,push""#,
                "bearer(realm=https://auth.example/token;service=hub;scope=repository:library/x:pull,push)",
            ),
            (r#"Basic realm="a \"b\" c""#, r#"basic(realm=a "b" c)"#),
            (
                "basic realm = unquoted , charset=UTF-8",
                "basic(realm=unquoted;charset=UTF-8)",
            ),
            (
                r#"Basic realm="r", Bearer realm="t",service=s"#,
                "basic(realm=r) bearer(realm=t;service=s)",
            ),
            (
                r#"Negotiate YWJj==, , Basic realm="r""#,
                "negotiate() basic(realm=r)",
            ),
            ("Negotiate, NTLM", "negotiate() ntlm()"),
            ("NTLM", "ntlm()"),
            (
                r#"Newauth realm="apps", type=1, title="Login, to \"apps\"", Basic realm="simple""#,
                r#"newauth(realm=apps;type=1;title=Login, to "apps") basic(realm=simple)"#,
            ),
            // What is broken ends what is believed.
            (
                r#"Bearer realm="open, Basic realm="x""#,
                "bearer(realm=open, Basic realm=) x()",
            ),
            (r#"Bearer realm="open"#, "bearer()"),
            ("", ""),
            (" , ,", ""),
            ("\"Basic\"", ""),
            ("Bearer realm=", "bearer()"),
        ] {
            assert_eq!(shown(header), expected, "{header}");
        }
    }

    #[test]
    fn challenges_and_parameters_have_a_bound() {
        assert_eq!(parse(["a, "].repeat(100).into_iter()).len(), CHALLENGES_MAX);
        let many = format!("Bearer {}", "a=b,".repeat(1000));
        assert!(
            parse([many.as_str()].into_iter())
                .iter()
                .all(|challenge| challenge.parameters.len() <= PARAMETERS_MAX)
        );
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_answered(text in "\\PC{0,80}|[A-Za-z\",=\\\\ ]{0,80}") {
            proptest::prop_assert!(parse([text.as_str()].into_iter()).len() <= CHALLENGES_MAX);
        }
    }
}
