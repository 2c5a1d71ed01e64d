//! A hub that answers as the real one does, or as badly as a test wants, and a small ONNX model.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use parking_lot::Mutex;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One request, as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    /// The first byte asked for; 0 without a `Range` header.
    pub(crate) from: usize,
    pub(crate) authorization: Option<String>,
    /// How many requests for the same path came before.
    pub(crate) nth: usize,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The `Content-Length` to send when it is not the body's.
    pub(crate) announced: Option<usize>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::status(302).header("Location", to)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The content from the byte asked for on, as a server with ranges sends it.
    pub(crate) fn content(content: &[u8], from: usize) -> Self {
        match from {
            0 => Self { status: 200, body: content.to_vec(), ..Self::default() },
            from if from < content.len() => Self { status: 206, body: content[from..].to_vec(), ..Self::default() }
                .header("Content-Range", &format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
            _ => Self::status(416),
        }
    }

    /// Announces everything, sends the first `bytes`, and hangs up.
    pub(crate) fn broken_off_after(mut self, bytes: usize) -> Self {
        self.announced = Some(self.body.len());
        self.body.truncate(bytes);
        self
    }
}

/// A server on a free loopback port; stopped when dropped, since its tasks are.
pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                connections.spawn(async move { serve(stream, &*answer, &log).await });
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// How many requests had a path with `part` in it.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.contains(part)).count()
    }
}

async fn serve(mut stream: TcpStream, answer: &(dyn Fn(&Seen) -> Reply + Sync), log: &Mutex<Vec<Seen>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let from =
        header("range").map_or(0, |range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap());
    let seen = {
        let mut log = log.lock();
        let nth = log.iter().filter(|seen| seen.path == path).count();
        log.push(Seen { path, from, authorization: header("authorization"), nth });
        log.last().unwrap().clone()
    };
    let reply = answer(&seen);
    let mut text = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    let announced = reply.announced.unwrap_or(reply.body.len());
    write!(text, "Content-Length: {announced}\r\n").unwrap();
    for (name, value) in &reply.headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text.push_str("\r\n");
    // A client that hangs up early is its own affair.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.write_all(&reply.body).await;
    let _ = stream.shutdown().await;
}

/// A repository's files; those over 1,000 bytes are in large file storage.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repository {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Repository {
    pub(crate) fn with(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.to_owned(), content.into());
        self
    }

    /// A graph whose weights lie in `onnx/model.onnx_data`, a tokenizer, and a pickle.
    pub(crate) fn model() -> Self {
        let weights: Vec<u8> = (0..400_000_u32).map(|i| (i / 7) as u8).collect();
        Self::default()
            .with("onnx/model.onnx", onnx("model.onnx_data", weights.len()))
            .with("onnx/model.onnx_data", weights)
            .with("tokenizer.json", r#"{"version":"1.0"}"#)
            .with("config.json", r#"{"hidden_size":384}"#)
            .with("README.md", "about")
            .with("pytorch_model.bin", "PK\u{3}\u{4}evil")
    }

    pub(crate) fn is_lfs(content: &[u8]) -> bool {
        content.len() > 1000
    }

    pub(crate) fn listing(&self) -> serde_json::Value {
        let siblings: Vec<_> = self
            .files
            .iter()
            .map(|(name, content)| {
                let size = content.len();
                if Self::is_lfs(content) {
                    serde_json::json!({
                        "rfilename": name, "size": size, "blobId": git_sha1(b"pointer"),
                        "lfs": {"sha256": sha256(content), "size": size, "pointerSize": 133},
                    })
                } else {
                    serde_json::json!({"rfilename": name, "size": size, "blobId": git_sha1(content)})
                }
            })
            .collect();
        serde_json::json!({"id": "owner/name", "sha": COMMIT, "siblings": siblings})
    }

    /// What the hub answers; files in large file storage are redirected to `cdn`.
    pub(crate) fn answer(&self, seen: &Seen, cdn: &str) -> Reply {
        if seen.path.starts_with("/api/models/owner/name/revision/") {
            return Reply { body: self.listing().to_string().into_bytes(), ..Reply::status(200) };
        }
        let Some(content) = self.content(&seen.path, &format!("/owner/name/resolve/{COMMIT}/")) else {
            return Reply::status(404);
        };
        if !Self::is_lfs(content) {
            return Reply::content(content, seen.from).header("ETag", &format!("\"{}\"", git_sha1(content)));
        }
        let name = seen.path.rsplit_once(COMMIT).unwrap().1;
        Reply::redirect(&format!("{cdn}/cdn{name}?signature=1"))
            .header("X-Linked-Etag", &format!("\"{}\"", sha256(content)))
            .header("X-Linked-Size", &content.len().to_string())
            .header("X-Repo-Commit", COMMIT)
    }

    /// What the CDN answers.
    pub(crate) fn cdn_answer(&self, seen: &Seen) -> Reply {
        let path = seen.path.split('?').next().unwrap();
        match self.content(path, "/cdn/") {
            Some(content) => Reply::content(content, seen.from).header("ETag", "\"of-the-cdn\""),
            None => Reply::status(404),
        }
    }

    fn content(&self, path: &str, prefix: &str) -> Option<&Vec<u8>> {
        self.files.get(path.strip_prefix(prefix)?)
    }
}

pub(crate) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn git_sha1(content: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A model of one int8 tensor of `bytes` elements that lie in the file `location`.
pub(crate) fn onnx(location: &str, bytes: usize) -> Vec<u8> {
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    let mut tensor = vec![1 << 3];
    varint(&mut tensor, bytes);
    tensor.extend([2 << 3, 3, 14 << 3, 1]);
    tensor.extend(field(13, &entry));
    let graph = field(5, &tensor);
    [vec![1 << 3, 9], field(7, &graph)].concat()
}

/// A model with its weights inside.
pub(crate) fn small_onnx() -> Vec<u8> {
    let tensor = [vec![1 << 3, 4, 2 << 3, 3], field(9, &[1, 2, 3, 4])].concat();
    [vec![1 << 3, 9], field(7, &field(5, &tensor))].concat()
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    varint(&mut bytes, content.len());
    bytes.extend_from_slice(content);
    bytes
}

fn varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
