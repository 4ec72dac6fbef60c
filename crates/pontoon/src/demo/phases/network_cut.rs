//! The server with the primary is cut off, and goes on by itself on its side (P1, P2).

use super::{Phase, Playing};
use crate::demo::stage::{Stage, door};

/// The network between the primary's server and everybody else is cut, and joined again when another leads.
pub struct NetworkCut;

impl Phase for NetworkCut {
    fn name(&self) -> &'static str {
        "network-cut"
    }

    fn title(&self) -> &'static str {
        "the network between the servers is cut"
    }

    fn may_fail(&self) -> bool {
        true
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let (primary, other, epoch) = stage.primary().await?;
            // Nobody reaches the one that is cut off; addresses do not move in this demo.
            stage.load()?.set_targets(vec![door(&other)]);
            stage.traffic(1).await?;
            let begun = stage.elapsed();
            primary.link_down().await?;
            stage.until_primary(&other, epoch).await?;
            let taken = stage.elapsed().saturating_sub(begun).as_secs_f64();
            primary.link_up().await?;
            let joined = stage.elapsed();
            stage.until_healthy().await?;
            let back = stage.elapsed().saturating_sub(joined).as_secs_f64();
            stage.both_doors()?;
            let (primary, other) = (primary.name(), other.name());
            stage.fact(format!(
                "{other} took the writes {taken:.1} s after {primary} was cut off, whose database ran on and could acknowledge \
                 nothing; {back:.1} s after the network was back {primary} was its replica, without a new copy"
            ));
            stage.traffic(1).await
        })
    }
}
