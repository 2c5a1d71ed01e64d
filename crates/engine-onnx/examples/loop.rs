//! Embeddings a second and processor seconds of a text encoder, bare: no server, no batching.
//!
//! `cargo run --release -p halny-engine-onnx --example loop -- MODEL.onnx [CACHE]`
#![allow(clippy::print_stdout, reason = "an example prints its figures")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use halny_engine::{Device, Engine, EngineError, Instance, LoadSpec, Precision, Tensor};
use halny_engine_onnx::{IdleThreads, OnnxEngine, Options};

/// Long enough for the figures to repeat within a few percent.
const MEASURED: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let graph = arguments.next().ok_or("give the path of a graph with input_ids and attention_mask")?;
    let cache = arguments.next();
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    println!("idle  instances threads batch tokens embeddings/s cpu_s/1000");
    for idle in [IdleThreads::Sleep, IdleThreads::Spin] {
        let engine = OnnxEngine::open(Options { cache: Some(home.join(".cache/halny")), idle, ..Options::default() })?;
        for (instances, threads) in [(1, 2), (2, 1)] {
            let spec = LoadSpec {
                graph: graph.clone(),
                device: Device::Cpu,
                precision: Precision::Fp32,
                instances,
                threads,
                cache: cache.clone(),
                cache_key: graph.display().to_string(),
            };
            let mut loaded = engine.load(&spec)?;
            let phases =
                loaded.phases.iter().map(|phase| format!("{} {:?} warm={}", phase.name, phase.took, phase.warm));
            println!("# {}, {} MB", phases.collect::<Vec<_>>().join(", "), loaded.memory_bytes / 1_000_000);
            for (batch, tokens) in [(1, 8), (1, 32), (8, 8), (8, 32), (32, 8), (32, 32), (64, 8), (64, 64)] {
                let (rate, cpu) = measure(&mut loaded.instances, batch, tokens)?;
                println!("{idle:?} {instances:>9} {threads:>7} {batch:>5} {tokens:>6} {rate:>12.0} {cpu:>10.2}");
            }
        }
    }
    Ok(())
}

/// Embeddings a second of all instances together, and processor seconds for 1,000 of them.
fn measure(instances: &mut [Box<dyn Instance>], batch: usize, tokens: usize) -> Result<(f64, f64), EngineError> {
    let ids: Vec<i64> = (0..batch * tokens).map(|n| 1_000 + (n as i64 * 7_919) % 20_000).collect();
    let ids = Tensor::from_slice(&[batch, tokens], &ids)?;
    let mask = Tensor::from_slice(&[batch, tokens], &vec![1i64; batch * tokens])?;
    let (cpu, began) = (cpu_seconds(), Instant::now());
    let runs = std::thread::scope(|scope| {
        let run = |instance: &mut Box<dyn Instance>| -> Result<usize, EngineError> {
            let (mut outputs, mut runs) = (Vec::new(), 0);
            while began.elapsed() < MEASURED {
                instance.run(&[ids.view(), mask.view()], &mut outputs)?;
                runs += 1;
            }
            Ok(runs)
        };
        let threads: Vec<_> = instances.iter_mut().map(|instance| scope.spawn(move || run(instance))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0))).sum::<Result<usize, EngineError>>()
    })?;
    let done = (runs * batch) as f64;
    Ok((done / began.elapsed().as_secs_f64(), (cpu_seconds() - cpu) / done * 1_000.0))
}

/// User and system time of this process, in seconds: Linux counts in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| after_name.split_whitespace().nth(field).and_then(|text| text.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}
