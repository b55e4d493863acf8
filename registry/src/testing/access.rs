//! Who may do what: nothing asked, Basic, or tokens from `/token` on the same port.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use url::form_urlencoded;

use super::Shared;
use super::http::{Head, Reply};
use crate::auth::Scopes;
use crate::transport::lock;

/// The refresh token that stands for the user; given to whoever asks for one (`offline_token`) with the password.
const REFRESH_TOKEN: &str = "refresh";

/// What a registry asks of its clients. `Debug` is that of test data: nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
    /// Nothing.
    #[default]
    Open,
    /// User name and password with every request.
    Basic {
        /// The one user.
        username: String,
        /// The password.
        password: String,
    },
    /// A token for the very scopes that are used. Everyone gets tokens to pull from repositories below `public/`; the
    /// user, by password or by the refresh token `refresh`, gets all, but for repositories below `denied/`.
    Token {
        /// The one user.
        username: String,
        /// The password.
        password: String,
        /// Requests after which a token is no longer good, if any.
        uses: Option<u32>,
        /// The token service, if it is another than `/token` here.
        realm: Option<String>,
    },
}

/// The tokens given out: what each allows, and how often it was used.
#[derive(Debug, Default)]
pub(super) struct Tokens(BTreeMap<String, (Scopes, u32)>);

/// Says why a request may not be answered.
pub(super) fn refusal(shared: &Shared, host: &str, head: &Head) -> Option<Reply> {
    let sent = head.header("authorization");
    let unauthorized = |challenge: String| Some(Reply::error(401, "UNAUTHORIZED").with("www-authenticate", challenge));
    match &shared.access {
        Access::Open => None,
        Access::Basic { username, password } => {
            if sent == Some(basic(username, password).as_str()) {
                return None;
            }
            unauthorized(r#"Basic realm="test""#.to_owned())
        }
        Access::Token { uses, realm, .. } => {
            let needed = needed(head);
            if let Some(token) = sent.and_then(|sent| sent.strip_prefix("Bearer "))
                && let Some((scopes, used)) = lock(&shared.tokens).0.get_mut(token)
                && uses.is_none_or(|uses| *used < uses)
                && scopes.covers(&needed)
            {
                *used += 1;
                return None;
            }
            let realm = realm.clone().unwrap_or_else(|| format!("http://{host}/token"));
            let scope = needed.texts().join(" ");
            unauthorized(format!(r#"Bearer realm="{realm}",service="test",scope="{scope}""#))
        }
    }
}

/// What a request needs leave for.
fn needed(head: &Head) -> Scopes {
    let path = head.path.strip_prefix("/v2/").unwrap_or_default();
    let end = ["/blobs/", "/manifests/", "/referrers/", "/tags/"].iter().filter_map(|part| path.find(part)).min();
    let Some(repository) = end.map(|end| &path[..end]) else { return Scopes::default() };
    let is_read = head.method == "GET" || head.method == "HEAD";
    let scopes = if is_read { Scopes::pull(repository) } else { Scopes::push(repository) };
    match head.parameter("from") {
        Some(from) => scopes.union(&Scopes::pull(&from)),
        None => scopes,
    }
}

/// The token service.
pub(super) fn token(shared: &Shared, head: &Head, body: &[u8]) -> Reply {
    let Access::Token { username, password, .. } = &shared.access else { return Reply::error(404, "NOT_FOUND") };
    let form: Vec<(String, String)> = if head.method == "POST" {
        form_urlencoded::parse(body).into_owned().collect()
    } else {
        form_urlencoded::parse(head.query.as_bytes()).into_owned().collect()
    };
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    // Whoever asks for it with the password gets a refresh token to keep instead.
    let is_offline = field("offline_token") == Some("true") && head.header("authorization").is_some();
    let is_user = match (head.header("authorization"), field("refresh_token")) {
        (Some(sent), _) if sent == basic(username, password) => true,
        (None, Some(REFRESH_TOKEN)) => field("grant_type") == Some("refresh_token"),
        (None, None) => false,
        _ => return Reply::error(401, "UNAUTHORIZED"),
    };
    let mut granted = Scopes::default();
    for (_, value) in form.iter().filter(|(key, _)| key == "scope") {
        for scope in value.split(' ') {
            let may_pull = is_user || scope.starts_with("repository:public/");
            let name = scope.trim_start_matches("repository:").split(':').next().unwrap_or_default();
            if name.starts_with("denied/") || !may_pull {
                continue;
            }
            let asked = if is_user { Scopes::parse(scope) } else { Scopes::pull(name) };
            granted = granted.union(&asked);
        }
    }
    let mut tokens = lock(&shared.tokens);
    let token = format!("token-{}", tokens.0.len());
    tokens.0.insert(token.clone(), (granted, 0));
    let key = if head.method == "POST" { "access_token" } else { "token" };
    let mut body = serde_json::json!({key: token, "expires_in": 300});
    if is_offline {
        body["refresh_token"] = REFRESH_TOKEN.into();
    }
    Reply::new(200).with("content-type", "application/json").body(body.to_string().into_bytes())
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}
