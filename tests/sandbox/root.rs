//! The root of a step: what is in it, and what a step leaves in the upper directory.

use std::os::unix::fs::{MetadataExt, symlink};

use super::bench::{Bench, SANDBOX_FAILED, on_every_rung, on_rungs_with_mounts};

/// Runs a step that changes nothing, and sees that nothing has changed.
fn assert_no_trace(bench: &Bench) {
    bench.renew();
    std::thread::sleep(std::time::Duration::from_millis(10));
    let before = bench.upper_time();
    assert_eq!(bench.text("cat /etc/hosts > /dev/null"), "");
    assert_eq!(bench.upper(), [] as [&str; 0], "on {:?}", bench.rung);
    assert_eq!(bench.upper_time(), before, "on {:?}", bench.rung);
}

#[test]
fn a_step_that_changes_nothing_leaves_nothing() {
    on_every_rung(|bench| {
        assert_no_trace(bench);
        fs_err::create_dir(bench.path("root/etc")).unwrap();
        assert_no_trace(bench);
        fs_err::write(bench.path("root/etc/hosts"), "127.0.0.1 of-the-image\n").unwrap();
        for name in ["proc", "sys", "dev", "dev/shm"] {
            fs_err::create_dir(bench.path("root").join(name)).unwrap();
        }
        assert_no_trace(bench);
        bench.option("--tmpfs=/made/for/this/step");
        assert_no_trace(bench);
    });
}

#[test]
fn what_a_step_does_beside_a_mount_point_stays() {
    on_every_rung(|bench| {
        bench.text("echo 1 > /etc/own; mkdir /own; chmod 700 /etc");
        assert_eq!(bench.upper(), ["etc", "etc/own", "own"]);
        bench.renew();
        bench.text("chmod 700 /etc");
        assert_eq!(bench.upper(), ["etc"]);
    });
}

#[test]
fn what_was_in_the_upper_directory_before_stays_as_it_was() {
    on_every_rung(|bench| {
        let etc = bench.path("upper/etc");
        fs_err::create_dir(&etc).unwrap();
        let time = "@981173106.5";
        assert!(std::process::Command::new("touch").args(["-d", time]).arg(&etc).status().unwrap().success());
        bench.give();
        bench.text("cat /etc/hosts >/dev/null");
        let metadata = fs_err::metadata(&etc).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (981_173_106, 500_000_000));
        assert_eq!(bench.upper(), ["etc"]);
    });
}

#[test]
fn a_time_that_a_step_sets_on_a_directory_with_a_mount_point_stays() {
    on_every_rung(|bench| {
        fs_err::create_dir(bench.path("root/etc")).unwrap();
        bench.give();
        bench.text("touch -d '2001-02-03 04:05:06' /etc");
        let metadata = fs_err::metadata(bench.path("upper/etc")).unwrap();
        assert_eq!(metadata.mtime(), 981_173_106);
        let changed: &[&str] = if bench.rung.mounts() { &["etc"] } else { &[] };
        assert_eq!(bench.upper(), changed);
    });
}

#[test]
fn without_layers_the_upper_directory_is_the_root() {
    on_rungs_with_mounts(|bench| {
        fs_err::rename(bench.path("root/bin"), bench.path("upper/bin")).unwrap();
        fs_err::create_dir(bench.path("work")).unwrap();
        let mut command = bench.rbuild();
        command.args(["debug", "run", "--rung", bench.rung.name, "--work"]).arg(bench.path("work"));
        command.arg("--upper").arg(bench.path("upper")).args(["--", "/bin/sh", "-c", "echo new > /new; ls /"]);
        let outcome = super::bench::outcome(&mut command);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "bin\ndev\netc\nnew\nproc\nsys\n"));
        assert_eq!(bench.upper(), ["bin", "bin/busybox", "bin/sh", "new"]);
    });
}

#[test]
fn the_usual_devices_and_file_systems_are_there() {
    on_rungs_with_mounts(|bench| {
        let script = "cd /dev; ls -d *; stat -c '%n %t:%T %a' null zero full random urandom tty; \
            for link in fd stdin stdout stderr ptmx; do readlink $link; done; stat -c '%n %a' shm mqueue . pts/ptmx; \
            echo text > null; head -c 3 zero | od -An -tx1; head -c 5 urandom | wc -c; echo x > full || echo full";
        let expected = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
            null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n\
            /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n\
            shm 1777\nmqueue 1777\n. 755\npts/ptmx 666\n 00 00 00\n5\nfull\n";
        assert_eq!(bench.sh(script).stdout, expected);
        assert_eq!(bench.text("cat /etc/resolv.conf"), fs_err::read_to_string("/etc/resolv.conf").unwrap());
    });
}

#[test]
fn a_dangling_resolv_conf_leads_to_a_file_beneath_the_root() {
    on_every_rung(|bench| {
        fs_err::create_dir(bench.path("root/etc")).unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", bench.path("root/etc/resolv.conf")).unwrap();
        bench.give();
        assert_eq!(bench.text("cat /etc/resolv.conf"), fs_err::read_to_string("/etc/resolv.conf").unwrap());
        assert_no_trace(bench);
    });
}

#[test]
fn binds_and_tmpfs_are_mounted_and_leave_no_mount_point() {
    on_rungs_with_mounts(|bench| {
        fs_err::create_dir(bench.path("shared")).unwrap();
        fs_err::write(bench.path("shared/file"), "of the host\n").unwrap();
        bench.give();
        let shared = bench.path("shared");
        bench.option(format!("--bind={}:/a/b", shared.display()));
        bench.option(format!("--bind-readonly={}:/c", shared.display()));
        bench.option(format!("--bind-readonly={}:/d/file", shared.join("file").display()));
        bench.option("--tmpfs=/e");
        assert_eq!(
            bench.text("cat /a/b/file /c/file /d/file; echo 1 > /a/b/new; echo 2 > /e/new"),
            "of the host\n".repeat(3)
        );
        assert_eq!(fs_err::read_to_string(shared.join("new")).unwrap(), "1\n");
        assert_eq!(bench.upper(), [] as [&str; 0]);
        for script in ["echo 1 > /c/other", "echo 1 > /d/file", "head -c 2000000 /dev/zero > /e/big"] {
            assert_eq!(bench.sh(script).code, 1, "{script}");
        }
    });
}

#[test]
fn a_bind_of_a_source_with_a_link_in_it_is_refused() {
    on_every_rung(|bench| {
        symlink("/etc", bench.path("link")).unwrap();
        bench.option(format!("--bind={}:/a", bench.path("link").display()));
        let outcome = bench.sh("ls /a");
        assert_eq!(outcome.code, SANDBOX_FAILED);
        assert!(outcome.stderr.contains("/link`"), "{outcome:?}");
        bench.options = vec![format!("--bind={}:/a", bench.path("link/passwd").display())];
        assert_eq!(bench.sh("ls /a").code, SANDBOX_FAILED);
    });
}

#[test]
fn a_mount_in_proc_or_sys_or_on_the_root_is_refused() {
    on_every_rung(|bench| {
        symlink("proc", bench.path("root/link")).unwrap();
        for target in ["/proc/acpi", "/proc", "/sys/kernel", "/link/sys", "/", "/bin/../"] {
            bench.options = vec![format!("--tmpfs={target}")];
            let outcome = bench.sh("true");
            assert_eq!(outcome.code, SANDBOX_FAILED, "{target}: {outcome:?}");
        }
    });
}

#[test]
fn many_layers_are_stacked_and_too_many_are_refused_by_number() {
    on_rungs_with_mounts(|bench| {
        let layer = |number: usize| format!("layers/{number}");
        for number in 0..499 {
            fs_err::create_dir_all(bench.path(&layer(number))).unwrap();
            fs_err::write(bench.path(&layer(number)).join(format!("file-{number}")), "").unwrap();
            bench.option(format!("--lower={}", bench.path(&layer(number)).display()));
        }
        bench.give();
        assert_eq!(bench.text("ls / | grep -c file-"), "499\n");
        bench.option(format!("--lower={}", bench.path("layers/0").display()));
        let outcome = bench.sh("true");
        let told = "error: the root has 501 layers and overlayfs takes at most 500\n";
        assert_eq!((outcome.code, outcome.stderr.as_str()), (SANDBOX_FAILED, told));
    });
}

#[test]
fn a_missing_layer_is_named() {
    on_rungs_with_mounts(|bench| {
        bench.option(format!("--lower={}", bench.path("missing").display()));
        let outcome = bench.sh("true");
        let told = format!("cannot open the directory `{}`", bench.path("missing").display());
        assert!(outcome.code == SANDBOX_FAILED && outcome.stderr.contains(&told), "{outcome:?}");
    });
}
