//! The end of local BGP speakers, and of our own programs.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use observer_core::event::{Event, Fact, Process, TcpState};

use crate::lab::{Namespace, Observed, Speaker, alone, can_run, wait_until};

const SPEAK: &str = "BGP_OBSERVER_TEST_SPEAKS";

/// Not a test of anything: the speaker that the other tests start, as a process of its own.
#[test]
fn speaker_process() {
    if std::env::var_os(SPEAK).is_none() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:179").expect("bind");
    println!("speaking");
    let mut word = String::new();
    std::io::stdin().read_line(&mut word).expect("stdin");
    let status = word.trim().parse().expect("a status");
    drop(listener);
    std::process::exit(status);
}

fn speak_in(namespace: &Namespace) -> Speaker {
    let mut command = namespace.command(std::env::current_exe().expect("this test"));
    command
        .args(["speakers::speaker_process", "--exact", "--nocapture"])
        .env(SPEAK, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child: Child = command.spawn().expect("the speaker");
    let output = child.stdout.take().expect("its stdout");
    let mut lines = BufReader::new(output).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.ends_with("speaking"))));
    Speaker(child)
}

fn exited(fact: &Fact) -> Option<(Process, Option<i32>, Option<i32>)> {
    match fact {
        Fact::SpeakerExited {
            speaker,
            status,
            signal,
            ..
        } => Some((speaker.clone(), *status, *signal)),
        _ => None,
    }
}

#[test]
fn a_listener_is_a_speaker_whose_exit_status_is_told() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &[]);
    let mut speaker = speak_in(&namespace);
    let pid = speaker.0.id();
    writeln!(speaker.0.stdin.as_mut().expect("its stdin"), "3").expect("a word");
    let (process, status, signal) = observed.wait_fact("its end", exited);
    assert_eq!((process.pid, status, signal), (pid, Some(3), None));
    assert!(!process.comm.is_empty());
}

#[test]
fn a_killed_speaker_tells_the_signal_and_its_sender_before_its_sockets_close() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &[]);
    let speaker = speak_in(&namespace);
    let pid = speaker.0.id();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("kill");
    observed.wait_fact("its listener's end", |fact| match fact {
        Fact::TcpState {
            from: TcpState::Listen,
            ..
        } => Some(()),
        _ => None,
    });
    let (sender, signal) = observed.wait_fact("the signal", |fact| match fact {
        Fact::SpeakerSignalled {
            speaker,
            signal,
            sender,
            ..
        } if speaker.pid == pid => Some((sender.clone(), *signal)),
        _ => None,
    });
    assert_eq!(signal, 9);
    assert_eq!(sender.expect("a sender").pid, std::process::id());
    let (_, status, signal) = observed.wait_fact("its end", exited);
    assert_eq!((status, signal), (None, Some(9)));
    let position = |wanted: fn(&Event) -> bool| observed.events.iter().position(wanted);
    let order = [
        position(|event| matches!(event.fact, Fact::SpeakerSignalled { .. })),
        position(|event| matches!(event.fact, Fact::SpeakerExited { .. })),
        position(|event| {
            matches!(
                event.fact,
                Fact::TcpState {
                    from: TcpState::Listen,
                    ..
                }
            )
        }),
    ];
    assert!(order.is_sorted() && order[0].is_some(), "{order:?}");
}

#[test]
fn signals_that_end_nothing_are_not_reported() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &[]);
    let speaker = speak_in(&namespace);
    let pid = Pid::from_raw(speaker.0.id().cast_signed());
    for signal in [Signal::SIGCONT, Signal::SIGURG, Signal::SIGWINCH] {
        kill(pid, signal).expect("kill");
    }
    kill(pid, Signal::SIGTERM).expect("kill");
    observed.wait_fact("its end", exited);
    let signals: Vec<_> = observed
        .events
        .iter()
        .filter_map(|event| match &event.fact {
            Fact::SpeakerSignalled { signal, .. } => Some(*signal),
            _ => None,
        })
        .collect();
    assert_eq!(signals, [15]);
}

/// A memory cgroup of the test's own.
struct Cgroup(PathBuf);

impl Cgroup {
    /// None where this system has no memory cgroups to make.
    fn with_limit(bytes: u32) -> Option<Self> {
        let name = format!("bgp-observer-test-{}", std::process::id());
        for (root, limit) in [
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ] {
            let cgroup = Self(PathBuf::from(root).join(&name));
            // Never created by us: where the directory is no cgroup, there is no such file.
            let write_limit = || {
                let mut file = fs::File::options().write(true).open(cgroup.0.join(limit))?;
                file.write_all(bytes.to_string().as_bytes())
            };
            if fs::create_dir(&cgroup.0).is_ok() && write_limit().is_ok() {
                return Some(cgroup);
            }
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel takes a moment to see that the last process is gone.
        wait_until("the cgroup to be empty", || {
            (!self.0.exists() || fs::remove_dir(&self.0).is_ok()).then_some(())
        });
    }
}

#[test]
fn a_speaker_killed_for_lack_of_memory_is_told_from_one_killed_by_hand() {
    if !can_run() {
        return;
    }
    let Some(cgroup) = Cgroup::with_limit(16 << 20) else {
        println!("skipped: this system has no memory cgroup that can be made");
        return;
    };
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &[]);
    // It waits for a word, moves into the cgroup, and takes memory without end.
    let script = format!(
        "read go; echo $$ > {}/cgroup.procs; exec tail /dev/zero",
        cgroup.0.display()
    );
    let child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh");
    let mut speaker = Speaker(child);
    let pid = speaker.0.id();
    observed
        .source
        .add_speaker(pid, observer_core::event::NetnsId(1))
        .expect("a speaker");
    writeln!(speaker.0.stdin.as_mut().expect("its stdin"), "go").expect("a word");
    let victim = observed.wait_fact("the OOM killer", |fact| match fact {
        Fact::SpeakerOom { speaker, .. } => Some(speaker.clone()),
        _ => None,
    });
    assert_eq!(
        victim,
        Process {
            pid,
            comm: "tail".to_owned()
        }
    );
    let (_, status, signal) = observed.wait_fact("its end", exited);
    assert_eq!((status, signal), (None, Some(9)));
    let sender = observed.wait_fact("the signal", |fact| match fact {
        Fact::SpeakerSignalled { sender, .. } => Some(sender.clone()),
        _ => None,
    });
    assert_eq!(sender, None, "the kernel itself");
    drop(speaker);
}

#[test]
fn nothing_is_left_in_the_kernel() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let observed = Observed::start_unshared();
    let ours = own_program_ids();
    assert_eq!(ours.len(), observed.attached);
    assert!(ours.is_subset(&loaded_program_ids()));
    drop(observed);
    wait_until("the programs to be gone", || {
        ours.is_disjoint(&loaded_program_ids()).then_some(())
    });
}

fn loaded_program_ids() -> BTreeSet<u32> {
    aya::programs::loaded_programs()
        .filter_map(|program| Some(program.ok()?.id()))
        .collect()
}

/// The BPF programs that this process holds open.
fn own_program_ids() -> BTreeSet<u32> {
    let files = fs::read_dir("/proc/self/fdinfo").expect("fdinfo");
    files
        .filter_map(|entry| {
            let mut text = String::new();
            let mut file = fs::File::open(entry.ok()?.path()).ok()?;
            file.read_to_string(&mut text).ok()?;
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("prog_id:"))?;
            id.trim().parse().ok()
        })
        .collect()
}
