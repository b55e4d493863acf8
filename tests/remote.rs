//! Servers that want secrets, repositories with submodules, and fetching that Ctrl-C ends.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Bench, Image, Run, peer};
use crate::server::{Page, Server, commit, repository};

/// What `GIT_AUTH_TOKEN=hunter2` becomes.
const BASIC: &str = "basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==";

/// A file with a secret.
fn secret(bench: &Bench, value: &str) -> String {
    let file = bench.path("secret");
    fs_err::write(&file, format!("{value}\n")).unwrap();
    file.display().to_string()
}

/// Files below a directory that hold `text`.
fn holding(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut open = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        let kind = fs_err::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            open.extend(fs_err::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_file() && fs_err::read(&path).unwrap().windows(text.len()).any(|w| w == text.as_bytes()) {
            found.push(path);
        }
    }
    found
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let common = ["-C", directory.to_str().unwrap(), "-c", "user.name=t", "-c", "user.email=t@t"];
    peer("git", &[&common, arguments].concat())
}

/// A file that is put in another's place keeps its time where somebody wants it to, `cp -p` for one.
#[test]
fn a_file_is_not_known_by_its_date() {
    let bench = Bench::new();
    let server = Server::start(&bench.path(""));
    let date = ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned());
    bench.dockerfile(&format!("FROM scratch\nADD {} /\n", server.url("/f")));
    for text in ["one", "two"] {
        server.put("/f", Page { body: text.into(), headers: vec![date.clone()], status: 200 });
        assert_eq!(bench.image(&[]).text("f"), text);
    }
}

#[test]
fn files_behind_a_secret_are_added() {
    let bench = Bench::new();
    let server = Server::start(&bench.path(""));
    server.page("/token/f", "one");
    server.page("/header/g", "two");
    server.guard("/token", "Bearer hunter2");
    server.guard("/header", "Custom hunter2");
    bench.dockerfile(&format!("FROM scratch\nADD {} /\n", server.url("/token/f")));
    let refused = bench.try_build(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("the server answers 401"), "{}", refused.stderr);
    let file = secret(&bench, "hunter2");
    let image = bench.image(&["--secret", &format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={file}")]);
    assert_eq!(image.text("f"), "one");
    // No secret is in the key.
    let again =
        bench.build(&["--secret", &format!("id=HTTP_AUTH_HEADER_127.0.0.1,src={}", secret(&bench, "Bearer hunter2"))]);
    assert_eq!(again.cached(), 1, "{}", again.stderr);

    bench.dockerfile(&format!("FROM scratch\nADD {} /\n", server.url("/header/g")));
    let file = secret(&bench, "Custom hunter2");
    let run = bench.build(&["--secret", &format!("id=HTTP_AUTH_HEADER_127.0.0.1,src={file}")]);
    assert!(!run.stderr.contains("hunter2"), "{}", run.stderr);
    assert_eq!(holding(&bench.path("home"), "hunter2"), Vec::<PathBuf>::new());
    let other = bench.try_build(&["--no-cache", "--secret", &format!("id=HTTP_AUTH_HEADER_localhost,src={file}")]);
    assert!(other.code == 1 && other.stderr.contains("401"), "another host's: {}", other.stderr);
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let bench = Bench::new();
    let server = Server::start(&bench.path(""));
    server.page("/with%20space", "one");
    server.be_busy("/with%20space", 2);
    bench.dockerfile(&format!("FROM scratch\nADD {} /\n", server.url("/with%20space")));
    assert_eq!(bench.image(&[]).text("with space"), "one");
    assert_eq!(server.log(), ["GET /with%20space 503", "GET /with%20space 503", "GET /with%20space 200"]);
    server.be_busy("/with%20space", 100);
    let run = bench.try_build(&["--no-cache"]);
    assert!(run.code == 1 && run.stderr.contains("the server answers 503"), "{}", run.stderr);
    assert_eq!(server.log().len(), 5);
    bench.dockerfile(&format!("FROM scratch\nADD {} /\n", server.url("/missing")));
    assert!(bench.try_build(&[]).stderr.contains("the server answers 404"));
    assert_eq!(server.log().len(), 1);
}

#[test]
fn repositories_behind_a_secret_are_read() {
    let bench = Bench::new();
    let server = Server::start(&repository(&bench.path("")));
    server.guard("/git", BASIC);
    let url = server.url("/git/x.git");
    // A git that notes what others see of it.
    let (program, log) = (bench.path("bin/git"), bench.path("git.log"));
    fs_err::create_dir(bench.path("bin")).unwrap();
    let script = format!("#!/bin/sh\ntr '\\0' ' ' </proc/$$/cmdline >>{}\nexec /usr/bin/git \"$@\"\n", log.display());
    fs_err::write(&program, script).unwrap();
    fs_err::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bench.path("bin").display());

    let run = |secret: &str, context: &str| {
        let layout = format!("type=oci,tar=false,dest={}", bench.path("layout").display());
        let mut command = bench.rbuild();
        command.args(["--progress", "plain", "--no-cache", "-o", &layout, "--secret", secret, context]);
        Run::of(command.env("PATH", &path))
    };
    let file = secret(&bench, "hunter2");
    let of_host = format!("id=GIT_AUTH_TOKEN.{},src={file}", server.address());
    for context in [url.as_str(), "."] {
        bench.dockerfile(&format!("FROM scratch\nADD {url}#main:sub /\n"));
        for given in [of_host.as_str(), &format!("id=GIT_AUTH_TOKEN,src={file}")] {
            let run = run(given, context);
            assert_eq!(run.code, 0, "{}", run.stderr);
            assert!(!run.stderr.contains("hunter2") && !run.stderr.contains("eC1hY2"), "{}", run.stderr);
        }
        let refused = run(&format!("id=GIT_AUTH_TOKEN.other.example,src={file}"), context);
        assert!(refused.code == 1 && refused.stderr.contains("git cannot read"), "{}", refused.stderr);
    }
    let whole = secret(&bench, BASIC);
    assert_eq!(run(&format!("id=GIT_AUTH_HEADER,src={whole}"), &url).code, 0);
    let seen = fs_err::read_to_string(log).unwrap();
    assert!(seen.contains("fetch") && !seen.contains("hunter2") && !seen.contains("eC1hY2"), "{seen}");
    for text in ["hunter2", "eC1hY2"] {
        assert_eq!(holding(&bench.path("home"), text), Vec::<PathBuf>::new());
    }
}

/// A repository `top.git` that has `x.git` as a submodule, which is named by its place beside it.
fn with_submodule(bench: &Bench) -> PathBuf {
    let repositories = repository(&bench.path(""));
    let top = bench.path("top");
    fs_err::create_dir(&top).unwrap();
    git(&top, &["init", "-q", "-b", "main"]);
    fs_err::write(top.join("own"), "own").unwrap();
    let inner = commit(&bench.path(""), "v1");
    fs_err::write(top.join(".gitmodules"), "[submodule \"inner\"]\n\tpath = inner\n\turl = ../x.git\n").unwrap();
    git(&top, &["add", "."]);
    git(&top, &["update-index", "--add", "--cacheinfo", &format!("160000,{inner},inner")]);
    git(&top, &["commit", "-qm", "top"]);
    let bare = repositories.join("top.git");
    peer("git", &["clone", "-q", "--bare", top.to_str().unwrap(), bare.to_str().unwrap()]);
    repositories
}

#[test]
fn submodules_are_fetched_unless_the_url_says_otherwise() {
    let bench = Bench::new();
    let server = Server::start(&with_submodule(&bench));
    let image = |query: &str| {
        bench.dockerfile(&format!("FROM scratch\nADD {}{query} /d/\n", server.url("/git/top.git")));
        bench.image(&[])
    };
    let whole = image("");
    assert_eq!((whole.text("d/own").as_str(), whole.text("d/inner/f").as_str()), ("own", "one"));
    assert!(!whole.contents().contains_key("d/inner/.git"));
    let without = image("?submodules=false");
    assert!(without.contents().contains_key("d/own") && !without.contents().contains_key("d/inner/f"));
    assert!(image("?submodules=true").contents().contains_key("d/inner/f"));
    // As a context, too.
    let context = format!("{}?submodules=0&keep-git-dir", server.url("/git/top.git"));
    bench.dockerfile("FROM scratch\nCOPY --from=top / /\n");
    let image = bench.image(&["--build-context", &format!("top={context}")]);
    assert!(image.contents().contains_key(".git/HEAD") && !image.contents().contains_key("inner/f"));
}

#[test]
fn a_commit_is_known_by_its_beginning_and_without_its_ref() {
    let bench = Bench::new();
    let server = Server::start(&repository(&bench.path("")));
    let url = server.url("/git/x.git");
    let first = commit(&bench.path(""), "v1");
    let text = |suffix: &str| {
        bench.dockerfile(&format!("FROM scratch\nADD {url}{suffix} /\n"));
        bench.image(&[]).text("f")
    };
    assert_eq!(text(&format!("#{}", &first[..8])), "one");
    assert_eq!(text(&format!("?ref=main&checksum={first}&fetch-by-commit=true")), "one");
    bench.dockerfile(&format!("FROM scratch\nADD {url}?ref=main&checksum={first} /\n"));
    let led_elsewhere = bench.try_build(&[]);
    assert!(led_elsewhere.code == 1 && led_elsewhere.stderr.contains(&first), "{}", led_elsewhere.stderr);
    bench.dockerfile(&format!("FROM scratch\nADD {url}#{} /\n", "0".repeat(8)));
    let none = bench.try_build(&[]);
    assert!(none.code == 1 && none.stderr.contains("has no ref `00000000`"), "{}", none.stderr);
}

#[test]
fn files_of_a_repository_are_as_old_as_the_url_says() {
    let bench = Bench::new();
    let server = Server::start(&repository(&bench.path("")));
    let made: u64 = git(&bench.path("work"), &["log", "-1", "--format=%ct", "v1"]).trim().parse().unwrap();
    let age = |query: &str| {
        bench.dockerfile(&format!("FROM scratch\nADD {}?tag=v1&subdir=sub{query} /\n", server.url("/git/x.git")));
        let root = bench.path("root");
        if root.exists() {
            fs_err::remove_dir_all(&root).unwrap();
        }
        bench.build(&["-o", &format!("type=local,dest={}", root.display())]);
        let time = fs_err::metadata(root.join("g")).unwrap().modified().unwrap();
        time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    };
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!((age(""), age("&mtime=commit")), (made, made));
    assert!(age("&mtime=checkout") > made);
}

/// An authority of its own, and a certificate of it for `localhost`.
fn certificates(directory: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let at = |name: &str| directory.join(name).display().to_string();
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
    let authority = ["-subj", "/CN=authority", "-keyout", &at("ca.key"), "-out", &at("ca.pem")];
    peer("openssl", &[&new[..], &authority].concat());
    let host = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext"];
    let signed = ["basicConstraints=critical,CA:FALSE", "-CA", &at("ca.pem"), "-CAkey", &at("ca.key")];
    let files = ["-keyout", &at("key.pem"), "-out", &at("cert.pem")];
    peer("openssl", &[&new[..], &host, &signed, &files].concat());
    (directory.join("ca.pem"), directory.join("cert.pem"), directory.join("key.pem"))
}

#[test]
fn servers_behind_tls_are_trusted_by_their_authority() {
    let bench = Bench::new();
    let (authority, certificate, key) = certificates(&bench.path(""));
    let server = Server::tls(&repository(&bench.path("")), &certificate, &key);
    server.page("/file", "x");
    let (git, file) = (server.secure_url("/git/x.git"), server.secure_url("/file"));
    bench.dockerfile(&format!("FROM scratch\nADD {git}#v1 /git/\nADD {file} /\n"));
    let layout = bench.path("layout");
    let run = |authority: Option<&Path>| {
        let mut command = bench.rbuild();
        command.args(["--progress", "plain", "-o", &format!("type=oci,tar=false,dest={}", layout.display()), "."]);
        Run::of(command.envs(authority.map(|file| ("SSL_CERT_FILE", file))))
    };
    let unknown = run(None);
    assert!(unknown.code == 1 && unknown.stderr.contains("certificate"), "{}", unknown.stderr);
    let known = run(Some(&authority));
    assert_eq!(known.code, 0, "{}", known.stderr);
    let image = Image::read(&layout);
    assert_eq!((image.text("git/f").as_str(), image.text("file").as_str()), ("one", "x"));
}

/// Processes other than this one that were told `text`.
fn told(text: &str) -> usize {
    let own = std::process::id().to_string();
    let entries = fs_err::read_dir("/proc").unwrap().filter_map(Result::ok).filter(|e| e.file_name() != own.as_str());
    entries
        .filter_map(|entry| fs_err::read(entry.path().join("cmdline")).ok())
        .filter(|line| line.windows(text.len()).any(|window| window == text.as_bytes()))
        .count()
}

/// A server that answers nobody before it has been asked for everything.
#[test]
fn files_and_repositories_are_asked_for_at_the_same_time() {
    const ASKED: usize = 3;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let asked = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut waiting = Vec::new();
        while waiting.len() < ASKED && Instant::now() < deadline {
            match listener.accept() {
                Ok((stream, _)) => waiting.push(stream),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        // What all of them get, as their connections are closed, is an error.
        waiting.len()
    });
    let add = |path: &str| format!("ADD http://{address}/{path} /\n");
    let bench = Bench::with(&format!("FROM scratch\n{}{}{}", add("a"), add("b"), add("c.git")));
    assert_eq!(bench.try_build(&[]).code, 1);
    assert_eq!(asked.join().unwrap(), ASKED);
}

#[test]
fn ctrl_c_ends_fetching_at_once() {
    // Connections are taken by the kernel, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (file, repository) = (format!("http://{address}/f"), format!("http://{address}/x.git"));
    for (dockerfile, arguments) in [
        ("FROM scratch\n".to_owned(), vec![file.as_str()]),
        ("FROM scratch\n".to_owned(), vec![repository.as_str()]),
        ("FROM scratch\n".to_owned(), vec!["-"]),
        (format!("FROM scratch\nADD {file} /\n"), vec!["."]),
        (format!("FROM scratch\nADD {repository} /\n"), vec!["."]),
        ("FROM scratch\nCOPY --from=n / /\n".to_owned(), vec![".", "--build-context", &format!("n={repository}")]),
    ] {
        let bench = Bench::with(&dockerfile);
        let mut command: Command = bench.rbuild();
        command.args(["--progress", "plain"]).args(&arguments).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let deadline = Instant::now() + Duration::from_secs(20);
        // A build that waits has a connection, and one that reads standard input has its store.
        while !bench.path("home/store-v1/tmp").exists() {
            assert!(Instant::now() < deadline, "{arguments:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(400));
        let begun = Instant::now();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{arguments:?}: {said}");
        assert!(said.contains("the build was cancelled"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{arguments:?}: {:?}", begun.elapsed());
        assert_eq!(told(&address), 0, "{arguments:?}");
        bench.assert_clean();
        drop(stdin);
    }
}

#[test]
fn keys_for_ssh_are_used_without_an_agent() {
    let script = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK});\n\
        $s->syswrite(pack('NC', 1, 11)); my $answer; $s->sysread($answer, 9);\n\
        my ($length, $kind, $keys) = unpack('NCN', $answer); print \"$kind $keys\\n\";\n";
    let bench = Bench::with(&format!(
        "FROM {{debian}}\nRUN --mount=type=ssh,required <<END\nperl >/tmp/out <<'PERL'\n{script}PERL\nEND\n"
    ));
    let key = |name: &str, passphrase: &str| {
        let file = bench.path(name).display().to_string();
        peer("ssh-keygen", &["-q", "-t", "ed25519", "-N", passphrase, "-f", &file]);
        file
    };
    let (one, two, locked) = (key("one", ""), key("two", ""), key("locked", "passphrase"));
    let (temporary, layout) = (bench.path("t"), bench.path("layout"));
    fs_err::create_dir(&temporary).unwrap();
    let run = |keys: String| {
        let mut command = bench.rbuild();
        command.args(["--progress", "plain", "-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
        let run = Run::of(command.args(["--ssh", &format!("default={keys}"), "."]).env("TMPDIR", &temporary));
        let deadline = Instant::now() + Duration::from_secs(10);
        while told(temporary.to_str().unwrap()) > 0 {
            assert!(Instant::now() < deadline, "an agent is left");
            std::thread::sleep(Duration::from_millis(20));
        }
        run
    };
    let used = run(format!("{one},{two}"));
    assert_eq!(used.code, 0, "{}", used.stderr);
    // 12 is SSH_AGENT_IDENTITIES_ANSWER (draft-miller-ssh-agent, 3.5).
    assert_eq!(Image::read(&layout).text("tmp/out"), "12 2\n");
    let refused = run(locked);
    assert!(refused.code == 1 && refused.stderr.contains("cannot load the ssh key"), "{}", refused.stderr);
}

#[test]
fn settings_of_the_frontend_come_as_build_args() {
    let bench = Bench::with(
        "FROM {busybox}\nARG SOURCE_DATE_EPOCH\nARG TARGETSTAGE\n\
         RUN --mount=type=cache,target=/c echo x >>/c/n && (hostname; wc -l </c/n; echo $SOURCE_DATE_EPOCH $TARGETSTAGE) >/seen\n",
    );
    let seen = |args: &[&str]| {
        let mut all = vec!["--no-cache"];
        all.extend(args.iter().flat_map(|arg| ["--build-arg", *arg]));
        bench.image(&all).text("seen")
    };
    assert_eq!(seen(&[]), "buildkitsandbox\n1\ndefault\n");
    assert_eq!(seen(&["BUILDKIT_SANDBOX_HOSTNAME=builder-1"]), "builder-1\n2\ndefault\n");
    assert_eq!(seen(&["BUILDKIT_CACHE_MOUNT_NS=other", "SOURCE_DATE_EPOCH=9"]), "buildkitsandbox\n1\n9 default\n");
    assert_eq!(seen(&["BUILDKIT_CACHE_MOUNT_NS=other"]), "buildkitsandbox\n2\ndefault\n");
    let run = bench.build(&["--build-arg", "BUILDKIT_SYNTAX=example.com/other:1"]);
    assert!(run.stderr.contains("the frontend `example.com/other:1` is not loaded"), "{}", run.stderr);
    let wrong = bench.try_build(&["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=a b"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("BUILDKIT_SANDBOX_HOSTNAME"), "{}", wrong.stderr);
}

/// A server for one ssh connection, on the standard streams of its client, that accepts one key; the options of ssh that
/// lead to it.
fn behind_ssh(bench: &Bench) -> String {
    let file = |name: &str| bench.path(name).display().to_string();
    for name in ["host", "user"] {
        peer("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &file(name)]);
    }
    let host = fs_err::read_to_string(bench.path("host.pub")).unwrap();
    fs_err::write(bench.path("known"), format!("git.example {host}")).unwrap();
    let config = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\n",
        file("host"),
        file("user.pub")
    );
    fs_err::write(bench.path("sshd"), config).unwrap();
    // Where sshd keeps its unprivileged part, which the service would have made.
    fs_err::create_dir_all("/run/sshd").unwrap();
    format!("ssh -F none -o BatchMode=yes -o 'ProxyCommand=/usr/sbin/sshd -i -f {}'", file("sshd"))
}

#[test]
fn repositories_behind_ssh_are_read() {
    let bench = Bench::new();
    let x = repository(&bench.path("")).join("x.git");
    let ssh = behind_ssh(&bench);
    let known = format!("{ssh} -o UserKnownHostsFile={}", bench.path("known").display());
    let unknown = format!("{ssh} -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null");
    let key = format!("default={}", bench.path("user").display());
    let layout = bench.path("layout");
    let run = |ssh: &str, keys: &[&str], context: &str| {
        if layout.exists() {
            fs_err::remove_dir_all(&layout).unwrap();
        }
        let mut command = bench.rbuild();
        command.args(["--no-cache", "-o", &format!("type=oci,tar=false,dest={}", layout.display()), context]);
        Run::of(command.args(keys).env("GIT_SSH_COMMAND", ssh).env_remove("SSH_AUTH_SOCK"))
    };
    for url in [format!("root@git.example:{}", x.display()), format!("ssh://root@git.example{}", x.display())] {
        let built = run(&known, &["--ssh", &key], &format!("{url}#main:sub"));
        assert_eq!(built.code, 0, "{}", built.stderr);
        assert_eq!(Image::read(&layout).text("g"), "g");
        bench.dockerfile(&format!("FROM scratch\nADD {url}#v1 /\n"));
        let added = run(&known, &["--ssh", &key], ".");
        assert_eq!(added.code, 0, "{}", added.stderr);
        assert_eq!(Image::read(&layout).text("f"), "one");
        let keyless = run(&known, &[], &url);
        assert!(keyless.code == 1 && keyless.stderr.contains("--ssh default=FILE"), "{}", keyless.stderr);
        let strange = run(&unknown, &["--ssh", &key], &url);
        assert!(strange.code == 1 && strange.stderr.contains("ssh-keyscan"), "{}", strange.stderr);
    }
}
