#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "any other fact is a failure"
)]

use zerocopy::{FromZeros, IntoBytes};

use super::*;

fn tcp(kind: u32) -> TcpRecord {
    let mut record = TcpRecord::new_zeroed();
    record.kind = kind;
    record.netns_id = 7;
    record.boot_nanos = 1234;
    record.cookie = 99;
    record.family = AF_INET;
    record.local_addr[..4].copy_from_slice(&[10, 0, 0, 1]);
    record.remote_addr[..4].copy_from_slice(&[10, 0, 0, 2]);
    record.local_port = 40_000;
    record.remote_port = 179;
    record.old_state = 1;
    record.new_state = 4;
    record.srtt_eighths_micros = 800;
    record.total_retransmits = 3;
    record.retransmits = 2;
    record.bytes_received = 5;
    record.bytes_acked = 6;
    record.pid = 4242;
    record.comm[..4].copy_from_slice(b"bird");
    record.error = 110;
    record
}

fn decoded(record: &impl IntoBytesExt) -> Option<Event> {
    decode(record.bytes(), &mut Identities::default())
}

trait IntoBytesExt {
    fn bytes(&self) -> &[u8];
}

impl IntoBytesExt for TcpRecord {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl IntoBytesExt for ProcessRecord {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

fn socket_of_record() -> Socket {
    Socket {
        netns: NetnsId(7),
        id: SocketId(99),
        local: "10.0.0.1:40000".parse().unwrap(),
        remote: "10.0.0.2:179".parse().unwrap(),
        bytes_received: 5,
        bytes_acked: 6,
        srtt_micros: 100,
        total_retransmits: 3,
        unanswered_retransmits: 2,
    }
}

#[test]
fn a_state_change_is_read_whole() {
    let mut record = tcp(KIND_TCP_STATE);
    let event = decoded(&record).unwrap();
    assert_eq!(
        event.occurred,
        Occurred::kernel(Timestamp::from_nanos(1234))
    );
    let expected = |process| Fact::TcpState {
        socket: socket_of_record(),
        from: TcpState::Established,
        to: TcpState::FinWait1,
        process,
    };
    assert_eq!(event.fact, expected(None));
    record.in_process = 1;
    let bird = Process {
        pid: 4242,
        comm: "bird".to_owned(),
    };
    assert_eq!(decoded(&record).unwrap().fact, expected(Some(bird)));
}

#[test]
fn each_kind_becomes_its_fact() {
    let socket = socket_of_record();
    for (kind, fact) in [
        (KIND_TCP_ERROR, Fact::TcpError { socket, errno: 110 }),
        (KIND_RESET_RECEIVED, Fact::ResetReceived { socket }),
        (KIND_RESET_SENT, Fact::ResetSent { socket }),
        (KIND_RETRANSMIT, Fact::Retransmit { socket }),
    ] {
        assert_eq!(decoded(&tcp(kind)).unwrap().fact, fact);
    }
}

#[test]
fn an_exit_code_is_a_status_or_a_signal() {
    for (code, status, signal) in [
        (0, Some(0), None),
        (3 << 8, Some(3), None),
        (9, None, Some(9)),
        (0x0b | 0x80, None, Some(11)),
    ] {
        let mut record = ProcessRecord::new_zeroed();
        record.kind = KIND_SPEAKER_EXIT;
        record.pid = 5;
        record.status = code;
        let expected = Fact::SpeakerExited {
            netns: NetnsId(0),
            speaker: Process {
                pid: 5,
                comm: String::new(),
            },
            status,
            signal,
        };
        assert_eq!(decoded(&record).unwrap().fact, expected);
    }
}

#[test]
fn a_signal_from_the_kernel_has_no_sender() {
    let mut record = ProcessRecord::new_zeroed();
    record.kind = KIND_SPEAKER_SIGNAL;
    record.status = 15;
    let sender = |record: &ProcessRecord| match decoded(record).unwrap().fact {
        Fact::SpeakerSignalled { sender, signal, .. } => {
            assert_eq!(signal, 15);
            sender
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(sender(&record), None);
    record.sender_pid = 12;
    record.sender_comm[..2].copy_from_slice(&[b'x', 0xff]);
    assert_eq!(
        sender(&record),
        Some(Process {
            pid: 12,
            comm: "x\u{fffd}".to_owned()
        })
    );
}

#[test]
fn a_link_local_peer_has_its_interface_and_a_global_one_none() {
    let mut record = tcp(KIND_RETRANSMIT);
    record.family = AF_INET6;
    record.interface = 3;
    let remote = |record: &TcpRecord| match decoded(record).unwrap().fact {
        Fact::Retransmit { socket } => socket.remote,
        other => panic!("{other:?}"),
    };
    record.remote_addr = "fe80::2".parse::<Ipv6Addr>().unwrap().octets();
    assert_eq!(remote(&record).to_string(), "[fe80::2%3]:179");
    record.remote_addr = "2001:db8::2".parse::<Ipv6Addr>().unwrap().octets();
    assert_eq!(remote(&record).to_string(), "[2001:db8::2]:179");
    record.remote_addr = "::ffff:10.0.0.2".parse::<Ipv6Addr>().unwrap().octets();
    assert_eq!(remote(&record).to_string(), "10.0.0.2:179");
}

#[test]
fn bytes_that_make_no_sense_give_nothing() {
    let whole = tcp(KIND_TCP_STATE);
    for length in 0..whole.as_bytes().len() {
        assert_eq!(
            decode(&whole.as_bytes()[..length], &mut Identities::default()),
            None
        );
    }
    let unknown = |change: fn(&mut TcpRecord)| {
        let mut record = tcp(KIND_TCP_STATE);
        change(&mut record);
        decoded(&record)
    };
    assert_eq!(unknown(|record| record.kind = 0), None);
    assert_eq!(unknown(|record| record.kind = 77), None);
    assert_eq!(unknown(|record| record.kind = KIND_SPEAKER_EXIT), None);
    assert_eq!(unknown(|record| record.family = 3), None);
    assert_eq!(unknown(|record| record.new_state = 200), None);
    let mut process = ProcessRecord::new_zeroed();
    process.kind = KIND_TCP_STATE;
    assert_eq!(decoded(&process), None);
}

#[test]
fn without_cookies_a_socket_keeps_one_number_from_birth_to_end() {
    let mut identities = Identities::default();
    let mut id = |local_port: u16, old_state: u8, new_state: u8| {
        let mut record = tcp(KIND_TCP_STATE);
        (record.cookie, record.address) = (0, 0xffff_8880_0000_1000);
        (record.local_port, record.old_state, record.new_state) =
            (local_port, old_state, new_state);
        match decode(record.as_bytes(), &mut identities).unwrap().fact {
            Fact::TcpState { socket, .. } => socket.id,
            other => panic!("{other:?}"),
        }
    };
    let dialled = id(0, 7, 2);
    assert_eq!(id(40_000, 2, 1), dialled);
    assert_eq!(id(40_000, 1, 7), dialled);
    // The kernel uses the address again for the next socket.
    let next = id(0, 7, 2);
    assert_ne!(next, dialled);
}
