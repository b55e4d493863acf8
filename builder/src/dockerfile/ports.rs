//! What `EXPOSE` takes: a port or a range of ports, with a protocol.

use std::fmt;

/// The ports of one word of `EXPOSE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// The first port.
    pub first: u16,
    /// The last port; the first again where there is no range.
    pub last: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The word also names an address or a port of the host, which an image cannot say.
    pub mapping: bool,
}

/// Why a word of `EXPOSE` names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a number, or too large.
    #[error("a port is a number from 0 to 65535")]
    Number,
    /// The last port comes before the first.
    #[error("the range ends before it begins")]
    Backwards,
    /// Another protocol.
    #[error("the protocol is `tcp`, `udp` or `sctp`")]
    Protocol,
}

impl Ports {
    /// Reads `[[address:]port:]port[-port][/protocol]`; what stands before the last colon is noted and not used.
    pub fn parse(word: &str) -> Result<Self, PortError> {
        let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let protocol = ["tcp", "udp", "sctp"]
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(protocol))
            .ok_or(PortError::Protocol)?;
        let (mapping, ports) = ports.rsplit_once(':').map_or((false, ports), |(_, ports)| (true, ports));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(PortError::Backwards);
        }
        Ok(Ports { first, last, protocol, mapping })
    }
}

fn number(text: &str) -> Result<u16, PortError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PortError::Number);
    }
    text.parse().map_err(|_| PortError::Number)
}

impl fmt::Display for Ports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(formatter, "{}/{}", self.first, self.protocol)
        } else {
            write!(formatter, "{}-{}/{}", self.first, self.last, self.protocol)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PortError, Ports};

    #[test]
    fn ports_ranges_protocols_and_mappings_are_read() {
        let shown = |word| Ports::parse(word).map(|ports| ports.to_string());
        assert_eq!(shown("80"), Ok("80/tcp".to_owned()));
        assert_eq!(shown("53/UDP"), Ok("53/udp".to_owned()));
        assert_eq!(shown("8000-8010/sctp"), Ok("8000-8010/sctp".to_owned()));
        assert_eq!(shown("127.0.0.1:80:8080"), Ok("8080/tcp".to_owned()));
        assert!(Ports::parse("80:8080").expect("a mapping").mapping);
    }

    #[test]
    fn what_is_no_port_is_refused() {
        assert_eq!(Ports::parse("http"), Err(PortError::Number));
        assert_eq!(Ports::parse("65536"), Err(PortError::Number));
        assert_eq!(Ports::parse("+80"), Err(PortError::Number));
        assert_eq!(Ports::parse("80:"), Err(PortError::Number));
        assert_eq!(Ports::parse("90-80"), Err(PortError::Backwards));
        assert_eq!(Ports::parse("80/icmp"), Err(PortError::Protocol));
        assert_eq!(Ports::parse("80/tcp/udp"), Err(PortError::Protocol));
    }
}
