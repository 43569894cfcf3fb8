//! A Hugging Face hub on this machine, with the answers and headers of the real one, and faults on demand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// What goes wrong with one answer.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// An error status instead.
    Status(u16),
    /// The connection closes after half the announced body.
    Cut,
    /// The whole file, whatever range was asked for.
    WholeBody,
    /// Half the body, its length not announced.
    ShortWithoutLength,
}

/// One revision of the repository `ORG/NAME`: its commit and its files.
#[derive(Clone)]
pub struct Revision {
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Revision {
    pub fn new<const N: usize>(digit: char, files: [(&str, &[u8]); N]) -> Self {
        let files = files.map(|(name, content)| (name.to_owned(), content.to_vec())).into();
        Self { commit: digit.to_string().repeat(40), files }
    }
}

#[derive(Default)]
pub struct State {
    pub revisions: HashMap<String, Revision>,
    /// The files are for this token alone; the listing is for everyone, as on the hub.
    pub gated_for: Option<String>,
    /// By the path of the request; transfers that begin at the file's first byte and small probes count alike.
    pub faults: HashMap<String, VecDeque<Fault>>,
    /// `PATH RANGE` of every request.
    pub log: Vec<String>,
}

pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// One request, as far as it matters.
struct Request {
    path: String,
    range: Option<(usize, Option<usize>)>,
    token: Option<String>,
}

impl Server {
    pub fn start<const N: usize>(revisions: [(&str, Revision); N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let revisions = revisions.map(|(name, revision)| (name.to_owned(), revision)).into();
        let state = Arc::new(Mutex::new(State { revisions, ..State::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &shared, address);
            }
        });
        Self { address, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn fault(&self, path: &str, faults: &[Fault]) {
        self.state().faults.insert(path.to_owned(), faults.iter().copied().collect());
    }

    /// The requests whose path contains `part`.
    pub fn requests(&self, part: &str) -> Vec<String> {
        self.state().log.iter().filter(|line| line.contains(part)).cloned().collect()
    }
}

/// What the hub calls a file's content. Files of at least 1 KiB are in its large file storage.
pub fn etag(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:016x}", hasher.finish()).repeat(if is_large(content) { 4 } else { 2 })
}

fn is_large(content: &[u8]) -> bool {
    content.len() >= 1024
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, address: SocketAddr) {
    let Some(request) = read_request(&stream) else { return };
    let mut state = state.lock().unwrap();
    let range = request
        .range
        .map_or(String::new(), |(from, to)| format!("{from}-{}", to.map_or(String::new(), |to| to.to_string())));
    state.log.push(format!("{} {range}", request.path));
    let is_probe = request.range == Some((0, Some(0)));
    let faults = state.faults.get_mut(&request.path).filter(|_| !is_probe);
    let fault = faults.and_then(VecDeque::pop_front);
    let answer = answer(&state, &request, fault, address);
    drop(state);
    let _ = stream.write_all(&answer); // a client that has gone away is no failure of the server
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.split('?').next()?.to_owned();
    let headers: HashMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let range = headers.get("range").and_then(|value| value.strip_prefix("bytes=")?.split_once('-'));
    let range = range.map(|(from, to)| (from.parse().unwrap(), to.parse().ok()));
    let token = headers.get("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    Some(Request { path, range, token })
}

fn answer(state: &State, request: &Request, fault: Option<Fault>, address: SocketAddr) -> Vec<u8> {
    if let Some(Fault::Status(status)) = fault {
        return refusal(status, "", "injected");
    }
    let parts: Vec<&str> = request.path.trim_start_matches('/').splitn(5, '/').collect();
    match parts[..] {
        ["api", "models", "org", "name", rest] => match state.revisions.get(&revision_of(rest)) {
            Some(revision) => plain(200, "", listing(revision).as_bytes()),
            None => refusal(404, "RevisionNotFound", "Invalid rev id"),
        },
        ["api", ..] => refusal(401, "RepoNotFound", "Repository not found"),
        ["org", "name", "resolve", commit, file] => {
            let is_open = state.gated_for.is_none() || state.gated_for == request.token;
            let revision = state.revisions.values().find(|revision| revision.commit == commit);
            let content = revision.and_then(|revision| revision.files.get(file));
            match content {
                _ if !is_open && request.token.is_none() => {
                    refusal(401, "GatedRepo", "Access to this model is restricted")
                }
                _ if !is_open => refusal(403, "GatedRepo", "You are not in the authorized list"),
                None => refusal(404, "EntryNotFound", "Entry not found"),
                Some(content) => resolved(request, fault, commit, content, address),
            }
        }
        ["storage", wanted] => {
            let mut contents = state.revisions.values().flat_map(|revision| revision.files.values());
            body(request, fault, "", contents.find(|content| etag(content) == wanted).unwrap())
        }
        _ => refusal(404, "", "no such page"),
    }
}

fn revision_of(rest: &str) -> String {
    rest.trim_start_matches("revision/").replace("%2F", "/")
}

/// Large files are elsewhere: a redirect whose headers describe them.
fn resolved(request: &Request, fault: Option<Fault>, commit: &str, content: &[u8], address: SocketAddr) -> Vec<u8> {
    let tag = etag(content);
    if is_large(content) {
        let headers = format!(
            "Location: http://{address}/storage/{tag}\r\nX-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {}\r\n",
            content.len()
        );
        return plain(302, &headers, b"");
    }
    body(request, fault, &format!("X-Repo-Commit: {commit}\r\nETag: \"{tag}\"\r\n"), content)
}

fn body(request: &Request, fault: Option<Fault>, headers: &str, content: &[u8]) -> Vec<u8> {
    let (from, to) = request.range.unwrap_or((0, None));
    let to = to.map_or(content.len(), |to| (to + 1).min(content.len()));
    if matches!(fault, Some(Fault::WholeBody)) {
        return plain(200, headers, content);
    }
    if from >= to {
        return refusal(416, "", "Range Not Satisfiable");
    }
    let part = &content[from..to];
    let mut headers = format!("{headers}Content-Range: bytes {from}-{}/{}\r\n", to - 1, content.len());
    if matches!(fault, Some(Fault::ShortWithoutLength)) {
        return message(206, &headers, &part[..part.len() / 2]);
    }
    write!(headers, "Content-Length: {}\r\n", part.len()).unwrap();
    let sent = if matches!(fault, Some(Fault::Cut)) { part.len() / 2 } else { part.len() };
    message(206, &headers, &part[..sent])
}

fn listing(revision: &Revision) -> String {
    let siblings: Vec<serde_json::Value> =
        revision.files.iter().map(|(name, content)| sibling(name, content)).collect();
    serde_json::json!({ "id": "org/name", "sha": revision.commit, "siblings": siblings }).to_string()
}

fn sibling(name: &str, content: &[u8]) -> serde_json::Value {
    let (size, tag) = (content.len(), etag(content));
    match is_large(content) {
        true => {
            serde_json::json!({ "rfilename": name, "size": size, "blobId": "0".repeat(40), "lfs": { "sha256": tag, "size": size, "pointerSize": 135 } })
        }
        false => serde_json::json!({ "rfilename": name, "size": size, "blobId": tag }),
    }
}

fn refusal(status: u16, code: &str, text: &str) -> Vec<u8> {
    plain(status, &format!("X-Error-Code: {code}\r\nX-Error-Message: {text}\r\n"), b"")
}

fn plain(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    message(status, &format!("{headers}Content-Length: {}\r\n", body.len()), body)
}

fn message(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    message.extend_from_slice(body);
    message
}
