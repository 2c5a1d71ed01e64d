//! One suite for queues in SQLite and in a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod ground;
mod keys;
mod limits;
mod lost;
mod tries;

use ground::run;

macro_rules! contract {
    ($($module:ident::$case:ident,)*) => {
        mod sqlite {
            $(#[test] fn $case() { crate::run(crate::ground::sqlite, crate::$module::$case); })*
        }
        mod postgres {
            $(#[test] fn $case() { crate::run(crate::ground::postgres, crate::$module::$case); })*
        }
    };
}

contract! {
    tries::a_job_is_done_and_its_result_kept,
    tries::the_higher_priority_goes_first_then_the_earlier,
    tries::a_delayed_job_starts_when_its_time_has_come,
    tries::a_job_that_fails_each_time_is_dead_after_its_tries_and_may_be_tried_again,
    tries::what_cannot_succeed_is_dead_at_once,
    tries::a_handler_that_breaks_or_takes_too_long_fails_one_try,
    tries::what_has_ended_is_forgotten_with_all_that_was_its,
    tries::jobs_are_listed_the_latest_first,
    tries::of_several_jobs_all_are_accepted_or_none,
    keys::the_same_key_gives_the_first_job_and_another_request_is_refused,
    keys::of_racing_submissions_with_one_key_one_is_accepted,
    keys::a_key_is_its_tenants_own,
    keys::an_effect_counts_once_however_often_its_job_is_tried,
    lost::a_worker_that_wakes_up_late_can_write_nothing,
    lost::jobs_are_given_up_in_time_when_the_database_does_not_answer,
    lost::a_stopped_worker_leaves_a_checkpoint_and_another_goes_on,
    lost::a_cancelled_job_that_has_something_to_keep_is_run_once_more_when_its_worker_is_lost,
    lost::a_job_that_ends_its_workers_is_dead,
    lost::a_clock_that_is_set_back_does_not_keep_the_jobs_of_the_lost,
    limits::a_waiting_job_is_cancelled_at_once_and_a_running_one_when_it_stops,
    limits::a_queue_runs_so_many_at_once_over_all_workers,
    limits::a_queue_starts_so_many_a_second,
    limits::nothing_of_a_drained_queue_starts,
    limits::each_occurrence_of_a_schedule_runs_once,
    limits::what_is_submitted_elsewhere_is_run_here,
}
