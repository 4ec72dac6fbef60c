//! `pontoon token new`, `pontoon join`, `pontoon leave`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pontoon_agent::DEFAULT_PORT as AGENT_PORT;
use pontoon_agent::api::{JoinRequest, LeaveRequest, TokenAnswer, TokenRequest};
use pontoon_agent::detect::addresses;
use pontoon_agent::detect::system::System;
use pontoon_fleet::{Code, Refusal, Role, ServerName};
use pontoon_pki::Token;

use super::change::follow;
use super::{Context, file, machine};
use crate::args::{Join, Leave, TokenNew};
use crate::output::when;
use crate::start;

/// Prints the line to paste on the new server, and nothing else, on standard output.
pub async fn token_new(context: &Context, args: &TokenNew) -> anyhow::Result<u8> {
    let answer: TokenAnswer = context
        .client
        .post(
            "/v1/token",
            &TokenRequest {
                ttl: args.ttl,
                roles: args.roles.clone().map(|roles| roles.into_iter().collect()),
            },
        )
        .await?;
    if args.json {
        context.screen.json(&answer)?;
        return Ok(0);
    }
    // What is pasted into a root shell must be exactly a token, whatever answered.
    let token = parse_token(&answer.token)
        .map_err(|_| Refusal::new(Code::N005, "the agent's answer is not a join token"))?;
    let screen = context.screen;
    screen.remark(&format!(
        "  Run on the new server (valid {}, once):\n",
        when::span(args.ttl)
    ));
    if screen.out_is_terminal {
        screen.answer("    ")?;
    }
    let roles = args.roles.iter().map(|roles| {
        let words: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        format!(" --roles {}", words.join(","))
    });
    screen.answer(&format!(
        "pontoon join {} {token}{}\n",
        short_address(answer.address),
        roles.collect::<String>()
    ))?;
    Ok(0)
}

/// Makes this machine join. The agent does it; repeated, it goes on where it was interrupted.
pub async fn join(context: &Context, args: Join) -> anyhow::Result<u8> {
    let token = parse_token(&args.token)?;
    let address = resolve(&args.address).await?;
    let name = match args.name {
        Some(name) => name,
        None => own_name(context)?,
    };
    let copy = if args.copy { " --copy" } else { "" };
    let again = format!("pontoon join {} {}{copy}", args.address, args.token);
    if args.roles.as_ref().is_none_or(|roles| roles.contains(&Role::Db)) {
        machine::make_dirs(&context.paths).await;
        for note in machine::know_database(&context.paths, &again).await? {
            if !args.json {
                context
                    .screen
                    .remark(&format!("  {} {note}\n", context.screen.err.warn("!")));
            }
        }
    }
    for what in start::ensure_running(&context.paths).await? {
        if !args.json {
            context
                .screen
                .remark(&format!("  {} {what} started\n", context.screen.err.good("✓")));
        }
    }
    let request = JoinRequest {
        address,
        token: token.to_string(),
        name,
        private: args.private,
        public: if args.public.is_empty() {
            own_public(args.roles.as_deref())
        } else {
            args.public
        },
        roles: args.roles,
        copy: args.copy,
    };
    let status = follow(context, "/v1/join", &request, args.json, &again).await?;
    if status == 0 {
        file::bring_up_to_date(context)?;
    }
    Ok(status)
}

/// Takes this server out of its fleet.
pub async fn leave(context: &Context, args: &Leave) -> anyhow::Result<u8> {
    if !args.yes && !args.json {
        let status: pontoon_agent::api::Status = context.client.get("/v1/status").await?;
        let (Some(me), Some(fleet)) = (&status.me, &status.fleet) else {
            return Err(crate::client::no_fleet(&context.paths).into());
        };
        let fleet = crate::output::paint::harmless(fleet);
        if !context.screen.can_ask() {
            return Err(
                Refusal::new(Code::P007, format!("{me} would leave fleet {fleet}"))
                    .because("there is no terminal to ask on")
                    .next("to say yes beforehand", "pontoon leave --yes")
                    .into(),
            );
        }
        let question = format!(
            "{me} leaves fleet {fleet}: its edge and SQL proxy stop, its database goes back to where it was.\nLeave?"
        );
        if !context.screen.ask(&question) {
            context.screen.remark("  Nothing was changed.\n");
            return Ok(1);
        }
    }
    let is_the_fleets = file::is_the_fleets(context)?;
    let status = follow(context, "/v1/leave", &LeaveRequest {}, args.json, "pontoon leave").await?;
    if status == 0 && is_the_fleets {
        file::set_aside(context)?;
    }
    Ok(status)
}

fn parse_token(text: &str) -> Result<Token, Refusal> {
    text.trim().parse().map_err(|error| {
        Refusal::new(Code::J002, "this is not a join token")
            .because(format!("{error}"))
            .next("make one, on a server of the fleet", "pontoon token new")
    })
}

fn own_name(context: &Context) -> Result<ServerName, Refusal> {
    // A join that is repeated keeps the name that its certificate has.
    if let Ok(identity) = pontoon_pki::Identity::load(&context.paths.identity_dir()) {
        return Ok(identity.name().clone());
    }
    System::look(Path::new("/")).server_name().ok_or_else(|| {
        Refusal::new(Code::J004, "this machine's host name is no name for a server")
            .next("choose one", "pontoon join ADDRESS TOKEN --name NAME")
    })
}

/// The addresses of this machine that are not of private networks, when visitors are to arrive here at all.
fn own_public(roles: Option<&[Role]>) -> Vec<IpAddr> {
    if roles.is_some_and(|roles| !roles.contains(&Role::Edge)) {
        return Vec::new();
    }
    let choice = addresses::choose(&addresses::look(Path::new("/")));
    choice
        .public
        .into_iter()
        .filter(|ip| !addresses::is_private(*ip))
        .collect()
}

/// `10.0.0.1`, `10.0.0.1:7400`, `[fd00::1]:7400`, `fd00::1`, or a name that the resolver knows.
async fn resolve(text: &str) -> Result<SocketAddr, Refusal> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(ip, AGENT_PORT));
    }
    let unknown = |why: String| {
        Refusal::new(Code::N002, format!("{text:?} is not an address"))
            .because(why)
            .next("as printed on a server of the fleet by", "pontoon token new")
    };
    let with_port = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.parse::<u16>().is_ok() => text.to_owned(),
        _ => format!("{text}:{AGENT_PORT}"),
    };
    let found = tokio::time::timeout(Duration::from_secs(10), tokio::net::lookup_host(with_port)).await;
    match found {
        Ok(Ok(mut addresses)) => addresses
            .next()
            .ok_or_else(|| unknown("it has no address".to_owned())),
        Ok(Err(error)) => Err(unknown(error.to_string())),
        Err(_) => Err(unknown("the resolver does not answer".to_owned())),
    }
}

/// Without the port when it is the usual one.
fn short_address(address: SocketAddr) -> String {
    if address.port() == AGENT_PORT {
        address.ip().to_string()
    } else {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_taken_as_people_write_them() {
        for (text, address) in [
            ("198.51.100.1", "198.51.100.1:7400"),
            ("198.51.100.1:7500", "198.51.100.1:7500"),
            ("2001:db8::1", "[2001:db8::1]:7400"),
            ("[2001:db8::1]", "[2001:db8::1]:7400"),
            ("[2001:db8::1]:7500", "[2001:db8::1]:7500"),
        ] {
            assert_eq!(resolve(text).await, Ok(address.parse().unwrap()), "{text}");
            assert_eq!(
                resolve(&short_address(address.parse().unwrap())).await,
                Ok(address.parse().unwrap())
            );
        }
        assert!(resolve("no such host!").await.is_err());
    }

    #[test]
    fn what_is_not_a_token_is_refused_before_anything_starts() {
        for bad in ["", "pon1", "pon1.a.b.c", "$(reboot)"] {
            assert_eq!(parse_token(bad).unwrap_err().code, Code::J002, "{bad}");
        }
    }
}
