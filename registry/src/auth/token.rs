//! Tokens: asked of the service that a registry names, kept until shortly before they expire.
//!
//! With a password (or anonymously) this is a GET, with a stored identity token the `OAuth2` POST, both as the Docker
//! Registry token protocol has them. Who signs in asks for an identity token too (`offline_token`), so that the password
//! need not be kept. The request never leaves the service's origin, because it holds a secret.

use std::fmt;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::Serializer;

use super::{Access, Scopes, UNKNOWN, basic, header};
use crate::credentials::Credential;
use crate::origin::shown;
use crate::transport::{Body, Request, Response, Transport};
use crate::{Action, Error, Exchange};

/// Largest answer of a token service, in bytes.
const ANSWER_LIMIT: u64 = 1024 * 1024;
/// Lifetime of a token whose answer names none; the protocol's own value.
const DEFAULT_LIFETIME: u64 = 60;
/// What this client calls itself to token services.
const CLIENT: &str = "rbuild";
/// Longest lifetime that is believed; beyond it the clock could overflow.
const LONGEST_LIFETIME: u64 = 30 * 24 * 3600;

/// A token as a header, what it allows and how long.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    /// The identity token that came with it: in place of the password, or of the one before.
    pub(super) identity: Option<String>,
    scopes: Scopes,
    until: Instant,
}

/// Whom to ask for a token, and for what.
pub(super) struct Service {
    pub(super) realm: Url,
    /// The name it goes by in its own requests.
    pub(super) name: Option<String>,
    pub(super) scopes: Scopes,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

impl Token {
    /// Says whether the token is not about to expire.
    pub(super) fn holds(&self) -> bool {
        Instant::now() < self.until
    }

    pub(super) fn covers(&self, scopes: &Scopes) -> bool {
        self.scopes.covers(scopes)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// Fetches a token.
pub(super) fn fetch(
    transport: &Transport,
    access: &Access,
    service: &Service,
    credential: Option<Credential>,
) -> Result<Token, Error> {
    transport.rules.may_trust(&access.base, &service.realm).map_err(|problem| Error::Forbidden {
        exchange: Box::new(Exchange::new(&access.action, &access.base)),
        to: shown(&service.realm),
        problem,
    })?;
    let is_anonymous = credential.is_none();
    let mut form = Vec::new();
    let mut request = Request::new(&access.action, Method::GET, service.realm.clone());
    let mut authorization = None;
    match credential {
        Some(Credential::IdentityToken(token)) => {
            form = oauth_form(service, &token);
            request.method = Method::POST;
            request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        Some(Credential::Password { username, password }) => {
            authorization = Some(basic(access, &username, &password)?);
            add_query(&mut request.url, service, Some(&username));
            if matches!(access.action, Action::SignIn(_)) {
                let mut query = request.url.query_pairs_mut();
                query.append_pair("offline_token", "true").append_pair("client_id", CLIENT);
            }
        }
        Some(Credential::RegistryToken(_)) | None => add_query(&mut request.url, service, None),
    }
    request.confined = !is_anonymous;
    if request.method == Method::POST {
        request.body = Body::Bytes(&form);
    }
    let asked = Instant::now();
    let mut backoff = transport.backoff(&access.target.authority);
    loop {
        let result = transport.send(&request, authorization.clone());
        match result.and_then(|response| read(access, response, is_anonymous)) {
            Ok(answer) => return token(access, answer, service.scopes.clone(), asked),
            Err(error) if backoff.again(&error) => {}
            Err(error) => return Err(error.with_attempts(backoff.failures())),
        }
    }
}

fn add_query(url: &mut Url, service: &Service, account: Option<&str>) {
    let mut query = url.query_pairs_mut();
    if let Some(name) = &service.name {
        query.append_pair("service", name);
    }
    for scope in service.scopes.texts() {
        query.append_pair("scope", &scope);
    }
    if let Some(account) = account {
        query.append_pair("account", account);
    }
}

fn oauth_form(service: &Service, refresh_token: &str) -> Vec<u8> {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token").append_pair("client_id", CLIENT);
    form.append_pair("service", service.name.as_deref().unwrap_or_default());
    form.append_pair("scope", &service.scopes.texts().join(" ")).append_pair("refresh_token", refresh_token);
    form.finish().into_bytes()
}

/// Reads the service's answer.
fn read(access: &Access, response: Response, is_anonymous: bool) -> Result<Answer, Error> {
    let status = response.status();
    if status.is_success() {
        let bytes = response.read(&access.action, "the answer of the token service", ANSWER_LIMIT)?;
        return serde_json::from_slice(&bytes).map_err(|_| Error::Malformed {
            action: Box::new(access.action.clone()),
            // The parser's own text may quote the token.
            problem: "the token service's answer is not JSON of its kind".to_owned(),
        });
    }
    match response.refusal(&access.action) {
        Error::Unauthorized { exchange, answer, .. } | Error::Denied { exchange, answer } => {
            let problem = if is_anonymous { UNKNOWN } else { "the token service refuses the credentials" };
            Err(Error::Unauthorized { exchange, problem, answer })
        }
        // A token service that is not there is no statement about the image.
        Error::NotFound { exchange, answer } => Err(Error::Refused { exchange, answer }),
        error => Err(error),
    }
}

fn token(access: &Access, answer: Answer, scopes: Scopes, asked: Instant) -> Result<Token, Error> {
    let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
    let text = filled(answer.token).or_else(|| filled(answer.access_token)).ok_or_else(|| Error::Malformed {
        action: Box::new(access.action.clone()),
        problem: "the token service's answer has no token".to_owned(),
    })?;
    let lifetime = answer.expires_in.unwrap_or(DEFAULT_LIFETIME).min(LONGEST_LIFETIME);
    // A tenth is left for the request that the token is used in.
    let until = asked + Duration::from_secs(lifetime) * 9 / 10;
    let identity = filled(answer.refresh_token);
    Ok(Token { header: header(access, &format!("Bearer {text}"))?, identity, scopes, until })
}
