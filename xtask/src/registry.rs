//! The registry on loopback: Debian's docker-registry, started detached and used again while it is up.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::command::{command, quiet, tail};
use crate::state::State;

/// The ports that are tried, in this order; 5000 is the port that docker-registry has by convention.
const PORTS: std::ops::Range<u16> = 5000..5100;

/// How long a start or a stop may take; each takes about 0.1 s.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How often a start or a stop is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A registry that answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registry {
    address: SocketAddr,
}

/// Where the registry keeps its files, see the drawing in [`crate::state`].
struct Files {
    config: PathBuf,
    address: PathBuf,
    pid: PathBuf,
    data: PathBuf,
    log: PathBuf,
}

impl Files {
    fn new(state: &State) -> Result<Self> {
        let directory = state.subdirectory("registry")?;
        let file = |name| directory.join(name);
        let log = state.log("registry")?;
        Ok(Self { config: file("config.json"), address: file("address"), pid: file("pid"), data: file("data"), log })
    }

    /// The process of an earlier start, if it is still our registry and not another process with the same number.
    fn process(&self) -> Option<Pid> {
        let pid: i32 = fs_err::read_to_string(&self.pid).ok()?.trim().parse().ok()?;
        let arguments = fs_err::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.config.as_os_str().as_encoded_bytes();
        arguments.split(|byte| *byte == 0).any(|argument| argument == config).then(|| Pid::from_raw(pid))
    }

    /// Writes the configuration of a registry, and starts it by a command that takes the file's path.
    fn serve(&self, address: SocketAddr, mut serve: Command) -> Result<Child> {
        let config = json!({
            "version": "0.1",
            "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": self.data }, "delete": { "enabled": true } },
            "http": { "addr": address.to_string() },
        });
        // The registry's configuration is YAML, of which JSON is a part.
        fs_err::write(&self.config, format!("{config:#}\n"))?;
        let log = fs_err::File::create(&self.log)?;
        serve.arg(&self.config).current_dir("/").stdout(log.try_clone()?.into_file()).stderr(log.into_file());
        serve.spawn().context("starting docker-registry")
    }

    /// The address of an earlier start.
    fn last_address(&self) -> Option<SocketAddr> {
        fs_err::read_to_string(&self.address).ok()?.trim().parse().ok()
    }
}

impl Registry {
    /// `127.0.0.1:PORT`.
    pub(crate) fn address(self) -> String {
        self.address.to_string()
    }

    /// The reference of an image in this registry.
    pub(crate) fn reference(self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// The digest of an image's manifest, if the registry has it.
    pub(crate) fn digest(self, image: &str) -> Result<Option<String>> {
        let reference = format!("docker://{}", self.reference(image));
        let mut inspect = command("skopeo", ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &reference]);
        let output = inspect.output().context("starting skopeo")?;
        let digest = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Some(digest).filter(|digest| output.status.success() && digest.starts_with("sha256:")))
    }

    /// Waits until the registry answers; one that was started just now may also have ended.
    fn wait(self, files: &Files, mut started: Option<&mut Child>) -> Result<()> {
        let begin = Instant::now();
        let mut end = None;
        while begin.elapsed() < TIMEOUT && end.is_none() {
            if answers(self.address) {
                return Ok(());
            }
            std::thread::sleep(POLL);
            end = started.as_mut().and_then(|child| child.try_wait().transpose()).transpose()?;
        }
        let what = end.map_or_else(|| format!("no answer after {TIMEOUT:?}"), |status| status.to_string());
        let log = fs_err::read_to_string(&files.log).unwrap_or_default();
        bail!("docker-registry on {}: {what}; its last words:\n{}", self.address, tail(&log))
    }
}

/// A registry for a while: in a directory of its own, on a free port, ended when it is dropped.
pub(crate) struct Temporary {
    process: Child,
    registry: Registry,
    directory: PathBuf,
}

impl Temporary {
    /// Starts one; the directory is made.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        fs_err::create_dir_all(directory)?;
        let file = |name| directory.join(name);
        let files = Files {
            config: file("config.json"),
            address: file("address"),
            pid: file("pid"),
            data: file("data"),
            log: file("log"),
        };
        let address = choose_address(None).context("finding a free port for the registry")?;
        let process = files.serve(address, command("docker-registry", ["serve"]))?;
        let mut temporary = Self { process, registry: Registry { address }, directory: directory.to_owned() };
        temporary.registry.wait(&files, Some(&mut temporary.process))?;
        Ok(temporary)
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        self.registry.address()
    }

    /// Copies an image of another registry into it; the answer is the registry, for as long as this value lives.
    pub(crate) fn with(&self, source: Registry, image: &str) -> Result<Registry> {
        let options = ["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"];
        let names = [source, self.registry].map(|registry| format!("docker://{}", registry.reference(image)));
        quiet(command("skopeo", options).args(names))?;
        Ok(self.registry)
    }

    /// Makes it hold nothing.
    pub(crate) fn clear(&self) -> Result<()> {
        let data = self.directory.join("data");
        if data.exists() {
            fs_err::remove_dir_all(data)?;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may have ended by itself; waiting reaps it either way.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Gives the running registry, or starts one.
pub(crate) fn start(state: &State) -> Result<Registry> {
    let files = Files::new(state)?;
    let last = files.last_address();
    if let (Some(_), Some(address)) = (files.process(), last) {
        let registry = Registry { address };
        registry.wait(&files, None)?;
        return Ok(registry);
    }
    let address = choose_address(last).context("finding a free port for the registry")?;
    // setsid(1) takes the registry out of our terminal and process group: it outlives this program.
    let mut child = files.serve(address, command("setsid", ["docker-registry", "serve"]))?;
    fs_err::write(&files.pid, format!("{}\n", child.id()))?;
    fs_err::write(&files.address, format!("{address}\n"))?;
    let registry = Registry { address };
    registry.wait(&files, Some(&mut child))?;
    println!("registry started on {address}");
    Ok(registry)
}

/// Stops the registry that [`start`] started.
pub(crate) fn stop(state: &State) -> Result<()> {
    let _lock = state.lock()?;
    let files = Files::new(state)?;
    let Some(process) = files.process() else {
        println!("the registry is not running");
        return Ok(());
    };
    kill(process, Signal::SIGTERM).with_context(|| format!("stopping the registry (process {process})"))?;
    let begin = Instant::now();
    while files.process().is_some() {
        ensure!(begin.elapsed() < TIMEOUT, "the registry (process {process}) does not end");
        std::thread::sleep(POLL);
    }
    fs_err::remove_file(&files.pid)?;
    println!("registry stopped");
    Ok(())
}

/// The last address if nobody took it in the meantime, else the first free one.
fn choose_address(last: Option<SocketAddr>) -> Result<SocketAddr> {
    let addresses = PORTS.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let free = last.into_iter().chain(addresses).find(|address| TcpListener::bind(address).is_ok());
    free.with_context(|| format!("ports {} to {} of 127.0.0.1 are all in use", PORTS.start, PORTS.end - 1))
}

/// Whether something speaks the distribution protocol there: `GET /v2/` answers 200.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// Copies an image out of an OCI layout into the registry.
pub(crate) fn push(registry: Registry, layouts: &Path, layout: &str, image: &str) -> Result<()> {
    let destination = format!("docker://{}", registry.reference(image));
    let mut copy =
        command("skopeo", ["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", layout, &destination]);
    quiet(copy.current_dir(layouts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 16];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        address
    }

    #[test]
    fn a_registry_answers_200_to_the_version_check() {
        assert!(answers(serve(b"HTTP/1.1 200 OK\r\n\r\n{}")));
        assert!(!answers(serve(b"HTTP/1.1 404 Not Found\r\n\r\n")));
        assert!(!answers(serve(b"SSH-2.0-OpenSSH")));
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let listener = TcpListener::bind(taken).unwrap();
        assert_ne!(choose_address(Some(taken)).unwrap(), taken);
        drop(listener);
        assert_eq!(choose_address(Some(taken)).unwrap(), taken);
    }
}
