//! Queries in datagrams: a blocking thread takes as many as are there, answers them, and sends all answers, each step
//! with one system call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg,
    sendmmsg, setsockopt, sockopt,
};
use pontoon_telemetry::metrics::DnsThread;
use pontoon_zone::{Asker, Limit, Transport, Verdict, answer, rcode, truncated};
use socket2::{Domain, Protocol, Socket, Type};

use crate::shared::{Holder, Shared, now};

/// Datagrams in one system call.
const BATCH: usize = 32;

/// Longer queries are none: a name, EDNS and a signature fit four times.
const LONGEST_QUERY: usize = 2048;

/// How often a thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

/// Room for a burst of queries while all threads are busy.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A socket of one thread. Addresses that come later are answered on too, where it listens on all.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        socket.set_freebind_v4(true)?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    // The kernel gives less where an operator said so.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_read_timeout(Some(LOOK))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The address that a datagram came to, as the answer's control message wants it.
#[derive(Clone, Copy)]
enum Local {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl Local {
    fn of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<Local> {
        message.cmsgs().ok()?.find_map(|control| match control {
            // The route out is the kernel's to choose, the address is not.
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Local::V4(in_pktinfo {
                ipi_ifindex: 0,
                ..info
            })),
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let link_local = info.ipi6_addr.s6_addr.starts_with(&[0xFE, 0x80]);
                let ipi6_ifindex = if link_local { info.ipi6_ifindex } else { 0 };
                Some(Local::V6(in6_pktinfo { ipi6_ifindex, ..info }))
            }
            _ => None,
        })
    }

    fn is(&self, other: &Local) -> bool {
        match (self, other) {
            (Local::V4(one), Local::V4(other)) => one.ipi_spec_dst.s_addr == other.ipi_spec_dst.s_addr,
            (Local::V6(one), Local::V6(other)) => {
                one.ipi6_addr.s6_addr == other.ipi6_addr.s6_addr && one.ipi6_ifindex == other.ipi6_ifindex
            }
            _ => false,
        }
    }
}

/// One answer on its way.
struct Reply {
    to: SockaddrStorage,
    from: Local,
    bytes: Vec<u8>,
}

/// Serves until `stop`. An error ends it: the socket is of no use any more.
pub(crate) fn serve(
    socket: &Socket,
    shared: &Shared,
    stats: &Arc<DnsThread>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let v4 = socket.local_addr()?.is_ipv4();
    let room = || match v4 {
        true => Some(cmsg_space!(in_pktinfo)),
        false => Some(cmsg_space!(in6_pktinfo)),
    };
    let mut headers = MultiHeaders::preallocate(BATCH, room());
    let mut outgoing = MultiHeaders::preallocate(BATCH, room());
    let mut buffers = vec![[0; LONGEST_QUERY]; BATCH];
    let mut spare: Vec<Vec<u8>> = Vec::new();
    let mut holder = Holder::new(shared);
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut came: [Option<(usize, SockaddrStorage, Local)>; BATCH] = [None; BATCH];
        let mut odd = false;
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers
                .iter_mut()
                .map(|buffer| [IoSliceMut::new(buffer)])
                .collect();
            let flags = MsgFlags::MSG_WAITFORONE;
            let received = match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                // What an earlier answer met comes back here: a port that nobody listens on.
                Err(
                    Errno::ECONNREFUSED
                    | Errno::EHOSTUNREACH
                    | Errno::ENETUNREACH
                    | Errno::ENOBUFS
                    | Errno::ENOMEM,
                ) => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for (message, place) in received.zip(&mut came) {
                let cut = message.flags.contains(MsgFlags::MSG_TRUNC);
                match (message.address, Local::of(&message)) {
                    (Some(from), Some(local)) if !cut => *place = Some((message.bytes, from, local)),
                    _ => odd = true,
                }
            }
        }
        if odd {
            // The kernel shortened what a header has room for.
            headers = MultiHeaders::preallocate(BATCH, room());
        }
        let (snapshot, now) = (holder.get(shared), now());
        let mut replies: Vec<Reply> = Vec::with_capacity(BATCH);
        for (packet, came) in buffers.iter().zip(came) {
            let Some((length, to, from)) = came else { continue };
            let (Some(packet), Some(address)) = (packet.get(..length), ip(&to)) else {
                continue;
            };
            let asker = Asker {
                address,
                transport: Transport::Udp,
                now,
                turn,
                may_sign: shared.udp_signatures.is_left(now),
            };
            turn = turn.wrapping_add(1);
            let mut bytes = spare.pop().unwrap_or_default();
            let outcome = answer(snapshot, &shared.settings, &asker, packet, &mut bytes);
            shared.udp_signatures.spend(now, outcome.signed);
            stats.answered(outcome.verdict as usize, outcome.truncated);
            let mut proved = false;
            // Only what is signed is answered so.
            if outcome.code == rcode::NOTAUTH {
                let (messages, good) = shared.answer_signed(snapshot, &asker, packet);
                (bytes, proved) = (messages.into_iter().next().unwrap_or_default(), good);
            }
            let limit = match outcome.verdict {
                Verdict::Silence => Limit::Drop,
                _ if proved || outcome.known => Limit::Send,
                verdict => shared.limiter.count(address, verdict, now),
            };
            match limit {
                Limit::Send => {}
                Limit::Slip => truncated(&mut bytes),
                Limit::Drop => bytes.clear(),
            }
            if limit != Limit::Send && outcome.verdict != Verdict::Silence {
                stats.limited();
            }
            match bytes.is_empty() {
                true => spare.push(bytes),
                false => replies.push(Reply { to, from, bytes }),
            }
        }
        send(socket, &mut outgoing, &replies);
        spare.extend(replies.into_iter().map(|reply| reply.bytes));
    }
    Ok(())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// Sends all, each from the address that was asked. What the kernel does not take is lost, as datagrams may be.
fn send(socket: &Socket, headers: &mut MultiHeaders<SockaddrStorage>, mut replies: &[Reply]) {
    while let Some(first) = replies.first() {
        let same = replies
            .iter()
            .take_while(|reply| reply.from.is(&first.from))
            .count();
        let batch = replies.get(..same).unwrap_or_default();
        let slices: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|reply| [IoSlice::new(&reply.bytes)]).collect();
        let addresses: Vec<_> = batch.iter().map(|reply| Some(reply.to)).collect();
        let control = match &first.from {
            Local::V4(info) => ControlMessage::Ipv4PacketInfo(info),
            Local::V6(info) => ControlMessage::Ipv6PacketInfo(info),
        };
        let sent = sendmmsg(
            socket.as_raw_fd(),
            headers,
            slices.iter(),
            &addresses,
            [control],
            MsgFlags::empty(),
        );
        // It stops at the first that fails: that one is given up.
        let sent = sent.map_or(1, |sent| sent.count().max(1));
        replies = replies.get(sent..).unwrap_or_default();
    }
}
