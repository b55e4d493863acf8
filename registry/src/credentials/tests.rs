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

fn mode(path: &std::path::Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&fs_err::metadata(path).unwrap().permissions()) & 0o777
}

#[test]
fn a_login_is_kept_and_a_logout_forgets_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/config.json");
    assert_eq!(edit::store(&path, "r.test:5000", "user", "pa:ss").unwrap(), edit::Kept::File);
    assert_eq!(mode(&path), 0o600);
    edit::store(&path, "docker.io", "hub", "p").unwrap();
    edit::store(&path, "registry-1.docker.io", "hub", "other").unwrap();
    let text = fs_err::read_to_string(&path).unwrap();
    assert_eq!(text.matches("index.docker.io/v1/").count(), 1, "{text}");
    let credentials = Credentials::from_files([path.clone()]).unwrap();
    assert_eq!(credentials.find("r.test:5000", "x").unwrap(), Some(password("user", "pa:ss")));
    assert_eq!(credentials.find("docker.io", "library/x").unwrap(), Some(password("hub", "other")));
    assert!(edit::erase(&path, "index.docker.io").unwrap() && !edit::erase(&path, "docker.io").unwrap());
    let credentials = Credentials::from_files([path]).unwrap();
    assert_eq!(credentials.find("docker.io", "library/x").unwrap(), None);
    assert!(!edit::erase(&directory.path().join("none.json"), "r.test").unwrap());
}

#[test]
fn a_login_leaves_the_rest_of_the_file_and_follows_its_link() {
    let directory = tempfile::tempdir().unwrap();
    let (real, path) = (directory.path().join("real.json"), directory.path().join("config.json"));
    fs_err::write(&real, r#"{"psFormat": "x", "auths": {"a.io": {"auth": "dTpw"}}}"#).unwrap();
    fs_err::os::unix::fs::symlink(&real, &path).unwrap();
    edit::store(&path, "b.io", "u", "p").unwrap();
    let text = fs_err::read_to_string(&real).unwrap();
    assert!(text.contains("psFormat") && text.contains("a.io") && text.contains("b.io"), "{text}");
    assert!(fs_err::symlink_metadata(&path).unwrap().is_symlink());
    assert_eq!(mode(&real), 0o600);
    fs_err::write(&real, r#"{"auths": []}"#).unwrap();
    assert!(matches!(edit::store(&path, "b.io", "u", "p"), Err(Error::CredentialSyntax { .. })));
    fs_err::write(&real, r#"{"credsStore": "no-such-helper-anywhere"}"#).unwrap();
    let error = edit::store(&path, "b.io", "u", "hunter2").unwrap_err();
    assert!(error.to_string().ends_with("it is not in PATH") && !format!("{error:?}").contains("hunter2"), "{error}");
    assert!(!fs_err::read_to_string(&real).unwrap().contains("auths"));
    for host in ["", "http://x", "a/b", "u@h"] {
        assert!(edit::store(&path, host, "u", "p").is_err(), "{host}");
    }
}

#[test]
fn credentials_may_come_as_text() {
    let credentials = Credentials::default().with_text("$X", r#"{"auths": {"a.io": {"auth": "dTpw"}}}"#).unwrap();
    assert_eq!(credentials.find("a.io", "x").unwrap(), Some(password("u", "p")));
    let error = Credentials::default().with_text("$X", "hunter2").unwrap_err();
    assert_eq!(error.to_string(), "`$X` is not a registry credential file: it is not a JSON object");
}

#[test]
fn an_empty_file_has_no_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs_err::write(&path, " \n").unwrap();
    let credentials = Credentials::from_files([path.clone(), "/dev/null".into()]).unwrap();
    assert_eq!(credentials.find("a.io", "x").unwrap(), None);
    edit::store(&path, "a.io", "u", "p").unwrap();
    assert_eq!(Credentials::from_files([path]).unwrap().find("a.io", "x").unwrap(), Some(password("u", "p")));
}
