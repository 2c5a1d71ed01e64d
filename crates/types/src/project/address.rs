//! `host:port`, as the project file writes where the server listens.

use std::net::{IpAddr, SocketAddr};

/// Where a server listens, not yet looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    /// In lower case.
    Name(String),
}

impl Address {
    /// `127.0.0.1:80`, `[::1]:80` or `name:80`; nothing else.
    pub(super) fn parse(text: &str) -> Option<Address> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Address { host: Host::Ip(address.ip().to_canonical()), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':')?;
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) || !is_host_name(host) {
            return None;
        }
        Some(Address { host: Host::Name(host.to_ascii_lowercase()), port: port.parse().ok()? })
    }

    /// Whether only this machine can connect. Of names, only `localhost` is known to be such.
    pub(super) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => name == "localhost",
        }
    }

    /// Whether both cannot be listened on at once.
    pub(super) fn collides_with(&self, other: &Address) -> bool {
        let is_any = |host: &Host| matches!(host, Host::Ip(ip) if ip.is_unspecified());
        let is_localhost = |host: &Host| matches!(host, Host::Name(name) if name == "localhost");
        let same_host = self.host == other.host
            || is_any(&self.host)
            || is_any(&other.host)
            || (is_localhost(&self.host) && other.is_loopback())
            || (is_localhost(&other.host) && self.is_loopback());
        self.port != 0 && self.port == other.port && same_host
    }
}

/// RFC 1123, section 2.1: labels of letters, digits and inner dashes. A name whose last label is
/// a number is a mistyped IPv4 address.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.len() <= 253
        && host.split('.').all(is_label)
        && !host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_host_and_port_is_an_address() {
        for good in ["127.0.0.1:0", "[::1]:8080", "0.0.0.0:80", "localhost:8081", "gpu-1.example.org:65535"] {
            assert!(Address::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            ":",
            ":80",
            "127.0.0.1",
            "127.0.0.1:",
            "localhost:+80",
            "localhost:65536",
            "::1:80",
            "256.0.0.1:80",
            "1:80",
            "-a:80",
            "a..b:80",
            "a b:80",
            "http://a:80",
            "a:80/x",
            "ü:80",
            "[::1:80",
        ] {
            assert!(Address::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_what_other_machines_cannot_reach() {
        for (text, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("LocalHost:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("localhost.example.org:1", false),
        ] {
            assert_eq!(Address::parse(text).unwrap().is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn collision_is_symmetric_and_never_on_port_0() {
        for (a, b, collide) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("localhost:80", "[::1]:80", true),
            ("localhost:80", "10.0.0.1:80", false),
            ("A:80", "a:80", true),
        ] {
            let (a, b) = (Address::parse(a).unwrap(), Address::parse(b).unwrap());
            assert_eq!((a.collides_with(&b), b.collides_with(&a)), (collide, collide), "{a:?} {b:?}");
        }
    }
}
