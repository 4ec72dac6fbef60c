//! The application of one server is killed.

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// `kill -9` of every process of the application on `a`, the server with the primary database; later it is started
/// again, as its own service manager would.
pub struct ApplicationDies;

impl Phase for ApplicationDies {
    fn name(&self) -> &'static str {
        "application-dies"
    }

    fn title(&self) -> &'static str {
        "an application dies (kill -9)"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let a = stage.a.clone();
            stage.traffic(2).await?;
            let before = stage.counts().await?;
            let (processes, reads) = stage.kill_application(&a).await?;
            stage.caveat(
                "The application was killed at a moment without a write under way. A POST that an application dies \
                 with fails, whoever stands in front: only the visitor may repeat it. So does a page of which the \
                 visitor has a part; here PHP sends a page when it is ready.",
            );
            stage.traffic(8).await?;
            let retried = stage.counts().await?.retried(&before);
            stage.fact(format!(
                "{} on a: {processes} processes killed, with {reads} reads under way in the fleet; the edges took \
                 {retried} requests to b after they had tried a",
                stage.app.name()
            ));
            stage.start_application(&a).await?;
            stage.until_healthy().await?;
            stage.fact("started again, and back in service by its health checks");
            stage.traffic(4).await
        })
    }
}
