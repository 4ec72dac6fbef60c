//! The server with the primary is cut off, and goes on by itself on its side (P1, P2).

use super::{Phase, Playing};
use crate::demo::stage::{Absence, Stage};

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
            let absence = stage
                .while_without_primary(
                    1,
                    async |primary| Ok(primary.link_down().await?),
                    async |primary| Ok(primary.link_up().await?),
                )
                .await?;
            let Absence {
                lost,
                took_over,
                taken,
                back,
            } = absence;
            stage.fact(format!(
                "{took_over} took the writes {taken:.1} s after {lost} was cut off, whose database ran on and could \
                 acknowledge nothing; {back:.1} s after the network was back {lost} was its replica, without a new copy"
            ));
            stage.traffic(1).await
        })
    }
}
