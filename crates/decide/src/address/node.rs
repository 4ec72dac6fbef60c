//! One server's part: the state machine.

use std::time::Duration;

use pontoon_fleet::ServerName;

use super::known::Known;
use super::{
    ANNOUNCE_AT, ANNOUNCE_EVERY, Action, Asked, Beat, Claim, Event, Held, NoRehearsal, Setup, Share, Shares,
    Standing, Suspicion, Timing, Why,
};

/// See the [module](super). Feed it every event with the present moment of a clock that runs while the machine sleeps,
/// and carry out what it says, in order.
#[derive(Clone, Debug)]
pub struct Node {
    setup: Setup,
    /// When it began, or began anew after a pause.
    started: Duration,
    last_step: Duration,
    seq: u64,
    last_beat: Duration,
    next_beat: Duration,
    fit: bool,
    settling: bool,
    known: Known,
    shares: Shares,
    /// The keys of `shares`.
    homes: Vec<ServerName>,
    /// How often a share was lost to somebody who is not heard, since the other of two servers was heard last.
    contests: u32,
    /// When the gateway was asked that answered last, by the time of asking.
    gateway: Option<Duration>,
    /// Whether the gateway ever returned what was sent from a share's address.
    returns: bool,
    gateway_asked: Option<Duration>,
}

impl Node {
    /// `present`: the shares whose addresses are in this server's kernel already.
    pub fn new(setup: Setup, present: &[ServerName], now: Duration) -> Node {
        let shares: Shares = setup
            .members
            .iter()
            .filter(|member| member.share)
            .map(|member| {
                let share = Share {
                    present: present.contains(&member.name),
                    ..Share::default()
                };
                (member.name.clone(), share)
            })
            .collect();
        Node {
            homes: shares.keys().cloned().collect(),
            contests: 0,
            shares,
            started: now,
            last_step: now,
            seq: 0,
            last_beat: Duration::ZERO,
            next_beat: now,
            fit: true,
            settling: true,
            known: Known::default(),
            gateway: None,
            returns: setup.returns,
            gateway_asked: None,
            setup,
        }
    }

    /// Takes in what happened; says what follows.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        let away = now.saturating_sub(self.last_step);
        self.last_step = now;
        if away > self.setup.timing.keep {
            self.begin_anew(now, away, &mut out);
        }
        match event {
            Event::Tick => self.tick(now, &mut out),
            Event::Beat(beat) => self.hear(now, beat, &mut out),
            Event::Probed { home, serving } => {
                if let Some(share) = self.shares.get_mut(&home) {
                    let asked = share.suspicion.as_mut().map(|suspicion| &mut suspicion.asked);
                    if let Some(asked) = asked.or(share.early.as_mut()) {
                        asked.answer = Some(serving);
                    }
                }
                self.consider_all(now, &mut out);
            }
            Event::Returned { home, sent } => {
                self.returns = true;
                self.gateway = self.gateway.max(Some(sent));
                if let Some(share) = self.shares.get_mut(&home) {
                    share.returned = share.returned.max(Some(sent));
                    if let Some(held) = &mut share.held {
                        held.returned(sent, &self.setup.timing);
                    }
                }
            }
            Event::Gateway { sent } => {
                self.gateway = self.gateway.max(Some(sent));
                self.consider_all(now, &mut out);
            }
            Event::Rehearse { home, until } => {
                if let Ok(holder) = self.rehearsable(&home, now) {
                    self.take(now, &home, Why::Rehearsal(holder), &mut out);
                    if let Some(held) = self.shares.get_mut(&home).and_then(|share| share.held.as_mut()) {
                        held.rehearsal = Some(until);
                    }
                }
            }
            Event::Fit(fit) => {
                if self.fit != fit {
                    self.fit = fit;
                    self.next_beat = now;
                }
            }
            Event::Lost { home } => {
                let barred = now + BARRED;
                if let Some(share) = self.shares.get_mut(&home).filter(|share| share.held.is_some()) {
                    share.barred = Some(barred);
                    self.drop_share(now, &home, Why::Kernel, &mut out);
                }
            }
        }
        if out
            .iter()
            .any(|action| matches!(action, Action::Take { .. } | Action::Drop { .. }))
        {
            self.next_beat = now; // everybody hears of it at once
        }
        if now >= self.next_beat {
            out.push(Action::Send(self.beat(now)));
        }
        out
    }

    /// How every share stands.
    pub fn standings(&self, now: Duration) -> Vec<Standing> {
        let one = |(home, share): (&ServerName, &Share)| Standing {
            home: home.clone(),
            holder: match &share.held {
                Some(_) => Some(self.setup.me.clone()),
                None => self.holder(home, now).map(|(holder, _)| holder),
            },
            epoch: share.epoch,
            moving: share.suspicion.is_some() || self.offers(home, share, now),
        };
        self.shares.iter().map(one).collect()
    }

    /// Whether this server holds the share of `home`.
    pub fn holds(&self, home: &ServerName) -> bool {
        self.shares.get(home).is_some_and(|share| share.held.is_some())
    }

    /// The living home from which a rehearsal would take the share of `home` now.
    ///
    /// # Errors
    /// What stands in the way: nothing is rehearsed that could become an outage.
    pub fn rehearsable(&self, home: &ServerName, now: Duration) -> Result<ServerName, NoRehearsal> {
        let share = self.shares.get(home).ok_or(NoRehearsal::Unknown)?;
        if *home == self.setup.me {
            return Err(NoRehearsal::Own);
        }
        if !self.is_edge() || !self.fit || self.settling {
            return Err(NoRehearsal::Unfit);
        }
        if !self.is_proved(now) {
            return Err(NoRehearsal::Unheard);
        }
        let at_home = self.holder(home, now).is_some_and(|(holder, _)| holder == *home);
        let quiet = share.held.is_none() && share.suspicion.is_none();
        if at_home && quiet && self.is_well(home, now) {
            Ok(home.clone())
        } else {
            Err(NoRehearsal::Away)
        }
    }

    /// The living peer that says that it holds the share.
    pub fn other_holder(&self, home: &ServerName, now: Duration) -> Option<ServerName> {
        self.holder(home, now).map(|(holder, _)| holder)
    }

    /// Which peers this node hears now.
    pub fn hears(&self, now: Duration) -> Vec<ServerName> {
        let silence = self.setup.timing.silence();
        let heard = self
            .known
            .peers
            .values()
            .filter(|peer| now.saturating_sub(peer.seen) <= silence);
        heard.map(|peer| peer.beat.from.clone()).collect()
    }

    /// There is a gateway to ask after all; `returns` as in [`Setup::returns`]. One that is gone is one that does not
    /// answer.
    pub fn gateway_found(&mut self, returns: bool) {
        self.setup.gateway = true;
        self.returns |= returns;
    }

    /// Whether the gateway ever returned what was sent from a share's address; [`Setup::returns`] of the next process.
    pub fn gateway_returns(&self) -> bool {
        self.returns
    }

    /// What it was told.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.ask_gateway(now, out);
        self.settle(now, out);
        let homes = std::mem::take(&mut self.homes);
        for home in &homes {
            if self.holds(home) {
                self.keep(now, home, out);
            } else {
                self.consider(now, home, out);
            }
        }
        self.homes = homes;
    }

    /// This node did not run for so long that others may have what it held. The packets that waited meanwhile are old.
    fn begin_anew(&mut self, now: Duration, away: Duration, out: &mut Vec<Action>) {
        for (home, share) in &mut self.shares {
            if share.held.take().is_some() || share.present {
                out.push(Action::Drop {
                    home: home.clone(),
                    why: Why::Paused(away),
                });
            }
            (share.suspicion, share.early) = (None, None);
            share.free_since = None;
            share.present = false;
        }
        self.started = now;
        self.settling = true;
    }

    /// Whether this node knows by now who holds what. What the kernel had at the start stays only if nobody else has it.
    fn settle(&mut self, now: Duration, out: &mut Vec<Action>) {
        if !self.settling {
            return;
        }
        let age = now.saturating_sub(self.started);
        let others = self.others();
        let heard = others == 0
            || self
                .known
                .proved_by(self.majority())
                .is_some_and(|at| at >= self.started);
        let alone = others == 1
            && age >= 2 * self.setup.timing.silence()
            && (!self.setup.gateway || self.gateway.is_some_and(|at| at >= self.started));
        self.settling = !(heard || alone);
        let homes = std::mem::take(&mut self.homes);
        for home in &homes {
            if !self.shares.get(home).is_some_and(|share| share.present) {
                continue;
            }
            if let Some((holder, _)) = self.holder(home, now) {
                self.drop_share(now, home, Why::Outbid(holder), out);
            } else if !self.settling && self.is_edge() {
                self.take(now, home, Why::Resumed, out);
            } else if age > self.setup.timing.lease || !self.is_edge() {
                self.drop_share(now, home, Why::Alone, out);
            }
        }
        self.homes = homes;
    }

    /// A share that this node holds.
    fn keep(&mut self, now: Duration, home: &ServerName, out: &mut Vec<Action>) {
        let timing = self.setup.timing;
        let proof = self.proof(home, now);
        if proof.is_none_or(|at| now.saturating_sub(at) > timing.keep) {
            // Two that do not hear each other would take it from each other in turns.
            let wait = CONTESTED.saturating_mul(1 << self.contests.min(5));
            if let Some(share) = self
                .shares
                .get_mut(home)
                .filter(|_| self.setup.members.len() == 2)
            {
                self.contests = self.contests.saturating_add(1);
                share.barred = Some(now + wait);
            }
            return self.drop_share(now, home, Why::Alone, out);
        }
        let elected = self.is_proved(now);
        // Whoever took last has told the gateway; an earlier holder that announces again would draw it back, and be proved
        // right by it.
        let contested = match self.others() {
            0 => false,
            1 => {
                let mut peers = self.known.peers.values();
                !elected && peers.any(|peer| now.saturating_sub(peer.seen) < FRESH)
            }
            _ => !elected,
        };
        let of_two = self.others() == 1;
        let returns = self.returns;
        let Some((returned, held)) = self.shares.get_mut(home).and_then(|share| {
            let Share { returned, held, .. } = share;
            Some((*returned, held.as_mut()?))
        }) else {
            return;
        };
        // The gateway did not hear of it yet, or was told otherwise by a server that does not know that it lost.
        let patience = if is_fresh(held, now) {
            timing.silence()
        } else {
            GATEWAY_EVERY * 2
        };
        let astray = returns && elected && now.saturating_sub(returned.unwrap_or(held.taken)) > patience;
        if astray && now.saturating_sub(held.announced_from) > patience {
            held.announced_from = now;
            held.announcements = 0;
        }
        // Late evidence may be the last: then the lease that runs is enough until `keep` has passed.
        let renewable = proof.is_some_and(|at| now.saturating_sub(at) <= timing.renew);
        if renewable && now.saturating_sub(held.refreshed) >= timing.refresh {
            held.refreshed = now;
            out.push(Action::Refresh { home: home.clone() });
        }
        let due = match ANNOUNCE_AT.get(held.announcements) {
            Some(after) => *after,
            None => {
                let more = u32::try_from(held.announcements - ANNOUNCE_AT.len() + 1).unwrap_or(u32::MAX);
                ANNOUNCE_AT[ANNOUNCE_AT.len() - 1] + ANNOUNCE_EVERY.saturating_mul(more)
            }
        };
        // One of two goes on until the gateway has heard it once.
        let unheard = of_two && (returned.is_none() || held.announcements < FIRST);
        if now.saturating_sub(held.announced_from) >= due && (!contested || unheard) {
            held.announcements += 1;
            out.push(Action::Announce { home: home.clone() });
        }
    }

    /// The newest moment at which nobody else can have been given the share.
    fn proof(&self, home: &ServerName, now: Duration) -> Option<Duration> {
        let share = self.shares.get(home)?;
        let others = self.others();
        if others == 0 {
            return Some(now);
        }
        let gateway = match (self.setup.gateway, self.returns) {
            (true, true) => share.returned,
            // A gateway that answers but returns nothing: in a fleet of two it is all there is.
            (true, false) => self.gateway.filter(|_| others == 1),
            // Without a gateway the other of two takes nothing either.
            (false, _) => (others == 1).then_some(now),
        };
        let taken = share.held.as_ref().map(|held| held.taken);
        // A rehearsal takes it from a home that lives. Where that does not hear of it, it goes on, and the gateway, which was
        // just told by this node, returns everything here all the same: then only the majority can say who has it.
        let rehearsed = share.held.as_ref().is_some_and(|held| held.rehearsal.is_some());
        let gateway = gateway.filter(|_| !rehearsed || others == 1);
        let mut elected = self.known.proved_by(self.majority());
        if share.held.as_ref().is_some_and(|held| self.is_disputable(held)) {
            elected = elected.min(self.gateway);
        }
        elected.max(gateway).max(taken)
    }

    /// Whether somebody whom no majority hears may go on with it, because the gateway returns it there. With three or more;
    /// one of two has the gateway for a witness all the time.
    fn is_disputable(&self, held: &Held) -> bool {
        !held.sole && self.setup.gateway && self.returns && self.others() > 1
    }

    fn consider_all(&mut self, now: Duration, out: &mut Vec<Action>) {
        let homes = std::mem::take(&mut self.homes);
        for home in &homes {
            if self.shares[home].suspicion.is_some() {
                self.consider(now, home, out);
            }
        }
        self.homes = homes;
    }

    /// A share that this node does not hold.
    fn consider(&mut self, now: Duration, home: &ServerName, out: &mut Vec<Action>) {
        let timing = self.setup.timing;
        let holder = self.holder(home, now);
        let why = match &holder {
            Some((holder, offered)) => {
                let fit = self
                    .known
                    .peers
                    .get(holder)
                    .is_none_or(|peer| peer.beat.fit || peer.beat.settling);
                if let Some(share) = self.shares.get_mut(home) {
                    share.last_holder = Some(holder.clone());
                    share.free_since = None;
                }
                if *offered && *home == self.setup.me && self.is_edge() && self.fit && !self.settling {
                    return self.take(now, home, Why::Home(holder.clone()), out);
                }
                if fit {
                    self.calm(home);
                    return self.ask_early(now, home, &holder.clone(), out);
                }
                Why::Unfit(holder.clone())
            }
            None => match self.shares.get(home).and_then(|share| share.last_holder.clone()) {
                Some(holder) => Why::Silent(holder),
                None => Why::Free,
            },
        };
        // Whoever has just started says in a moment whether it still has the share.
        let settling = self.settling
            || holder.is_none()
                && self
                    .known
                    .claims(home, now, timing.silence())
                    .any(|(peer, _)| peer.beat.settling);
        let rank = if settling { None } else { self.rank(home, now) };
        let (Some(rank), Some(share)) = (rank, self.shares.get_mut(home)) else {
            return self.calm(home);
        };
        let free_since = *share.free_since.get_or_insert(now);
        let strange = why == Why::Free && *home != self.setup.me;
        let wait = timing.silence().saturating_mul(rank) + if strange { STRANGE } else { Duration::ZERO };
        if now.saturating_sub(free_since) < wait || matches!(why, Why::Unfit(_)) && rank > 0 {
            return;
        }
        let suspicion = match &mut share.suspicion {
            Some(suspicion) => suspicion,
            none => {
                let early = share.early.take();
                let asked = early.filter(|early| now.saturating_sub(early.at) <= 2 * timing.probe);
                let asked = asked.unwrap_or_else(|| {
                    out.push(Action::Probe { home: home.clone() });
                    Asked {
                        at: now,
                        answer: None,
                    }
                });
                out.push(Action::AskGateway { from: None });
                self.next_beat = now; // it asks everybody
                none.insert(Suspicion { since: now, asked })
            }
        };
        let probed_for = now.saturating_sub(suspicion.asked.at);
        match (&why, suspicion.asked.answer) {
            // Its own word that its edge does not serve is enough.
            (Why::Unfit(_), _) | (_, Some(false)) => {}
            // Visitors are served there: it is left alone for as long as the kernel there lets it.
            (_, Some(true)) => {
                if probed_for >= timing.probe {
                    *suspicion = Suspicion {
                        since: now,
                        asked: Asked {
                            at: now,
                            answer: None,
                        },
                    };
                    out.push(Action::Probe { home: home.clone() });
                    out.push(Action::AskGateway { from: None });
                    self.next_beat = now;
                }
                return;
            }
            (_, None) if probed_for < timing.probe => return,
            (_, None) => {}
        }
        let since = suspicion.since;
        if self.may_take(since) {
            self.take(now, home, why, out);
        }
    }

    /// The edge at the address of a holder that is late is asked so early that the answer is there when the holder is
    /// suspected. That alone takes nothing: the evidence for that is younger than the suspicion.
    fn ask_early(&mut self, now: Duration, home: &ServerName, holder: &ServerName, out: &mut Vec<Action>) {
        let timing = self.setup.timing;
        let from = timing.silence().saturating_sub(timing.probe);
        let seen = self.known.peers.get(holder).map(|peer| peer.seen);
        let late = seen.is_some_and(|seen| now.saturating_sub(seen) >= from);
        let asks = late && self.is_edge() && self.fit && !self.settling;
        let Some(share) = self.shares.get_mut(home) else {
            return;
        };
        match (asks, share.early) {
            (false, _) => share.early = None,
            (true, Some(_)) => {}
            (true, None) => {
                share.early = Some(Asked {
                    at: now,
                    answer: None,
                });
                out.push(Action::Probe { home: home.clone() });
            }
        }
    }

    /// Whether enough others have answered since `since`, so that no other side can do the same.
    fn may_take(&self, since: Duration) -> bool {
        let others = self.others();
        let heard = self
            .known
            .proved_by(self.majority())
            .is_some_and(|at| at >= since);
        let gateway = self.setup.gateway && self.gateway.is_some_and(|at| at >= since);
        // An address at a server that the gateway cannot reach serves nobody; and a holder that is cut off from the majority
        // goes on with what the gateway returns, and would not learn that it was replaced.
        let reaches = gateway || !self.setup.gateway || !self.returns;
        others == 0 || heard && reaches || others == 1 && gateway
    }

    fn calm(&mut self, home: &ServerName) {
        if let Some(share) = self.shares.get_mut(home) {
            share.suspicion = None;
        }
    }

    /// This node's place among those who could take the share now; 0 is first.
    fn rank(&self, home: &ServerName, now: Duration) -> Option<u32> {
        let silence = self.setup.timing.silence();
        let members = &self.setup.members;
        let barred = self.shares.get(home).and_then(|share| share.barred);
        if !self.is_edge() || barred.is_some_and(|until| now < until) {
            return None;
        }
        let at_home = members.iter().position(|member| member.name == *home)?;
        let well = |name: &ServerName| {
            if *name == self.setup.me {
                return self.fit;
            }
            self.known
                .peers
                .get(name)
                .is_some_and(|peer| peer.beat.fit && !peer.beat.settling)
        };
        let there = |name: &ServerName| *name == self.setup.me || self.known.is_alive(name, now, silence);
        let candidates = || {
            members
                .iter()
                .enumerate()
                .filter(|(_, member)| member.edge && there(&member.name))
        };
        // When nobody's edge serves, somebody must be there all the same.
        let all_unfit = !candidates().any(|(_, member)| well(&member.name));
        let mut order: Vec<_> = candidates()
            .filter(|(_, member)| all_unfit || well(&member.name))
            .map(|(at, member)| {
                let distance = (at + members.len() - at_home) % members.len();
                let key = (
                    member.name != *home,
                    self.load(&member.name, home),
                    !member.standby,
                    distance,
                );
                (key, &member.name)
            })
            .collect();
        order.sort();
        let place = order.iter().position(|(_, name)| **name == self.setup.me)?;
        u32::try_from(place).ok()
    }

    /// How many shares `server` holds besides that of `home`.
    fn load(&self, server: &ServerName, home: &ServerName) -> usize {
        if *server == self.setup.me {
            return self
                .shares
                .iter()
                .filter(|(of, share)| *of != home && share.held.is_some())
                .count();
        }
        let claims = self.known.peers.get(server).map(|peer| &peer.beat.shares);
        claims.map_or(0, |claims| {
            claims
                .iter()
                .filter(|claim| claim.holds && claim.home != *home)
                .count()
        })
    }

    /// The living peer that holds the share with the highest epoch, and whether it offers it.
    fn holder(&self, home: &ServerName, now: Duration) -> Option<(ServerName, bool)> {
        let silence = self.setup.timing.silence();
        let holding = self
            .known
            .claims(home, now, silence)
            .filter(|(_, claim)| claim.holds);
        if let Some((peer, claim)) = holding.max_by_key(|(_, claim)| claim.epoch) {
            return Some((peer.beat.from.clone(), claim.offered));
        }
        let fresh = self
            .known
            .peers
            .values()
            .filter(|peer| now.saturating_sub(peer.seen) <= silence);
        let told = fresh
            .flat_map(|peer| &peer.beat.shares)
            .filter(|claim| claim.home == *home);
        let mut others = told.filter_map(|claim| claim.heard_holder.as_ref());
        let other =
            others.find(|holder| **holder != self.setup.me && self.known.is_alive(holder, now, silence));
        other.map(|holder| (holder.clone(), false))
    }

    /// The holder that this node itself hears.
    fn heard_holder(&self, home: &ServerName, now: Duration) -> Option<ServerName> {
        let silence = self.setup.timing.silence();
        let claims = self.known.claims(home, now, silence);
        let direct = claims.filter(|(peer, claim)| claim.holds && now.saturating_sub(peer.seen) <= silence);
        let (peer, _) =
            direct.max_by_key(|(peer, claim)| (claim.epoch, self.setup.order(home, &peer.beat.from)))?;
        Some(peer.beat.from.clone())
    }

    fn hear(&mut self, now: Duration, beat: Beat, out: &mut Vec<Action>) {
        let timing = self.setup.timing;
        let from = beat.from.clone();
        if from == self.setup.me || !self.setup.members.iter().any(|member| member.name == from) {
            return;
        }
        let asked = beat.ask;
        let claims = beat.shares.clone();
        if !self
            .known
            .hear(beat, now, &self.setup.me, self.setup.boot, timing.silence())
        {
            return;
        }
        for claim in &claims {
            let Some(share) = self.shares.get_mut(&claim.home) else {
                continue;
            };
            let mine = share.epoch;
            share.epoch = share.epoch.max(claim.epoch);
            if !claim.holds {
                // Somebody whom this node does not hear has it, and took it later.
                let other = claim
                    .heard_holder
                    .clone()
                    .filter(|holder| *holder != self.setup.me);
                let wins = |holder: &ServerName| {
                    let order = |server| self.setup.order(&claim.home, server);
                    (claim.epoch, order(holder)) > (mine, order(&self.setup.me))
                };
                if let Some(holder) = other.filter(|holder| share.held.is_some() && wins(holder)) {
                    self.drop_share(now, &claim.home, Why::Outbid(holder), out);
                }
                continue;
            }
            let Some(held) = &mut share.held else { continue };
            if (claim.epoch, self.setup.order(&claim.home, &from))
                > (mine, self.setup.order(&claim.home, &self.setup.me))
            {
                self.drop_share(now, &claim.home, Why::Outbid(from.clone()), out);
            } else if now.saturating_sub(held.announced_from) >= AGAIN {
                // It will hear of it; whoever believed it must hear of it too.
                held.announced_from = now;
                held.announcements = 0;
            }
        }
        if asked {
            // Several that ask each other would answer each answer: a beat each tenth of a heartbeat is soon enough.
            let soon = self.last_beat + timing.heartbeat / 10;
            self.next_beat = self.next_beat.min(soon.max(now));
        }
        if std::mem::take(&mut self.contests) > 0 {
            self.shares.values_mut().for_each(|share| share.barred = None);
        }
        // An offer, or the answer that a suspicion waits for.
        let homes = std::mem::take(&mut self.homes);
        for home in &homes {
            let offered =
                *home == self.setup.me && self.holder(home, now).is_some_and(|(_, offered)| offered);
            if !self.holds(home) && (offered || self.shares[home].suspicion.is_some()) {
                self.consider(now, home, out);
            }
        }
        self.homes = homes;
    }

    fn take(&mut self, now: Duration, home: &ServerName, why: Why, out: &mut Vec<Action>) {
        let Some(share) = self.shares.get_mut(home) else {
            return;
        };
        share.epoch = share.epoch.next();
        (share.suspicion, share.early) = (None, None);
        share.present = false;
        share.free_since = None;
        share.returned = None;
        share.last_holder = Some(self.setup.me.clone());
        share.held = Some(Held {
            taken: now,
            refreshed: now,
            announced_from: now,
            announcements: 1,
            rehearsal: None,
            returning: None,
            sole: false,
        });
        out.push(Action::Take {
            home: home.clone(),
            epoch: share.epoch,
            why,
        });
    }

    fn drop_share(&mut self, now: Duration, home: &ServerName, why: Why, out: &mut Vec<Action>) {
        let Some(share) = self.shares.get_mut(home) else {
            return;
        };
        share.held = None;
        (share.suspicion, share.early) = (None, None);
        share.present = false;
        share.free_since = Some(now);
        out.push(Action::Drop {
            home: home.clone(),
            why,
        });
    }

    /// The gateway is asked each heartbeat while it may be needed as a witness, and now and then otherwise, so that it
    /// is known whether it can be one.
    fn ask_gateway(&mut self, now: Duration, out: &mut Vec<Action>) {
        if !self.setup.gateway || self.others() == 0 {
            return;
        }
        let timing = self.setup.timing;
        let proved = self.is_proved(now);
        let held = || self.shares.values().filter_map(|share| share.held.as_ref());
        let fresh = held().any(|held| is_fresh(held, now));
        let disputable = held().any(|held| self.is_disputable(held));
        let suspects = self.shares.values().any(|share| share.suspicion.is_some());
        let every = if proved && !fresh && !suspects && !disputable {
            GATEWAY_EVERY
        } else {
            timing.heartbeat
        };
        if self
            .gateway_asked
            .is_some_and(|at| now.saturating_sub(at) < every)
        {
            return;
        }
        self.gateway_asked = Some(now);
        let ours = self
            .shares
            .iter()
            .filter(|(_, share)| share.held.is_some() || share.present);
        out.extend(ours.map(|(home, _)| Action::AskGateway {
            from: Some(home.clone()),
        }));
        if !proved || suspects || disputable {
            out.push(Action::AskGateway { from: None });
        }
    }

    fn beat(&mut self, now: Duration) -> Beat {
        self.seq += 1;
        self.known.sent(self.seq, now);
        self.last_beat = now;
        self.next_beat = now + self.setup.timing.heartbeat;
        let claim = |(home, share): (&ServerName, &Share)| Claim {
            home: home.clone(),
            epoch: share.epoch,
            holds: share.held.is_some(),
            offered: self.offers(home, share, now),
            heard_holder: self.heard_holder(home, now),
        };
        Beat {
            from: self.setup.me.clone(),
            boot: self.setup.boot,
            seq: self.seq,
            fit: self.fit,
            settling: self.settling,
            ask: self.settling || self.shares.values().any(|share| share.suspicion.is_some()),
            heard: self.known.heard(now),
            shares: self.shares.iter().map(claim).collect(),
        }
    }

    /// Whether a share that this node holds may go home.
    fn offers(&self, home: &ServerName, share: &Share, now: Duration) -> bool {
        let held = share.held.as_ref();
        let over = |held: &Held| held.rehearsal.is_none_or(|until| now >= until);
        held.is_some_and(over) && self.is_well(home, now)
    }

    /// Whether the server has been well for so long that its addresses may go home.
    fn is_well(&self, server: &ServerName, now: Duration) -> bool {
        let timing = self.setup.timing;
        self.known.peers.get(server).is_some_and(|peer| {
            let well = peer
                .well_since
                .is_some_and(|since| now.saturating_sub(since) >= timing.home_after);
            well && now.saturating_sub(peer.seen) <= timing.silence()
        })
    }

    /// Whether a majority hears this node now.
    fn is_proved(&self, now: Duration) -> bool {
        let proof = self.known.proved_by(self.majority());
        proof.is_some_and(|at| at >= self.started && now.saturating_sub(at) <= self.setup.timing.silence())
    }

    fn is_edge(&self) -> bool {
        self.setup
            .members
            .iter()
            .any(|member| member.name == self.setup.me && member.edge)
    }

    fn others(&self) -> usize {
        self.setup.members.len().saturating_sub(1)
    }

    /// How many others make a majority together with this one.
    fn majority(&self) -> usize {
        self.setup.members.len() / 2
    }
}

/// Whether it was taken a moment ago: others may not know yet.
fn is_fresh(held: &Held, now: Duration) -> bool {
    now.saturating_sub(held.taken) < FRESH
}

impl Held {
    /// The gateway returned what was sent then.
    fn returned(&mut self, sent: Duration, timing: &Timing) {
        let (first, last) = self
            .returning
            .filter(|(_, last)| sent.saturating_sub(*last) <= timing.silence())
            .unwrap_or((sent, sent));
        self.returning = Some((first, last.max(sent)));
        self.sole |= last.saturating_sub(first) > timing.longest_overlap();
    }
}

impl Setup {
    /// Who wins at equal epochs: the home, then who comes first in the configuration. Higher wins.
    fn order(&self, home: &ServerName, server: &ServerName) -> (bool, std::cmp::Reverse<usize>) {
        let at = self.members.iter().position(|member| member.name == *server);
        (home == server, std::cmp::Reverse(at.unwrap_or(usize::MAX)))
    }
}

/// How long a server whose kernel refused a share leaves it to others.
const BARRED: Duration = Duration::from_secs(5);

/// How long one of two servers leaves a share alone that the gateway gave to the other, whom it does not hear; twice as
/// long each time.
const CONTESTED: Duration = Duration::from_secs(10);

/// How long after a take the gateway is watched closely.
const FRESH: Duration = Duration::from_secs(10);

/// Announcements that follow a take at once, whatever the gateway says.
const FIRST: usize = 3;

/// Between two repetitions of all announcements while another holder is heard.
const AGAIN: Duration = Duration::from_millis(200);

/// How long a share that nobody was ever seen to hold is left to its home.
const STRANGE: Duration = Duration::from_secs(2);

/// How often a gateway that is not needed is asked.
const GATEWAY_EVERY: Duration = Duration::from_secs(1);
