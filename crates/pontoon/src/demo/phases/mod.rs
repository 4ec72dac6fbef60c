//! The phases of the demo, in the order in which they are played.

mod agents_die;
mod application_dies;
mod both_serve;
mod drain;
mod join;
mod one_server;
mod reads_spread;

use std::future::Future;
use std::pin::Pin;

use super::stage::Stage;

/// What a phase is while it is played.
pub type Playing<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

/// Something that happens to the fleet while visitors come. Their requests that are due meanwhile are the phase's.
///
/// A phase begins with a healthy fleet and leaves one behind: what it killed it has started again.
pub trait Phase: Send + Sync {
    /// Its name for machines: lower case, never changed.
    fn name(&self) -> &'static str;

    /// What happens, for people, in a few words.
    fn title(&self) -> &'static str;

    /// Does it. What the report should tell goes to [`Stage::fact`]; what would be too good to be true without being
    /// said goes to [`Stage::caveat`].
    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a>;
}

/// Every phase, in order.
pub fn all() -> Vec<Box<dyn Phase>> {
    vec![
        Box::new(one_server::OneServer),
        Box::new(join::Join),
        Box::new(both_serve::BothServe),
        Box::new(reads_spread::ReadsSpread),
        Box::new(application_dies::ApplicationDies),
        Box::new(agents_die::AgentsDie),
        Box::new(drain::Drain),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_machines_and_differ() {
        let phases = all();
        let mut names: Vec<&str> = phases.iter().map(|phase| phase.name()).collect();
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), phases.len());
        assert!(
            phases.iter().all(|phase| phase.title().chars().count() <= 44),
            "titles fit a column"
        );
    }
}
