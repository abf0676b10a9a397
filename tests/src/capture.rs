//! Captures of BGP by tcpdump, and what tshark reads in them: other eyes than ours.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{estate::Estate, process::Process, programs, wait};

const SOON: Duration = Duration::from_secs(20);
/// Between two fields of tshark's output, and between two values of one field.
const FIELDS: char = '\t';
const VALUES: char = ',';

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Begins to capture TCP port 179 on `interface` of namespace `netns`; what comes after this
    /// returns is in it.
    pub fn start(estate: &Estate, netns: &str, interface: &str, name: &str) -> Result<Self> {
        let file = estate.folder().join(format!("{name}.pcap"));
        let mut tcpdump = programs::find("tcpdump", "tcpdump")?.command();
        tcpdump.args(["--immediate-mode", "-U", "-n", "-s", "0", "-Z", "root"]);
        tcpdump.args(["-i", interface, "-w"]).arg(&file);
        tcpdump.args(["tcp", "port", "179"]);
        let process = Process::start(estate, name, Some(netns), &mut tcpdump, None)?;
        let capture = Self { process, file };
        wait::soon("tcpdump listens", SOON, || {
            capture.process.must_run()?;
            let said = fs::read_to_string(capture.process.log())?;
            ensure!(said.contains("listening on"), "{said}");
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(capture)
    }

    /// What was captured so far; the file goes on growing.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends it; everything is in the file, and nothing was dropped.
    pub fn stop(self) -> Result<PathBuf> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(SOON)?;
        let said = fs::read_to_string(self.process.log())?;
        ensure!(said.contains("0 packets dropped by kernel"), "{said}");
        Ok(self.file)
    }
}

/// One frame as tshark reads it: the values of each field, in the order of the frame.
#[derive(Clone, Debug)]
pub struct Frame {
    fields: BTreeMap<&'static str, Vec<String>>,
}

impl Frame {
    /// All values of a field.
    pub fn values(&self, field: &str) -> &[String] {
        self.fields.get(field).map_or(&[], Vec::as_slice)
    }

    /// The one value of a field that every frame has once.
    pub fn value(&self, field: &str) -> Result<&str> {
        let value = self.values(field).first();
        value
            .map(String::as_str)
            .with_context(|| format!("a frame without {field}"))
    }

    /// The same as a number.
    pub fn number<T: std::str::FromStr>(&self, field: &str) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let value = self.value(field)?;
        value.parse().with_context(|| format!("{field}={value}"))
    }
}

/// The frames of `file` that pass tshark's display filter, with the named fields.
pub fn frames(file: &Path, filter: &str, fields: &[&'static str]) -> Result<Vec<Frame>> {
    let mut tshark = programs::find("tshark", "tshark")?.command();
    tshark.args(["-n", "-r"]).arg(file);
    tshark.args(["-Y", filter, "-T", "fields", "-E", "occurrence=a"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().context("cannot start tshark")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tshark: {}: {said}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let frame = |line: &str| Frame {
        fields: fields
            .iter()
            .copied()
            .zip(line.split(FIELDS).map(values))
            .collect(),
    };
    Ok(text.lines().map(frame).collect())
}

fn values(field: &str) -> Vec<String> {
    let values = field.split(VALUES).filter(|value| !value.is_empty());
    values.map(str::to_owned).collect()
}
