//! What a step's process is given, and how its end is told.

use super::bench::{Outcome, SANDBOX_FAILED, on_every_rung, on_rungs_with_mounts};

fn told(code: i32, stderr: &str) -> Outcome {
    Outcome { code, stdout: String::new(), stderr: stderr.to_owned() }
}

#[test]
fn the_exit_code_is_that_of_the_process() {
    on_every_rung(|bench| {
        for code in [0, 1, 7, 125, 255] {
            assert_eq!(bench.sh(&format!("exit {code}")).code, code);
        }
        assert_eq!(bench.sh("kill -9 $$").code, 137);
        assert_eq!(bench.sh("kill -TERM $$").code, 143);
        assert_eq!(bench.sh("kill -SEGV $$").code, 139);
    });
}

#[test]
fn a_program_that_cannot_be_executed_is_told_as_docker_tells_it() {
    on_every_rung(|bench| {
        fs_err::write(bench.path("root/text"), "no program").unwrap();
        fs_err::write(bench.path("root/bin/orphan"), "#!/no/such/shell\n").unwrap();
        fs_err::write(bench.path("root/bin/garbage"), [0x7f, b'E', b'L', b'F', 0, 0]).unwrap();
        for name in ["bin/orphan", "bin/garbage"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs_err::set_permissions(bench.path("root").join(name), mode).unwrap();
        }
        bench.give();
        let run = |name: &str| bench.run(&[name]);
        assert_eq!(run("nowhere"), told(127, "rbuild: cannot run `nowhere`: it is in no directory of PATH\n"));
        assert_eq!(
            run("/nowhere"),
            told(127, "rbuild: cannot run `/nowhere`: No such file or directory (os error 2)\n")
        );
        assert_eq!(run("/text"), told(126, "rbuild: cannot run `/text`: Permission denied (os error 13)\n"));
        assert_eq!(run("/bin"), told(126, "rbuild: cannot run `/bin`: Permission denied (os error 13)\n"));
        assert_eq!(run("orphan"), told(127, "rbuild: cannot run `orphan`: No such file or directory (os error 2)\n"));
        assert_eq!(run("garbage"), told(126, "rbuild: cannot run `garbage`: Exec format error (os error 8)\n"));
    });
}

#[test]
fn the_environment_is_what_was_given_and_nothing_else() {
    on_every_rung(|bench| {
        bench.option("--env=A=1");
        bench.option("--env=B=two = 2\nand 3");
        let outcome = bench.run(&["/bin/busybox", "env"]);
        assert_eq!(
            outcome,
            Outcome { code: 0, stdout: "A=1\nB=two = 2\nand 3\nHOME=/root\n".into(), stderr: String::new() }
        );
        bench.option("--env=PATH=/nowhere:");
        bench.option("--cwd=/bin");
        assert_eq!(bench.run(&["busybox", "env"]).stdout, "A=1\nB=two = 2\nand 3\nPATH=/nowhere:\nHOME=/root\n");
    });
}

#[test]
fn the_working_directory_is_inside_the_root() {
    on_every_rung(|bench| {
        bench.option("--cwd=/bin");
        assert_eq!(bench.text("pwd"), "/bin\n");
        for cwd in ["/missing", "/proc/self/cwd", "/proc/self/root", "/proc/1/root", "/proc/self/fd/3", "/proc/1/fd/4"]
        {
            bench.options = vec![format!("--cwd={cwd}")];
            let outcome = bench.sh("pwd");
            assert_eq!(outcome.code, SANDBOX_FAILED, "{cwd}: {outcome:?}");
            assert!(outcome.stderr.contains(&format!("cannot enter the working directory `{cwd}`")), "{outcome:?}");
        }
    });
}

#[test]
fn ids_and_groups_are_what_was_asked_for() {
    on_every_rung(|bench| {
        let show = "grep -E '^(Uid|Gid|Groups|CapPrm|CapEff|CapInh|CapBnd|CapAmb)' /proc/self/status | tr '\\t' ' '";
        bench.option("--user=33:34");
        // What the kernel knows of a process is not what the process is told where ids are emulated.
        if bench.rung.emulates() {
            assert_eq!(bench.text("id -u; id -g; id -G"), "33\n34\n34\n");
            return;
        }
        let expected = "Uid: 33 33 33 33\nGid: 34 34 34 34\nGroups:  \n\
            CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\n\
            CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\n";
        assert_eq!(bench.text(show), expected);
        bench.options.clear();
        let expected = "Uid: 0 0 0 0\nGid: 0 0 0 0\nGroups:  \n\
            CapInh: 0000000000000000\nCapPrm: 00000000a80425fb\nCapEff: 00000000a80425fb\n\
            CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\n";
        assert_eq!(bench.text(show), expected);
    });
}

#[test]
fn an_id_that_the_namespace_does_not_have_is_refused_by_name() {
    on_every_rung(|bench| {
        if bench.rung.as_user && !bench.rung.emulates() {
            bench.option("--user=200000");
            let outcome = bench.sh("true");
            assert_eq!(outcome.code, SANDBOX_FAILED);
            assert!(
                outcome.stderr.contains("cannot take the user id 200000, which its user namespace does not have,"),
                "{outcome:?}"
            );
        }
    });
}

#[test]
fn the_host_name_is_known_and_resolvable() {
    on_rungs_with_mounts(|bench| {
        bench.option("--hostname=builder-7");
        assert_eq!(bench.text("hostname; grep builder-7 /etc/hosts"), "builder-7\n127.0.1.1\tbuilder-7\n");
    });
}

#[test]
fn standard_input_is_the_given_text_or_nothing() {
    on_every_rung(|bench| {
        assert_eq!(bench.text("cat; readlink /proc/self/fd/0"), "/dev/null\n");
        bench.option(format!("--stdin={}", "line\n".repeat(20_000)));
        assert_eq!(bench.text("wc -l; head -c 1 >/dev/null"), "20000\n");
        assert_eq!(bench.sh("echo changed > /proc/self/fd/0").code, 1);
    });
}

#[test]
fn both_outputs_arrive_whole() {
    on_every_rung(|bench| {
        let outcome = bench.sh("seq 1 50000; seq 1 50000 >&2; printf end");
        let lines = (1..=50_000).map(|line| line.to_string() + "\n").collect::<String>();
        assert_eq!(outcome.code, 0);
        assert!(outcome.stdout == format!("{lines}end") && outcome.stderr == lines);
    });
}

#[test]
fn a_user_can_open_its_outputs() {
    on_every_rung(|bench| {
        bench.option("--user=33:33");
        let outcome = bench.sh("echo out > /dev/stdout; echo error > /dev/stderr; echo fd > /proc/self/fd/1");
        assert_eq!(outcome, Outcome { code: 0, stdout: "out\nfd\n".into(), stderr: "error\n".into() });
    });
}

#[test]
fn signals_and_umask_are_the_usual_ones() {
    on_every_rung(|bench| {
        assert_eq!(
            bench.text("umask; grep -E 'Sig(Blk|Ign)' /proc/self/status | tr '\\t' ' '"),
            "0022\nSigBlk: 0000000000000000\nSigIgn: 0000000000000000\n"
        );
        assert_eq!(bench.text("yes | head -n 1"), "y\n");
    });
}

#[test]
fn a_step_is_the_leader_of_a_session_without_a_terminal() {
    on_every_rung(|bench| {
        assert_eq!(
            bench.text("set -- $$ $(cat /proc/$$/stat); [ $1 = $6 -a $1 = $7 ] && echo terminal $8"),
            "terminal 0\n"
        );
    });
}
