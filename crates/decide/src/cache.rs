//! Which list of cache servers is served: a state machine with one writer, the keeper.
//!
//! A key must never be read from one server while it may still be written on another (P8). So lists are numbered, each
//! memcached's guard serves one of them at a time, and the next list is served by nobody before every server of the list
//! before it has said that it serves that no more. Between the two nothing is cached: reads find nothing.
//!
//! * **No server is taken out for not answering.** Its keys are not cached meanwhile. Whoever would take it out could not
//!   know that nobody else still reads from it.
//! * A change begins only while every server that must agree is heard from, and is given up after [`PATIENCE`]: the list
//!   before it, with all that it holds, comes back under a new number. Nobody served anything else, so that takes no word of
//!   anybody.
//! * A server that gets keys which it had given away before may hold old values of them, and begins a new life: it is
//!   emptied before it serves. One that never gave keys away, or gets none, keeps what it has.
//! * A server that is in the configuration no more is not waited for: nobody of the fleet speaks to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pontoon_fleet::{CacheList, CacheMember, CachePlacement, ServerName};
use pontoon_memcache_wire::place::{Ring, Rule};

/// How long a change may wait for somebody's word.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What the configuration wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How keys are spread.
    pub placement: CachePlacement,
    /// The cache servers and their labels, in order.
    pub servers: Vec<(ServerName, String)>,
    /// Every server of the configuration.
    pub all: BTreeSet<ServerName>,
}

/// What a server's cache proxy said last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It is heard from.
    pub fresh: bool,
    /// It serves no list before this one.
    pub closed: u64,
}

/// The list that follows from `list`; `None`: that one stays. `waiting` is for how long it has been as it is.
pub fn next(
    list: Option<&CacheList>,
    wanted: &Wanted,
    seen: &BTreeMap<ServerName, Seen>,
    waiting: Duration,
) -> Option<CacheList> {
    let of = |server: &ServerName| seen.get(server).copied().unwrap_or_default();
    let newest = seen.values().map(|seen| seen.closed).max().unwrap_or_default();
    let Some(list) = list else {
        // The keeper's disk may be new, and the servers not.
        return Some(first(wanted, newest + 1));
    };
    if newest > list.number {
        return Some(first(wanted, newest + 1));
    }
    if list.open {
        let all = list.members.iter().map(|member| &member.server);
        let must_agree = all.filter(|server| wanted.all.contains(*server));
        let concerned = must_agree.chain(wanted.servers.iter().map(|(server, _)| server));
        let ready = concerned.into_iter().all(|server| of(server).fresh);
        return (!is_wanted(list, wanted) && ready).then(|| follow(list, wanted));
    }
    let waits_for = |server: &&ServerName| wanted.all.contains(*server) && of(server).closed < list.number;
    if !list.before.iter().any(|server| waits_for(&server)) {
        return Some(CacheList {
            open: true,
            before: Vec::new(),
            back: None,
            ..list.clone()
        });
    }
    let back = list.back.as_ref().filter(|_| waiting >= PATIENCE)?;
    Some(CacheList {
        number: list.number + 1,
        open: true,
        ..(**back).clone()
    })
}

fn is_wanted(list: &CacheList, wanted: &Wanted) -> bool {
    let members = list.members.iter().map(|member| (&member.server, &member.label));
    list.placement == wanted.placement
        && members.eq(wanted.servers.iter().map(|(server, label)| (server, label)))
}

/// All begin empty, and whoever may serve something else has to say that it does not.
fn first(wanted: &Wanted, number: u64) -> CacheList {
    let members = wanted.servers.iter().map(|(server, label)| CacheMember {
        server: server.clone(),
        label: label.clone(),
        life: number,
        left_behind: false,
    });
    CacheList {
        number,
        open: false,
        placement: wanted.placement,
        members: members.collect(),
        before: wanted.servers.iter().map(|(server, _)| server.clone()).collect(),
        back: None,
    }
}

fn follow(list: &CacheList, wanted: &Wanted) -> CacheList {
    let number = list.number + 1;
    let (gain, lose) = moves(list, wanted);
    let members = wanted.servers.iter().map(|(server, label)| {
        let before = list.members.iter().find(|member| &member.server == server);
        let (gains, loses) = (gain.contains(server), lose.contains(server));
        let kept = before.filter(|member| !(gains && member.left_behind));
        CacheMember {
            server: server.clone(),
            label: label.clone(),
            life: kept.map_or(number, |member| member.life),
            left_behind: loses || kept.is_some_and(|member| member.left_behind),
        }
    });
    CacheList {
        number,
        open: false,
        placement: wanted.placement,
        members: members.collect(),
        before: list.members.iter().map(|member| member.server.clone()).collect(),
        back: Some(Box::new(list.clone())),
    }
}

/// Who gets keys of others, and whose keys go to others.
fn moves(list: &CacheList, wanted: &Wanted) -> (BTreeSet<ServerName>, BTreeSet<ServerName>) {
    let old: Vec<_> = list.members.iter().map(|member| member.server.clone()).collect();
    let new: Vec<_> = wanted.servers.iter().map(|(server, _)| server.clone()).collect();
    let old_labels: Vec<_> = list.members.iter().map(|member| member.label.clone()).collect();
    let new_labels: Vec<_> = wanted.servers.iter().map(|(_, label)| label.clone()).collect();
    let (before, after) = (
        Ring::new(rule(list.placement), &old_labels),
        Ring::new(rule(wanted.placement), &new_labels),
    );
    let (mut gain, mut lose) = (BTreeSet::new(), BTreeSet::new());
    if list.placement != wanted.placement || list.placement == CachePlacement::Rendezvous {
        // There are no points to compare. Where only servers are added, keys go to those and nowhere else; otherwise
        // anything may have moved.
        let added_only = list.placement == wanted.placement
            && old
                .iter()
                .zip(&old_labels)
                .all(|pair| new.iter().zip(&new_labels).any(|other| other == pair));
        lose.extend(old.iter().cloned());
        gain.extend(
            new.iter()
                .filter(|server| !added_only || !old.contains(server))
                .cloned(),
        );
        return (gain, lose);
    }
    for hash in before.points().chain(after.points()) {
        let from = before.at(hash).and_then(|index| old.get(index));
        let to = after.at(hash).and_then(|index| new.get(index));
        if from != to {
            lose.extend(from.cloned());
            gain.extend(to.cloned());
        }
    }
    (gain, lose)
}

/// The ring's own word for it.
pub fn rule(placement: CachePlacement) -> Rule {
    match placement {
        CachePlacement::Ketama => Rule::Ketama,
        CachePlacement::Twemproxy => Rule::Twemproxy,
        CachePlacement::Rendezvous => Rule::Rendezvous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(servers: &[&str]) -> Wanted {
        Wanted {
            placement: CachePlacement::Ketama,
            servers: servers
                .iter()
                .map(|name| (name.parse().unwrap(), (*name).to_owned()))
                .collect(),
            all: ["a", "b", "c", "d"].map(|name| name.parse().unwrap()).into(),
        }
    }

    fn seen(closed: u64) -> BTreeMap<ServerName, Seen> {
        ["a", "b", "c", "d"]
            .map(|name| (name.parse().unwrap(), Seen { fresh: true, closed }))
            .into()
    }

    fn opened(servers: &[&str]) -> CacheList {
        let list = next(None, &wanted(servers), &seen(0), Duration::ZERO).unwrap();
        assert!(!list.open);
        next(Some(&list), &wanted(servers), &seen(1), Duration::ZERO).unwrap()
    }

    fn changed(list: &CacheList, servers: &[&str]) -> CacheList {
        let closing = next(Some(list), &wanted(servers), &seen(list.number), Duration::ZERO).unwrap();
        assert!(!closing.open);
        assert_eq!(
            next(
                Some(&closing),
                &wanted(servers),
                &seen(list.number),
                Duration::ZERO
            ),
            None
        );
        next(
            Some(&closing),
            &wanted(servers),
            &seen(closing.number),
            Duration::ZERO,
        )
        .unwrap()
    }

    #[test]
    fn a_server_that_is_added_is_new_and_the_others_keep_what_they_have() {
        let two = opened(&["a", "b"]);
        let three = changed(&two, &["a", "b", "c"]);
        let lives: Vec<u64> = three.members.iter().map(|member| member.life).collect();
        assert_eq!((three.number, lives), (2, vec![1, 1, 2]));
        // It leaves again: what the others hold of the keys that it had is old.
        let back = changed(&three, &["a", "b"]);
        let lives: Vec<u64> = back.members.iter().map(|member| member.life).collect();
        assert_eq!((back.number, lives), (3, vec![3, 3]));
    }

    #[test]
    fn a_server_that_leaves_first_costs_nobody_what_he_has() {
        let three = opened(&["a", "b", "c"]);
        let two = changed(&three, &["a", "b"]);
        assert!(two.members.iter().all(|member| member.life == 1));
    }

    #[test]
    fn a_server_that_is_silent_stops_a_change_and_one_that_is_gone_does_not() {
        let two = opened(&["a", "b"]);
        let mut silent = seen(1);
        silent.insert(
            "b".parse().unwrap(),
            Seen {
                fresh: false,
                closed: 1,
            },
        );
        assert_eq!(
            next(Some(&two), &wanted(&["a", "b", "c"]), &silent, Duration::ZERO),
            None
        );
        let mut without = wanted(&["a", "c"]);
        without.all.remove(&"b".parse().unwrap());
        let closing = next(Some(&two), &without, &silent, Duration::ZERO).unwrap();
        let mut said = seen(closing.number);
        said.remove(&"b".parse::<ServerName>().unwrap());
        assert!(
            next(Some(&closing), &without, &said, Duration::ZERO)
                .unwrap()
                .open
        );
    }

    #[test]
    fn a_change_that_takes_too_long_is_taken_back() {
        let two = opened(&["a", "b"]);
        let closing = next(Some(&two), &wanted(&["a", "c"]), &seen(1), Duration::ZERO).unwrap();
        let back = next(Some(&closing), &wanted(&["a", "c"]), &seen(1), PATIENCE).unwrap();
        assert_eq!((back.number, back.open, &back.members), (3, true, &two.members));
    }

    #[test]
    fn a_keeper_that_forgot_goes_on_beyond_what_others_have_seen() {
        let list = next(None, &wanted(&["a"]), &seen(41), Duration::ZERO).unwrap();
        assert_eq!((list.number, list.open), (42, false));
    }
}
