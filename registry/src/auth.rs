//! Who the caller is: challenges answered with Basic or with a token, and the tokens kept while they hold.
//!
//! Nothing is sent before a registry asks (401 with `WWW-Authenticate`). Then the credential of that registry, and of
//! no other, goes to the registry itself (Basic) or to the token service that it names (Bearer). One [`Host`] is kept
//! for each pair of origin and repository, because credentials may be stored for a namespace; its lock is held while a
//! token is fetched, so that many threads fetch one token.

mod challenge;
mod scope;
mod token;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use url::Url;

pub(crate) use scope::Scopes;

use crate::credentials::Credential;
use crate::reference::Target;
use crate::transport::{Response, Transport, lock};
use crate::{Action, Error, Exchange};
use challenge::Challenge;
use token::Token;

/// Why a request without credentials fails.
const UNKNOWN: &str = "no credentials are known for this registry";

/// What is known about authentication, for all registries and threads.
#[derive(Default)]
pub(crate) struct Auth {
    hosts: Mutex<HashMap<Key, Arc<Mutex<Host>>>>,
}

/// Base URL and repository.
type Key = (String, String);

/// One thing that a caller wants of one repository.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) action: Action,
    pub(crate) target: Target,
    /// `https://host/` or, where allowed, `http://host/`.
    pub(crate) base: Url,
    /// Whether the base is only presumed until the host has answered.
    pub(crate) is_presumed: bool,
    pub(crate) scopes: Scopes,
}

/// One repository of one registry.
#[derive(Default)]
struct Host {
    /// The last challenge; none as long as the registry has not asked.
    challenge: Option<Challenge>,
    /// Whether the stored credential was looked up.
    is_looked_up: bool,
    credential: Option<Credential>,
    /// The identity token that the token service has given last.
    identity: Option<String>,
    tokens: Vec<Token>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

impl Auth {
    /// The `Authorization` header for a request; none as long as the registry has not asked for one.
    pub(crate) fn authorization(&self, transport: &Transport, access: &Access) -> Result<Option<HeaderValue>, Error> {
        let host = self.host(access);
        let mut host = lock(&host);
        let Some(challenge) = host.challenge.clone() else { return Ok(None) };
        let credential = host.credential(transport, access)?;
        match (challenge, credential) {
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                Ok(Some(basic(access, &username, &password)?))
            }
            (Challenge::Bearer { .. }, Some(Credential::RegistryToken(token))) => {
                Ok(Some(header(access, &format!("Bearer {token}"))?))
            }
            // What the registry wants is not there: it says so itself, with a 401.
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, credential) => {
                host.tokens.retain(Token::holds);
                if let Some(token) = host.tokens.iter().find(|token| token.covers(&access.scopes)) {
                    return Ok(Some(token.header.clone()));
                }
                let scopes = access.scopes.union(&scope);
                let token =
                    token::fetch(transport, access, &token::Service { realm, name: service, scopes }, credential)?;
                host.tokens.push(token.clone());
                host.renew(token.identity);
                Ok(Some(token.header))
            }
        }
    }

    /// Takes in a 401. `Ok` says that a second try, with a new header, is worth while; `sent` is the header refused.
    pub(crate) fn challenged(
        &self,
        transport: &Transport,
        access: &Access,
        response: Response,
        sent: Option<&HeaderValue>,
    ) -> Result<(), Error> {
        let host = self.host(access);
        let mut host = lock(&host);
        let asked = Challenge::find(response.headers(), &response.url);
        let credential = host.credential(transport, access)?;
        let problem = match (&asked, credential) {
            (None, _) => Some("the registry asks for an authentication that is neither Basic nor Bearer"),
            (Some(Challenge::Basic), None) => Some(UNKNOWN),
            (Some(Challenge::Basic), Some(Credential::Password { .. })) => {
                sent.filter(|sent| is_basic(sent)).map(|_| "the registry refuses the credentials")
            }
            (Some(Challenge::Basic), Some(_)) => Some("the registry asks for a password, and a token is stored"),
            (Some(Challenge::Bearer { .. }), Some(Credential::RegistryToken(_))) => {
                sent.map(|_| "the registry refuses the token")
            }
            (Some(Challenge::Bearer { .. }), _) => None,
        };
        if let Some(problem) = problem {
            return Err(unauthorized(access, response, problem));
        }
        // Another thread may have fetched a newer token meanwhile: only the refused one goes.
        host.tokens.retain(|token| Some(&token.header) != sent);
        host.challenge = asked;
        Ok(())
    }

    /// The error of a 401 that came in spite of all that could be sent.
    pub(crate) fn refused(&self, access: &Access, response: Response) -> Error {
        let has_credential = lock(&self.host(access)).credential.is_some();
        let problem = if has_credential { "the registry refuses the credentials" } else { UNKNOWN };
        unauthorized(access, response, problem)
    }

    /// The identity token that the token service has given, if it has.
    pub(crate) fn identity(&self, access: &Access) -> Option<String> {
        lock(&self.host(access)).identity.clone()
    }

    fn host(&self, access: &Access) -> Arc<Mutex<Host>> {
        let key = (access.base.to_string(), access.target.repository.clone());
        Arc::clone(lock(&self.hosts).entry(key).or_default())
    }
}

impl Host {
    /// The stored credential for the repository, looked up once: a helper may take seconds.
    fn credential(&mut self, transport: &Transport, access: &Access) -> Result<Option<Credential>, Error> {
        if !self.is_looked_up {
            self.credential = transport.options.credentials.find(&access.target.registry, &access.target.repository)?;
            self.is_looked_up = true;
        }
        Ok(self.credential.clone())
    }

    /// Takes the identity token that came with a token. A service that gives one for another wants it to be used.
    fn renew(&mut self, identity: Option<String>) {
        let Some(identity) = identity else { return };
        if matches!(self.credential, Some(Credential::IdentityToken(_))) {
            self.credential = Some(Credential::IdentityToken(identity.clone()));
        }
        self.identity = Some(identity);
    }
}

fn unauthorized(access: &Access, response: Response, problem: &'static str) -> Error {
    let exchange = Exchange::new(&access.action, &response.url);
    Error::Unauthorized { exchange: Box::new(exchange), problem, answer: response.answer() }
}

/// Makes a Basic header (RFC 7617).
fn basic(access: &Access, username: &str, password: &str) -> Result<HeaderValue, Error> {
    header(access, &format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn is_basic(header: &HeaderValue) -> bool {
    header.as_bytes().starts_with(b"Basic ")
}

/// Makes a header value that `Debug` redacts.
fn header(access: &Access, text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Error::Malformed {
        action: Box::new(access.action.clone()),
        problem: "the token has characters that no header can carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}
