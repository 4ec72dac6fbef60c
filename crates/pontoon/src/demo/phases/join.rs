//! From one server to two, under load.

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// `pontoon token new` on `a` and `pontoon join` on `b`, while visitors read and write on `a`.
pub struct Join;

impl Phase for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn title(&self) -> &'static str {
        "a second server joins, copied live"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let (a, b) = (stage.a.clone(), stage.b.clone());
            let answers = stage.pontoon(&a, &["token", "new", "--json"]).await?;
            let token = answers
                .iter()
                .find_map(|answer| answer.get("token")?.as_str())
                .map(str::to_owned);
            let token = token.ok_or_else(|| anyhow::anyhow!("`pontoon token new` printed no token"))?;
            let (address, public) = (a.private().to_string(), b.public().to_string());
            let begun = stage.elapsed();
            stage
                .pontoon(
                    &b,
                    &[
                        "join", &address, &token, "--name", "b", "--public", &public, "--json",
                    ],
                )
                .await?;
            let took = stage.elapsed().saturating_sub(begun).as_secs_f64();
            stage.until_healthy().await?;
            stage.fact(format!(
                "pontoon join took {took:.1} s: identity, certificate, live copy, replication, edge"
            ));
            stage.traffic(4).await
        })
    }
}
