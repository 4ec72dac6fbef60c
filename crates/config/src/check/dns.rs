//! `[dns]`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pontoon_fleet::Code;

use super::Check;
use crate::model::{Dns, DnsHook, DnsTransfer, DnsUpdate, Dnssec};
use crate::raw::{self, Text};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

impl Check<'_> {
    pub(super) fn dns(&mut self, dns: &raw::Dns, fleet: &raw::Fleet) -> Option<Dns> {
        let zone = self.host("dns.zone", &dns.zone, false);
        let file = match &dns.file {
            Some(file) => self.path("dns.file", file).map(Some),
            None => Some(None),
        };
        let mut ttl = self.duration("dns.ttl", dns.ttl.as_ref(), 60 * SECOND, SECOND..=7 * DAY);
        if let (Some(value), Some(text)) = (ttl, &dns.ttl)
            && value.subsec_millis() != 0
        {
            ttl = self.none("dns.ttl", text, "is not whole seconds (RFC 1035 section 3.2.1)");
        }
        let sockets: Vec<_> = dns
            .listen
            .iter()
            .flat_map(|listen| listen.get())
            .map(|text| self.socket("dns.listen", text))
            .collect();
        let transfer = match &dns.transfer {
            Some(transfer) => self.dns_transfer(transfer).map(Some),
            None => Some(None),
        };
        let update = match &dns.update {
            Some(update) => self.dns_update(update).map(Some),
            None => Some(None),
        };
        let hook = match &dns.hook {
            Some(hook) => self.dns_hook(hook).map(Some),
            None => Some(None),
        };
        let dnssec = match &dns.dnssec {
            Some(dnssec) => self.dnssec(dnssec, dns).map(Some),
            None => Some(None),
        };
        let zone = zone?;
        let in_zone = |name: &str| name == zone || name.ends_with(&format!(".{zone}"));
        let names = match &dns.names {
            None => {
                let domains = fleet.domains.iter().flatten().map(Text::get);
                let mut names: Vec<String> = domains.filter(|name| in_zone(name)).cloned().collect();
                if names.is_empty() {
                    names.push(zone.clone());
                }
                names
            }
            Some(typed) => {
                let mut names: Vec<Option<String>> = Vec::new();
                for text in typed.get() {
                    let mut name = self.host("dns.names", text, true);
                    if name.as_ref().is_some_and(|name| !in_zone(name)) {
                        name = self.none("dns.names", text, &format!("is not in the zone {zone}"));
                    }
                    names.push(name);
                }
                names.into_iter().collect::<Option<_>>()?
            }
        };
        Some(Dns {
            zone,
            file: file?,
            names,
            ttl: ttl?,
            listen: sockets.into_iter().collect::<Option<_>>()?,
            transfer: transfer?,
            dnssec: dnssec?,
            update: update?,
            hook: hook?,
        })
    }

    fn dns_transfer(&mut self, transfer: &raw::DnsTransfer) -> Option<DnsTransfer> {
        let key_file = self.path("dns.transfer.key_file", &transfer.key_file);
        let to: Vec<Option<SocketAddr>> = transfer
            .to
            .get()
            .iter()
            .map(|text| self.name_server("dns.transfer.to", text))
            .collect();
        let typed = transfer.from.iter().flat_map(|from| from.get());
        let from: Vec<Option<IpAddr>> = typed
            .map(|text| self.address("dns.transfer.from", text))
            .collect();
        let to = to.into_iter().collect::<Option<Vec<_>>>()?;
        let mut from = from.into_iter().collect::<Option<Vec<_>>>()?;
        if transfer.from.is_none() {
            from.extend(to.iter().map(SocketAddr::ip));
            from.sort_unstable();
            from.dedup();
        }
        Some(DnsTransfer {
            key_file: key_file?,
            to,
            from,
        })
    }

    fn dnssec(&mut self, dnssec: &raw::Dnssec, dns: &raw::Dns) -> Option<Dnssec> {
        let lifetime = dnssec.lifetime.as_ref();
        let lifetime = self.duration("dns.dnssec.lifetime", lifetime, 14 * DAY, 7 * DAY..=60 * DAY);
        if dns.transfer.is_some() {
            let message = "`dns.dnssec` and `dns.transfer` do not go together";
            let hint = "proofs are made for each question, so other name servers cannot have them: leave one of both out, or have the other name servers sign the zone";
            self.wrong(Code::C006, message, dns.zone.span(), hint);
            return None;
        }
        Some(Dnssec { lifetime: lifetime? })
    }

    fn dns_update(&mut self, update: &raw::DnsUpdate) -> Option<DnsUpdate> {
        let server = self.name_server("dns.update.server", &update.server);
        let key_file = self.path("dns.update.key_file", &update.key_file);
        Some(DnsUpdate {
            server: server?,
            key_file: key_file?,
        })
    }

    fn dns_hook(&mut self, hook: &raw::DnsHook) -> Option<DnsHook> {
        let exec = self.path("dns.hook.exec", &hook.exec);
        let timeout = self.duration(
            "dns.hook.timeout",
            hook.timeout.as_ref(),
            30 * SECOND,
            SECOND..=600 * SECOND,
        );
        Some(DnsHook {
            exec: exec?,
            timeout: timeout?,
        })
    }

    /// An address, with a port unless it is 53.
    fn name_server(&mut self, path: &str, text: &Text) -> Option<SocketAddr> {
        match text.get().parse::<IpAddr>() {
            Ok(address) => Some(SocketAddr::new(address, 53)),
            Err(_) => self.socket(path, text),
        }
    }
}
