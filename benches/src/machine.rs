//! The machine in words, and what is done with the numbers of several rounds.

/// The number in the middle; NaN when there is none.
pub fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processors and load, as in `4 × AMD EPYC; load before 0.52`.
pub fn describe() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{count} × {}; load before {}",
        model.trim_start_matches(['\t', ' ', ':']),
        load.split(' ').next().unwrap_or("?"),
    )
}
