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
            let (a, b) = (stage.a.clone(), stage.b.clone());
            stage.pontoon(&a, &["drain", "b", "--json"]).await?;
            let drained = stage.counts().await?;
            stage.traffic(2).await?;
            let before = stage.counts().await?;
            let got = before.answered_by(&b, &drained);
            if got > 0 {
                bail!("b was drained, and its application still got {got} requests");
            }
            let a_answered = before.answered_by(&a, &drained);
            stage.fact(format!(
                "pontoon drain b: a answered {a_answered} requests, b none"
            ));
            stage.pontoon(&a, &["undrain", "b", "--json"]).await?;
            stage.until_healthy().await?;
            stage.traffic(1).await?;
            let again = stage.counts().await?.answered_by(&b, &before);
            if again == 0 {
                bail!("b is back in service, and its application gets no request");
            }
            stage.fact(format!("pontoon undrain b: it has answered {again} since"));
            Ok(())
        })
    }
}
