//! What a token allows: sets of (resource, action), written as `repository:name:pull,push`.

use std::collections::BTreeSet;

/// Longest text of scopes that is taken over from a challenge, in bytes.
const TEXT_LIMIT: usize = 2048;

/// A set of permissions; the empty one asks for nothing but an identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scopes(BTreeSet<(String, String)>);

impl Scopes {
    /// Leave to read a repository.
    pub(crate) fn pull(repository: &str) -> Self {
        Self::of(&format!("repository:{repository}"), &["pull"])
    }

    /// Leave to read and write a repository.
    pub(crate) fn push(repository: &str) -> Self {
        Self::of(&format!("repository:{repository}"), &["pull", "push"])
    }

    fn of(resource: &str, actions: &[&str]) -> Self {
        Self(actions.iter().map(|&action| (resource.to_owned(), action.to_owned())).collect())
    }

    /// Reads the `scope` of a challenge; what does not have the form is left out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut pairs = BTreeSet::new();
        if text.len() > TEXT_LIMIT {
            return Self(pairs);
        }
        for word in text.split(' ').filter(|word| word.chars().all(|c| c.is_ascii_graphic())) {
            let Some((resource, actions)) = word.rsplit_once(':') else { continue };
            if resource.contains(':') {
                pairs.extend(actions.split(',').map(|action| (resource.to_owned(), action.to_owned())));
            }
        }
        Self(pairs)
    }

    /// Both sets in one.
    pub(crate) fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).cloned().collect())
    }

    /// Says whether everything in `other` is in this set.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }

    /// One text for each resource, as the token service takes them.
    pub(crate) fn texts(&self) -> Vec<String> {
        let mut texts: Vec<(&str, String)> = Vec::new();
        for (resource, action) in &self.0 {
            match texts.last_mut() {
                Some((last, text)) if last == resource => {
                    text.push(',');
                    text.push_str(action);
                }
                _ => texts.push((resource, format!("{resource}:{action}"))),
            }
        }
        texts.into_iter().map(|(_, text)| text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_sets() {
        let push = Scopes::push("a/b");
        assert!(push.covers(&Scopes::pull("a/b")) && !Scopes::pull("a/b").covers(&push));
        assert!(!push.covers(&Scopes::pull("a")));
        assert_eq!(push.texts(), ["repository:a/b:pull,push"]);
        assert_eq!(push.union(&Scopes::pull("c")).texts(), ["repository:a/b:pull,push", "repository:c:pull"]);
        assert_eq!(Scopes::parse("repository:a/b:push,pull"), push);
        assert_eq!(
            Scopes::parse("registry:catalog:* repository:c:pull").texts(),
            ["registry:catalog:*", "repository:c:pull"]
        );
    }

    #[test]
    fn odd_scopes_are_left_out() {
        for text in ["", "x", "x:y", "re\u{7}p:x:y", &"repository:x:pull ".repeat(1000)] {
            assert_eq!(Scopes::parse(text), Scopes::default(), "{text:?}");
        }
    }
}
