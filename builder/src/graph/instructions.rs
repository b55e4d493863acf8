//! What each instruction does to a stage: one function an instruction.

use std::path::{Path, PathBuf};

use crate::dockerfile::{
    ArgDeclaration, Command, CommandLine, Healthcheck as Check, Instruction, Network, Ports, Run, Word,
};
use crate::graph::config::{Empty, Healthcheck};
use crate::graph::frontend_args;
use crate::graph::go;
use crate::graph::lower::{Lowering, StageState};
use crate::graph::mounts::Mounts;
use crate::graph::platform::Platform;
use crate::graph::references::StepNetwork;
use crate::graph::scope::PROXY_ARGS;
use crate::graph::{MkdirOp, Op, Problem, RunOp, Script};

/// What a port counts, in bytes: its text in the config and in the history.
const PORT: usize = 128;

/// Whether an instruction adds a layer to the image.
pub(super) fn makes_layer(command: &Command) -> bool {
    matches!(command, Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Workdir(_))
}

impl Lowering<'_> {
    pub(super) fn instruction(&mut self, state: &mut StageState, instruction: &Instruction) -> Result<(), Problem> {
        keep_secrets(state, instruction)?;
        match &instruction.command {
            Command::Cmd(line) => cmd(state, line),
            Command::Entrypoint(line) => entrypoint(state, line),
            Command::Healthcheck(check) => healthcheck(state, check),
            Command::Maintainer(name) => maintainer(state, name),
            Command::Onbuild(trigger) => onbuild(state, trigger),
            Command::Shell(words) => shell(state, words),
            Command::Add(add) => return self.add(state, add, instruction),
            Command::Arg(declarations) => return self.arg(state, declarations),
            Command::Copy(copy) => return self.copy(state, copy, instruction),
            Command::Env(pairs) => return env(state, pairs),
            Command::Expose(words) => return expose(state, words),
            Command::Label(pairs) => return label(state, pairs),
            Command::Run(run) => return self.run(state, run, instruction),
            Command::Stopsignal(word) => return stopsignal(state, word),
            Command::User(word) => return user(state, word),
            Command::Volume(words) => return volume(state, words),
            Command::Workdir(word) => return self.workdir(state, word, instruction),
        }
        Ok(())
    }

    fn arg(&mut self, state: &mut StageState, declarations: &[ArgDeclaration]) -> Result<(), Problem> {
        let mut texts = Vec::new();
        for ArgDeclaration { name, default, .. } in declarations {
            if self.selection.request.secret_args.contains(name) {
                texts.push(name.clone());
                state.scope.hide(name);
                state.args.insert(name.clone());
                continue;
            }
            let default = default.as_ref().map(|word| state.scope.expand(word)).transpose()?;
            let given = self.selection.request.build_args.get(name).cloned();
            let given = given.and_then(|value| frontend_args::settled(name, value, self.selection.request)).or(default);
            let value = given.or_else(|| self.selection.globals.get(name).map(str::to_owned));
            texts.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            if let Some(value) = value {
                state.scope.set(name, &value);
            }
            // A proxy that has an ARG of its own is one like others (Dockerfile reference, "Predefined ARGs").
            state.args.insert(name.clone());
        }
        state.config_history(format!("ARG {}", texts.join(" ")));
        Ok(())
    }

    fn run(&mut self, state: &mut StageState, run: &Run, instruction: &Instruction) -> Result<(), Problem> {
        refuse(run.insecure, "`RUN --security=insecure`")?;
        refuse(!run.devices.is_empty(), "`RUN --device`")?;
        if !state.platform.runs_here() {
            let (platform, host) = (state.platform.to_string(), Platform::host().to_string());
            return Err(Problem::Foreign { platform, host });
        }
        let Mounts { ops: mounts, from, agent } = self.mounts(state, &run.mounts, instruction.span)?;
        let (argv, script) = command(state, run);
        let text = history_of_run(state, &argv);
        state.scope.spend()?;
        let variables = state.scope.variables();
        let mut env: Vec<(String, String)> = variables.map(|(name, value)| (name.into(), value.into())).collect();
        env.extend(agent.filter(|(name, _)| state.scope.get(name).is_none()));
        let op = RunOp {
            argv,
            script,
            env,
            secret_env: state.scope.secrets().iter().cloned().collect(),
            proxy_env: self.proxies(),
            cwd: PathBuf::from(working_dir(state)),
            user: state.config.config.user.clone(),
            network: network(run.network, self.selection.request.network)?,
            hostname: frontend_args::hostname(self.selection.request)?,
            mounts,
        };
        self.layer(state, Op::Run(op), from, instruction);
        state.layer_history(&text);
        Ok(())
    }

    /// The proxies that were given, each by both its names, as BuildKit does: some programs know the one, some the other.
    fn proxies(&self) -> Vec<(String, String)> {
        let given = |name: &str| self.selection.request.build_args.get(name).filter(|value| !value.is_empty());
        let mut proxies = Vec::new();
        for [upper, lower] in PROXY_ARGS {
            let values = [(upper, given(upper).or(given(lower))), (lower, given(lower).or(given(upper)))];
            proxies.extend(values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))));
        }
        proxies
    }

    fn workdir(&mut self, state: &mut StageState, word: &Word, instruction: &Instruction) -> Result<(), Problem> {
        let path = absolute(state, &state.scope.expand(word)?);
        state.config.config.working_dir.clone_from(&path);
        if path == "/" {
            state.config_history("WORKDIR /".into());
            return Ok(());
        }
        let user = state.config.config.user.clone();
        self.layer(state, Op::Mkdir(MkdirOp { path: PathBuf::from(&path), user }), None, instruction);
        // The one instruction with a layer whose text has no mark behind it.
        state.history(format!("WORKDIR {path}"), false);
        Ok(())
    }
}

/// The network of a step. What a step has in a private network is what it has in the machine's: both are one key.
fn network(own: Network, general: StepNetwork) -> Result<Network, Problem> {
    match (own, general) {
        (Network::Default, StepNetwork::None) => Ok(Network::None),
        (Network::Host, StepNetwork::None | StepNetwork::Private) => Err(Problem::HostNetwork),
        (own, _) => Ok(own),
    }
}

pub(super) fn refuse(used: bool, what: &str) -> Result<(), Problem> {
    if used { Err(Problem::NotImplemented { what: what.to_owned() }) } else { Ok(()) }
}

/// Refuses secrets in texts that go into the config as they are; those that are expanded are refused there.
fn keep_secrets(state: &StageState, instruction: &Instruction) -> Result<(), Problem> {
    let kind = match &instruction.command {
        Command::Cmd(_) => "CMD",
        Command::Entrypoint(_) => "ENTRYPOINT",
        Command::Healthcheck(_) => "HEALTHCHECK",
        Command::Onbuild(_) => "ONBUILD",
        _ => return Ok(()),
    };
    match state.scope.secret_in(&instruction.original) {
        Some(name) => Err(Problem::Secret { instruction: kind, name: name.to_owned() }),
        None => Ok(()),
    }
}

fn cmd(state: &mut StageState, line: &CommandLine) {
    let words = words(state, line);
    state.config_history(format!("CMD {}", go::list(&words)));
    state.config.config.cmd = words;
    state.cmd_set = true;
}

fn entrypoint(state: &mut StageState, line: &CommandLine) {
    let words = words(state, line);
    state.config_history(format!("ENTRYPOINT {}", go::list(&words)));
    state.config.config.entrypoint = words;
    if !state.cmd_set {
        state.config.config.cmd.clear();
    }
}

fn env(state: &mut StageState, pairs: &[(Word, Word)]) -> Result<(), Problem> {
    let pairs = expand_pairs(state, pairs)?;
    for (name, value) in &pairs {
        state.scope.set(name, value);
        state.env.insert(name.clone(), format!("{name}={value}"));
    }
    state.config_history(format!("ENV {}", join_pairs(&pairs)));
    Ok(())
}

fn label(state: &mut StageState, pairs: &[(Word, Word)]) -> Result<(), Problem> {
    let pairs = expand_pairs(state, pairs)?;
    state.config_history(format!("LABEL {}", join_pairs(&pairs)));
    state.config.config.labels.extend(pairs);
    Ok(())
}

/// All values are expanded as they were before the instruction.
fn expand_pairs(state: &StageState, pairs: &[(Word, Word)]) -> Result<Vec<(String, String)>, Problem> {
    pairs.iter().map(|(name, value)| Ok((state.scope.expand(name)?, state.scope.expand(value)?))).collect()
}

fn join_pairs(pairs: &[(String, String)]) -> String {
    let texts: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    texts.join(" ")
}

fn expose(state: &mut StageState, words: &[Word]) -> Result<(), Problem> {
    let mut ports = Vec::new();
    for word in words {
        for text in state.scope.expand_words(word)? {
            let range = Ports::parse(&text).map_err(|source| Problem::Port { text: text.clone(), source })?;
            state.scope.budget().spend(usize::from(range.last - range.first) * PORT)?;
            ports.extend((range.first..=range.last).map(|port| format!("{port}/{}", range.protocol)));
        }
    }
    state.config_history(format!("EXPOSE [{}]", ports.join(" ")));
    state.config.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Empty {})));
    Ok(())
}

fn healthcheck(state: &mut StageState, check: &Check) {
    let check = match check {
        Check::None => Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() },
        Check::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let nanoseconds =
                |d: &Option<std::time::Duration>| d.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
            let test = match command {
                CommandLine::Shell(line) => vec!["CMD-SHELL".into(), line.clone()],
                CommandLine::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
            };
            Healthcheck {
                test,
                interval: nanoseconds(interval),
                timeout: nanoseconds(timeout),
                start_period: nanoseconds(start_period),
                start_interval: nanoseconds(start_interval),
                retries: u64::from(retries.unwrap_or(0)),
            }
        }
    };
    state.config_history(format!("HEALTHCHECK {}", go::healthcheck(&check)));
    state.config.config.healthcheck = Some(check);
}

fn maintainer(state: &mut StageState, name: &str) {
    name.clone_into(&mut state.config.author);
    state.config_history(format!("MAINTAINER {name}"));
}

fn onbuild(state: &mut StageState, trigger: &str) {
    // The one instruction that leaves nothing in the history, as under BuildKit.
    state.config.config.on_build.push(trigger.to_owned());
}

fn shell(state: &mut StageState, words: &[String]) {
    state.config.config.shell = words.to_vec();
    state.config_history(format!("SHELL [{}]", words.join(" ")));
}

fn stopsignal(state: &mut StageState, word: &Word) -> Result<(), Problem> {
    let signal = state.scope.expand(word)?;
    if !is_signal(&signal) {
        let reason = "write a signal's name (`SIGTERM`) or number (1 to 64)";
        return Err(Problem::BadValue { what: "STOPSIGNAL", value: signal, reason });
    }
    state.config_history(format!("STOPSIGNAL {signal}"));
    state.config.config.stop_signal = signal;
    Ok(())
}

/// Whether a container can be sent it: one of the signals of Linux (signal(7)) by number, or by name with `SIG` or without.
fn is_signal(text: &str) -> bool {
    const NAMES: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP \
        SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX";
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let between = |offset: &str, last: u8| offset.parse::<u8>().is_ok_and(|offset| (1..=last).contains(&offset));
    match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
        (Some(offset), _) => between(offset, 15),
        (_, Some(offset)) => between(offset, 14),
        _ => NAMES.split_whitespace().any(|known| known == name),
    }
}

fn user(state: &mut StageState, word: &Word) -> Result<(), Problem> {
    let user = state.scope.expand(word)?;
    if user.is_empty() || user.starts_with(':') {
        let reason = "write `name` or `uid`, and after a `:` a group if you want one";
        return Err(Problem::BadValue { what: "USER", value: user, reason });
    }
    state.config_history(format!("USER {user}"));
    state.config.config.user = user;
    Ok(())
}

fn volume(state: &mut StageState, words: &[Word]) -> Result<(), Problem> {
    let mut volumes = Vec::new();
    for word in words {
        let path = state.scope.expand(word)?;
        if path.is_empty() {
            let reason = "write a path";
            return Err(Problem::BadValue { what: "VOLUME", value: path, reason });
        }
        volumes.push(path);
    }
    state.config_history(format!("VOLUME [{}]", volumes.join(" ")));
    state.config.config.volumes.extend(volumes.into_iter().map(|path| (path, Empty {})));
    Ok(())
}

/// The words of CMD and ENTRYPOINT: shell form behind the stage's shell.
fn words(state: &StageState, line: &CommandLine) -> Vec<String> {
    match line {
        CommandLine::Exec(words) => words.clone(),
        CommandLine::Shell(line) => with_shell(state, line),
    }
}

fn with_shell(state: &StageState, line: &str) -> Vec<String> {
    let shell = &state.config.config.shell;
    let default = ["/bin/sh".to_owned(), "-c".to_owned()];
    let shell = if shell.is_empty() { &default[..] } else { shell };
    shell.iter().cloned().chain([line.to_owned()]).collect()
}

/// The argument vector of a RUN, and the script that a heredoc with a `#!` line becomes.
fn command(state: &StageState, run: &Run) -> (Vec<String>, Option<Script>) {
    let line = match &run.command {
        CommandLine::Exec(words) => return (words.clone(), None),
        CommandLine::Shell(line) => line,
    };
    match run.heredocs.as_slice() {
        [] => (with_shell(state, line), None),
        [only] if line.trim_start().starts_with("<<") && line.split_whitespace().count() == 1 => {
            if only.body.starts_with("#!") {
                let path = Path::new("/dev/pipes").join(&only.name);
                let argv = vec![path.display().to_string()];
                return (argv, Some(Script { path, content: only.body.clone() }));
            }
            (with_shell(state, &only.body), None)
        }
        heredocs => {
            let mut text = line.clone();
            for heredoc in heredocs {
                text.push('\n');
                text.push_str(&heredoc.body);
                text.push_str(&heredoc.name);
            }
            (with_shell(state, &text), None)
        }
    }
}

fn working_dir(state: &StageState) -> &str {
    match state.config.config.working_dir.as_str() {
        "" => "/",
        path => path,
    }
}

/// A path beneath the working directory, cleaned: no `.`, no `..`, no doubled or trailing slash.
pub(super) fn absolute(state: &StageState, path: &str) -> String {
    let base = if path.starts_with('/') { "" } else { working_dir(state) };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `|2 A=1 B=2 /bin/sh -c make`: the ARGs that the command could see stand before it.
fn history_of_run(state: &StageState, argv: &[String]) -> String {
    let mut words = vec!["RUN".to_owned()];
    if !state.args.is_empty() {
        words.push(format!("|{}", state.args.len()));
    }
    let value = |name: &String| match state.scope.get(name) {
        None if state.scope.secrets().contains(name) => format!("{name}=<secret>"),
        value => format!("{name}={}", value.unwrap_or_default()),
    };
    words.extend(state.args.iter().map(value));
    words.extend_from_slice(argv);
    words.join(" ")
}
