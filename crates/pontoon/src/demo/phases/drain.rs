//! Maintenance: a server is taken out of service and put back.

use anyhow::bail;

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// `pontoon drain b`, then `pontoon undrain b`.
pub struct Drain;

impl Phase for Drain {
    fn name(&self) -> &'static str {
        "drain"
    }

    fn title(&self) -> &'static str {
        "a server is drained and comes back"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let a = stage.a.clone();
            stage.traffic(2).await?;
            stage.pontoon(&a, &["drain", "b", "--json"]).await?;
            let before = stage.answered().await?;
            stage.traffic(8).await?;
            let after = stage.answered().await?;
            let of = |counts: &std::collections::BTreeMap<String, u64>| {
                counts.get("b").copied().unwrap_or_default()
            };
            let new = of(&after).saturating_sub(of(&before));
            if new > 0 {
                bail!("b was drained, and its application still got {new} requests");
            }
            stage.fact("pontoon drain b: its application got no request while a answered all of them");
            stage.pontoon(&a, &["undrain", "b", "--json"]).await?;
            stage.until_healthy().await?;
            stage.traffic(6).await?;
            if of(&stage.answered().await?) == of(&after) {
                bail!("b is back in service, and its application gets no request");
            }
            stage.fact("pontoon undrain b: it answers again");
            Ok(())
        })
    }
}
