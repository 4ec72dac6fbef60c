//! The setting: what an operator has before Pontoon comes. Two machines; on the first a database with a site.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pontoon_testkit::app::{Dice, Verdict};
use pontoon_testkit::http::Connection;
use pontoon_testkit::{Bind, DatabaseOptions, DemoApp, Inside, Lab, Mariadb, Process, Server};
use tokio::time::{Instant, timeout};

use super::application::PROGRAM;
use super::stage::Stage;
use crate::output::demo::Show;

/// Two machines without Pontoon.
pub struct Setting {
    /// Holds them.
    pub lab: Lab,
    /// With the site.
    pub a: Server,
    /// With the same programs and an empty database.
    pub b: Server,
    /// The site.
    pub app: Arc<dyn DemoApp>,
    /// The application's process on each server.
    pub running: BTreeMap<String, Process>,
    /// How long one visitor waits for a page when nobody else is there.
    pub page: Duration,
}

impl Setting {
    /// Switches both machines on and installs what runs there.
    pub async fn build(inside: Inside, app: Arc<dyn DemoApp>, show: &Show) -> anyhow::Result<Setting> {
        let mut lab = Lab::new(inside).await?;
        let program = std::env::current_exe().context("where this program is")?;
        let bind = || {
            vec![Bind {
                host: program.clone(),
                server: PROGRAM.into(),
            }]
        };
        show.detail("switching two servers on");
        let a = lab.add_server("a", bind()).await?;
        let b = lab.add_server("b", bind()).await?;
        show.detail("starting MariaDB on both");
        let options = DatabaseOptions::default();
        let (on_a, on_b) = tokio::join!(Mariadb::start(&a, &options), Mariadb::start(&b, &options));
        let (mariadb, _) = (on_a?, on_b?);
        show.detail(&format!("installing {} on a", app.name()));
        app.create_database(&mariadb).await?;
        let mut running = BTreeMap::new();
        for server in [&a, &b] {
            app.prepare(server).await?;
            running.insert(
                server.name().to_owned(),
                app.start(server, Stage::APPLICATION).await?,
            );
        }
        // The visitors' side does not see the loopback of a server: it is installed through a door that is closed again.
        let door = SocketAddr::from((a.public(), 8081));
        let process = app.start(&a, door).await?;
        app.install(door, &mariadb).await?;
        show.detail("looking how long a page takes");
        let page = page(app.as_ref(), door).await?;
        process.kill_9().await?;
        Ok(Setting {
            lab,
            a,
            b,
            app,
            running,
            page,
        })
    }
}

/// The median of a few reads, one after the other, once the application is warm.
async fn page(app: &dyn DemoApp, door: SocketAddr) -> anyhow::Result<Duration> {
    let mut dice = Dice::new(1);
    let mut waits = Vec::new();
    while waits.len() < READS {
        let visit = app.next(&mut dice, &[]);
        if visit.text.is_some() {
            continue;
        }
        let sent = Instant::now();
        let exchange = async {
            Connection::open(door)
                .await?
                .send(&visit.request, &app.host(), false)
                .await
        };
        let answer = timeout(Duration::from_secs(30), exchange)
            .await
            .context("a page")?
            .context("a page")?;
        if let Verdict::Bad(why) = app.judge(&visit, &answer) {
            bail!("{} is not as it should be: {why}", visit.what);
        }
        waits.push(sent.elapsed());
    }
    let warm = waits.get_mut(READS / 3..).unwrap_or_default();
    warm.sort_unstable();
    warm.get(warm.len() / 2).copied().context("no page was read")
}

const READS: usize = 15;
