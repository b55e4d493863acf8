//! The demo of apps: fixtures/apps/shop built with all its services, pushed, read by a peer, run, and its page fetched.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bases::Base;
use crate::command::{command, line, shown, stdout};
use crate::rbuild::{self, Profile, Rbuild};
use crate::registry::Registry;
use crate::setup::{self, Part};
use crate::state::State;

/// What the app is called.
const APP: &str = "shop";
/// Where its web service listens.
const WEB: &str = "127.0.0.1:3000";
/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service that runs; it ends with this.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Sets up, builds, pushes, runs and fetches.
pub(crate) fn run(state: &State) -> Result<()> {
    let registry = setup::run(state, &[Part::Demo, Part::Test], Profile::Release)?;
    println!("compiling rbuild");
    let rbuild = rbuild::compile(state, Profile::Release)?;
    let prefix = registry.reference("apps");
    shown(app(state, &rbuild, &["rack", "params", "set"])?.arg(format!("registry={prefix}")))?;
    let variable = |name: &str, base: Base| format!("{name}={}", registry.reference(base.image()));
    let mut env = app(state, &rbuild, &["env", "set", "-a", APP])?;
    env.args([variable("NODE", Base::Node), variable("PYTHON", Base::Python), variable("CACHE_IMAGE", Base::Busybox)]);
    shown(&mut env)?;
    let begin = Instant::now();
    let mut build =
        app(state, &rbuild, &["build", "-a", APP, "--build-args", "BUILD_ID", "--build-args", "BUILD_GIT_SHA"])?;
    println!("$ {}", line(&build));
    shown(&mut build)?;
    println!("\nbuilt and pushed in {:.1} s", begin.elapsed().as_secs_f64());
    let listed = stdout(&mut app(state, &rbuild, &["builds", "-a", APP, "-l", "1"])?)?;
    print!("{listed}");
    let id = listed.lines().nth(1).and_then(|line| line.split(' ').next()).context("no build is listed")?;
    inspect(registry, id)?;
    start(state, &rbuild, id)
}

/// A command of rbuild in the directory of the app.
fn app(state: &State, rbuild: &Rbuild, arguments: &[&str]) -> Result<Command> {
    let mut command = rbuild.command(state)?;
    command.current_dir(state.source("fixtures/apps/shop")).args(arguments);
    Ok(command)
}

/// A peer reads every image.
fn inspect(registry: Registry, id: &str) -> Result<()> {
    for service in ["web", "api", "worker", "cache"] {
        let image = format!("docker://{}", registry.reference(&format!("apps/{APP}:{service}.{id}")));
        let digest = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &image];
        println!("{image} {}", stdout(&mut command("skopeo", digest))?.trim());
    }
    Ok(())
}

/// Runs the services and fetches the page.
fn start(state: &State, rbuild: &Rbuild, id: &str) -> Result<()> {
    let mut services = Vec::new();
    for service in ["api", "web"] {
        let mut run = app(state, rbuild, &["run", "-a", APP, service])?;
        println!("$ {} &", line(&run));
        services.push(Service(run.stdout(Stdio::null()).spawn().context("starting a service")?));
    }
    let begin = Instant::now();
    let page = loop {
        match fetch() {
            Ok(page) if page.contains("<h1>") => break page,
            _ if begin.elapsed() > PATIENCE => anyhow::bail!("the web service did not answer in {PATIENCE:?}"),
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    let text = page.split("\r\n\r\n").nth(1).unwrap_or_default();
    println!("$ curl http://{WEB}/\n{}", text.trim());
    ensure!(page.contains("tea: 3 EUR") && page.contains(id), "the page says something else: {page}");
    Ok(())
}

fn fetch() -> Result<String> {
    let mut stream = TcpStream::connect(WEB)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {WEB}\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
