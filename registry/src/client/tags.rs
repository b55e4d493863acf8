//! The tags of a repository.

use serde::Deserialize;

use super::{Client, malformed, pages};
use crate::Error;
use crate::auth::Access;
use crate::reference::is_tag;

/// Tags asked for at once.
const PAGE: &str = "1000";
/// Most tags that are read; the largest public repositories have some ten thousand.
const TAG_LIMIT: u64 = 250_000;

#[derive(Deserialize)]
struct Page {
    /// Some registries write `null` for none.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

pub(super) fn tags(client: &Client, access: &Access) -> Result<Vec<String>, Error> {
    let mut url = access.url(&["tags", "list"]);
    url.query_pairs_mut().append_pair("n", PAGE);
    let mut tags = Vec::new();
    pages::each(client, access, url, "the list of tags", &mut |page: Page| {
        tags.extend(page.tags.unwrap_or_default());
        if let Some(odd) = tags.iter().find(|tag| !is_tag(tag)) {
            let odd: String = odd.chars().take(64).collect();
            return Err(malformed(&access.action, format!("it lists `{}`, which is not a tag", odd.escape_default())));
        }
        if tags.len() as u64 > TAG_LIMIT {
            return Err(malformed(&access.action, format!("it has more than {TAG_LIMIT} tags")));
        }
        Ok(())
    })?;
    Ok(tags)
}
