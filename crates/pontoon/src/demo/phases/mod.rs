//! The phases of the demo, in the order in which they are played.

mod address_moves;
mod agents_die;
mod application_dies;
mod both_serve;
mod database_dies;
mod drain;
mod join;
mod network_cut;
mod one_server;
mod reads_spread;
mod server_freezes;
mod two_copies;
mod uploads;

use std::future::Future;
use std::pin::Pin;

use pontoon_testkit::DemoApp;

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

    /// Whether requests may fail: what dies here takes along what it was answering. They are shown as failed all the
    /// same, and what was acknowledged must be there.
    fn may_fail(&self) -> bool {
        false
    }

    /// Does it. What the report should tell goes to [`Stage::fact`]; what would be too good to be true without being
    /// said goes to [`Stage::caveat`].
    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a>;
}

/// Every phase that can be played here with `app`, in order.
pub fn all(app: &dyn DemoApp) -> Vec<Box<dyn Phase>> {
    let mut phases: Vec<Box<dyn Phase>> = vec![
        Box::new(one_server::OneServer),
        Box::new(join::Join),
        Box::new(both_serve::BothServe),
        Box::new(reads_spread::ReadsSpread),
        Box::new(application_dies::ApplicationDies),
        Box::new(agents_die::AgentsDie),
        Box::new(drain::Drain),
    ];
    if two_copies::STORE.available().is_ok() {
        phases.push(Box::new(two_copies::TwoCopies));
        phases.push(Box::new(database_dies::DatabaseDies));
        phases.push(Box::new(server_freezes::ServerFreezes));
        phases.push(Box::new(network_cut::NetworkCut));
    }
    if app.uploads().is_some() && uploads::STORE.available().is_ok() {
        phases.push(Box::new(uploads::Uploaded));
    }
    phases.push(Box::new(address_moves::AddressMoves));
    phases
}

/// What cannot be shown here with `app`, and how it could be; nothing when everything can.
pub fn missing(app: &dyn DemoApp) -> Vec<String> {
    let mut missing = Vec::new();
    if let Err(skip) = two_copies::STORE.available() {
        missing.push(format!("no primary is lost in this demo: {}", skip.0));
    }
    if let (Some(_), Err(skip)) = (app.uploads(), uploads::STORE.available()) {
        missing.push(format!("nothing is uploaded in this demo: {}", skip.0));
    }
    missing
}

#[cfg(test)]
mod tests {
    use pontoon_testkit::WordPress;

    use super::*;

    #[test]
    fn names_are_for_machines_and_differ() {
        let phases = all(&WordPress::new(1, 1));
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
