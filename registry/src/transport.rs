//! One request: which scheme, which address after redirects, which limits. No credentials but those it is handed.
//!
//! Redirects are followed by hand, because the rules are ours: never from https to http, never to this machine from
//! elsewhere, and the `Authorization` header stays with the origin that it was made for.

mod certificates;
mod mirrors;
mod response;
mod slots;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::blocking::{Body as HttpBody, Client as Http};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, redirect};
use url::Url;

pub(crate) use response::{Pace, Response};
pub(crate) use slots::Slots;

use mirrors::Mirrors;

use crate::origin::{Rules, is_loopback, shown};
use crate::retry::Backoff;
use crate::{Action, Error, Exchange, Options};

/// Most redirects of one request; storage services need one or two.
const REDIRECT_LIMIT: u32 = 5;

/// Sends requests. One for all registries and threads.
pub(crate) struct Transport {
    pub(crate) options: Options,
    pub(crate) rules: Rules,
    pub(crate) slots: Arc<Slots>,
    mirrors: Mirrors,
    /// The HTTP clients, each made when it is first needed.
    clients: Mutex<HashMap<Profile, Http>>,
    /// Authority → base URL, once known.
    bases: Mutex<HashMap<String, Url>>,
}

/// What tells one HTTP client from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Profile {
    /// For plain http on loopback: no proxy, and no certificates, whose loading takes longer than a cached build.
    Plain,
    /// With TLS, or through the system's proxy, as `http_proxy` and its kin have it.
    Full {
        /// Loopback: no proxy.
        is_direct: bool,
        /// Longest wait for a connection.
        connect: Duration,
        /// What there is for this host alone.
        certificates: Vec<PathBuf>,
    },
}

/// A request that can be sent more than once.
pub(crate) struct Request<'a> {
    pub(crate) action: &'a Action,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body<'a>,
    /// Whether a redirect may lead to another origin. Not for requests whose body or query holds a secret.
    pub(crate) confined: bool,
}

/// The body of a request.
pub(crate) enum Body<'a> {
    Empty,
    Bytes(&'a [u8]),
    /// Opened anew for every try.
    Stream {
        size: u64,
        open: &'a dyn Fn() -> Result<Box<dyn Read + Send>, Error>,
    },
}

impl<'a> Request<'a> {
    pub(crate) fn new(action: &'a Action, method: Method, url: Url) -> Self {
        Self { action, method, url, headers: HeaderMap::new(), body: Body::Empty, confined: false }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Locks a mutex whose data no panic can leave half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transport {
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        let (rules, slots) = (Rules::new(&options)?, Slots::new(options.requests));
        let mirrors = Mirrors::new(&options);
        Ok(Self { options, rules, slots, mirrors, clients: Mutex::default(), bases: Mutex::default() })
    }

    /// Starts the tries of one request to a registry or mirror.
    pub(crate) fn backoff(&self, authority: &str) -> Backoff<'_> {
        self.mirrors.backoff(authority).unwrap_or_else(|| Backoff::new(&self.options.retry))
    }

    /// Says whether a host is a mirror that has not answered before.
    pub(crate) fn is_dead(&self, authority: &str) -> bool {
        self.mirrors.is_dead(authority)
    }

    /// Remembers that a mirror does not answer.
    pub(crate) fn bury(&self, authority: &str) {
        self.mirrors.bury(authority);
    }

    /// Finds the base URL of a registry: https, but for loopback whichever it answers, http asked first, and for
    /// insecure hosts https if they answer TLS at all.
    pub(crate) fn base(&self, authority: &str, action: &Action) -> Result<Url, Error> {
        if let Some(base) = lock(&self.bases).get(authority) {
            return Ok(base.clone());
        }
        let malformed = |_| Error::Malformed {
            action: Box::new(action.clone()),
            problem: format!("`{}` is not a host", authority.escape_default()),
        };
        let https: Url = format!("https://{authority}/").parse().map_err(malformed)?;
        let plain: Url = format!("http://{authority}/").parse().map_err(malformed)?;
        let base = if self.rules.may_be_plain(&plain) {
            let mut backoff = self.backoff(authority);
            loop {
                match self.probe(&plain, &https, action) {
                    Err(error) if backoff.again(&error) => {}
                    Err(error) => return Err(error.with_attempts(backoff.failures())),
                    Ok(base) => break base,
                }
            }
        } else {
            https
        };
        Ok(self.settle(authority, base))
    }

    /// Remembers the base URL of a registry, unless another thread has found one.
    fn settle(&self, authority: &str, base: Url) -> Url {
        lock(&self.bases).entry(authority.to_owned()).or_insert(base).clone()
    }

    /// Asks a host that may be plain which of the two schemes it speaks.
    fn probe(&self, plain: &Url, https: &Url, action: &Action) -> Result<Url, Error> {
        let ask = |base: &Url| {
            let url = base.join("v2/").unwrap_or_else(|_| base.clone());
            self.once(&Request::new(action, Method::GET, url.clone()), &url, None)
        };
        if !is_loopback(plain) {
            return match ask(https) {
                Ok(_) => Ok(https.clone()),
                // A certificate that does not hold is no reason to fall back to no certificate at all.
                Err(error) if error.is_certificate() => Err(error),
                // With a port of its own, the host has one door for both schemes.
                Err(error) if error.is_connect() && https.port().is_some() => Err(error),
                Err(_) => ask(plain).map(|_| plain.clone()),
            };
        }
        match ask(plain) {
            Ok(mut response) => {
                if response.wants_tls(https) {
                    ask(https).map(|_| https.clone())
                } else {
                    Ok(plain.clone())
                }
            }
            Err(error) if error.is_connect() => Err(error),
            // Something listens and does not speak http.
            Err(error) => match ask(https) {
                Ok(_) => Ok(https.clone()),
                Err(tls) if tls.is_certificate() => Err(tls),
                Err(_) => Err(error),
            },
        }
    }

    /// Sends a request and follows its redirects. Any status that is not a redirect is an `Ok`.
    pub(crate) fn send(&self, request: &Request<'_>, authorization: Option<HeaderValue>) -> Result<Response, Error> {
        let first = self.once(request, &request.url, authorization.as_ref())?;
        self.follow(request, first, authorization)
    }

    /// The base URL that a host of this machine is presumed to have: plain http, as long as nothing is known of it.
    pub(crate) fn presumed(&self, authority: &str) -> Option<Url> {
        let plain: Url = format!("http://{authority}/").parse().ok()?;
        (is_loopback(&plain) && !lock(&self.bases).contains_key(authority)).then_some(plain)
    }

    /// Does [`Transport::send`] to a host whose base URL is presumed. The first answer, to a request without credentials,
    /// settles it; if that leaves a doubt, or another thread has found another base, the error is [`Error::Scheme`].
    pub(crate) fn send_presuming(
        &self,
        (authority, base): (&str, &Url),
        request: &Request<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, Error> {
        let known = lock(&self.bases).get(authority).cloned();
        match known {
            Some(known) if known == *base => return self.send(request, authorization),
            Some(_) => return Err(Error::Scheme),
            None => {}
        }
        match self.once(request, &request.url, None) {
            Err(error) if error.is_connect() => return Err(error),
            // Something listens and does not speak http.
            Err(_) => {}
            Ok(mut first) => {
                if !first.wants_tls(base) && self.settle(authority, base.clone()) == *base {
                    return self.follow(request, first, None);
                }
            }
        }
        Err(Error::Scheme)
    }

    /// Follows the redirects of a request whose first answer is there.
    fn follow(
        &self,
        request: &Request<'_>,
        mut response: Response,
        mut authorization: Option<HeaderValue>,
    ) -> Result<Response, Error> {
        let (mut url, mut is_foreign) = (request.url.clone(), false);
        for left in (0..=REDIRECT_LIMIT).rev() {
            let Some(to) = next(request, &response)? else {
                response.is_foreign = is_foreign;
                return Ok(response);
            };
            let forbid = |problem| forbidden(request, &url, &to, problem);
            self.rules.may_follow(&url, &to).map_err(forbid)?;
            if to.origin() != url.origin() {
                if request.confined {
                    return Err(forbid("it is another host, and the request holds a secret"));
                }
                (authorization, is_foreign) = (None, true);
            }
            url = to;
            if left > 0 {
                response = self.once(request, &url, authorization.as_ref())?;
            }
        }
        Err(forbidden(request, &request.url, &url, "it is the sixth redirect in a row"))
    }

    /// Sends a request to one address.
    fn once(&self, request: &Request<'_>, url: &Url, authorization: Option<&HeaderValue>) -> Result<Response, Error> {
        let mut builder = self.http(url)?.request(request.method.clone(), url.clone());
        builder = builder.headers(request.headers.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value.clone());
        }
        builder = match &request.body {
            Body::Empty if request.method == Method::GET || request.method == Method::HEAD => builder,
            // Some registries want a length even of nothing (411).
            Body::Empty => builder.body(Vec::new()),
            Body::Bytes(bytes) => builder.body(bytes.to_vec()).timeout(self.time_for(bytes.len() as u64)),
            Body::Stream { size, open } => builder.body(HttpBody::sized(open()?, *size)).timeout(self.time_for(*size)),
        };
        match builder.send() {
            Ok(inner) => Ok(Response::new(inner, url.clone(), self.pace())),
            Err(error) if error.is_builder() => Err(Error::Setup { source: error.without_url() }),
            Err(error) => Err(unreachable(request.action, url, Box::new(error.without_url()))),
        }
    }

    /// The longest that a request with a body of this size may take.
    fn time_for(&self, size: u64) -> Duration {
        let timeouts = &self.options.timeouts;
        timeouts.answer.saturating_add(Duration::from_secs(size / timeouts.slowest.max(1)))
    }

    fn pace(&self) -> Pace {
        Pace::new(&self.options.timeouts)
    }

    /// The HTTP client for a host, made when it is first needed: it starts a thread and loads the root certificates.
    fn http(&self, url: &Url) -> Result<Http, Error> {
        let profile = self.profile(url);
        let mut clients = lock(&self.clients);
        if let Some(http) = clients.get(&profile) {
            return Ok(http.clone());
        }
        // Another part of the process may have chosen a provider already, or may do so right now: both are fine.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let timeouts = &self.options.timeouts;
        let mut builder = Http::builder()
            .user_agent(&self.options.user_agent)
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(timeouts.answer)
            .tcp_user_timeout(timeouts.answer);
        builder = match &profile {
            Profile::Plain => builder.no_proxy().tls_certs_only([]),
            Profile::Full { is_direct, connect, certificates } => {
                let builder = if *is_direct { builder.no_proxy() } else { builder }.connect_timeout(*connect);
                certificates::add(builder, &self.options.certificates.authorities, certificates)?
            }
        };
        let http = builder.build().map_err(|source| Error::Setup { source })?;
        clients.insert(profile, http.clone());
        Ok(http)
    }

    fn profile(&self, url: &Url) -> Profile {
        let is_direct = is_loopback(url);
        if url.scheme() == "http" && is_direct {
            return Profile::Plain;
        }
        let host = url.host_str().unwrap_or_default();
        // The default port goes without saying.
        let names = match url.port() {
            Some(port) => vec![format!("{host}:{port}")],
            None => vec![host.to_owned(), format!("{host}:443")],
        };
        let certificates = match url.scheme() {
            "http" => Vec::new(),
            _ => certificates::directories(&self.options.certificates, &names),
        };
        let connect = self.mirrors.connect(&names[0], self.options.timeouts.connect);
        Profile::Full { is_direct, connect, certificates }
    }
}

/// The address that a response redirects to, if it does and the method may follow.
fn next(request: &Request<'_>, response: &Response) -> Result<Option<Url>, Error> {
    let is_safe = request.method == Method::GET || request.method == Method::HEAD;
    let follows = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => is_safe,
        _ => false,
    };
    if !follows {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    match location.map(|location| response.url.join(location)) {
        Some(Ok(mut url)) => {
            url.set_fragment(None);
            Ok(Some(url))
        }
        Some(Err(_)) | None => Err(Error::Malformed {
            action: Box::new(request.action.clone()),
            problem: format!("the redirect from `{}` has no valid `Location`", shown(&response.url)),
        }),
    }
}

fn forbidden(request: &Request<'_>, from: &Url, to: &Url, problem: &'static str) -> Error {
    let exchange = Exchange::new(request.action, from);
    Error::Forbidden { exchange: Box::new(exchange), to: shown(to), problem }
}

/// The error of a request that got no whole answer.
pub(crate) fn unreachable(action: &Action, url: &Url, source: Box<dyn StdError + Send + Sync>) -> Error {
    let exchange = Box::new(Exchange::new(action, url));
    // A TLS error later than in the handshake is a broken connection like others.
    let is_handshake = source.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect);
    if is_handshake && find_cause::<rustls::Error>(&*source).is_some() {
        return Error::Untrusted { exchange, source };
    }
    Error::Unreachable { exchange, source }
}

/// Finds the first error of a type in a chain of causes.
pub(crate) fn find_cause<'e, E: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // `io::Error::source` passes over the error that it wraps.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| find_cause(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}
