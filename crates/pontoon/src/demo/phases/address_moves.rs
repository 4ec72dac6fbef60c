//! A server is gone, and the other one has its address: a visitor who browses by name goes on (P4).

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use pontoon_testkit::app::{Dice, Verdict};
use pontoon_testkit::http::Connection;
use pontoon_testkit::{DemoApp, Lab, Server, wait_until};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Phase, Playing};
use crate::demo::stage::Stage;

/// `[dns]` and `[ip]` in `fleet.toml`; then the cable of a server is pulled, and plugged in again.
pub struct AddressMoves;

impl Phase for AddressMoves {
    fn name(&self) -> &'static str {
        "address-moves"
    }

    fn title(&self) -> &'static str {
        "a server is gone: its address is caught"
    }

    fn may_fail(&self) -> bool {
        true
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let a = stage.a.clone();
            let host = stage.app.host();
            stage.pontoon(&a, &["plan", "--json"]).await?;
            let file = a.path("/etc/pontoon/fleet.toml")?;
            let text = std::fs::read_to_string(&file)?;
            let gateway = Lab::VISITOR;
            let more = format!(
                "\n[dns]\nzone = \"{host}\"\n\n[ip]\nmethod = \"arp\"\ngateway = \"{gateway}\"\nhome_after = \"1s\"\n"
            );
            std::fs::write(&file, text + &more)?;
            stage.pontoon(&a, &["apply", "--json"]).await?;
            stage.until_healthy().await?;
            let (kept, lost, _) = stage.primary().await?;
            until_held(stage, &kept, &lost, &lost).await?;
            // They come to both addresses, whoever has them.
            stage.both_doors()?;
            let servers = [kept.public(), lost.public()];
            let pages = Visitor::start(page_by_name(stage.app.clone(), servers, lost.public()));
            let answers = Visitor::start(answer_at(host, lost.public()));
            for visitor in [&pages, &answers] {
                visitor.until_served(3).await?;
                visitor.forget();
            }
            lost.link_down().await?;
            until_held(stage, &kept, &lost, &kept).await?;
            pages.until_served(10).await?;
            let (silent, waited) = (answers.longest(), pages.longest());
            lost.link_up().await?;
            [&pages, &answers].into_iter().for_each(Visitor::forget);
            until_held(stage, &kept, &lost, &lost).await?;
            pages.until_served(10).await?;
            let (home, count) = (answers.longest(), pages.end().await?);
            answers.end().await?;
            stage.until_healthy().await?;
            let (kept, lost) = (kept.name(), lost.name());
            let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1000.0);
            stage.fact(format!(
                "pontoon apply with [dns] and [ip]: when {lost} was gone, {kept} had its address; nobody answered there for {} at \
                 the most, and for {} when it went home",
                ms(silent),
                ms(home)
            ));
            stage.fact(format!(
                "a visitor who asks the fleet's own name servers and then that address waited {} at the most for one of {count} \
                 pages: the edge had to find out that the application of {lost} was gone, too",
                ms(waited)
            ));
            stage.caveat(format!(
                "When {lost} was gone, the connections that were open there were gone, too: an address moves, a connection does not."
            ));
            stage.traffic(1).await
        })
    }
}

/// Waits until the addresses of `lost` are at `holder` alone, as `kept` sees it.
async fn until_held(stage: &Stage, kept: &Server, lost: &Server, holder: &Server) -> anyhow::Result<()> {
    let what = format!("the address of {} at {}", lost.name(), holder.name());
    wait_until(&what, Duration::from_secs(60), || async {
        let said = stage.pontoon(kept, &["address", "status", "--json"]).await.ok()?;
        let homes = said.first()?["homes"].as_array()?.clone();
        let home = homes.iter().find(|home| home["home"] == lost.name())?;
        (home["holders"] == serde_json::json!([holder.name()])).then_some(())
    })
    .await?;
    Ok(())
}

type Asking = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Somebody who asks again and again, and how long that took.
struct Visitor {
    seen: Arc<Seen>,
    task: JoinHandle<()>,
    begun: Instant,
}

#[derive(Default)]
struct Seen {
    count: AtomicU64,
    /// When the last answer had come, and the longest time between two, in microseconds since the beginning.
    last: AtomicU64,
    longest: AtomicU64,
    end: AtomicBool,
}

impl Visitor {
    /// `ask` says whether there was an answer.
    fn start(mut ask: impl FnMut() -> Asking + Send + 'static) -> Visitor {
        let (seen, begun) = (Arc::new(Seen::default()), Instant::now());
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                while !seen.end.load(Ordering::Relaxed) {
                    if !ask().await {
                        continue;
                    }
                    let now = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    let last = seen.last.swap(now, Ordering::Relaxed);
                    seen.longest
                        .fetch_max(now.saturating_sub(last), Ordering::Relaxed);
                    seen.count.fetch_add(1, Ordering::Relaxed);
                    sleep(BETWEEN).await;
                }
            }
        });
        Visitor { seen, task, begun }
    }

    /// Waits for so many answers more.
    async fn until_served(&self, more: u64) -> anyhow::Result<()> {
        let wanted = self.seen.count.load(Ordering::Relaxed) + more;
        wait_until("answers at the address", Duration::from_secs(60), || async {
            (self.seen.count.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await?;
        Ok(())
    }

    /// The longest wait counts from here on.
    fn forget(&self) {
        self.seen.longest.store(0, Ordering::Relaxed);
    }

    /// The longest time between two answers, now included.
    fn longest(&self) -> Duration {
        let last = Duration::from_micros(self.seen.last.load(Ordering::Relaxed));
        let open = self.begun.elapsed().saturating_sub(last);
        open.max(Duration::from_micros(self.seen.longest.load(Ordering::Relaxed)))
    }

    async fn end(self) -> anyhow::Result<u64> {
        self.seen.end.store(true, Ordering::Relaxed);
        self.task.await.context("the visitor")?;
        Ok(self.seen.count.load(Ordering::Relaxed))
    }
}

/// One page after the other, by name each time.
fn page_by_name(
    app: Arc<dyn DemoApp>,
    servers: [Ipv4Addr; 2],
    likes: Ipv4Addr,
) -> impl FnMut() -> Asking + Send {
    let mut dice = Dice::new(7);
    move || {
        let visit = loop {
            let visit = app.next(&mut dice, &[]);
            if visit.text.is_none() {
                break visit;
            }
        };
        let app = app.clone();
        Box::pin(async move {
            let page = async {
                let address = resolve(&app.host(), servers, likes).await?;
                let mut connection = Connection::open(SocketAddr::from((address, 80))).await?;
                anyhow::Ok(connection.send(&visit.request, &app.host(), false).await?)
            };
            // An edge that has lost its application says so for a moment: that is no page.
            match timeout(IMPATIENT, page).await {
                Ok(Ok(answer)) => matches!(app.judge(&visit, &answer), Verdict::Good),
                _ => false,
            }
        })
    }
}

/// Whether a name server answers at the address, whoever has it.
fn answer_at(host: String, address: Ipv4Addr) -> impl FnMut() -> Asking + Send {
    move || {
        let host = host.clone();
        Box::pin(async move { matches!(timeout(ANSWER, addresses(&host, address)).await, Ok(Ok(_))) })
    }
}
/// Asks the fleet's name servers in turn, as a resolver does; gives the address that is liked, or the first.
async fn resolve(host: &str, servers: [Ipv4Addr; 2], likes: Ipv4Addr) -> anyhow::Result<Ipv4Addr> {
    for server in servers.iter().rev() {
        if let Ok(Ok(found)) = timeout(RESOLVER, addresses(host, *server)).await {
            let liked = found.iter().find(|address| **address == likes);
            return liked.or(found.first()).copied().context("no address");
        }
    }
    bail!("no name server answers")
}

/// The IPv4 addresses of a name (RFC 1035), from one server.
async fn addresses(host: &str, server: Ipv4Addr) -> anyhow::Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind((Lab::VISITOR, 0)).await?;
    socket.connect((server, 53)).await?;
    let mut query = vec![0x50, 0x4e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in host.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query).await?;
    let mut answer = [0; 512];
    let count = socket.recv(&mut answer).await?;
    // Every record of the answer is compressed to the question's name: two bytes, then type, class, TTL and length.
    let records = answer.get(query.len()..count).context("a short answer")?;
    let found: Vec<Ipv4Addr> = records
        .chunks_exact(16)
        .filter_map(|record| match record {
            [0xc0, 12, 0, 1, 0, 1, _, _, _, _, 0, 4, a, b, c, d] => Some(Ipv4Addr::new(*a, *b, *c, *d)),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        bail!("no address in the answer");
    }
    Ok(found)
}

/// A visitor who got nothing for so long tries again.
const IMPATIENT: Duration = Duration::from_secs(2);

/// A resolver that got nothing for so long asks the next name server.
const RESOLVER: Duration = Duration::from_millis(200);

/// The same for one who only looks whether the address answers.
const ANSWER: Duration = Duration::from_millis(20);

/// Between two pages.
const BETWEEN: Duration = Duration::from_millis(10);
