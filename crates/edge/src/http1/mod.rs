//! HTTP/1.1 as bytes, without I/O: what is a request, where does it end, and what is passed on.
//!
//! A message that two programs could read differently is refused, whoever would be right: that is the whole
//! defence against request smuggling. Order of work: [`head`] finds the end of a head and cuts it into fields;
//! [`request`] and [`response`] give the verdict on framing and write the head that is passed on; [`body`]
//! follows a body's bytes to its end; [`marks`] is what proxies before say of a request, and what is added to it. It uses nothing else of this crate: `fuzz` builds it alone.

pub mod body;
pub mod crumb;
pub mod head;
pub mod marks;
pub mod reject;
pub mod request;
pub mod response;
pub(crate) mod syntax;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod smuggling_tests;
