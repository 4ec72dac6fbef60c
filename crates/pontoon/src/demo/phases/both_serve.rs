//! Rung 2: visitors come to both servers.

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// Both public addresses are in the visitors' DNS.
pub struct BothServe;

impl Phase for BothServe {
    fn name(&self) -> &'static str {
        "both-serve"
    }

    fn title(&self) -> &'static str {
        "rung 2: both servers serve"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            stage.both_doors()?;
            let before = stage.answered().await?;
            stage.traffic(15).await?;
            let after = stage.answered().await?;
            let shares: Vec<String> = after
                .iter()
                .map(|(server, count)| {
                    let new = count.saturating_sub(before.get(server).copied().unwrap_or_default());
                    format!("{server} answered {new}")
                })
                .collect();
            stage.fact(format!("of the visitors' requests {}", shares.join(", ")));
            Ok(())
        })
    }
}
