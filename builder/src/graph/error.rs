//! Why a Dockerfile that parses does not make a graph.

use crate::dockerfile::expand::ExpandError;
use crate::dockerfile::{MountError, PortError, Span, quoted};
use crate::graph::platform::PlatformError;
use crate::remote::location::LocationError;

/// A problem and where it stands.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct GraphError {
    /// The instruction's lines.
    pub span: Span,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What is wrong with an instruction.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A word could not be expanded.
    #[error("cannot expand `{}`", quoted(.word))]
    Expand {
        /// The word as written.
        word: String,
        /// Why.
        source: ExpandError,
    },
    /// Variables or lists that grow with every instruction.
    #[error(
        "the variables, the history and the steps of this Dockerfile come to more than {mebibytes} MiB: something grows \
         with every instruction; make it shorter"
    )]
    TooMuch {
        /// The limit.
        mebibytes: usize,
    },
    /// `FROM` whose name expands to nothing.
    #[error("`FROM {0}` names no image: `{0}` is empty here; give its ARG a default or pass --build-arg", quoted(.word))]
    EmptyBase {
        /// The word as written.
        word: String,
    },
    /// Not a reference, by the distribution spec's grammar; the text says what it wants.
    #[error("{0}")]
    BadReference(String),
    /// `--platform` that is none.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// `--target` that no stage has.
    #[error("no stage is called `{}`: the stages are {known}", quoted(.name))]
    UnknownTarget {
        /// What was asked for.
        name: String,
        /// The stages there are.
        known: String,
    },
    /// A stage that copies from itself or a later one.
    #[error("`{}` is not an earlier stage: a stage reads only those that stand above it", quoted(.name))]
    NotEarlier {
        /// The stage named.
        name: String,
    },
    /// A source of `ADD` that looks like a URL and is none.
    #[error("cannot add `{}`", .0.text)]
    Location(#[from] LocationError),
    /// An image somewhere else than in a registry.
    #[error(
        "`{}` is an image of no registry: make an OCI layout of it, write a name in its place, and build with \
         `--build-context NAME=oci-layout://PATH`",
        quoted(.0)
    )]
    Transport(String),
    /// `RUN --network=host` in a build that keeps its steps off it.
    #[error(
        "`RUN --network=host` wants the network of the machine, which `--network` of this build keeps from its steps"
    )]
    HostNetwork,
    /// Known and valid, but not in this version.
    #[error("{what} is not implemented in this version of rbuild")]
    NotImplemented {
        /// The instruction and flag.
        what: String,
    },
    /// A value that its instruction cannot take.
    #[error("{what} cannot be `{}`: {reason}", quoted(.value))]
    BadValue {
        /// The instruction or flag.
        what: &'static str,
        /// What it was given, expanded.
        value: String,
        /// What it wants.
        reason: &'static str,
    },
    /// `EXPOSE` of what is no port.
    #[error("cannot expose `{}`", quoted(.text))]
    Port {
        /// The word, expanded.
        text: String,
        /// Why.
        source: PortError,
    },
    /// `RUN --mount` whose options make no mount, once they have values.
    #[error("cannot use `--mount={}`: {source}", quoted(.text))]
    Mount {
        /// The options as written.
        text: String,
        /// Why.
        source: Box<MountError>,
    },
    /// A secret where its value would get into the image.
    #[error("{instruction} names the secret `{name}`, and only RUN may use it: the image would tell it to everybody")]
    Secret {
        /// The instruction.
        instruction: &'static str,
        /// The variable.
        name: String,
    },
    /// A command for another processor.
    #[error("RUN for `{platform}` needs emulation, which is not implemented: this machine is `{host}`")]
    Foreign {
        /// The stage's platform.
        platform: String,
        /// The machine's.
        host: String,
    },
    /// An ONBUILD trigger of the base that does not parse.
    #[error("the base image's ONBUILD trigger `{}` is not an instruction: {reason}", quoted(.trigger))]
    BadTrigger {
        /// The trigger's text.
        trigger: String,
        /// What the parser says.
        reason: String,
    },
}

impl Problem {
    /// Puts the problem on its lines.
    pub fn at(self, span: Span) -> GraphError {
        GraphError { span, problem: self }
    }
}
