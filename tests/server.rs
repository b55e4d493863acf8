//! A small HTTP server on loopback: files with validators, redirects, and git repositories through `git http-backend`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::peer;

/// What is served below one path.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) status: u16,
}

#[derive(Debug, Default)]
struct State {
    pages: BTreeMap<String, Page>,
    /// `GET /path STATUS`, in order.
    log: Vec<String>,
    /// What a request below a path has to have as `Authorization`.
    guards: BTreeMap<String, String>,
    /// How many requests for a path are answered with 503 first.
    busy: BTreeMap<String, u32>,
}

/// The server; its thread ends with the process.
#[derive(Debug)]
pub(crate) struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves pages, and the bare repositories in `repositories` below `/git/`.
    pub(crate) fn start(repositories: &Path) -> Self {
        Self::with(repositories, None)
    }

    /// The same behind TLS, with a certificate for `localhost` and its key in PEM.
    pub(crate) fn tls(repositories: &Path, certificate: &Path, key: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap());
        Self::with(repositories, Some(Arc::new(config.unwrap())))
    }

    fn with(repositories: &Path, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<Mutex<State>>::default();
        let (shared, repositories) = (Arc::clone(&state), repositories.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, repositories, tls) = (Arc::clone(&shared), repositories.clone(), tls.clone());
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    drop(match tls {
                        Some(tls) => {
                            let connection = ServerConnection::new(tls).unwrap();
                            let mut stream = StreamOwned::new(connection, stream);
                            let served = serve(&mut stream, &state, &repositories);
                            stream.conn.send_close_notify();
                            served.and(stream.flush())
                        }
                        None => serve(stream, &state, &repositories),
                    });
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The same for a server behind TLS.
    pub(crate) fn secure_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.rsplit_once(':').unwrap().1)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Answers 401 to requests below a path that do not have this `Authorization`.
    pub(crate) fn guard(&self, path: &str, authorization: &str) {
        self.state.lock().unwrap().guards.insert(path.to_owned(), authorization.to_owned());
    }

    /// Answers so many requests for a path with 503.
    pub(crate) fn be_busy(&self, path: &str, requests: u32) {
        self.state.lock().unwrap().busy.insert(path.to_owned(), requests);
    }

    /// Serves a file; one with the same bytes has the same `ETag`.
    pub(crate) fn page(&self, path: &str, body: impl Into<Vec<u8>>) {
        let body = body.into();
        let headers = vec![
            ("ETag", format!("\"{}\"", blake3::hash(&body).to_hex())),
            ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
        ];
        self.state.lock().unwrap().pages.insert(path.to_owned(), Page { body, headers, status: 200 });
    }

    pub(crate) fn put(&self, path: &str, page: Page) {
        self.state.lock().unwrap().pages.insert(path.to_owned(), page);
    }

    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn read(stream: &mut impl Read) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

fn serve(mut stream: impl Read + Write, state: &Mutex<State>, repositories: &Path) -> std::io::Result<()> {
    let Some(request) = read(&mut stream) else { return Ok(()) };
    let shown = request.headers.get("authorization");
    let refused = |(path, guard): (&String, &String)| request.path.starts_with(path) && shown != Some(guard);
    if state.lock().unwrap().guards.iter().any(refused) {
        return stream.write_all(b"HTTP/1.1 401 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if let Some(path) = request.path.strip_prefix("/git") {
        let answer = git(&request, path, repositories);
        return stream.write_all(&answer);
    }
    let mut state = state.lock().unwrap();
    let page = state.pages.get(&request.path).cloned();
    let mut page = page.unwrap_or(Page { body: b"no such page".to_vec(), headers: Vec::new(), status: 404 });
    let etag = page.headers.iter().find(|(name, _)| *name == "ETag").map(|(_, value)| value);
    let dated = request.headers.contains_key("if-modified-since") && !request.headers.contains_key("if-none-match");
    if dated || etag.is_some() && request.headers.get("if-none-match") == etag {
        (page.status, page.body) = (304, Vec::new());
    }
    if let Some(left) = state.busy.get_mut(&request.path).filter(|left| **left > 0) {
        *left -= 1;
        (page.status, page.body) = (503, Vec::new());
    }
    state.log.push(format!("{} {} {}", request.method, request.path, page.status));
    let mut head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n", page.status, page.body.len());
    for (name, value) in &page.headers {
        head.extend([name, ": ", value.as_str(), "\r\n"]);
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(&page.body)
}

/// Answers through git's own CGI program.
fn git(request: &Request, path: &str, repositories: &Path) -> Vec<u8> {
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", repositories)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", &request.query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cannot run git: apt-get install git");
    child.stdin.take().unwrap().write_all(&request.body).unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let text = String::from_utf8_lossy(&output);
    let status = text.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    [format!("HTTP/1.1 {status}\r\nConnection: close\r\n").as_bytes(), &output].concat()
}

/// A repository with two commits: `v1` (an annotated tag) and `main`.
pub(crate) fn repository(directory: &Path) -> PathBuf {
    let (work, bare) = (directory.join("work"), directory.join("repositories/x.git"));
    fs_err::create_dir_all(work.join("sub")).unwrap();
    let git = |arguments: &[&str]| {
        let common =
            ["-C", work.to_str().unwrap(), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "tag.gpgSign=false"];
        peer("git", &[&common, arguments].concat())
    };
    git(&["init", "-q", "-b", "main"]);
    fs_err::write(work.join("Dockerfile"), "FROM scratch\nCOPY f sub /\n").unwrap();
    fs_err::write(work.join("f"), "one").unwrap();
    fs_err::write(work.join("sub/Dockerfile"), "FROM scratch\nCOPY g /\n").unwrap();
    fs_err::write(work.join("sub/g"), "g").unwrap();
    fs_err::write(work.join(".dockerignore"), "sub/Dockerfile\n").unwrap();
    std::os::unix::fs::symlink("/etc", work.join("out")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", work.join("Evil")).unwrap();
    git(&["add", "."]);
    git(&["commit", "-qm", "one"]);
    git(&["tag", "-a", "-m", "v1", "v1"]);
    fs_err::write(work.join("f"), "two").unwrap();
    git(&["commit", "-qam", "two"]);
    peer("git", &["clone", "-q", "--bare", work.to_str().unwrap(), bare.to_str().unwrap()]);
    directory.join("repositories")
}

/// The commit of a ref.
pub(crate) fn commit(directory: &Path, reference: &str) -> String {
    let work = directory.join("work");
    peer("git", &["-C", work.to_str().unwrap(), "rev-parse", &format!("{reference}^{{commit}}")]).trim().to_owned()
}
