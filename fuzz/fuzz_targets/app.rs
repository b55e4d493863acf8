//! Any text as a `convox.yml` (up to the first NUL) with an environment (the rest).

#![no_main]

use builder::app::{environment, interpolate::interpolate, manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (text, variables) = text.split_once('\0').unwrap_or((text, ""));
    let environment = environment::parse(variables);
    assert_eq!(environment, environment::parse(&environment::render(&environment)), "an environment is kept as it is");
    if let Ok(manifest) = manifest::parse(&interpolate(text, &environment)) {
        for service in &manifest.services {
            assert!(manifest.service(&service.name).is_some(), "{}", service.name);
        }
    }
});
