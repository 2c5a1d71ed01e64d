//! The promises of the engine contract, and what this engine adds to them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use halny_engine::testsuite::contract;
use halny_engine::{Device, ElementType, Engine, EngineError, Instance, LoadSpec, Tensor};
use halny_engine_onnx::testgraph::{self, Layout, Unsupported};
use proptest::prelude::*;
use support::{Bench, engine};

fn only(engine: &dyn Engine, spec: &LoadSpec) -> Box<dyn Instance> {
    engine.load(spec).unwrap().instances.remove(0)
}

fn load_error(engine: &dyn Engine, spec: &LoadSpec) -> String {
    match engine.load(spec) {
        Err(EngineError::Load(why)) => why,
        other => panic!("a load error was expected, not {other:?}"),
    }
}

#[test]
fn the_contract_holds_uncached_cached_and_with_two_instances() {
    let (engine, bench) = (engine(), Bench::new(&testgraph::doubling()));
    contract(&engine, &bench.spec());
    contract(&engine, &LoadSpec { instances: 2, threads: 2, ..bench.cached() });
    contract(&engine, &bench.cached());
    assert!(engine.describe().starts_with("onnxruntime 1."), "{}", engine.describe());
}

#[test]
fn every_element_type_goes_through_unchanged() {
    let engine = engine();
    for element in ElementType::all() {
        let bench = Bench::new(&testgraph::identity(element));
        let mut instance = only(&engine, &bench.spec());
        let bytes: Vec<u8> = (0..6 * element.size()).map(|n| (n % 2) as u8).collect();
        let input = Tensor::from_bytes(element, &[2, 3], &bytes).unwrap();
        let mut outputs = Vec::new();
        instance.run(&[input.view()], &mut outputs).unwrap();
        assert_eq!(outputs[0], input, "{element}");
    }
}

#[test]
fn bytes_off_their_alignment_are_read_right() {
    let bench = Bench::new(&testgraph::doubling());
    let mut instance = only(&engine(), &bench.spec());
    let input = Tensor::from_slice(&[1, 4], &[1.0f32, -2.0, 3.5, 0.25]).unwrap();
    let mut shifted = [0u8; 16 + 9];
    let start = (1..9).find(|start| !shifted[*start..].as_ptr().addr().is_multiple_of(4)).unwrap();
    shifted[start..start + 16].copy_from_slice(input.bytes());
    let view = halny_engine::TensorView { bytes: &shifted[start..start + 16], ..input.view() };
    let mut outputs = Vec::new();
    instance.run(&[view], &mut outputs).unwrap();
    assert_eq!(outputs[0].elements::<f32>().unwrap(), [2.0, -4.0, 7.0, 0.5]);
}

#[test]
fn a_boolean_of_two_is_refused() {
    let bench = Bench::new(&testgraph::identity(ElementType::Bool));
    let mut instance = only(&engine(), &bench.spec());
    let two = Tensor::from_bytes(ElementType::Bool, &[1, 3], &[0, 1, 2]).unwrap();
    assert!(matches!(instance.run(&[two.view()], &mut Vec::new()), Err(EngineError::Input(_))));
}

#[test]
fn several_inputs_and_outputs_of_several_types_keep_their_places() {
    let bench = Bench::new(&testgraph::mixed());
    let mut instance = only(&engine(), &bench.spec());
    let a = Tensor::from_slice(&[2, 2], &[1i64, -2, 3, 4]).unwrap();
    let halves = [0.5f32, 1.5, -2.0, 8.0].map(half::f16::from_f32);
    let b = Tensor::from_slice(&[2, 2], &halves).unwrap();
    let mut outputs = Vec::new();
    instance.run(&[a.view(), b.view()], &mut outputs).unwrap();
    assert_eq!(outputs[0].elements::<f32>().unwrap(), [1.5, -0.5, 1.0, 12.0]);
    assert_eq!(outputs[1].elements::<half::f16>().unwrap(), halves.map(|x| x + x));
    let longer = Tensor::from_slice(&[3, 2], &[0i64; 6]).unwrap();
    let refusal = instance.run(&[longer.view(), b.view()], &mut outputs).unwrap_err();
    assert!(matches!(&refusal, EngineError::Input(why) if why.contains("\"batch\"")), "{refusal:?}");
}

#[test]
fn an_instance_is_used_after_an_error_and_the_cause_stays_inside() {
    let bench = Bench::new(&testgraph::embed(10, 4));
    let mut instance = only(&engine(), &bench.spec());
    let mask = Tensor::from_slice(&[1, 2], &[1i64, 1]).unwrap();
    let mut outputs = Vec::new();
    let outside = Tensor::from_slice(&[1, 2], &[3i64, 10]).unwrap();
    let error = instance.run(&[outside.view(), mask.view()], &mut outputs).unwrap_err();
    assert!(matches!(&error, EngineError::Run { cause } if cause.contains("Gather")), "{error:?}");
    assert!(!error.to_string().contains("Gather"), "{error}");
    let inside = Tensor::from_slice(&[1, 2], &[3i64, 9]).unwrap();
    instance.run(&[inside.view(), mask.view()], &mut outputs).unwrap();
    let row = |row| (0..4).map(move |column| testgraph::table_weight(row, column));
    assert_eq!(outputs[0].elements::<f32>().unwrap(), row(3).chain(row(9)).collect::<Vec<_>>());
}

#[test]
fn a_length_of_zero_is_refused() {
    let bench = Bench::new(&testgraph::doubling());
    let mut instance = only(&engine(), &bench.spec());
    let none = Tensor::zeros(ElementType::F32, &[0, 4]).unwrap();
    assert!(matches!(instance.run(&[none.view()], &mut Vec::new()), Err(EngineError::Input(_))));
}

#[test]
fn the_classifiers_compute_what_their_docs_say() {
    let engine = engine();
    let classify = Bench::new(&testgraph::classify(20, 3));
    let mut instance = only(&engine, &classify.cached());
    let ids = Tensor::from_slice(&[1, 3], &[4i64, 7, 9]).unwrap();
    let mask = Tensor::from_slice(&[1, 3], &[1i64, 1, 0]).unwrap();
    let mut outputs = Vec::new();
    instance.run(&[ids.view(), mask.view()], &mut outputs).unwrap();
    for (label, logit) in outputs[0].elements::<f32>().unwrap().iter().enumerate() {
        let mean = (testgraph::table_weight(4, label) + testgraph::table_weight(7, label)) / 2.0;
        assert!((logit - mean).abs() < 1e-6, "{logit} {mean}");
    }
    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
        let image = Bench::new(&testgraph::image(layout, 2, 2));
        let mut instance = only(&engine, &image.cached());
        let (shape, pixels) = match layout {
            Layout::ChannelsFirst => ([1, 3, 2, 2], [1.0f32, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]),
            Layout::ChannelsLast => ([1, 2, 2, 3], [1.0f32, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0]),
        };
        instance.run(&[Tensor::from_slice(&shape, &pixels).unwrap().view()], &mut outputs).unwrap();
        for (label, logit) in outputs[0].elements::<f32>().unwrap().iter().enumerate() {
            let sum: f32 = (0..3).map(|row| (row + 1) as f32 * testgraph::table_weight(row, label)).sum();
            assert!((logit - sum).abs() < 1e-5, "{layout:?} {logit} {sum}");
        }
    }
}

#[test]
fn a_gpu_that_cannot_be_used_is_an_error_that_says_what_is_missing() {
    let (engine, bench) = (engine(), Bench::new(&testgraph::doubling()));
    if engine.devices().contains(&Device::Cuda(0)) {
        contract(&engine, &LoadSpec { device: Device::Cuda(0), ..bench.cached() });
        return;
    }
    for device in [Device::Cuda(0), Device::TensorRt(0), Device::Cuda(u32::MAX)] {
        let why = load_error(&engine, &LoadSpec { device, ..bench.spec() });
        assert!(why.contains(&device.to_string()) && why.contains("cannot be used"), "{why}");
        let named = ["onnxruntime-gpu", "libcuda.so.1", "there is no CUDA device"];
        assert!(named.iter().any(|missing| why.contains(missing)), "{why}");
    }
    let loaded = engine.load(&LoadSpec { device: Device::Auto, ..bench.spec() }).unwrap();
    assert_eq!(loaded.choice.device, Device::Cpu);
    assert!(loaded.choice.reason.contains("cuda:0 cannot be used"), "{}", loaded.choice.reason);
    assert_eq!(engine.devices(), [Device::Cpu]);
}

#[test]
fn graphs_that_are_not_of_dense_numbers_are_refused() {
    let engine = engine();
    for unsupported in [Unsupported::Text, Unsupported::Sequence, Unsupported::Optional] {
        let bench = Bench::new(&testgraph::Graph::new().pass(unsupported));
        for spec in [bench.spec(), bench.cached()] {
            let why = load_error(&engine, &spec);
            assert!(why.contains("not supported"), "{unsupported:?}: {why}");
        }
    }
}

#[test]
fn files_that_are_no_graphs_are_refused() {
    let (engine, bench) = (engine(), Bench::new(&testgraph::doubling()));
    let whole = testgraph::dense(16, 2).bytes();
    let mut wrong_field = whole.clone();
    wrong_field[10] ^= 0x55;
    let files: [&[u8]; 5] = [b"", b"no graph", b"\x80\x04\x95pickle", &whole[..whole.len() / 2], &wrong_field];
    for bytes in files {
        std::fs::write(&bench.spec().graph, bytes).unwrap();
        for spec in [bench.spec(), bench.cached()] {
            load_error(&engine, &spec);
        }
    }
    load_error(&engine, &LoadSpec { graph: bench.path().join("absent.onnx"), ..bench.spec() });
    load_error(&engine, &LoadSpec { graph: bench.path().into(), ..bench.spec() });
    load_error(&engine, &LoadSpec { instances: 0, ..bench.spec() });
    load_error(&engine, &LoadSpec { threads: 0, ..bench.spec() });
    load_error(&engine, &LoadSpec { threads: usize::MAX, ..bench.spec() });
}

#[test]
fn weights_outside_the_folder_are_refused() {
    let engine = engine();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), [0u8; 64]).unwrap();
    let absolute = outside.path().to_str().unwrap().to_owned();
    let climbing = format!("../{}", outside.path().file_name().unwrap().to_str().unwrap());
    for location in [absolute.as_str(), climbing.as_str(), "../../../../../../etc/hostname", "absent.bin"] {
        let dims = [testgraph::free("n"), testgraph::fixed(4)];
        let graph = testgraph::Graph::new()
            .input("x", ElementType::F32, &dims)
            .output("y", ElementType::F32, &dims)
            .weight_in_file("w", &[4], location)
            .node("Mul", &["x", "w"], &["y"], &[]);
        let bench = Bench::new(&graph);
        for spec in [bench.spec(), bench.cached()] {
            let why = load_error(&engine, &spec);
            assert!(why.contains("External data path"), "{why}");
        }
    }
}

#[test]
fn two_instances_run_at_once_on_two_threads() {
    let bench = Bench::new(&testgraph::dense(64, 4));
    let engine = engine();
    let loaded = engine.load(&LoadSpec { instances: 2, ..bench.cached() }).unwrap();
    let input = Tensor::from_slice(&[8, 64], &(0..512).map(|n| n as f32 / 512.0).collect::<Vec<_>>()).unwrap();
    let answers: Vec<Vec<Tensor>> = std::thread::scope(|scope| {
        let run = |mut instance: Box<dyn Instance>| {
            let input = &input;
            move || {
                let mut outputs = Vec::new();
                for _ in 0..200 {
                    instance.run(&[input.view()], &mut outputs).unwrap();
                }
                outputs
            }
        };
        let threads: Vec<_> = loaded.instances.into_iter().map(|instance| scope.spawn(run(instance))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn memory_stays_flat_over_thousands_of_shapes() {
    let bench = Bench::new(&testgraph::embed(1_000, 64));
    let mut instance = only(&engine(), &bench.cached());
    let mut outputs = Vec::new();
    let mut state = 1u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut after_growth = 0;
    for run in 0..20_000 {
        // The largest shape comes first, so that what is kept for it is there from the start.
        let (batch, tokens) = if run == 0 { (32, 128) } else { (1 + below(32) as usize, 1 + below(128) as usize) };
        let ids: Vec<i64> = (0..batch * tokens).map(|_| below(1_000) as i64).collect();
        let ids = Tensor::from_slice(&[batch, tokens], &ids).unwrap();
        let mask = Tensor::from_slice(&[batch, tokens], &vec![1i64; batch * tokens]).unwrap();
        instance.run(&[ids.view(), mask.view()], &mut outputs).unwrap();
        if run == 2_000 {
            after_growth = resident_kib();
        }
    }
    let grown = resident_kib().saturating_sub(after_growth);
    assert!(grown < 4 << 10, "{grown} KiB more after 18,000 further shapes");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_and_values_are_doubled(rows in 1usize..50, seed in any::<u32>()) {
        thread_local! {
            static INSTANCE: std::cell::RefCell<Box<dyn Instance>> =
                std::cell::RefCell::new(only(&engine(), &Bench::new(&testgraph::doubling()).spec()));
        }
        let values: Vec<f32> = (0..rows * 4).map(|n| (n as f32 + seed as f32).sin() * 1e3).collect();
        let input = Tensor::from_slice(&[rows, 4], &values).unwrap();
        let mut outputs = Vec::new();
        INSTANCE.with_borrow_mut(|instance| instance.run(&[input.view()], &mut outputs)).unwrap();
        let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        prop_assert_eq!(outputs[0].elements::<f32>().unwrap(), &doubled[..]);
    }
}
