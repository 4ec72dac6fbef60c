//! What would happen to a request at this moment: the edge's own rules, played on what it says of itself. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use pontoon_balance::weights::hash;
use pontoon_balance::{Asked, Balancer, Latency, Rules, Server, Standing, Tried, Verdict};
use pontoon_fleet::units::{format_bytes, format_duration};
use pontoon_fleet::{BalanceRule, HashKey, ServerName};
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::state::{EdgeState, ServerState, Stands};
use crate::stay;

/// The request that is asked about.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Whether it comes over HTTPS.
    pub secure: bool,
    /// The host that it asks for.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Where it comes from.
    pub client: Option<IpAddr>,
    /// Header fields that it has.
    pub fields: Vec<(String, String)>,
    /// Cookies that it has.
    pub cookies: Vec<(String, String)>,
}

impl Question {
    /// What an edge is to be asked for its [`EdgeState`], so that its cache can say what it has.
    pub fn path(&self) -> String {
        let Question { host, target, .. } = self;
        let mut head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n");
        let cookies = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        let cookies: Vec<String> = cookies.collect();
        let cookies = (!cookies.is_empty()).then(|| ("Cookie".to_owned(), cookies.join("; ")));
        for (name, value) in self.fields.iter().chain(&cookies) {
            // Writing to a String cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        format!("/state?{}", cache::asking(self.secure, head.as_bytes()))
    }
}

/// What would happen to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// In words, in the order in which it happens.
    pub steps: Vec<String>,
    /// Where a thousand such requests would go at this moment, most first; empty when it goes to no server.
    pub shares: Vec<(ServerName, u32)>,
    /// What the edge says of itself.
    pub state: EdgeState,
}

/// So many requests are played.
const PLAYED: u32 = 1000;

impl Explanation {
    /// What an edge in `state` does with what `question` describes.
    pub fn of(state: EdgeState, question: &Question) -> Explanation {
        let mut explanation = Explanation {
            steps: Vec::new(),
            shares: Vec::new(),
            state,
        };
        if let Some(port) = explanation.state.redirect_port.filter(|_| !question.secure) {
            let text = format!("it is sent to HTTPS on port {port}, with 301 or 308 (edge.tls.redirect)");
            explanation.steps.push(text);
            return explanation;
        }
        explanation.limits(question);
        if explanation.is_maintained(question) {
            return explanation;
        }
        let cache = explanation.state.cache.clone().unwrap_or_default();
        explanation.steps.extend(cache.says);
        if !cache.is_hit {
            explanation.server(question);
        }
        explanation
    }

    fn is_maintained(&mut self, question: &Question) -> bool {
        let now = self.state.now;
        let Some(maintenance) = self.state.maintenance.as_ref().filter(|one| !one.is_over(now)) else {
            return false;
        };
        let exempt = question.client.filter(|client| !maintenance.meets(*client, now));
        self.steps.push(match exempt {
            Some(client) => format!("there is maintenance, and {client} is served all the same (--except)"),
            None => "503 with the maintenance page (pontoon edge maintenance)".to_owned(),
        });
        exempt.is_none()
    }

    fn limits(&mut self, question: &Question) {
        let (state, steps) = (&self.state, &mut self.steps);
        let client = &state.client;
        let counted = client.requests.is_some() || client.rate.is_some();
        let exempt = question
            .client
            .and_then(|address| client.exempt.iter().find(|network| network.contains(address)));
        match exempt {
            Some(network) if counted => {
                steps.push(format!(
                    "its client is not counted: {network} (edge.limits.client.exempt)"
                ));
            }
            _ => {
                if let Some(most) = client.requests {
                    steps.push(format!(
                        "429 while its client has {most} requests under way (edge.limits.client.requests)"
                    ));
                }
                if let Some(rate) = client.rate {
                    let burst = client.burst;
                    steps.push(format!(
                        "429 when its client asks more than {rate} times a second, or {burst} times at once (edge.limits.client)"
                    ));
                }
            }
        }
        let route = state.dispatch.route(question.target.as_bytes());
        let place = route.map(|route| format!("app.routes {:?}", route.path));
        let place = |own: bool, usual: &str| match &place {
            Some(place) if own => place.clone(),
            _ => usual.to_owned(),
        };
        let own = route.and_then(|route| route.body);
        if let Some(most) = own.or(state.body) {
            let place = place(own.is_some(), "edge.limits.body");
            steps.push(format!(
                "413 if its body has more than {} ({place})",
                format_bytes(most)
            ));
        }
        let own = route.and_then(|route| route.answer_timeout);
        let usual = std::time::Duration::from_millis(state.answer_timeout_ms);
        let patience = own.or(state.dispatch.answer_timeout).unwrap_or(usual);
        let place = place(own.is_some(), "app.answer_timeout");
        steps.push(format!(
            "504 when the application is silent for {} ({place})",
            format_duration(patience)
        ));
    }

    fn server(&mut self, question: &Question) {
        let state = &self.state;
        let Some(rule) = state.balance else {
            self.steps.push("503: there is no application".to_owned());
            return;
        };
        let cookie = |name: &str| {
            let found = question.cookies.iter().find(|(cookie, _)| cookie == name);
            found.map(|(_, value)| value.as_str())
        };
        let sticky = state.dispatch.sticky.as_deref();
        let stay = sticky.and_then(|name| stay::id(cookie(name)?.as_bytes()));
        let value = match &state.dispatch.key {
            HashKey::Address => None,
            HashKey::Target => Some(question.target.as_str()),
            HashKey::Cookie(name) => cookie(name),
            HashKey::Field(name) => {
                let mut fields = question.fields.iter();
                let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_str())
            }
        };
        let key = match (value, question.client.map(|client| client.to_canonical())) {
            (Some(value), _) => hash(value.as_bytes()),
            (None, Some(IpAddr::V4(address))) => hash(&address.octets()),
            (None, Some(IpAddr::V6(address))) => hash(&address.octets()),
            (None, None) => hash(b""),
        };
        let tried = Tried::default();
        let asked = Asked {
            tried: &tried,
            key,
            stay,
        };
        let rules = Rules {
            rule,
            panic: state.dispatch.panic,
        };
        let mut balancer = Balancer::new(0);
        let mut counts = vec![0u32; state.servers.len()];
        let mut verdict = Verdict::Nobody;
        let mut panic = false;
        for _ in 0..PLAYED {
            verdict = balancer.choose(rules, state.servers.iter().map(known), &asked, 0);
            let Verdict::To(choice) = verdict else { break };
            counts[choice.index] += 1;
            panic = choice.panic;
        }
        let names = state.servers.iter().map(|server| server.server.clone());
        self.shares = names.zip(counts).filter(|(_, count)| *count > 0).collect();
        self.shares.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let queue = &state.dispatch.queue;
        self.steps.push(match (verdict, self.shares.as_slice()) {
            (Verdict::Nobody, _) => {
                "no server may get it: it is held for a moment, then 503 with Retry-After".to_owned()
            }
            (Verdict::Full, _) => format!(
                "every server has as many requests as it may (app.max_in_flight): it waits in line behind {}, {} at most, \
                 then 503 with Retry-After (app.queue)",
                state.waiting,
                format_duration(queue.wait)
            ),
            (Verdict::To(_), [(name, _)]) if stays_there(state, stay, name) => {
                format!("it goes to {name}: its cookie says so (app.sticky_cookie)")
            }
            (Verdict::To(_), [(name, _)]) if rule == BalanceRule::Hash => {
                format!("it goes to {name}: equal requests by {} do", state.dispatch.key)
            }
            (Verdict::To(_), [(name, _)]) if is_nearer(state, name) && !panic => format!(
                "it goes to {name}: app.prefer = {:?}, and it is in service and has room",
                state.dispatch.prefer.as_str()
            ),
            (Verdict::To(_), [(name, _)]) => format!("it goes to {name}: nobody else would be asked now"),
            (Verdict::To(_), shares) => {
                let of = shares.iter().map(|(name, count)| format!("{name} {count}"));
                let of: Vec<String> = of.collect();
                let near = match shares.iter().all(|(name, _)| is_nearer(state, name)) && !panic {
                    true => format!(", of the nearest: app.prefer = {:?}", state.dispatch.prefer.as_str()),
                    false => String::new(),
                };
                format!("of {PLAYED} such at this moment: {} ({}{near})", of.join(", "), rule.as_str())
            }
        });
        if panic {
            self.steps.push(
                "too few servers are in service: all that are not drained are tried (app.panic)".to_owned(),
            );
        }
        if let (Some(name), false) = (sticky, self.shares.is_empty()) {
            let has = stay.is_some_and(
                |_| matches!(self.shares.as_slice(), [(server, _)] if stays_there(&self.state, stay, server)),
            );
            if !has {
                self.steps
                    .push(format!("its answer sets the cookie {name} (app.sticky_cookie)"));
            }
        }
    }
}

fn stays_there(state: &EdgeState, stay: Option<u64>, name: &ServerName) -> bool {
    let mut servers = state.servers.iter();
    servers.any(|server| &server.server == name && Some(server.id) == stay)
}

/// Whether another server that could be asked is farther away than `name`.
fn is_nearer(state: &EdgeState, name: &ServerName) -> bool {
    let far = state.servers.iter().find(|server| &server.server == name);
    far.is_some_and(|near| {
        let mut others = state.servers.iter();
        others.any(|server| server.far > near.far && server.stands == Stands::InService && !server.full)
    })
}

fn known(server: &ServerState) -> Server {
    Server {
        id: server.id,
        standing: match server.stands {
            Stands::InService => Standing::InService,
            Stands::Unhealthy => Standing::Unhealthy,
            Stands::LeftOut => Standing::Ejected,
            Stands::Drained => Standing::Draining,
        },
        weight: server.share.max(f32::MIN_POSITIVE),
        full: server.full,
        in_flight: server.in_flight,
        latency: match (server.answers_ms * 1000.0) as u32 {
            0 => Latency::default(),
            micros => Latency::default().with(micros, 0),
        },
        far: server.far,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_fleet::{ClientLimits, Dispatch, PathRule};

    fn server(name: &str, stands: Stands) -> ServerState {
        ServerState {
            server: name.parse().unwrap(),
            id: hash(name.as_bytes()),
            way: "127.0.0.1:8080".to_owned(),
            stands,
            reason: None,
            left_out_ms: 0,
            in_flight: 0,
            full: false,
            answers_ms: 5.0,
            share: 1.0,
            weight: 1.0,
            far: 0,
        }
    }

    fn state(servers: Vec<ServerState>) -> EdgeState {
        EdgeState {
            maintenance: None,
            cache: None,
            now: pontoon_fleet::UnixMillis(1_000),
            serial: 1,
            balance: Some(BalanceRule::RoundRobin),
            dispatch: Dispatch::default(),
            body: None,
            answer_timeout_ms: 60_000,
            client: ClientLimits::default(),
            redirect_port: None,
            waiting: 0,
            held: 0,
            servers,
        }
    }

    fn ask(state: &EdgeState, question: &Question) -> (Vec<String>, Vec<String>) {
        let explanation = Explanation::of(state.clone(), question);
        let shares = explanation.shares.iter();
        let shares = shares.map(|(name, count)| format!("{name} {count}")).collect();
        (explanation.steps, shares)
    }

    #[test]
    fn the_nearest_is_named_as_such() {
        let mut state = state(
            ["a", "b", "c"]
                .map(|name| server(name, Stands::InService))
                .to_vec(),
        );
        state.dispatch.prefer = pontoon_fleet::Prefer::Local;
        (state.servers[1].far, state.servers[2].far) = (1, 2);
        let (steps, shares) = ask(&state, &Question::default());
        assert_eq!(shares, ["a 1000"]);
        assert!(
            steps.last().unwrap().contains("app.prefer = \"local\""),
            "{steps:?}"
        );
        state.servers[0].full = true;
        state.servers[2].far = 1;
        let (steps, shares) = ask(&state, &Question::default());
        assert_eq!(shares, ["b 500", "c 500"]);
        assert!(
            !steps.last().unwrap().contains("app.prefer"),
            "nobody is farther: {steps:?}"
        );
    }

    #[test]
    fn shares_are_those_of_the_balancer() {
        use Stands::{Drained, InService, Unhealthy};
        let mut state = state(vec![
            server("a", InService),
            server("b", InService),
            server("c", Unhealthy),
            server("d", Drained),
        ]);
        state.servers[0].share = 3.0;
        let (steps, shares) = ask(&state, &Question::default());
        assert_eq!(shares, ["a 750", "b 250"]);
        assert_eq!(
            steps.last().unwrap(),
            "of 1000 such at this moment: a 750, b 250 (round-robin)"
        );
        state.servers[0].full = true;
        assert_eq!(ask(&state, &Question::default()).1, ["b 1000"]);
        state.servers[1].full = true;
        assert!(
            ask(&state, &Question::default())
                .0
                .last()
                .unwrap()
                .contains("waits in line")
        );
        state
            .servers
            .iter_mut()
            .for_each(|server| server.stands = Drained);
        assert!(
            ask(&state, &Question::default())
                .0
                .last()
                .unwrap()
                .starts_with("no server may get it")
        );
        state.servers[1].stands = Unhealthy;
        state.servers[1].full = false;
        let (steps, shares) = ask(&state, &Question::default());
        assert_eq!(shares, ["b 1000"]);
        assert!(steps.last().unwrap().contains("app.panic"));
    }

    #[test]
    fn what_the_configuration_says_for_it() {
        let mut state = state(vec![
            server("a", Stands::InService),
            server("b", Stands::InService),
        ]);
        state.redirect_port = Some(443);
        assert!(ask(&state, &Question::default()).0[0].contains("HTTPS on port 443"));
        state.dispatch.sticky = Some("where".to_owned());
        state.dispatch.routes = vec![PathRule {
            path: "/export/".to_owned(),
            answer_timeout: Some(std::time::Duration::from_secs(600)),
            body: Some(1 << 30),
        }];
        state.client.rate = Some(5);
        state.client.exempt = vec!["198.51.100.0/24".parse().unwrap()];
        let question = Question {
            secure: true,
            target: "/export/x".to_owned(),
            client: Some("198.51.100.9".parse().unwrap()),
            cookies: vec![("where".to_owned(), format!("{:016x}", hash(b"b")))],
            ..Question::default()
        };
        let (steps, shares) = ask(&state, &question);
        assert_eq!(
            steps,
            [
                "its client is not counted: 198.51.100.0/24 (edge.limits.client.exempt)",
                "413 if its body has more than 1GiB (app.routes \"/export/\")",
                "504 when the application is silent for 10m (app.routes \"/export/\")",
                "it goes to b: its cookie says so (app.sticky_cookie)",
            ]
        );
        assert_eq!(shares, ["b 1000"]);
        let stranger = Question {
            client: None,
            cookies: Vec::new(),
            ..question
        };
        let (steps, _) = ask(&state, &stranger);
        assert!(steps[0].starts_with("429 when"), "{steps:?}");
        assert!(
            steps.last().unwrap().contains("sets the cookie where"),
            "{steps:?}"
        );
    }
}
