//! An API server of Kubernetes that is none: it lists and watches what a test puts in, on loopback, and
//! refuses, stalls, forgets, hangs up and goes away when told to. The protocol is the real one's: pages
//! with continue tokens, resource versions, chunked watches, 410 for a version that is too old.
#![expect(
    clippy::indexing_slicing,
    reason = "a key that a JSON value does not have reads as null, and is made when it is written"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How often threads look whether something else is wanted of them.
const LOOK: Duration = Duration::from_millis(5);
/// How often a watch without news says so.
const BOOKMARK: Duration = Duration::from_millis(100);

type Key = (String, String);

#[derive(Debug)]
struct State {
    version: u64,
    /// Watches from before this version are too old.
    oldest: u64,
    objects: BTreeMap<Key, Value>,
    /// Version, resource, what happened, and the object.
    history: Vec<(u64, String, &'static str, Value)>,
    refused: BTreeMap<String, u16>,
    stalled: bool,
    down: bool,
    over: bool,
    /// Connections of an earlier one are to be cut.
    epoch: u64,
    page: usize,
    requests: Vec<String>,
    /// What was created, by resource.
    created: Vec<(String, Value)>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit(&self, edit: impl FnOnce(&mut State)) {
        edit(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The server. Gone on drop.
#[derive(Debug)]
pub struct KubeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl KubeApi {
    /// Knows no object yet.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = State {
            version: 1,
            oldest: 0,
            objects: BTreeMap::new(),
            history: Vec::new(),
            refused: BTreeMap::new(),
            stalled: false,
            down: false,
            over: false,
            epoch: 0,
            page: usize::MAX,
            requests: Vec::new(),
            created: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        Ok(Self {
            address,
            shared,
            acceptor: Some(thread::spawn(move || accept(listener, &accepting))),
        })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig that leads to it.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": self.url() } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        })
        .to_string()
    }

    /// Makes or replaces an object of `resource`; `rest` is all but its name.
    pub fn put(&self, resource: &str, name: &str, mut object: Value) {
        self.shared.edit(|state| {
            state.version += 1;
            object["metadata"]["name"] = json!(name);
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let key = (resource.to_owned(), name.to_owned());
            let before = state.objects.insert(key, object.clone());
            let what = if before.is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            };
            let entry = (state.version, resource.to_owned(), what, object);
            state.history.push(entry);
        });
    }

    /// Removes an object.
    pub fn delete(&self, resource: &str, name: &str) {
        self.shared.edit(|state| {
            let key = (resource.to_owned(), name.to_owned());
            if let Some(mut object) = state.objects.remove(&key) {
                state.version += 1;
                object["metadata"]["resourceVersion"] = json!(state.version.to_string());
                let entry = (state.version, resource.to_owned(), "DELETED", object);
                state.history.push(entry);
            }
        });
    }

    /// Answers requests for `resource` with this status, or again as it ought to.
    pub fn refuse(&self, resource: &str, status: Option<u16>) {
        self.shared.edit(|state| {
            match status {
                Some(status) => state.refused.insert(resource.to_owned(), status),
                None => state.refused.remove(resource),
            };
        });
    }

    /// Takes requests and does not answer them, or answers again.
    pub fn stall(&self, stalled: bool) {
        self.shared.edit(|state| state.stalled = stalled);
    }

    /// Forgets its history: whoever watches from before has to list again. Watches that run are cut.
    pub fn expire(&self) {
        self.shared.edit(|state| {
            state.version += 1;
            state.oldest = state.version;
            state.history.clear();
            state.epoch += 1;
        });
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.edit(|state| state.epoch += 1);
    }

    /// Goes away, or is back under the same address.
    pub fn down(&self, down: bool) {
        self.shared.edit(|state| {
            state.down = down;
            state.epoch += 1;
        });
    }

    /// Lists at most so many objects in one answer.
    pub fn page(&self, page: usize) {
        self.shared.edit(|state| state.page = page);
    }

    /// What was asked so far: the request lines, with what form of the answer was wanted.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// The objects of `resource` that clients created, in order.
    pub fn created(&self, resource: &str) -> Vec<Value> {
        let state = self.shared.lock();
        let of_it = state.created.iter().filter(|(of, _)| of == resource);
        of_it.map(|(_, object)| object.clone()).collect()
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.shared.edit(|state| state.over = true);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic there has been told by the panic itself.
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: TcpListener, shared: &Arc<Shared>) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let mut listener = Some(listener);
    loop {
        let (over, down) = {
            let state = shared.lock();
            (state.over, state.down)
        };
        if over {
            return;
        }
        if down {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).ok();
        }
        let accepted = listener.as_ref().map(|listener| {
            listener.set_nonblocking(true)?;
            listener.accept()
        });
        if let Some(Ok((stream, _))) = accepted {
            let shared = Arc::clone(shared);
            // The client hung up, or this side did: both are as planned.
            thread::spawn(move || drop(serve(&stream, &shared)));
        } else {
            thread::sleep(LOOK);
        }
    }
}

/// A request, as far as it matters.
struct Asked {
    resource: String,
    query: BTreeMap<String, String>,
    metadata_only: bool,
    /// The object, where one is to be created.
    object: Option<Value>,
}

/// Serves one connection.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let epoch = shared.lock().epoch;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    let mut reader = BufReader::new(stream);
    let gone = || {
        let state = shared.lock();
        state.over || state.epoch != epoch
    };
    loop {
        let Some(asked) = read(&mut reader, shared, &gone)? else {
            return Ok(());
        };
        while shared.lock().stalled {
            if gone() {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        let refused = shared.lock().refused.get(&asked.resource).copied();
        if let Some(status) = refused {
            answer(stream, status, &failure(status))?;
        } else if let Some(object) = &asked.object {
            create(stream, shared, &asked, object)?;
        } else if asked.query.contains_key("watch") {
            watch(stream, shared, &asked, &gone)?;
        } else {
            let list = list(&shared.lock(), &asked);
            answer(stream, 200, &list)?;
        }
    }
}

/// Makes an object, unless there is one of its name; of a dry run nothing stays.
fn create(stream: &TcpStream, shared: &Shared, asked: &Asked, object: &Value) -> io::Result<()> {
    let name = |object: &Value| object["metadata"]["name"].clone();
    let mut state = shared.lock();
    let of_it = state.created.iter().filter(|(of, _)| *of == asked.resource);
    let known = { of_it }.any(|(_, other)| name(other) == name(object));
    if !known && !asked.query.contains_key("dryRun") {
        state.created.push((asked.resource.clone(), object.clone()));
    }
    drop(state);
    if known {
        answer(stream, 409, &failure(409))
    } else {
        answer(stream, 201, object)
    }
}

/// Lets `read` take up what there is until it says that it has all. Whether it has.
fn until(
    reader: &mut BufReader<&TcpStream>,
    gone: &impl Fn() -> bool,
    mut read: impl FnMut(&mut BufReader<&TcpStream>) -> io::Result<Option<bool>>,
) -> io::Result<bool> {
    loop {
        match read(reader) {
            Ok(Some(whole)) => return Ok(whole),
            Ok(None) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        if gone() {
            return Ok(false);
        }
    }
}

fn read(
    reader: &mut BufReader<&TcpStream>,
    shared: &Shared,
    gone: &impl Fn() -> bool,
) -> io::Result<Option<Asked>> {
    let mut head = Vec::new();
    let whole = until(reader, gone, |reader| {
        Ok(match reader.read_until(b'\n', &mut head)? {
            0 => Some(false),
            _ => head.ends_with(b"\r\n\r\n").then_some(true),
        })
    })?;
    if !whole {
        return Ok(None);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let lower = head.to_ascii_lowercase();
    let length = { lower.lines() }.find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or_default()];
    let mut filled = 0;
    let whole = until(reader, gone, |reader| {
        let room = body.get_mut(filled..).unwrap_or_default();
        if room.is_empty() {
            return Ok(Some(true));
        }
        let count = reader.read(room)?;
        filled += count;
        Ok((count == 0).then_some(false))
    })?;
    if !whole {
        return Ok(None);
    }
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let metadata_only = head.contains("as=PartialObjectMetadata");
    let form = if metadata_only { " (metadata)" } else { "" };
    let line = format!("{target}{form}");
    shared.edit(|state| state.requests.push(line));
    let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(key, value)| (key.to_owned(), value.replace("%3D", "=")));
    Ok(Some(Asked {
        resource,
        query: query.collect(),
        metadata_only,
        object: serde_json::from_slice(&body).ok(),
    }))
}

fn failure(code: u16) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "AlreadyExists",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": format!("the test says {code}"),
    })
}

fn answer(mut stream: &TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An object as the client wants it; none when its selectors want another.
fn shown(object: &Value, asked: &Asked) -> Option<Value> {
    let selector = |of: &str| { asked.query.get(of) }.and_then(|asked| asked.split_once('='));
    if let Some((field, wanted)) = selector("fieldSelector")
        && object.pointer(&format!("/{}", field.replace('.', "/"))) != Some(&json!(wanted))
    {
        return None;
    }
    if let Some((label, wanted)) = selector("labelSelector")
        && object["metadata"]["labels"][label] != wanted
    {
        return None;
    }
    Some(if asked.metadata_only {
        json!({ "metadata": object["metadata"] })
    } else {
        object.clone()
    })
}

fn list(state: &State, asked: &Asked) -> Value {
    let after = asked.query.get("continue").cloned().unwrap_or_default();
    let of_resource = state.objects.iter();
    let mut all = of_resource
        .filter(|((resource, name), _)| *resource == asked.resource && *name > after)
        .filter_map(|((_, name), object)| Some((name, shown(object, asked)?)))
        .peekable();
    let mut items = Vec::new();
    let mut last = String::new();
    while items.len() < state.page
        && let Some((name, object)) = all.next()
    {
        items.push(object);
        last.clone_from(name);
    }
    let token = if all.peek().is_some() {
        last
    } else {
        String::new()
    };
    json!({
        "kind": "List", "apiVersion": "v1",
        "metadata": { "resourceVersion": state.version.to_string(), "continue": token },
        "items": items,
    })
}

fn watch(
    mut stream: &TcpStream,
    shared: &Shared,
    asked: &Asked,
    gone: &impl Fn() -> bool,
) -> io::Result<()> {
    let number = |key: &str| { asked.query.get(key) }.and_then(|text| text.parse().ok());
    let mut from: u64 = number("resourceVersion").unwrap_or_default();
    let ends = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(290));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let mut said = Instant::now();
    while Instant::now() < ends {
        if gone() {
            // No last chunk: the client sees a connection that broke.
            return Err(ErrorKind::ConnectionAborted.into());
        }
        let mut lines: Vec<Value> = Vec::new();
        {
            let state = shared.lock();
            if from < state.oldest {
                lines.push(json!({ "type": "ERROR", "object": failure(410) }));
            }
            let (since, news) = (from, state.history.iter());
            for (version, resource, what, object) in news.filter(|(version, ..)| *version > since) {
                from = *version;
                if *resource == asked.resource
                    && let Some(object) = shown(object, asked)
                {
                    lines.push(json!({ "type": what, "object": object }));
                }
            }
        }
        if lines.is_empty() && said.elapsed() >= BOOKMARK {
            lines.push(json!({ "type": "BOOKMARK", "object": {
                "kind": "Bookmark", "apiVersion": "v1",
                "metadata": { "resourceVersion": from.to_string() },
            } }));
        }
        let expired = lines.iter().any(|line| line["type"] == "ERROR");
        for line in &lines {
            let line = format!("{line}\n");
            write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
            said = Instant::now();
        }
        if expired {
            break;
        }
        let state = shared.lock();
        let waited = shared.changed.wait_timeout(state, LOOK);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
    write!(stream, "0\r\n\r\n")
}

/// The names of all that `requests` asked for, without their queries.
pub fn resources(requests: &[String]) -> BTreeSet<String> {
    let path = |line: &String| line.split(['?', ' ']).next().unwrap_or_default().to_owned();
    requests.iter().map(path).collect()
}
