use super::*;

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn edge(text: &str) -> Edge {
    Edge {
        name: name(text),
        home: true,
        serves: true,
        well_for: Duration::from_secs(3_600),
        drained: false,
        standby: false,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn placed(pairs: &[(&str, &str)]) -> BTreeMap<ServerName, ServerName> {
    pairs.iter().map(|(home, to)| (name(home), name(to))).collect()
}

#[test]
fn a_lost_edges_addresses_go_where_the_fewest_are_and_home_after_a_while() {
    let mut edges = [edge("a"), edge("b"), edge("c")];
    assert_eq!(place(&edges, &placed(&[]), MINUTE), placed(&[]));
    edges[0].serves = false;
    edges[0].well_for = Duration::ZERO;
    let one = place(&edges, &placed(&[]), MINUTE);
    assert_eq!(one, placed(&[("a", "b")]));
    edges[1].serves = false;
    assert_eq!(place(&edges, &one, MINUTE), placed(&[("a", "c"), ("b", "c")]));
    edges[1].serves = true;
    edges[0].serves = true;
    assert_eq!(place(&edges, &one, MINUTE), one, "not yet");
    edges[0].well_for = MINUTE;
    assert_eq!(place(&edges, &one, MINUTE), placed(&[]));
}

#[test]
fn a_standby_has_a_share_only_while_another_is_lost() {
    let mut edges = [edge("a"), edge("b"), edge("c")];
    edges[2].standby = true;
    edges[2].home = false;
    assert_eq!(place(&edges, &placed(&[]), MINUTE), placed(&[]));
    edges[0].serves = false;
    let moved = place(&edges, &placed(&[]), MINUTE);
    assert_eq!(moved, placed(&[("a", "c")]));
    edges[0].serves = true;
    assert_eq!(place(&edges, &moved, MINUTE), placed(&[]));
}

#[test]
fn a_drained_server_hands_over_and_nothing_moves_when_nobody_serves() {
    let mut edges = [edge("a"), edge("b")];
    edges[0].drained = true;
    assert_eq!(place(&edges, &placed(&[]), MINUTE), placed(&[("a", "b")]));
    edges[1].serves = false;
    assert_eq!(place(&edges, &placed(&[]), MINUTE), placed(&[]));
    let moved = placed(&[("a", "b")]);
    assert_eq!(place(&edges, &moved, MINUTE), moved);
    // A place that is no server any more is none.
    assert_eq!(
        place(&[edge("a")], &placed(&[("a", "x"), ("y", "a")]), MINUTE),
        placed(&[])
    );
}

/// Two or three servers whose clocks run up to 5 % fast or slow, a store that loses answers, and pauses: at no moment do
/// two think that they may give orders.
#[test]
fn of_several_servers_one_has_the_lease() {
    let mut dice = Dice(1);
    let (mut changes, mut held_ms) = (0, 0u64);
    for seed in 0..400 {
        dice.0 = seed;
        let names: Vec<ServerName> = ["a", "b", "c"][..2 + dice.below(2) as usize]
            .iter()
            .map(|n| name(n))
            .collect();
        let rates: Vec<u64> = names.iter().map(|_| 950 + dice.below(101)).collect();
        let offsets: Vec<u64> = names.iter().map(|_| dice.below(100_000)).collect();
        let mut keepers = vec![Keeper::default(); names.len()];
        let mut paused = vec![0u64; names.len()];
        // What the store has, and which write that was.
        let mut store: Option<Record> = None;
        let mut last_caller = None;
        for now in (0..120_000u64).step_by(100) {
            for at in 0..names.len() {
                if dice.below(900) == 0 {
                    paused[at] = now + dice.below(20_000);
                }
                if paused[at] > now {
                    continue;
                }
                let clock = Duration::from_millis(offsets[at] + now * rates[at] / 1000);
                let keeper = &mut keepers[at];
                match keeper.due(clock, &names[at]) {
                    Due::Nothing => {}
                    due => {
                        keeper.asks(clock);
                        let lost = dice.below(10) == 0;
                        if due == Due::Look {
                            if !lost {
                                keeper.saw(clock, store.clone());
                            }
                            continue;
                        }
                        let wanted = keeper.next(&names[at], dice.next(), &BTreeMap::new());
                        let won = keeper.record() == store.as_ref();
                        let arrives = !lost || dice.below(2) == 0;
                        if won && arrives {
                            store = Some(wanted.clone());
                        }
                        match (lost, won) {
                            (true, _) => keeper.doubts(clock, wanted),
                            (false, true) => keeper.wrote(clock, wanted),
                            (false, false) => keeper.saw(clock, store.clone()),
                        }
                    }
                }
            }
            let holders: Vec<usize> = (0..names.len())
                .filter(|at| {
                    let clock = Duration::from_millis(offsets[*at] + now * rates[*at] / 1000);
                    keepers[*at].holds(clock)
                })
                .collect();
            assert!(
                holders.len() <= 1,
                "seed {seed}, {now} ms: {holders:?} {keepers:?}"
            );
            held_ms += holders.len() as u64 * 100;
            if let Some(holder) = holders.first()
                && last_caller.replace(*holder) != Some(*holder)
            {
                changes += 1;
            }
        }
    }
    assert!(changes > 400 && held_ms > 400 * 90_000, "{changes} {held_ms}");
}

#[test]
fn the_epoch_grows_with_every_decision_and_not_with_renewals() {
    let mut keeper = Keeper::default();
    let (me, now) = (name("a"), Duration::from_secs(1));
    keeper.saw(now, None);
    let first = keeper.next(&me, 1, &BTreeMap::new());
    keeper.wrote(now, first.clone());
    let renewed = keeper.next(&me, 2, &BTreeMap::new());
    assert_eq!(renewed.epoch, first.epoch);
    let moved = keeper.next(&me, 3, &placed(&[("b", "a")]));
    assert_eq!(moved.epoch, first.epoch.next());
    assert_eq!(
        keeper.next(&name("b"), 4, &BTreeMap::new()).epoch,
        first.epoch.next()
    );
}

#[test]
fn a_write_that_is_in_doubt_is_looked_at_before_anything_else() {
    let mut keeper = Keeper::default();
    let (me, now) = (name("a"), Duration::from_secs(100));
    keeper.saw(now, None);
    let record = keeper.next(&me, 1, &BTreeMap::new());
    keeper.wrote(now, record.clone());
    assert!(keeper.holds(now + HELD_FOR - Duration::from_millis(1)));
    let again = keeper.next(&me, 2, &BTreeMap::new());
    keeper.doubts(now + RENEW, again.clone());
    assert!(keeper.holds(now + RENEW), "what was won is won");
    assert_eq!(keeper.due(now + RENEW, &me), Due::Look);
    // It did not arrive, or it did.
    let (mut lost, mut arrived, mut outdone) = (keeper.clone(), keeper.clone(), keeper);
    lost.saw(now + 2 * RENEW, Some(record.clone()));
    assert!(lost.holds(now + 2 * RENEW) && !lost.holds(now + HELD_FOR));
    arrived.saw(now + 2 * RENEW, Some(again));
    assert!(arrived.holds(now + HELD_FOR));
    outdone.saw(
        now + 2 * RENEW,
        Some(Record {
            caller: name("b"),
            ..record
        }),
    );
    assert!(!outdone.holds(now + 2 * RENEW));
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
