//! Lists that come in pages: tags and referrers.

use reqwest::header::LINK;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use super::{Client, malformed};
use crate::auth::Access;
use crate::origin::shown;
use crate::transport::{Request, Response};
use crate::{Error, Exchange};

/// Largest page, in bytes.
const PAGE_LIMIT: u64 = 4 * 1024 * 1024;
/// Most pages: some registries give a few entries each, whatever is asked.
const PAGES_LIMIT: u32 = 5_000;

/// Fetches page after page, and hands each with its answer's headers to `take`.
pub(super) fn each<P: DeserializeOwned>(
    client: &Client,
    access: &Access,
    mut url: Url,
    what: &'static str,
    take: &mut dyn FnMut(P) -> Result<(), Error>,
) -> Result<(), Error> {
    let action = &access.action;
    for _ in 0..PAGES_LIMIT {
        let mut request = Request::new(action, Method::GET, url.clone());
        request.confined = true;
        let (page, next) = client.exchange(access, &request, &mut |response| match response.status() {
            StatusCode::OK => {
                let next = next(access, &response, what)?;
                let bytes = response.read(action, what, PAGE_LIMIT)?;
                let page = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
                    action: Box::new(action.clone()),
                    what,
                    source,
                })?;
                Ok((page, next))
            }
            _ => Err(response.refusal(action)),
        })?;
        take(page)?;
        match next {
            Some(next) if next != url => url = next,
            _ => return Ok(()),
        }
    }
    Err(malformed(action, format!("{what} has more than {PAGES_LIMIT} pages")))
}

/// Reads the address of the next page: `Link: <url>; rel="next"` (RFC 8288). It has to be the registry's own.
fn next(access: &Access, response: &Response, what: &str) -> Result<Option<Url>, Error> {
    let Some(text) = response.header(LINK.as_str()) else { return Ok(None) };
    let Some((address, parameters)) = text.strip_prefix('<').and_then(|text| text.split_once('>')) else {
        return Ok(None);
    };
    let parameters = parameters.to_ascii_lowercase().replace([' ', '"'], "");
    if !parameters.split(';').any(|parameter| parameter.split(',').next() == Some("rel=next")) {
        return Ok(None);
    }
    let url = response.url.join(address);
    let url =
        url.map_err(|_| malformed(&access.action, format!("the address of the next page of {what} is not a URL")))?;
    if url.origin() != access.base.origin() {
        return Err(Error::Forbidden {
            exchange: Box::new(Exchange::new(&access.action, &response.url)),
            to: shown(&url),
            problem: "the next page is on another host",
        });
    }
    Ok(Some(url))
}
