//! What is remembered of builds and releases, with the keys of Convox's JSON in their order. Pure.

use jiff::Timestamp;
use oci_spec::image::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

/// How far a build has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has a name.
    #[default]
    Created,
    /// It runs.
    Running,
    /// It ended well.
    Complete,
    /// It ended otherwise.
    Failed,
}

impl Status {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
        }
    }
}

/// `build.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Build {
    /// Its name.
    pub id: String,
    /// The app.
    pub app: String,
    /// What the user says of it.
    pub description: String,
    /// The entrypoint of the image that was built last, as a shell would read it.
    pub entrypoint: String,
    /// The commit that was built.
    pub git_sha: String,
    /// Where a rack keeps the log; here it lies beside the record, and this is empty.
    pub logs: String,
    /// The text of the convox.yml.
    pub manifest: String,
    /// The process that builds: here the id of rbuild's.
    pub process: String,
    /// The release that it made.
    pub release: String,
    /// Why it failed.
    pub reason: String,
    /// Where its images are.
    pub repository: String,
    /// How far it has come.
    pub status: Status,
    /// When it began.
    #[serde(with = "go_time")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(with = "go_time")]
    pub ended: Option<Timestamp>,
}

/// A release: a build with an environment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Release {
    /// Its name.
    pub id: String,
    /// The app.
    pub app: String,
    /// The build; empty while only the environment is known.
    pub build: String,
    /// The environment, `KEY=VALUE` lines.
    pub env: String,
    /// The text of the convox.yml.
    pub manifest: String,
    /// What it is.
    pub description: String,
    /// When it was made.
    #[serde(with = "go_time")]
    pub created: Option<Timestamp>,
}

/// The image of one service of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceImage {
    /// The service.
    pub service: String,
    /// The image's name, `<repository>:<service>.<build>`.
    pub reference: String,
    /// Its manifest, or the index of an image that is copied with all its platforms.
    pub descriptor: Descriptor,
    /// Everything that it consists of: manifests, configs, layers.
    pub blobs: Vec<Descriptor>,
    /// Whether it was pushed, or is in the store alone.
    pub pushed: bool,
    /// The platform that it was built for; none of one that was copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How long building or copying took, in milliseconds.
    #[serde(default)]
    pub milliseconds: u64,
}

impl ServiceImage {
    /// The digest of the manifest.
    pub fn digest(&self) -> &Digest {
        self.descriptor.digest()
    }
}

/// Writes a document as Go's `encoding/json` does with an indent of two.
pub fn go_json(document: &impl Serialize) -> String {
    go_escaped(&serde_json::to_string_pretty(document).expect("a record is plain data"))
}

/// Escapes `<`, `>`, `&` and two separators in a JSON document as Go does: outside of its texts it has none of these.
pub fn go_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Words as a POSIX shell reads them.
pub fn shell_words(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let quoted = words.iter().map(|word| {
        let bare = !word.is_empty() && word.chars().all(plain);
        if bare { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Go's `time.Time` in JSON: RFC 3339, and the first moment of year one for no time.
mod go_time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const ZERO: &str = "0001-01-01T00:00:00Z";

    #[expect(clippy::ref_option, reason = "serde gives the field by reference")]
    pub(super) fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.map_or_else(|| ZERO.to_owned(), |time| time.to_string()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text == ZERO {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| D::Error::custom(format!("`{text}` is not a time")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_written_as_go_writes_it() {
        let build = Build {
            id: "BABCDEFGHIJ".into(),
            app: "myapp".into(),
            description: "a <b> & \"c\"".into(),
            started: "2026-01-02T03:04:05.5Z".parse().ok(),
            ..Build::default()
        };
        let text = go_json(&build);
        expect_test::expect![[r#"
            {
              "id": "BABCDEFGHIJ",
              "app": "myapp",
              "description": "a \u003cb\u003e \u0026 \"c\"",
              "entrypoint": "",
              "git-sha": "",
              "logs": "",
              "manifest": "",
              "process": "",
              "release": "",
              "reason": "",
              "repository": "",
              "status": "created",
              "started": "2026-01-02T03:04:05.5Z",
              "ended": "0001-01-01T00:00:00Z"
            }"#]]
        .assert_eq(&text);
        assert_eq!(serde_json::from_str::<Build>(&text).unwrap(), build);
    }

    #[test]
    fn words_survive_a_shell() {
        let words = ["node", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(shell_words(&words), r"node 'a b' 'it'\''s' ''");
    }
}
