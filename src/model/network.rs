//! Networks as an operator writes them, for comparison with the addresses of clients.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The number of bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED_BITS: u8 = 96;

/// Parses a network like `192.0.2.0/24`, or a single address. An IPv4-mapped IPv6 network
/// (`::ffff:192.0.2.0/120`) becomes the IPv4 network it contains, because the canonical address of the client
/// is compared. Returns `None` if the string is neither.
#[must_use]
pub fn parse(text: &str) -> Option<IpNet> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.ok().map(canonical)
}

fn canonical(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(network) => unmapped(network).map_or(IpNet::V6(network), IpNet::V4),
        IpNet::V4(_) => network,
    }
}

/// The IPv4 network in an IPv4-mapped one. `::ffff:0:0/96` is all of IPv4; a wider network is IPv6.
fn unmapped(network: Ipv6Net) -> Option<Ipv4Net> {
    let address: Ipv6Addr = network.addr();
    let length = network.prefix_len().checked_sub(MAPPED_BITS)?;
    Ipv4Net::new(address.to_ipv4_mapped()?, length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_canonical_addresses_of_its_clients() {
        for (network, address, expected) in [
            ("192.0.2.0/24", "192.0.2.7", true),
            ("192.0.2.0/24", "::ffff:192.0.2.7", true),
            ("192.0.2.7", "::ffff:192.0.2.7", true),
            ("::ffff:192.0.2.0/120", "192.0.2.7", true),
            ("::ffff:192.0.2.0/120", "::ffff:192.0.2.7", true),
            ("::ffff:192.0.2.0/120", "192.0.3.7", false),
            ("::ffff:192.0.2.7", "192.0.2.7", true),
            ("::ffff:0:0/96", "203.0.113.1", true),
            ("::ffff:0:0/96", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8::1", true),
            ("::/0", "2001:db8::1", true),
        ] {
            let caller = address.parse::<IpAddr>().unwrap().to_canonical();
            assert_eq!(
                parse(network).unwrap().contains(&caller),
                expected,
                "{network} {address}"
            );
        }
        for wrong in ["", "localhost", "192.0.2.0/33", "::ffff:192.0.2.0/129"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
