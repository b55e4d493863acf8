//! The measuring process of the bench, as the bench calls it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn words(words: &[&str]) -> Value {
    // The form in which serde writes an `OsString` on Unix.
    words.iter().map(|word| json!({ "Unix": word.as_bytes() })).collect()
}

fn measure(directory: &Path, commands: &[Value]) -> Output {
    let task = directory.join("task");
    let content = json!({ "commands": commands, "log": directory.join("log"), "sample": directory.join("sample") });
    fs_err::write(&task, content.to_string()).expect("writing the task");
    Command::new(env!("CARGO_BIN_EXE_xtask")).arg("measure").arg(task).output().expect("starting xtask")
}

fn sample(directory: &Path) -> Value {
    let sample = fs_err::read(directory.join("sample")).expect("reading the sample");
    serde_json::from_slice(&sample).expect("a sample is JSON")
}

fn seconds(duration: &Value) -> f64 {
    let number = |name: &str| duration[name].as_f64().expect("a duration has seconds and nanoseconds");
    number("secs") + number("nanos") / 1e9
}

/// A shell script that computes for some tenths of a second.
const WORK: &str = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";

#[test]
fn a_grandchild_that_outlives_its_parent_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let script = format!("({WORK}) & exit 0");
    let output = measure(directory.path(), &[words(&["sh", "-c", &script])]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sample = sample(directory.path());
    assert!(seconds(&sample["cpu"]) > seconds(&sample["wall"]), "{sample}");
}

#[test]
fn commands_are_run_in_turn_and_added_up() {
    let directory = tempfile::tempdir().unwrap();
    let output = measure(directory.path(), &[words(&["sleep", "0.1"]), words(&["sleep", "0.1"])]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sample = sample(directory.path());
    assert!(seconds(&sample["wall"]) >= 0.2, "{sample}");
    assert!(sample["peak_kib"].as_u64().unwrap() > 0, "{sample}");
}

#[test]
fn a_command_that_fails_is_named_with_its_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let output = measure(directory.path(), &[words(&["sh", "-c", "echo no space left; exit 9"]), words(&["true"])]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(error.contains("echo no space left; exit 9") && error.contains("Exited(Pid("), "{error}");
    assert!(error.trim_end().ends_with("no space left") && !directory.path().join("sample").exists(), "{error}");
}
