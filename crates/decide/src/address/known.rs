//! What a node knows of its peers, and how old its proofs are.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_fleet::ServerName;

use super::{Beat, Claim, Heard};

/// What was heard of one peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) beat: Beat,
    /// When its newest beat came in.
    pub(super) seen: Duration,
    /// When this node sent the newest of its own beats that the peer has proved to have.
    pub(super) confirmed: Option<Duration>,
    /// Since when it has been well without a break.
    pub(super) well_since: Option<Duration>,
}

/// All peers, and when this node's own beats were sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) peers: BTreeMap<ServerName, Peer>,
    /// `seq` and moment of this node's latest beats, oldest first.
    sent: Vec<(u64, Duration)>,
}

impl Known {
    pub(super) fn sent(&mut self, seq: u64, now: Duration) {
        if self.sent.len() >= REMEMBERED {
            self.sent.remove(0);
        }
        self.sent.push((seq, now));
    }

    /// Takes a beat in; false when it is older than what is known.
    pub(super) fn hear(
        &mut self,
        beat: Beat,
        now: Duration,
        me: &ServerName,
        boot: u64,
        silence: Duration,
    ) -> bool {
        let before = self.peers.get(&beat.from);
        if before.is_some_and(|peer| peer.beat.boot == beat.boot && peer.beat.seq >= beat.seq) {
            return false;
        }
        let echoed = beat
            .heard
            .iter()
            .find(|heard| heard.peer == *me && heard.boot == boot)
            .and_then(|heard| self.sent.iter().find(|(seq, _)| *seq == heard.seq))
            .map(|(_, at)| *at);
        let same_boot = before.filter(|peer| peer.beat.boot == beat.boot);
        let unbroken = same_boot
            .filter(|peer| now.saturating_sub(peer.seen) <= silence)
            .and_then(|peer| peer.well_since);
        let peer = Peer {
            seen: now,
            confirmed: echoed.max(before.and_then(|peer| peer.confirmed)),
            well_since: (beat.fit && !beat.settling).then(|| unbroken.unwrap_or(now)),
            beat,
        };
        self.peers.insert(peer.beat.from.clone(), peer);
        true
    }

    /// When `server` was last heard by this node, or by one that this node hears.
    pub(super) fn last_heard(
        &self,
        server: &ServerName,
        now: Duration,
        silence: Duration,
    ) -> Option<Duration> {
        let direct = self.peers.get(server).map(|peer| peer.seen);
        let by_others = self
            .peers
            .values()
            .filter(|peer| peer.beat.from != *server && now.saturating_sub(peer.seen) <= silence)
            .filter_map(|peer| {
                let heard = peer.beat.heard.iter().find(|heard| heard.peer == *server)?;
                Some(
                    peer.seen
                        .saturating_sub(Duration::from_millis(heard.ago_ms.into())),
                )
            });
        by_others.chain(direct).max()
    }

    /// Whether `server` was heard of within `silence`.
    pub(super) fn is_alive(&self, server: &ServerName, now: Duration, silence: Duration) -> bool {
        self.last_heard(server, now, silence)
            .is_some_and(|at| now.saturating_sub(at) <= silence)
    }

    /// The moment at which so many peers at least have proved to hear this node: the `count`th newest proof.
    pub(super) fn proved_by(&self, count: usize) -> Option<Duration> {
        let mut proofs: Vec<Duration> = self.peers.values().filter_map(|peer| peer.confirmed).collect();
        proofs.sort_unstable_by(|a, b| b.cmp(a));
        count.checked_sub(1).and_then(|at| proofs.get(at).copied())
    }

    /// What a living peer says of a share.
    pub(super) fn claims<'a>(
        &'a self,
        home: &'a ServerName,
        now: Duration,
        silence: Duration,
    ) -> impl Iterator<Item = (&'a Peer, &'a Claim)> {
        self.peers.values().filter_map(move |peer| {
            let claim = peer.beat.shares.iter().find(|claim| claim.home == *home)?;
            self.is_alive(&peer.beat.from, now, silence)
                .then_some((peer, claim))
        })
    }

    /// For this node's own beats.
    pub(super) fn heard(&self, now: Duration) -> Vec<Heard> {
        let one = |peer: &Peer| Heard {
            peer: peer.beat.from.clone(),
            boot: peer.beat.boot,
            seq: peer.beat.seq,
            ago_ms: u32::try_from(now.saturating_sub(peer.seen).as_millis()).unwrap_or(u32::MAX),
        };
        self.peers.values().map(one).collect()
    }
}

/// Beats whose moment is remembered: several seconds' worth. A proof that is older proves nothing.
const REMEMBERED: usize = 128;
