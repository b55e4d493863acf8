//! The table that the bench prints.

use std::fmt::Write as _;
use std::time::Duration;

use super::measure::Sample;
use super::workloads::{Number, Peer, Target, Workload};

/// The medians of one row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) workload: Workload,
    pub(crate) rbuild: Sample,
    pub(crate) buildah: Sample,
    pub(crate) by_hand: Option<Sample>,
}

/// A markdown table; a cell holds rbuild's number, buildah's and that of the pipe by hand, then the first as a part of the second.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text =
        String::from("| rbuild : buildah : by hand | wall, s | ratio | CPU, s | ratio | peak, MiB | targets |\n");
    text.push_str("|---|--:|--:|--:|--:|--:|---|\n");
    for row in rows {
        let seconds = |time: fn(&Sample) -> Duration| {
            let cell = row.cell(|sample| format!("{:.3}", time(sample).as_secs_f64()));
            format!("{cell} | {}", ratio(time(&row.rbuild), time(&row.buildah)))
        };
        let (wall, cpu) = (seconds(|sample| sample.wall), seconds(|sample| sample.cpu));
        let peak = row.cell(|sample| (sample.peak_kib >> 10).to_string());
        let targets: Vec<String> = row.workload.targets.iter().map(|target| row.target(*target)).collect();
        // Writing into a String cannot fail.
        let _ = writeln!(text, "| {} | {wall} | {cpu} | {peak} | {} |", row.workload.title, targets.join("; "));
    }
    text
}

impl Row {
    fn cell(&self, number: impl Fn(&Sample) -> String) -> String {
        let samples = [Some(&self.rbuild), Some(&self.buildah), self.by_hand.as_ref()];
        samples.into_iter().flatten().map(number).collect::<Vec<_>>().join(" : ")
    }

    /// Says what was reached of a target.
    fn target(&self, Target { number, peer, most }: Target) -> String {
        let (sample, whose) = match peer {
            Peer::Buildah => (Some(&self.buildah), "buildah's"),
            Peer::ByHand => (self.by_hand.as_ref(), "the pipe's"),
        };
        let (time, what): (fn(&Sample) -> Duration, _) = match number {
            Number::Wall => (|sample| sample.wall, "wall"),
            Number::Cpu => (|sample| sample.cpu, "CPU"),
        };
        let reached = sample.and_then(|peer| part(time(&self.rbuild), time(peer)));
        let verdict = if reached.is_some_and(|reached| reached <= most) { "met" } else { "missed" };
        let reached = reached.map_or("-".to_owned(), |reached| format!("{reached:.3}"));
        format!("{verdict}: {reached} of {whose} {what}, at most {most:.3}")
    }
}

/// Two times in seconds, and the first as a part of the second.
pub(super) fn seconds([rbuild, peer]: [Duration; 2]) -> String {
    format!("{:.3} : {:.3} | {}", rbuild.as_secs_f64(), peer.as_secs_f64(), ratio(rbuild, peer))
}

/// Says whether a time is at most a peer's.
pub(super) fn verdict(what: &str, rbuild: Duration, peer: Duration) -> String {
    format!("{}: {what} at most skopeo's", if rbuild <= peer { "met" } else { "missed" })
}

fn part(part: Duration, whole: Duration) -> Option<f64> {
    (!whole.is_zero()).then(|| part.as_secs_f64() / whole.as_secs_f64())
}

fn ratio(rbuild: Duration, buildah: Duration) -> String {
    part(rbuild, buildah).map_or("-".to_owned(), |part| format!("{part:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workloads::WORKLOADS;

    fn sample(ms: u64, peak_kib: u64) -> Sample {
        Sample { wall: Duration::from_millis(ms), cpu: Duration::from_millis(2 * ms), peak_kib }
    }

    #[test]
    fn a_row_shows_numbers_ratios_and_targets() {
        let row = |name, by_hand| {
            let workload = WORKLOADS.iter().find(|row| row.name == name).unwrap();
            Row { workload: *workload, rbuild: sample(250, 20 << 10), buildah: sample(1000, 50 << 10), by_hand }
        };
        let table = markdown(&[row("noop", None), row("changed20000", Some(sample(2000, 2 << 10)))]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[2],
            "| no-op image on Debian (ENV, CMD), pushed | 0.250 : 1.000 | 0.25 | 0.500 : 2.000 | 0.25 | 20 : 50 | \
             missed: 0.250 of buildah's wall, at most 0.100 |"
        );
        assert_eq!(
            lines[3],
            "| the same, one file changed | 0.250 : 1.000 : 2.000 | 0.25 | 0.500 : 2.000 : 4.000 | 0.25 | 20 : 50 : 2 | \
             met: 0.125 of the pipe's CPU, at most 0.125 |"
        );
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        assert_eq!(ratio(Duration::from_secs(1), Duration::ZERO), "-");
    }
}
