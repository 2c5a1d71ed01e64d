//! One suite for every engine that keeps collections: the embedded store, PostgreSQL with pgvector, a Qdrant cluster.
//!
//! PostgreSQL is started by the tests, from the folder that HALNY_POSTGRES names; `make test-rust` sets it. The
//! cluster is the one at HALNY_TEST_QDRANT (with the key in HALNY_TEST_QDRANT_API_KEY, if it wants one): Qdrant, or a
//! Halny server, which speaks the same. Those tests are ignored unless asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod catalogue;
mod filters;
mod nearest;
mod pg_only;
mod points;
mod qdrant_only;
mod queries;
mod samples;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use futures::FutureExt;
use halny_store::testsuite::PostgresServer;
use halny_types::CollectionName;
use halny_vectors::embedded::Store;
use halny_vectors::postgres::Postgres;
use halny_vectors::qdrant::Qdrant;
use halny_vectors::{CollectionConfig, Collections, Points, VectorsError};

/// What a case is given: an engine, and names that are its own, since a server may hold others' collections.
pub(crate) struct Ground {
    pub(crate) engine: Arc<dyn Collections>,
    prefix: String,
}

impl Ground {
    pub(crate) fn name(&self, name: &str) -> CollectionName {
        CollectionName::new(&format!("{}-{name}", self.prefix)).unwrap()
    }

    /// An empty collection of that name.
    pub(crate) async fn make(&self, name: &str, config: &CollectionConfig) -> Arc<dyn Points> {
        self.engine.create(self.name(name), config).await.unwrap();
        self.active(name).await
    }

    pub(crate) async fn active(&self, name: &str) -> Arc<dyn Points> {
        self.engine.get(self.name(name).as_str()).await.unwrap().active()
    }
}

/// Reads that wait for a server, from within async code.
pub(crate) fn ask<T>(points: &Arc<dyn Points>, read: impl FnOnce(&dyn Points) -> Result<T, VectorsError>) -> T {
    tokio::task::block_in_place(|| read(points.as_ref())).unwrap()
}

pub(crate) fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}

fn prefix(case: &str) -> String {
    // Names have at most 96 bytes.
    case.rsplit("::").next().unwrap_or(case).chars().take(64).collect()
}

pub(crate) fn on_embedded(name: &str, case: impl AsyncFnOnce(Ground)) {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path(), 2).unwrap());
        case(Ground { engine: Arc::clone(&store) as Arc<dyn Collections>, prefix: prefix(name) }).await;
        store.close();
    });
}

pub(crate) fn on_postgres(name: &str, case: impl AsyncFnOnce(Ground)) {
    run(async {
        let server = PostgresServer::start();
        let engine = Arc::new(Postgres::connect(&server.url(), None).await.unwrap());
        case(Ground { engine: Arc::clone(&engine) as Arc<dyn Collections>, prefix: prefix(name) }).await;
        tokio::task::block_in_place(|| engine.close());
    });
}

/// The cluster to test with.
pub(crate) async fn qdrant() -> Qdrant {
    let url = std::env::var("HALNY_TEST_QDRANT").expect("HALNY_TEST_QDRANT has to name the URL of a Qdrant cluster");
    let key = std::env::var("HALNY_TEST_QDRANT_API_KEY").ok();
    Qdrant::connect(&url, key.as_deref()).await.unwrap()
}

pub(crate) fn on_qdrant(name: &str, case: impl AsyncFnOnce(Ground)) {
    run(async {
        let engine: Arc<dyn Collections> = Arc::new(qdrant().await);
        // Others may use the cluster too, and a name is as long as those of its spaces may be.
        let prefix = format!("{:08x}-{}", rand::random::<u32>(), prefix(name).chars().take(48).collect::<String>());
        let ground = Ground { engine: Arc::clone(&engine), prefix: prefix.clone() };
        let done = AssertUnwindSafe(case(ground)).catch_unwind().await;
        for name in engine.names().await.unwrap().iter().filter(|name| name.as_str().starts_with(&prefix)) {
            engine.delete(name.as_str()).await.unwrap();
        }
        tokio::task::block_in_place(|| engine.close());
        if let Err(panic) = done {
            resume_unwind(panic);
        }
    });
}

macro_rules! contract {
    ($($module:ident::$case:ident,)*) => {
        mod embedded {
            $(#[test] fn $case() { crate::on_embedded(stringify!($case), crate::$module::$case); })*
        }
        mod postgres {
            $(#[test] fn $case() { crate::on_postgres(stringify!($case), crate::$module::$case); })*
        }
        mod qdrant {
            $(#[test] #[ignore = "asks the cluster at HALNY_TEST_QDRANT"] fn $case() { crate::on_qdrant(stringify!($case), crate::$module::$case); })*
        }
    };
}

contract! {
    catalogue::collections_are_made_listed_and_removed,
    catalogue::names_that_are_taken_or_unknown_are_refused,
    catalogue::aliases_change_all_at_once_or_not_at_all,
    catalogue::spaces_live_side_by_side_and_are_switched_at_once,
    catalogue::a_configuration_changes_what_is_indexed_and_nothing_else,
    catalogue::what_was_deleted_does_not_come_back_under_its_name,
    points::points_come_back_as_they_were_written,
    points::every_kind_of_write_does_what_the_embedded_store_does,
    points::a_write_that_names_an_absent_point_changes_nothing,
    points::pages_cover_all_points_once_and_in_order,
    points::many_writers_lose_nothing,
    points::a_write_is_seen_whole_or_not_at_all,
    points::a_point_may_have_none_of_the_vectors,
    points::large_writes_are_one,
    nearest::comparing_all_finds_what_brute_force_finds,
    nearest::an_index_finds_nearly_all_of_it,
    nearest::a_filter_that_few_pass_hides_none_of_them,
    nearest::points_that_are_too_far_are_left_out,
    nearest::vectors_that_do_not_fit_are_refused,
    filters::a_filter_passes_what_its_definition_passes,
    filters::what_is_hard_to_write_is_found_as_it_is,
    queries::every_kind_of_query_answers_as_the_embedded_store_does,
    queries::the_status_counts_what_is_there,
}
