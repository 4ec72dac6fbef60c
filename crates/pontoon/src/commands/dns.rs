//! `pontoon dns`: the name server itself, and questions about it.

use std::fmt::Write as _;

use pontoon_dns::content;
use pontoon_fleet::{AddressView, Code, DnsView, FleetView, Refusal};
use serde_json::json;

use super::{Context, process};
use crate::args::{Dns, DnsCommand, DnsExplain};

/// Runs the name server, or answers a question.
pub fn dns(context: &Context, mut args: Dns) -> anyhow::Result<u8> {
    match args.command.take() {
        None => process::dns(context, args),
        Some(DnsCommand::Explain(args)) => explain(context, &args),
    }
}

/// From the view on disk, so that it works while the agent is away.
fn explain(context: &Context, args: &DnsExplain) -> anyhow::Result<u8> {
    let file = context.paths.view_file();
    let nothing = || {
        Refusal::new(Code::N001, "there is no fleet view on this server")
            .because(file.display().to_string())
            .next("is the agent running?", "pontoon status")
    };
    let text = std::fs::read(&file).map_err(|error| nothing().because(error.to_string()))?;
    let view: FleetView =
        serde_json::from_slice(&text).map_err(|error| nothing().because(error.to_string()))?;
    let dns = view.dns.as_ref().ok_or_else(|| {
        Refusal::new(Code::C003, "the configuration has no [dns]").next("add one, then", "pontoon apply")
    })?;
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
                    "home": view.home, "holder": view.holder, "reason": view.reason,
                })
            })
            .collect();
        json!({
            "name": self.name, "zone": self.dns.zone, "file": self.dns.file,
            "stands_for_edges": self.stands_for_edges, "addresses": addresses,
        })
    }

    fn text(&self) -> String {
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
            let _ = writeln!(text, "  {word}  {address:<39}  {state:<8}  {}", view.reason);
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
