//! One file's way from the hub into a verified `.part` file: resumed, retried, checked.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use reqwest::{Response, StatusCode, Url, header::CONTENT_RANGE};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::{fs, io::AsyncWriteExt as _};

use super::{
    client::{Client, Failure, Linked, network},
    listing::Listed,
};
use crate::{Limits, Progress, RegistryError, Sha256Digest, folder::blocking, progress::Step};

/// Above this the hub keeps files in large file storage and knows their SHA-256.
const MAX_UNVERIFIED_BYTES: u64 = 10 << 20;

/// An attempt that got so much further was worth it: the attempts are counted anew.
const WORTHWHILE_BYTES: u64 = 1 << 20;

/// One file to be fetched.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) url: Url,
    pub(super) listed: &'a Listed,
    pub(super) part: &'a Path,
    pub(super) limits: &'a Limits,
    pub(super) progress: &'a dyn Progress,
}

/// What the file must have; the listing's word goes before that of the answer's headers.
#[derive(Debug, Clone, Default)]
struct Expected {
    bytes: Option<u64>,
    sha256: Option<Sha256Digest>,
    git_sha1: Option<String>,
}

impl Expected {
    fn new(listed: &Listed, linked: &Linked) -> Self {
        let mut expected =
            Self { bytes: listed.bytes.or(linked.bytes), sha256: listed.sha256, git_sha1: listed.git_sha1.clone() };
        if !expected.has_digest() {
            expected.sha256 = linked.sha256;
            expected.git_sha1 = linked.git_sha1.clone().filter(|_| linked.sha256.is_none());
        }
        expected
    }

    fn has_digest(&self) -> bool {
        self.sha256.is_some() || self.git_sha1.is_some()
    }
}

impl Download<'_> {
    /// Fetches until the `.part` file is complete and verified. Gives its SHA-256.
    pub(super) async fn run(&self) -> Result<Sha256Digest, RegistryError> {
        let (mut attempt, mut wrong, mut furthest_bytes) = (0, 0, self.part_bytes().await);
        loop {
            attempt += 1;
            let before = self.part_bytes().await;
            let failure = match self.once(before).await {
                Ok(sha256) => return Ok(sha256),
                Err(failure) => failure,
            };
            // A part kept from an earlier start may have been spoiled: once more from the
            // beginning, and not more often, since the file may have gigabytes.
            if matches!(&failure, Failure::Again { error: RegistryError::WrongDigest { .. }, .. }) {
                wrong += 1;
            }
            let failure = match failure {
                Failure::Again { error, .. } if wrong >= 2 => Failure::Final(error),
                other => other,
            };
            // Against the furthest ever: a hub that makes us begin again gains nothing by it.
            let reached_bytes = self.part_bytes().await;
            if reached_bytes >= furthest_bytes.saturating_add(WORTHWHILE_BYTES) {
                (attempt, furthest_bytes) = (1, reached_bytes);
            }
            self.client.pause(failure, attempt).await?;
        }
    }

    async fn part_bytes(&self) -> u64 {
        fs::metadata(self.part).await.map_or(0, |metadata| metadata.len())
    }

    async fn discard(&self) -> Result<(), Failure> {
        match fs::remove_file(self.part).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: io::Error) -> Failure {
        Failure::Final(RegistryError::io("store", &self.listed.path, error))
    }

    async fn once(&self, kept_bytes: u64) -> Result<Sha256Digest, Failure> {
        let mut from = kept_bytes;
        let known = Expected::new(self.listed, &Linked::default());
        if known.bytes.is_some_and(|bytes| from > bytes) {
            self.discard().await?;
            from = 0;
        }
        // Complete, but the process ended before it was verified.
        if from > 0 && known.bytes == Some(from) && known.has_digest() {
            return self.verify(&known).await;
        }
        let answer = self.client.get(&self.url, from, &self.listed.path).await?;
        let mut expected = Expected::new(self.listed, &answer.linked);
        match answer.response.status() {
            StatusCode::PARTIAL_CONTENT if from > 0 && range_start(&answer.response) == Some(from) => {}
            StatusCode::OK => from = 0,
            other => {
                self.discard().await?;
                let status = other.as_u16();
                return Err(Failure::again(RegistryError::HubStatus { status }));
            }
        }
        if expected.bytes.is_none() {
            expected.bytes = answer.response.content_length().and_then(|bytes| bytes.checked_add(from));
        }
        self.check_size(&expected, expected.bytes.unwrap_or(0)).map_err(Failure::Final)?;
        let got_bytes = self.receive(answer.response, from, &expected).await?;
        if let Some(expected_bytes) = expected.bytes
            && got_bytes < expected_bytes
        {
            let file = self.listed.path.clone();
            let error = RegistryError::Truncated { file, got_bytes, expected_bytes };
            return Err(Failure::again(error));
        }
        let sha256 = self.verify(&expected).await?;
        self.progress.finished(Step::Download, &self.listed.path);
        Ok(sha256)
    }

    fn check_size(&self, expected: &Expected, bytes: u64) -> Result<(), RegistryError> {
        self.limits.check_file(&self.listed.path, bytes)?;
        if !expected.has_digest() && bytes > MAX_UNVERIFIED_BYTES {
            let file = self.listed.path.clone();
            return Err(RegistryError::NoDigest { file, limit_bytes: MAX_UNVERIFIED_BYTES });
        }
        Ok(())
    }

    /// Appends the body to the `.part` file from `from` on. What came before a failure is kept.
    async fn receive(&self, mut response: Response, from: u64, expected: &Expected) -> Result<u64, Failure> {
        let mut options = fs::OpenOptions::new();
        let options = match from {
            0 => options.write(true).create(true).truncate(true),
            _ => options.append(true),
        };
        let mut file = options.open(self.part).await.map_err(|e| self.failed(e))?;
        let name = &self.listed.path;
        self.progress.started(Step::Download, name, from, expected.bytes.unwrap_or(0));
        let received = self.copy(&mut response, &mut file, from, expected).await;
        file.flush().await.map_err(|e| self.failed(e))?;
        file.sync_all().await.map_err(|e| self.failed(e))?;
        drop(file);
        if matches!(received, Err(Failure::Final(_))) {
            self.discard().await?;
        }
        received
    }

    async fn copy(
        &self,
        response: &mut Response,
        file: &mut fs::File,
        from: u64,
        expected: &Expected,
    ) -> Result<u64, Failure> {
        let mut got_bytes = from;
        while let Some(chunk) = response.chunk().await.map_err(|error| network(&error))? {
            got_bytes = got_bytes.saturating_add(chunk.len() as u64);
            self.check_size(expected, got_bytes).map_err(Failure::Final)?;
            if let Some(limit_bytes) = expected.bytes.filter(|bytes| got_bytes > *bytes) {
                let file = format!("what the hub sends as {}", self.listed.path);
                let bytes = got_bytes;
                return Err(Failure::Final(RegistryError::TooLarge { file, bytes, limit_bytes }));
            }
            file.write_all(&chunk).await.map_err(|e| self.failed(e))?;
            self.progress.advanced(Step::Download, &self.listed.path, chunk.len() as u64);
        }
        Ok(got_bytes)
    }

    /// Reads the whole `.part` file again: what counts is what is on the disk.
    async fn verify(&self, expected: &Expected) -> Result<Sha256Digest, Failure> {
        let (part, name) = (self.part.to_owned(), self.listed.path.clone());
        let wants_git = expected.sha256.is_none() && expected.git_sha1.is_some();
        let hashes = blocking(move || hash(&part, wants_git).map_err(|error| RegistryError::io("read", &name, error)));
        let (sha256, git_sha1) = hashes.await.map_err(Failure::Final)?;
        let wrong = |expected: String, got: String| {
            let file = self.listed.path.clone();
            RegistryError::WrongDigest { file, expected, got }
        };
        let error = match (&expected.sha256, &expected.git_sha1) {
            (Some(listed), _) if *listed != sha256 => wrong(listed.to_string(), sha256.to_string()),
            (None, Some(listed)) if *listed != git_sha1 => wrong(listed.clone(), git_sha1),
            _ => return Ok(sha256),
        };
        self.discard().await?;
        Err(Failure::again(error))
    }
}

/// Where a partial answer begins: `bytes 100-199/200` gives 100.
fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// The SHA-256 of a file, and, if wanted, the SHA-1 under which git would store it.
fn hash(path: &Path, wants_git: bool) -> io::Result<(Sha256Digest, String)> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let (mut sha256, mut git) = (Sha256::new(), Sha1::new());
    git.update(format!("blob {bytes}\0"));
    let mut chunk = vec![0; 1 << 20];
    loop {
        let n = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sha256.update(&chunk[..n]);
        if wants_git {
            git.update(&chunk[..n]);
        }
    }
    let git: [u8; 20] = git.finalize().into();
    let git = git.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((Sha256Digest(sha256.finalize().into()), git))
}
