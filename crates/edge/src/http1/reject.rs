//! Why a message is refused, and with which status the client hears of it.

use std::fmt;

macro_rules! reasons {
    ($($name:ident $status:literal $word:literal;)*) => {
        /// Why a message is refused. `word` is the label in logs and counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // the variants' names and words are the documentation
        pub enum Reject {
            $($name,)*
        }

        impl Reject {
            /// Every reason.
            pub const ALL: &'static [Reject] = &[$(Reject::$name,)*];

            /// The words of every reason, in the same order.
            pub const WORDS: &'static [&'static str] = &[$($word,)*];

            /// The status that the client gets (RFC 9110 section 15).
            pub fn status(self) -> u16 {
                match self { $(Reject::$name => $status,)* }
            }

            /// The reason in a few words.
            pub fn word(self) -> &'static str {
                match self { $(Reject::$name => $word,)* }
            }
        }
    };
}

reasons! {
    BareLf 400 "line feed without carriage return";
    BareCr 400 "carriage return without line feed";
    HeadTooLarge 431 "head too large";
    TooManyFields 431 "too many header fields";
    TargetTooLong 414 "request target too long";
    BadRequestLine 400 "malformed request line";
    BadStatusLine 400 "malformed status line";
    BadMethod 400 "invalid method";
    BadTarget 400 "invalid request target";
    BadVersion 505 "unsupported version";
    ConnectRefused 405 "CONNECT is refused";
    TraceRefused 405 "TRACE is refused";
    ObsFold 400 "folded header line";
    SpaceBeforeColon 400 "whitespace before colon";
    BadFieldName 400 "invalid header name";
    BadFieldValue 400 "invalid header value";
    MissingHost 400 "missing Host";
    DuplicateHost 400 "more than one Host";
    BadHost 400 "invalid Host";
    HostMismatch 400 "Host differs from the request target";
    LengthAndChunked 400 "Content-Length and Transfer-Encoding";
    DuplicateLength 400 "more than one Content-Length";
    BadLength 400 "invalid Content-Length";
    DuplicateTransferEncoding 400 "more than one Transfer-Encoding";
    BadTransferEncoding 501 "Transfer-Encoding is not chunked";
    TransferEncodingInOldVersion 400 "Transfer-Encoding in HTTP/1.0";
    BadConnection 400 "invalid Connection";
    BadExpect 417 "unknown expectation";
    BadChunk 400 "malformed chunk";
    BadTrailer 400 "malformed or forbidden trailer";
    TrailersTooLarge 431 "trailers too large";
    UnaskedUpgrade 400 "101 that was not asked for";
    TooManyResets 429 "too many streams given up";
    HeadTimeout 408 "head did not arrive in time";
    PlainHttp 400 "plain HTTP on the port of HTTPS";
    BadProxyHeader 400 "malformed PROXY header";
    ProxyHeaderTimeout 408 "PROXY header did not arrive in time";
    BodyTimeout 408 "body did not arrive in time";
    BodyTooSlow 408 "body arrives too slowly";
    BodyTooLarge 413 "body too large";
    ClientRequests 429 "too many requests of the client under way";
    QueueFull 503 "too many requests wait for a server";
    QueueTimeout 503 "no server had room in time";
    ClientRate 429 "too many requests of the client a second";
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl std::error::Error for Reject {}
