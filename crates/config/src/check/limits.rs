//! `[edge.limits]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use pontoon_fleet::{ClientLimits, Code, EdgeLimits, IpPrefix, units};

use super::Check;
use crate::raw::{self, Text};

const KIB: u64 = 1024;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

impl Check<'_> {
    pub(super) fn limits(&mut self, typed: Option<&raw::Limits>) -> Option<EdgeLimits> {
        let Some(typed) = typed else {
            return Some(EdgeLimits::default());
        };
        let line = self.size(
            "edge.limits.request_line",
            typed.request_line.as_ref(),
            KIB..=32 * KIB,
        );
        let head = self.size("edge.limits.head", typed.head.as_ref(), 2 * KIB..=48 * KIB);
        let fields = typed.fields.as_ref();
        let fields = fields.map(|fields| self.number("edge.limits.fields", Some(fields), 0, 8..=128));
        let body = typed
            .body
            .as_ref()
            .map(|text| self.bytes("edge.limits.body", text, 1));
        let rate = typed.body_rate.as_ref();
        let rate = rate.map(|text| self.bytes("edge.limits.body_rate", text, 0));
        let head_timeout = self.span("edge.limits.head_timeout", typed.head_timeout.as_ref());
        let body_timeout = self.span("edge.limits.body_timeout", typed.body_timeout.as_ref());
        let idle_timeout = self.span("edge.limits.idle_timeout", typed.idle_timeout.as_ref());
        let write_timeout = self.span("edge.limits.write_timeout", typed.write_timeout.as_ref());
        let client = match &typed.client {
            Some(client) => self.client(client),
            None => Some(ClientLimits::default()),
        };
        let (request_line, head) = (line?, head?);
        let least = request_line.unwrap_or(8 * 1024);
        if let Some(text) = typed.head.as_ref().or(typed.request_line.as_ref())
            && head.unwrap_or(32 * 1024) <= least
        {
            let message = format!(
                "`edge.limits.head` is not more than `edge.limits.request_line` ({}): no request would have room for a field",
                units::format_bytes(least.into())
            );
            self.wrong(Code::C006, message, text.span(), "");
        }
        Some(EdgeLimits {
            request_line,
            head,
            fields: all(fields)?,
            body: all(body)?,
            head_timeout: head_timeout?,
            body_timeout: body_timeout?,
            body_rate: all(rate)?,
            idle_timeout: idle_timeout?,
            write_timeout: write_timeout?,
            client: client?,
        })
    }

    fn client(&mut self, typed: &raw::Client) -> Option<ClientLimits> {
        const MOST: i64 = 1_000_000;
        let requests = typed.requests.as_ref();
        let requests =
            requests.map(|count| self.number("edge.limits.client.requests", Some(count), 0, 1..=MOST));
        let rate = typed.rate.as_ref();
        let rate = rate.map(|count| self.number("edge.limits.client.rate", Some(count), 0u32, 1..=MOST));
        let a_second = rate.flatten().unwrap_or(0);
        let burst = typed.burst.as_ref();
        if let (Some(burst), None) = (burst, &typed.rate) {
            let message = "`edge.limits.client.burst` without a `rate`: nothing is counted";
            self.wrong(Code::C006, message, burst.span(), "add rate = 50");
        }
        let burst = self.number("edge.limits.client.burst", burst, a_second, 1..=MOST);
        let v4 = typed.prefix_v4.as_ref();
        let v4 = self.number("edge.limits.client.prefix_v4", v4, 32, 8..=32);
        let v6 = typed.prefix_v6.as_ref();
        let v6 = self.number("edge.limits.client.prefix_v6", v6, 64, 16..=128);
        let exempt = typed.exempt.iter().flatten();
        let exempt: Vec<Option<IpPrefix>> = exempt
            .map(|text| self.read("edge.limits.client.exempt", text))
            .collect();
        Some(ClientLimits {
            requests: all(requests)?,
            rate: all(rate)?,
            burst: burst?,
            prefix_v4: v4?,
            prefix_v6: v6?,
            exempt: exempt.into_iter().collect::<Option<_>>()?,
        })
    }

    fn size(&mut self, path: &str, text: Option<&Text>, allowed: RangeInclusive<u64>) -> Option<Option<u32>> {
        let Some(text) = text else { return Some(None) };
        let bytes = self.bytes(path, text, *allowed.start())?;
        if !allowed.contains(&bytes) {
            let most = units::format_bytes(*allowed.end());
            self.bad(path, text, &format!("must be at most {most}"));
            return None;
        }
        u32::try_from(bytes).ok().map(Some)
    }

    fn span(&mut self, path: &str, text: Option<&Text>) -> Option<Option<Duration>> {
        match text {
            None => Some(None),
            Some(_) => self.duration(path, text, SECOND, SECOND..=HOUR).map(Some),
        }
    }
}

/// Nothing typed is nothing wrong.
fn all<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}
