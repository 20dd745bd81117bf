//! `Ends`: the two ends of a connection, as the fields of a head name them.

use std::net::IpAddr;

use http::HeaderValue;

/// Made once for a connection, because most carry many requests.
#[derive(Debug, Clone)]
pub struct Ends {
    pub peer: HeaderValue,
    /// The listener's.
    pub port: HeaderValue,
}

impl Ends {
    pub fn new(peer: IpAddr, port: u16) -> Self {
        Ends { peer: address_value(peer), port: port.into() }
    }
}

/// The address as text; what most clients have is written without the formatting machinery, which takes six times as long.
pub fn address_value(address: IpAddr) -> HeaderValue {
    let IpAddr::V4(v4) = address else {
        return HeaderValue::try_from(address.to_string()).expect("addresses are visible ASCII");
    };
    let mut text = [0; 15];
    let mut length = 0;
    let mut push = |byte| {
        text[length] = byte;
        length += 1;
    };
    for (place, octet) in v4.octets().into_iter().enumerate() {
        if place > 0 {
            push(b'.');
        }
        if octet >= 100 {
            push(b'0' + octet / 100);
        }
        if octet >= 10 {
            push(b'0' + octet / 10 % 10);
        }
        push(b'0' + octet % 10);
    }
    HeaderValue::from_bytes(&text[..length]).expect("addresses are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_usual() {
        for text in ["0.0.0.0", "127.0.0.1", "10.20.99.100", "255.255.255.255", "2001:db8::5"] {
            assert_eq!(address_value(text.parse().unwrap()), text);
        }
    }
}
