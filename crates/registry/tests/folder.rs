//! Folders as sources: what is taken, what is refused, and that the version can be recomputed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use halny_registry::{
    FileFilter, Limits, ModelFolder, OpenOptions, RegistryError, SourceRef, gguf::GgufKind, open, progress::Silent,
    testsuite::gguf::Builder,
};
use halny_types::project::Precision;
use support::{onnx, small_onnx};
use tempfile::TempDir;

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        write(folder.path(), name, content);
    }
    folder
}

async fn fetch_with(path: &Path, wanted: FileFilter, limits: Limits) -> Result<ModelFolder, RegistryError> {
    let cache = tempfile::tempdir().unwrap();
    let options = OpenOptions { limits, ..OpenOptions::new(cache.path()) };
    let source: SourceRef = path.to_str().unwrap().parse()?;
    open(&source, &options).fetch(&wanted, &Silent).await
}

async fn fetch(path: &Path) -> Result<ModelFolder, RegistryError> {
    fetch_with(path, FileFilter::onnx([Precision::Fp32]), Limits::default()).await
}

async fn refused(path: &Path) -> String {
    fetch(path).await.unwrap_err().to_string()
}

#[tokio::test]
async fn version_is_what_the_documented_shell_command_prints() {
    let folder =
        folder(&[("model.onnx", &small_onnx()), ("tokenizer.json", b"{}"), ("README.md", b"not part of the model")]);
    let model = fetch(folder.path()).await.unwrap();
    let script: String = include_str!("../src/version.rs")
        .split("/// ```sh\n")
        .nth(1)
        .unwrap()
        .split("/// ```\n")
        .next()
        .unwrap()
        .replace("/// ", "");
    let output = Command::new("sh").arg("-c").arg(script).current_dir(folder.path()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), model.version.to_string());
}

#[tokio::test]
async fn exactly_the_files_of_the_model_are_taken() {
    let folder = folder(&[
        ("onnx/model.onnx", &onnx("sub/model.onnx_data", 9)),
        ("onnx/sub/model.onnx_data", b"123456789"),
        ("onnx/model_fp16.onnx", b"another precision, not even ONNX"),
        ("1_Pooling/config.json", b"{}"),
        ("halny-model.json", b"{}"),
        ("vocab.txt", b"x"),
        ("pytorch_model.bin", b"\x80\x04\x95"),
    ]);
    let model = fetch(folder.path()).await.unwrap();
    let names: Vec<&str> = model.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["1_Pooling/config.json", "halny-model.json", "onnx/model.onnx", "onnx/sub/model.onnx_data"]);
    let wanted = FileFilter::onnx([Precision::Fp32]);
    let weights = model.weights(&wanted, Precision::Fp32).unwrap();
    assert_eq!(weights, model.root.join("onnx/model.onnx"));
    assert_eq!(model.weights(&wanted, Precision::Fp16), None);
    assert_eq!(model.bytes(), model.files.iter().map(|file| file.bytes).sum::<u64>());
}

#[tokio::test]
async fn the_gguf_file_of_a_folder_is_taken_with_what_its_header_says() {
    let (model, adapter) = (Builder::model().build(), Builder::adapter().build());
    let folder = folder(&[
        ("Test.Q8_0.gguf", &model),
        ("mmproj-Test.gguf", b"not looked at"),
        ("adapters/tone.gguf", &adapter),
        ("config.json", b"{}"),
        ("model.onnx", b"not looked at"),
    ]);
    let wanted = FileFilter::gguf();
    let taken = fetch_with(folder.path(), wanted.clone(), Limits::default()).await.unwrap();
    let names: Vec<&str> = taken.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["Test.Q8_0.gguf", "config.json"]);
    assert_eq!(taken.weights(&wanted, Precision::Fp16), Some(taken.root.join("Test.Q8_0.gguf")));
    let summary = taken.gguf.unwrap().summary;
    assert_eq!((summary.architecture.as_str(), summary.model().unwrap().context_length), ("llama", 128));

    let wanted = FileFilter::gguf_file("adapters/tone.gguf");
    let taken = fetch_with(folder.path(), wanted.clone(), Limits::default()).await.unwrap();
    assert_eq!(taken.weights(&wanted, Precision::Fp32), Some(taken.root.join("adapters/tone.gguf")));
    assert!(matches!(taken.gguf.unwrap().summary.kind, GgufKind::LoraAdapter { changes: 2, .. }));
}

#[tokio::test]
async fn gguf_files_are_held_to_the_same_rules_as_others() {
    let sound = Builder::model().build();
    let fetch = async |folder: &TempDir, limits| {
        let error = fetch_with(folder.path(), FileFilter::gguf(), limits).await.unwrap_err();
        error.to_string()
    };
    let broken = folder(&[("m.gguf", &sound[..sound.len() - 100])]);
    let error = fetch(&broken, Limits::default()).await;
    assert!(error.starts_with("m.gguf is not a sound GGUF file: tensor blk.0.ffn_down.weight ends at"), "{error}");
    let pickle = folder(&[("m.gguf", b"\x80\x02}q\x00.")]);
    assert!(fetch(&pickle, Limits::default()).await.contains("can run code"));
    let large = folder(&[("m.gguf", &sound)]);
    let limits = Limits { max_file_bytes: 1000, ..Limits::default() };
    assert!(fetch(&large, limits).await.contains("more than the limit of 1000"));
    let two = folder(&[("a.gguf", &sound), ("b.gguf", &sound)]);
    assert!(fetch(&two, Limits::default()).await.contains("2 GGUF files (a.gguf, b.gguf)"));
    let outside = folder(&[("secret.gguf", &sound)]);
    let linked = folder(&[]);
    symlink(outside.path().join("secret.gguf"), linked.path().join("m.gguf")).unwrap();
    assert!(fetch(&linked, Limits::default()).await.contains("m.gguf is a link that leads out"));
}

#[tokio::test]
async fn a_changed_file_changes_the_version_even_with_a_warm_cache() {
    let folder = folder(&[("model.onnx", &small_onnx()), ("config.json", b"{\"a\":1}")]);
    let cache = tempfile::tempdir().unwrap();
    let source: SourceRef = folder.path().to_str().unwrap().parse().unwrap();
    let source = open(&source, &OpenOptions::new(cache.path()));
    let wanted = FileFilter::onnx([Precision::Fp32]);
    let first = source.fetch(&wanted, &Silent).await.unwrap();
    assert_eq!(source.fetch(&wanted, &Silent).await.unwrap(), first);
    write(folder.path(), "config.json", b"{\"a\":2}");
    assert_ne!(source.fetch(&wanted, &Silent).await.unwrap().version, first.version);
}

#[tokio::test]
async fn links_that_lead_out_are_refused_and_links_inside_are_followed() {
    let outside = folder(&[("secret.json", b"{}"), ("model.onnx", &small_onnx())]);
    let inside = folder(&[("blobs/1", &small_onnx())]);
    symlink("blobs/1", inside.path().join("model.onnx")).unwrap();
    fetch(inside.path()).await.unwrap();

    symlink(outside.path().join("secret.json"), inside.path().join("config.json")).unwrap();
    assert!(refused(inside.path()).await.contains("config.json is a link that leads out"));
    fs::remove_file(inside.path().join("config.json")).unwrap();
    symlink(outside.path(), inside.path().join("onnx")).unwrap();
    fs::remove_file(inside.path().join("model.onnx")).unwrap();
    assert!(refused(inside.path()).await.contains("onnx/model.onnx is a link that leads out"));
}

#[tokio::test]
async fn what_is_no_file_is_refused_without_being_opened() {
    let folder = folder(&[("model.onnx", &small_onnx())]);
    let pipe = folder.path().join("config.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(refused(folder.path()).await.contains("config.json is not a regular file"));
}

#[tokio::test]
async fn pickles_are_refused_by_name_and_by_content() {
    let heads: [&[u8]; 3] = [b"PK\x03\x04....", b"\x80\x02}q\x00.", b"\x1f\x8b\x08\x00"];
    for head in heads {
        let folder = folder(&[("model.onnx", head)]);
        assert!(refused(folder.path()).await.contains("can run code"));
    }
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let disguised = folder(&[("model.onnx", &onnx("w", 1024)), ("w", &tar)]);
    assert!(refused(disguised.path()).await.contains("a tar archive"));
    let named = folder(&[("model.onnx", &onnx("w.bin", 4)), ("w.bin", &[0; 4])]);
    assert!(refused(named.path()).await.contains("w.bin is a PyTorch file"));
    let only = folder(&[("pytorch_model.bin", b"\x80\x02")]);
    assert!(refused(only.path()).await.contains("export the model to ONNX"));
}

#[tokio::test]
async fn names_that_differ_in_case_only_are_refused() {
    let folder = folder(&[("model.onnx", &small_onnx()), ("config.json", b"{}"), ("Config.json", b"{}")]);
    assert!(refused(folder.path()).await.contains("differ in case only"));
}

#[tokio::test]
async fn broken_files_are_refused_by_name() {
    for (name, content) in
        [("config.json", &b"{"[..]), ("tokenizer.json", "[".repeat(100_000).as_bytes()), ("model.onnx", b"")]
    {
        let folder = folder(&[("model.onnx", &small_onnx())]);
        write(folder.path(), name, content);
        let error = refused(folder.path()).await;
        assert!(error.starts_with(name) && error.contains("not a sound"), "{error}");
    }
    let folder = folder(&[("model.safetensors", &[0xff; 64])]);
    let error = fetch_with(folder.path(), FileFilter::safetensors(), Limits::default()).await;
    assert!(error.unwrap_err().to_string().contains("not a sound safetensors file"));
}

#[tokio::test]
async fn sizes_and_counts_over_the_limit_are_refused() {
    let folder = folder(&[("model.onnx", &onnx("w", 5000)), ("w", &[1; 5000])]);
    let default = Limits::default();
    for (limits, reason) in [
        (Limits { max_file_bytes: 4999, ..default }, "w has 5000 bytes, more than the limit of 4999"),
        (Limits { max_total_bytes: 5000, ..default }, "the model as a whole"),
        (Limits { max_files: 1, ..default }, "more than 1 files"),
    ] {
        let wanted = FileFilter::onnx([Precision::Fp32]);
        let error = fetch_with(folder.path(), wanted, limits).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_folder_that_is_none_is_refused_and_s3_says_it_is_not_there_yet() {
    let folder = folder(&[("file", b"")]);
    assert!(refused(&folder.path().join("nothing")).await.contains("does not exist"));
    assert!(refused(&folder.path().join("file")).await.contains("is not a folder"));
    assert!(refused(folder.path()).await.contains("no fp32 weights found"));
    let error = refused(Path::new("s3://bucket/prefix")).await;
    assert!(error.contains("not yet available in this version; copy the files to a folder, or use hf://"));
}
