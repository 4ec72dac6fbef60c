//! Every commit on two servers, and a place to agree on who is primary.

use pontoon_testkit::StoreKind;

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// Where the lease is kept: etcd answers in milliseconds and lets leases be short.
pub const STORE: StoreKind = StoreKind::Etcd;

/// `db.failover = "auto"` and `[lease]` in `fleet.toml`, and `pontoon apply`.
pub struct TwoCopies;

impl Phase for TwoCopies {
    fn name(&self) -> &'static str {
        "two-copies"
    }

    fn title(&self) -> &'static str {
        "each commit is on both servers"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let a = stage.a.clone();
            let third = stage.lab.add_server("s", Vec::new()).await?;
            let store = STORE.start(&third).await?;
            // Any command lets the file follow what is active.
            stage.pontoon(&a, &["plan", "--json"]).await?;
            let file = a.path("/etc/pontoon/fleet.toml")?;
            let text = std::fs::read_to_string(&file)?.replacen("[db]", "[db]\nfailover = \"auto\"", 1);
            std::fs::write(&file, format!("{text}\n{}", store.table()))?;
            stage.pontoon(&a, &["apply", "--json"]).await?;
            stage.until_healthy().await?;
            stage.fact(
                "pontoon apply with failover = \"auto\" and a lease in etcd on a third machine: a commit is acknowledged when \
                 both servers have it",
            );
            stage.caveat(
                "When a primary or its server is lost, the requests that it was working on fail or wait. They are counted, and \
                 allowed in those phases only; what was acknowledged must be there all the same.",
            );
            stage.traffic(4).await
        })
    }
}
