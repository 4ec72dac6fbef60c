//! The cases.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_founder_leads_and_a_replica_comes_into_sync() {
    let ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    ground
        .until("b knows", |ground| ground.state(1) == Some(State::FollowSync))
        .await;
    let acked = lock(&ground.world).acked.len();
    sleep(SECOND).await;
    assert!(lock(&ground.world).acked.len() > acked, "writes go on");
    assert_eq!(lock(&ground.world).top, Epoch(1));
}

#[tokio::test(start_paused = true)]
async fn a_database_that_dies_is_released_and_its_replica_takes_over_without_waiting_for_the_lease() {
    let ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    let died = Instant::now();
    ground.kill_database(0);
    ground.until("b leads", |ground| ground.leader() == Some(1)).await;
    assert!(
        died.elapsed() < timing().ttl,
        "made-up time: {:?}",
        died.elapsed()
    );
    // The old one comes back as a replica by itself.
    ground.until_in_sync(1).await;
    ground
        .until("a follows", |ground| ground.state(0) == Some(State::FollowSync))
        .await;
    ground.check("the end");
}

#[tokio::test(start_paused = true)]
async fn a_whole_server_that_dies_is_succeeded_when_its_lease_has_run_out() {
    let mut ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    let died = Instant::now();
    ground.kill_agent(0);
    ground.kill_database(0);
    ground.until("b leads", |ground| ground.leader() == Some(1)).await;
    assert!(
        died.elapsed() + timing().renew >= timing().ttl,
        "made-up time: {:?}",
        died.elapsed()
    );
    ground.start(0);
    ground.until_in_sync(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_takes_nothing_with_it_and_goes_on_from_its_disk() {
    let mut ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    for at in [1, 0] {
        ground.kill_agent(at);
        sleep(ms(700)).await;
        assert!(lock(&ground.world).dbs[at].up, "its database goes on");
        ground.start(at);
        ground.until_in_sync(0).await;
        assert_eq!(lock(&ground.world).top, Epoch(1), "nobody took over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_switchover_moves_the_primary_and_loses_nothing() {
    let ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    let refused = ground.desks[1]
        .command(Command::Switchover(name(0)))
        .await
        .unwrap();
    assert_eq!(refused, Err(Why::NotTheLeader));
    let taken = ground.desks[0]
        .command(Command::Switchover(name(1)))
        .await
        .unwrap();
    assert_eq!(taken, Ok(()));
    ground.until_in_sync(1).await;
    let top = lock(&ground.world).top;
    assert_eq!((top, ground.leader()), (Epoch(2), Some(1)));
    ground.check("the end");
}

#[tokio::test(start_paused = true)]
async fn while_paused_nothing_is_started_or_promoted_and_the_pause_outlives_the_agent() {
    let mut ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    for at in [0, 1] {
        assert_eq!(ground.desks[at].command(Command::Pause).await.unwrap(), Ok(()));
    }
    ground.kill_agent(1);
    ground.start(1);
    ground.kill_database(0);
    sleep(SECOND * 20).await;
    let (openings, up) = {
        let world = lock(&ground.world);
        (world.openings, world.dbs[0].up)
    };
    assert_eq!((openings, up), (1, false), "nobody opened, nobody started it");
    for at in [0, 1] {
        assert_eq!(ground.desks[at].command(Command::Resume).await.unwrap(), Ok(()));
    }
    ground
        .until("somebody leads", |ground| ground.leader().is_some())
        .await;
    ground.check("the end");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_stops_no_writes_and_lets_nobody_take_over() {
    let ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    lock(&ground.world).store.down = true;
    sleep(SECOND * 10).await;
    let acked = lock(&ground.world).acked.len();
    sleep(SECOND * 10).await;
    assert!(lock(&ground.world).acked.len() > acked, "it writes on");
    assert_eq!(ground.state(0), Some(State::LeaderSync));
    let report = ground.desks[0].report(ground.clock.now()).unwrap();
    assert!(
        report.store_error.is_some() && report.store_ms > Some(10_000),
        "{report:?}"
    );
    ground.kill_database(0);
    sleep(SECOND * 10).await;
    assert_ne!(ground.leader(), Some(1), "without the store nobody is promoted");
    lock(&ground.world).store.down = false;
    ground
        .until("somebody leads", |ground| ground.leader().is_some())
        .await;
    ground.check("the end");
}

/// Whenever it answers again: both agents ask it at once, and the one that leads must have its turn.
#[tokio::test(start_paused = true)]
async fn a_store_that_answers_again_leaves_the_lease_with_a_leader_that_lives() {
    let ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    for turn in 0..8 {
        lock(&ground.world).store.down = true;
        sleep(SECOND * 5 + ms(137 * turn)).await;
        lock(&ground.world).store.down = false;
        sleep(SECOND * 5).await;
        let top = lock(&ground.world).top;
        assert_eq!(top, Epoch(1), "outage {turn}: a leader that lives lost its lease");
    }
    ground.until_in_sync(0).await;
    ground.check("the end");
}

/// The same place in the store, and another fleet's name in the record: from the beginning, and in the midst.
#[tokio::test(start_paused = true)]
async fn a_lease_of_another_fleet_is_told_of_and_neither_obeyed_nor_overwritten() {
    let ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    let (mut record, number) = lock(&ground.world).store.record.clone().unwrap();
    record.fleet = "shop".parse().unwrap();
    (record.leader, record.epoch) = (name(1), Epoch(7));
    let foreign = Some((record, number + 100));
    let told = |ground: &Ground| {
        let shop = Notice::ForeignLease("shop".parse().unwrap());
        ground
            .ears
            .iter()
            .all(|ears| ears.0.lock().unwrap().contains(&shop))
    };
    lock(&ground.world).store.record.clone_from(&foreign);
    ground.until("both tell", told).await;
    sleep(SECOND * 30).await;
    assert_eq!(lock(&ground.world).store.record, foreign, "in the midst");
    assert_eq!(lock(&ground.world).top, Epoch(1), "nobody took over by it");
    ground.check("in the midst");

    let ground = Ground::new(2, Mode::Safe);
    lock(&ground.world).store.record.clone_from(&foreign);
    ground.until("both tell", told).await;
    sleep(SECOND * 30).await;
    assert_eq!(lock(&ground.world).store.record, foreign, "from the beginning");
    assert_eq!(lock(&ground.world).openings, 0, "nobody leads by it");
}

#[tokio::test(start_paused = true)]
async fn a_database_that_others_start_or_open_is_killed() {
    let ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    lock(&ground.world).dbs[1].open = Some(Epoch(0));
    ground
        .until("it is killed", |ground| lock(&ground.world).dbs[1].open.is_none())
        .await;
    ground.until_in_sync(0).await;
    assert_eq!(lock(&ground.world).top, Epoch(1));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_remembered_is_not_done() {
    let mut ground = Ground::new(2, Mode::Safe);
    ground.until_in_sync(0).await;
    // The file becomes a directory: no rename can replace it.
    let file = ground.file(1);
    ground.kill_agent(1);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    std::fs::write(file.join("x"), "x").unwrap();
    ground.start(1);
    ground.kill_agent(0);
    ground.kill_database(0);
    sleep(SECOND * 20).await;
    assert_eq!(
        ground.leader(),
        None,
        "b knows no life of its own, and promotes nothing on it"
    );
    ground.check("the end");
}

#[tokio::test(start_paused = true)]
async fn after_a_promotion_that_left_nobody_in_sync_there_is_no_second_one_soon() {
    let mut ground = Ground::new(3, Mode::Available);
    ground
        .until("b and c follow", |ground| {
            [1, 2].iter().all(|at| ground.state(*at) == Some(State::Follow))
        })
        .await;
    sleep(SECOND * 2).await;
    ground.kill_agent(0);
    ground.kill_database(0);
    ground
        .until("another leads", |ground| ground.leader().is_some_and(|at| at > 0))
        .await;
    let second = ground.leader().unwrap();
    sleep(SECOND * 3).await;
    let third = 3 - second;
    ground.kill_agent(second);
    ground.kill_database(second);
    sleep(SECOND * 15).await;
    assert_eq!(ground.leader(), None, "the block holds");
    ground
        .until("after the block", |ground| ground.leader() == Some(third))
        .await;
}

async fn storm(seed: u64, servers: usize, mode: Mode) -> (u64, usize) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut ground = Ground::new(servers, mode);
    ground
        .until("it begins", |ground| ground.leader().is_some())
        .await;
    for _ in 0..30 {
        let at = usize::try_from(dice.of(servers as u64)).unwrap();
        let doing = format!("seed {seed}, server {}", name(at));
        match dice.of(9) {
            0 => ground.kill_database(at),
            1 | 2 => {
                ground.kill_agent(at);
                if dice.of(2) == 0 {
                    ground.kill_database(at);
                }
            }
            3 => lock(&ground.world).store.down = true,
            4 => {
                let other = (at + 1) % servers;
                lock(&ground.world).cut.push((at, other));
            }
            5 => lock(&ground.world).store.forgets = 2 + u32::try_from(dice.of(4)).unwrap(),
            6 => lock(&ground.world).store.late = 3 + u32::try_from(dice.of(4)).unwrap(),
            7 => {
                let to = name((at + 1) % servers);
                let _ = ground.desks[at].command(Command::Switchover(to)).await;
            }
            _ => {
                for at in 0..servers {
                    if ground.agents[at].is_none() {
                        ground.start(at);
                    }
                }
                let mut world = lock(&ground.world);
                world.cut.clear();
                (world.store.down, world.store.forgets, world.store.late) = (false, 0, 0);
            }
        }
        sleep(ms(dice.of(2500))).await;
        ground.check(&doing);
    }
    for at in 0..servers {
        if ground.agents[at].is_none() {
            ground.start(at);
        }
    }
    {
        let mut world = lock(&ground.world);
        world.cut.clear();
        (world.store.down, world.store.forgets, world.store.late) = (false, 0, 0);
    }
    // When everybody is back, writes are acknowledged again, except where only a person can say what to lose.
    let before = lock(&ground.world).acked.len();
    sleep(SECOND * 45).await;
    ground.check(&format!("seed {seed}, the end"));
    let stranded = (0..servers).any(|at| ground.state(at) == Some(State::Stranded));
    let world = lock(&ground.world);
    assert!(
        stranded || world.acked.len() > before,
        "seed {seed}: nobody writes: {:?} {:?}",
        (0..servers).map(|at| ground.state(at)).collect::<Vec<_>>(),
        world.store
    );
    (world.openings, world.acked.len())
}

#[tokio::test(start_paused = true)]
async fn whatever_dies_in_whatever_order_no_acknowledged_write_is_lost() {
    let rounds: u64 = std::env::var("PONTOON_STORMS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(6);
    let first: u64 = std::env::var("PONTOON_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let mut openings = 0;
    for seed in first..first + rounds {
        let servers = if seed % 3 == 0 { 3 } else { 2 };
        let mode = if servers == 3 { Mode::Quorum } else { Mode::Safe };
        openings += storm(seed, servers, mode).await.0;
    }
    assert!(openings > rounds, "something happened: {openings} openings");
}
