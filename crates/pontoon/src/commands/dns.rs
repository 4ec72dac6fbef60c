//! `pontoon dns`: the name server itself, and questions about it.

use std::fmt::Write as _;

use pontoon_dns::{ZoneKey, content};
use pontoon_fleet::{AddressView, Code, DnsView, FleetView, Refusal};
use pontoon_zone::{Name, Signer};
use serde_json::json;

use super::{Context, process};
use crate::args::{Dns, DnsCommand, DnsDs, DnsExplain};

/// Runs the name server, or answers a question.
pub fn dns(context: &Context, mut args: Dns) -> anyhow::Result<u8> {
    match args.command.take() {
        None => process::dns(context, args),
        Some(DnsCommand::Explain(args)) => explain(context, &args),
        Some(DnsCommand::Ds(args)) => ds(context, &args),
    }
}

/// From the view on disk, so that it works while the agent is away.
fn view(context: &Context) -> Result<FleetView, Refusal> {
    let file = context.paths.view_file();
    let nothing = || {
        Refusal::new(Code::N001, "there is no fleet view on this server")
            .because(file.display().to_string())
            .next("is the agent running?", "pontoon status")
    };
    let text = std::fs::read(&file).map_err(|error| nothing().because(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| nothing().because(error.to_string()))
}

fn zone_of(view: &FleetView) -> Result<&DnsView, Refusal> {
    view.dns.as_ref().ok_or_else(|| {
        Refusal::new(Code::C003, "the configuration has no [dns]").next("add one, then", "pontoon apply")
    })
}

/// What the registrar is to have. The key lies on servers that answer for the zone and on those that steer the fleet.
fn ds(context: &Context, args: &DnsDs) -> anyhow::Result<u8> {
    let view = view(context)?;
    let dns = zone_of(&view)?;
    let Some(dnssec) = dns.dnssec else {
        let refusal = Refusal::new(Code::A010, format!("{} is not signed", dns.zone));
        return Err(refusal.next("add [dns.dnssec], then", "pontoon apply").into());
    };
    let no_key = |reason: String| {
        Refusal::new(Code::A011, "this server has no key to sign the zone with").because(reason)
    };
    let file = context.paths.dnssec_key_file();
    let key = ZoneKey::load(&file)
        .map_err(no_key)?
        .ok_or_else(|| no_key(format!("{} is not there", file.display())))?;
    let signer = Signer::new(&key.seed, u64::from(dnssec.lifetime_seconds));
    let apex: Name = dns
        .zone
        .parse()
        .map_err(|error: pontoon_zone::BadName| Refusal::new(Code::C002, error.to_string()))?;
    let text = signer.ds_text(&apex);
    match args.json {
        true => {
            let fields: Vec<&str> = text.split(' ').collect();
            context.screen.json(&json!({
                "zone": dns.zone, "key_tag": signer.tag(), "algorithm": 13, "digest_type": 2,
                "digest": fields.last(), "ds": text, "made": key.made,
            }))?;
        }
        false => context.screen.answer(&format!("{}. IN DS {text}\n", dns.zone))?,
    }
    Ok(0)
}

fn explain(context: &Context, args: &DnsExplain) -> anyhow::Result<u8> {
    let view = view(context)?;
    let dns = zone_of(&view)?;
    let explained = Explained::new(&view, dns, &args.name)?;
    match args.json {
        true => context.screen.json(&explained.json())?,
        false => context.screen.answer(&explained.text())?,
    }
    Ok(0)
}

struct Explained<'a> {
    view: &'a FleetView,
    dns: &'a DnsView,
    name: String,
    /// Of the configuration: the name itself, or the wildcard that stands for it.
    stands_for_edges: Option<&'a str>,
}

impl<'a> Explained<'a> {
    fn new(view: &'a FleetView, dns: &'a DnsView, typed: &str) -> Result<Explained<'a>, Refusal> {
        let parse = |text: &str| text.parse::<pontoon_zone::Name>();
        let wrong = |error: pontoon_zone::BadName| Refusal::new(Code::C002, error.to_string());
        let (name, zone) = (parse(typed).map_err(wrong)?, parse(&dns.zone).map_err(wrong)?);
        if !name.is_in(&zone) {
            return Err(
                Refusal::new(Code::C002, format!("{name} is not in the zone {zone}"))
                    .because("its name server refuses to answer for it"),
            );
        }
        let exact = dns.names.iter().find(|text| parse(text).as_ref() == Ok(&name));
        let wildcard = || {
            let above = name.parent()?.wildcard()?;
            dns.names.iter().find(|text| parse(text).as_ref() == Ok(&above))
        };
        Ok(Explained {
            view,
            dns,
            name: name.to_string(),
            stands_for_edges: exact.or_else(wildcard).map(String::as_str),
        })
    }

    fn is_answered(&self, address: &AddressView) -> bool {
        content::published(&self.view.addresses)
            .iter()
            .any(|(_, addresses)| addresses.contains(&address.address))
    }

    fn json(&self) -> serde_json::Value {
        let addresses: Vec<_> = self
            .view
            .addresses
            .iter()
            .map(|view| {
                json!({
                    "address": view.address, "answered": self.is_answered(view), "state": view.state.as_str(),
                    "home": view.home, "holder": view.holder, "reason": view.reason, "weight": view.weight,
                })
            })
            .collect();
        json!({
            "name": self.name, "zone": self.dns.zone, "file": self.dns.file,
            "stands_for_edges": self.stands_for_edges, "addresses": addresses, "signed": self.dns.dnssec.is_some(),
        })
    }

    fn text(&self) -> String {
        let mut text = self.what();
        if let Some(dnssec) = self.dns.dnssec {
            // Signatures are made anew after a quarter of their time.
            let days = dnssec.lifetime_seconds / 4 * 3 / 86_400;
            let _ = writeln!(
                text,
                "The zone is signed: each answer's signature is good for {days} days at least (pontoon dns ds, pontoon status --wide)."
            );
        }
        text
    }

    fn what(&self) -> String {
        let mut text = String::new();
        let from = match &self.dns.file {
            Some(file) => format!("what {} says", file.display()),
            None => "nothing: the zone has no file".to_owned(),
        };
        let Some(configured) = self.stands_for_edges else {
            let _ = writeln!(
                text,
                "{} is not one of the names that stand for the edges ({}): {from}.",
                self.name,
                self.dns.names.join(", ")
            );
            return text;
        };
        let _ = match configured == self.name {
            true => writeln!(text, "{} stands for the edges.", self.name),
            false => writeln!(
                text,
                "{} stands for the edges by {configured}, unless there are other records at the name.",
                self.name
            ),
        };
        for view in &self.view.addresses {
            let word = if self.is_answered(view) { "in " } else { "out" };
            let (address, state) = (view.address.to_string(), view.state.as_str());
            let weight = match view.weight {
                1 => String::new(),
                0 => ", for when no other is up (dns_weight = 0)".to_owned(),
                weight => format!(" (dns_weight = {weight})"),
            };
            let _ = writeln!(
                text,
                "  {word}  {address:<39}  {state:<8}  {}{weight}",
                view.reason
            );
        }
        let published = self.view.addresses.iter().any(|view| view.state.is_published());
        if !published && !self.view.addresses.is_empty() {
            text.push_str(
                "None is up, so all are answered: who tries one is no worse off than who gets none.\n",
            );
        }
        text
    }
}
