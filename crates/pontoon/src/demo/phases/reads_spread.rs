//! Reads go to both databases, as a change of the configuration while visitors come.

use std::time::Duration;

use anyhow::{Context as _, bail};
use pontoon_testkit::app::{Dice, Verdict};
use pontoon_testkit::http::{Connection, Request, Response};
use tokio::time::{Instant, timeout};

use super::{Phase, Playing};
use crate::demo::stage::{Stage, door};

/// `db.reads.split` in `fleet.toml`, and `pontoon apply`.
pub struct ReadsSpread;

impl Phase for ReadsSpread {
    fn name(&self) -> &'static str {
        "reads-spread"
    }

    fn title(&self) -> &'static str {
        "reads go to both databases"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let a = stage.a.clone();
            // Any command follows the join in the file.
            stage.pontoon(&a, &["plan", "--json"]).await?;
            let file = a.path("/etc/pontoon/fleet.toml")?;
            let text = std::fs::read_to_string(&file)?;
            std::fs::write(&file, text.replacen("[db]", &format!("[db]\n{SPLIT}"), 1))?;
            stage.pontoon(&a, &["apply", "--json"]).await?;
            stage.until_healthy().await?;
            let before = stage.counts().await?;
            let (traffic, pairs) = tokio::join!(stage.traffic(SECONDS), write_and_read(stage));
            traffic?;
            let (pairs, stale) = pairs?;
            let (primary, replicas) = stage.counts().await?.statements(&before);
            if replicas == 0 || stale > 0 {
                bail!("{replicas} reads at the replica, {stale} of {pairs} stale");
            }
            stage.fact(format!(
                "pontoon apply with {SPLIT}: since then the replica answered {replicas} statements, the primary {primary}"
            ));
            stage.fact(format!(
                "{pairs} times something was written through one server and read at once through the other: {stale} \
                 stale, and no visitor missed what another had just written"
            ));
            Ok(())
        })
    }
}

/// Writes through one server and reads that through the other at once, again and again; how often, and how often what
/// was written was not there.
async fn write_and_read(stage: &Stage) -> anyhow::Result<(usize, usize)> {
    let doors = [door(&stage.a), door(&stage.b)];
    let mut dice = Dice::new(stage.visitors.seed.wrapping_add(1));
    let until = Instant::now() + Duration::from_secs(SECONDS.into()).mul_f64(stage.visitors.pace);
    let (mut pairs, mut stale) = (0, 0);
    while Instant::now() < until {
        let visit = stage
            .app
            .write(&mut dice)
            .context("the application has nothing to write")?;
        let (one, other) = (doors[pairs % 2], doors[1 - pairs % 2]);
        let written = ask(stage, one, &visit.request).await?;
        let id = match stage.app.judge(&visit, &written) {
            Verdict::Written(id) => id,
            verdict => bail!("a write was answered with {verdict:?}"),
        };
        let look = stage.app.look(&id).context("what was written has no page")?;
        let page = ask(stage, other, &look).await?;
        let text = visit.text.unwrap_or_default();
        pairs += 1;
        stale += usize::from(page.status != 200 || !page.text().contains(&text));
    }
    Ok((pairs, stale))
}

async fn ask(stage: &Stage, at: std::net::SocketAddr, request: &Request) -> anyhow::Result<Response> {
    let exchange = async {
        let mut connection = Connection::open(at).await?;
        connection.send(request, &stage.app.host(), false).await
    };
    let answer = timeout(LIMIT, exchange).await;
    Ok(answer.with_context(|| format!("{at} did not answer within {} s", LIMIT.as_secs()))??)
}

/// Visitors of the demo carry no cookies and read what others wrote a moment ago: everybody is to see every write.
const SPLIT: &str = r#"reads = { split = true, after_write = "fleet-wide" }"#;
const SECONDS: u32 = 6;
const LIMIT: Duration = Duration::from_secs(30);
