//! `pontoon events`

use std::collections::VecDeque;
use std::time::Duration;

use pontoon_fleet::{Code, Event, Refusal};

use super::Context;
use crate::args::Events;
use crate::output::events::line;

/// Shows the timeline, and goes on with it under `--follow`.
pub async fn events(context: &Context, args: &Events) -> anyhow::Result<u8> {
    let mut seen = Seen::default();
    show(context, args, seen.fresh(fetch(context, args.count).await?))?;
    if !args.follow {
        return Ok(0);
    }
    let mut silent = false;
    loop {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        match fetch(context, args.count.max(LOOK_BACK)).await {
            Ok(events) => {
                silent = false;
                show(context, args, seen.fresh(events))?;
            }
            // An agent that is restarted is no reason to stop looking; say it once.
            Err(refusal) if refusal.code == Code::N001 => {
                if !silent {
                    context
                        .screen
                        .remark(&format!("the agent does not answer; waiting: {refusal}\n"));
                }
                silent = true;
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

async fn fetch(context: &Context, count: u32) -> Result<Vec<Event>, Refusal> {
    context.client.get(&format!("/v1/events?count={count}")).await
}

fn show(context: &Context, args: &Events, events: Vec<Event>) -> anyhow::Result<()> {
    for event in &events {
        if args.json {
            context.screen.json(event)?;
        } else {
            context.screen.answer(&line(event, context.screen.out))?;
        }
    }
    Ok(())
}

/// The events that were shown already. Events of other servers can arrive late, so a time alone does not tell.
#[derive(Default)]
struct Seen {
    latest: VecDeque<Event>,
}

impl Seen {
    fn fresh(&mut self, events: Vec<Event>) -> Vec<Event> {
        let fresh: Vec<Event> = events
            .into_iter()
            .filter(|event| !self.latest.contains(event))
            .collect();
        self.latest.extend(fresh.iter().cloned());
        while self.latest.len() > REMEMBERED {
            self.latest.pop_front();
        }
        fresh
    }
}

const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
const LOOK_BACK: u32 = 200;
/// More than one look can bring (`--count` has the same limit).
const REMEMBERED: usize = 20_000;

#[cfg(test)]
mod tests {
    use pontoon_fleet::{EventKind, UnixMillis};

    use super::*;

    #[test]
    fn an_event_is_shown_once_also_when_it_comes_late() {
        let event = |at| Event {
            at: UnixMillis(at),
            server: "a".parse().unwrap(),
            kind: EventKind::AgentStopped,
        };
        let mut seen = Seen::default();
        assert_eq!(seen.fresh(vec![event(1), event(3)]).len(), 2);
        assert_eq!(seen.fresh(vec![event(1), event(2), event(3)]), [event(2)]);
        assert!(seen.fresh(vec![event(3)]).is_empty());
    }
}
