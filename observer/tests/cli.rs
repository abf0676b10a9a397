//! The binary as its users meet it: exit codes, messages, signals. No root, no agent of the host's.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests may panic and say why they skip, which clippy.toml's exception does not see"
)]

#[path = "cli/capture.rs"]
mod capture;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_bgp-observer");

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars() {
        if name.starts_with("BGP_OBSERVER_") || name == "JOURNAL_STREAM" {
            command.env_remove(name);
        }
    }
    command
        .current_dir(dir)
        .env("BGP_OBSERVER_SOCKET", dir.join("api.sock"))
        .args(args);
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Exit code and a part of what standard error says.
fn expect(dir: &Path, args: &[&str], code: i32, parts: &[&str]) {
    let output = run(dir, args);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    for part in parts {
        assert!(told.contains(part), "{args:?}: {told}\ndoes not say {part}");
    }
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn bad_usage_is_2_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("bad.toml"), "node = \"a\"\nnods = 1\n").unwrap();
    fs::write(dir.join("peers.toml"), "[[peer]]\naddress = \"x\"\n").unwrap();
    fs::write(dir.join("rec"), "{\"format\":\"pcap\",\"version\":1}\n").unwrap();
    for (args, parts) in [
        (&["walk"][..], &["walk"][..]),
        (&["run", "--port", "ninety"], &["--port", "ninety"]),
        (&["run", "--port", "0"], &["--port 0"]),
        (
            &["run", "--metrics-listen", "9742"],
            &["--metrics-listen", "9742"],
        ),
        (&["run", "--log", "loud"], &["--log 'loud'"]),
        (
            &["run", "--config", "bad.toml"],
            &["bad.toml", "line 2", "nods"],
        ),
        (&["check", "--config", "bad.toml"], &["bad.toml", "nods"]),
        (
            &[
                "run",
                "--inventory",
                "peers.toml",
                "--metrics-listen",
                "off",
                "--api-listen",
                "off",
            ],
            &["peers.toml", "line 2", "IP address"],
        ),
        (&["status", "-o", "xml"], &["xml"]),
        (&["replay"], &["FILE"]),
        (&["replay", "rec"], &["rec line 1", "pcap"]),
        (&["peers", "forget"], &["PEER"]),
    ] {
        expect(dir, args, 2, parts);
    }
}

#[test]
fn what_fails_is_1_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("garbage"), [7; 100]).unwrap();
    fs::write(dir.join("header.pcap"), [0xd4, 0xc3, 0xb2, 0xa1, 2, 0]).unwrap();
    for (args, parts) in [
        (&["run", "--config", "none.toml"][..], &["none.toml"][..]),
        (&["replay", "none.jsonl"], &["none.jsonl"]),
        (&["replay", "empty"], &["empty", "neither a capture"]),
        (&["replay", "garbage"], &["garbage", "neither a capture"]),
        (&["replay", "header.pcap"], &["header.pcap", "file header"]),
        (&["replay", "."], &["cannot read .", "directory"]),
    ] {
        expect(dir, args, 1, parts);
    }
}

/// What could be read of a capture is told all the same.
#[test]
fn a_capture_that_ends_too_early_or_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let whole = fs::read(captures.join("bgp-4byte-asn.pcap")).unwrap();
    fs::write(dir.join("cut.pcap"), &whole[..whole.len() - 5]).unwrap();
    let damaged = [&whole[..], &[0xff; 64]].concat();
    fs::write(dir.join("damaged.pcap"), damaged).unwrap();
    for (file, code, part) in [
        ("cut.pcap", 0, "cut short"),
        ("damaged.pcap", 1, "malformed record"),
    ] {
        for format in ["json", "table"] {
            let args = ["replay", file, "-o", format];
            expect(dir, &args, code, &[file, part]);
            let told = stdout(&run(dir, &args));
            assert!(told.contains("1.0.2.2:42741"), "{told}");
        }
    }
}

#[test]
fn without_an_agent_the_socket_and_the_remedy_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for args in [
        &["status"][..],
        &["events"],
        &["events", "--follow"],
        &["flaps"],
        &["peers", "forget", "10.0.0.2"],
    ] {
        expect(dir, args, 1, &["api.sock", "bgp-observer run", "--socket"]);
    }
    expect(dir, &["status", "--exit-code"], 4, &["api.sock"]);
    expect(dir, &["status", "--socket", "/nowhere"], 1, &["/nowhere"]);
}

#[test]
fn a_port_in_use_is_named_with_its_option() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = dir.path();
    for option in ["--metrics-listen", "--api-listen"] {
        let other = if option == "--api-listen" {
            "--metrics-listen"
        } else {
            "--api-listen"
        };
        let args = ["run", option, &address, other, "off"];
        expect(dir, &args, 1, &[option, &address, "in use"]);
    }
    let _unix = std::os::unix::net::UnixListener::bind(dir.join("api.sock")).unwrap();
    let args = ["run", "--metrics-listen", "off", "--api-listen", "off"];
    expect(dir, &args, 1, &["another agent", "api.sock"]);
}

#[test]
fn the_configuration_is_printed_after_file_environment_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(
        dir.join("a.toml"),
        "node = \"file\"\nlog = \"error\"\nforget_after = \"1h\"\n",
    )
    .unwrap();
    let output = command(
        dir,
        &[
            "run",
            "--print-config",
            "--config",
            "a.toml",
            "--node",
            "flag",
        ],
    )
    .env("BGP_OBSERVER_LOG", "debug")
    .env("BGP_OBSERVER_NODE", "env")
    .env("BGP_OBSERVER_PORT", "1179,2179")
    .output()
    .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = stdout(&output);
    for line in [
        "node = \"flag\"",
        "log = \"debug\"",
        "forget_after = \"1h\"",
        "port = [1179, 2179]",
        "state_dir = \"/var/lib/bgp-observer\"",
        "metrics_listen = \"[::]:9742\"",
        "# inventory is not set",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}:\n{shown}");
    }
    let output = run(dir, &["run", "--print-config", "--node", "n"]);
    fs::write(dir.join("b.toml"), &output.stdout).unwrap();
    let again = run(dir, &["run", "--print-config", "--config", "b.toml"]);
    assert_eq!(stdout(&again), stdout(&output));
}

const HEADER: &str = r#"{"format":"bgp-observer-events","version":1,"agent":"t","config":{}}"#;
const TICK: &str =
    r#"{"now":5,"occurred":{"earliest":5,"latest":5,"clock":"agent"},"fact":"tick"}"#;

#[test]
fn a_recording_that_breaks_off_is_read_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let whole = format!("{HEADER}\n{TICK}\n{TICK}\n");
    fs::write(dir.join("rec"), &whole).unwrap();
    expect(dir, &["replay", "rec"], 0, &["2 events, 0 changes"]);
    fs::write(dir.join("rec"), &whole[..whole.len() - 20]).unwrap();
    expect(dir, &["replay", "rec"], 0, &["rec line 3", "1 events"]);
    fs::write(dir.join("rec"), &whole[..whole.len() - 1]).unwrap();
    expect(dir, &["replay", "rec"], 0, &["2 events"]);
}

#[test]
fn a_recording_that_makes_no_sense_is_refused_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (text, parts) in [
        ("{}\n".to_owned(), ["rec line 1", "no events file"]),
        (
            HEADER.replace("\"version\":1", "\"version\":7"),
            ["rec line 1", "version 7"],
        ),
        (
            format!("{HEADER}\n{TICK}\n{{\"now\":1}}\n{TICK}\n"),
            ["rec line 3", "missing field"],
        ),
        (
            format!("{HEADER}\n{}\n", TICK.replace("tick", "tock")),
            ["rec line 2", "tock"],
        ),
    ] {
        fs::write(dir.join("rec"), text).unwrap();
        expect(dir, &["replay", "rec"], 2, &parts);
    }
}

#[test]
fn a_capture_becomes_a_recording_that_replays() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let captures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/captures");
    let capture = format!("{captures}/bgp-4byte-asn.pcap");
    let told = ["events written to out.jsonl"];
    expect(
        dir,
        &["replay", &capture, "--record", "out.jsonl"],
        0,
        &told,
    );
    let replayed = run(dir, &["replay", "out.jsonl"]);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    let text = stdout(&replayed);
    assert!(text.contains("OpenConfirm -> Established"), "{text}");
    // What is there is not overwritten, and what is a recording is not made one again.
    expect(
        dir,
        &["replay", &capture, "--record", "out.jsonl"],
        1,
        &["out.jsonl"],
    );
    let already = ["replay", "out.jsonl", "--record", "other"];
    expect(dir, &already, 2, &["an events file already"]);
}

/// An agent that is killed when the test ends, however it ends.
struct Agent {
    child: Child,
    metrics: String,
}

impl Agent {
    /// None where nothing can be observed, as in a sandbox without netlink.
    fn start(dir: &Path, args: &[&str]) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = free.local_addr().unwrap().to_string();
        drop(free);
        let mut child = command(dir, &["run", "--node", "n1", "--api-listen", "off"])
            .args(["--state-dir", "state", "--metrics-listen", &metrics])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        for line in lines.by_ref() {
            let line = line.unwrap();
            if line.contains("ready") {
                // What it says later must not block it.
                std::thread::spawn(move || lines.for_each(drop));
                return Some(Self { child, metrics });
            }
            said.push_str(&line);
            said.push('\n');
        }
        assert!(said.contains("nothing can be observed"), "{said}");
        assert!(!child.wait().unwrap().success());
        eprintln!("cannot run an agent here: {said}");
        None
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the agent does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body that `address` answers for `path`.
fn get(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_agent_answers_and_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(
        dir.join("peers.toml"),
        "[[peer]]\naddress = \"192.0.2.1\"\nname = \"far\"\n",
    )
    .unwrap();
    let args = ["--inventory", "peers.toml", "--record", "rec.jsonl"];
    let Some(mut agent) = Agent::start(dir, &args) else {
        return;
    };
    let metrics = get(&agent.metrics, "/metrics");
    assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("bgp_observer_build_info"), "{metrics}");
    assert!(get(&agent.metrics, "/readyz").contains("200 OK"));

    let status = run(dir, &["status"]);
    assert!(status.status.success(), "{}", stderr(&status));
    for peer in ["192.0.2.1", "far"] {
        let shown = run(dir, &["peer", peer]);
        assert!(shown.status.success(), "{}", stderr(&shown));
        let text = stdout(&shown);
        assert!(text.starts_with("peer 192.0.2.1 (far) of "), "{text}");
    }
    let nobody = run(dir, &["peer", "192.0.2.9"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("192.0.2.9"), "{}", stderr(&nobody));
    let shown = run(dir, &["events", "-o", "json"]);
    assert!(shown.status.success(), "{}", stderr(&shown));

    let second = run(
        dir,
        &["run", "--metrics-listen", "off", "--api-listen", "off"],
    );
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another agent"));

    agent.signal("HUP");
    agent.signal("TERM");
    assert_eq!(agent.end(), Some(0));
    assert!(!dir.join("api.sock").exists());
    assert!(dir.join("state/peers.json").exists());

    let replayed = run(dir, &["replay", "rec.jsonl", "-o", "json"]);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    let live = stdout(&shown);
    assert!(
        stdout(&replayed).starts_with(&live),
        "live:\n{live}\nreplayed:\n{}",
        stdout(&replayed)
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(dir.path(), &["run", "--print-config"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}
