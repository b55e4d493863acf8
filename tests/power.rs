//! Machines that fail below the store: the disk stops answering, the power is cut. The build that it happens to ends with
//! a clear error; when the machine is up again nothing torn is used, what was promised is there, and the next build is
//! right.
//!
//! The store is on a file system of its own, which `FS_IOC_SHUTDOWN` (Linux, `include/uapi/linux/fs.h`) ends at once:
//! every call fails from then on with an input/output error, and what was not yet in its journal is lost for good.

#![expect(clippy::print_stdout, reason = "a test that fails says which moments it chose, and what it met at each")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::common::{Bench, Image, RBUILD, Run, assert_clean, peer, registry};

/// How long anything may take that ends by itself once the disk does not answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Layers of a file, of many small ones, and of one that says what all the others contain; all of them have the same
/// bytes whenever they are made. `N` makes the last step a new one.
const DOCKERFILE: &str = "FROM {busybox}\n\
    COPY noise /noise\n\
    RUN mkdir /many && for i in $(seq 300); do echo $i >/many/$i; done && touch -t 197001020000 /many/* /many\n\
    COPY small /small\n\
    RUN head -c 4000000 /noise >/part && touch -t 197001020000 /part\n\
    ARG N\n\
    RUN : $N; cat /noise /many/* /small/* /part /etc/passwd | sha256sum >/sum && touch -t 197001020000 /sum\n";

fn bench() -> Bench {
    let bench = Bench::with(DOCKERFILE);
    let noise: Vec<u8> =
        (0..100_000_u32).flat_map(|number| blake3::hash(&number.to_le_bytes()).as_bytes()[..20].to_vec()).collect();
    fs_err::write(bench.context().join("noise"), noise).unwrap();
    for number in 0..50 {
        bench.file(&format!("small/{number}"), &number.to_string());
    }
    for path in ["noise", "small"].into_iter().map(str::to_owned).chain((0..50).map(|n| format!("small/{n}"))) {
        let file = fs_err::File::open(bench.context().join(path)).unwrap();
        file.file().set_modified(UNIX_EPOCH).unwrap();
    }
    bench
}

/// The manifest that an undisturbed build gives.
fn manifest(bench: &Bench, number: u64) -> Value {
    bench.image(&["--build-arg", "SOURCE_DATE_EPOCH=0", "--build-arg", &format!("N={number}")]).manifest
}

/// A machine whose state directory is on a disk of its own. Nobody else has it mounted: it is in a mount namespace
/// that lasts until the machine is down.
struct Machine {
    bench: Bench,
    system: &'static str,
    boots: u64,
    /// Holds the namespace until its standard input is closed.
    holder: Option<Child>,
}

impl Machine {
    fn new(system: &'static str) -> Self {
        let bench = bench();
        fs_err::create_dir(bench.path("home")).unwrap();
        let mut machine = Self { bench, system, boots: 0, holder: None };
        let disk = machine.disk();
        // As small as xfs can be; the file has holes.
        fs_err::File::create(&disk).unwrap().set_len(300 << 20).unwrap();
        peer(&format!("mkfs.{system}"), &["-q", disk.to_str().unwrap()]);
        machine.boot();
        machine
    }

    fn disk(&self) -> PathBuf {
        self.bench.path("disk")
    }

    /// Mounts the disk, which replays its journal, and changes what tells this boot from others.
    fn boot(&mut self) {
        const SCRIPT: &str = "mount -t \"$1\" -o loop \"$2\" \"$3\" && \
                              mount --bind \"$4\" /proc/sys/kernel/random/boot_id && echo up && exec cat";
        self.boots += 1;
        let boot = self.bench.path("boot");
        fs_err::write(&boot, format!("{:08x}-0000-4000-8000-000000000000\n", self.boots)).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh", self.system]);
        command.args([self.disk(), self.bench.path("home"), boot]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "up\n", "the tests of power cuts need root, loop devices and {}: see above", self.system);
        self.holder = Some(holder);
    }

    /// Unmounts the disk. Nothing that rbuild started runs any more or has it mounted: that is told by its loop
    /// device, which goes with the last user.
    fn shut(&mut self) {
        let Some(mut holder) = self.holder.take() else { return };
        drop(holder.stdin.take());
        holder.wait().unwrap();
        let begun = Instant::now();
        while self.is_mounted() {
            assert!(begun.elapsed() < PATIENCE, "something still uses {}", self.disk().display());
            sleep(Duration::from_millis(5));
        }
    }

    fn is_mounted(&self) -> bool {
        let disk = self.disk().display().to_string();
        let devices = fs_err::read_dir("/sys/block").unwrap().map(Result::unwrap);
        let mut files =
            devices.filter_map(|device| fs_err::read_to_string(device.path().join("loop/backing_file")).ok());
        files.any(|file| file.trim_end() == disk)
    }

    /// A command that runs on this machine.
    fn command(&self, program: &str) -> Command {
        let process = self.holder.as_ref().expect("the machine is up").id();
        let mut command = Command::new("nsenter");
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("RBUILD_HOME", self.bench.path("home"));
        command.arg(format!("--mount=/proc/{process}/ns/mnt"));
        command.arg(format!("--wdns={}", self.bench.context().display())).arg("--").arg(program);
        command
    }

    fn rbuild(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(RBUILD).args(arguments))
    }

    /// The name of the image that `N` gives.
    fn name(&self, number: u64) -> String {
        format!("{}/power-{}-{}/image:{number}", registry(), std::process::id(), self.system)
    }

    /// A build that keeps its image in the store.
    fn build(&self, number: u64) -> Command {
        let mut command = self.command(RBUILD);
        command.args(["--progress", "plain", "--build-arg", "SOURCE_DATE_EPOCH=0", "--build-arg"]);
        command.arg(format!("N={number}")).arg("-t").arg(self.name(number)).arg(".");
        command
    }

    /// How long a build takes that finds nothing.
    fn build_everything(&self) -> Duration {
        assert_eq!(self.rbuild(&["cache", "prune", "--all"]).code, 0);
        let begun = Instant::now();
        let run = Run::of(&mut self.build(0));
        assert_eq!(run.code, 0, "{}", run.stderr);
        begun.elapsed()
    }

    /// The manifest of the image of that name in the store (but for the base, the registry's).
    fn stored(&self, number: u64) -> Value {
        self.copied(&format!("store:{}", self.name(number)))
    }

    /// The manifest of an image, all of whose bytes are read.
    fn copied(&self, place: &str) -> Value {
        let layout = self.bench.path("layout");
        if layout.exists() {
            fs_err::remove_dir_all(&layout).unwrap();
        }
        let run = self.rbuild(&["copy", place, &format!("oci:{}", layout.display())]);
        assert_eq!(run.code, 0, "{place}: {}", run.stderr);
        Image::read(&layout).manifest
    }

    /// Cuts the power, while nothing runs or to the harm of what does, and has it again once everything has ended.
    fn reboot(&mut self) {
        self.shut();
        self.boot();
    }

    /// What of the store is torn, by kind, now that the power is back. Bytes and names are promised to be whole.
    fn torn(&self) -> BTreeMap<String, usize> {
        let verified = self.rbuild(&["cache", "verify"]);
        let mut torn = BTreeMap::new();
        for line in verified.stdout.lines().filter_map(|line| line.strip_prefix("broken: ")) {
            let kind = line.split_whitespace().next().unwrap();
            let losable = ["snapshots", "indexes", "records", "segments", "bundles"];
            assert!(losable.contains(&kind), "{line}");
            *torn.entry(kind.to_owned()).or_default() += 1;
        }
        assert_eq!(verified.code, i32::from(!torn.is_empty()), "{}{}", verified.stdout, verified.stderr);
        torn
    }

    /// The store is whole once what was found torn is removed, and nothing half-done is left.
    fn assert_whole(&self) {
        for arguments in [&["cache", "verify", "--repair"][..], &["cache", "verify"]] {
            let run = self.rbuild(arguments);
            assert_eq!(run.code, 0, "{arguments:?}: {}{}", run.stdout, run.stderr);
        }
        let process = self.holder.as_ref().expect("the machine is up").id();
        let home = self.bench.path("home");
        let home = PathBuf::from(format!("/proc/{process}/root")).join(home.strip_prefix("/").unwrap());
        assert!(home.join("store-v1").is_dir());
        assert_clean(home);
    }

    /// Something that cuts the power as soon as it is told to.
    fn switch(&self) -> Switch {
        const SCRIPT: &str = "import fcntl, os, struct, sys\n\
                              disk = os.open(sys.argv[1], os.O_RDONLY)\n\
                              print('ready', flush=True)\n\
                              sys.stdin.read()\n\
                              SHUTDOWN, NOLOGFLUSH = 0x8004587d, 2\n\
                              fcntl.ioctl(disk, SHUTDOWN, struct.pack('I', NOLOGFLUSH))\n";
        let mut command = self.command("python3");
        command.args(["-c", SCRIPT]).arg(self.bench.path("home"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "python3 cannot open the disk: see above");
        Switch(child)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            drop(holder.stdin.take());
            holder.wait().ok();
        }
    }
}

struct Switch(Child);

impl Switch {
    fn cut(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success(), "the file system cannot be shut down");
    }
}

/// A disk that does not answer is told, and where it is, unless it was a step that noticed.
fn assert_told(run: &Run, pushed: bool, when: &str) {
    // Once its journal is gone ext4 lets nobody write.
    let failed = ["Input/output error", "Read-only file system"].iter().any(|reason| run.stderr.contains(reason));
    let told = failed && run.stderr.contains("the state directory `");
    let step = run.stderr.contains("exited with status") || run.stderr.contains("killed by");
    let error = run.stderr.lines().any(|line| line.starts_with("error: "));
    assert!(
        ([1, 3].contains(&run.code) || (pushed && run.code == 4)) && (told || step) && error,
        "{when}: {}: {}",
        run.code,
        run.stderr
    );
    assert!(!run.stderr.contains("panicked"), "{when}: {}", run.stderr);
    // What the build failed of is said, not what came after it.
    let mut failed = run.stderr.lines().filter_map(|line| line.split_once(" ERROR: ")).peekable();
    let said = |(_, error): (&str, &str)| run.stderr.contains(&format!("error: {error}\n"));
    assert!(failed.peek().is_none() || failed.any(said), "{when}: {}", run.stderr);
}

/// Numbers from 0 to 1 that follow from a seed: an xorshift generator.
struct Chance(u64);

impl Chance {
    /// A seed of its own for each run, which is printed, unless `RBUILD_TEST_SEED` gives one.
    #[expect(clippy::disallowed_methods, reason = "whoever runs the tests repeats one that failed")]
    fn new() -> Self {
        let random = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
        let seed = std::env::var("RBUILD_TEST_SEED").map_or_else(|_| random(), |text| text.parse().unwrap());
        println!("RBUILD_TEST_SEED={seed}");
        Self(seed | 1)
    }

    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

/// How often the power is cut on each file system: a few times, more where `RBUILD_TEST_CUTS` says so.
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says how long they may take")]
fn cuts() -> u32 {
    std::env::var("RBUILD_TEST_CUTS").map_or(8, |text| text.parse().unwrap())
}

/// Builds that the power ends, some of everything and some of the last step alone; every third is pushed, and every fourth
/// keeps its trees in the way of the lowest rung.
fn power_cuts(system: &'static str) {
    let (mut machine, reference, mut chance) = (Machine::new(system), bench(), Chance::new());
    let whole = (0..2).map(|_| machine.build_everything()).min().expect("two were measured");
    let (mut disturbed, mut torn) = (0, BTreeMap::<String, usize>::new());
    for number in 1..=cuts() {
        let everything = number % 2 == 1;
        if everything {
            assert_eq!(machine.rbuild(&["cache", "prune", "--all"]).code, 0);
        }
        // The moments are spread over the time that the build takes, and a little beyond.
        let portion = (f64::from((number - 1) / 2) + chance.next()) / f64::from(cuts().div_ceil(2));
        let moment = whole.mul_f64(portion * if everything { 1.1 } else { 0.6 });
        let when = format!("{system}: cut number {number}, after {moment:?}");
        let (number, pushed) = (u64::from(number), number % 3 == 0);
        let mut command = machine.build(number);
        let isolation = if number % 4 == 3 { "chroot" } else { "root" };
        command
            .args(pushed.then_some("--push"))
            .args(["--isolation", isolation])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let switch = machine.switch();
        let child = command.spawn().unwrap();
        sleep(moment);
        switch.cut();
        let cut = Instant::now();
        let run = Run::from(child.wait_with_output().unwrap());
        assert!(cut.elapsed() < PATIENCE, "{when}: it took {:?} to end", cut.elapsed());
        let done = run.code == 0;
        if !done {
            disturbed += 1;
            assert_told(&run, pushed, &when);
        }
        println!("{when}: {}", run.stderr.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join(" / "));
        machine.reboot();
        for (kind, count) in machine.torn() {
            *torn.entry(kind).or_default() += count;
        }
        let expected = manifest(&reference, number);
        if done {
            assert_eq!(machine.stored(number), expected, "{when}: the image was said to be there");
        }
        if done && pushed {
            assert_eq!(machine.copied(&format!("docker://{}", machine.name(number))), expected, "{when}");
        }
        let run = Run::of(&mut machine.build(number));
        assert_eq!(run.code, 0, "{when}: the next build: {}", run.stderr);
        assert_eq!(machine.stored(number), expected, "{when}: the next build");
        machine.assert_whole();
    }
    println!("{system}: {disturbed} builds were disturbed; torn: {torn:?}");
    assert!(disturbed > 0);
}

#[test]
fn after_a_power_cut_on_ext4_nothing_torn_is_used() {
    power_cuts("ext4");
}

#[test]
fn after_a_power_cut_on_xfs_nothing_torn_is_used() {
    power_cuts("xfs");
}

/// The power goes as soon as rbuild has said that the image is there; the context goes too.
#[test]
fn an_image_that_was_reported_outlives_a_power_cut() {
    for system in ["ext4", "xfs"] {
        let (mut machine, reference) = (Machine::new(system), bench());
        for number in 0..3 {
            let switch = machine.switch();
            let run = Run::of(machine.build(number).args((number == 1).then_some("--push")));
            switch.cut();
            assert_eq!(run.code, 0, "{}", run.stderr);
            machine.reboot();
            for earlier in 0..=number {
                assert_eq!(machine.stored(earlier), manifest(&reference, earlier), "{system}: {earlier} of {number}");
            }
            machine.torn();
        }
    }
}

/// Every command that uses the store says that it cannot.
#[test]
fn a_disk_that_does_not_answer_is_named() {
    for system in ["ext4", "xfs"] {
        let mut machine = Machine::new(system);
        assert_eq!(Run::of(&mut machine.build(0)).code, 0);
        machine.switch().cut();
        let name = machine.name(0);
        for arguments in [
            &["images"][..],
            &["cache", "du"],
            &["cache", "verify"],
            &["cache", "prune", "--all"],
            &["push", &name],
            &["build", "."],
        ] {
            let run = machine.rbuild(arguments);
            let told = run.stderr.contains("Input/output error") && run.stderr.contains("/home");
            assert!(run.code != 0 && told && run.stderr.lines().count() < 6, "{arguments:?}: {run:?}");
        }
        machine.shut();
    }
}
