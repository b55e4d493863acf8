//! Dockerfile text → graph, with images that no registry ever saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oci_spec::image::{Descriptor, MediaType};
use snapshot::digest::sha256;

use super::named::{NamedContext, canonical, for_platform};
use super::outline::{Grant, Outline, targets};
use super::references::{Pinned, Request, StepNetwork, select, stage_meant};
use super::*;
use crate::dockerfile::parse;
use crate::graph::platform::Platform;

fn request(arguments: &[(&str, &str)]) -> Request {
    Request {
        secret_args: BTreeSet::new(),
        network: StepNetwork::Host,
        context_time: None,
        build_args: arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        target: None,
        platform: Platform::host(),
        labels: BTreeMap::new(),
        contexts: BTreeMap::new(),
    }
}

fn lowered(text: &str, request: &Request) -> Result<Graph, GraphError> {
    let parsed = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    let selection = select(&parsed.dockerfile, request, &Pinned::new())?;
    let images = selection.images.keys().map(|name| (name.clone(), Arc::new(image(&name.reference)))).collect();
    lower(&selection, &images)
}

/// An image of one layer that sets a variable and a command.
fn image(name: &str) -> PinnedImage {
    let mut config = ImageConfig::scratch(&Platform::host());
    config.config.env = vec!["PATH=/bin".into(), "BASE=set".into()];
    config.config.cmd = vec!["sh".into()];
    let digest = sha256(name.as_bytes());
    let blob = Descriptor::new(MediaType::ImageLayerGzip, 1_u64, digest.clone());
    let layers = vec![snapshot::Layer { diff_id: digest.clone(), blob }];
    PinnedImage { reference: registry::reference::parse(name).unwrap(), layout: None, manifest: digest, config, layers }
}

/// The graph as lines: number, base, other inputs, operation.
fn dump(graph: &Graph) -> String {
    let line = |(number, vertex): (usize, &Vertex)| {
        let inputs: Vec<String> = vertex.inputs().map(|id| id.0.to_string()).collect();
        let operation = match &vertex.op {
            Op::Scratch => "scratch".to_owned(),
            Op::Source(image) => format!("image {}", image.reference.whole()),
            Op::Run(op) => format!("run {:?} in {} as {:?}", op.argv, op.cwd.display(), op.user),
            Op::Copy(op) => format!(
                "copy to {} chown {:?} chmod {:?}",
                op.destination,
                op.chown,
                op.chmod.as_ref().map(Chmod::text)
            ),
            Op::Mkdir(op) => format!("mkdir {} as {:?}", op.path.display(), op.user),
        };
        format!("{number} <- [{}] {operation}\n", inputs.join(" "))
    };
    graph.vertices.iter().enumerate().map(line).collect()
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(dump(&lowered(text, &request(&[])).unwrap()), expected);
}

fn error(text: &str) -> String {
    let error = lowered(text, &request(&[])).unwrap_err();
    format!("{}: {error}", error.span.start)
}

fn environment(text: &str, arguments: &[(&str, &str)]) -> Vec<String> {
    let graph = lowered(text, &request(arguments)).unwrap();
    let Some(Op::Run(op)) = graph.vertices.iter().rev().map(|vertex| &vertex.op).find(|op| matches!(op, Op::Run(_)))
    else {
        panic!("no RUN")
    };
    op.env.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[test]
fn stages_share_what_they_start_from() {
    check(
        "FROM a AS one\nRUN x\nFROM one AS two\nWORKDIR /w\nFROM a\nCOPY --from=two /w .\nCOPY --from=0 f /g/\n",
        "0 <- [] image docker.io/library/a:latest\n\
         1 <- [0] run [\"/bin/sh\", \"-c\", \"x\"] in / as \"\"\n\
         2 <- [1] mkdir /w as \"\"\n\
         3 <- [0 2] copy to / chown None chmod None\n\
         4 <- [3 1] copy to /g/ chown None chmod None\n",
    );
}

#[test]
fn stages_that_nobody_needs_are_not_in_the_graph() {
    check("FROM a\nRUN x\nFROM scratch\nWORKDIR /\n", "0 <- [] scratch\n");
}

#[test]
fn directories_users_and_shells_hold_from_where_they_stand() {
    check(
        "FROM a\nRUN 1\nWORKDIR b/../c\nUSER me\nSHELL [\"/s\", \"-x\"]\nRUN 2\nRUN [\"3\"]\nWORKDIR d\nCOPY --chmod=755 --chown=$BASE e f/\n",
        "0 <- [] image docker.io/library/a:latest\n\
         1 <- [0] run [\"/bin/sh\", \"-c\", \"1\"] in / as \"\"\n\
         2 <- [1] mkdir /c as \"\"\n\
         3 <- [2] run [\"/s\", \"-x\", \"2\"] in /c as \"me\"\n\
         4 <- [3] run [\"3\"] in /c as \"me\"\n\
         5 <- [4] mkdir /c/d as \"me\"\n\
         6 <- [5] copy to /c/d/f/ chown Some(\"set\") chmod Some(\"755\")\n",
    );
}

#[test]
fn arguments_have_the_scope_that_the_reference_gives_them() {
    let text = "ARG G=global\nARG H=$G-2\nFROM a\nARG G\nARG H=own\nARG L=$G\nARG UNSET\nRUN x\n";
    assert_eq!(environment(text, &[]), ["PATH=/bin", "BASE=set", "G=global", "H=own", "L=global"]);
    let given = [("G", "g"), ("UNSET", "u"), ("UNDECLARED", "no")];
    assert_eq!(environment(text, &given), ["PATH=/bin", "BASE=set", "G=g", "H=own", "L=g", "UNSET=u"]);
}

#[test]
fn a_stage_inherits_the_arguments_of_the_stage_it_stands_on() {
    let text = "ARG G=global\nFROM a AS low\nARG V=low G\nENV E=$V\nFROM low AS high\nARG V=$V-high\nRUN x\n";
    assert_eq!(environment(text, &[]), ["PATH=/bin", "BASE=set", "V=low-high", "G=global", "E=low"]);
    let graph = lowered(text, &request(&[])).unwrap();
    let run = &graph.config.history.last().unwrap().created_by;
    assert_eq!(run, "RUN |2 V=low-high G=global /bin/sh -c x # buildkit");
    // A stage on an image does not, whichever stages stand above it.
    let other = "FROM a AS low\nARG V=low\nFROM a\nCOPY --from=low x /\nRUN x\n";
    assert_eq!(environment(other, &[]), ["PATH=/bin", "BASE=set"]);
}

#[test]
fn a_later_declaration_wins_and_values_are_those_before_the_instruction() {
    assert_eq!(
        environment("FROM a\nARG V=arg\nENV V=env W=$V\nRUN x\n", &[]),
        ["PATH=/bin", "BASE=set", "V=env", "W=arg"]
    );
    assert_eq!(environment("FROM a\nENV V=env\nARG V=arg\nRUN x\n", &[]), ["PATH=/bin", "BASE=set", "V=arg"]);
}

#[test]
fn proxies_reach_a_command_and_neither_its_key_nor_the_history() {
    let graph = lowered("FROM a\nRUN x\n", &request(&[("https_proxy", "p")])).unwrap();
    let Op::Run(op) = &graph.vertices[1].op else { panic!() };
    assert_eq!(op.proxy_env, ["HTTPS_PROXY", "https_proxy"].map(|name| (name.to_owned(), "p".to_owned())));
    assert!(!op.env.iter().any(|(name, _)| name == "https_proxy"));
    assert_eq!(graph.config.history[0].created_by, "RUN /bin/sh -c x # buildkit");
}

#[test]
fn what_cannot_be_is_refused_with_its_line() {
    for (text, expected) in [
        (
            "ARG X\nFROM $X\n",
            "2: `FROM $X` names no image: `$X` is empty here; give its ARG a default or pass --build-arg",
        ),
        (
            "FROM a\nUSER $NOBODY\n",
            "2: USER cannot be ``: write `name` or `uid`, and after a `:` a group if you want one",
        ),
        (
            "FROM a AS x\nCOPY --from=x a b\n",
            "2: `x` is not an earlier stage: a stage reads only those that stand above it",
        ),
        ("FROM a\nCOPY git@host:x a\n", "2: a source of COPY cannot be `git@host:x`: ADD takes URLs, COPY does not"),
        (
            "FROM a\nCOPY a b c\n",
            "2: the destination cannot be `c`: with several sources it has to be a directory and end with `/`",
        ),
        (
            "FROM a\nSTOPSIGNAL 99\n",
            "2: STOPSIGNAL cannot be `99`: write a signal's name (`SIGTERM`) or number (1 to 64)",
        ),
        (
            "FROM --platform=windows/amd64 a\n",
            "1: `windows/amd64` is not a platform that rbuild builds for: write `linux/<architecture>[/<variant>]`",
        ),
        (
            "FROM oci-archive:/x.tar\n",
            "1: `oci-archive:/x.tar` is an image of no registry: make an OCI layout of it, write a name in its place, \
             and build with `--build-context NAME=oci-layout://PATH`",
        ),
        ("FROM a\nADD ftp://h/x /\n", "2: cannot add `ftp://h/x`"),
    ] {
        assert_eq!(error(text), expected);
    }
}

#[test]
fn a_stage_may_have_been_meant() {
    let text = "FROM a AS builder\nRUN x\nFROM later\nCOPY --from=biulder x /\n\
        RUN --mount=from=nothing,target=/t --mount=from=bilder,target=/b x\nFROM builder2 AS later\nCOPY --from=b x /\nFROM c AS c\n";
    let dockerfile = parse(text.as_bytes()).unwrap().dockerfile;
    let meant = |line| stage_meant(&dockerfile, Span { start: line, end: line });
    let said = Some("did you mean the stage `builder`?".to_owned());
    assert_eq!([meant(4), meant(5), meant(6)], [said.clone(), said.clone(), said]);
    let below = "the stage `later` stands below: a stage builds only on those above it";
    assert_eq!(meant(3).as_deref(), Some(below));
    assert_eq!([meant(1), meant(2), meant(7), meant(8)], [const { None }; 4]);
}

#[test]
fn signals_are_those_of_linux() {
    let lowered = |signal: &str| lowered(&format!("FROM a\nSTOPSIGNAL {signal}\n"), &request(&[]));
    for signal in ["SIGTERM", "term", "SIGRTMIN+3", "RTMAX-14", "9", "64", "SIGUSR1"] {
        assert_eq!(lowered(signal).unwrap().config.config.stop_signal, signal);
    }
    for signal in ["SIGFOO", "SIG", "TERMINATE", "RTMIN+16", "RTMAX-0", "0", "65", "-1"] {
        assert!(lowered(signal).is_err(), "{signal}");
    }
}

#[test]
fn texts_are_quoted_in_part() {
    let long = "x".repeat(1000);
    for text in [
        format!("FROM a\nENV A=${{B{long}!y}}\n"),
        format!("FROM a\nENV A={long}${{B\n"),
        format!("FROM a\nENV A=${{B/{long}}}\n"),
        format!("FROM a\nSTOPSIGNAL {long}-%\n"),
        format!("FROM a\nARG P={long}\nEXPOSE $P\n"),
        format!("FROM a\nCOPY --chmod={long} x /\n"),
        format!("FROM a\nRUN --mount=type=cache,target=/x,mode={long}$Y x\n"),
    ] {
        let error = error(&text);
        assert!(error.len() < 250, "{error}");
    }
    assert_eq!(error("FROM a\nENV A=\u{1b}[31m${B\n"), "2: cannot expand `\\u{1b}[31m${B`");
}

#[test]
fn the_platform_arguments_are_there_for_from_and_on_demand() {
    let host = Platform::host();
    let text = "FROM --platform=$BUILDPLATFORM a AS $TARGETARCH\nARG TARGETPLATFORM TARGETARCH\nRUN x\n";
    let text = text.replace(" AS $TARGETARCH", "");
    let environment = environment(&text, &[]);
    assert!(environment.contains(&format!("TARGETPLATFORM={host}")), "{environment:?}");
    assert!(environment.contains(&format!("TARGETARCH={}", host.architecture)), "{environment:?}");
    let given = lowered("FROM a:$TARGETARCH-$TARGETSTAGE\n", &request(&[("TARGETARCH", "x"), ("TARGETSTAGE", "y")]));
    assert!(dump(&given.unwrap()).contains("a:x-y"));
}

#[test]
fn a_named_context_stands_in_for_a_whole_stage() {
    let text = "FROM base AS low\nRUN low\nFROM low AS top\nRUN --mount=from=unseen,target=/t true\nONBUILD RUN x\n\
        FROM scratch AS last\nCOPY --from=1 a /\n";
    let image = NamedContext::Image("docker.io/library/other:latest".into());
    let mut request = Request { contexts: [("docker.io/library/top:latest".into(), image)].into(), ..request(&[]) };
    expect_test::expect![[r"
        0 <- [] image docker.io/library/other:latest
        1 <- [] scratch
        2 <- [1 0] copy to / chown None chmod None
    "]]
    .assert_eq(&dump(&lowered(text, &request).unwrap()));
    request.target = Some("top".into());
    let graph = lowered(text, &request).unwrap();
    assert_eq!(dump(&graph), "0 <- [] image docker.io/library/other:latest\n");
    assert_eq!(graph.config.config.cmd, ["sh"]);
}

#[test]
fn a_named_context_may_be_for_one_platform() {
    let text = "FROM low AS one\nFROM --platform=linux/s390x low AS two\nFROM scratch\nCOPY --from=one a /\nCOPY --from=two b /\n";
    let named = |name: &str| NamedContext::Image(format!("docker.io/library/{name}:latest"));
    let own = for_platform(&canonical("low"), &"linux/s390x".parse().unwrap());
    let contexts = [(own, named("own")), (canonical("low"), named("general"))].into();
    let graph = lowered(text, &Request { contexts, ..request(&[]) }).unwrap();
    let images: Vec<String> = dump(&graph).lines().filter(|line| line.contains(" image ")).map(str::to_owned).collect();
    assert_eq!(
        images,
        ["0 <- [] image docker.io/library/general:latest", "1 <- [] image docker.io/library/own:latest"]
    );
}

#[test]
fn a_global_arg_fixes_the_time() {
    let epoch = |text: &str, given: &[(&str, &str)]| lowered(text, &request(given)).map(|graph| graph.epoch);
    let text = "ARG SOURCE_DATE_EPOCH=60\nFROM scratch\n";
    assert_eq!(epoch(text, &[]).unwrap().as_deref(), Some("1970-01-01T00:01:00Z"));
    assert_eq!(epoch(text, &[("SOURCE_DATE_EPOCH", "1")]).unwrap().as_deref(), Some("1970-01-01T00:00:01Z"));
    assert_eq!(epoch(text, &[("SOURCE_DATE_EPOCH", "")]).unwrap(), None);
    assert_eq!(epoch("FROM scratch\nARG SOURCE_DATE_EPOCH=60\n", &[]).unwrap(), None);
    let error = epoch("ARG X\nARG SOURCE_DATE_EPOCH=base\nFROM scratch AS base\n", &[]).unwrap_err();
    assert_eq!(error.span.start, 2);
    assert_eq!(
        error.to_string(),
        "SOURCE_DATE_EPOCH cannot be `base`: it is a number of seconds since 1970, or `context`"
    );
}

#[test]
fn the_time_of_the_context_fixes_that_of_the_build() {
    let epoch = |text: &str, given: &[(&str, &str)], context_time: Option<i64>| {
        let request = Request { context_time, ..request(given) };
        (frontend_args::given_epoch(&request), lowered(text, &request).unwrap().epoch)
    };
    let (plain, fixed) = ("FROM scratch\n", "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\n");
    let context = [("SOURCE_DATE_EPOCH", "context")];
    assert_eq!(epoch(plain, &context, Some(60)), (Some("60".into()), None));
    assert_eq!(epoch(plain, &context, None), (None, None));
    assert_eq!(epoch(fixed, &[], Some(60)), (None, Some("1970-01-01T00:01:00Z".into())));
    assert_eq!(epoch(fixed, &[], None), (None, None));
}

#[test]
fn an_outline_has_what_the_target_needs() {
    let text = "# FROM_HERE is global\nARG FROM_HERE=base\n# not it\nARG OTHER\n\
        FROM $FROM_HERE AS tools\n# LEVEL of tools\nARG LEVEL=$BASE-1\nRUN --mount=type=secret,id=s --mount=type=ssh true\n\
        FROM scratch AS unused\nARG UNUSED\n\
        # app is built\n# app for all\nFROM scratch AS app\nARG OTHER LEVEL=2\n\
        RUN --mount=type=bind,from=tools,target=/t --mount=type=secret,id=s,required --mount=type=cache,target=/c true\n";
    let parsed = parse(text.as_bytes()).unwrap();
    let request = request(&[("OTHER", "given")]);
    let selection = select(&parsed.dockerfile, &request, &Pinned::new()).unwrap();
    let images = selection.images.keys().map(|name| (name.clone(), Arc::new(image(&name.reference)))).collect();
    let outline = Outline::of(&selection, &images).unwrap();
    assert_eq!((outline.name.as_deref(), outline.description.as_deref()), (Some("app"), Some("is built")));
    let args: Vec<_> = outline
        .args
        .iter()
        .map(|arg| (arg.name.as_str(), arg.value.as_deref(), arg.description.as_deref(), arg.span.start))
        .collect();
    assert_eq!(
        args,
        [
            ("FROM_HERE", Some("base"), Some("is global"), 2),
            ("OTHER", Some("given"), None, 4),
            ("LEVEL", Some("set-1"), Some("of tools"), 7)
        ]
    );
    let grant = |id: &str, required| Grant { id: id.into(), required, span: Span { start: 8, end: 8 } };
    assert_eq!((outline.secrets, outline.agents), (vec![grant("s", true)], vec![grant("default", false)]));
    assert_eq!(outline.caches, ["/c"]);
    let names: Vec<_> = targets(&parsed.dockerfile)
        .into_iter()
        .map(|target| (target.name.unwrap(), target.description, target.is_default))
        .collect();
    let none = |name: &str| (name.to_owned(), None, false);
    assert_eq!(names, [none("tools"), none("unused"), ("app".into(), Some("is built".into()), true)]);
}

#[test]
fn what_is_made_of_few_lines_has_a_limit() {
    let growing = [
        "ENV a=x$a\n".repeat(100_000),
        "WORKDIR a\n".repeat(100_000),
        "EXPOSE 1-65535\n".repeat(2000),
        format!("EXPOSE{}\n", " 1-65535".repeat(10_000)),
        format!("ARG a={}\nENV{}\n", "x".repeat(50_000), " b=$a".repeat(2000)),
        format!("ARG a={}\nCOPY{} /\n", "x".repeat(50_000), " $a".repeat(2000)),
        format!("ENV a={}\n{}", "x".repeat(50_000), "RUN true\n".repeat(2000)),
        format!("ENV a={}\n{}", "x".repeat(50_000), "FROM b as b\n".repeat(2000)),
        "FROM b as b\n".repeat(100_000),
        "RUN true\n".repeat(100_000),
    ];
    for text in growing {
        let text = format!("FROM scratch AS b\n{text}");
        let error = lowered(&text, &request(&[])).unwrap_err();
        assert!(matches!(error.problem, Problem::TooMuch { .. }), "{text:.80}: {error}");
    }
}

#[test]
fn as_many_instructions_as_there_may_be_are_lowered() {
    let many = |line: &dyn Fn(u32) -> String| (0..100_000).map(line).collect::<String>();
    let files = [
        many(&|number| format!("ENV k{number}=v\n")),
        many(&|number| format!("ARG k{number}=v\n")),
        many(&|number| format!("FROM b AS s{number}\nCOPY --from=b / /\n")),
    ];
    for text in files {
        lowered(&format!("FROM scratch AS b\n{text}"), &request(&[])).unwrap();
    }
    lowered(&many(&|number| format!("ARG k{number}=v\n")).replace("k0=v\n", "k0=v\nFROM scratch\n"), &request(&[]))
        .unwrap();
}

#[test]
fn messages_and_names_of_steps_stay_short() {
    let many = "FROM scratch\n".repeat(60);
    let unknown = Request { target: Some("x".repeat(1000)), ..request(&[]) };
    let error = lowered(&many, &unknown).unwrap_err().to_string();
    assert!(error.ends_with("`49`, and 10 more") && error.len() < 600, "{error}");
    let graph = lowered(&format!("FROM scratch\nRUN {}\n", "\u{e9}".repeat(5000)), &request(&[])).unwrap();
    let name = &graph.vertices.last().unwrap().name;
    assert!(name.ends_with("\u{e9}…") && name.chars().count() < 1100, "{name}");
}

#[test]
fn what_nothing_in_the_file_is_about_is_told_of() {
    let told = |text: &str, request: &Request, filters: &[&str]| {
        let parsed = parse(text.as_bytes()).unwrap();
        let selection = select(&parsed.dockerfile, request, &Pinned::new()).unwrap();
        let mut base = image("debian");
        base.config.config.on_build = vec!["ARG ONLY_OF_BASE".into()];
        let pinned = selection.images.keys().map(|name| (name.clone(), Arc::new(base.clone()))).collect();
        let filters: Vec<String> = filters.iter().map(|&name| name.to_owned()).collect();
        unused::unused(&selection, &pinned, &filters)
    };
    let file = "ARG GLOBAL\nFROM debian AS One\nARG VERSION\nONBUILD ARG LATER\nFROM One\nCOPY --from=files a /\n";
    let used = ["GLOBAL", "VERSION", "LATER", "ONLY_OF_BASE", "http_proxy", "TARGETARCH", "SOURCE_DATE_EPOCH"];
    let contexts = |names: &[&str]| {
        let tree = || NamedContext::parse(".").unwrap();
        names.iter().map(|name| (canonical(name), tree())).collect::<BTreeMap<_, _>>()
    };
    let args: Vec<(&str, &str)> = used.iter().map(|name| (*name, "x")).collect();
    for names in [&["files"][..], &["files", "debian"], &["files", "ONE"]] {
        let args = if names.len() == 1 { &args[..] } else { &[] };
        let all = Request { contexts: contexts(names), ..request(args) };
        assert_eq!(told(file, &all, &["one", "stage-1"]), Vec::<String>::new());
    }
    let mut none = Request { contexts: contexts(&["flies"]), ..request(&[("VERISON", "1")]) };
    none.contexts.insert(
        for_platform(&canonical("example.com/x"), &Platform::host()),
        none.contexts[&canonical("flies")].clone(),
    );
    assert_eq!(
        told(file, &none, &["two"]),
        [
            "the build arg `VERISON` is used by nothing: no ARG declares it; did you mean `VERSION`?",
            "the build context `flies` is used by nothing: no stage, image or `--from=` has its name",
            &format!(
                "the build context `example.com/x:latest::{}` is used by nothing: no stage, image or `--from=` has its name",
                Platform::host()
            ),
            "`--no-cache-filter two` has no effect: no stage is called so",
        ]
    );
}
