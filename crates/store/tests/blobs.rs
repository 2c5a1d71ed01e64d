//! One suite for blobs in a folder and in a bucket of a real S3 server.
//!
//! The server is SeaweedFS, from the program that HALNY_SEAWEEDFS names; `make test-rust` sets it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use halny_store::blobs::BlobPlace;
use halny_store::{Blobs, StoreError};

/// An S3 server of a test's own, on loopback.
struct S3 {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    let sockets: [_; N] = std::array::from_fn(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

fn start(program: &Path) -> (S3, String) {
    let folder = tempfile::tempdir().unwrap();
    let [master, volume, filer, s3, admin, master_grpc, volume_grpc, filer_grpc, s3_grpc, admin_grpc] = free_ports();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let who = r#"{"identities": [{"name": "t", "credentials": [{"accessKey": "key", "secretKey": "not-a-secret"}], "actions": ["Admin"]}]}"#;
    std::fs::write(folder.path().join("s3.json"), who).unwrap();
    let options = [
        format!("-dir={}", path("data")),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        format!("-master.port={master}"),
        format!("-master.port.grpc={master_grpc}"),
        format!("-volume.port={volume}"),
        format!("-volume.port.grpc={volume_grpc}"),
        format!("-filer.port={filer}"),
        format!("-filer.port.grpc={filer_grpc}"),
        format!("-s3.port={s3}"),
        format!("-s3.port.grpc={s3_grpc}"),
        format!("-admin.port={admin}"),
        format!("-admin.port.grpc={admin_grpc}"),
        "-bucket=halny".to_owned(),
        format!("-s3.config={}", path("s3.json")),
        // Left out is what listens on ports of its own, draws pages or reports home.
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        "-webdav=false".to_owned(),
        "-admin.ui=false".to_owned(),
        "-master.telemetry=false".to_owned(),
        "-volume.preStopSeconds=0".to_owned(),
        format!("-filer.localSocket={}", path("filer.sock")),
        format!("-s3.localSocket={}", path("s3.sock")),
    ];
    let child = Command::new(program)
        .arg(format!("-logdir={}", folder.path().display()))
        .arg("mini")
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (S3 { child, _folder: folder }, format!("http://127.0.0.1:{s3}"))
}

fn on_folder(case: impl AsyncFnOnce(Blobs)) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&BlobPlace::Folder(folder.path().join("blobs"))).unwrap();
    runtime().block_on(case(blobs));
}

fn on_s3(case: impl AsyncFnOnce(Blobs)) {
    let program = std::env::var_os("HALNY_SEAWEEDFS").unwrap_or_else(|| {
        panic!(
            "HALNY_SEAWEEDFS has to name the program `weed`: run `make test-rust`, or `python3 tools/setup s3` and set it \
             to what that says"
        )
    });
    let (_server, url) = start(Path::new(&program));
    // Each test is a process of its own, and nothing else runs in it yet.
    #[expect(unsafe_code, reason = "the variables are read by the library, as they are outside of tests")]
    unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", "key");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", "not-a-secret");
        std::env::set_var("AWS_ENDPOINT_URL", url);
    }
    let blobs = Blobs::open(&BlobPlace::S3("s3://halny/some/prefix".to_owned())).unwrap();
    runtime().block_on(async {
        for _ in 0..300 {
            if blobs.put("ready", Bytes::from_static(b"yes")).await.is_ok() {
                blobs.delete("ready").await.unwrap();
                return case(blobs).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the S3 server does not take blobs");
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

macro_rules! contract {
    ($($case:ident,)*) => {
        mod folder {
            $(#[test] fn $case() { crate::on_folder(crate::$case); })*
        }
        mod s3 {
            $(#[test] fn $case() { crate::on_s3(crate::$case); })*
        }
    };
}

contract! {
    what_is_written_is_read_whole_or_in_part,
    of_those_that_create_one_name_one_wins,
    a_large_blob_is_there_when_it_is_finished_and_not_before,
    names_are_listed_and_deleted_by_their_beginning,
}

async fn what_is_written_is_read_whole_or_in_part(blobs: Blobs) {
    assert!(matches!(blobs.get("a/b").await, Err(StoreError::NoBlob)));
    blobs.put("a/b", Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(blobs.get("a/b").await.unwrap(), "0123456789");
    assert_eq!(blobs.len("a/b").await.unwrap(), 10);
    let read = async |name, from| -> Vec<u8> {
        let pieces: Vec<Bytes> = blobs.stream(name, from).await.unwrap().try_collect().await.unwrap();
        pieces.concat()
    };
    assert_eq!(read("a/b", 0).await, b"0123456789");
    assert_eq!(read("a/b", 7).await, b"789");
    assert_eq!((read("a/b", 10).await, read("a/b", 99).await), (Vec::new(), Vec::new()));
    assert!(matches!(blobs.stream("none", 0).await.err(), Some(StoreError::NoBlob)));
    // More than is read at once.
    let large: Vec<u8> = (0..9_000_000_u32).map(|at| (at % 251) as u8).collect();
    blobs.put("large", large.clone().into()).await.unwrap();
    assert!(read("large", 0).await == large && read("large", 4_194_304).await == large[4_194_304..]);
    blobs.put("a/b", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(blobs.get("a/b").await.unwrap(), "x");
    blobs.put("empty", Bytes::new()).await.unwrap();
    assert_eq!(blobs.get("empty").await.unwrap(), "");
}

async fn of_those_that_create_one_name_one_wins(blobs: Blobs) {
    for round in 0..5 {
        let name = format!("race/{round}");
        let racing = (0..16).map(|number| blobs.create(&name, Bytes::from(format!("{number}"))));
        let outcomes = join_all(racing).await;
        let won: Vec<usize> = (0..16).filter(|number| outcomes[*number].is_ok()).collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        assert!(
            outcomes
                .iter()
                .filter_map(|outcome| outcome.as_ref().err())
                .all(|error| matches!(error, StoreError::BlobExists))
        );
        assert_eq!(blobs.get(&name).await.unwrap(), won[0].to_string());
    }
}

async fn a_large_blob_is_there_when_it_is_finished_and_not_before(blobs: Blobs) {
    let piece = vec![7u8; 1 << 20];
    let mut writer = blobs.writer("large").unwrap();
    for _ in 0..24 {
        writer.write(&piece).await.unwrap();
    }
    assert!(matches!(blobs.len("large").await, Err(StoreError::NoBlob)));
    assert_eq!(writer.finish().await.unwrap(), 24 << 20);
    assert_eq!(blobs.len("large").await.unwrap(), 24 << 20);
    let mut writer = blobs.writer("abandoned").unwrap();
    for _ in 0..24 {
        writer.write(&piece).await.unwrap();
    }
    writer.abandon().await.unwrap();
    assert!(matches!(blobs.len("abandoned").await, Err(StoreError::NoBlob)));
    // One that is empty is there all the same.
    assert_eq!(blobs.writer("nothing").unwrap().finish().await.unwrap(), 0);
    assert_eq!(blobs.get("nothing").await.unwrap(), "");
}

async fn names_are_listed_and_deleted_by_their_beginning(blobs: Blobs) {
    for name in ["jobs/a/2", "jobs/a/1", "jobs/a/deep/3", "jobs/ab/1"] {
        blobs.put(name, Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!(blobs.names("jobs/a").await.unwrap(), ["jobs/a/1", "jobs/a/2", "jobs/a/deep/3"]);
    blobs.delete_all("jobs/a").await.unwrap();
    assert_eq!(blobs.names("jobs").await.unwrap(), ["jobs/ab/1"]);
    blobs.delete("jobs/none").await.unwrap();
    assert!(blobs.names("none").await.unwrap().is_empty());
}
