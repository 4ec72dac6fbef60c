//! The address machine, fault by fault: how long nobody answers, and who takes what.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is the report

mod address;

use std::time::Duration;

use address::{Ms, World};
use pontoon_decide::address::{Member, Timing, Why};
use pontoon_fleet::ServerName;

/// A fleet that has settled, everybody at home.
fn settled(servers: usize, timing: Timing) -> World {
    let mut world = World::new(7, servers, timing);
    world.run_for(4_000);
    for home in world.homes() {
        let at = world
            .machines
            .iter()
            .position(|machine| machine.name == home)
            .unwrap();
        assert_eq!(world.holders(&home), [at], "{home} in a fleet of {servers}");
    }
    world.log.clear();
    world
}

/// Runs `ms`; says for how long in all the share had no running kernel with a serving edge.
fn unserved(world: &mut World, home: &ServerName, ms: Ms) -> Ms {
    let until = world.now + ms;
    let mut unserved = 0;
    while world.now < until {
        let before = world.now;
        world.step();
        let served = world.holders(home).iter().any(|at| !world.machines[*at].wedged);
        if !served {
            unserved += world.now - before;
        }
    }
    unserved
}

fn server(name: &str) -> ServerName {
    name.parse().unwrap()
}

#[test]
fn a_dead_servers_addresses_answer_at_the_third_missed_heartbeat() {
    // Milliseconds: the promises are 500 and 200; the probe is part of the silence.
    for (timing, most) in [(Timing::USUAL, 350), (Timing::FAST, 190)] {
        for servers in [2, 3, 5] {
            let mut worst = 0;
            for phase in 0..8 {
                let mut world = settled(servers, timing);
                world.run_for(phase * 13);
                world.die(0);
                worst = worst.max(unserved(&mut world, &server("a"), 3_000));
            }
            assert!(
                worst > 0 && worst <= most,
                "{servers} servers: {worst} ms, at most {most}"
            );
        }
    }
}

#[test]
fn a_share_goes_home_without_a_gap_after_a_minute_of_health() {
    let mut world = settled(3, Timing::USUAL);
    world.die(0);
    world.run_for(2_000);
    let holder = world.holders(&server("a"))[0];
    world.boot(0);
    assert_eq!(unserved(&mut world, &server("a"), 58_000), 0);
    assert_eq!(
        world.holders(&server("a")),
        [holder],
        "not before it has been well for a minute"
    );
    assert_eq!(unserved(&mut world, &server("a"), 5_000), 0);
    assert_eq!(world.holders(&server("a")), [0]);
    assert!(world.longest_double < 100, "{}", world.longest_double);
}

#[test]
fn a_rehearsal_takes_and_hands_back_without_a_gap_and_is_refused_where_it_could_hurt() {
    for servers in [2, 3] {
        let mut world = settled(servers, Timing::USUAL);
        world.rehearse(1, &server("a"), 2_000);
        assert_eq!(
            world.holders(&server("a")),
            [0],
            "its home has not been well for a minute"
        );
        world.run_for(60_000);
        world.rehearse(0, &server("a"), 2_000);
        world.rehearse(1, &server("x"), 2_000);
        assert_eq!(
            world.takes as usize, servers,
            "its own, and one that is not there"
        );
        world.rehearse(1, &server("a"), 2_000);
        assert_eq!(unserved(&mut world, &server("a"), 1_500), 0);
        assert_eq!(world.holders(&server("a")), [1]);
        assert_eq!(unserved(&mut world, &server("a"), 1_000), 0);
        assert_eq!(world.holders(&server("a")), [0]);
        assert!(world.longest_double < 100, "{}", world.longest_double);
        // Nobody hears it; its edge is broken; the share is away.
        for to in 0..servers {
            world.cut[1][to] = true;
        }
        world.run_for(1_000);
        let takes = world.takes;
        world.rehearse(1, &server("a"), 2_000);
        assert_eq!(world.takes, takes);
        let mut world = settled(servers, Timing::USUAL);
        world.machines[1].wedged = true;
        world.run_for(62_000);
        let takes = world.takes;
        world.rehearse(1, &server("a"), 2_000);
        assert_eq!(world.takes, takes);
    }
}

#[test]
fn a_server_that_dies_in_a_rehearsal_loses_the_share_to_its_home() {
    let mut world = settled(2, Timing::USUAL);
    world.run_for(60_000);
    world.rehearse(1, &server("a"), 30_000);
    world.run_for(1_000);
    assert_eq!(world.holders(&server("a")), [1]);
    world.die(1);
    let gap = unserved(&mut world, &server("a"), 2_000);
    assert!(gap <= 500, "{gap} ms");
    assert_eq!(world.holders(&server("a")), [0]);
}

#[test]
fn a_home_that_flaps_does_not_get_its_share_back() {
    let mut world = settled(2, Timing::USUAL);
    world.die(0);
    world.run_for(1_000);
    for _ in 0..4 {
        world.boot(0);
        world.run_for(30_000);
        assert_eq!(world.holders(&server("a")), [1]);
        world.die(0);
        world.run_for(1_000);
    }
}

#[test]
fn a_killed_process_that_starts_again_in_time_moves_nothing() {
    for servers in [1, 2, 3] {
        let mut world = settled(servers, Timing::USUAL);
        world.kill(0);
        world.run_for(500);
        world.start(0);
        assert_eq!(unserved(&mut world, &server("a"), 10_000), 0, "{servers} servers");
        assert_eq!(world.holders(&server("a")), [0], "{servers} servers");
        let resumed = world
            .log
            .iter()
            .map(|(_, at, home, why)| (*at, home.as_str(), why.clone()));
        assert_eq!(
            resumed.collect::<Vec<_>>(),
            [(0, "a", Ok(Why::Resumed))],
            "{servers} servers"
        );
    }
}

#[test]
fn a_killed_or_stopped_process_that_stays_away_loses_its_share_and_nobody_holds_it_twice() {
    for stop in [false, true] {
        let mut world = settled(3, Timing::USUAL);
        if stop {
            world.machines[0].stopped = true;
        } else {
            world.kill(0);
        }
        // The edge goes on; it is taken over once the kernel has let go.
        let gap = unserved(&mut world, &server("a"), 6_000);
        assert!(gap < 500, "{gap} ms");
        assert_eq!(world.holders(&server("a")).len(), 1);
        assert_ne!(world.holders(&server("a")), [0]);
        assert_eq!(world.longest_double, 0);
    }
}

#[test]
fn servers_that_all_suspect_another_one_do_not_answer_each_others_answers_for_ever() {
    let mut world = settled(5, Timing::USUAL);
    // Its edge goes on answering: they ask again and again until the kernel there has let go.
    world.kill(0);
    world.run_for(300);
    let before = world.beats;
    world.run_for(500);
    let sent = world.beats - before;
    assert!(sent <= 4 * 55, "four servers sent {sent} beats in half a second");
}

#[test]
fn a_frozen_server_is_replaced_at_once_and_lets_go_when_it_thaws() {
    let mut world = settled(3, Timing::USUAL);
    world.machines[0].frozen = true;
    let gap = unserved(&mut world, &server("a"), 4_000);
    assert!(gap <= 500, "{gap} ms");
    world.machines[0].frozen = false;
    world.run_for(1_000);
    assert_eq!(world.holders(&server("a")).len(), 1);
    assert!(world.longest_double < 200, "{}", world.longest_double);
}

#[test]
fn a_wedged_edge_hands_over_and_a_fleet_of_wedged_edges_stays_where_it_is() {
    let mut world = settled(3, Timing::USUAL);
    world.machines[0].wedged = true;
    let gap = unserved(&mut world, &server("a"), 3_000);
    assert!(gap < 100, "{gap} ms");
    assert_eq!(world.holders(&server("a")).len(), 1);

    let mut world = settled(3, Timing::USUAL);
    (0..3).for_each(|at| world.machines[at].wedged = true);
    world.run_for(3_000);
    for (at, home) in world.homes().iter().enumerate() {
        assert_eq!(world.holders(home), [at]);
    }
}

#[test]
fn what_the_minority_held_is_taken_and_it_takes_nothing() {
    // Two of five lose the others and the gateway.
    let mut world = settled(5, Timing::USUAL);
    for one in [0, 1] {
        for other in [2, 3, 4, 5] {
            world.cut[one][other] = true;
            world.cut[other][one] = true;
        }
    }
    world.run_for(4_000);
    for home in ["a", "b"] {
        let holders = world.holders(&server(home));
        assert!(holders.len() == 1 && holders[0] > 1, "{home}: {holders:?}");
    }
    let minority = world.log.iter().filter(|(_, at, _, why)| *at < 2 && why.is_ok());
    assert_eq!(minority.count(), 0);
}

#[test]
fn a_majority_that_the_gateway_does_not_reach_takes_nothing_from_a_holder_that_it_does() {
    let mut world = settled(3, Timing::USUAL);
    // The switch between them is broken: a and the gateway on one side, b and c on the other.
    for one in [0, 3] {
        for other in [1, 2] {
            world.cut[one][other] = true;
            world.cut[other][one] = true;
        }
    }
    assert_eq!(unserved(&mut world, &server("a"), 10_000), 0);
    assert_eq!(world.holders(&server("a")), [0]);
    assert_eq!(world.longest_double, 0);
}

#[test]
fn an_address_that_still_serves_visitors_stays_although_its_server_hears_nobody() {
    let mut world = settled(3, Timing::USUAL);
    // What b and c send does not arrive at a; what a sends does: they see it, and it cannot prove that they do.
    world.cut[1][0] = true;
    world.cut[2][0] = true;
    assert_eq!(unserved(&mut world, &server("a"), 10_000), 0);
    assert_eq!(
        world.holders(&server("a")),
        [0],
        "the gateway proves that the address is its own"
    );
}

#[test]
fn two_that_see_the_gateway_and_not_each_other_never_share_an_address_for_long() {
    let mut world = settled(2, Timing::USUAL);
    world.cut[0][1] = true;
    world.cut[1][0] = true;
    world.run_for(10_000);
    for home in world.homes() {
        assert_eq!(world.holders(&home).len(), 1, "{home}");
    }
    let most = Timing::USUAL.longest_overlap().as_millis() as Ms;
    assert!(world.longest_double <= most, "{}", world.longest_double);
}

/// A rebooted server that hears nobody takes what is its own. The other one holds it with a higher epoch and cannot tell it
/// so, whether it hears of it or not; and the gateway goes on believing the other. What the gateway is known to do from
/// before the reboot says what its silence means.
#[test]
fn a_rebooted_home_that_hears_nobody_does_not_share_its_address_for_long() {
    for (timing, both_ways) in [
        (Timing::USUAL, false),
        (Timing::USUAL, true),
        (Timing::FAST, false),
        (Timing::FAST, true),
    ] {
        let mut world = settled(2, timing);
        world.die(0);
        world.run_for(2_000);
        assert_eq!(world.holders(&server("a")), [1]);
        world.cut[1][0] = true;
        world.cut[0][1] = both_ways;
        world.pinned = true;
        world.boot(0);
        world.run_for(30_000);
        let most = timing.longest_overlap().as_millis() as Ms;
        assert!(
            0 < world.longest_double && world.longest_double <= most,
            "{} ms, at most {most}",
            world.longest_double
        );
        assert_eq!(
            world.holders(&server("a")),
            [1],
            "where the gateway sends visitors"
        );
        world.pinned = false;
        world.cut[1][0] = false;
        world.cut[0][1] = false;
        world.run_for(70_000);
        assert_eq!(world.holders(&server("a")), [0]);
        assert_eq!(world.holders(&server("b")), [1]);
    }
}

#[test]
fn a_server_alone_without_gateway_takes_nothing_and_lets_go() {
    let mut world = settled(2, Timing::USUAL);
    // Its cable is out.
    for to in [0, 2] {
        world.cut[1][to] = true;
        world.cut[to][1] = true;
    }
    world.run_for(3_000);
    assert_eq!(world.holders(&server("a")), [0]);
    assert_eq!(world.holders(&server("b")), [0]);
}

#[test]
fn a_standby_takes_the_share_of_a_lost_edge_before_the_others_do() {
    let member = |name: &str, share, standby| Member {
        name: server(name),
        edge: true,
        share,
        standby,
    };
    let members = vec![
        member("a", true, false),
        member("b", true, false),
        member("s", false, true),
    ];
    let mut world = World::of(3, members, Timing::USUAL);
    world.run_for(4_000);
    assert!(
        world.homes().iter().all(|home| world.holders(home) != [2]),
        "none while all are there"
    );
    world.die(0);
    world.run_for(2_000);
    assert_eq!(world.holders(&server("a")), [2]);
    // A second one that dies is shared out to who has fewest; two of three are gone now, so nobody takes it.
    world.die(1);
    world.run_for(2_000);
    assert_eq!(world.holders(&server("b")), [] as [usize; 0]);
}

#[test]
fn a_server_without_the_role_edge_votes_and_holds_nothing() {
    let member = |name: &str, edge| Member {
        name: server(name),
        edge,
        share: edge,
        standby: false,
    };
    let members = vec![member("a", true), member("b", true), member("c", false)];
    let mut world = World::of(3, members, Timing::USUAL);
    world.run_for(4_000);
    // b and c are two of three, and c's vote is what b lacks.
    world.die(0);
    world.run_for(2_000);
    assert_eq!(world.holders(&server("a")), [1]);
}

#[test]
fn a_pause_drops_everything_before_anything_else_is_done() {
    let mut world = settled(3, Timing::USUAL);
    world.machines[0].stopped = true;
    world.run_for(5_000);
    world.log.clear();
    world.machines[0].stopped = false;
    world.step();
    let (_, at, home, why) = &world.log[0];
    assert_eq!((*at, home.as_str()), (0, "a"));
    assert!(
        matches!(why, Err(Why::Paused(away)) if *away >= Duration::from_secs(4)),
        "{why:?}"
    );
}

#[test]
fn a_kernel_that_refuses_leaves_the_share_to_others() {
    use pontoon_decide::address::Event;
    let mut world = settled(3, Timing::USUAL);
    let clock = world.clock(0);
    let node = world.machines[0].node.as_mut().unwrap();
    node.step(clock, Event::Lost { home: server("a") });
    world.machines[0].kernel.clear();
    world.run_for(2_000);
    let holders = world.holders(&server("a"));
    assert!(holders.len() == 1 && holders[0] != 0, "{holders:?}");
}
