//! A join that is killed at any step is repeated with the same command, and ends as one that was not: an identical
//! replica, a healthy fleet, nothing left over. Visitors of the first server notice none of it.

use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{
    Fleet, Following, ask, dice, end_program, expect, identical, logs, long, one_line, run, start_agent,
    tell, wait_until_healthy, words,
};
use pontoon_testkit::{DatabaseOptions, LabError, Load, Mariadb, Server, in_lab};

/// The steps of a join by what it says at their beginning.
const STEPS: [(&str, &str); 7] = [
    ("the certificate", "certificate issued"),
    ("copying", "\"bytes\""),
    ("preparing", "preparing the copy"),
    ("activation", "putting the copy in place"),
    ("following", "catching up"),
    ("finish", "becoming a member"),
    ("the last word", "is as revision"),
];

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    /// Agent and helper of the joiner.
    Joiner,
    /// Agent of the server that admits it.
    Host,
    /// Helper there, from which the copy comes.
    Source,
}

#[test]
fn a_join_whose_joiner_is_killed_at_any_step_is_repeated() -> Result<(), LabError> {
    in_lab(
        "a_join_whose_joiner_is_killed_at_any_step_is_repeated",
        limit(),
        |lab| async move {
            let site = Site::new(lab).await?;
            for (name, text) in STEPS {
                site.killed_at(&format!("joiner at {name}"), Victim::Joiner, text)
                    .await?;
            }
            site.end().await
        },
    )
}

#[test]
fn a_join_whose_host_is_killed_at_any_step_is_repeated() -> Result<(), LabError> {
    in_lab(
        "a_join_whose_host_is_killed_at_any_step_is_repeated",
        limit(),
        |lab| async move {
            let site = Site::new(lab).await?;
            for (name, text) in STEPS {
                site.killed_at(&format!("host at {name}"), Victim::Host, text)
                    .await?;
            }
            site.killed_at("source of the copy", Victim::Source, "\"bytes\"")
                .await?;
            site.end().await
        },
    )
}

#[test]
fn a_join_is_killed_at_random_interrupted_and_cut_off_from_power() -> Result<(), LabError> {
    in_lab(
        "a_join_is_killed_at_random_interrupted_and_cut_off_from_power",
        limit(),
        |lab| async move {
            let site = Site::new(lab).await?;
            site.interrupted().await?;
            site.powered_off().await?;
            let mut dice = dice();
            for round in 0..if long() { 30 } else { 3 } {
                let victim = [Victim::Joiner, Victim::Host, Victim::Source][dice.below(3)];
                let after = Duration::from_millis(dice.below(4_000) as u64);
                site.killed_after(&format!("round {round}"), victim, after)
                    .await?;
            }
            site.end().await
        },
    )
}

/// A fleet of one server with visitors and some data, and a second machine that joins and leaves.
struct Site {
    fleet: Fleet,
    load: Load,
}

impl Site {
    async fn new(lab: pontoon_testkit::Lab) -> Result<Site, LabError> {
        let fleet = Fleet::new(lab).await?;
        fleet.found().await?;
        fleet.prepare_joiner().await?;
        // So much that a copy takes a moment.
        ask(
            &fleet.a,
            "CREATE TABLE notes.ballast (id INT PRIMARY KEY AUTO_INCREMENT, t LONGTEXT)",
        )
        .await?;
        for n in 0..60 {
            let fill = format!("INSERT INTO notes.ballast (t) VALUES (REPEAT(SHA2({n}, 512), 8000))");
            ask(&fleet.a, &fill).await?;
        }
        let load = fleet.visitors(&[&fleet.a], 10.0, "joins")?;
        Ok(Site { fleet, load })
    }

    /// Begins to join, kills when it says `text`, repeats.
    async fn killed_at(&self, name: &str, victim: Victim, text: &str) -> Result<(), LabError> {
        let token = self.fleet.token().await?;
        let mut join = Following::start(&self.fleet.b, &words(&self.fleet.join_command(&token)))?;
        expect(join.until(text).await?, || {
            format!("{name}: the join never said {text:?}: {:?}", join.said)
        })?;
        self.kill_and_repeat(name, victim, join, &token).await
    }

    /// Begins to join, kills after this time, repeats.
    async fn killed_after(&self, name: &str, victim: Victim, after: Duration) -> Result<(), LabError> {
        let name = format!("{name}: {victim:?} after {} ms", after.as_millis());
        let token = self.fleet.token().await?;
        let join = Following::start(&self.fleet.b, &words(&self.fleet.join_command(&token)))?;
        tokio::time::sleep(after).await;
        self.kill_and_repeat(&name, victim, join, &token).await
    }

    async fn kill_and_repeat(
        &self,
        name: &str,
        victim: Victim,
        join: Following,
        token: &str,
    ) -> Result<(), LabError> {
        let begun = Instant::now();
        match victim {
            Victim::Joiner => {
                end_program(&self.fleet.b, "agent").await?;
                end_program(&self.fleet.b, "helper").await?;
            }
            Victim::Host => {
                end_program(&self.fleet.a, "agent").await?;
            }
            Victim::Source => {
                end_program(&self.fleet.a, "helper").await?;
            }
        }
        let (status, said) = join.end().await?;
        // The service manager of the host starts again what died; here an operator does.
        start_agent(&self.fleet.a).await?;
        let first = said.last().map(ToString::to_string).unwrap_or_default();
        tell(&format!(
            "{name}: exit {status} after {} ms: {first}",
            begun.elapsed().as_millis()
        ));
        self.repeat(name, token).await
    }

    async fn interrupted(&self) -> Result<(), LabError> {
        let token = self.fleet.token().await?;
        let mut join = Following::start(&self.fleet.b, &words(&self.fleet.join_command(&token)))?;
        join.until("\"bytes\"").await?;
        let status = join.interrupt(&self.fleet.b, "join").await?;
        expect(status == 130, || format!("Ctrl-C: exit {status}"))?;
        self.repeat("Ctrl-C", &token).await
    }

    async fn powered_off(&self) -> Result<(), LabError> {
        let token = self.fleet.token().await?;
        let b = &self.fleet.b;
        let mut join = Following::start(b, &words(&self.fleet.join_command(&token)))?;
        join.until("\"bytes\"").await?;
        b.power_off().await?;
        drop(join);
        b.power_on().await?;
        Mariadb::start(b, &DatabaseOptions::default()).await?;
        pontoon_e2e::fleet::start_application(&self.fleet.app, b).await?;
        self.repeat("power off", &token).await
    }

    /// The same command again; then what a join must end with; then the second server leaves for the next round.
    async fn repeat(&self, name: &str, token: &str) -> Result<(), LabError> {
        let (a, b) = (&self.fleet.a, &self.fleet.b);
        let failed = |error: LabError| LabError::App(format!("{name}: {error}"));
        let begun = Instant::now();
        self.fleet.join_with(token).await.map_err(failed)?;
        let took = begun.elapsed();
        identical(a, b).await.map_err(failed)?;
        wait_until_healthy(a, 2).await.map_err(failed)?;
        self.nothing_is_left(name).await?;
        self.nobody_noticed(name)?;
        run(b, &["leave", "--yes"]).await.map_err(failed)?;
        wait_until_healthy(a, 1).await.map_err(failed)?;
        self.nobody_noticed(&format!("{name}, when it left again"))?;
        b.sh("rm -rf /var/lib/mysql.pontoon-aside-* /var/lib/pontoon/*.left-*")
            .await?;
        tell(&format!("{name}: repeated in {} ms", took.as_millis()));
        Ok(())
    }

    fn nobody_noticed(&self, name: &str) -> Result<(), LabError> {
        let seen = self.load.summary();
        if seen.iter().any(|phase| phase.failed > 0) {
            tell(&format!("{}{}", logs(&self.fleet.a, 30), logs(&self.fleet.b, 30)));
        }
        let failures: Vec<_> = seen.iter().map(|phase| &phase.failures).collect();
        expect(seen.iter().all(|phase| phase.failed == 0), || {
            format!("{name}: visitors noticed: {failures:?}")
        })
    }

    async fn nothing_is_left(&self, name: &str) -> Result<(), LabError> {
        let on_b = "ls -d /var/lib/mysql.pontoon-incoming* /var/lib/pontoon/join.json 2>/dev/null || :";
        let tools = "pgrep -a 'mbstream|mariadb-backup|mariabackup' || :";
        let joiners =
            std::fs::read_to_string(self.fleet.a.path("/var/lib/pontoon/joiners.json")?).unwrap_or_default();
        let mut left = self.fleet.b.sh(on_b).await?;
        left += &self.fleet.b.sh(tools).await?;
        left += &self.fleet.a.sh(tools).await?;
        left += if joiners.contains('"') { &joiners } else { "" };
        expect(left.trim().is_empty(), || {
            format!("{name} left over: {}", one_line(&left))
        })
    }

    async fn end(self) -> Result<(), LabError> {
        let report = self.load.stop().await?;
        expect(report.failed() == 0, || {
            format!("visitors noticed: {:?}", report.phases)
        })?;
        let _: &Server = &self.fleet.a;
        Ok(())
    }
}

fn limit() -> Duration {
    Duration::from_secs(if long() { 1_200 } else { 240 })
}
