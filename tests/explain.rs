//! `--explain`: a step that runs says why the cache did not have it.

use crate::common::{Bench, Run};

/// Why the step with this instruction ran.
fn reason(log: &str, instruction: &str) -> String {
    let started = log.lines().find(|line| line.contains(instruction)).unwrap_or_else(|| panic!("{instruction}: {log}"));
    let told = format!("{} runs because: ", started.split(' ').next().unwrap());
    let line = log.lines().find_map(|line| line.strip_prefix(&told));
    line.unwrap_or_else(|| panic!("no reason for {instruction}: {log}")).to_owned()
}

const DOCKERFILE: &str = "FROM {busybox}\nARG V=1\nRUN echo $V >/v\nCOPY src /app/\nRUN cat /app/a >/z\n";

#[test]
fn each_miss_names_the_first_difference() {
    type Change = fn(&Bench);
    let cases: [(Change, &[&str], &str, &str); 7] = [
        (|_| (), &["--build-arg", "V=2"], "RUN echo $V", "the variable `V`: `1` → `2`"),
        (|b| _ = b.file("src/a", "new"), &[], "COPY src", "context file `src/a` changed"),
        (|b| _ = b.file("src/c", "new"), &[], "COPY src", "context file `src/c` is new"),
        (
            |b| _ = b.file("src/a", "new"),
            &[],
            "RUN cat",
            "`[stage-0 3/4] COPY src /app/` made something else than before",
        ),
        (
            |b| b.dockerfile(&DOCKERFILE.replace("echo $V", "echo $V $V")),
            &[],
            "RUN echo $V",
            "the command changed: `echo $V >/v` → `echo $V $V >/v`",
        ),
        (|b| b.dockerfile(&DOCKERFILE.replace("COPY", "COPY --chown=1")), &[], "COPY --chown", "`--chown`: `` → `1`"),
        (|_| (), &["--no-cache"], "RUN cat", "the cache is not used for it"),
    ];
    for (change, arguments, instruction, expected) in cases {
        let bench = Bench::with(DOCKERFILE);
        bench.file("src/a", "a");
        bench.file("src/b", "b");
        let first = bench.build(&["--explain"]);
        assert_eq!(reason(&first.stderr, "RUN cat"), "no step like it has run here before");
        change(&bench);
        let run = bench.build(&[&["--explain"], arguments].concat());
        assert_eq!(reason(&run.stderr, instruction), expected, "{}", run.stderr);
    }
}

#[test]
fn the_json_log_has_the_reason_and_the_sum() {
    let bench = Bench::with("FROM {busybox}\nRUN true\n");
    let run = Run::of(bench.rbuild().args(["--explain", "--progress", "json", "."]));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let events: Vec<serde_json::Value> =
        run.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let missed = events.iter().find(|event| event["event"] == "missed").unwrap();
    assert_eq!(missed["reason"], "no step like it has run here before");
    let sum = events.iter().find(|event| event["event"] == "summary").unwrap();
    assert_eq!((sum["run"].as_u64(), sum["hit"].as_u64()), (Some(1), Some(0)));
}

/// A value is cut after the secret in it is hidden: of one that the cut goes through nothing is left either.
#[test]
fn a_reason_holds_no_secret() {
    let bench = Bench::with("FROM {busybox}\nARG V=1\nRUN --mount=type=secret,id=token true\n");
    bench.file("token", "correct-horse-battery");
    let secret = ["--explain", "--secret", "id=token,src=token"];
    bench.build(&secret);
    let value = format!("V={}correct-horse-battery", "x".repeat(50));
    let run = bench.build(&[&secret[..], &["--build-arg", &value]].concat());
    let told = reason(&run.stderr, "RUN --mount");
    assert!(told.starts_with("the variable `V`: `1` → `xxxxx") && !told.contains("correct"), "{told}");
    assert!(!run.stderr.contains("correct"), "{}", run.stderr);
}
