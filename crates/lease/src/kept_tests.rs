//! A store that is killed, slow, lying: what [`Kept`] makes of its answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use pontoon_fleet::Code;

use crate::cell::{Cell, CellError, Content, Put};
use crate::probe::{Effort, probe};
use crate::{Kept, LeaseError, LeaseStore, Swap, Version};

#[path = "../tests/common/record.rs"]
mod record;
use record::record;

/// What the store does with the next write.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// As it should.
    Honest,
    /// Takes it and says 412: an answer that was lost, and a retry.
    TakeAndRefuse,
    /// Takes it and does not answer.
    TakeAndHang,
    /// Does not answer, and may take it later.
    Hang,
    /// Says «taken» and does not keep it.
    Forget,
    /// Takes it, whatever the condition.
    Blind,
    /// Answers 500 to everything from now on.
    Dead,
}

type Shared = Arc<Mutex<(Option<(Vec<u8>, u64)>, u64, bool)>>;

#[derive(Clone, Debug, Default)]
struct Fake {
    content: Shared,
    acts: Arc<Mutex<VecDeque<Act>>>,
    always: Option<Act>,
}

impl Fake {
    fn next(acts: &[Act]) -> Fake {
        Fake {
            acts: Arc::new(Mutex::new(acts.iter().copied().collect())),
            ..Fake::default()
        }
    }
}

impl Cell for Fake {
    fn place(&self) -> String {
        "fake".into()
    }

    fn get(&self) -> BoxFuture<'_, Result<Content, CellError>> {
        let content = self.content.lock().unwrap();
        let found = content
            .0
            .clone()
            .map(|(bytes, version)| (bytes, Version::new(version.to_string())));
        let answer = if content.2 {
            Err(CellError::Doubt("500".into()))
        } else {
            Ok(found)
        };
        async move { answer }.boxed()
    }

    fn put<'a>(
        &'a self,
        expected: Option<&'a Version>,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Put, CellError>> {
        let act = self
            .acts
            .lock()
            .unwrap()
            .pop_front()
            .or(self.always)
            .unwrap_or(Act::Honest);
        let content = &mut *self.content.lock().unwrap();
        let there = content.0.as_ref().map(|(_, version)| version.to_string());
        let holds = there.as_deref() == expected.map(Version::as_str);
        let mut take = || {
            content.1 += 1;
            content.0 = Some((body.clone(), content.1));
            Version::new(content.1.to_string())
        };
        let answer = match act {
            Act::Honest if holds => Ok(Put::Taken(take())),
            Act::Honest => Ok(Put::Refused),
            Act::TakeAndRefuse => {
                if holds {
                    take();
                }
                Ok(Put::Refused)
            }
            Act::TakeAndHang => {
                if holds {
                    take();
                }
                Err(CellError::Doubt("nothing within 3s".into()))
            }
            Act::Hang => Err(CellError::Doubt("nothing within 3s".into())),
            Act::Forget => Ok(Put::Taken(Version::new("lost"))),
            Act::Blind => Ok(Put::Taken(take())),
            Act::Dead => {
                content.2 = true;
                Err(CellError::Doubt("500".into()))
            }
        };
        async move { answer }.boxed()
    }

    fn beside(&self, _: &str) -> Box<dyn Cell> {
        Box::new(Fake {
            content: Shared::default(),
            ..self.clone()
        })
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), CellError>> {
        self.content.lock().unwrap().0 = None;
        async { Ok(()) }.boxed()
    }
}

#[tokio::test]
async fn an_answer_that_was_lost_or_wrong_is_found_out_by_the_nonce() {
    for act in [Act::TakeAndRefuse, Act::TakeAndHang] {
        let store = Kept::new(Box::new(Fake::next(&[Act::Honest, act])));
        let Swap::Won(first) = store.compare_and_swap(None, &record(1, "a", 1)).await.unwrap() else {
            panic!()
        };
        let swap = store
            .compare_and_swap(Some(&first), &record(1, "a", 2))
            .await
            .unwrap();
        assert!(matches!(swap, Swap::Won(_)), "{act:?}: {swap:?}");
        assert_eq!(store.read().await.unwrap().unwrap().0, record(1, "a", 2));
    }
}

#[tokio::test]
async fn a_write_that_may_still_come_is_a_doubt() {
    let store = Kept::new(Box::new(Fake::next(&[Act::Honest, Act::Hang])));
    let Swap::Won(first) = store.compare_and_swap(None, &record(1, "a", 1)).await.unwrap() else {
        panic!()
    };
    let error = store
        .compare_and_swap(Some(&first), &record(1, "a", 2))
        .await
        .unwrap_err();
    assert!(matches!(error, LeaseError::Doubt(_)), "{error}");
    // Another was faster meanwhile: then it cannot come any more.
    store
        .compare_and_swap(Some(&first), &record(2, "a", 3))
        .await
        .unwrap();
    let swap = store
        .compare_and_swap(Some(&first), &record(1, "a", 4))
        .await
        .unwrap();
    assert!(matches!(swap, Swap::Lost(Some((there, _))) if there == record(2, "a", 3)));
}

#[tokio::test]
async fn a_store_that_dies_in_the_middle_leaves_a_doubt_and_no_guess() {
    let store = Kept::new(Box::new(Fake::next(&[Act::Honest, Act::Dead])));
    let Swap::Won(first) = store.compare_and_swap(None, &record(1, "a", 1)).await.unwrap() else {
        panic!()
    };
    let error = store
        .compare_and_swap(Some(&first), &record(1, "a", 2))
        .await
        .unwrap_err();
    assert!(matches!(error, LeaseError::Doubt(_)), "{error}");
    assert!(matches!(store.read().await, Err(LeaseError::Unanswered { .. })));
}

#[tokio::test]
async fn what_is_no_record_is_damage_and_never_nothing() {
    for text in [&b""[..], b"{}", b"null", b"\xff", b"{\"epoch\":1}"] {
        let fake = Fake::default();
        fake.content.lock().unwrap().0 = Some((text.to_vec(), 1));
        let error = Kept::new(Box::new(fake)).read().await.unwrap_err();
        assert!(matches!(error, LeaseError::Damaged { .. }), "{text:?}: {error}");
    }
}

#[tokio::test]
async fn the_probe_passes_an_honest_store_and_refuses_liars() {
    let effort = Effort {
        writers: 4,
        rounds: 3,
    };
    let report = probe(&Fake::default(), "x", effort).await.unwrap();
    assert_eq!(report.verdict(), Ok(()));
    assert_eq!(
        (report.rounds, report.create_several_winners, report.stale_taken),
        (3, 0, 0)
    );
    let blind = Fake {
        always: Some(Act::Blind),
        ..Fake::default()
    };
    let refusal = probe(&blind, "x", effort).await.unwrap().verdict().unwrap_err();
    assert_eq!(refusal.code, Code::F006);
    assert!(refusal.evidence.len() > 1, "{refusal:?}");
    let dead = Fake {
        always: Some(Act::Dead),
        ..Fake::default()
    };
    assert_eq!(probe(&dead, "x", effort).await.unwrap_err().code, Code::N002);
    let forgets = Fake {
        always: Some(Act::Forget),
        ..Fake::default()
    };
    assert!(probe(&forgets, "x", effort).await.is_err());
}
