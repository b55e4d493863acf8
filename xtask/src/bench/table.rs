//! The table that the bench prints.

use std::fmt::Write as _;
use std::time::Duration;

use super::measure::Sample;
use super::workloads::Workload;

/// The medians of one row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) workload: &'static Workload,
    pub(crate) rbuild: Sample,
    pub(crate) buildah: Sample,
}

/// A markdown table; each cell is rbuild's number, buildah's, and the first as a part of the second.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| rbuild : buildah | wall, s | ratio | CPU, s | ratio | peak, MiB | ratio |\n");
    text.push_str("|---|--:|--:|--:|--:|--:|--:|\n");
    for Row { workload, rbuild, buildah } in rows {
        let wall = times(rbuild.wall, buildah.wall);
        let cpu = times(rbuild.cpu, buildah.cpu);
        let peak =
            format!("{} : {} | {}", rbuild.peak_kib >> 10, buildah.peak_kib >> 10, ratio(mib(rbuild), mib(buildah)));
        // Writing into a String cannot fail.
        let _ = writeln!(text, "| {} | {wall} | {cpu} | {peak} |", workload.title);
    }
    text
}

fn times(rbuild: Duration, buildah: Duration) -> String {
    let (rbuild, buildah) = (rbuild.as_secs_f64(), buildah.as_secs_f64());
    format!("{rbuild:.3} : {buildah:.3} | {}", ratio(rbuild, buildah))
}

fn ratio(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.2}", part / whole) } else { "-".to_owned() }
}

fn mib(sample: &Sample) -> f64 {
    Duration::from_micros(sample.peak_kib).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workloads::WORKLOADS;

    #[test]
    fn a_row_shows_numbers_and_ratios() {
        let sample =
            |ms, peak_kib| Sample { wall: Duration::from_millis(ms), cpu: Duration::from_millis(2 * ms), peak_kib };
        let row = Row { workload: &WORKLOADS[0], rbuild: sample(250, 20 << 10), buildah: sample(1000, 50 << 10) };
        let table = markdown(&[row]);
        let cells = "| no-op image on Debian (ENV, CMD), pushed | 0.250 : 1.000 | 0.25 | 0.500 : 2.000 | 0.25 | 20 : 50 | 0.40 |";
        assert_eq!(table.lines().nth(2), Some(cells));
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        assert_eq!(ratio(1.0, 0.0), "-");
    }
}
