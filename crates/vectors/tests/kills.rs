//! Killed at any moment, again and again: what was acknowledged is there, and nothing is there in part.
//!
//! A child process writes to a store and says what was acknowledged; it is killed, and what it left is opened
//! and compared with the map. So small are the segments that it is always sealing, indexing, merging. It
//! writes several at once, and they have an order: what is there has to be what the map is after so many
//! writes, of which none that was acknowledged is missing.
//!
//! `HALNY_KILLS` says how often, 40 times unless it does.
#![allow(clippy::unwrap_used)]

mod model;

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use halny_types::CollectionName;
use halny_vectors::Write;
use model::{Model, apply, config, held, open, space, write};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::{Rng, SeedableRng};

/// Writes that are under way at once.
const AT_ONCE: usize = 4;
/// The longest that a child goes on before it is killed.
const MOMENT_MAX: Duration = Duration::from_millis(10);

const FOLDER: &str = "HALNY_KILLS_FOLDER";
const FIRST: &str = "HALNY_KILLS_FIRST";

/// The write of that number, the same in every process.
fn write_of(number: u64) -> Write {
    let mut seed = [0u8; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    write().new_tree(&mut runner).unwrap().current()
}

/// What the child does: writes from `FIRST` on until it is killed. Does nothing when run as a test.
#[test]
fn child() {
    let (Ok(folder), Ok(first)) = (std::env::var(FOLDER), std::env::var(FIRST)) else { return };
    let store = open(Path::new(&folder));
    let space = space(&store);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut number: u64 = first.parse().unwrap();
    runtime.block_on(async {
        loop {
            // They are sent in their order, and answered together.
            let writes = (number..).take(AT_ONCE).map(|number| space.write(vec![write_of(number)], true));
            for done in futures::future::join_all(writes).await {
                // A write that names a point that is not there is refused, and that is an answer too.
                drop(done);
                number += 1;
                writeln!(std::io::stdout(), "\nacknowledged {number}").unwrap();
            }
        }
    });
}

/// Runs a child that is killed a moment after it has said that so many writes are acknowledged; gives how many were.
fn killed(folder: &Path, first: u64, writes: u64, moment: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tell, told) = channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("acknowledged ") {
                let _ = tell.send(number.parse::<u64>().unwrap());
            }
        }
    });
    let mut acknowledged = first;
    while acknowledged < first + writes {
        acknowledged = told.recv().unwrap();
    }
    // Nothing is waited for: any moment will do.
    let _ = told.recv_timeout(moment).map(|number| acknowledged = number);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    told.try_iter().last().unwrap_or(acknowledged)
}

#[test]
fn whatever_was_acknowledged_is_there_after_every_kill_and_nothing_in_part() {
    let kills: u32 = std::env::var("HALNY_KILLS").map_or(40, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("vectors");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = open(&root);
    runtime.block_on(store.create(CollectionName::new("c").unwrap(), &config())).unwrap();
    store.close();
    drop(store);
    let mut chance = rand_chacha::ChaCha8Rng::seed_from_u64(4);
    let (mut model, mut number) = (Model::new(), 0);
    for kill in 0..kills {
        // Now and then while it still reads what is there.
        let (writes, moment) = (chance.random_range(0..30), MOMENT_MAX.mul_f64(chance.random()));
        let acknowledged = killed(&root, number, writes, moment);
        let store = open(&root);
        let found = held(&space(&store));
        while number < acknowledged || found != model {
            let most = acknowledged + AT_ONCE as u64;
            assert!(number < most, "after kill {kill} the points are those of no moment after write {acknowledged}");
            apply(&mut model, &write_of(number));
            number += 1;
        }
        store.close();
    }
}
