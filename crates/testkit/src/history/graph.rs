//! Which transaction comes before which, and whether they do so in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Anomaly, Book, End, Last, Op, Place};

type Edges = BTreeSet<(usize, usize)>;

/// The first circle of the simplest class.
pub(super) fn cycle(book: &Book, last: &Last, stale: Duration) -> Option<Anomaly> {
    let (mut ww, mut wr, mut rw, mut real) = (Edges::new(), Edges::new(), Edges::new(), Edges::new());
    lists(book, last, [&mut ww, &mut wr, &mut rw]);
    registers(book, [&mut ww, &mut wr, &mut rw], &mut real);
    let nodes = real_time(book, stale, &mut real);
    let mut all = Edges::new();
    for (class, more) in [("G0", ww), ("G1c", wr), ("G2-item", rw), ("real-time", real)] {
        all.extend(more);
        if let Some(mut through) = circle(nodes, &all) {
            // Moments are not transactions.
            through.retain(|node| *node < book.history.len());
            return Some(Anomaly::Cycle { class, through });
        }
    }
    None
}

fn add(edges: &mut Edges, from: Option<usize>, to: Option<usize>) {
    if let (Some(from), Some(to)) = (from, to)
        && from != to
    {
        edges.insert((from, to));
    }
}

/// The list that was read last tells the order of all its writes.
fn lists(book: &Book, last: &Last, [ww, wr, rw]: [&mut Edges; 3]) {
    for (key, list) in &last.lists {
        let writer = |value: u64| book.writer(Place::List(*key), value);
        for pair in list.windows(2) {
            add(ww, writer(pair[0]), writer(pair[1]));
        }
    }
    for seen in &book.seen {
        let Place::List(key) = seen.place else { continue };
        let writer = |value: &u64| book.writer(seen.place, *value);
        add(wr, seen.state.last().and_then(writer), Some(seen.reader));
        let next = last.lists.get(&key).and_then(|whole| whole.get(seen.state.len()));
        add(rw, Some(seen.reader), next.and_then(writer));
    }
}

/// Of a register the order is known where somebody read it and then wrote it, and where a write had been acknowledged
/// before another began. The latter holds in real time only.
fn registers(book: &Book, [ww, wr, rw]: [&mut Edges; 3], real: &mut Edges) {
    let mut readers: BTreeMap<(Place, Option<u64>), Vec<usize>> = BTreeMap::new();
    for seen in &book.seen {
        if let Place::Register(_) = seen.place {
            let value = seen.state.first().copied();
            readers.entry((seen.place, value)).or_default().push(seen.reader);
            let writer = value.and_then(|value| book.writer(seen.place, value));
            add(wr, writer, Some(seen.reader));
        }
    }
    let none = Vec::new();
    let read = |place: Place, value: Option<u64>| readers.get(&(place, value)).unwrap_or(&none);
    for (number, transaction) in book.history.iter().enumerate() {
        if !book.done[number] {
            continue;
        }
        let mut before: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        for op in &transaction.ops {
            match op {
                Op::Get(key, value) => {
                    before.entry(*key).or_insert(*value);
                }
                Op::Write(key, _) => {
                    let place = Place::Register(*key);
                    // Whoever saw nothing there came before everybody who wrote.
                    for reader in read(place, None) {
                        add(rw, Some(*reader), Some(number));
                    }
                    if let Some(Some(value)) = before.get(key) {
                        add(ww, book.writer(place, *value), Some(number));
                        for reader in read(place, Some(*value)) {
                            add(rw, Some(*reader), Some(number));
                        }
                    }
                }
                Op::Append(..) | Op::Read(..) => {}
            }
        }
    }
    for ((place, value), writer) in &book.writers {
        let one = &book.history[*writer];
        if !matches!(place, Place::Register(_)) || one.end != End::Committed {
            continue;
        }
        let of_place = book.writers.range((*place, 0)..=(*place, u64::MAX));
        let later: Vec<usize> = of_place
            .map(|(_, other)| *other)
            .filter(|other| book.history[*other].end == End::Committed)
            .filter(|other| book.history[*other].began > one.ended)
            .collect();
        // Those that come after the first of these to end come after that one.
        let ended = later.iter().map(|other| book.history[*other].ended).min();
        for next in later
            .iter()
            .filter(|other| Some(book.history[**other].began) <= ended)
        {
            for reader in read(*place, Some(*value)) {
                add(real, Some(*reader), Some(*next));
            }
        }
    }
}

/// Whoever had ended when another began comes before it. In place of an edge for each pair there is a node for each end,
/// in a row; gives how many nodes there are with these.
fn real_time(book: &Book, stale: Duration, real: &mut Edges) -> usize {
    let count = book.history.len();
    let mut ends: Vec<(Duration, usize)> = Vec::new();
    for (number, transaction) in book.history.iter().enumerate() {
        if transaction.end == End::Committed {
            ends.push((transaction.ended, number));
        }
    }
    ends.sort_unstable();
    for (place, (_, number)) in ends.iter().enumerate() {
        add(real, Some(*number), Some(count + place));
        if place > 0 {
            add(real, Some(count + place - 1), Some(count + place));
        }
    }
    for (number, transaction) in book.history.iter().enumerate() {
        let writes = transaction
            .ops
            .iter()
            .any(|op| matches!(op, Op::Append(..) | Op::Write(..)));
        let last = transaction.began == Duration::MAX;
        let from = match writes || last {
            true => transaction.began,
            false => transaction.began.saturating_sub(stale),
        };
        let before = ends.partition_point(|(ended, _)| *ended < from);
        if book.done[number] && before > 0 {
            add(real, Some(count + before - 1), Some(number));
        }
    }
    count + ends.len()
}

/// A circle, if there is one: what is left when all that nothing comes before is taken away holds one.
fn circle(count: usize, edges: &Edges) -> Option<Vec<usize>> {
    let mut before = vec![0_usize; count];
    for (_, to) in edges {
        before[*to] += 1;
    }
    let mut free: Vec<usize> = (0..count).filter(|one| before[*one] == 0).collect();
    let mut left = count;
    let after = |one: usize| edges.range((one, 0)..(one + 1, 0)).map(|(_, to)| *to);
    while let Some(one) = free.pop() {
        left -= 1;
        for to in after(one) {
            before[to] -= 1;
            if before[to] == 0 {
                free.push(to);
            }
        }
    }
    if left == 0 {
        return None;
    }
    // Each that is left has one before it that is left: back along those until one comes again.
    let source = |one: usize| {
        let mut into = edges.iter().filter(|(from, to)| *to == one && before[*from] > 0);
        into.next().map(|(from, _)| *from)
    };
    let mut way = vec![(0..count).find(|one| before[*one] > 0)?];
    loop {
        let next = source(*way.last()?)?;
        if let Some(begin) = way.iter().position(|one| *one == next) {
            let mut through = way.split_off(begin);
            through.reverse();
            return Some(through);
        }
        way.push(next);
    }
}
