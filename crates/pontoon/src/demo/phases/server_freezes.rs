//! A whole server stands still, and comes back believing that it is still the primary (P1, P2).

use super::{Phase, Playing};
use crate::demo::stage::{Stage, door};

/// SIGSTOP of every process of the server with the primary; SIGCONT when another leads.
pub struct ServerFreezes;

impl Phase for ServerFreezes {
    fn name(&self) -> &'static str {
        "server-freezes"
    }

    fn title(&self) -> &'static str {
        "the primary's server freezes, and thaws"
    }

    fn may_fail(&self) -> bool {
        true
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let (primary, other, epoch) = stage.primary().await?;
            // Addresses do not move yet: visitors who came to the frozen one would see nothing but that.
            stage.load()?.set_targets(vec![door(&other)]);
            stage.traffic(2).await?;
            let begun = stage.elapsed();
            primary.freeze().await?;
            stage.until_primary(&other, epoch).await?;
            let taken = stage.elapsed().saturating_sub(begun).as_secs_f64();
            primary.thaw()?;
            let thawed = stage.elapsed();
            stage.until_healthy().await?;
            let back = stage.elapsed().saturating_sub(thawed).as_secs_f64();
            stage.both_doors()?;
            let (primary, other) = (primary.name(), other.name());
            stage.fact(format!(
                "{other} took the writes {taken:.1} s after {primary} froze, when its lease had run out; {back:.1} s after it \
                 thawed {primary} was its replica"
            ));
            stage.caveat(format!(
                "While {primary} was frozen, visitors came to {other} only: public addresses do not move by themselves yet."
            ));
            stage.traffic(4).await
        })
    }
}
