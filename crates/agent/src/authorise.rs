//! Who may ask an agent for what. A peer proves its name with its certificate; the configuration says its roles;
//! this table says what they allow.

use pontoon_decide::change::Message;
use pontoon_fleet::{Code, Refusal, Role, ServerName};

/// What a peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// The first words of a join: needs a token, no certificate.
    Hello,
    /// Heartbeats and the configuration: to know.
    Know,
    /// What happened here: for members.
    Timeline,
    /// Facts about this server, and the two phases of a change: to steer. From control servers only.
    Steer,
    /// The certificates that visitors are shown, with their keys: for edges, and for control servers, which order them. Name
    /// servers get proofs, and no certificates.
    Certificates,
    /// A new certificate for itself.
    Renew,
    /// A copy of the database, and replication rights.
    CopyDatabase,
    /// To become a member after everything is in place.
    FinishJoin,
    /// To be taken out of the configuration.
    Leave,
    /// The talk of failover: between servers with a database, and nobody else.
    Failover,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nobody that we know: no certificate.
    Stranger,
    /// A server with a certificate of this fleet that is not in the configuration, but is joining.
    Joiner {
        /// Its name.
        name: ServerName,
        /// The roles it will have.
        roles: Vec<Role>,
    },
    /// A server of the configuration.
    Member {
        /// Its name.
        name: ServerName,
        /// Its roles.
        roles: Vec<Role>,
        /// Whether it steers the fleet: by its roles ([`is_control`]), or because it is the keeper, which decides every
        /// change and holds the authority's key, whatever its roles are.
        control: bool,
    },
    /// A server with a certificate of this fleet that left or never finished joining.
    Outsider {
        /// Its name.
        name: ServerName,
    },
}

impl Peer {
    /// How it is called in a log.
    pub(crate) fn label(&self) -> String {
        match self {
            Peer::Stranger => "a peer without a certificate".to_owned(),
            Peer::Joiner { name, .. } | Peer::Member { name, .. } | Peer::Outsider { name } => {
                name.to_string()
            }
        }
    }

    /// Its proven name.
    pub(crate) fn name(&self) -> Option<&ServerName> {
        match self {
            Peer::Stranger => None,
            Peer::Joiner { name, .. } | Peer::Member { name, .. } | Peer::Outsider { name } => Some(name),
        }
    }
}

/// What a message of the two-phase change needs. A vote or a question is harmless; what changes a configuration comes
/// from control servers only.
pub(crate) fn verb_of(message: &Message) -> Verb {
    match message {
        Message::Vote { .. } | Message::Fetch | Message::Active { .. } => Verb::Know,
        Message::Prepare { .. }
        | Message::Decide { .. }
        | Message::Undecidable { .. }
        | Message::Abort { .. }
        | Message::Commit { .. } => Verb::Steer,
    }
}

/// Whether servers with these roles steer the fleet: they hold the certificate authority's key and make changes.
/// An application server or an edge that is broken into must not be able to move the database.
pub(crate) fn is_control(roles: &[Role]) -> bool {
    roles.contains(&Role::Db)
}

/// Lets `peer` do `verb` or says why not.
pub(crate) fn authorise(peer: &Peer, verb: Verb) -> Result<(), Refusal> {
    let allowed = match (peer, verb) {
        (_, Verb::Hello) => true,
        (Peer::Member { .. }, Verb::Know | Verb::Timeline | Verb::Renew | Verb::Leave | Verb::FinishJoin) => {
            true
        }
        (Peer::Member { control, .. }, Verb::Steer) => *control,
        (Peer::Member { roles, .. } | Peer::Joiner { roles, .. }, Verb::CopyDatabase) => {
            roles.contains(&Role::Db)
        }
        (Peer::Member { control, roles, .. }, Verb::Certificates) => {
            *control || roles.contains(&Role::Edge) || roles.contains(&Role::Dns)
        }
        (Peer::Member { roles, .. }, Verb::Failover) => roles.contains(&Role::Db),
        // One that gives its join up says so, and is an outsider from then on.
        (Peer::Joiner { .. }, Verb::Know | Verb::FinishJoin | Verb::Leave) => true,
        _ => false,
    };
    if allowed {
        return Ok(());
    }
    Err(
        Refusal::new(Code::J005, format!("{} may not do this ({verb:?})", peer.label())).because(
            match peer {
                Peer::Stranger => "it showed no certificate of this fleet".to_owned(),
                Peer::Outsider { name } => format!("{name} is not in the fleet's configuration"),
                Peer::Joiner { roles, .. } | Peer::Member { roles, .. } => {
                    format!(
                        "its roles are {}",
                        roles
                            .iter()
                            .map(|role| role.as_str())
                            .collect::<Vec<_>>()
                            .join(", ")
                    )
                }
            },
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBS: [Verb; 10] = [
        Verb::Hello,
        Verb::Know,
        Verb::Timeline,
        Verb::Steer,
        Verb::Certificates,
        Verb::Renew,
        Verb::CopyDatabase,
        Verb::FinishJoin,
        Verb::Leave,
        Verb::Failover,
    ];

    fn allowed(peer: Peer) -> Vec<Verb> {
        VERBS
            .into_iter()
            .filter(|verb| authorise(&peer, *verb).is_ok())
            .collect()
    }

    #[test]
    fn each_kind_of_peer_may_do_exactly_this() {
        let name: ServerName = "b".parse().unwrap();
        assert_eq!(allowed(Peer::Stranger), [Verb::Hello]);
        assert_eq!(allowed(Peer::Outsider { name: name.clone() }), [Verb::Hello]);
        assert_eq!(
            allowed(Peer::Joiner {
                name: name.clone(),
                roles: vec![Role::Db]
            }),
            [
                Verb::Hello,
                Verb::Know,
                Verb::CopyDatabase,
                Verb::FinishJoin,
                Verb::Leave
            ]
        );
        assert_eq!(
            allowed(Peer::Joiner {
                name: name.clone(),
                roles: vec![Role::Edge, Role::App]
            }),
            [Verb::Hello, Verb::Know, Verb::FinishJoin, Verb::Leave]
        );
        assert_eq!(
            allowed(Peer::Member {
                name: name.clone(),
                roles: vec![Role::App],
                control: false,
            }),
            [
                Verb::Hello,
                Verb::Know,
                Verb::Timeline,
                Verb::Renew,
                Verb::FinishJoin,
                Verb::Leave
            ]
        );
        assert_eq!(
            allowed(Peer::Member {
                name: name.clone(),
                roles: Role::ALL.to_vec(),
                control: true,
            }),
            VERBS
        );
        // The keeper without a database steers, and copies none.
        let keeper = Peer::Member {
            name,
            roles: vec![Role::Edge],
            control: true,
        };
        assert!(authorise(&keeper, Verb::Steer).is_ok());
        assert!(authorise(&keeper, Verb::CopyDatabase).is_err());
        assert!(authorise(&keeper, Verb::Failover).is_err());
    }

    #[test]
    fn the_refusal_names_the_peer_and_its_roles() {
        let peer = Peer::Member {
            name: "app1".parse().unwrap(),
            roles: vec![Role::App, Role::Cache],
            control: false,
        };
        let refusal = authorise(&peer, Verb::Steer).unwrap_err();
        assert_eq!(refusal.code, Code::J005);
        assert!(refusal.what.contains("app1"));
        assert_eq!(refusal.evidence, ["its roles are app, cache"]);
    }
}
