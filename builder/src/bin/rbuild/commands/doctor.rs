//! `rbuild doctor`.

use std::fmt::Write as _;

use builder::sandbox::{Diagnosis, Obstacle, doctor};

use crate::report::Failure;
use crate::ui;

pub(crate) fn run() -> Result<(), Failure> {
    let home = super::home()?;
    super::make_home(&home)?;
    let diagnosis = doctor(&home);
    ui::print(&render(&diagnosis));
    match diagnosis.rung {
        Some(_) => Ok(()),
        None => Err(Failure::Environment(anyhow::anyhow!("steps cannot be isolated on this machine"))),
    }
}

fn render(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    let _ = match diagnosis.rung {
        Some(rung) => writeln!(text, "isolation: {}", rung.name()),
        None => writeln!(text, "isolation: none works here"),
    };
    for guarantee in &diagnosis.guarantees {
        let _ = writeln!(text, "  + {guarantee}");
    }
    text.push_str("probes:\n");
    for probe in &diagnosis.probes {
        let _ = match &probe.outcome {
            Ok(()) => writeln!(text, "  ok      {:6} {}", probe.rung, probe.tried),
            Err(obstacle) => writeln!(text, "  failed  {:6} {}: {}", probe.rung, probe.tried, obstacle.sentence),
        };
    }
    text.extend(diagnosis.obstacles.iter().map(|(rung, obstacle)| lift(rung, obstacle)));
    text
}

fn lift(rung: &str, obstacle: &Obstacle) -> String {
    let mut text = format!("in the way of `{rung}`: {}\n", obstacle.sentence);
    for remedy in &obstacle.remedies {
        let _ = writeln!(text, "  try: {remedy}");
    }
    text
}
