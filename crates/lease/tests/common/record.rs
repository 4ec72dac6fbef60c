//! A record of a lease, for the tests beside the code too.

use std::time::Duration;

use pontoon_decide::failover::{Members, Mode, Nonce, Policy, Record};
use pontoon_fleet::Epoch;

/// One that says: `leader` leads alone. Another `seq` or `epoch` is another nonce.
pub fn record(epoch: u64, leader: &str, seq: u64) -> Record {
    Record {
        fleet: "notes".parse().unwrap(),
        epoch: Epoch(epoch),
        leader: leader.parse().unwrap(),
        incarnation: Default::default(),
        electing: false,
        released: false,
        sync: Members::new(),
        acks: 0,
        policy: Policy {
            mode: Mode::Safe,
            acks: 1,
            max_lag: Duration::ZERO,
        },
        candidate: None,
        fragile: false,
        loss: None,
        seq,
        nonce: Nonce(u128::from(seq) << 64 | u128::from(epoch)),
    }
}
