//! The catalogue of stable codes. A code, once released, keeps its meaning; `pontoon explain CODE` prints its text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What kind of "no" a code is; decides the exit status of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Something did not work. Exit 1.
    Failed,
    /// The command line or the configuration is wrong. Exit 2.
    Usage,
    /// Refused because it could lose or fork data, or interrupt the service. Exit 3.
    Safety,
    /// Somebody does not answer. Exit 4.
    Unreachable,
    /// The fleet is not what it was when this was planned. Exit 5.
    Changed,
}

impl Category {
    /// The exit status of a command that ends with such a code.
    pub fn exit_status(self) -> u8 {
        match self {
            Category::Failed => 1,
            Category::Usage => 2,
            Category::Safety => 3,
            Category::Unreachable => 4,
            Category::Changed => 5,
        }
    }
}

macro_rules! codes {
    ($($code:ident $category:ident $title:literal $text:literal;)*) => {
        /// A stable code. The letter says the area: `C` configuration, `J` joining and identity, `P` plan and
        /// apply, `F` fleet safety, `L` lease and failover, `D` database, `A` addresses, `M` measuring, `U` uploads, `N` network and processes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $title] $code,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Code] = &[$(Code::$code,)*];

            /// The code as printed.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$code => stringify!($code),)* }
            }

            /// What it means, in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Code::$code => $title,)* }
            }

            /// What it means and what to do, in full.
            pub fn explanation(self) -> &'static str {
                match self { $(Code::$code => $text,)* }
            }

            /// What kind of "no" it is.
            pub fn category(self) -> Category {
                match self { $(Code::$code => Category::$category,)* }
            }
        }
    };
}

codes! {
    C001 Usage "the configuration is not TOML"
        "fleet.toml could not be read as TOML. The place is where the reader gave up; the mistake is there or just before: a missing quote, a missing bracket, a key that stands twice.";
    C002 Usage "a value has the wrong type or form"
        "The value at this place cannot be read as what the key needs. Units belong into the string (\"250ms\", \"64MiB\", \"20%\"); addresses are written as numbers; names have a-z, 0-9 and '-'.";
    C003 Usage "something required is missing"
        "A key or a table that this version cannot do without is not there. `pontoon init` writes a complete file for one server.";
    C004 Usage "unknown key"
        "The key is not one of this configuration language's. Nothing is ignored silently: a misspelt key would otherwise be a setting that does not take effect.";
    C005 Usage "two things that must differ are the same"
        "Two servers share a name or an address, or two listeners share a port. Each must be its own.";
    C006 Usage "the configuration contradicts itself"
        "Two settings cannot both be true: see the evidence for which.";
    C007 Usage "a secret stands in the configuration"
        "Secrets are never written into fleet.toml, which is copied to every server and shown by commands. Point to it: { credential = \"NAME\" } for a systemd credential, { file = \"PATH\" } or { env = \"NAME\" }.";
    C008 Usage "the configuration's version is not known"
        "`version` says which configuration language the file is written in. This program speaks version 1.";
    C009 Usage "the configuration file cannot be read"
        "The file is not there, is not readable by this user, or is not UTF-8 text.";
    C010 Safety "this version does not do that yet"
        "The configuration is correct and asks for something that this version of Pontoon does not do. `check` says what; `apply` refuses rather than do half of it.";

    J001 Safety "the token was refused"
        "A join token is good once, for one hour, and only at the fleet that issued it. This one is unknown, expired, used by another server, or forged. Nothing was changed on either side.";
    J002 Usage "the token is not a join token"
        "A join token has four parts, pon1.PIN.ID.SECRET, and is printed by `pontoon token new`. Copy all of it.";
    J003 Safety "the server at that address is not the fleet of this token"
        "The certificate authority that the server showed is not the one whose fingerprint is in the token. Nothing secret was sent. Either the address is wrong, or somebody stands between.";
    J004 Safety "a server of that name or address is already in the fleet"
        "Names and private addresses are unique. Choose another with --name or --private, or let the other one `pontoon leave` first.";
    J005 Safety "not allowed for this server"
        "The peer proved who it is, and its roles do not allow what it asked for.";
    J006 Safety "this machine already belongs to a fleet"
        "There is an identity in the state directory. `pontoon leave` gives it up.";
    J007 Usage "this machine does not belong to a fleet yet"
        "There is no identity in the state directory. `pontoon init` founds a fleet; `pontoon join ADDRESS TOKEN` joins one.";
    J008 Safety "the server cannot leave now"
        "Others depend on it: it holds the primary database while replicas follow it, or it is the only one with a role.";
    J009 Failed "the certificate is not usable"
        "A certificate or key of the fleet cannot be read, has expired, or does not belong together. `pontoon status` shows expiry dates; certificates renew by themselves ten days before they end.";
    J010 Safety "the token does not allow that role"
        "A token made with `pontoon token new --roles` lets a server join with these roles only. Join with them, or make another token.";

    P001 Changed "the fleet changed since this plan was made"
        "A saved plan is valid for one revision. Make a new one and look at it: what it would do may be different now.";
    P002 Usage "there is no such plan"
        "Plans are kept on the server where they were made, until the revision changes.";
    P003 Safety "a server cannot carry out the plan"
        "Every server checks the new configuration before any server activates it. At least one said no, so none did: nothing has changed.";
    P004 Unreachable "not every server answered"
        "A new configuration is activated everywhere or nowhere. A server that does not answer cannot agree. Bring it back, or take it out of the configuration.";
    P005 Changed "another change is being made"
        "Two operators apply at the same moment; one goes first. Look at what it changed, then plan again.";
    P006 Safety "a port is taken by a program that Pontoon will not stop"
        "The configuration wants to listen where another program listens. Pontoon moves the database aside because that is part of the plan; it does not stop web servers or anything else.";
    P007 Usage "a yes is needed"
        "The command changes what runs, and there is no terminal to ask on. Say yes beforehand with --yes, or name the plan: `pontoon apply ID` carries out exactly what was looked at.";
    P008 Safety "a server that runs would be thrown out"
        "The configuration is without a server that is in the fleet and answers. Most likely the file is older than that server's join. A server that runs leaves by `pontoon leave`, which gives its database back; only one that does not answer can be taken out of the file.";

    F001 Safety "refused to avoid two primaries"
        "At most one database server may accept the application's writes (P2). What was asked could make two.";
    F002 Safety "refused to avoid losing data"
        "What was asked could discard acknowledged writes. A forced action must name the loss.";
    F003 Safety "the last server in service cannot be drained"
        "Draining it would leave no application server for visitors. Bring another one back first.";
    F004 Usage "there is no such server in the fleet"
        "Server names are those of fleet.toml; `pontoon status` lists them.";
    F005 Safety "the lease store lets two writers win"
        "Of several that replace the lease at once, exactly one may be told that it won: the others step back. This store told two. Both could become primary, so it is not used. etcd passes; of stores with an S3 face some do and some do not, whatever their manual says: ask with `pontoon lease probe`.";
    F006 Safety "the lease store does not keep the conditions of writes"
        "The lease is replaced only by who knows what is there (If-Match, If-None-Match, or a transaction of etcd). This store took a write whose condition did not hold, or lost one that it had taken. It is not used.";

    L001 Safety "failover cannot run on this server"
        "What failover must remember is damaged, the lease store cannot be opened, or it holds the lease of another fleet. The database stays as it is and nothing is promoted until the cause in the evidence is mended.";
    L002 Safety "a command of failover was refused"
        "The evidence says which rule of the protocol stands against it: only the primary hands over, only to a replica that follows closely, and what may be lost must be named.";
    L003 Usage "failover is not set up"
        "The primary can change only in a fleet whose lease is in a store that its servers share (`[lease]` with store = \"s3\" or \"etcd\"), and only on servers with a database.";
    L004 Failed "the command was taken up and did not come to its end in time"
        "It may still come to it. `pontoon db status` shows what every server does now; nothing that was acknowledged is lost by waiting.";
    L005 Safety "a delayed copy does not become the primary"
        "A server with `delay` in its [[server]] has what is committed only that much later, on purpose: it is a way back from a statement that should not have been run. It is not waited for, not read from and not promoted, and a primary does not get a delay: hand it over first (`pontoon db switchover`). Without `delay` it is a replica like the others once it has caught up.";
    L010 Safety "a replica that follows through another is not handed over to"
        "With `source` in its [[server]] a replica follows another replica while that one follows the primary. Its acknowledgements do not reach the primary, so it is not waited for and is not in sync. To hand over to it, take `source` out of its [[server]] and apply: it follows the primary itself then.";

    D001 Safety "the database's version is not supported"
        "Pontoon replicates MariaDB 10.6 to 11.8 and MySQL 8.0 to 9.x. Others would meet statements and file formats that were never tested.";
    D002 Safety "the two database servers are not of one kind"
        "A replica must run the same engine as its source, and a version that is not older. Install the matching packages on the joining server.";
    D003 Failed "the copy of the database failed"
        "The stream ended before the backup tool said that it was complete, or preparing the copy failed. The old data directory is where it was; `pontoon join` can be repeated.";
    D004 Failed "replication does not run"
        "The replica was set up and its threads stopped or never connected. The database's own message is in the evidence.";
    D005 Failed "the database did not start"
        "The server was started and did not answer in time. Its own log says why; the last lines are in the evidence.";
    D006 Safety "a data directory is in the way"
        "Pontoon renames, never deletes. The place that it needs is taken and could not be moved aside.";
    D007 Failed "a tool of the database is missing"
        "Copying the files of a live MariaDB needs mariadb-backup and mbstream (Debian: mariadb-backup); MySQL needs its clone plugin. A copy as a dump needs mariadb-dump or mysqldump on the primary; on the server that gets it, mariadb or mysql and what makes a new data directory. With `db.copy = \"auto\"` one of the two is enough.";
    D008 Failed "the database refused a statement"
        "The statement and the database's own message are in the evidence.";
    D009 Failed "no database server was found"
        "No running mariadbd or mysqld was found on this machine, or it cannot be told how it is started.";
    D010 Safety "there is too little room on the disk"
        "A copy of the database would not fit, with a tenth more for what is written meanwhile. Nothing was begun.";
    D011 Safety "the database has transactions that its primary lacks"
        "A database that was primary may have transactions that nobody was told of and that the new primary never got. Where it can be proved that they are not committed, they are cut off its binary log and rolled back. Here that cannot be proved; the evidence says why. Or somebody wrote on a replica by hand. It does not follow the primary, because the two would differ for good, and is not promoted. `pontoon db status` names the transactions. A new copy helps: `pontoon db reseed SERVER`, which writes them into a file first and keeps the present data directory under another name.";
    D012 Failed "a replica does not hold what the primary holds"
        "The rows were compared at equal positions, and what differs stayed so: something was written to the replica, or a write of the primary was skipped there. Whoever reads from it reads something else, and if it were promoted the difference would become the truth. Replication does not mend it, except for rows that are written again. Find out who writes there first. A new copy makes it the same: `pontoon db reseed SERVER`, which keeps the old data directory under another name.";
    D013 Safety "the replica's stop cannot be mended row by row"
        "`pontoon db unstick` gets a replica going that stopped because a row is there already (1062) or is not there (1032): that transaction is applied, the tables that it touches are compared, and rows that differ are fetched from the primary. This stop is another, or the table cannot be put right so; the evidence says which. A replica that was stopped by hand is started by hand. A missing table is made again from the primary's definition, empty, with sql_log_bin = 0; then `pontoon db unstick` again. `pontoon db unstick SERVER --accept-drift` leaves the one transaction out, whatever it did, compares the tables that it touches and names what differs. Where the primary no longer has what the replica needs (1236), and where too much differs, a new copy helps: `pontoon db reseed SERVER`, which keeps the old data directory under another name.";
    D014 Safety "that database is not copied anew"
        "`pontoon db reseed SERVER` replaces a replica's database by a new copy of the primary's. It does not do so with the primary itself, and not while the primary does not answer: that replica may have the last copy of what was acknowledged.";
    D015 Safety "a filter leaves databases out of replication"
        "Options such as `binlog-ignore-db` and `replicate-ignore-db` keep databases out of the binary log or out of a replica. Whoever is promoted lacks what was kept out, and no copy or archive has it. They also go by the default database: `CREATE TABLE other.t` after `USE test` is left out with `binlog-ignore-db=test`, and the next row of that table stops the replica (1146). Take the lines out of the option file and restart the database; nothing is lost by that.";
    D016 Safety "the replica that is here is not taken over"
        "A server that joins and replicates already, by file and position, goes over to GTID and keeps its data. Not when it is broken, wrote something of its own, is not where it says that it is, lacks accounts, or holds other rows than the primary: whatever it is promoted with would become the truth. The evidence says which. Nothing of its data was changed; it may follow the primary by GTID already. Put right what the evidence names and repeat the join, or have it copied anew: `pontoon join … --copy` keeps the data that is there under another name.";
    D017 Safety "a dump of the database would not be consistent"
        "A dump shows one moment of tables with transactions. Of MyISAM, MEMORY, Aria and the like each table is read at a moment of its own, and replication could not go on from there; so such a database is copied as files (mariadb-backup, MySQL's clone plugin), or its tables are made InnoDB first. Of MariaDB before 10.11 the same holds for tables with system versioning: their history would be left out.";
    D020 Failed "the copy in the object store could not be made"
        "Nothing that looks like a whole copy was left there: the manifest, which makes it one, is written last. The tool's or the store's own words are in the evidence.";
    D021 Safety "what is in the object store cannot be restored"
        "A part of the copy or of the archived binary log is missing, or its digest is another than the one that was written down. Nothing was put into the data directory's place.";
    D022 Safety "that moment cannot be restored"
        "A moment can be restored when there is a whole copy from before it and an archive of the binary log from there on without a gap. `pontoon db backups` shows from when to when that is so.";
    D023 Safety "a database is not restored over one that is in use"
        "`db restore` makes a data directory and puts it into place by renames. It does not do so while a server works in the directory, or where a fleet has its database: its primary is the truth, whatever a copy says.";

    T001 Usage "a certificate for visitors cannot be used"
        "The file in the evidence is not there, cannot be read by the group pontoon-tier, is not PEM, has ended, or the key is not the certificate's. An edge that serves an older one goes on with it and looks at the files each second.";

    T002 Failed "the authority issued no certificate"
        "The evidence is what the authority said, or why it could not be asked. What is served stays: a certificate that is there is shown until its end and renewed long before. An authority looks for a file below /.well-known/acme-challenge/ at every address that the name has, on port 80, so all of them must be this fleet's edges; with edge.tls.acme.challenge = \"dns-01\" for a TXT record at the name servers that the registrar names, so all of them must have the zone from this fleet. It is tried again by itself, ever more seldom, because authorities allow few failures; `pontoon cert status` says when, and `pontoon cert renew NAME` tries at once.";
    T003 Usage "that certificate does not come from an authority"
        "`pontoon cert renew` orders new certificates for the names of [edge.tls.acme]. Certificates from files are renewed by whoever makes the files; the edges take a new one up within a second.";
    T010 Failed "the proof for a certificate is not everywhere in the DNS"
        "With edge.tls.acme.challenge = \"dns-01\" the authority looks for a TXT record below _acme-challenge, at whichever name server of the zone it finds. The evidence says who does not answer with it: a server with the role dns that refuses its zone file, a name server of [dns.update] or a program of [dns.hook] that did not take it, one of [dns.transfer] that has not fetched the zone, or a file that hands the name over to others (NS, CNAME, DNAME). So the authority was not asked to look: it allows few failures. It is tried again by itself.";

    A001 Usage "public addresses do not move in this fleet"
        "Addresses move from a server that died to one that lives only where fleet.toml has [ip] with a method and there are two servers at least: \"arp\" on one local network, a provider's or \"exec\" elsewhere. `pontoon address test` without a server asks a provider; with one it rehearses a takeover on the local network.";
    A002 Safety "the addresses are not taken for a rehearsal now"
        "A rehearsal takes a living server's addresses for some seconds. It begins only where it cannot become an outage: they are at home, their home has been well for home_after, this server's edge serves, and the others hear it.";
    A003 Failed "after a takeover not everybody would find the addresses"
        "In the rehearsal the router or a server of the same network went on sending to the old place, or the addresses did not go home again. Who it was stands in the evidence. A router may be slow, or believe nobody who announces an address (static entries, port security of a switch).";

    A004 Failed "a provider would not move every address"
        "`pontoon address test` asked the provider, or the program of ip.exec, from this server where every public address is. The evidence is what it said: credentials that it does not take, an address or a server that it does not know, or an address that is at something else than a server of the fleet. Nothing was moved.";

    U001 Usage "this fleet does not look after uploads"
        "fleet.toml has no [assets], or this server does not have the role app: uploads are kept on the servers where the application writes and reads them.";
    U002 Failed "uploads cannot be looked after"
        "The assets process cannot do without the folder of assets.local, its journal below the state directory, and this server's identity. The application goes on with the files that it has; nothing is mirrored until the process runs. It is started again by itself.";
    U003 Usage "there is nothing to undelete"
        "`pontoon assets undelete PATH` looks in the trash of this server, of the other servers and of the bucket for the latest file of exactly that path, relative to assets.local. Files stay in a server's trash for 30 days. What was overwritten on one server at the same time as on another is in .pontoon/conflicts/ of the folder.";
    U004 Safety "the file was not put back"
        "A file is put back only where nothing is, so that none is overwritten. Move away what is there, or fetch the old one by hand: it is below .pontoon/trash/ of the folder.";
    U005 Failed "uploads differ"
        "Files were read again and compared with what the other servers and the bucket have, twice, some seconds apart. The evidence says what differs. What is on its way shows in `pontoon assets status`; what stays different is a file that was damaged on a disk, or changed in the bucket by somebody else.";
    A010 Usage "the zone is not signed"
        "There is a DS record to give to a registrar only when fleet.toml has [dns.dnssec]. Give it to the registrar after every server with the role dns answers with signatures (`pontoon status --wide`), never before: a zone whose parent has a DS record and that is not signed does not exist for anybody who checks.";
    A011 Failed "there is no key to sign the zone with on this server"
        "The keeper makes the key when [dns.dnssec] is applied, and it goes with heartbeats to the servers that steer the fleet and to those with the role dns: run the command on one of these, as root. A file that holds no key is not written over, because the zone's parent may point to what it once held: restore it, or take it from another of these servers.";
    K001 Failed "the cache proxy or memcached cannot run"
        "The evidence is what the system said: the program memcached (Debian's package of that name) is not installed, or a file, a socket or a thread could not be had. Applications find no cache meanwhile, which they take for an empty one; the agent or systemd tries again.";

    M001 Usage "the objective is not one"
        "What a server must keep is written as `p99<300ms,errors<0.5%`: percentiles from p1 to p99.99 with a time, and the share of errors. Of two percentiles the higher one needs the longer time, else the other could never matter.";
    M002 Usage "the target cannot be measured"
        "A measurement sends a load to one URL, http or https, and to nobody else. The URL cannot be read, its name has no address, or the authorities for its certificate are missing.";
    M003 Usage "the target does not answer as it should"
        "Before any load one request is sent. It was not answered, or with an error, or with a redirection: those are not followed, because the other place was not named. Name the URL that is to be measured.";
    M004 Usage "no such load can be made"
        "A rate, a time or another number is out of bounds, or this machine lacks file descriptors or ports for it. The evidence says which.";
    M005 Usage "what is on disk is not a measurement"
        "The file is not one that `pontoon measure load --out` wrote, or it cannot be written.";

    N001 Unreachable "the agent does not answer"
        "Commands talk to the agent on this machine through its Unix socket. Traffic does not depend on it: edge and SQL proxy go on with the last view (P5).";
    N002 Unreachable "a server does not answer"
        "Nothing answered at that address within the time allowed.";
    N003 Failed "the helper refused or failed"
        "The helper is the small root process that starts and stops the database and moves its files. Its own words are in the evidence.";
    N004 Failed "an address could not be bound"
        "Another program listens there, or the address is not this machine's.";
    N005 Failed "a message from a peer is wrong"
        "The peer's answer was not what the protocol says. The two servers may run versions that differ too much.";
    N006 Failed "a file could not be read or written"
        "The path and the operating system's own message are in the evidence.";
    N007 Failed "an internal error"
        "Something that should not happen did. Please report it with the evidence and the output of `pontoon events`.";
    N008 Failed "the demo cannot run here"
        "`pontoon demo` makes servers of its own out of Linux namespaces and runs real programs in them. Something that it needs is missing or not allowed on this machine; the evidence says what. Nothing was changed.";
    N009 Failed "nothing was handed over to the installed version"
        "A running process was asked to hand its sockets to the installed version of the program and did not: the new process could not be started, ended, or did not serve in time; the evidence says which. The process that ran before serves on, and nobody noticed. What the new one said is in the log of the tier: `journalctl -u pontoon-edge`, or the log folder where systemd does not run it.";
    N020 Usage "the maintenance page cannot be shown so"
        "`pontoon edge maintenance on` was asked for something that cannot be: a fleet without an edge has nobody who could show the page, and maintenance that ends by itself lasts a week at most. Nothing was changed. Give a shorter `--for`, or none, and end it with `pontoon edge maintenance off`.";
    N022 Usage "nothing can be forgotten so"
        "`pontoon edge purge` was asked for something that cannot be: the configuration has no `[edge.cache]`, so no edge keeps anything, or the path does not begin with `/`, or it is longer than 1 KiB. Nothing was changed.";
    N023 Usage "a page for errors cannot be shown"
        "`[edge.errors]` names files that must be at the same place on every server with an edge, be readable by the group `pontoon-tier`, and have between 1 byte and 256 KiB. The evidence says which server has which file not, or not so. Nothing was changed. Bring the file there and apply again. A page that is shown already and goes missing later stops no change: the edge shows what it last read, and status says so.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Code {
    type Err = String;

    /// Upper or lower case.
    fn from_str(text: &str) -> Result<Code, String> {
        Code::ALL
            .iter()
            .copied()
            .find(|code| code.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("{text:?} is not a code of this version"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_explains_itself_and_is_found_by_its_name() {
        for code in Code::ALL {
            assert_eq!(code.as_str().to_lowercase().parse::<Code>(), Ok(*code));
            assert!(
                code.explanation().len() > 40,
                "{code} is explained in too few words"
            );
            assert!(code.explanation().ends_with('.'), "{code}");
        }
    }
}
