//! What outlives the agent: known peers, in `peers.json` of the state directory.
//!
//! A write replaces the file whole (written aside, synced, renamed). A file that cannot be
//! understood is set aside and told, never overwritten silently.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use observer_core::peer::SavedPeer;
use serde::{Deserialize, Serialize};

/// Known peers by node.
pub type SavedNodes = BTreeMap<String, Vec<SavedPeer>>;

/// Version of the file that is written and read.
const VERSION: u32 = 1;
const NAME: &str = "peers.json";

#[derive(Deserialize)]
struct Contents {
    nodes: SavedNodes,
}

/// [`Contents`] as they are written: nothing is copied for it.
#[derive(Serialize)]
struct ContentsOf<'a> {
    version: u32,
    nodes: &'a SavedNodes,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// What was found in it.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The peers.
    pub nodes: SavedNodes,
    /// Why there are none although there was a file, and where that file is now.
    pub set_aside: Option<String>,
}

impl StateDir {
    /// The directory at `path`, which need not exist.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Creates the directory if needed and proves that it can be written.
    pub fn prepare(&self) -> Result<()> {
        fs::create_dir_all(&self.path)
            .with_context(|| format!("cannot create state directory {}", self.path.display()))?;
        let probe = self.path.join(".writable");
        File::create(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .with_context(|| format!("cannot write to state directory {}", self.path.display()))
    }

    /// Reads what is remembered; `now` (seconds since the epoch) names a file that is set aside.
    pub fn load(&self, now: i64) -> Result<Loaded> {
        let path = self.path.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        match understand(&bytes) {
            Ok(nodes) => Ok(Loaded {
                nodes,
                set_aside: None,
            }),
            Err(why) => {
                let aside = self.path.join(format!("{NAME}.corrupt-{now}"));
                let where_to = match fs::rename(&path, &aside) {
                    Ok(()) => format!("kept as {}", aside.display()),
                    Err(error) => format!("cannot be set aside: {error}"),
                };
                Ok(Loaded {
                    nodes: SavedNodes::new(),
                    set_aside: Some(format!("{}: {why}; {where_to}", path.display())),
                })
            }
        }
    }

    /// Replaces what is remembered.
    pub fn save(&self, nodes: &SavedNodes) -> Result<()> {
        let path = self.path.join(NAME);
        self.replace(&path, nodes)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn replace(&self, path: &Path, nodes: &SavedNodes) -> Result<()> {
        let aside = self.path.join(format!("{NAME}.tmp"));
        let contents = ContentsOf {
            version: VERSION,
            nodes,
        };
        // Thousands of flaps are megabytes, each second while they last: straight into the file.
        let mut file = BufWriter::new(File::create(&aside)?);
        serde_json::to_writer(&mut file, &contents)?;
        file.write_all(b"\n")?;
        file.into_inner()?.sync_all()?;
        fs::rename(&aside, path)?;
        File::open(&self.path)?.sync_all()?;
        Ok(())
    }
}

fn understand(bytes: &[u8]) -> Result<SavedNodes, String> {
    let found: Versioned = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if found.version != VERSION {
        return Err(format!(
            "version {} is not this agent's version {VERSION}",
            found.version
        ));
    }
    let contents: Contents = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(contents.nodes)
}

#[cfg(test)]
mod tests {
    use observer_core::peer::KnownBy;

    use super::*;

    fn nodes() -> SavedNodes {
        let peer = SavedPeer {
            address: "10.0.0.2".parse().unwrap(),
            scope: 0,
            known_by: KnownBy::Dialled,
            peer_node: None,
            peer_type: None,
            asn: None,
            last_heard_at: None,
            established_at: None,
            last_down_at: None,
            was_up: true,
            terms: None,
            flaps: 3,
            recent_flaps: Vec::new(),
        };
        SavedNodes::from([("n1".to_owned(), vec![peer])])
    }

    #[test]
    fn what_was_saved_is_loaded_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(&dir.path().join("deep/er"));
        state.prepare().unwrap();
        assert!(state.load(1).unwrap().nodes.is_empty());
        state.save(&SavedNodes::new()).unwrap();
        state.save(&nodes()).unwrap();
        assert_eq!(state.load(1).unwrap().nodes, nodes());
        let names: Vec<_> = fs::read_dir(&state.path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [NAME], "no temporary file stays");
    }

    #[test]
    fn a_half_written_temporary_file_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        state.save(&nodes()).unwrap();
        fs::write(dir.path().join("peers.json.tmp"), "{\"versi").unwrap();
        assert_eq!(state.load(1).unwrap().nodes, nodes());
        state.save(&nodes()).unwrap();
    }

    #[test]
    fn a_file_that_makes_no_sense_is_set_aside_and_told() {
        for bad in [
            "",
            "{",
            "[]",
            "{\"version\":1}",
            "{\"version\":9,\"nodes\":{}}",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDir::new(dir.path());
            fs::write(dir.path().join(NAME), bad).unwrap();
            let loaded = state.load(77).unwrap();
            assert!(loaded.nodes.is_empty());
            let told = loaded.set_aside.unwrap();
            assert!(told.contains("peers.json.corrupt-77"), "{told}");
            let kept = fs::read_to_string(dir.path().join("peers.json.corrupt-77")).unwrap();
            assert_eq!(kept, bad);
            state.save(&nodes()).unwrap();
            assert_eq!(state.load(78).unwrap().nodes, nodes());
        }
    }

    #[test]
    fn an_unwritable_directory_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a-file");
        fs::write(&file, "").unwrap();
        let state = StateDir::new(&file.join("state"));
        let error = format!("{:#}", state.prepare().unwrap_err());
        assert!(error.contains("a-file/state"), "{error}");
        assert!(state.save(&nodes()).is_err());
    }
}
