//! A whole server stands still, and comes back believing that it is still the primary (P1, P2).

use super::{Phase, Playing};
use crate::demo::stage::{Absence, Stage};

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
            let absence = stage
                .while_without_primary(
                    2,
                    async |primary| Ok(primary.freeze().await?),
                    async |primary| Ok(primary.thaw()?),
                )
                .await?;
            let Absence {
                lost,
                took_over,
                taken,
                back,
            } = absence;
            stage.fact(format!(
                "{took_over} took the writes {taken:.1} s after {lost} froze, when its lease had run out; {back:.1} s after \
                 it thawed {lost} was its replica"
            ));
            stage.caveat(format!(
                "While {lost} was frozen, visitors came to {took_over} only: addresses move in the last phase only."
            ));
            stage.traffic(1).await
        })
    }
}
