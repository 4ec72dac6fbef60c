//! A server whose limit is known, to try `pontoon measure load` on: four workers with exponentially distributed 10 ms of
//! work. With p99<300ms its limit is 384 requests a second, with p99<100ms 350. It prints its URL and ends after an hour.

use std::io::Write;

use pontoon_capacity::models::{Law, Model, Trouble};
use pontoon_measure::ratebox::Ratebox;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let model = Model {
        workers: 4,
        service: 0.01,
        law: Law::Exponential,
        trouble: Trouble::None,
    };
    let ratebox = Ratebox::start(model, 1)?;
    writeln!(std::io::stdout(), "http://{}/", ratebox.address())?;
    tokio::time::sleep(std::time::Duration::from_secs(3_600)).await;
    Ok(())
}
