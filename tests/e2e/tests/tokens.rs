//! Who may join: every wrong token is refused with its code, and nothing has changed on either side.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, event_kinds, expect, identical, refused, run, snapshot, wait_until_healthy, words,
};
use pontoon_testkit::{DatabaseOptions, LabError, Mariadb, Server, in_lab};

/// What a test compares: a server before and after.
type Snapshot = BTreeMap<String, String>;

#[test]
fn a_wrong_token_changes_nothing_on_either_side() -> Result<(), LabError> {
    in_lab(
        "a_wrong_token_changes_nothing_on_either_side",
        Duration::from_secs(240),
        |lab| async move {
            let mut fleet = Fleet::new(lab).await?;
            let c = fleet.lab.add_server("c", Vec::new()).await?;
            fleet.found().await?;
            fleet.prepare_joiner().await?;
            Mariadb::start(&c, &DatabaseOptions::default()).await?;

            // Another fleet, on c: its authority is not the one that the tokens of a name.
            let private = c.private().to_string();
            run(
                &c,
                &["init", "--name", "c", "--fleet", "other", "--private", &private],
            )
            .await?;
            run(&c, &["apply", "--yes"]).await?;
            let foreign = token_of(&c, &[]).await?;

            let token = token_of(&fleet.a, &[]).await?;
            let bound = token_of(&fleet.a, &["--roles", "edge,app"]).await?;
            let short = token_of(&fleet.a, &["--ttl", "1s"]).await?;
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            let (a, b) = (&fleet.a, &fleet.b);
            let before = (snapshot(a).await?, snapshot(b).await?);

            let part = |token: &str, index: usize| token.split('.').nth(index).unwrap_or_default().to_owned();
            let wrong_secret = format!("pon1.{}.{}.{}", part(&token, 1), part(&token, 2), part(&short, 3));
            let unknown_id = format!(
                "pon1.{}.{}.{}",
                part(&token, 1),
                part(&foreign, 2),
                part(&token, 3)
            );
            for (name, token, why) in [
                ("wrong secret", &wrong_secret, "secret is wrong"),
                ("expired", &short, "expired"),
                ("unknown id", &unknown_id, "no token of that id"),
            ] {
                let said = refused(b, &words(&fleet.join_command(token)), "J001", 3).await?;
                expect(said.contains(why), || format!("{name}: {said}"))?;
                unchanged(name, &before, a, b).await?;
            }
            let told = refusals(a).await?;
            expect(told == 3, || format!("{told} refusals on the timeline"))?;

            // The pin is another fleet's: whoever answers at that address is told nothing.
            refused(b, &words(&fleet.join_command(&foreign)), "J003", 3).await?;
            unchanged("another fleet's pin", &before, a, b).await?;
            let mixed = format!(
                "pon1.{}.{}.{}",
                part(&foreign, 1),
                part(&token, 2),
                part(&token, 3)
            );
            refused(b, &words(&fleet.join_command(&mixed)), "J003", 3).await?;
            expect(refusals(a).await? == told, || "a was told the token".to_owned())?;
            // The token is right and the address is another fleet's.
            refused(b, &["join", &private, &token, "--name", "b"], "J003", 3).await?;
            expect(refusals(&c).await? == 0, || "c was told the token".to_owned())?;
            unchanged("forged", &before, a, b).await?;

            let address = a.private().to_string();
            for garbage in [
                "",
                "pon1",
                "pon1.a.b.c",
                "../../etc/passwd",
                &token[..token.len() - 1],
                &"x".repeat(70_000),
            ] {
                refused(b, &["join", &address, garbage, "--name", "b"], "J002", 2).await?;
            }
            unchanged("garbage", &before, a, b).await?;
            refused(b, &["join", "198.51.100.99", &token, "--name", "b"], "N002", 4).await?;
            // Roles that the token is not for, asked for by name or by saying nothing.
            for roles in [&[][..], &["--roles", "db"], &["--roles", "app,db"]] {
                let join = [&["join", &address, &bound, "--name", "b"], roles].concat();
                refused(b, &join, "J010", 3).await?;
            }
            unchanged("other roles", &before, a, b).await?;
            // A name or an address that is taken; the token is not used up by it.
            refused(b, &["join", &address, &token, "--name", "a"], "J004", 3).await?;
            refused(
                b,
                &["join", &address, &token, "--name", "b", "--private", &address],
                "J004",
                3,
            )
            .await?;
            unchanged("taken names", &before, a, b).await?;
            refused(&c, &["join", &address, &token, "--name", "c"], "J006", 3).await?;

            // The right one works, and works again on the same machine; on another it does not.
            fleet.join_with(&token).await?;
            identical(a, b).await?;
            wait_until_healthy(a, 2).await?;
            fleet.join_with(&token).await?;
            refused(b, &["join", &address, &token, "--name", "x"], "J006", 3).await?;
            run(&c, &["leave", "--yes"]).await?;
            let before = (snapshot(a).await?, snapshot(&c).await?);
            let said = refused(&c, &["join", &address, &token, "--name", "c"], "J001", 3).await?;
            expect(said.contains("another machine"), || said)?;
            unchanged("reused", &before, a, &c).await?;
            wait_until_healthy(a, 2).await
        },
    )
}

/// How many tokens `server` heard and refused.
async fn refusals(server: &Server) -> Result<usize, LabError> {
    let kinds = event_kinds(server).await?;
    Ok(kinds.iter().filter(|kind| *kind == "token_refused").count())
}

async fn token_of(server: &Server, more: &[&str]) -> Result<String, LabError> {
    let line = run(server, &[&["token", "new"], more].concat()).await?;
    let token = line.split_whitespace().find(|word| word.starts_with("pon1."));
    token
        .map(str::to_owned)
        .ok_or_else(|| LabError::App(format!("no token in {line:?}")))
}

async fn unchanged(
    name: &str,
    before: &(Snapshot, Snapshot),
    a: &Server,
    b: &Server,
) -> Result<(), LabError> {
    for (server, before) in [(a, &before.0), (b, &before.1)] {
        let now = snapshot(server).await?;
        let differing: Vec<String> = before
            .keys()
            .chain(now.keys())
            .filter(|key| before.get(*key) != now.get(*key) && !harmless(key))
            .map(|key| format!("{key}: {:?} then {:?}", before.get(key), now.get(key)))
            .collect();
        expect(differing.is_empty(), || {
            format!("{name} changed {}: {differing:?}", server.name())
        })?;
    }
    Ok(())
}

/// What a joiner finds out about itself, and the key that it keeps for the next attempt, bind nobody to anything.
fn harmless(key: &str) -> bool {
    key.ends_with("/node.toml") || key.ends_with("/next-key.pem")
}
