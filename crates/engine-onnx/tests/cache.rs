//! Optimised graphs that are kept: used again, shared, bounded, and never trusted blindly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Barrier;

use halny_engine::{Engine, LoadSpec, Loaded, Tensor};
use halny_engine_onnx::testgraph;
use support::{Bench, engine};

const WIDTH: usize = 64;

fn answers(loaded: &mut Loaded) -> Vec<Tensor> {
    let values: Vec<f32> = (0..3 * WIDTH).map(|n| (n as f32).cos()).collect();
    let input = Tensor::from_slice(&[3, WIDTH], &values).unwrap();
    let mut outputs = Vec::new();
    loaded.instances[0].run(&[input.view()], &mut outputs).unwrap();
    outputs
}

fn is_warm(loaded: &Loaded) -> bool {
    loaded.phases.iter().all(|phase| phase.warm)
}

/// The one entry of a cache.
fn entry(cache: &Path) -> PathBuf {
    let listing = std::fs::read_dir(cache.join("optimised")).unwrap();
    let mut folders = listing.map(|found| found.unwrap().path()).filter(|path| path.is_dir());
    let entry = folders.next().unwrap();
    assert!(folders.next().is_none());
    entry
}

#[test]
fn the_second_load_is_a_hit_and_answers_the_same() {
    let (engine, bench) = (engine(), Bench::new(&testgraph::dense(WIDTH, 3)));
    let plain = answers(&mut engine.load(&bench.spec()).unwrap());
    let mut first = engine.load(&bench.cached()).unwrap();
    let mut second = engine.load(&LoadSpec { instances: 2, ..bench.cached() }).unwrap();
    assert!(!is_warm(&first) && is_warm(&second), "{first:?} {second:?}");
    assert_eq!(first.signature, second.signature);
    assert!(second.memory_bytes >= (WIDTH * WIDTH * 4 * 3) as u64, "{second:?}");
    assert_eq!(answers(&mut first), plain);
    assert_eq!(answers(&mut second), plain);
    let other = LoadSpec { cache_key: "another graph".to_owned(), ..bench.cached() };
    assert!(!is_warm(&engine.load(&other).unwrap()));
}

#[test]
fn a_damaged_entry_is_made_anew() {
    let (engine, bench) = (engine(), Bench::new(&testgraph::dense(WIDTH, 3)));
    let right = answers(&mut engine.load(&bench.cached()).unwrap());
    let entry = entry(&bench.path().join("cache"));
    let damages: [fn(&Path); 5] = [
        |file| std::fs::remove_file(file).unwrap(),
        |file| std::fs::write(file, b"").unwrap(),
        |file| std::fs::write(file, vec![0xff; 100_000]).unwrap(),
        |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        },
        |file| {
            let mut bytes = std::fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(file, bytes).unwrap();
        },
    ];
    for file in ["graph.onnx", "weights.data", "manifest.json"] {
        for (kind, damage) in damages.iter().enumerate() {
            damage(&entry.join(file));
            let mut loaded = engine.load(&bench.cached()).unwrap();
            assert!(!is_warm(&loaded), "{file}, damage {kind}");
            assert_eq!(answers(&mut loaded), right, "{file}, damage {kind}");
            drop(loaded);
            assert!(is_warm(&engine.load(&bench.cached()).unwrap()), "{file}, damage {kind}");
        }
    }
}

#[test]
fn loads_at_once_agree_and_make_one_entry() {
    let (engine, bench) = (engine(), Bench::new(&testgraph::dense(WIDTH, 3)));
    let right = answers(&mut engine.load(&bench.spec()).unwrap());
    let together = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                together.wait();
                assert_eq!(answers(&mut engine.load(&bench.cached()).unwrap()), right);
            });
        }
    });
    entry(&bench.path().join("cache"));
    assert!(is_warm(&engine.load(&bench.cached()).unwrap()));
}

#[test]
fn a_running_session_outlives_its_entry() {
    let (engine, bench) = (engine(), Bench::new(&testgraph::dense(WIDTH, 3)));
    let mut loaded = engine.load(&bench.cached()).unwrap();
    let right = answers(&mut loaded);
    std::fs::remove_dir_all(bench.path().join("cache")).unwrap();
    assert_eq!(answers(&mut loaded), right);
}

#[test]
fn a_cache_that_cannot_be_written_costs_time_only() {
    let (engine, bench) = (engine(), Bench::new(&testgraph::dense(WIDTH, 3)));
    let right = answers(&mut engine.load(&bench.spec()).unwrap());
    let file = bench.path().join("file");
    std::fs::write(&file, b"not a folder").unwrap();
    for cache in [file, PathBuf::from("/proc/nowhere")] {
        let mut loaded = engine.load(&LoadSpec { cache: Some(cache), ..bench.spec() }).unwrap();
        assert!(!is_warm(&loaded));
        assert_eq!(answers(&mut loaded), right);
    }
}
