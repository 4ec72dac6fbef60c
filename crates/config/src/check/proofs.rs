//! Names that are proved by records in the zone (`edge.tls.acme.challenge`) are in a zone of this fleet's.

use pontoon_fleet::{Challenge, Code};

use super::Check;
use crate::model::Config;
use crate::raw::File;

impl Check<'_> {
    pub(super) fn proved_in_the_dns(&mut self, config: &Config, file: &File) {
        let acme = config.edge.tls.as_ref().and_then(|tls| tls.acme.as_ref());
        let typed = file.edge.as_ref().and_then(|edge| edge.tls.as_ref());
        let typed = typed.and_then(|tls| tls.get().acme.as_ref());
        let Some((acme, typed)) = acme.zip(typed) else {
            return;
        };
        let typed = typed.get();
        let Some(challenge) = typed
            .challenge
            .as_ref()
            .filter(|_| acme.challenge == Challenge::Dns01)
        else {
            return;
        };
        let Some(dns) = &config.dns else {
            let message = "`edge.tls.acme.challenge` is \"dns-01\", and there is no [dns]";
            let hint = "add [dns] with the zone of the names: the authority looks for a record there";
            self.wrong(Code::C006, message, challenge.span(), hint);
            return;
        };
        let own = typed.names.iter().flat_map(|names| names.get());
        for name in acme.names.iter().filter(|name| !dns.holds(name)) {
            let place = own.clone().find(|text| text.get() == name);
            let span = place.map_or(challenge.span(), |text| text.span());
            let message = format!("`edge.tls.acme`: {name} is not in the zone {}", dns.zone);
            let hint = "its record would be in somebody else's zone: bring its certificate as files, or use \"http-01\" for all";
            self.wrong(Code::C006, message, span, hint);
        }
    }
}
