//! One suite for every online store: the embedded one, and a Redis or Valkey server.
//!
//! The server is started by the tests, from the program that HALNY_VALKEY names; `make test-rust` sets it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod materialising;
mod never;
mod pushing;
mod serving;
mod stores;
#[path = "../support/mod.rs"]
mod support;
mod valkey;

use std::path::Path;
use std::sync::Arc;

use halny_features::Features;
use halny_features::online::{OnlineStore, RedisOnline};
use support::Hand;

/// What a case is given: a folder, a clock, and a way to open features there, again and again.
pub(crate) struct Ground {
    folder: tempfile::TempDir,
    pub(crate) hand: Hand,
    pub(crate) online: Option<Arc<dyn OnlineStore>>,
    pub(crate) url: Option<String>,
}

impl Ground {
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another ground on the same server, which shares nothing with this one.
    pub(crate) async fn sub(&self, number: u32) -> Ground {
        let hand = Hand::at(NOW);
        let online = match &self.url {
            Some(url) => Some(redis(url, &format!("test-{number}:"), &hand).await),
            None => None,
        };
        Ground { folder: tempfile::tempdir().unwrap(), hand, online, url: self.url.clone() }
    }

    pub(crate) async fn open(&self, toml: &str) -> Features {
        support::open(self.folder(), toml, &self.hand, self.online.clone()).await
    }
}

/// The time at which every case begins, in seconds: a real one, since servers count from now.
pub(crate) const NOW: i64 = 2_000_000_000;

pub(crate) fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}

pub(crate) fn on_redb(case: impl AsyncFnOnce(Ground)) {
    run(async {
        case(Ground { folder: tempfile::tempdir().unwrap(), hand: Hand::at(NOW), online: None, url: None }).await;
    });
}

pub(crate) async fn redis(url: &str, prefix: &str, hand: &Hand) -> Arc<dyn OnlineStore> {
    Arc::new(RedisOnline::connect(url, None, prefix, hand.clock()).await.unwrap())
}

pub(crate) fn on_redis(case: impl AsyncFnOnce(Ground)) {
    run(async {
        let server = valkey::Server::start();
        let hand = Hand::at(NOW);
        let online = Some(redis(&server.url(), "test:", &hand).await);
        let folder = tempfile::tempdir().unwrap();
        case(Ground { folder, hand, online, url: Some(server.url()) }).await;
    });
}

macro_rules! contract {
    ($($module:ident::$case:ident,)*) => {
        mod redb { $(#[test] fn $case() { crate::on_redb(crate::$module::$case); })* }
        mod redis { $(#[test] fn $case() { crate::on_redis(crate::$module::$case); })* }
    };
}

contract! {
    serving::a_value_is_served_from_its_time_until_its_ttl_has_passed,
    serving::every_type_is_served_as_it_was_pushed,
    serving::composite_keys_and_several_views_are_one_row,
    serving::a_changed_schema_serves_no_wrong_value,
    serving::computed_features_read_views_and_the_request,
    serving::what_cannot_be_asked_for_is_refused,
    serving::few_keys_of_large_rows_are_bounded_in_bytes,
    serving::services_have_versions,
    pushing::an_older_event_never_takes_the_place_of_a_newer_one,
    pushing::many_writers_leave_the_newest_event,
    pushing::a_row_of_the_future_is_served_when_its_time_comes,
    pushing::what_was_pushed_is_there_when_opened_again,
    pushing::pushed_rows_are_joined_before_and_after_they_are_flushed,
    pushing::rows_that_are_not_those_of_the_view_are_refused,
    pushing::rows_of_another_key_type_are_set_aside_until_they_can_be_read,
    pushing::what_does_not_hold_any_more_is_swept_and_nothing_else,
    materialising::materialise_serves_the_newest_row_of_each_key,
    materialising::late_data_is_not_missed,
    materialising::later_rows_of_a_file_are_read_when_their_time_comes,
    materialising::a_changed_file_is_read_again,
    materialising::a_longer_ttl_reads_files_again,
    materialising::another_online_store_is_read_into_anew,
    materialising::rows_that_were_pushed_offline_alone_are_materialised,
    stores::foreign_bytes_are_refused_and_overwritten,
    stores::many_rows_are_read_at_once_and_in_order,
    stores::the_fence_survives_a_server_that_forgets,
    stores::what_was_journalled_is_served_when_opened_again,
    never::nothing_expired_or_to_come_is_served_online_or_offline,
}
