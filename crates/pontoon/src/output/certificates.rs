//! The certificates that visitors are shown: what `pontoon status --wide` says of them.

use std::collections::BTreeMap;

use pontoon_agent::api::Status;
use pontoon_fleet::{CertificateReport, Tier, TierDetail, UnixMillis};

use super::paint::{Paint, harmless};
use super::table::{self, Cell, Tone};
use super::when;

/// A row for each certificate, and on which servers it is served; nothing when there is none.
pub fn render(status: &Status, paint: Paint) -> String {
    let mut found: BTreeMap<(&str, Option<UnixMillis>, String), Vec<&str>> = BTreeMap::new();
    for server in &status.servers {
        let tier = server.report.as_ref().and_then(|report| report.tier(Tier::Edge));
        let Some(TierDetail::Edge(edge)) = tier.map(|tier| &tier.detail) else {
            continue;
        };
        for certificate in &edge.certificates {
            let CertificateReport {
                source,
                names,
                not_after,
                ..
            } = certificate;
            let key = (source.as_str(), *not_after, names.join(" "));
            found.entry(key).or_default().push(server.name.as_str());
        }
    }
    if found.is_empty() {
        return String::new();
    }
    let heads = ["CERTIFICATE", "NAMES", "ENDS", "ON"];
    let mut rows = vec![heads.map(|head| Cell::toned(head, Tone::Faint)).to_vec()];
    rows.extend(found.iter().map(|((source, not_after, names), servers)| {
        vec![
            Cell::new(harmless(source)),
            Cell::new(harmless(names)),
            ends(*not_after, status.now, false),
            Cell::new(servers.join(" ")),
        ]
    }));
    format!("\n{}", table::render(&rows, paint))
}

/// The day on which one ends. One that is `renewed` by itself is nobody's business before its last week.
pub fn ends(not_after: Option<UnixMillis>, now: UnixMillis, renewed: bool) -> Cell {
    let Some(end) = not_after else {
        return Cell::toned("not served", Tone::Bad);
    };
    let date = when::date_clock(end);
    let date = date.split(' ').next().unwrap_or(&date);
    let days = end.since(now).as_secs() / 86_400;
    match days {
        0 => Cell::toned(date, Tone::Bad),
        1..21 if !renewed => Cell::toned(format!("{date} ({days} days)"), Tone::Warn),
        days => Cell::new(format!("{date} ({days} days)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_day_and_how_far_it_is() {
        let day = |days: u64| UnixMillis(days * 86_400_000);
        let text = |end, now| ends(end, now, false).text;
        assert_eq!(text(Some(day(100)), day(10)), "1970-04-11 (90 days)");
        assert_eq!(text(Some(day(100)), day(100)), "1970-04-11");
        assert_eq!(text(None, day(100)), "not served");
    }
}
