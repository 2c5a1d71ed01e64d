//! What only a server can do: go away, come back, be shared, be too old or too new.

use std::sync::Arc;

use halny_payload::{FieldKind, PointId};
use halny_store::testsuite::PostgresServer;
use halny_types::CollectionName;
use halny_vectors::postgres::Postgres;
use halny_vectors::{
    CollectionConfig, Collections, Distance, Named, Point, Points, Precision, Select, Tier, VectorConfig, VectorsError,
    Write,
};
use serde_json::json;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Row};

use crate::points::all_of;
use crate::samples::{config, filter, numbered, payload, search, vector};
use crate::{ask, run};

async fn connect(server: &PostgresServer) -> Postgres {
    Postgres::connect(&server.url(), None).await.unwrap()
}

fn name() -> CollectionName {
    CollectionName::new("c").unwrap()
}

async fn made(engine: &Postgres, config: &CollectionConfig) -> Arc<dyn Points> {
    engine.create(name(), config).await.unwrap();
    engine.get("c").await.unwrap().active()
}

async fn admin(server: &PostgresServer) -> PgPool {
    PgPoolOptions::new().max_connections(2).connect(&server.url()).await.unwrap()
}

/// The connection that waits for another's lock.
async fn waiting(admin: &PgPool) -> i32 {
    loop {
        let select =
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'halny-vectors' AND wait_event_type = 'Lock'";
        if let Some(row) = sqlx::query(select).fetch_optional(admin).await.unwrap() {
            return row.get(0);
        }
    }
}

#[test]
fn a_write_whose_connection_is_killed_in_the_middle_leaves_nothing() {
    run(async {
        let server = PostgresServer::start();
        let engine = connect(&server).await;
        let space = made(&engine, &config()).await;
        space.write(vec![Write::Upsert(numbered(0..10))], true).await.unwrap();
        let before = all_of(&space);
        let admin = admin(&server).await;
        // Another holds the point 50, so that the write stops halfway, where its connection is ended.
        let mut other = admin.begin().await.unwrap();
        let insert = "INSERT INTO halny_vectors.space_1 (id, payload) VALUES ('\\x000000000000000032', '{}')";
        sqlx::query(insert).execute(&mut *other).await.unwrap();
        let writes = vec![Write::Upsert(numbered(0..100)), Write::Upsert(numbered(100..101))];
        let (done, ()) = tokio::join!(space.write(writes, true), async {
            let pid = waiting(&admin).await;
            sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&admin).await.unwrap();
        });
        assert!(matches!(done, Err(VectorsError::Unavailable(_))), "{done:?}");
        other.rollback().await.unwrap();
        assert_eq!(all_of(&space), before);
        // And the next write goes through on another connection.
        space.write(vec![Write::Upsert(numbered(0..100))], true).await.unwrap();
        assert_eq!(all_of(&space).len(), 100);
    });
}

#[test]
fn a_write_that_is_no_longer_waited_for_is_whole_or_nothing() {
    run(async {
        let server = PostgresServer::start();
        let engine = connect(&server).await;
        let space = made(&engine, &config()).await;
        let admin = admin(&server).await;
        let mut other = admin.begin().await.unwrap();
        let insert = "INSERT INTO halny_vectors.space_1 (id, payload) VALUES ('\\x000000000000000032', '{}')";
        sqlx::query(insert).execute(&mut *other).await.unwrap();
        tokio::select! {
            done = space.write(vec![Write::Upsert(numbered(0..100))], true) => panic!("{done:?}"),
            _ = waiting(&admin) => {}
        }
        other.rollback().await.unwrap();
        space.write(vec![Write::Upsert(numbered(200..201))], true).await.unwrap();
        let many = all_of(&space).len();
        assert!([1, 101].contains(&many), "{many}");
    });
}

#[test]
fn two_writes_that_block_each_other_are_both_made() {
    run(async {
        let server = PostgresServer::start();
        let engine = connect(&server).await;
        let space = made(&engine, &config()).await;
        space.write(vec![Write::Upsert(numbered(0..20))], true).await.unwrap();
        let admin = admin(&server).await;
        // Another locks 9, then a write locks 0 to 8 and waits, then the other wants 3: a deadlock.
        let mut other = admin.begin().await.unwrap();
        let lock = "SELECT FROM halny_vectors.space_1 WHERE id = $1 FOR UPDATE";
        let id = |number: u8| vec![0, 0, 0, 0, 0, 0, 0, 0, number];
        sqlx::query(lock).bind(id(9)).execute(&mut *other).await.unwrap();
        // The other one may not be the victim.
        sqlx::query("SET deadlock_timeout = '1h'").execute(&mut *other).await.unwrap();
        let write = space.write(vec![Write::Upsert(numbered(0..10))], true);
        let ((), done) = tokio::join!(
            async {
                waiting(&admin).await;
                sqlx::query(lock).bind(id(3)).execute(&mut *other).await.unwrap();
                other.commit().await.unwrap();
            },
            write
        );
        done.unwrap();
    });
}

#[test]
fn a_server_that_goes_is_named_and_one_that_comes_back_is_used() {
    run(async {
        let mut server = PostgresServer::start();
        let engine = connect(&server).await;
        let space = made(&engine, &config()).await;
        space.write(vec![Write::Upsert(numbered(0..10))], true).await.unwrap();
        server.crash();
        let read = tokio::task::block_in_place(|| space.count(None));
        assert!(matches!(read, Err(VectorsError::Unavailable("PostgreSQL"))), "{read:?}");
        let write = space.write(vec![Write::Upsert(numbered(10..20))], true).await;
        assert!(matches!(write, Err(VectorsError::Unavailable(_))), "{write:?}");
        assert!(matches!(engine.get("c").await.map(drop), Err(VectorsError::Unavailable(_))));
        assert!(!write.unwrap_err().to_string().contains("/tmp"), "an error names no place");
        server.run();
        // What was confirmed outlived the crash, and nobody has to connect anew.
        assert_eq!(ask(&space, |points| points.count(None)), 10);
        space.write(vec![Write::Upsert(numbered(10..20))], true).await.unwrap();
        assert_eq!(ask(&space, |points| points.count(None)), 20);
        server.crash();
        let none = Postgres::connect(&server.url(), None).await.map(drop);
        assert!(matches!(none, Err(VectorsError::Unavailable(_))), "{none:?}");
    });
}

#[test]
fn servers_share_a_database() {
    run(async {
        let server = PostgresServer::start();
        // Both make the schema at once.
        let (one, other) = tokio::join!(connect(&server), connect(&server));
        let space = made(&one, &config()).await;
        space.write(vec![Write::Upsert(numbered(0..10))], true).await.unwrap();
        let seen = other.get("c").await.unwrap().active();
        assert_eq!(ask(&seen, |points| points.count(None)), 10);
        let change = |config: &mut CollectionConfig| {
            config.fields.insert("n".to_owned(), FieldKind::Integer);
            Ok(())
        };
        seen.configure(Box::new(change)).await.unwrap();
        assert_eq!(one.get("c").await.unwrap().active().config().fields.len(), 1);
        assert!(matches!(other.create(name(), &config()).await, Err(VectorsError::Exists(_))));
        one.delete("c").await.unwrap();
        assert!(matches!(other.get("c").await.map(drop), Err(VectorsError::NoCollection(_))));
    });
}

#[test]
fn a_database_of_a_newer_halny_is_refused() {
    run(async {
        let server = PostgresServer::start();
        connect(&server).await;
        let mut admin = PgConnection::connect(&server.url()).await.unwrap();
        sqlx::query("UPDATE halny_vectors.schema SET version = 1000").execute(&mut admin).await.unwrap();
        let Err(error) = Postgres::connect(&server.url(), None).await.map(drop) else { panic!("it was taken") };
        assert!(error.to_string().contains("newer Halny"), "{error}");
        for wrong in ["nothing", "http://localhost/x"] {
            let Err(error) = Postgres::connect(wrong, None).await.map(drop) else { panic!("{wrong}") };
            assert!(matches!(error, VectorsError::Config(_)), "{error}");
        }
    });
}

#[test]
fn what_pgvector_cannot_keep_is_refused_with_its_limit() {
    run(async {
        let server = PostgresServer::start();
        let engine = connect(&server).await;
        let of = |vector: VectorConfig| CollectionConfig {
            vectors: [(String::new(), vector)].into(),
            ..CollectionConfig::default()
        };
        let tier = |m, ef_construct| Tier::Fast { m, ef_construct, precision: Precision::Int8 };
        let plain = |dimensions| vector(Distance::Dot, dimensions);
        for (config, limit) in [
            (of(plain(16_001)), "16000"),
            (of(VectorConfig { tier: tier(101, 300), ..plain(4) }), "100"),
            (of(VectorConfig { tier: tier(16, 1_001), ..plain(4) }), "1000"),
        ] {
            let refused = engine.create(name(), &config).await;
            assert!(matches!(&refused, Err(VectorsError::Config(text)) if text.contains(limit)), "{refused:?}");
        }
        // Few candidates for many neighbours: pgvector wants twice as many.
        engine
            .create(CollectionName::new("few").unwrap(), &of(VectorConfig { tier: tier(64, 10), ..plain(4) }))
            .await
            .unwrap();
        // Beyond 2,000 dimensions the index is of 16 bits, beyond 4,000 there is none; both find, exactly scored.
        for dimensions in [2_000, 2_001, 4_001, 16_000] {
            let named = CollectionName::new(&format!("d{dimensions}")).unwrap();
            engine.create(named.clone(), &of(plain(dimensions))).await.unwrap();
            let space = engine.get(named.as_str()).await.unwrap().active();
            let point = |number: u64| {
                let mut vector = vec![0.0; dimensions];
                vector[number as usize] = 1.0 + number as f32 / 100_000.0;
                Point {
                    id: PointId::Number(number),
                    vectors: Named::from([(String::new(), vector)]),
                    payload: Arc::default(),
                }
            };
            space.write(vec![Write::Upsert((0..5).map(point).collect())], true).await.unwrap();
            let query = point(3).vectors.remove("").unwrap();
            let found = ask(&space, |points| points.search(&search("", &query, 1), &Select::default()));
            assert_eq!(found[0].id, PointId::Number(3));
            assert!((found[0].score - 1.00003f32 * 1.00003).abs() < 1e-6, "{dimensions}: {}", found[0].score);
        }
        // What 16 bits cannot hold is refused where they index.
        let space = engine.get("d2001").await.unwrap().active();
        let large = Point {
            id: PointId::Number(9),
            vectors: Named::from([(String::new(), vec![1e6; 2_001])]),
            payload: Arc::default(),
        };
        let refused = space.write(vec![Write::Upsert(vec![large])], true).await;
        assert!(matches!(&refused, Err(VectorsError::Invalid(text)) if text.contains("65504")), "{refused:?}");
        let space = engine.get("d2000").await.unwrap().active();
        let large = Point {
            id: PointId::Number(9),
            vectors: Named::from([(String::new(), vec![1e6; 2_000])]),
            payload: Arc::default(),
        };
        space.write(vec![Write::Upsert(vec![large])], true).await.unwrap();
        let nul =
            Point { id: PointId::Number(9), vectors: Named::new(), payload: Arc::new(payload(json!({"a": ["\0"]}))) };
        let refused = space.write(vec![Write::Upsert(vec![nul])], true).await;
        assert!(matches!(&refused, Err(VectorsError::Invalid(text)) if text.contains("U+0000")), "{refused:?}");
    });
}

#[test]
fn a_search_walks_the_index_and_a_filter_asks_that_of_the_payload() {
    run(async {
        let server = PostgresServer::start();
        let engine = connect(&server).await;
        let fields = [("n".to_owned(), FieldKind::Integer)].into();
        let space = made(&engine, &CollectionConfig { fields, ..config() }).await;
        space.write(vec![Write::Upsert(numbered(0..6_000))], true).await.unwrap();
        let mut admin = PgConnection::connect(&server.url()).await.unwrap();
        sqlx::query("VACUUM ANALYZE halny_vectors.space_1").execute(&mut admin).await.unwrap();
        let near = search("a", &[500.0, 3.0, 1.0, 0.0], 10);
        assert_eq!(ask(&space, |points| points.search(&near, &Select::default()))[0].id, PointId::Number(500));
        let few = filter(json!({"must": {"key": "n", "match": {"value": 77}}}));
        assert_eq!(ask(&space, |points| points.count(Some(&few))), 1);
        // Counters come late: they are asked until they are there.
        for index in ["space_1_v0", "space_1_payload"] {
            loop {
                sqlx::query("SELECT pg_stat_clear_snapshot()").execute(&mut admin).await.unwrap();
                let select = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1";
                let scans: i64 = sqlx::query(select).bind(index).fetch_one(&mut admin).await.unwrap().get(0);
                if scans > 0 {
                    break;
                }
            }
        }
    });
}

#[test]
fn names_of_vectors_never_become_sql() {
    run(async {
        let server = PostgresServer::start();
        let engine = connect(&server).await;
        let hard = ["\"; DROP SCHEMA halny_vectors CASCADE; --", "v0", "it's", "", "id"];
        let vectors = hard.iter().map(|name| ((*name).to_owned(), vector(Distance::Dot, 2))).collect();
        let space = made(&engine, &CollectionConfig { vectors, ..CollectionConfig::default() }).await;
        let vectors: Named =
            (0u8..).zip(hard).map(|(number, name)| (name.to_owned(), vec![f32::from(number), 1.0])).collect();
        let point = Point { id: PointId::Number(1), vectors: vectors.clone(), payload: Arc::default() };
        space.write(vec![Write::Upsert(vec![point])], true).await.unwrap();
        assert_eq!(all_of(&space)[0].vectors, vectors);
        for (number, name) in (0u8..).zip(hard) {
            let found = ask(&space, |points| points.search(&search(name, &[1.0, 0.0], 1), &Select::default()));
            assert_eq!(found[0].score, f32::from(number), "{name:?}");
        }
    });
}

#[test]
fn a_statement_that_takes_too_long_is_ended_and_named() {
    run(async {
        let server = PostgresServer::start();
        let url = format!("{}&options[statement_timeout]=300ms", server.url());
        let engine = Postgres::connect(&url, None).await.unwrap();
        let space = made(&engine, &config()).await;
        space.write(vec![Write::Upsert(numbered(0..10))], true).await.unwrap();
        let admin = admin(&server).await;
        let mut other = admin.begin().await.unwrap();
        sqlx::query("LOCK TABLE halny_vectors.space_1").execute(&mut *other).await.unwrap();
        let read = tokio::task::block_in_place(|| space.count(None));
        assert!(matches!(read, Err(VectorsError::TooSlow("PostgreSQL"))), "{read:?}");
        let write = space.write(vec![Write::Upsert(numbered(10..20))], true).await;
        assert!(matches!(write, Err(VectorsError::TooSlow(_))), "{write:?}");
        other.rollback().await.unwrap();
        assert_eq!(all_of(&space).len(), 10);
    });
}
