//! What several measurements share: programs that are started, pinned and looked at, the words for the machine, and how a
//! measurement ends.

pub mod busy;
pub mod end;
pub mod machine;
pub mod program;

/// The value below which `share` of `sorted` are; 0 of none.
pub fn percentile(sorted: &[u32], share: f64) -> u32 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at).or(sorted.last()).copied().unwrap_or(0)
}
