//! The primary's database is lost under writes (P1, P2).

use pontoon_testkit::database::databases;

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// `kill -9` of the database that takes the writes.
pub struct DatabaseDies;

impl Phase for DatabaseDies {
    fn name(&self) -> &'static str {
        "database-dies"
    }

    fn title(&self) -> &'static str {
        "the primary's database dies (kill -9)"
    }

    fn may_fail(&self) -> bool {
        true
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let (primary, other, epoch) = stage.primary().await?;
            stage.traffic(2).await?;
            let begun = stage.elapsed();
            databases(&primary)
                .iter()
                .try_for_each(|process| process.kill_9())?;
            stage.until_primary(&other, epoch).await?;
            let taken = stage.elapsed().saturating_sub(begun).as_secs_f64();
            stage.until_healthy().await?;
            let back = stage.elapsed().saturating_sub(begun).as_secs_f64();
            let (primary, other) = (primary.name(), other.name());
            stage.fact(format!(
                "{other} took the writes {taken:.1} s after the kill; after {back:.1} s {primary} was back as its replica with \
                 every acknowledged write, without a new copy"
            ));
            stage.traffic(3).await
        })
    }
}
