use super::*;

const MARK: Mark = Mark {
    identifier: 0x1234,
    cookie: 0xfeed_beef_dead_c0de,
};

/// An IPv4 packet around `message`.
fn v4(from: [u8; 4], to: [u8; 4], message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    let header = etherparse::Ipv4Header::new(length, 64, etherparse::IpNumber::ICMP, from, to);
    let mut packet = header.unwrap().to_bytes().to_vec();
    packet.extend_from_slice(message);
    packet
}

fn v6(from: [u8; 16], to: [u8; 16], message: &[u8]) -> Vec<u8> {
    let mut packet = etherparse::Ipv6Header {
        payload_length: u16::try_from(message.len()).unwrap(),
        next_header: etherparse::IpNumber::IPV6_ICMP,
        source: from,
        destination: to,
        ..etherparse::Ipv6Header::default()
    }
    .to_bytes()
    .to_vec();
    packet.extend_from_slice(message);
    packet
}

/// A request turned into what the other side makes of it.
fn with_type(mut message: Vec<u8>, kind: u8, code: u8) -> Vec<u8> {
    message[0] = kind;
    message[1] = code;
    message
}

fn error(kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(about);
    message
}

const US: [u8; 4] = [10, 0, 0, 1];
const TARGET: [u8; 4] = [10, 0, 0, 2];
const ROUTER: [u8; 4] = [10, 9, 9, 9];

#[test]
fn a_reply_is_recognised_by_identifier_cookie_and_nothing_less() {
    let reply = with_type(request(false, MARK, 5, 77), 0, 0);
    let packet = v4(TARGET, US, &reply);
    let from = IpAddr::from(TARGET);
    let expected = Answer {
        target: from,
        sequence: 5,
        token: 77,
        outcome: Outcome::Reply,
        realtime_nanos: None,
    };
    assert_eq!(answer_in(false, &packet, from, MARK), Some(expected));
    for other in [
        Mark {
            identifier: 1,
            ..MARK
        },
        Mark { cookie: 1, ..MARK },
    ] {
        assert_eq!(answer_in(false, &packet, from, other), None);
    }
    for length in 0..packet.len() {
        assert_eq!(
            answer_in(false, &packet[..length], from, MARK),
            None,
            "{length} octets"
        );
    }
    let echoed = v4(TARGET, US, &request(false, MARK, 5, 77));
    assert_eq!(
        answer_in(false, &echoed, from, MARK),
        None,
        "a request is no reply"
    );
}

#[test]
fn an_error_is_told_for_whom_the_echo_was_meant_and_as_linux_would() {
    let about = v4(US, TARGET, &request(false, MARK, 6, 78));
    for (kind, code, errno) in [
        (3, 0, libc::ENETUNREACH),
        (3, 1, libc::EHOSTUNREACH),
        (3, 10, libc::EHOSTUNREACH),
        (3, 13, libc::EHOSTUNREACH),
        (11, 0, libc::EHOSTUNREACH),
    ] {
        let packet = v4(ROUTER, US, &error(kind, code, &about));
        let answer = answer_in(false, &packet, ROUTER.into(), MARK).unwrap();
        assert_eq!(answer.target, IpAddr::from(TARGET));
        assert_eq!((answer.sequence, answer.token), (6, 78));
        assert_eq!(answer.outcome, Outcome::Unreachable(errno), "{kind}/{code}");
    }
    let forged = v4(
        US,
        TARGET,
        &request(false, Mark { cookie: 0, ..MARK }, 6, 78),
    );
    let packet = v4(ROUTER, US, &error(3, 1, &forged));
    assert_eq!(answer_in(false, &packet, ROUTER.into(), MARK), None);
}

#[test]
fn version_6_is_read_likewise() {
    let (us, target) = ([1; 16], [2; 16]);
    let reply = with_type(request(true, MARK, 5, 77), 129, 0);
    let answer = answer_in(true, &reply, target.into(), MARK).unwrap();
    assert_eq!(
        (answer.sequence, answer.token, answer.outcome),
        (5, 77, Outcome::Reply)
    );
    let about = v6(us, target, &request(true, MARK, 6, 78));
    for (kind, code, errno) in [
        (1, 0, libc::ENETUNREACH),
        (1, 1, libc::EACCES),
        (1, 3, libc::EHOSTUNREACH),
        (3, 0, libc::EHOSTUNREACH),
    ] {
        let packet = error(kind, code, &about);
        let answer = answer_in(true, &packet, [3; 16].into(), MARK).unwrap();
        assert_eq!(answer.target, IpAddr::from(target));
        assert_eq!(answer.outcome, Outcome::Unreachable(errno), "{kind}/{code}");
    }
}
