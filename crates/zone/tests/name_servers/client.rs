//! Asks, and takes responses apart with the code of others.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use domain::base::{Message, Name, ParsedRecord};
use domain::rdata::AllRecordData;

/// A query; with the size that EDNS offers, if any.
pub fn query(id: u16, name: &str, qtype: u16, edns: Option<u16>) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    packet.extend_from_slice(name.parse::<pontoon_zone::Name>().unwrap().wire());
    packet.extend_from_slice(&qtype.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        packet.extend_from_slice(&[0, 0, 41]);
        packet.extend_from_slice(&size.to_be_bytes());
        packet.extend_from_slice(&[0; 6]);
    }
    packet
}

/// One try.
pub fn try_ask(server: SocketAddr, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(patience)).ok()?;
    socket.send(query).ok()?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    (buffer[..2] == query[..2]).then(|| buffer[..length].to_vec())
}

/// What is compared, by name.
pub type Parts = BTreeMap<&'static str, String>;

/// Takes a response apart.
pub fn parts(response: &[u8]) -> Parts {
    let message = Message::from_octets(response).unwrap();
    let header = message.header();
    let answer = records(message.answer().unwrap());
    let authority = records(message.authority().unwrap());
    let additional = records(message.additional().unwrap());
    let mut parts = BTreeMap::from([
        ("rcode", header.rcode().to_string()),
        ("AA", header.aa().to_string()),
        ("TC", header.tc().to_string()),
        ("answer", answer.join("\n")),
    ]);
    // With a positive answer these are a courtesy that each server gives as it likes.
    if answer.is_empty() {
        parts.insert("authority", authority.join("\n"));
        parts.insert("additional", additional.join("\n"));
    }
    parts
}

fn records(section: domain::base::message::RecordSection<'_, &[u8]>) -> Vec<String> {
    let mut found: Vec<String> = section
        .map(|record| text(record.unwrap()))
        .filter(|text| !text.contains(" opt "))
        .collect();
    found.sort();
    found
}

fn text(record: ParsedRecord<'_, &[u8]>) -> String {
    let owner = Name::<Vec<u8>>::from_octets({
        use domain::base::name::ToName as _;
        let mut wire = Vec::new();
        let Ok(()) = record.owner().compose(&mut wire);
        wire
    })
    .unwrap();
    let (kind, ttl) = (record.rtype(), record.ttl().as_secs());
    let record = record.to_any_record::<AllRecordData<_, _>>().unwrap();
    format!("{owner} {ttl} {kind} {}", record.data()).to_lowercase()
}
