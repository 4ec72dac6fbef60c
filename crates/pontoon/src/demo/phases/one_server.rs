//! Rung 1: Pontoon in front of what already runs on one server.

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// `pontoon init` and `pontoon apply` on server `a`; then the visitors come.
pub struct OneServer;

impl Phase for OneServer {
    fn name(&self) -> &'static str {
        "one-server"
    }

    fn title(&self) -> &'static str {
        "rung 1: one server"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let a = stage.a.clone();
            let (private, public) = (a.private().to_string(), a.public().to_string());
            let (upstream, health) = (Stage::APPLICATION.to_string(), stage.app.health_path());
            let host = stage.app.host();
            let init = [
                "init", "--json", "--name", "a", "--fleet", "demo", "--domain", &host,
            ];
            let found = [
                "--upstream",
                &upstream,
                "--health",
                health,
                "--private",
                &private,
                "--public",
                &public,
            ];
            stage.pontoon(&a, &[&init[..], &found[..]].concat()).await?;
            stage.pontoon(&a, &["apply", "--json"]).await?;
            stage.until_healthy().await?;
            stage.fact("pontoon init and apply: MariaDB moved aside, SQL proxy and edge in front; the application is unchanged");
            stage.open_doors(self.name())?;
            stage.traffic(6).await
        })
    }
}
