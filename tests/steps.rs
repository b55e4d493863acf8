//! Instructions: what they do to the image's files and config.

use serde_json::json;

use crate::common::{Bench, peer};

#[test]
fn config_instructions_reach_the_config() {
    let bench = Bench::with(
        "ARG VERSION=1\nFROM scratch\nARG VERSION\nENV A=\"x y\" B=$VERSION\nENV C=${B:-no}-${MISSING:-d}\n\
         LABEL one=1 two=\"t w\"\nEXPOSE 80 53/udp 8000-8001\nVOLUME /data\nUSER 12:34\nWORKDIR /srv\nSTOPSIGNAL SIGQUIT\n\
         SHELL [\"/bin/ash\", \"-ec\"]\nHEALTHCHECK --interval=5s --retries=2 CMD ok\nCMD run me\nENTRYPOINT [\"e\"]\n",
    );
    let image = bench.image(&[]);
    let expected = json!({
        "User": "12:34",
        "ExposedPorts": { "53/udp": {}, "80/tcp": {}, "8000/tcp": {}, "8001/tcp": {} },
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=x y", "B=1", "C=1-d"],
        "Entrypoint": ["e"],
        "Cmd": ["/bin/ash", "-ec", "run me"],
        "Healthcheck": { "Test": ["CMD-SHELL", "ok"], "Interval": 5_000_000_000_u64, "Retries": 2 },
        "Volumes": { "/data": {} },
        "WorkingDir": "/srv",
        "Labels": { "one": "1", "two": "t w" },
        "StopSignal": "SIGQUIT",
        "Shell": ["/bin/ash", "-ec"],
    });
    assert_eq!(image.run(), &expected);
}

#[test]
fn an_entrypoint_forgets_the_command_of_the_base() {
    let image = Bench::with("FROM {busybox}\nENTRYPOINT [\"x\"]\n").image(&[]);
    assert_eq!((&image.run()["Cmd"], &image.run()["Entrypoint"]), (&json!(null), &json!(["x"])));
}

#[test]
fn run_changes_what_it_changes_and_nothing_else() {
    let bench = Bench::with("FROM {busybox}\nRUN echo hi >/tmp/made && chmod 640 /tmp/made && chown 5:6 /tmp/made\n");
    let image = bench.image(&[]);
    assert_eq!(image.top(), "d 1777 0:0 tmp\n- 0640 5:6 tmp/made\n");
    assert_eq!(image.text("tmp/made"), "hi\n");
}

#[test]
fn a_step_that_changes_nothing_leaves_an_empty_layer() {
    let image =
        Bench::with("FROM {busybox}\nRUN true\nRUN cat /etc/resolv.conf /etc/hosts >/dev/null; ls /dev /proc\n")
            .image(&[]);
    assert_eq!(image.layers.len(), 3);
    assert_eq!((image.layers[1].len(), image.top()), (0, String::new()));
}

/// Each init but the first is made before it is known what its step asks for.
#[test]
fn a_step_gets_what_it_asks_for_whatever_the_one_before_did() {
    let bench = Bench::with(
        "FROM {busybox}\nRUN ls /sys/class/net >/host\nRUN --network=none ls /sys/class/net >/none\n\
         RUN ls /sys/class/net >/again; df -k /dev/shm >/shm\n",
    );
    let image = bench.image(&["--shm-size", "3m"]);
    let interfaces: String = {
        let mut names: Vec<String> = fs_err::read_dir("/sys/class/net")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap() + "\n")
            .collect();
        names.sort();
        names.concat()
    };
    assert_eq!((image.text("host"), image.text("none")), (interfaces.clone(), "lo\n".to_owned()));
    assert_eq!(image.text("again"), interfaces);
    assert!(image.text("shm").contains(" 3072 "), "{}", image.text("shm"));
}

#[test]
fn removed_files_become_whiteouts() {
    let bench = Bench::with(
        "FROM {busybox}\nRUN mkdir -p /d/e && touch /d/e/f /d/g /h\n\
         RUN rm -r /d/e /h\nRUN rm -r /d && mkdir /d && touch /d/new\n",
    );
    let image = bench.image(&[]);
    assert_eq!(crate::common::show(&image.layers[2]), "- 0000 0:0 .wh.h\nd 0755 0:0 d\n- 0000 0:0 d/.wh.e\n");
    assert_eq!(image.top(), "d 0755 0:0 d\n- 0000 0:0 d/.wh..wh..opq\n- 0644 0:0 d/new\n");
}

#[test]
fn names_of_whiteouts_fail_the_step_that_makes_them() {
    let bench = Bench::with("FROM {busybox}\nRUN mkdir /d && touch /d/.wh.x\nRUN true\n");
    let run = bench.try_build(&[]);
    let said = "error: an image layer cannot hold `d/.wh.x`: names that begin with `.wh.` say what a layer removes\n";
    assert!(run.code == 1 && run.stderr.contains(said) && run.stderr.contains(">>> 2 | RUN mkdir"), "{}", run.stderr);
    // Where it goes into no image it is a file like others.
    bench.dockerfile(
        "FROM {busybox} AS a\nRUN mkdir /d && echo x >/d/.wh.x\nRUN cat /d/.wh.* >/found\n\
         FROM scratch\nCOPY --from=a /found /\n",
    );
    assert_eq!(bench.image(&[]).text("found"), "x\n");
    for name in [".wh.x", ".wh..wh..opq"] {
        bench.dockerfile("FROM scratch\nADD names.tar /\n");
        bench.file(&format!("d/{name}"), "x");
        let (archive, context) = (bench.context().join("names.tar"), bench.context());
        peer("tar", &["-cf", archive.to_str().unwrap(), "-C", context.to_str().unwrap(), &format!("d/{name}")]);
        let run = bench.try_build(&[]);
        let said = format!("error: cannot unpack `names.tar`\n  caused by: an image layer cannot hold `d/{name}`:");
        assert!(run.code == 1 && run.stderr.contains(&said), "{}", run.stderr);
    }
}

#[test]
fn hard_links_stay_links() {
    let bench =
        Bench::with("FROM {busybox}\nRUN mkdir /l && echo x >/l/a && ln /l/a /l/b && ln -s a /l/c && mkfifo /l/p\n");
    let top = bench.image(&[]).top();
    assert_eq!(top, "d 0755 0:0 l\n- 0644 0:0 l/a\nh 0644 0:0 l/b -> l/a\nl 0777 0:0 l/c -> a\np 0644 0:0 l/p\n");
}

#[test]
fn a_step_sees_the_variables_and_the_user_of_its_place() {
    let bench = Bench::with(
        "FROM {busybox}\nARG ONE=1\nENV TWO=2\n\
         RUN echo app:x:1000:1000::/home/app:/bin/sh >>/etc/passwd && echo extra:x:77:app >>/etc/group && mkdir -p /home/app/work && chown -R 1000:1000 /home\n\
         USER app\nWORKDIR /home/app/work\n\
         RUN echo \"$ONE $TWO $HOME $(pwd) $(id -u) $(id -g) $(id -G)\" >said; env | sort >environment\n",
    );
    let image = bench.image(&["--build-arg", "ONE=one"]);
    assert_eq!(image.text("home/app/work/said"), "one 2 /home/app /home/app/work 1000 1000 1000 77\n");
    let environment = image.text("home/app/work/environment");
    let names: Vec<&str> = environment.lines().map(|line| line.split('=').next().unwrap()).collect();
    assert_eq!(names, ["HOME", "ONE", "PATH", "PWD", "SHLVL", "TWO"]);
}

#[test]
fn a_working_directory_belongs_to_the_user() {
    let bench = Bench::with("FROM {busybox}\nUSER 10:20\nWORKDIR /a/b\n");
    assert_eq!(bench.image(&[]).top(), "d 0755 10:20 a\nd 0755 10:20 a/b\n");
}

#[test]
fn heredocs_run_and_are_copied() {
    let bench = Bench::with(
        "FROM {busybox}\nARG WHO=you\nRUN <<EOF\nset -e\necho one >/one\necho two >/two\nEOF\n\
         RUN <<EOF\n#!/bin/busybox sh\necho script $0 >/three\nEOF\n\
         COPY <<hello.txt <<-\"raw\" /made/\nhello $WHO\nhello.txt\n\t$WHO\nraw\n",
    );
    let image = bench.image(&[]);
    assert_eq!((image.text("one").as_str(), image.text("two").as_str()), ("one\n", "two\n"));
    assert_eq!(image.text("three"), "script /dev/pipes/EOF\n");
    assert_eq!((image.text("made/hello.txt").as_str(), image.text("made/raw").as_str()), ("hello you\n", "$WHO\n"));
    assert_eq!(image.layers[2].keys().collect::<Vec<_>>(), ["three"]);
}

#[test]
fn exec_form_and_shell_are_obeyed() {
    let bench = Bench::with(
        "FROM {busybox}\nRUN [\"/bin/busybox\", \"touch\", \"/a b\"]\nSHELL [\"/bin/busybox\", \"sh\", \"-xc\"]\nRUN touch /c\n",
    );
    let image = bench.image(&[]);
    assert_eq!(crate::common::show(&image.layers[1]), "- 0644 0:0 a b\n");
    assert_eq!(image.top(), "- 0644 0:0 c\n");
}

#[test]
fn only_the_stages_that_the_target_needs_are_built() {
    let bench = Bench::with(
        "FROM {busybox} AS one\nRUN echo 1 >/one\nFROM {busybox} AS broken\nRUN false\nFROM one AS two\nRUN echo 2 >/two\n\
         FROM broken AS last\n",
    );
    let image = bench.image(&["--target", "TWO"]);
    assert_eq!(image.layers.len(), 3);
}

#[test]
fn history_reads_as_the_peers_write_it() {
    let bench = Bench::with("FROM scratch\nARG V=1\nENV A=b\nCOPY f /f\nWORKDIR /w\nCMD [\"a\", \"b c\"]\n");
    bench.file("f", "x");
    let history: Vec<(String, bool)> = bench.image(&[]).config["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["created_by"].as_str().unwrap().to_owned(), entry["empty_layer"] == json!(true)))
        .collect();
    let expected = [
        ("ARG V=1", true),
        ("ENV A=b", true),
        ("COPY f /f # buildkit", false),
        ("WORKDIR /w", false),
        ("CMD [\"a\" \"b c\"]", true),
    ];
    assert_eq!(history, expected.map(|(text, empty)| (text.to_owned(), empty)));
}

#[test]
fn onbuild_triggers_run_in_the_next_stage_and_are_gone() {
    let bench = Bench::with("FROM {busybox} AS parent\nONBUILD COPY f /f\nONBUILD RUN cat /f >/g\nFROM parent\n");
    bench.file("f", "x");
    let image = bench.image(&[]);
    assert_eq!((image.text("g").as_str(), &image.run()["OnBuild"]), ("x", &json!(null)));
}

#[test]
fn a_step_finds_no_network_when_it_asks_for_none() {
    let bench = Bench::with("FROM {busybox}\nRUN --network=none ls /sys/class/net >/net\n");
    assert_eq!(bench.image(&[]).text("net"), "lo\n");
}

#[test]
fn a_fixed_time_makes_equal_images() {
    let digests: Vec<String> = (0..2)
        .map(|_| {
            let bench = Bench::with("FROM {busybox}\nWORKDIR /w\nCOPY f .\nLABEL a=b\n");
            let file = bench.file("f", "x");
            fs_err::File::open(file).unwrap().into_parts().0.set_modified(std::time::UNIX_EPOCH).unwrap();
            bench.image(&["--build-arg", "SOURCE_DATE_EPOCH=1700000000"]).manifest.to_string()
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

/// What an earlier build without the fixed time left in the cache has other times.
#[test]
fn a_fixed_time_does_not_meet_the_cache_of_another() {
    let bench = Bench::with("FROM {busybox}\nWORKDIR /w\nCOPY f deep/er/\nCOPY <<g /g\ntext\ng\n");
    let file = bench.file("f", "x");
    fs_err::File::open(file).unwrap().into_parts().0.set_modified(std::time::UNIX_EPOCH).unwrap();
    let fixed = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    bench.build(&[]);
    let warm = bench.image(&fixed).manifest;
    let cold = bench.image(&[&fixed[..], &["--no-cache"]].concat()).manifest;
    assert_eq!(warm, cold);
}
