//! Credential files as docker and podman write them, and helpers as shell scripts.

use std::process::Command;

use super::helper::{Helper, run};
use super::*;

fn load(text: &str) -> Result<Credentials, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs_err::write(&path, text).unwrap();
    Credentials::from_files([directory.path().join("missing.json"), path])
}

fn password(username: &str, password: &str) -> Credential {
    Credential::Password { username: username.into(), password: password.into() }
}

fn shell(script: &str) -> Command {
    // `get` becomes $0 of the script.
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn auths_hold_a_pair_in_base64_or_in_two_fields_or_a_token() {
    let credentials = load(
        r#"{"auths": {
            "a.io": {"auth": "dXNlcjpwYTpzcw=="},
            "b.io:5000": {"username": "u", "password": "p"},
            "c.io": {"auth": "dXNlcjpwYTpzcw", "identitytoken": "refresh"},
            "d.io": {"registrytoken": "bearer"},
            "e.io": {}
        }, "psFormat": "x"}"#,
    )
    .unwrap();
    assert_eq!(credentials.find("a.io", "x").unwrap(), Some(password("user", "pa:ss")));
    assert_eq!(credentials.find("b.io:5000", "x").unwrap(), Some(password("u", "p")));
    assert_eq!(credentials.find("b.io", "x").unwrap(), None);
    assert_eq!(credentials.find("c.io", "x").unwrap(), Some(Credential::IdentityToken("refresh".into())));
    assert_eq!(credentials.find("d.io", "x").unwrap(), Some(Credential::RegistryToken("bearer".into())));
    assert_eq!(credentials.find("e.io", "x").unwrap(), None);
    assert_eq!(credentials.find("evil-a.io", "x").unwrap(), None);
    assert_eq!(credentials.find("a.io.evil", "x").unwrap(), None);
}

#[test]
fn docker_hub_has_many_names_and_one_credential() {
    for key in ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"] {
        let credentials = load(&format!(r#"{{"auths": {{"{key}": {{"auth": "dTpw"}}}}}}"#)).unwrap();
        assert_eq!(credentials.find("docker.io", "library/x").unwrap(), Some(password("u", "p")), "{key}");
        assert_eq!(credentials.find("ghcr.io", "library/x").unwrap(), None, "{key}");
    }
}

#[test]
fn the_longest_namespace_wins() {
    let credentials =
        load(r#"{"auths": {"q.io": {"auth": "YTph"}, "q.io/org": {"auth": "Yjpi"}, "q.io/org/x": {"auth": "Yzpj"}}}"#)
            .unwrap();
    assert_eq!(credentials.find("q.io", "other").unwrap(), Some(password("a", "a")));
    assert_eq!(credentials.find("q.io", "organ/x").unwrap(), Some(password("a", "a")));
    assert_eq!(credentials.find("q.io", "org/y").unwrap(), Some(password("b", "b")));
    assert_eq!(credentials.find("q.io", "org/x/z").unwrap(), Some(password("c", "c")));
}

#[test]
fn what_is_set_by_hand_wins_over_files() {
    let credentials = load(r#"{"auths": {"a.io": {"auth": "dTpw"}}}"#).unwrap().with_password("a.io", "me", "mine");
    assert_eq!(credentials.find("a.io", "x").unwrap(), Some(password("me", "mine")));
}

#[test]
fn a_broken_file_is_an_error_that_quotes_no_value() {
    for text in [
        r#"{"auths": {"a.io": {"auth": 12345678}}}"#,
        r#"{"auths": {"a.io": {"auth": "hunter2!"}}}"#,
        r#"{"auths": {"a.io": {"auth": "aHVudGVyMg=="}}}"#,
        r#"{"auths": {"a.io": {"username": "hunter2"}}}"#,
        r#"{"auths": "hunter2"}"#,
        r#"{"credsStore": "../x"}"#,
        r#"{"credHelpers": {"a.io": "x/y"}}"#,
        r#"{"credHelpers": {"a.io": ""}}"#,
        r#"{"credsStore": "-x"}"#,
        "",
        "[]",
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(!error.contains("hunter2") && !error.contains("1234"), "{error}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let credentials = load(r#"{"auths": {"a.io": {"auth": "dXNlcjpodW50ZXIy"}}}"#)
        .unwrap()
        .with_password("b.io", "someone", "hunter2");
    let options = crate::Options { credentials, ..Default::default() };
    let text = format!("{options:?} {:?}", options.credentials.find("a.io", "x").unwrap());
    assert!(text.contains("b.io") && text.contains("config.json"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("someone") && !text.contains("dXNlc"), "{text}");
}

#[test]
fn a_helper_is_asked_for_the_registry() {
    let script = r#"read -r server || true; printf '{"ServerURL":"x","Username":"%s","Secret":"s"}' "$server""#;
    assert_eq!(run(shell(script), "a.io").unwrap(), Some(password("a.io", "s")));
    assert_eq!(run(shell(script), "docker.io").unwrap(), Some(password("https://index.docker.io/v1/", "s")));
    let script = r#"echo '{"Username":"<token>","Secret":"refresh"}'"#;
    assert_eq!(run(shell(script), "a.io").unwrap(), Some(Credential::IdentityToken("refresh".into())));
}

#[test]
fn a_helper_that_knows_nothing_is_no_error() {
    let script = "echo 'credentials not found in native keychain'; exit 1";
    assert_eq!(run(shell(script), "a.io").unwrap(), None);
}

#[test]
fn a_helper_that_fails_is_an_error_without_its_output() {
    for script in
        ["echo hunter2; exit 3", "echo hunter2", r#"echo '{"Username":"hunter2"}'"#, "exec head -c 100000 /dev/zero"]
    {
        let problem = run(shell(script), "a.io").unwrap_err();
        assert!(!problem.contains("hunter2"), "{problem}");
    }
    let error = helper::get(&Helper::new("no-such-helper-anywhere").unwrap(), "a.io").unwrap_err();
    assert_eq!(
        error.to_string(),
        "credential helper `docker-credential-no-such-helper-anywhere` for `a.io` failed: it is not in PATH"
    );
}
