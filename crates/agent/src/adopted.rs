//! A joiner whose database follows the fleet's primary already, by file and position: it goes over to GTID and keeps its
//! data, once everything was compared with the primary's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_replication::check::Options;
use pontoon_replication::work::BoxFuture;
use pontoon_replication::{Database, Origin, OriginAsk, SourceTicket, Wanted};
use pontoon_rt::http::Call;
use tokio::sync::mpsc::unbounded_channel;

use crate::core::Agent;
use crate::reporter::Reporter;
use crate::{compare, dial, joiner};

/// A question to the source.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is taken over, and from whom it replicates.
pub(crate) struct Adopting<'a> {
    pub(crate) database: &'a Database,
    pub(crate) source: &'a ServerName,
    pub(crate) address: SocketAddr,
    pub(crate) ticket: &'a SourceTicket,
}

impl Adopting<'_> {
    /// Takes it over; `false` when it follows nobody. To be repeated after any failure or kill.
    pub(crate) async fn run(
        &self,
        agent: &Arc<Agent>,
        wanted: &Wanted,
        reporter: &Reporter,
    ) -> Result<bool, Refusal> {
        self.taken_over(agent, wanted, reporter).await.map_err(|refusal| {
            let may_copy = matches!(refusal.code, Code::D004 | Code::D008 | Code::D012 | Code::D016);
            if !may_copy {
                return refusal;
            }
            let mut refused = Refusal::new(Code::D016, "the replica that is here is not taken over");
            if refusal.code != Code::D016 {
                refused = refused.because(refusal.what);
            }
            refused.evidence.extend(refusal.evidence);
            refused.next.extend(refusal.next);
            refused.next(
                "or have it copied anew; the data that is here is kept under another name",
                "pontoon join … --copy",
            )
        })
    }

    /// Ends when the replica stops at what it cannot apply: it would be waited for in vain.
    async fn breaks(&self) -> Refusal {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match self.database.refuse_broken().await {
                Err(refusal) if refusal.code == Code::D016 => return refusal,
                _ => {}
            }
        }
    }

    async fn taken_over(
        &self,
        agent: &Arc<Agent>,
        wanted: &Wanted,
        reporter: &Reporter,
    ) -> Result<bool, Refusal> {
        let me = agent.member()?.me;
        let source = self.source;
        reporter
            .step(&me, format!("taking over the replica of {source} that is here"))
            .await;
        // What belongs to its own files it does not take from the source.
        agent
            .store
            .save_inherited(&pontoon_replication::adoptable(&self.ticket.inherited))?;
        let ask = |ask: OriginAsk| -> BoxFuture<'_, Result<Origin, Refusal>> {
            Box::pin(async move {
                let call = Call::post(source.as_str(), "/p/v1/join/origin").timeout(PATIENCE);
                dial::ask(agent, source, self.address, &call, Some(&ask)).await
            })
        };
        let (told, mut heard) = unbounded_channel();
        let work = async {
            let mut tell = |text| {
                let _ = told.send(text);
            };
            let adopted = self.database.adopt(self.ticket, wanted, &ask, &mut tell).await;
            drop(told);
            adopted
        };
        let pass_on = async {
            while let Some(text) = heard.recv().await {
                reporter.step(&me, text).await;
            }
        };
        let (adopted, ()) = tokio::join!(work, pass_on);
        if !adopted? {
            return Ok(false);
        }
        tokio::select! {
            caught_up = joiner::wait_until_caught_up(agent, self.database, (source, self.address), reporter) => caught_up?,
            refusal = self.breaks() => return Err(refusal),
        }
        self.database
            .check_accounts(&ask(OriginAsk::default()).await?)
            .await?;
        reporter
            .step(&me, format!("comparing its rows with those of {source}"))
            .await;
        let replicas = [me.clone()];
        let checked = compare::compare(agent, source, &replicas, &Options::default(), reporter).await?;
        let same = compare::verdict(source, me.as_str(), &checked)?;
        reporter.done(&me, &same).await;
        Ok(true)
    }
}
