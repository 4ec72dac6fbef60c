//! `pontoon plan` and `pontoon apply`.
//!
//! With an agent, the agent plans: it asks every server. Before the first apply there is none; then the same pure
//! function plans from what is found here, and the agent that `apply` starts must come to the same plan.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pontoon_agent::api::{ApplyRequest, PlanAnswer, PlanRequest};
use pontoon_agent::detect;
use pontoon_agent::detect::database::facts_of_node;
use pontoon_agent::detect::disk::nothing_applied;
use pontoon_decide::{Plan, plan as decide_plan};
use pontoon_fleet::{Code, Refusal};
use pontoon_helper::Node;
use pontoon_pki::Identity;
use pontoon_rt::files;
use serde::{Deserialize, Serialize};

use super::change::follow;
use super::config::{Loaded, load, refuse_not_yet};
use super::file;
use super::{Context, machine};
use crate::args::{Apply, PlanArgs};
use crate::output::paint::harmless;
use crate::start;

/// `pontoon plan`
pub async fn plan(context: &Context, args: &PlanArgs) -> anyhow::Result<u8> {
    file::bring_up_to_date(context)?;
    let loaded = load(context)?;
    let made = make(context, &loaded).await?;
    if args.json {
        context.screen.json(&PlanAnswer {
            base: made.plan.base,
            plan: made.plan.clone(),
        })?;
    } else {
        show(context, &made.plan)?;
    }
    Ok(if args.exit_code && !made.plan.is_empty() {
        HAS_CHANGES
    } else {
        0
    })
}

/// `pontoon apply [ID]`
pub async fn apply(context: &Context, args: Apply) -> anyhow::Result<u8> {
    if let Some(id) = &args.plan {
        let id = checked_id(id)?;
        let saved = read_saved(context, &id)?;
        start_agent(context, args.json).await?;
        if let Some(saved) = saved {
            same_plan(context, &saved.text, &id).await?;
        }
        return carry_out(context, id, args.json).await;
    }
    file::bring_up_to_date(context)?;
    let loaded = load(context)?;
    refuse_not_yet(context, &loaded)?;
    if !nothing_applied(&context.paths)? {
        // Agent or helper of a fleet that runs was killed, or the machine started anew: `apply` is what starts them.
        start_agent(context, args.json).await?;
    }
    let made = make(context, &loaded).await?;
    if !args.json {
        show(context, &made.plan)?;
    }
    if let Some(blocker) = made.plan.blockers.first() {
        return Err(blocker.clone().into());
    }
    if made.plan.is_empty() {
        return match made.local {
            true => Ok(0),
            // Asked for on purpose: what was in the way may be gone.
            false => carry_out(context, made.plan.id, args.json).await,
        };
    }
    if !args.yes && !args.json {
        if !context.screen.can_ask() {
            return Err(Refusal::new(Code::P007, "nobody said yes to this plan")
                .because("there is no terminal to ask on")
                .next("exactly this plan", format!("pontoon apply {}", made.plan.id))
                .next("whatever it is", "pontoon apply --yes")
                .into());
        }
        if !context.screen.ask("Apply?") {
            context.screen.remark("  Nothing was changed.\n");
            return Ok(1);
        }
    }
    if made.local {
        start_agent(context, args.json).await?;
        same_plan(context, &loaded.text, &made.plan.id).await?;
    }
    carry_out(context, made.plan.id, args.json).await
}

struct Made {
    plan: Plan,
    /// Whether it was made here and no agent knows of it.
    local: bool,
}

async fn make(context: &Context, loaded: &Loaded) -> anyhow::Result<Made> {
    if !context.client.answers().await && nothing_applied(&context.paths)? {
        return Ok(Made {
            plan: make_here(context, loaded).await?,
            local: true,
        });
    }
    let answer: PlanAnswer = context
        .client
        .post(
            "/v1/plan",
            &PlanRequest {
                text: loaded.text.clone(),
            },
        )
        .await?;
    Ok(Made {
        plan: answer.plan,
        local: false,
    })
}

/// The first plan of a fleet, from what is found on this machine.
async fn make_here(context: &Context, loaded: &Loaded) -> anyhow::Result<Plan> {
    let Ok(identity) = Identity::load(&context.paths.identity_dir()) else {
        return Err(crate::client::no_fleet(&context.paths).into());
    };
    // From the node file, as the agent does it: both must come to the same plan.
    let database = Node::load(&context.paths.node_file())?
        .database
        .as_ref()
        .map(facts_of_node);
    let upstream = loaded.config.app.as_ref().map(|app| app.upstream);
    let facts = detect::facts(database, upstream).await;
    let facts = BTreeMap::from([(identity.name().clone(), facts)]);
    let plan = decide_plan(None, &loaded.config, &facts);
    save(context, &plan, &loaded.text);
    Ok(plan)
}

fn show(context: &Context, plan: &Plan) -> anyhow::Result<()> {
    // What agents said stands in it: facts of other servers.
    let text: String = plan
        .render()
        .lines()
        .map(|line| format!("  {}\n", harmless(line)))
        .collect();
    context.screen.answer(&text)?;
    Ok(())
}

async fn start_agent(context: &Context, json: bool) -> Result<(), Refusal> {
    if Identity::load(&context.paths.identity_dir()).is_err() && !context.client.answers().await {
        return Err(crate::client::no_fleet(&context.paths));
    }
    for what in start::ensure_running(&context.paths).await? {
        if !json {
            context
                .screen
                .remark(&format!("  {} {what} started\n", context.screen.err.good("✓")));
        }
    }
    Ok(())
}

/// Lets the agent plan the same text; refuses when it comes to another plan than the one that was looked at.
async fn same_plan(context: &Context, text: &str, id: &str) -> Result<(), Refusal> {
    let answer: PlanAnswer = context
        .client
        .post(
            "/v1/plan",
            &PlanRequest {
                text: text.to_owned(),
            },
        )
        .await?;
    if answer.plan.id == id {
        return Ok(());
    }
    Err(
        Refusal::new(Code::P001, format!("plan {id} is no longer what would be done"))
            .because(format!(
                "now it is plan {} for revision {}",
                harmless(&answer.plan.id),
                answer.base
            ))
            .next("look at what it is now", "pontoon plan"),
    )
}

async fn carry_out(context: &Context, id: String, json: bool) -> anyhow::Result<u8> {
    let again = format!("pontoon apply {id}");
    follow(
        context,
        "/v1/apply",
        &ApplyRequest {
            plan: Some(id),
            text: None,
        },
        json,
        &again,
    )
    .await
}

/// A plan with the configuration that it was made from: as the agent keeps those that it made, in the same place.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    plan: Plan,
    text: String,
}

/// Keeps a plan for `apply ID`. Who may look but not write (not root) still sees it.
fn save(context: &Context, plan: &Plan, text: &str) {
    let saved = Saved {
        plan: plan.clone(),
        text: text.to_owned(),
    };
    let path = saved_path(context, &plan.id);
    let written = path
        .parent()
        .map_or(Ok(()), |dir| files::create_dir(dir, 0o750).map_err(Refusal::from))
        .and_then(|()| {
            serde_json::to_vec_pretty(&saved).map_err(|error| Refusal::new(Code::N007, error.to_string()))
        })
        .and_then(|bytes| files::write_atomic(&path, &bytes, 0o640).map_err(Refusal::from))
        // The agent keeps its own plans there too.
        .and_then(|()| machine::give_away(&context.paths, path.parent().unwrap_or(&path)));
    if let Err(refusal) = written {
        context.screen.remark(&format!(
            "  ! the plan could not be kept for `pontoon apply {}`: {refusal}\n",
            plan.id
        ));
    }
}

fn read_saved(context: &Context, id: &str) -> Result<Option<Saved>, Refusal> {
    let path = saved_path(context, id);
    let Some(bytes) = files::read_limited(&path, LARGEST_PLAN)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Refusal::new(Code::N006, format!("cannot use {}", path.display()))
            .because(error.to_string())
            .next("make a new one", "pontoon plan")
    })
}

fn saved_path(context: &Context, id: &str) -> PathBuf {
    context.paths.state_dir.join("plans").join(format!("{id}.json"))
}

/// An id becomes a file name: nothing but letters and digits.
fn checked_id(id: &str) -> Result<String, Refusal> {
    let id = id.trim().to_ascii_lowercase();
    if !id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Ok(id);
    }
    Err(
        Refusal::new(Code::P002, format!("{:?} is not the id of a plan", harmless(&id)))
            .next("make one", "pontoon plan"),
    )
}

const HAS_CHANGES: u8 = 10;
const LARGEST_PLAN: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_the_folder_of_plans() {
        for bad in ["", "../../etc/passwd", "a/b", "a.b", "é", &"a".repeat(65)] {
            assert_eq!(checked_id(bad).unwrap_err().code, Code::P002, "{bad}");
        }
        assert_eq!(checked_id(" 7F3A9C01 "), Ok("7f3a9c01".to_owned()));
    }
}
