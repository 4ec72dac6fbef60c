//! A fleet that works for long on bad machines: nobody takes over from a leader that lives.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use super::*;

/// The machines that agents run on.
#[derive(Clone, Debug, Default)]
pub(super) struct Machines {
    /// How fast their clocks run, in thousandths; those that are not named run true.
    pub(super) rates: Vec<u32>,
    /// Every so often an agent stands still for up to so long, as on a host that does other things.
    pub(super) stalls: Option<(Duration, Duration)>,
}

impl Machines {
    pub(super) fn rate(&self, at: usize) -> u32 {
        self.rates.get(at).copied().unwrap_or(1000)
    }

    /// The agent's life on that machine.
    pub(super) fn run<F>(&self, at: usize, life: F) -> Stalling<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Stalling {
            life: Box::pin(life),
            stalls: self.stalls,
            dice: Dice(0x5eed + at as u64),
            next: Instant::now(),
            stall: None,
        }
    }
}

/// A future that is not looked at for a while every now and then.
pub(super) struct Stalling<F> {
    life: Pin<Box<F>>,
    stalls: Option<(Duration, Duration)>,
    dice: Dice,
    next: Instant,
    stall: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Stalling<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some((every, longest)) = this.stalls
            && this.stall.is_none()
            && Instant::now() >= this.next
        {
            let mut up_to = |most: Duration| ms(this.dice.of(1 + most.as_millis() as u64));
            let length = up_to(longest);
            this.next = Instant::now() + length + up_to(every * 2);
            this.stall = Some(Box::pin(sleep(length)));
        }
        if let Some(stall) = &mut this.stall {
            std::task::ready!(stall.as_mut().poll(cx));
            this.stall = None;
        }
        this.life.as_mut().poll(cx)
    }
}

/// A fifth of all packets is lost, every answer is late, clocks differ by a fifth, agents stand still for up to 1.5 s, and
/// nobody takes over from a leader that lives: with the timing that is shipped for etcd. `PONTOON_SOAK_MINUTES` of made-up
/// time, ten by default; `script/simulate soak` plays a day.
#[tokio::test(start_paused = true)]
async fn loss_and_a_busy_machine_make_no_failover() {
    let minutes: u32 = std::env::var("PONTOON_SOAK_MINUTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10);
    // The one that would take over finds time long.
    let machines = Machines {
        rates: vec![900, 1100],
        stalls: Some((SECOND * 20, ms(1500))),
    };
    let ground = Ground::on(machines, 2, Mode::Safe, Timing::etcd(), ms(100));
    ground.until_in_sync(0).await;
    {
        let mut world = lock(&ground.world);
        world.rare = 600;
        world.lossy = Some(Lossy {
            percent: 20,
            dice: Dice(0x9e37_79b9_7f4a_7c15),
        });
    }
    let clock = ground.clock_of(0);
    let (mut late, mut looks, mut longest) = (0, 0, 0);
    for minute in 0..minutes {
        for _ in 0..60 {
            sleep(SECOND).await;
            let report = ground.desks[0].report(clock.now());
            let silent = report.and_then(|report| report.store_ms).unwrap_or_default();
            late += u32::from(silent > 1000);
            longest = longest.max(silent);
            looks += 1;
        }
        let top = lock(&ground.world).top;
        assert_eq!(top, Epoch(1), "after {minute} minutes somebody took over");
        ground.check("under loss");
    }
    println!(
        "{minutes} minutes of made-up time: 0 failovers; at {late} of {looks} looks the store had been silent for over a \
         second, at most {longest} ms"
    );
    assert!(
        late > 0,
        "the network lost nothing: the store was never silent for a second in {looks} s"
    );
}
