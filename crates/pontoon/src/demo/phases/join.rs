//! From one server to two, under load.

use pontoon_fleet::units::human_bytes;

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
            let said = stage
                .pontoon(
                    &b,
                    &[
                        "join", &address, &token, "--name", "b", "--public", &public, "--json",
                    ],
                )
                .await?;
            let took = stage.elapsed().saturating_sub(begun).as_secs_f64();
            stage.until_healthy().await?;
            let copied = said
                .iter()
                .filter(|line| line["progress"] == "bytes")
                .filter_map(|line| line["done"].as_u64());
            let copied = copied.max().map_or("the database".to_owned(), human_bytes);
            stage.fact(format!(
                "pontoon join took {took:.1} s, {copied} copied from a while a was in use"
            ));
            stage.caveat(
                "Until each commit is on both servers, a write is acknowledged when the database of a has it; b has it a \
                 moment later.",
            );
            stage.traffic(4).await
        })
    }
}
