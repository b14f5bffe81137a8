//! How to answer a challenge: what to send, to whom, and when not to. Pure: the requests are in client.rs.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/> and its OAuth2 companion.

use super::challenge::Challenge;
use super::credentials::{Credentials, Found};
use super::url::{Origin, Url, escape};
use punnet_json::FromJson;

/// Bytes of an answer that carries a token; tokens that name many scopes take some KiB.
pub const TOKEN_DOCUMENT_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of a token: it must fit into one header.
const TOKEN_BYTES_MAX: usize = 24 * 1024;

/// What to do about a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Send this `Authorization`.
    Send(String),
    /// Fetch a token.
    Fetch(TokenRequest),
    /// It cannot be answered: why, and what to do.
    Refuse(String),
}

/// A request for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Who is asked.
    pub url: Url,
    /// `Authorization` of that request; none is asked as nobody.
    pub authorization: Option<String>,
    /// A form to post instead of asking with GET.
    pub form: Option<String>,
}

/// Decides how to answer `challenges` of the registry called `registry` at `origin`, for these scopes besides the one it names.
pub fn plan(
    challenges: &[Challenge],
    found: &Found,
    registry: &str,
    origin: &Origin,
    scopes: &[String],
) -> Plan {
    let by_scheme = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
    if let Some(bearer) = by_scheme("bearer") {
        return token(bearer, found, origin, scopes);
    }
    if by_scheme("basic").is_none() {
        let schemes: Vec<_> = challenges
            .iter()
            .map(|challenge| challenge.scheme.as_str())
            .collect();
        return Plan::Refuse(match schemes.as_slice() {
            [] => "it does not say how to log in".to_owned(),
            schemes => format!(
                "it wants {} authentication; basic and bearer are supported",
                schemes.join(", ")
            ),
        });
    }
    match found {
        Found::Credentials(credentials) => match credentials.basic() {
            Some(value) => Plan::Send(value),
            None => Plan::Refuse("an identity token is no password; run `punnet login`".to_owned()),
        },
        Found::Nothing => Plan::Refuse(format!(
            "it wants a user name and a password: run `punnet login {registry}`"
        )),
        Found::Helper(helper) => Plan::Refuse(helper_advice(helper, registry)),
    }
}

fn token(bearer: &Challenge, found: &Found, origin: &Origin, scopes: &[String]) -> Plan {
    let Some(realm) = bearer.parameter("realm").and_then(Url::parse) else {
        return Plan::Refuse("it does not say where to fetch a token".to_owned());
    };
    // The password goes where the registry says, but never without TLS when the registry itself has it.
    if origin.https && !realm.origin.https {
        return Plan::Refuse(format!(
            "it wants the password sent to {}, which has no TLS",
            realm.origin
        ));
    }
    let mut scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    if let Some(scope) = bearer.parameter("scope") {
        scopes.extend(scope.split(' ').filter(|scope| !scope.is_empty()));
    }
    scopes.dedup();
    let service = bearer.parameter("service");
    if let Found::Credentials(Credentials::IdentityToken(token)) = found {
        let form = format!(
            "grant_type=refresh_token&client_id=punnet&service={}&scope={}&refresh_token={}",
            escape(service.unwrap_or_default()),
            escape(&scopes.join(" ")),
            escape(token)
        );
        return Plan::Fetch(TokenRequest {
            url: realm,
            authorization: None,
            form: Some(form),
        });
    }
    let mut url = realm;
    if let Some(service) = service {
        url = url.with_parameter("service", service);
    }
    for scope in scopes {
        url = url.with_parameter("scope", scope);
    }
    let authorization = match found {
        Found::Credentials(credentials) => credentials.basic(),
        _ => None,
    };
    Plan::Fetch(TokenRequest {
        url,
        authorization,
        form: None,
    })
}

/// What to say when proof of identity was refused.
pub fn advice(found: &Found, registry: &str) -> String {
    match found {
        Found::Credentials(_) => {
            format!(
                "the user's rights do not reach, or the password is not right: run `punnet login {registry}`"
            )
        }
        Found::Nothing => {
            format!("there may be no such image, or it may want a login: run `punnet login {registry}`")
        }
        Found::Helper(helper) => helper_advice(helper, registry),
    }
}

fn helper_advice(helper: &str, registry: &str) -> String {
    format!(
        "its password is kept by the program docker-credential-{helper}, which punnet does not run: run `punnet login {registry}`"
    )
}

/// The token out of an answer: `token`, or `access_token` for OAuth2. It becomes a header, so it has none of what could end one.
pub fn read_token(bytes: &[u8]) -> Option<String> {
    #[derive(FromJson)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = punnet_json::from_slice(bytes).ok()?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)?;
    let fits =
        (1..=TOKEN_BYTES_MAX).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::super::challenge;
    use super::*;

    fn password() -> Found {
        Found::Credentials(Credentials::Password {
            user: "u".into(),
            password: "p".into(),
        })
    }

    /// The plan in one line.
    fn planned(header: &str, found: &Found, origin: &str) -> String {
        let origin = Url::parse(origin).unwrap().origin;
        match plan(
            &challenge::parse([header].into_iter()),
            found,
            "r.example",
            &origin,
            &["s:1".into()],
        ) {
            Plan::Send(value) => value,
            Plan::Fetch(request) => format!(
                "{}{} {} {}",
                request.url.origin,
                request.url.target,
                request.authorization.unwrap_or_default(),
                request.form.unwrap_or_default()
            ),
            Plan::Refuse(why) => why,
        }
    }

    #[test]
    fn a_challenge_is_answered_or_refused() {
        let bearer = r#"Bearer realm="https://auth.example/t?x=y",service="hub",scope="repository:a/b:pull""#;
        let query = "https://auth.example/t?x=y&service=hub&scope=s:1&scope=repository:a/b:pull";
        let token = Found::Credentials(Credentials::IdentityToken("t+/".into()));
        let https = "https://r.example";
        for (header, found, origin, expected) in [
            (bearer, Found::Nothing, https, format!("{query}  ")),
            (bearer, password(), https, format!("{query} Basic dTpw ")),
            (bearer, Found::Helper("h".into()), https, format!("{query}  ")),
            (
                bearer,
                token.clone(),
                https,
                "https://auth.example/t?x=y  grant_type=refresh_token&client_id=punnet&service=hub&\
                 scope=s:1%20repository:a/b:pull&refresh_token=t%2B/"
                    .into(),
            ),
            (
                r#"Bearer realm="http://auth.example/t""#,
                password(),
                https,
                "it wants the password sent to http://auth.example, which has no TLS".into(),
            ),
            (
                r#"Bearer realm="http://auth.example/t""#,
                password(),
                "http://r.example",
                "http://auth.example/t?scope=s:1 Basic dTpw ".into(),
            ),
            (r#"Bearer realm="/t""#, password(), https, "it does not say where to fetch a token".into()),
            (r#"Basic realm="x""#, password(), https, "Basic dTpw".into()),
            (
                r#"Basic realm="x""#,
                Found::Nothing,
                https,
                "it wants a user name and a password: run `punnet login r.example`".into(),
            ),
            (
                r#"Basic realm="x""#,
                Found::Helper("ecr".into()),
                https,
                "its password is kept by the program docker-credential-ecr, which punnet does not run: run `punnet login r.example`"
                    .into(),
            ),
            ("Digest realm=x, NTLM", password(), https, "it wants digest, ntlm authentication; basic and bearer are supported".into()),
            ("", password(), https, "it does not say how to log in".into()),
        ] {
            assert_eq!(planned(header, &found, origin), expected, "{header}");
        }
    }

    #[test]
    fn a_token_is_one_word() {
        for (json, expected) in [
            (r#"{"token":"a.b","expires_in":60}"#, Some("a.b")),
            (r#"{"access_token":"c"}"#, Some("c")),
            (r#"{"token":"","access_token":"c"}"#, Some("c")),
            (r#"{"token":"a\r\nX: y"}"#, None),
            (r#"{"token":""}"#, None),
            (r#"{}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(read_token(json.as_bytes()).as_deref(), expected, "{json}");
        }
        let long = format!(r#"{{"token":"{}"}}"#, "a".repeat(TOKEN_BYTES_MAX + 1));
        assert_eq!(read_token(long.as_bytes()), None);
    }
}
