//! Killed at any moment, again and again: what was answered is there, online and offline.
//!
//! A child process pushes and says what was answered; it is killed, and what it left is opened and looked at. It flushes
//! now and then, so that it is killed between a part and the journal too.
//!
//! `HALNY_KILLS` says how often, 12 times unless it does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use halny_features::{Features, Moment, PushTo};
use rand::{Rng, SeedableRng};
use serde_json::json;
use support::{Hand, asked, at, historical, online, open, rows, texts};

const FOLDER: &str = "HALNY_KILLS_FOLDER";
const FIRST: &str = "HALNY_KILLS_FIRST";
const NOW: i64 = 2_000_000_000;
/// Pushes that are under way at once.
const AT_ONCE: i64 = 4;

const TOML: &str = r#"
[[entities]]
name = "user"
[[feature_views]]
name = "v"
entities = ["user"]
features = [{ name = "x", type = "int64" }]
source = { push = true }
"#;

async fn push(features: &Features, number: i64) {
    let columns = json!({ "user": ["a"], "event_timestamp": [number], "x": [number] });
    features.push("v", &rows(features, "v", columns), PushTo::OnlineAndOffline).await.unwrap();
}

/// What the child does: pushes from `FIRST` on until it is killed. Does nothing when run as a test.
#[test]
fn child() {
    let (Ok(folder), Ok(first)) = (std::env::var(FOLDER), std::env::var(FIRST)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let features = open(Path::new(&folder), TOML, &Hand::at(NOW), None).await;
        let mut number: i64 = first.parse().unwrap();
        loop {
            let pushes = (number..number + AT_ONCE).map(|number| push(&features, number));
            futures::future::join_all(pushes).await;
            number += AT_ONCE;
            writeln!(std::io::stdout(), "\nanswered {number}").unwrap();
            if number % 5 == 0 {
                features.flush().await.unwrap();
            }
        }
    });
}

/// Runs a child that is killed once so many pushes are answered; gives how many were.
fn killed(folder: &Path, first: i64, pushes: i64) -> i64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut answered = first;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut numbers =
        lines.by_ref().filter_map(|line| line.strip_prefix("answered ").and_then(|it| it.parse::<i64>().ok()));
    while answered < first + pushes {
        answered = numbers.next().expect("the child ended by itself");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    numbers.last().unwrap_or(answered)
}

#[test]
fn whatever_was_answered_is_there_after_every_kill_online_and_offline() {
    let kills: u32 = std::env::var("HALNY_KILLS").map_or(12, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut chance = rand::rngs::StdRng::seed_from_u64(6);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut number, mut unsure) = (0, std::collections::BTreeSet::new());
    for kill in 0..kills {
        let answered = killed(folder.path(), number, chance.random_range(1..40));
        number = answered + AT_ONCE;
        // They were under way: they may be there or not.
        unsure.extend(answered..number);
        runtime.block_on(async {
            let features = open(folder.path(), TOML, &Hand::at(NOW), None).await;
            let response = online(&features, asked(&["v:x"]), &[("user", texts(&["a"]))]).await;
            let served = response.value(0, 0).to_json().as_i64().unwrap();
            assert!((answered - 1..number).contains(&served), "kill {kill}: {served} of {answered}");
            // Each row was the newest at its own time.
            let times: Vec<i64> = (0..answered).collect();
            let users = vec!["a"; times.len()];
            let entities = rows(&features, "v", json!({ "user": users, "event_timestamp": times }));
            let joined = historical(&features, asked(&["v:x"]), vec![entities]).await;
            let found = joined.column(2).as_primitive::<Int64Type>();
            for time in 0..answered {
                let is = found.value(time as usize);
                assert!(unsure.contains(&time) || is == time, "kill {kill}: row {time} is {is}");
            }
            let statistics = features.statistics("v", at(0), Moment::MAX).await.unwrap();
            let rows = statistics[0].count as usize;
            assert!(
                rows <= number as usize && rows + unsure.len() >= number as usize,
                "kill {kill}: {rows} of {number} rows"
            );
            features.close().await;
        });
    }
}
