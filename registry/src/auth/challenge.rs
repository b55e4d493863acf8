//! `WWW-Authenticate`: which proof a registry wants (RFC 9110, section 11.6.1; parameters of the token protocol).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use url::Url;

use super::Scopes;

/// Longest header that is parsed, in bytes.
const TEXT_LIMIT: usize = 8192;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password, with every request.
    Basic,
    /// A token, from a service that takes user name and password or a refresh token.
    Bearer { realm: Url, service: Option<String>, scope: Scopes },
}

impl Challenge {
    /// Finds the strongest challenge that this client can answer. `at` is the address that answered.
    pub(crate) fn find(headers: &HeaderMap, at: &Url) -> Option<Self> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let all: Vec<Parsed<'_>> = texts.filter(|text| text.len() <= TEXT_LIMIT).flat_map(parse).collect();
        let bearer = all.iter().filter(|found| found.scheme.eq_ignore_ascii_case("bearer")).find_map(|found| {
            let realm = at.join(found.parameter("realm")?).ok()?;
            let service = found.parameter("service").map(str::to_owned);
            let scope = found.parameter("scope").map(Scopes::parse).unwrap_or_default();
            Some(Self::Bearer { realm, service, scope })
        });
        bearer.or_else(|| all.iter().any(|found| found.scheme.eq_ignore_ascii_case("basic")).then_some(Self::Basic))
    }
}

/// One challenge as written.
#[derive(Debug, PartialEq, Eq)]
struct Parsed<'a> {
    scheme: &'a str,
    parameters: Vec<(&'a str, String)>,
}

impl Parsed<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Splits a header into challenges; stops at the first thing that is not one.
fn parse(text: &str) -> Vec<Parsed<'_>> {
    let mut found: Vec<Parsed<'_>> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = take_token(rest);
        if word.is_empty() {
            return found;
        }
        match (after.trim_start().strip_prefix('='), found.last_mut()) {
            (Some(value), Some(challenge)) => {
                let Some((value, after)) = take_value(value.trim_start()) else { return found };
                challenge.parameters.push((word, value));
                rest = after;
            }
            (Some(_), None) => return found,
            (None, _) => {
                found.push(Parsed { scheme: word, parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

fn take_token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// Takes a token or a quoted string; none if a quote is not closed.
fn take_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Not every server quotes a URL.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(texts: &[&str]) -> Option<Challenge> {
        let headers = texts.iter().map(|text| (WWW_AUTHENTICATE, text.parse().unwrap())).collect();
        Challenge::find(&headers, &"https://r.test/v2/".parse().unwrap())
    }

    fn bearer(realm: &str, service: Option<&str>, scope: &str) -> Challenge {
        let scope = Scopes::parse(scope);
        Challenge::Bearer { realm: realm.parse().unwrap(), service: service.map(str::to_owned), scope }
    }

    #[test]
    fn a_bearer_challenge_has_realm_service_and_scope() {
        let text = r#"Bearer realm="https://a.test/token",service="r.test",scope="repository:x:pull,push""#;
        assert_eq!(find(&[text]), Some(bearer("https://a.test/token", Some("r.test"), "repository:x:pull,push")));
        assert_eq!(
            find(&["bearer  REALM = https://a.test/t?x=1 , y=\"\\\"\""]),
            Some(bearer("https://a.test/t?x=1", None, ""))
        );
        assert_eq!(find(&[r#"Bearer realm="/token""#]), Some(bearer("https://r.test/token", None, "")));
    }

    #[test]
    fn bearer_is_preferred_wherever_it_stands() {
        assert_eq!(
            find(&[r#"Basic realm="x, y", Bearer realm="https://a.test/""#]),
            Some(bearer("https://a.test/", None, ""))
        );
        assert_eq!(
            find(&["Negotiate", "Basic", r#"Bearer realm="https://a.test/""#]),
            Some(bearer("https://a.test/", None, ""))
        );
        assert_eq!(find(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        assert_eq!(find(&["basic"]), Some(Challenge::Basic));
        assert_eq!(find(&["Bearer", "Basic"]), Some(Challenge::Basic));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for text in [
            "",
            "Negotiate",
            "=",
            "x=y",
            "Bearer realm=\"https://a.test",
            "Bearer realm=\"https://[\"",
            ",,,",
            "\"",
            "Bearer realm=\"\\",
        ] {
            assert_eq!(find(&[text]), None, "{text}");
        }
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[&format!("Basic {}", "x".repeat(10_000))]), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in r#"\PC{0,80}|(Bearer|Basic|[a-z]{1,4})( ?[a-z]{1,6}=("[^"]{0,20}"?|[a-z:/.]{0,20}),?){0,5}"#) {
            parse(&text);
            if let Ok(value) = text.parse() {
                let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]);
                Challenge::find(&headers, &"https://r.test/v2/".parse().unwrap());
            }
        }
    }
}
