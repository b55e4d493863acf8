//! Solving with commands that are made up: what runs, how often, and what comes of failures.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use snapshot::{Flavour, Store};

use super::*;
use crate::context::Ignore;
use crate::dockerfile::{Network, Span};
use crate::graph::config::ImageConfig;
use crate::graph::platform::Platform;
use crate::graph::{RunOp, Vertex, VertexId};
use crate::progress::{Event, Progress};
use crate::sandbox::{ExitStatus, Mount, Process, Root, SandboxError, Stream};

/// `write PATH TEXT`, `fail`, `wait` (until cancelled): what the argv of a step asks for.
#[derive(Default)]
struct Fake {
    ran: Mutex<Vec<String>>,
    slow: Duration,
    started: AtomicUsize,
}

impl Executor for Fake {
    fn stacks_layers(&self) -> bool {
        true
    }

    fn run(
        &self,
        root: &Root,
        process: &Process,
        _: &[Mount],
        cancel: &Cancel,
        _: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<ExitStatus, SandboxError> {
        let argv: Vec<&str> = process.argv.iter().map(|argument| argument.to_str().unwrap()).collect();
        self.ran.lock().unwrap().push(argv.join(" "));
        self.started.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.slow);
        let code = match argv[0] {
            "write" => {
                fs_err::write(root.upper.join(argv[1]), argv[2]).unwrap();
                0
            }
            "fail" => 1,
            "wait" => {
                let begun = Instant::now();
                while !cancel.is_cancelled() && begun.elapsed() < Duration::from_secs(20) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return Err(SandboxError::Cancelled);
            }
            other => panic!("{other}"),
        };
        Ok(ExitStatus { code, out_of_memory: false })
    }
}

struct Silent;

impl Progress for Silent {
    fn emit(&self, _: Event) {}
}

/// Vertices on scratch: each is a command, the vertex that it stands on, and those that it copies from.
fn graph(steps: &[(&str, usize, &[usize])]) -> Graph {
    let span = Span { start: 1, end: 1 };
    let scratch = Vertex { op: Op::Scratch, base: None, from: Vec::new(), span, name: "FROM scratch".into() };
    let mut vertices = vec![scratch];
    for (number, (command, base, from)) in steps.iter().enumerate() {
        let mounts = from.iter().map(|&id| {
            crate::graph::MountOp::Bind(crate::graph::BindOp {
                from: Some(VertexId(id)),
                source: "/".into(),
                target: format!("/from/{id}").into(),
                writable: false,
            })
        });
        let op = RunOp {
            argv: command.split(' ').map(str::to_owned).collect(),
            script: None,
            env: Vec::new(),
            proxy_env: Vec::new(),
            secret_env: Vec::new(),
            hostname: String::new(),
            mounts: mounts.collect(),
            cwd: "/".into(),
            user: String::new(),
            network: Network::Default,
        };
        let name = format!("[stage-0 {}/9] RUN {command}", number + 2);
        let from = from.iter().copied().map(VertexId).collect();
        vertices.push(Vertex { op: Op::Run(op), base: Some(VertexId(*base)), from, span, name });
    }
    let (target, platform) = (VertexId(vertices.len() - 1), Platform::host());
    Graph { vertices, target, config: ImageConfig::scratch(&platform), platform, epoch: None }
}

/// Solves in the store at `home`.
fn solve_at(home: &Path, graph: &Graph, fake: &Fake, change: impl Fn(&mut Options)) -> Result<(), SolveError> {
    let store = Store::open(home, Flavour::Trusted).unwrap();
    let client = registry::Client::new(registry::Options::default()).unwrap();
    let context = LocalContext::open(home, Ignore::default()).unwrap();
    let (contexts, grants, cancel) = (BTreeMap::new(), Grants::default(), Cancel::new().unwrap());
    let (remotes, memo, caches) = (Remotes::new(&grants, &cancel), Memo::default(), Caches::default());
    let reporter = Reporter::new(&Silent);
    let mut options = Options {
        jobs: Some(4),
        no_cache: false,
        no_cache_stages: Vec::new(),
        keep_going: false,
        explain: true,
        secrets_in_layers: false,
        verify: 0,
        private_network: false,
        emulation: None,
        force_compression: false,
        keep_blobs_of: None,
        settings: Settings::default(),
        compression: Compression::default(),
        epoch: None,
        export_layers: true,
    };
    change(&mut options);
    let wholes = Wholes::default();
    let world = World {
        store: &store,
        wholes: &wholes,
        client: &client,
        executor: fake,
        context: &context,
        contexts: &contexts,
        remotes: &remotes,
        memo: &memo,
        reporter: &reporter,
        cancel: &cancel,
        options: &options,
        caches: &caches,
        grants: &grants,
        made: &|_| (),
        making: None,
        needles: None,
    };
    solve(graph, &world).map(drop)
}

fn ran(fake: &Fake) -> Vec<String> {
    std::mem::take(&mut *fake.ran.lock().unwrap())
}

#[test]
fn a_diamond_runs_each_step_once_and_then_none() {
    let (home, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let diamond = graph(&[("write a 1", 0, &[]), ("write b 1", 1, &[]), ("write c 1", 1, &[]), ("write d 1", 2, &[3])]);
    solve_at(home.path(), &diamond, &fake, |_| ()).unwrap();
    let order = ran(&fake);
    assert_eq!((order.len(), order[0].as_str(), order[3].as_str()), (4, "write a 1", "write d 1"));
    solve_at(home.path(), &diamond, &fake, |_| ()).unwrap();
    assert_eq!(ran(&fake), Vec::<String>::new());
}

#[test]
fn equal_steps_run_once_and_unneeded_ones_never() {
    let (home, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let steps: [(&str, usize, &[usize]); 4] =
        [("write a 1", 0, &[]), ("write a 1", 0, &[]), ("fail", 0, &[]), ("write b 1", 1, &[2])];
    solve_at(home.path(), &graph(&steps), &fake, |_| ()).unwrap();
    assert_eq!(ran(&fake), ["write a 1", "write b 1"]);
}

#[test]
fn equal_content_cuts_off_what_follows() {
    let (home, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let chain = |first: &str| graph(&[(first, 0, &[]), ("write b 1", 1, &[]), ("write c 1", 2, &[])]);
    solve_at(home.path(), &chain("write a 1"), &fake, |_| ()).unwrap();
    ran(&fake);
    // Another command, the same file.
    solve_at(home.path(), &chain("write a 1 again"), &fake, |_| ()).unwrap();
    assert_eq!(ran(&fake), ["write a 1 again"]);
    solve_at(home.path(), &chain("write a 2"), &fake, |_| ()).unwrap();
    assert_eq!(ran(&fake), ["write a 2", "write b 1", "write c 1"]);
}

#[test]
fn eight_builds_in_one_process_run_each_step_once() {
    let home = tempfile::tempdir().unwrap();
    let fake = Fake { slow: Duration::from_millis(100), ..Fake::default() };
    let graph = graph(&[("write a 1", 0, &[]), ("write b 1", 1, &[]), ("write c 1", 2, &[])]);
    std::thread::scope(|scope| {
        let (home, graph, fake) = (home.path(), &graph, &fake);
        let builds: Vec<_> =
            (0..8).map(|_| scope.spawn(move || solve_at(home, graph, fake, |_| ()).unwrap())).collect();
        for build in builds {
            build.join().unwrap();
        }
    });
    assert_eq!(ran(&fake), ["write a 1", "write b 1", "write c 1"]);
    assert_eq!(fs_err::read_dir(home.path().join("store-v1/locks")).unwrap().count(), 0);
}

#[test]
fn a_failure_cancels_what_runs_beside_it() {
    let (home, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let steps: [(&str, usize, &[usize]); 3] = [("wait", 0, &[]), ("fail", 0, &[]), ("write c 1", 1, &[2])];
    let begun = Instant::now();
    let error = solve_at(home.path(), &graph(&steps), &fake, |_| ()).unwrap_err();
    assert!(matches!(*error.cause, Cause::Exit { code: 1, .. } | Cause::Cancelled), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!ran(&fake).contains(&"write c 1".to_owned()));
}

#[test]
fn keeping_going_finishes_the_other_steps_for_the_next_build() {
    let (home, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let steps: [(&str, usize, &[usize]); 4] =
        [("fail", 0, &[]), ("write a 1", 0, &[]), ("write b 1", 2, &[]), ("write c 1", 3, &[1])];
    let going = |options: &mut Options| (options.keep_going, options.jobs) = (true, Some(1));
    solve_at(home.path(), &graph(&steps), &fake, going).unwrap_err();
    assert_eq!(ran(&fake), ["fail", "write a 1", "write b 1"]);
    solve_at(home.path(), &graph(&steps), &fake, going).unwrap_err();
    assert_eq!(ran(&fake), ["fail"]);
}

#[test]
fn what_the_cache_has_can_be_run_to_verify_it() {
    let (home, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let graph = graph(&[("write a 1", 0, &[]), ("write b 1", 1, &[])]);
    solve_at(home.path(), &graph, &fake, |_| ()).unwrap();
    ran(&fake);
    solve_at(home.path(), &graph, &fake, |options| options.verify = 100).unwrap();
    assert_eq!(ran(&fake), ["write a 1", "write b 1"]);
    solve_at(home.path(), &graph, &fake, |_| ()).unwrap();
    assert_eq!(ran(&fake), Vec::<String>::new());
}

#[test]
fn ten_thousand_steps_are_planned_at_once() {
    let home = tempfile::tempdir().unwrap();
    let steps: Vec<(String, usize)> = (0..10_000).map(|number| (format!("write a {number}"), 0)).collect();
    let steps: Vec<(&str, usize, &[usize])> =
        steps.iter().map(|(command, base)| (command.as_str(), *base, [].as_slice())).collect();
    let graph = graph(&steps);
    let begun = Instant::now();
    let fake = Fake::default();
    solve_at(home.path(), &graph, &fake, |_| ()).unwrap();
    assert_eq!(ran(&fake), ["write a 9999"]);
    // Half a second on an idle machine.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
