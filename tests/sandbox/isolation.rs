//! What a hostile image or step cannot do.

use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::bench::{SANDBOX_FAILED, is_root, on_every_rung, on_rungs_with_mounts, outcome};

/// A directory of the host that an image points to, and that must stay empty.
fn canary(bench: &super::bench::Bench) -> std::path::PathBuf {
    let canary = bench.path("canary");
    fs_err::create_dir(&canary).unwrap();
    canary
}

fn assert_untouched(canary: &Path) {
    assert_eq!(fs_err::read_dir(canary).unwrap().count(), 0);
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(canary.to_str().unwrap()));
}

/// CVE-2025-31133, CVE-2025-52565, CVE-2025-52881, CVE-2019-19921.
#[test]
fn links_for_mount_points_do_not_lead_out_of_the_root() {
    on_every_rung(|bench| {
        let canary = canary(bench);
        let up = format!("../../../../../../../..{}", canary.display());
        for to in [canary.to_str().unwrap(), &up] {
            for name in ["etc", "dev", "proc", "sys", "target"] {
                symlink(to, bench.path("root").join(name)).unwrap();
            }
            bench.options = vec!["--tmpfs=/target/inside".to_owned()];
            bench.give();
            let outcome = bench.sh("echo ran");
            assert!(outcome.code == 0 || outcome.code == SANDBOX_FAILED, "{outcome:?}");
            assert_untouched(&canary);
            for name in ["etc", "dev", "proc", "sys", "target"] {
                fs_err::remove_file(bench.path("root").join(name)).unwrap();
            }
            bench.renew();
        }
    });
}

#[test]
fn files_for_mount_points_do_not_lead_out_of_the_root() {
    on_every_rung(|bench| {
        let canary = canary(bench);
        fs_err::create_dir(bench.path("root/etc")).unwrap();
        for name in ["resolv.conf", "hosts"] {
            symlink(canary.join(name), bench.path("root/etc").join(name)).unwrap();
        }
        bench.give();
        assert!(bench.text("cat /etc/hosts").contains("localhost"));
        assert_untouched(&canary);
        assert_eq!(bench.upper(), [] as [&str; 0]);
    });
}

#[test]
fn endless_links_for_mount_points_are_an_error() {
    on_every_rung(|bench| {
        symlink("dev", bench.path("root/dev")).unwrap();
        let outcome = bench.sh("true");
        assert_eq!(outcome.code, SANDBOX_FAILED);
        assert!(outcome.stderr.contains("cannot make the mount point `/dev`"), "{outcome:?}");
    });
}

/// CVE-2024-21626: an open descriptor of the host is a way out of the root.
#[test]
fn no_descriptor_of_the_host_reaches_a_step() {
    on_every_rung(|bench| {
        let run = bench.command(&[
            "/bin/sh",
            "-c",
            "ls /proc/self/fd; ls -l /proc/$PPID/fd; for f in /proc/$PPID/fd/*; do cat $f/passwd; done",
        ]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 9</etc 7</etc/passwd; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
        shell.current_dir("/");
        let told = outcome(&mut shell);
        assert!(told.stdout.starts_with("0\n1\n2\n3\n"), "3 is the listing itself: {told:?}");
        for line in told.stdout.lines().filter(|line| line.contains("->")) {
            let to = line.split("-> ").nth(1).unwrap();
            let harmless = ["/dev/null", "pipe:", "socket:", "anon_inode:[signalfd]", "anon_inode:seccomp notify"];
            let children = to.ends_with("/children"); // the list that a subreaper reads
            assert!(children || harmless.iter().any(|kind| to.starts_with(kind)), "{line}");
        }
        assert!(!told.stdout.contains("root:"), "{told:?}");
    });
}

/// CVE-2019-5736: the program of process 1 is rbuild.
#[test]
fn the_program_of_rbuild_cannot_be_written() {
    on_every_rung(|bench| {
        let script = bench.path("root/script");
        fs_err::write(&script, "#!/proc/self/exe\n").unwrap();
        fs_err::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        bench.give();
        let program = env!("CARGO_BIN_EXE_rbuild");
        let before = fs_err::metadata(program).unwrap();
        let told = bench.sh("readlink /proc/$PPID/exe; (echo evil > /proc/$PPID/exe) 2>/dev/null || echo refused");
        let name = told.stdout.strip_suffix("refused\n").expect("it is not written");
        // A mount that stands nowhere and has nothing else, or memory.
        let names = if bench.rung.emulates() { [""; 2] } else { ["/\n", "/memfd:rbuild-init (deleted)\n"] };
        assert!(names.contains(&name), "{name}");
        let told = bench.run(&["/script"]);
        assert_ne!(told.code, 0, "{told:?}");
        let after = fs_err::metadata(program).unwrap();
        assert_eq!(
            (before.len(), before.mtime_nsec(), before.ctime_nsec()),
            (after.len(), after.mtime_nsec(), after.ctime_nsec())
        );
    });
}

#[test]
fn devices_of_the_host_cannot_be_reached_or_changed() {
    on_every_rung(|bench| {
        let before = fs_err::metadata("/dev/null").unwrap();
        let told = bench.sh("chmod 600 /dev/null; chown 1:1 /dev/null /proc/self/fd/0 /proc/$PPID/fd/0; mknod /zero c 1 5 && head -c 1 /zero");
        if bench.rung.mounts() {
            // An emulated node is made, and there is nothing in it.
            assert_eq!(told.code == 0, bench.rung.emulates(), "{told:?}");
            assert_eq!(told.stdout, "");
        }
        let after = fs_err::metadata("/dev/null").unwrap();
        assert_eq!((before.mode(), before.uid(), before.gid()), (after.mode(), after.uid(), after.gid()));
        for directory in ["/dev", "/dev/shm", "/tmpfs"].iter().filter(|_| bench.rung.mounts()) {
            bench.options = vec!["--tmpfs=/tmpfs".to_owned()];
            let told = bench.sh(&format!("mknod {directory}/zero c 1 5 && head -c 1 {directory}/zero"));
            assert_ne!((told.code, told.stdout.as_str()), (0, "\0"), "{directory}");
        }
    });
}

#[test]
fn a_device_node_can_be_made_where_ids_are_real_or_emulated() {
    if is_root() {
        on_every_rung(|bench| {
            let made = bench.sh("mknod /zero c 1 5").code == 0;
            assert_eq!(made, ["root", "single", "chroot"].contains(&bench.rung.name));
            assert_eq!(bench.upper().len(), usize::from(made));
        });
    }
}

#[test]
fn settings_of_the_kernel_cannot_be_written_and_secrets_not_read() {
    on_every_rung(|bench| {
        for path in [
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/hostname",
            "/sys/kernel/uevent_helper",
            "/proc/irq/default_smp_affinity",
        ] {
            let told = bench.sh(&format!("(echo 0 > {path}) 2>/dev/null"));
            assert_ne!(told.code, 0, "{path}: {told:?}");
        }
        assert_eq!(
            bench.text("for f in kcore keys timer_list interrupts; do [ ! -e /proc/$f ] || head -c 1 /proc/$f; done"),
            ""
        );
        assert_eq!(bench.text("ls /proc/acpi /sys/firmware 2>/dev/null | grep -v : || true").trim(), "");
    });
}

#[test]
fn the_root_cannot_be_left() {
    on_rungs_with_mounts(|bench| {
        fs_err::create_dir(bench.path("root/jail")).unwrap();
        fs_err::copy(bench.path("root/bin/busybox"), bench.path("root/jail/busybox")).unwrap();
        bench.give();
        assert_eq!(
            bench.text("cd /..; ls ../../..; ls /proc/$PPID/root/ 2>/dev/null || ls /"),
            "bin\ndev\netc\njail\nproc\nsys\n".repeat(2)
        );
        for script in [
            "mount -t tmpfs none /bin",
            "umount /proc/sys",
            "umount -l /etc/hosts",
            "mount -o remount,rw /proc/sys",
            "mount -o remount,dev /",
            "pivot_root . .",
        ] {
            assert_ne!(bench.sh(script).code, 0, "{script}");
        }
        let mounts = bench.text("cat /proc/self/mountinfo");
        assert!(!mounts.contains("/mnt") && !mounts.contains(bench.path("").to_str().unwrap()), "{mounts}");
    });
}

#[test]
fn processes_of_the_host_are_not_seen() {
    on_rungs_with_mounts(|bench| {
        if !bench.rung.masked {
            assert_eq!(bench.text("echo $PPID $$ /proc/[0-9]*"), "1 2 /proc/1 /proc/2\n");
        }
        assert_eq!(bench.text("cat /proc/$PPID/environ 2>/dev/null | wc -c"), "0\n");
    });
}

/// Where the processes of the machine are seen, they are no way to its files, its memory or its environment.
#[test]
fn no_process_of_the_host_can_be_looked_into() {
    on_rungs_with_mounts(|bench| {
        let script = "for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || [ $p = /proc/$PPID ] || { \
            [ ! -e $p/root/usr ] && [ ! -e $p/cwd/usr ] && ! head -c 1 $p/mem && ! ls $p/fd/* && ! ls $p/map_files/* || echo $p; }; \
            tr '\\0' '\\n' <$p/environ | grep ^CANARY=; done; true";
        let told = outcome(bench.command(&["/bin/sh", "-c", script]).env("CANARY", "of the machine"));
        assert_eq!((told.code, told.stdout.as_str()), (0, ""), "{:?}: {told:?}", bench.rung);
    });
}

#[test]
fn without_a_network_there_is_the_loopback_interface_alone() {
    on_rungs_with_mounts(|bench| {
        bench.option("--no-network");
        assert_eq!(bench.text("ls /sys/class/net; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo\nlo\n");
        assert_eq!(bench.text("(echo heard | nc -l -p 5555 &) ; sleep 0.3; nc 127.0.0.1 5555 < /dev/null"), "heard\n");
        bench.options.clear();
        let interfaces = bench.text("ls /sys/class/net").lines().count();
        assert_eq!(interfaces, fs_err::read_dir("/sys/class/net").unwrap().count());
    });
}

#[test]
fn a_private_network_leads_out_and_not_to_the_loopback_of_the_machine() {
    // No packet is sent: the address is what the machine would use as its own towards TEST-NET-1 (RFC 5737).
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    probe.connect("192.0.2.1:9").expect("the machine has a route out");
    let own = probe.local_addr().unwrap().ip();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"heard\n").unwrap();
        }
    });
    let tun_for_all = fs_err::metadata("/dev/net/tun").is_ok_and(|tun| tun.permissions().mode() & 0o006 == 0o006);
    on_rungs_with_mounts(|bench| {
        bench.option("--private-network");
        if bench.rung.as_user && !tun_for_all {
            let outcome = bench.sh("true");
            assert_eq!(outcome.code, SANDBOX_FAILED);
            let expected = "error: cannot give the step a network of its own through `slirp4netns`";
            assert!(outcome.stderr.starts_with(expected), "{}", outcome.stderr);
            assert!(outcome.stderr.contains("/dev/net/tun"), "{}", outcome.stderr);
            return;
        }
        assert_eq!(bench.text("ls /sys/class/net; cat /etc/resolv.conf"), "lo\ntap0\nnameserver 10.0.2.3\n");
        assert_eq!(bench.text(&format!("nc -w 5 {own} {port} < /dev/null")), "heard\n");
        for loopback in ["127.0.0.1", "10.0.2.2"] {
            assert_eq!(bench.text(&format!("nc -w 5 {loopback} {port} < /dev/null 2>&1 | grep -c heard; true")), "0\n");
        }
    });
}

#[test]
fn process_one_has_no_more_capabilities_than_it_needs() {
    on_every_rung(|bench| {
        let script = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/$PPID/status | tr '\\t' ' '";
        // To emulate it needs CAP_SYS_PTRACE, so that the step, which has not, cannot trace it.
        let own = if bench.rung.emulates() { "00000000a80c25fb" } else { "00000000a80425fb" };
        let expected = format!(
            "CapInh: 0000000000000000\nCapPrm: {own}\nCapEff: {own}\n\
            CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\n"
        );
        assert_eq!(bench.text(script), expected);
    });
}

#[test]
fn a_rung_with_an_unknown_name_is_an_error() {
    on_every_rung(|bench| {
        let mut command = bench.rbuild();
        command.args(["debug", "run", "--rung", "gvisor", "--upper=/", "--work=/", "--", "true"]);
        let told = "error: there is no sandbox `gvisor`; there are `root`, `range`, `single` and `chroot`\n";
        let outcome = outcome(&mut command);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (SANDBOX_FAILED, told));
    });
}

#[test]
fn the_doctor_names_the_rung_that_a_step_gets_and_leaves_nothing() {
    on_every_rung(|bench| {
        fs_err::create_dir(bench.path("store")).unwrap();
        bench.give();
        let told = outcome(bench.rbuild().args(["debug", "doctor"]).arg(bench.path("store")));
        let as_root = is_root() && !bench.rung.as_user;
        let expected = if as_root { "rung: Some(\n        Root," } else { "rung: Some(\n        Range," };
        assert!(told.stdout.contains(expected), "{told:?}");
        assert_eq!(as_root, told.stdout.contains("obstacles: []"), "{told:?}");
        let shared = told.stdout.contains("a step sees and can signal the processes of this container");
        assert_eq!(shared, bench.rung.masked && !as_root, "{told:?}");
        assert_eq!(fs_err::read_dir(bench.path("store")).unwrap().count(), 0);
    });
}
