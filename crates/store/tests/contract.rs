//! One suite for the metadata database on SQLite and on a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use halny_store::blobs::BlobPlace;
use halny_store::files::{File, blob_of};
use halny_store::testsuite::PostgresServer;
use halny_store::transfer::transfer;
use halny_store::{Blobs, Clock, Database, Files, Place, StoreError};
use sqlx::Row;

/// What a case is given: where databases are, two of them.
struct Ground {
    first: Place,
    second: Place,
    _folder: tempfile::TempDir,
    _server: Option<PostgresServer>,
}

fn on_sqlite() -> Ground {
    let folder = tempfile::tempdir().unwrap();
    // A path that a URL would have to escape.
    let place = |name: &str| Place::Folder(folder.path().join(name));
    Ground { first: place("a b?#%41ż"), second: place("second"), _folder: folder, _server: None }
}

async fn on_postgres() -> Ground {
    let server = PostgresServer::start();
    let place = |database: &str| Place::Postgres { url: server.url_of(database), password: None };
    let (first, second) = (place("postgres"), place("second"));
    let database = Database::open(&first).await.unwrap();
    // Not in a transaction.
    sqlx::query("CREATE DATABASE second").execute(&mut *database.read().await.unwrap()).await.unwrap();
    database.close().await;
    Ground { first, second, _folder: tempfile::tempdir().unwrap(), _server: Some(server) }
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}

macro_rules! contract {
    ($($case:ident,)*) => {
        mod sqlite {
            $(#[test] fn $case() { crate::run(async { crate::$case(crate::on_sqlite()).await }); })*
        }
        mod postgres {
            $(#[test] fn $case() { crate::run(async { crate::$case(crate::on_postgres().await).await }); })*
        }
    };
}

contract! {
    what_is_dropped_did_nothing_and_what_was_committed_stays,
    a_write_waits_for_another_and_sees_what_it_wrote,
    a_schema_of_a_newer_halny_is_refused,
    a_schema_that_somebody_changed_is_refused,
    servers_that_start_at_once_make_one_schema,
    time_is_what_the_clock_says,
    those_who_listen_hear_what_is_written,
    everything_is_moved_and_the_old_place_is_refused,
    nothing_is_moved_into_a_database_that_holds_something,
    what_nothing_describes_goes_when_it_is_old,
}

async fn schedule(database: &Database, name: &str, next: i64) {
    let mut write = database.write().await.unwrap();
    let sql = "INSERT INTO schedules (name, cron, timezone, next_ms) VALUES ($1, '* * * * *', 'UTC', $2)";
    sqlx::query(sql).bind(name).bind(next).execute(&mut *write).await.unwrap();
    database.bell().ring_others(&mut write).await.unwrap();
    write.commit().await.unwrap();
    database.bell().ring();
}

async fn names(database: &Database) -> Vec<String> {
    let sql = "SELECT name FROM schedules ORDER BY next_ms";
    let rows = sqlx::query(sql).fetch_all(&mut *database.read().await.unwrap()).await.unwrap();
    rows.iter().map(|row| row.get("name")).collect()
}

async fn what_is_dropped_did_nothing_and_what_was_committed_stays(ground: Ground) {
    let database = Database::open(&ground.first).await.unwrap();
    let mut write = database.write().await.unwrap();
    sqlx::query("INSERT INTO meta (name, value) VALUES ('a', 'b')").execute(&mut *write).await.unwrap();
    drop(write);
    schedule(&database, "kept", 1).await;
    database.close().await;
    let database = Database::open(&ground.first).await.unwrap();
    assert_eq!(names(&database).await, ["kept"]);
    let rows = sqlx::query("SELECT value FROM meta").fetch_all(&mut *database.read().await.unwrap()).await.unwrap();
    assert!(rows.is_empty());
}

async fn a_write_waits_for_another_and_sees_what_it_wrote(ground: Ground) {
    let (one, two) = (Database::open(&ground.first).await.unwrap(), Database::open(&ground.first).await.unwrap());
    schedule(&one, "counted", 0).await;
    let add = async |database: &Database| {
        for _ in 0..50 {
            let mut write = database.write().await.unwrap();
            let lock = format!("SELECT next_ms FROM schedules{}", database.dialect().for_update());
            let row = sqlx::query(sqlx::AssertSqlSafe(lock)).fetch_one(&mut *write).await.unwrap();
            let next = row.get::<i64, _>(0) + 1;
            sqlx::query("UPDATE schedules SET next_ms = $1").bind(next).execute(&mut *write).await.unwrap();
            write.commit().await.unwrap();
        }
    };
    tokio::join!(add(&one), add(&two));
    let row = sqlx::query("SELECT next_ms FROM schedules").fetch_one(&mut *one.read().await.unwrap()).await.unwrap();
    assert_eq!(row.get::<i64, _>(0), 100);
}

async fn a_schema_of_a_newer_halny_is_refused(ground: Ground) {
    let database = Database::open(&ground.first).await.unwrap();
    let mut write = database.write().await.unwrap();
    let sql = "INSERT INTO halny_schema (version, description, success, checksum, execution_time) \
               SELECT 9999, description, success, checksum, execution_time FROM halny_schema WHERE version = 1";
    sqlx::query(sql).execute(&mut *write).await.unwrap();
    write.commit().await.unwrap();
    let error = Database::open(&ground.first).await.err().unwrap();
    assert!(matches!(error, StoreError::Newer(9999)), "{error}");
}

async fn a_schema_that_somebody_changed_is_refused(ground: Ground) {
    let database = Database::open(&ground.first).await.unwrap();
    let mut write = database.write().await.unwrap();
    let sql =
        "UPDATE halny_schema SET checksum = (SELECT checksum FROM halny_schema WHERE version = 2) WHERE version = 1";
    sqlx::query(sql).execute(&mut *write).await.unwrap();
    write.commit().await.unwrap();
    let error = Database::open(&ground.first).await.err().unwrap();
    assert!(matches!(error, StoreError::Foreign(1)), "{error}");
}

async fn servers_that_start_at_once_make_one_schema(ground: Ground) {
    let opened = futures::future::join_all((0..6).map(|_| Database::open(&ground.second))).await;
    for database in opened {
        assert_eq!(names(&database.unwrap()).await, Vec::<String>::new());
    }
}

async fn time_is_what_the_clock_says(ground: Ground) {
    let clock = Clock::standing(1_000);
    let database = Database::open_at(&ground.first, clock.clone()).await.unwrap();
    clock.wind(-400);
    assert_eq!(database.now_ms(&mut database.read().await.unwrap()).await.unwrap(), 600);
    let database = Database::open(&ground.first).await.unwrap();
    // Some time after this was written.
    assert!(database.now_ms(&mut database.read().await.unwrap()).await.unwrap() > 1_700_000_000_000);
}

async fn those_who_listen_hear_what_is_written(ground: Ground) {
    let (one, two) = (Database::open(&ground.first).await.unwrap(), Database::open(&ground.first).await.unwrap());
    let (mut here, there) = (one.bell().listen(), two.bell().listen());
    schedule(&one, "first", 1).await;
    here.changed().await.unwrap();
    // Until it listens it hears nothing: written until it does.
    let mut written = 1;
    while matches!(ground.first, Place::Postgres { .. }) && !there.has_changed().unwrap() {
        written += 1;
        schedule(&one, &format!("another {written}"), written).await;
    }
}

async fn everything_is_moved_and_the_old_place_is_refused(ground: Ground) {
    let (from, into) = (Database::open(&ground.first).await.unwrap(), Database::open(&ground.second).await.unwrap());
    fill(&from, 700).await;
    let mut told = 0;
    let moved = transfer(&from, &into, "the new place", |_| told += 1).await.unwrap();
    let rows: Vec<_> = moved.iter().map(|moved| (moved.table, moved.rows)).collect();
    assert_eq!(told, moved.len());
    assert_eq!(
        rows,
        [
            ("jobs", 700),
            ("queues", 1),
            ("job_keys", 0),
            ("job_effects", 0),
            ("schedules", 1),
            ("files", 0),
            ("files_begun", 0)
        ]
    );
    let error = Database::open(&ground.first).await.err().unwrap();
    assert!(matches!(&error, StoreError::Moved(place) if place == "the new place"), "{error}");
    into.close().await;
    let into = Database::open(&ground.second).await.unwrap();
    let sql = "SELECT payload, worker, started_ms, epoch FROM jobs WHERE id = 'job-0699'";
    let row = sqlx::query(sql).fetch_one(&mut *into.read().await.unwrap()).await.unwrap();
    assert_eq!(row.get::<String, _>(0), "{\"text\":\"zażółć 699\"}");
    assert_eq!(row.get::<Option<String>, _>(1), None);
    assert_eq!(row.get::<Option<i64>, _>(2), Some(699));
    assert_eq!(row.get::<i64, _>(3), i64::MAX);
}

async fn nothing_is_moved_into_a_database_that_holds_something(ground: Ground) {
    let (from, into) = (Database::open(&ground.first).await.unwrap(), Database::open(&ground.second).await.unwrap());
    fill(&from, 10).await;
    schedule(&into, "there", 1).await;
    let error = transfer(&from, &into, "there", |_| {}).await.unwrap_err();
    assert!(matches!(&error, StoreError::Transfer(text) if text.contains("not empty")), "{error}");
    // It can be used as before.
    let from = Database::open(&ground.first).await.unwrap();
    assert_eq!(names(&from).await, ["nightly"]);
    assert_eq!(names(&into).await, ["there"]);
}

async fn what_nothing_describes_goes_when_it_is_old(ground: Ground) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&BlobPlace::Folder(folder.path().to_path_buf())).unwrap();
    let files = Files::new(Database::open(&ground.first).await.unwrap(), blobs.clone());
    for id in ["file-described", "file-alone"] {
        let mut writer = files.writer(id).await.unwrap();
        writer.write(b"what is in it").await.unwrap();
        writer.finish().await.unwrap();
    }
    blobs.put("jobs/1/parts/output", Bytes::from_static(b"a part")).await.unwrap();
    let described = File {
        id: "file-described".to_owned(),
        tenant: "t".to_owned(),
        name: "a.jsonl".to_owned(),
        purpose: "batch".to_owned(),
        bytes: 13,
        blob: blob_of("file-described"),
        created_ms: 1,
        expires_ms: None,
    };
    files.add(&described).await.unwrap();
    // What a server leaves that goes away while it writes, and what others keep in the same place.
    let torn = folder.path().join("files/file-alone#3");
    std::fs::write(&torn, "what is").unwrap();
    blobs.put("files/of-others", Bytes::from_static(b"not ours")).await.unwrap();
    assert_eq!(files.sweep(Duration::from_secs(3_600)).await.unwrap(), 0);
    assert!(torn.exists() && blobs.names("files").await.unwrap().len() == 3);
    assert_eq!(files.sweep(Duration::ZERO).await.unwrap(), 1);
    assert!(!torn.exists());
    assert_eq!(blobs.names("files").await.unwrap(), ["files/file-described", "files/of-others"]);
    assert_eq!(files.sweep(Duration::ZERO).await.unwrap(), 0);
    assert_eq!(blobs.names("jobs").await.unwrap(), ["jobs/1/parts/output"]);
    assert_eq!(files.get("t", "file-described").await.unwrap(), described);
}

async fn fill(database: &Database, jobs: i64) {
    schedule(database, "nightly", 5).await;
    let mut write = database.write().await.unwrap();
    let sql = "INSERT INTO queues (name, is_drained, starts, refilled_ms) VALUES ('default', 0, 0.1, 7)";
    sqlx::query(sql).execute(&mut *write).await.unwrap();
    let sql = "INSERT INTO jobs (id, tenant, queue, kind, state, priority, payload, created_ms, run_at_ms, started_ms, \
               timeout_ms, failures, failures_max, losses, backoff_ms, backoff_max_ms, epoch, device_us, tokens) \
               VALUES ($1, 't', 'default', 'k', 'done', 0, $2, 1, 1, $3, 1, 0, 1, 0, 1, 1, $4, 0, 0)";
    for number in 0..jobs {
        let query = sqlx::query(sql).bind(format!("job-{number:04}")).bind(format!("{{\"text\":\"zażółć {number}\"}}"));
        query.bind((number % 2 == 1).then_some(number)).bind(i64::MAX).execute(&mut *write).await.unwrap();
    }
    write.commit().await.unwrap();
}

#[test]
fn a_move_between_the_two_databases_keeps_everything() {
    run(async {
        let (sqlite, postgres) = (on_sqlite(), on_postgres().await);
        let from = Database::open(&sqlite.first).await.unwrap();
        fill(&from, 300).await;
        let into = Database::open(&postgres.second).await.unwrap();
        let there = transfer(&from, &into, "postgres", |_| {}).await.unwrap();
        let back = Database::open(&sqlite.second).await.unwrap();
        // Digests are of what is held, not of who holds it.
        assert_eq!(transfer(&into, &back, "sqlite", |_| {}).await.unwrap(), there);
    });
}

#[test]
fn a_place_that_is_none_is_refused_with_what_to_write() {
    run(async {
        for url in ["mysql://a", "postgres", "postgres://h:port/"] {
            let place = Place::Postgres { url: url.to_owned(), password: Some("secret".to_owned()) };
            let error = Database::open(&place).await.err().unwrap().to_string();
            assert!(error.contains("postgres://user@host:5432/database") && !error.contains("secret"), "{error}");
        }
        let place = Place::Folder(Path::new("/proc/no").to_path_buf());
        assert!(matches!(Database::open(&place).await, Err(StoreError::Config(_))));
    });
}
