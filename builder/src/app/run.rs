//! Starting a service's image in the sandbox, to see it answer. It has the network of the machine and a root of its own
//! whose changes are thrown away.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use registry::Reference;
use snapshot::{Layer, Store};

use super::record::ServiceImage;
use super::transfer::{self, TransferError};
use crate::build::{BuildError, Machine};
use crate::cache::Caches;
use crate::context::{ContextError, Ignore, LocalContext, Memo};
use crate::dockerfile::Span;
use crate::grants::Grants;
use crate::graph::config::ImageConfig;
use crate::graph::platform::Platform;
use crate::graph::{Graph, Op, PinnedImage, Vertex, VertexId};
use crate::progress::{Progress, Reporter};
use crate::remote::Remotes;
use crate::sandbox::{Network, Process, SandboxError, Settings, Stream};
use crate::solve::whole::Wholes;
use crate::solve::{self, Cause, SolveError, World};

/// What to start.
#[derive(Debug)]
pub struct Run<'a> {
    /// The image.
    pub image: &'a ServiceImage,
    /// What runs instead of the image's command; the image's entrypoint stays in front of it.
    pub command: &'a [String],
    /// A line for the image's shell instead of entrypoint and command.
    pub line: Option<&'a str>,
    /// Variables besides the image's.
    pub environment: &'a BTreeMap<String, String>,
}

/// Why a service was not started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The image's documents.
    #[error("cannot read the image of the service `{service}`")]
    Image {
        /// The service.
        service: String,
        /// Why.
        source: Box<TransferError>,
    },
    /// A document that does not parse.
    #[error("the image of the service `{service}` is malformed")]
    Document {
        /// The service.
        service: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Not for this machine.
    #[error("the image of the service `{service}` has nothing for `{platform}`")]
    Platform {
        /// The service.
        service: String,
        /// This machine's platform.
        platform: String,
    },
    /// An image that does not say what it runs.
    #[error("the image of the service `{0}` names no command: write one behind the service's name")]
    NoCommand(String),
    /// The registry client or the store.
    #[error(transparent)]
    Shared(#[from] BuildError),
    /// The layers.
    #[error("cannot unpack the image")]
    Unpack(#[source] Box<SolveError>),
    /// The layers.
    #[error("cannot unpack the image")]
    Tree(#[source] Box<Cause>),
    /// The room that it runs in.
    #[error("cannot make room for the service")]
    Room(#[from] snapshot::Error),
    /// An empty directory.
    #[error("cannot make room for the service")]
    Directory(#[from] std::io::Error),
    /// An empty context.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The sandbox.
    #[error("cannot run the service in its sandbox")]
    Sandbox(#[from] SandboxError),
}

/// Runs a service until it ends or is cancelled, and returns its exit code.
pub fn run(
    run: &Run<'_>,
    machine: &Machine<'_>,
    progress: &dyn Progress,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<i32, RunError> {
    let client = &crate::build::client(machine.registry)?;
    let store = &crate::build::open_store(machine.home, machine.sandbox).map_err(BuildError::from)?;
    let _lease = store.lease(&format!("running the service `{}`", run.image.service))?;
    let image = pin(run.image, client, store)?;
    let process = process(run, &image.config)?;
    let nothing = tempfile::tempdir()?;
    let span = Span { start: 0, end: 0 };
    let vertex = Vertex {
        op: Op::Source(Arc::new(image)),
        base: None,
        from: Vec::new(),
        span,
        name: format!("unpack {}", run.image.reference),
    };
    let platform = Platform::host();
    let config = ImageConfig::scratch(&platform);
    let graph = Graph { vertices: vec![vertex], target: VertexId(0), config, platform, epoch: None };
    let options = solve::Options {
        jobs: Some(1),
        no_cache: false,
        no_cache_stages: Vec::new(),
        keep_going: false,
        explain: false,
        verify: 0,
        secrets_in_layers: false,
        private_network: false,
        settings: Settings::default(),
        emulation: machine.sandbox.emulation(),
        compression: snapshot::Compression::default(),
        force_compression: false,
        keep_blobs_of: None,
        epoch: None,
        export_layers: false,
    };
    let world = World {
        store,
        wholes: &Wholes::default(),
        client,
        executor: machine.sandbox,
        context: &LocalContext::open(nothing.path(), Ignore::default())?,
        contexts: &BTreeMap::new(),
        remotes: &Remotes::new(&Grants::default(), machine.cancel),
        memo: &Memo::at(&nothing.path().join("none")),
        reporter: &Reporter::new(progress),
        cancel: machine.cancel,
        options: &options,
        caches: &Caches::default(),
        grants: &Grants::default(),
        made: &|_| (),
        making: None,
        needles: None,
    };
    let tree = solve::solve(&graph, &world).map_err(|error| RunError::Unpack(Box::new(error)))?;
    solve::try_out(&world, &tree, &process, output).map_err(|cause| match cause {
        Cause::Sandbox(error) => RunError::Sandbox(error),
        cause => RunError::Tree(Box::new(cause)),
    })
}

/// The image for this machine, its config read.
fn pin(image: &ServiceImage, client: &registry::Client, store: &Store) -> Result<PinnedImage, RunError> {
    let service = &image.service;
    let failed = |source| RunError::Image { service: service.clone(), source: Box::new(source) };
    let malformed = |source| RunError::Document { service: service.clone(), source };
    let name = registry::reference::parse(&image.reference).map_err(|source| {
        failed(TransferError::Registry { action: "read", reference: image.reference.clone(), source: Box::new(source) })
    })?;
    let document = |descriptor: &Descriptor| document(image, &name, (client, store), descriptor).map_err(failed);
    let mut root = image.descriptor.clone();
    if transfer::is_index(root.media_type()) {
        let index: ImageIndex = serde_json::from_slice(&document(&root)?).map_err(malformed)?;
        root = of_this_machine(&index)
            .cloned()
            .ok_or_else(|| RunError::Platform { service: service.clone(), platform: Platform::host().to_string() })?;
    }
    let manifest: ImageManifest = serde_json::from_slice(&document(&root)?).map_err(malformed)?;
    let config: ImageConfig = serde_json::from_slice(&document(manifest.config())?).map_err(malformed)?;
    let layers = manifest.layers().iter().zip(&config.rootfs.diff_ids);
    let layers = layers.map(|(blob, diff_id)| Layer { diff_id: diff_id.clone(), blob: blob.clone() }).collect();
    Ok(PinnedImage { reference: name, layout: None, manifest: root.digest().clone(), config, layers })
}

fn document(
    image: &ServiceImage,
    name: &Reference,
    (client, store): (&registry::Client, &Store),
    descriptor: &Descriptor,
) -> Result<Vec<u8>, TransferError> {
    if image.pushed && store.blobs().has(descriptor.digest()).is_none() {
        transfer::fetch_any(client, store, name, descriptor)?;
    }
    transfer::document_of(store, descriptor)
}

/// The best manifest of an index.
fn of_this_machine(index: &ImageIndex) -> Option<&Descriptor> {
    let host = Platform::host();
    let mut wanted = oci_spec::image::Platform::default();
    wanted.set_os(host.os.as_str().into());
    wanted.set_architecture(host.architecture.as_str().into());
    wanted.set_variant(host.variant);
    let ranked = index.manifests().iter().filter_map(|descriptor| {
        let rank = descriptor.platform().as_ref().map_or(Some(u32::MAX), |offered| registry::rank(&wanted, offered));
        rank.map(|rank| (rank, descriptor))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor)
}

fn process(run: &Run<'_>, image: &ImageConfig) -> Result<Process, RunError> {
    let config = &image.config;
    let argv: Vec<String> = if let Some(line) = run.line {
        vec!["/bin/sh".into(), "-c".into(), line.into()]
    } else {
        let command = if run.command.is_empty() { &config.cmd[..] } else { run.command };
        config.entrypoint.iter().chain(command).cloned().collect()
    };
    if argv.is_empty() {
        return Err(RunError::NoCommand(run.image.service.clone()));
    }
    let mut environment: BTreeMap<OsString, OsString> =
        config.env_pairs().map(|(name, value)| (name.into(), value.into())).collect();
    environment.entry("PATH".into()).or_insert_with(|| crate::graph::config::DEFAULT_PATH.into());
    environment.extend(run.environment.iter().map(|(name, value)| (name.into(), value.into())));
    Ok(Process {
        argv: argv.into_iter().map(OsString::from).collect(),
        env: environment.into_iter().collect(),
        cwd: PathBuf::from(if config.working_dir.is_empty() { "/" } else { &config.working_dir }),
        user: config.user.clone(),
        hostname: run.image.service.clone(),
        network: Network::Host,
        settings: Settings::default(),
        stdin: None,
    })
}
