//! Rung 2: visitors come to both servers.

use anyhow::bail;

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
            let before = stage.counts().await?;
            stage.traffic(3).await?;
            let after = stage.counts().await?;
            let (by_a, by_b) = (
                after.answered_by(&stage.a, &before),
                after.answered_by(&stage.b, &before),
            );
            if by_a == 0 || by_b == 0 {
                bail!("one application gets no request: a answered {by_a}, b answered {by_b}");
            }
            stage.fact(format!(
                "visitors come to both; a answered {by_a} requests, b {by_b}"
            ));
            Ok(())
        })
    }
}
