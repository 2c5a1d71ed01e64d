//! Which redirects of a hub are followed, and to whom the token goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// More than the hub ever needs (its own answer, one to its CDN).
pub(super) const MAX_HOPS: usize = 5;

/// Whether both addresses have the same scheme, host and port: only then may the token go along.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// Where a redirect leads, or why it is not followed.
///
/// The operator chose the endpoint; where it sends us, he did not. So a redirect may not lead from
/// the open network to this machine or its neighbours (metadata services answer there), unless the
/// endpoint lies there itself. Names are not resolved here: what comes is checked by its digest.
pub(super) fn target(endpoint: &Url, from: &Url, location: &str) -> Result<Url, &'static str> {
    let to = from.join(location).map_err(|_| "its address cannot be understood")?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => {}
        (_, "http") => return Err("it leads from https to unencrypted http"),
        _ => return Err("it leads to something that is not http or https"),
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("its address holds a user name");
    }
    let Some(reach) = reach(&to) else { return Err("its address has no host") };
    let allowed = match reach {
        Reach::Open => true,
        Reach::Internal => reach_is_internal(endpoint),
        Reach::LinkLocal => to.host_str() == endpoint.host_str(),
    };
    if !allowed {
        return Err("it leads to an address of this machine or its neighbours");
    }
    Ok(to)
}

/// Whether the address is this machine's own: a proxy could not reach it.
pub(super) fn is_loopback(url: &Url) -> bool {
    match host(url) {
        Some(Host::Ip(IpAddr::V4(ip))) => ip.is_loopback(),
        Some(Host::Ip(IpAddr::V6(ip))) => ip.is_loopback(),
        Some(Host::Name(name)) => name == "localhost",
        None => false,
    }
}

enum Reach {
    Open,
    Internal,
    LinkLocal,
}

enum Host<'a> {
    Ip(IpAddr),
    Name(&'a str),
}

fn host(url: &Url) -> Option<Host<'_>> {
    let text = url.host_str().filter(|text| !text.is_empty())?;
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let canonical = |ip: IpAddr| match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    Some(bare.parse().map_or(Host::Name(text), |ip| Host::Ip(canonical(ip))))
}

fn reach(url: &Url) -> Option<Reach> {
    Some(match host(url)? {
        Host::Ip(IpAddr::V4(ip)) => reach_v4(ip),
        Host::Ip(IpAddr::V6(ip)) => reach_v6(ip),
        Host::Name(name) => {
            let name = name.trim_end_matches('.');
            let internal = [".localhost", ".internal", ".local"];
            if name == "localhost" || internal.iter().any(|ending| name.ends_with(ending)) {
                Reach::Internal
            } else {
                Reach::Open
            }
        }
    })
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    // 100.64.0.0/10: shared between a provider's customers, where one cloud keeps its metadata.
    let is_shared = ip.octets()[0] == 100 && (ip.octets()[1] & 0xc0) == 64;
    if ip.is_link_local() {
        Reach::LinkLocal
    } else if ip.is_loopback() || ip.is_private() || ip.is_unspecified() || is_shared {
        Reach::Internal
    } else {
        Reach::Open
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    if ip.is_unicast_link_local() {
        Reach::LinkLocal
    } else if ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() {
        Reach::Internal
    } else {
        Reach::Open
    }
}

fn reach_is_internal(url: &Url) -> bool {
    !matches!(reach(url), Some(Reach::Open))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn follow(endpoint: &str, location: &str) -> Result<Url, &'static str> {
        let endpoint = Url::parse(endpoint).unwrap();
        target(&endpoint, &endpoint.join("/a/b").unwrap(), location)
    }

    #[test]
    fn redirects_to_other_schemes_and_to_neighbours_are_refused() {
        let hub = "https://hub.example";
        for location in [
            "file:///etc/passwd",
            "ftp://cdn.example/x",
            "http://cdn.example/x",
            "data:,x",
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://localhost/x",
            "https://10.0.0.1/x",
            "https://169.254.169.254/latest",
            "https://[fe80::1]/x",
            "https://[::ffff:127.0.0.1]/",
            "https://2130706433/x",
            "https://0x7f.1/x",
            "https://metadata.google.internal/x",
            "https://user:secret@cdn.example/x",
            "https://",
            "https://100.100.100.200/",
        ] {
            assert!(follow(hub, location).is_err(), "{location}");
        }
        for (location, to) in [
            ("/c", "https://hub.example/c"),
            ("c", "https://hub.example/a/c"),
            ("https://cdn.example/x?sig=1", "https://cdn.example/x?sig=1"),
        ] {
            assert_eq!(follow(hub, location).unwrap().as_str(), to);
        }
    }

    #[test]
    fn a_mirror_inside_may_redirect_inside_but_not_to_metadata() {
        let mirror = "http://10.1.2.3:8080";
        assert!(follow(mirror, "http://10.1.2.4/x").is_ok());
        assert!(follow(mirror, "http://169.254.169.254/x").is_err());
    }

    #[test]
    fn another_port_or_scheme_is_another_origin() {
        let url = |text| Url::parse(text).unwrap();
        assert!(same_origin(&url("https://h/a"), &url("https://h:443/b")));
        for other in ["http://h/", "https://h:8443/", "https://h.example/", "https://xh/"] {
            assert!(!same_origin(&url("https://h/"), &url(other)), "{other}");
        }
    }
}
