//! Whether the zone is signed, and until when: what `pontoon status --wide` says of DNSSEC.

use pontoon_agent::api::Status;
use pontoon_fleet::{Tier, TierDetail};

use super::certificates::ends;
use super::paint::Paint;
use super::table::{self, Cell, Tone};

/// A row for each name server that signs; nothing when none does.
pub fn render(status: &Status, paint: Paint) -> String {
    let heads = ["NAME SERVER", "KEY", "SIGNED UNTIL"];
    let mut rows = vec![heads.map(|head| Cell::toned(head, Tone::Faint)).to_vec()];
    for server in &status.servers {
        let tier = server.report.as_ref().and_then(|report| report.tier(Tier::Dns));
        let Some(TierDetail::Dns(dns)) = tier.map(|tier| &tier.detail) else {
            continue;
        };
        if let Some(signed) = dns.signed {
            rows.push(vec![
                Cell::new(server.name.to_string()),
                Cell::new(signed.key_tag.to_string()),
                ends(Some(signed.until), status.now, true),
            ]);
        }
    }
    match rows.len() {
        1 => String::new(),
        _ => format!("\n{}", table::render(&rows, paint)),
    }
}
