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
            let before = stage.counts().await?;
            let (processes, reads) = stage.kill_application(&a).await?;
            stage.caveat(
                "The application was killed at a moment in which no write was under way and no visitor had part of a \
                 page (it and the visitors stood still for 30 ms to find one). A POST that an application dies with \
                 fails, and so does a page that is half sent, whoever stands in front: only the visitor may ask again.",
            );
            stage.traffic(3).await?;
            let retried = stage.counts().await?.retried(&before);
            stage.fact(format!(
                "{} on a: {processes} processes killed, with {reads} reads under way in the fleet; the edges took \
                 {retried} requests to b after they had tried a",
                stage.app.name()
            ));
            stage.start_application(&a).await?;
            stage.until_healthy().await?;
            stage.fact("started again, and back in service by its health checks");
            stage.traffic(2).await
        })
    }
}
