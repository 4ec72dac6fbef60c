//! How `[app]` dispatches requests, beyond the rule that chooses a server.

use std::time::Duration;

use pontoon_fleet::{Code, Dispatch, HashKey, OutlierRules, PathRule, Prefer, QueueRules, is_token};

use super::Check;
use crate::raw::{self, At};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

impl Check<'_> {
    pub(super) fn dispatch(&mut self, app: &raw::App) -> Option<Dispatch> {
        let key = match &app.hash_key {
            None => Some(HashKey::default()),
            Some(text) => self.read("app.hash_key", text),
        };
        if let Some(text) = &app.hash_key
            && app.balance.as_ref().is_none_or(|balance| balance.get() != "hash")
        {
            let message = "`app.hash_key` without `balance = \"hash\"`: nothing is told apart by it";
            self.wrong(Code::C006, message, text.span(), "add balance = \"hash\"");
        }
        let sticky = match &app.sticky_cookie {
            None => Some(None),
            Some(text) if is_token(text.get()) => Some(Some(text.get().clone())),
            Some(text) => {
                self.bad("app.sticky_cookie", text, "is not the name of a cookie");
                None
            }
        };
        let prefer = self.prefer(app);
        let proxy_protocol = self.proxy_protocol(app);
        let slow_start = app.slow_start.as_ref();
        let slow_start = self.duration(
            "app.slow_start",
            slow_start,
            Duration::ZERO,
            Duration::ZERO..=HOUR,
        );
        let panic = self.share("app.panic", app.panic.as_ref(), 0);
        let outliers = match &app.outliers {
            None => Some(None),
            Some(outliers) => self.outliers(outliers).map(Some),
        };
        let max_in_flight = match &app.max_in_flight {
            None => Some(None),
            Some(most) => self
                .number("app.max_in_flight", Some(most), 0, 1..=1_000_000)
                .map(Some),
        };
        let queue = self.queue(app);
        let answer_timeout = match &app.answer_timeout {
            None => Some(None),
            Some(text) => self
                .duration("app.answer_timeout", Some(text), SECOND, SECOND..=24 * HOUR)
                .map(Some),
        };
        let routes = self.routes(app.routes.as_deref().unwrap_or_default());
        Some(Dispatch {
            key: key?,
            proxy_protocol: proxy_protocol?,
            sticky: sticky?,
            slow_start: slow_start?,
            prefer: prefer?,
            panic: panic?,
            outliers: outliers?,
            max_in_flight: max_in_flight?,
            queue: queue?,
            answer_timeout: answer_timeout?,
            routes: routes?,
        })
    }

    fn prefer(&mut self, app: &raw::App) -> Option<Prefer> {
        let Some(text) = &app.prefer else {
            return Some(Prefer::default());
        };
        let known = Prefer::ALL.into_iter().find(|one| one.as_str() == text.get());
        let Some(prefer) = known else {
            return self.none("app.prefer", text, "is none of \"any\", \"local\" and \"zone\"");
        };
        let hashes = app
            .balance
            .as_ref()
            .is_some_and(|balance| balance.get() == "hash");
        if hashes && prefer != Prefer::Any {
            let message = "`app.prefer` with `balance = \"hash\"`: equal requests would go to another server from each edge";
            self.wrong(Code::C006, message, text.span(), "leave one of them out");
            return None;
        }
        Some(prefer)
    }

    fn outliers(&mut self, typed: &raw::Outliers) -> Option<OutlierRules> {
        let usual = OutlierRules::default();
        let failures = typed.failures.as_ref();
        let failures = self.number("app.outliers.failures", failures, usual.failures, 1..=1000);
        let eject = typed.eject.as_ref();
        let eject = self.duration("app.outliers.eject", eject, usual.eject, 100 * MS..=HOUR);
        let most = typed.max_eject.as_ref();
        let most = self.duration(
            "app.outliers.max_eject",
            most,
            usual.max_eject,
            100 * MS..=24 * HOUR,
        );
        let share = typed.max_share.as_ref();
        let share = self.share("app.outliers.max_share", share, usual.max_share);
        let (eject, max_eject) = (eject?, most?);
        let place = typed.max_eject.as_ref().or(typed.eject.as_ref());
        if let Some(text) = place
            && max_eject < eject
        {
            self.bad("app.outliers.max_eject", text, "is less than `eject`");
        }
        Some(OutlierRules {
            failures: failures?,
            eject,
            max_eject,
            max_share: share?,
        })
    }

    fn queue(&mut self, app: &raw::App) -> Option<QueueRules> {
        let usual = QueueRules::default();
        let Some(typed) = &app.queue else {
            return Some(usual);
        };
        let size = typed.size.as_ref();
        if let (Some(size), None) = (size, &app.max_in_flight) {
            let message = "`app.queue` without `app.max_in_flight`: nobody would wait";
            self.wrong(Code::C006, message, size.span(), "add max_in_flight = 100");
        }
        let size = self.number("app.queue.size", size, usual.size, 0..=1_000_000);
        let wait = typed.wait.as_ref();
        let wait = self.duration("app.queue.wait", wait, usual.wait, 10 * MS..=HOUR);
        Some(QueueRules {
            size: size?,
            wait: wait?,
        })
    }

    fn routes(&mut self, typed: &[At<raw::AppRoute>]) -> Option<Vec<PathRule>> {
        let mut routes: Vec<Option<PathRule>> = Vec::new();
        for typed in typed {
            let span = typed.span();
            let typed = typed.get();
            let path = self.url_path("app.routes.path", &typed.path);
            let timeout = match &typed.answer_timeout {
                None => Some(None),
                Some(text) => self
                    .duration(
                        "app.routes.answer_timeout",
                        Some(text),
                        SECOND,
                        SECOND..=24 * HOUR,
                    )
                    .map(Some),
            };
            let body = match &typed.body {
                None => Some(None),
                Some(text) => self.bytes("app.routes.body", text, 1).map(Some),
            };
            if typed.answer_timeout.is_none() && typed.body.is_none() {
                let message = "`app.routes`: a path for which nothing is otherwise";
                let span = self.first_line(span);
                self.wrong(
                    Code::C006,
                    message,
                    span,
                    "add answer_timeout = \"5m\" or body = \"1GiB\"",
                );
            }
            let known = routes
                .iter()
                .flatten()
                .any(|route| Some(&route.path) == path.as_ref());
            if known {
                let message = format!("the path {:?} stands twice", typed.path.get());
                self.wrong(Code::C005, message, typed.path.span(), "");
            }
            routes.push(match (path, timeout, body) {
                (Some(path), Some(answer_timeout), Some(body)) => Some(PathRule {
                    path,
                    answer_timeout,
                    body,
                }),
                _ => None,
            });
        }
        routes.into_iter().collect()
    }
}
