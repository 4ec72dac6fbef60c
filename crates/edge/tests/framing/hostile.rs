//! Requests that programs read differently: a correct one, with one to three things done to it that are known from
//! request smuggling (CL.TE, TE.CL, TE.TE, CL.0, chunk sizes and ends, folded and disguised fields, odd line ends).

/// A generator of numbers that gives the same ones for the same seed (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

const LENGTHS: &[&str] = &[
    "Content-Length: 5",
    "Content-Length: 0",
    "Content-Length: 05",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 5, 5",
    "Content-Length: 5,6",
    "Content-Length: 5 5",
    "Content-Length: 0x5",
    "Content-Length: 5\t",
    "Content-Length:5",
    "Content-Length:\t5",
    "Content-Length: 5;a=b",
    "Content-Length: 5.0",
    "Content-Length: \"5\"",
    "Content-Length:",
    "Content-Length: 6",
    "Content-Length: 18446744073709551621",
    "Content-Length : 5",
    " Content-Length: 5",
    "Content_Length: 5",
    "content-length: 5",
    "X: y\nContent-Length: 5",
    "X: y\rContent-Length: 5",
    "X: y\r\n\tContent-Length: 5",
    "Content-Length\0: 5",
    "Content-Length: 5\0",
    "Content-\rLength: 5",
];

const ENCODINGS: &[&str] = &[
    "Transfer-Encoding: chunked",
    "transfer-encoding: Chunked",
    "Transfer-Encoding:chunked",
    "Transfer-Encoding: \tchunked",
    "Transfer-Encoding: chunked ",
    "Transfer-Encoding : chunked",
    " Transfer-Encoding: chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding:",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding\0: chunked",
    "Transfer-Encoding: chunked\0",
    "Transfer-Encoding: chun\0ked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: chunked\x0c",
    "Transfer-Encoding:\n chunked",
    "Transfer-Encoding:\r\n chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
];

const LINES: &[&str] = &[
    "POST {} HTTP/1.1",
    "GET {} HTTP/1.1",
    "POST {} HTTP/1.0",
    "HEAD {} HTTP/1.1",
    "DELETE {} HTTP/1.1",
    "POST  {} HTTP/1.1",
    "POST {}  HTTP/1.1",
    "POST {} HTTP/1.1 ",
    "POST\t{} HTTP/1.1",
    "POST {} HTTP/1.2",
    "POST {} HTTP/01.1",
    "POST {} http/1.1",
    "POST {} HTTP/1.1\r",
    "POST {}",
    "\r\nPOST {} HTTP/1.1",
    "\nPOST {} HTTP/1.1",
    " POST {} HTTP/1.1",
];

const EXTRA: &[&str] = &[
    "X: y",
    "Connection: keep-alive",
    "Connection: Content-Length",
    "Connection: Transfer-Encoding",
    "Connection: close, x",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "Host: other",
    "X: y\r\n z",
    "X",
    ": y",
    "X: \x01",
    "X\x7f: y",
    "X: y\r",
    "Trailer: Content-Length",
];

const BODIES: &[&str] = &[
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "0\r\n\r\n",
    "",
    "5\nhello\n0\n\n",
    "5\r\nhello\r\n0\r\n",
    "5\r\nhello0\r\n\r\n",
    "5;x\r\nhello\r\n0\r\n\r\n",
    "5;\nx\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "100000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n00\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\n\r\n0\r\n\r\n",
    "5\r\nhello\r\r\n0\r\n\r\n",
    "5\rhello\r0\r\r",
    "5\r\n\r\nhel\r\n0\r\n\r\n",
    "5_0\r\nhello\r\n0\r\n\r\n",
    "5,\r\nhello\r\n0\r\n\r\n",
];

/// A request for `target`, without what a second request behind it would be.
pub fn request(numbers: &mut Numbers, target: &str) -> Vec<u8> {
    let line = match numbers.below(4) {
        0 => numbers.one(LINES),
        _ => LINES[0],
    };
    let mut fields = vec!["Host: t"];
    let mut framing = Vec::new();
    match numbers.below(4) {
        0 => framing.push(numbers.one(LENGTHS)),
        1 => framing.push(numbers.one(ENCODINGS)),
        2 => framing.extend([numbers.one(LENGTHS), numbers.one(ENCODINGS)]),
        _ => framing.extend([numbers.one(LENGTHS), numbers.one(LENGTHS)]),
    }
    if numbers.below(2) == 0 {
        framing.reverse();
    }
    fields.extend(framing);
    if numbers.below(3) == 0 {
        fields.insert(numbers.below(fields.len() + 1), numbers.one(EXTRA));
    }
    let end = match numbers.below(16) {
        0 => "\n",
        _ => "\r\n",
    };
    let mut text = line.replace("{}", target);
    for field in fields {
        text.push_str(end);
        text.push_str(field);
    }
    text.push_str(end);
    text.push_str(match numbers.below(16) {
        0 => "\n",
        _ => "\r\n",
    });
    text.push_str(numbers.one(BODIES));
    text.into_bytes()
}
