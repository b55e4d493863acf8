//! The tags of a repository, page after page.

use reqwest::header::LINK;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::{Client, malformed};
use crate::auth::Access;
use crate::origin::shown;
use crate::reference::is_tag;
use crate::transport::{Request, Response};
use crate::{Error, Exchange};

/// Tags asked for at once.
const PAGE: &str = "1000";
/// Largest page, in bytes.
const PAGE_LIMIT: u64 = 4 * 1024 * 1024;
/// Most tags that are read; the largest public repositories have some ten thousand.
const TAG_LIMIT: u64 = 250_000;
/// Most pages: some registries give a few tags each, whatever is asked.
const PAGES_LIMIT: u32 = 5_000;

#[derive(Deserialize)]
struct Page {
    /// Some registries write `null` for none.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

pub(super) fn tags(client: &Client, access: &Access) -> Result<Vec<String>, Error> {
    let action = &access.action;
    let mut url = access.url(&["tags", "list"]);
    url.query_pairs_mut().append_pair("n", PAGE);
    let mut tags = Vec::new();
    for _ in 0..PAGES_LIMIT {
        let mut request = Request::new(action, Method::GET, url.clone());
        request.confined = true;
        let (page, next) = client.exchange(access, &request, &mut |response| match response.status() {
            StatusCode::OK => {
                let next = next(access, &response)?;
                let bytes = response.read(action, "the list of tags", PAGE_LIMIT)?;
                let page: Page = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
                    action: Box::new(action.clone()),
                    what: "the list of tags",
                    source,
                })?;
                Ok((page, next))
            }
            _ => Err(response.refusal(action)),
        })?;
        tags.extend(page.tags.unwrap_or_default());
        if let Some(odd) = tags.iter().find(|tag| !is_tag(tag)) {
            let odd: String = odd.chars().take(64).collect();
            return Err(malformed(action, format!("it lists `{}`, which is not a tag", odd.escape_default())));
        }
        if tags.len() as u64 > TAG_LIMIT {
            let action = Box::new(action.clone());
            return Err(Error::Malformed { action, problem: format!("it has more than {TAG_LIMIT} tags") });
        }
        match next {
            Some(next) if next != url => url = next,
            _ => return Ok(tags),
        }
    }
    Err(malformed(action, format!("its list of tags has more than {PAGES_LIMIT} pages")))
}

/// Reads the address of the next page: `Link: <url>; rel="next"` (RFC 8288). It has to be the registry's own.
fn next(access: &Access, response: &Response) -> Result<Option<Url>, Error> {
    let Some(text) = response.header(LINK.as_str()) else { return Ok(None) };
    let Some((address, parameters)) = text.strip_prefix('<').and_then(|text| text.split_once('>')) else {
        return Ok(None);
    };
    let parameters = parameters.to_ascii_lowercase().replace([' ', '"'], "");
    if !parameters.split(';').any(|parameter| parameter.split(',').next() == Some("rel=next")) {
        return Ok(None);
    }
    let url = response.url.join(address);
    let url = url.map_err(|_| malformed(&access.action, "the address of the next page of tags is not a URL"))?;
    if url.origin() != access.base.origin() {
        return Err(Error::Forbidden {
            exchange: Box::new(Exchange::new(&access.action, &response.url)),
            to: shown(&url),
            problem: "the next page of tags is on another host",
        });
    }
    Ok(Some(url))
}
