//! The Open Inference Protocol as its clients meet it: through the router, and over a real port.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use halny_cpu_pool::CpuPool;
use halny_engine::testsuite::FakeEngine;
use halny_engine::testsuite::decoder::FakeLanguageEngine;
use halny_engine::{Dim, ElementType, EngineError, Port, Signature, Tensor};
use halny_engine_onnx::testgraph;
use halny_gateway::oip::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use halny_gateway::oip::proto::{
    DataType, InferParameter, InferTensorContents, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, ServerLiveRequest, ServerLiveResponse, infer_parameter,
};
use halny_gateway::{Limits, Listener, LiveLimits, Shared, admin_router, data_router, serve};
use halny_residency::{Engines, Places, Residency};
use halny_telemetry::Metrics;
use halny_types::project::{Server, check};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tonic::Code;
use tower::ServiceExt;

const HEADER_LENGTH: &str = "inference-header-content-length";

struct Rig {
    shared: Shared,
    clients: Router,
    operator: Router,
    folder: tempfile::TempDir,
}

/// A server of one model, `m`, whose graph is what `engine` says.
async fn rig(engine: FakeEngine, task: &str, more: &str) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("m"));
    let project = format!(
        "[[models]]\nname = \"m\"\nsource = \"m\"\ntask = \"{task}\"\n{more}\n[[models.profiles]]\ninstances = 1\n"
    );
    let project = check(&project).unwrap_or_else(|problems| panic!("{problems:?}")).project;
    let places = Places { project: folder.path().to_path_buf(), cache: folder.path().join("cache") };
    let metrics = Metrics::new();
    let engines = Engines { graphs: Arc::new(engine), languages: Arc::new(FakeLanguageEngine) };
    let residency = Residency::new(engines, places, metrics.clone());
    let applied = residency.apply(&project).await;
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let limits = Limits {
        max_body_bytes: 8 << 20,
        body_timeout: Duration::from_millis(300),
        max_inputs_per_request: 4,
        ..Limits::from(&Server::default())
    };
    let shared = Shared {
        residency,
        pool: CpuPool::new(NonZeroUsize::new(2).unwrap(), 64).unwrap(),
        routes: halny_gateway::Routes::new(metrics.clone()),
        metrics,
        limits: LiveLimits::new(limits),
        vectors: None,
        vector_files: None,
        features: None,
        background: None,
        reload: Arc::default(),
    };
    Rig {
        clients: data_router(&shared),
        operator: admin_router(&shared, halny_jobs::Handlers::new(Vec::new())),
        shared,
        folder,
    }
}

fn write_model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("model.fp32.onnx"), testgraph::doubling().bytes()).unwrap();
    let words = json!({"[PAD]": 0, "[UNK]": 1, "hello": 2, "world": 3});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.join("config.json"), json!({"max_position_embeddings": 16, "hidden_size": 2}).to_string())
        .unwrap();
}

async fn doubling() -> Rig {
    rig(FakeEngine::doubling(), "tensor", "").await
}

fn port(name: &str, element: ElementType, dims: &[i64]) -> Port {
    let dim = |length: &i64| usize::try_from(*length).map_or_else(|_| Dim::Free("n".to_owned()), Dim::Fixed);
    Port { name: name.to_owned(), element, dims: dims.iter().map(dim).collect() }
}

/// A graph whose vector for a text is `[tokens, 1]`.
async fn embedding() -> Rig {
    let signature = Signature {
        inputs: vec![
            port("input_ids", ElementType::I64, &[-1, -1]),
            port("attention_mask", ElementType::I64, &[-1, -1]),
        ],
        outputs: vec![port("sentence_embedding", ElementType::F32, &[-1, 2])],
    };
    let engine = FakeEngine::new(signature, |inputs, outputs| {
        let (rows, length) = (inputs[1].shape[0], inputs[1].shape[1]);
        let mask = inputs[1].elements::<i64>().unwrap();
        let vectors: Vec<f32> = mask.chunks(length).flat_map(|row| [row.iter().sum::<i64>() as f32, 1.0]).collect();
        outputs.clear();
        outputs.push(Tensor::from_slice(&[rows, 2], &vectors)?);
        Ok(())
    });
    rig(engine, "embed", "[models.text]\nnormalise = false").await
}

/// A graph that gives back what it takes: halves, and a number a row.
async fn halves() -> Rig {
    let ports =
        |half: &str, number: &str| vec![port(half, ElementType::F16, &[-1, 2]), port(number, ElementType::F32, &[-1])];
    let signature = Signature { inputs: ports("half", "number"), outputs: ports("same_half", "same_number") };
    let engine = FakeEngine::new(signature, |inputs, outputs| {
        outputs.clear();
        for input in inputs {
            outputs.push(Tensor::from_bytes(input.element, input.shape, input.bytes)?);
        }
        Ok::<(), EngineError>(())
    });
    rig(engine, "tensor", "").await
}

async fn send(router: &Router, request: Request<Body>) -> (StatusCode, http::HeaderMap, Bytes) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}

async fn get(router: &Router, path: &str) -> (StatusCode, Value) {
    let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
    let (status, _, body) = send(router, request).await;
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn post(router: &Router, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let request = Request::post(path).header("host", "localhost").body(body.into()).unwrap();
    let (status, _, body) = send(router, request).await;
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn infer(rig: &Rig, body: &Value) -> (StatusCode, Value) {
    post(&rig.clients, "/v2/models/m/infer", body.to_string()).await
}

fn one_row() -> Value {
    json!({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2.5, -3, 0]})
}

#[tokio::test]
async fn tensors_in_json_come_back_as_the_graph_makes_them() {
    let rig = doubling().await;
    let version = rig.shared.residency.get("m").unwrap().version.to_string();
    let (status, reply) = infer(&rig, &json!({"id": "42", "inputs": [one_row()]})).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    let expected = json!({"model_name": "m", "model_version": version, "id": "42",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 5.0, -6.0, 0.0]}]});
    assert_eq!(reply, expected);
    let nested = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6, 7, 8]]}],
        "outputs": [{"name": "y"}], "parameters": null});
    let (status, reply) = infer(&rig, &nested).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    assert_eq!(reply["outputs"][0]["data"], json!([2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]));
    assert_eq!(reply.get("id"), None);
}

#[tokio::test]
async fn a_large_request_is_answered_element_for_element() {
    let rig = doubling().await;
    let rows = 16;
    let one = json!({"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": vec![0.1_f32; rows * 4]}).to_string();
    // White space: the body is large enough for the pool, the batch small enough for the lane.
    let body = format!("{{\"inputs\": [{}]}}", one.replace("[0.1", &format!("[{}0.1", " ".repeat(400_000))));
    let (status, reply) = post(&rig.clients, "/v2/models/m/infer", body).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    assert_eq!(reply["outputs"][0]["data"].as_array().unwrap().len(), rows * 4);
}

#[tokio::test]
async fn binary_tensors_follow_the_json_both_ways() {
    let rig = doubling().await;
    let json =
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}],
        "parameters": {"binary_data_output": true}})
        .to_string();
    let values = [1.0f32, 2.0, 3.0, 4.5];
    let binary: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let request = Request::post("/v2/models/m/infer")
        .header(HEADER_LENGTH, json.len())
        .body(Body::from([json.as_bytes(), &binary].concat()))
        .unwrap();
    let (status, headers, body) = send(&rig.clients, request).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    let length: usize = headers[HEADER_LENGTH].to_str().unwrap().parse().unwrap();
    let head: Value = serde_json::from_slice(&body[..length]).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 16);
    let doubled: Vec<u8> = values.iter().flat_map(|value| (value * 2.0).to_le_bytes()).collect();
    assert_eq!(&body[length..], &doubled[..]);
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_what_to_change() {
    let rig = doubling().await;
    let with = |change: Value| {
        let mut input = one_row();
        change.as_object().unwrap().iter().for_each(|(key, value)| input[key] = value.clone());
        json!({"inputs": [input]})
    };
    let cases = [
        (json!({"inputs": []}), 400, "\"x\" is missing"),
        (json!({"inputs": [one_row(), one_row()]}), 400, "given twice"),
        (with(json!({"name": "z"})), 400, "no input \"z\""),
        (with(json!({"datatype": "INT64"})), 400, "takes FP32"),
        (with(json!({"shape": [1, 5]})), 400, "input \"x\": it takes the shape [-1, 4]"),
        (with(json!({"shape": [-1, 4]})), 400, "input \"x\""),
        (with(json!({"shape": [2, 4]})), 400, "8"),
        (with(json!({"shape": [i64::MAX, 4]})), 400, "memory"),
        (with(json!({"shape": [0, 4], "data": []})), 400, "at least 1"),
        (with(json!({"data": [1, 2, 3, "4"]})), 400, "element 3"),
        (with(json!({"data": [1, 2, 3, 1e39]})), 400, "element 3"),
        (with(json!({"parameters": {"shared_memory_region": "r"}})), 501, "shared memory"),
        (json!({"inputs": [one_row()], "outputs": [{"name": "q"}]}), 400, "no output \"q\""),
        (json!({"inputs": [one_row()], "outputs": [{"name": "y"}, {"name": "y"}]}), 400, "twice"),
        (
            json!({"inputs": [one_row()], "outputs": [{"name": "y", "parameters": {"classification": 1}}]}),
            501,
            "classification",
        ),
        (json!({"inputs": [one_row()], "parameters": {"sequence_id": 7}}), 501, "sequence"),
        (json!({"inputs": 7}), 400, "expected here"),
    ];
    for (body, wanted, part) in cases {
        let (status, reply) = infer(&rig, &body).await;
        assert_eq!(status.as_u16(), wanted, "{body} gave {reply}");
        let error = reply["error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{body} gave {error:?}");
    }
    let bomb = format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":{0}{1}}}]}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let (status, reply) = post(&rig.clients, "/v2/models/m/infer", bomb).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(reply["error"].as_str().unwrap().contains("deeper"), "{reply}");
    let (status, _) = infer(&rig, &json!({"inputs": [one_row()]})).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn only_the_version_that_is_served_answers() {
    let rig = doubling().await;
    let version = rig.shared.residency.get("m").unwrap().version;
    let body = json!({"inputs": [one_row()]}).to_string();
    for named in [version.to_string(), version.short()] {
        let (status, reply) = post(&rig.clients, &format!("/v2/models/m/versions/{named}/infer"), body.clone()).await;
        assert_eq!(status, StatusCode::OK, "{reply}");
        assert_eq!(get(&rig.clients, &format!("/v2/models/m/versions/{named}/ready")).await.0, StatusCode::OK);
    }
    let (status, reply) = post(&rig.clients, "/v2/models/m/versions/1/infer", body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(reply["error"].as_str().unwrap().contains(&version.to_string()), "{reply}");
    assert_eq!(get(&rig.clients, "/v2/models/other").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn metadata_shows_the_graph() {
    let rig = doubling().await;
    let version = rig.shared.residency.get("m").unwrap().version.to_string();
    let (status, reply) = get(&rig.clients, "/v2/models/m").await;
    assert_eq!(status, StatusCode::OK);
    let expected = json!({"name": "m", "versions": [version], "platform": "fake",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]});
    assert_eq!(reply, expected);
    let (_, config) = get(&rig.clients, "/v2/models/m/config").await;
    assert_eq!(config["input"][0], json!({"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4]}));
    assert_eq!(get(&rig.clients, "/v2").await.1["name"], "halny");
    assert_eq!(get(&rig.clients, "/v2/health/ready").await, (StatusCode::OK, json!({"ready": true})));
    assert_eq!(get(&rig.clients, "/v2/health/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_embedding_model_takes_texts() {
    let rig = embedding().await;
    let (_, metadata) = get(&rig.clients, "/v2/models/m").await;
    assert_eq!(metadata["inputs"], json!([{"name": "text", "datatype": "BYTES", "shape": [-1]}]));
    assert_eq!(metadata["outputs"], json!([{"name": "embedding", "datatype": "FP32", "shape": [-1, 2]}]));
    let ask = |data: Value| {
        let count = data.as_array().unwrap().len();
        json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [count], "data": data}]})
    };
    let (status, reply) = infer(&rig, &ask(json!(["hello", "hello world hello"]))).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    assert_eq!(reply["outputs"][0]["shape"], json!([2, 2]));
    assert_eq!(reply["outputs"][0]["data"], json!([1.0, 1.0, 3.0, 1.0]));
    let framed = [&5u32.to_le_bytes()[..], b"hello"].concat();
    let head = json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": framed.len()}}]});
    let head = head.to_string();
    let request = |framed: &[u8]| {
        let body = [head.as_bytes(), framed].concat();
        Request::post("/v2/models/m/infer").header(HEADER_LENGTH, head.len()).body(Body::from(body)).unwrap()
    };
    let (status, _, body) = send(&rig.clients, request(&framed)).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    let lying = [&500u32.to_le_bytes()[..], b"hello"].concat();
    let (status, _, body) = send(&rig.clients, request(&lying)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(std::str::from_utf8(&body).unwrap().contains("element 0 is 500 bytes long"), "{body:?}");
    for (data, part) in [
        (json!([]), "empty"),
        (json!(["a", ""]), "element 1 is empty"),
        (json!(vec!["a"; 5]), "may have 4"),
        (json!([1]), "not a text"),
    ] {
        let (status, reply) = infer(&rig, &ask(data)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(reply["error"].as_str().unwrap().contains(part), "{reply}");
    }
    let ids = json!({"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]});
    assert!(infer(&rig, &ids).await.1["error"].as_str().unwrap().contains("\"text\""));
}

#[tokio::test]
async fn halves_and_odd_numbers_go_as_binary_data_only() {
    let rig = halves().await;
    let ask = |number: f32, outputs: Value| {
        let inputs = json!([
            {"name": "half", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
            {"name": "number", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
        ]);
        let json = json!({"inputs": inputs, "outputs": outputs}).to_string();
        let body = [json.as_bytes(), &[1, 2, 3, 4], &number.to_le_bytes()].concat();
        Request::post("/v2/models/m/infer").header(HEADER_LENGTH, json.len()).body(Body::from(body)).unwrap()
    };
    let binary = |name: &str| json!({"name": name, "parameters": {"binary_data": true}});
    let (status, headers, body) =
        send(&rig.clients, ask(f32::NAN, json!([binary("same_number"), binary("same_half")]))).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    let length: usize = headers[HEADER_LENGTH].to_str().unwrap().parse().unwrap();
    assert_eq!(&body[length..], &[&f32::NAN.to_le_bytes()[..], &[1, 2, 3, 4]].concat()[..]);
    let (status, _, body) = send(&rig.clients, ask(1.0, json!([{"name": "same_half"}]))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(std::str::from_utf8(&body).unwrap().contains("binary_data"), "{body:?}");
    let (status, _, body) = send(&rig.clients, ask(f32::NAN, json!([{"name": "same_number"}]))).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert!(std::str::from_utf8(&body).unwrap().contains("NaN"), "{body:?}");
}

#[tokio::test]
async fn the_operator_sees_loads_and_unloads_models_and_clients_do_not() {
    let rig = doubling().await;
    let index = || post(&rig.operator, "/v2/repository/index", Body::empty());
    let (status, models) = index().await;
    assert_eq!(status, StatusCode::OK, "{models}");
    assert_eq!((&models[0]["name"], &models[0]["state"]), (&json!("m"), &json!("READY")));
    assert_eq!(post(&rig.clients, "/v2/repository/index", Body::empty()).await.0, StatusCode::NOT_FOUND);
    assert_eq!(post(&rig.clients, "/v2/repository/models/m/unload", Body::empty()).await.0, StatusCode::NOT_FOUND);
    let unload = json!({"parameters": {"unload_dependents": false}}).to_string();
    assert_eq!(post(&rig.operator, "/v2/repository/models/m/unload", unload).await.0, StatusCode::OK);
    assert_eq!(get(&rig.clients, "/v2/models/m/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(index().await.1[0]["state"], "UNAVAILABLE");
    assert_eq!(post(&rig.operator, "/v2/repository/index", json!({"ready": true}).to_string()).await.1, json!([]));
    let override_config = json!({"parameters": {"config": "{}"}}).to_string();
    assert_eq!(
        post(&rig.operator, "/v2/repository/models/m/load", override_config).await.0,
        StatusCode::NOT_IMPLEMENTED
    );
    assert_eq!(post(&rig.operator, "/v2/repository/models/m/load", Body::empty()).await.0, StatusCode::OK);
    assert_eq!(get(&rig.clients, "/v2/models/m/ready").await.0, StatusCode::OK);
    assert_eq!(post(&rig.operator, "/v2/repository/models/none/load", Body::empty()).await.0, StatusCode::NOT_FOUND);
    assert_eq!(post(&rig.operator, "/v2/repository/models/m/unload", Body::empty()).await.0, StatusCode::OK);
    std::fs::remove_file(rig.folder.path().join("m/model.fp32.onnx")).unwrap();
    let (status, reply) = post(&rig.operator, "/v2/repository/models/m/load", Body::empty()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(reply["error"].as_str().unwrap().contains("onnx"), "{reply}");
    let (_, models) = index().await;
    assert_eq!(models[0]["state"], "UNAVAILABLE");
    assert!(models[0]["reason"].as_str().unwrap().contains("onnx"), "{models}");
}

/// A client of the gRPC surface on a real port.
struct Client {
    channel: tonic::transport::Channel,
    stop: tokio::sync::oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Client {
    async fn of(rig: &Rig) -> Client {
        let listener = Listener::for_clients("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (router, limits, metrics) =
            (rig.clients.clone(), rig.shared.limits.clone(), rig.shared.metrics.gateway().clone());
        let served = tokio::spawn(async move {
            serve(listener, router, limits, metrics, async {
                let _ = stopped.await;
            })
            .await;
        });
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        Client { channel: endpoint.connect().await.unwrap(), stop, served }
    }

    async fn call<Q, A>(&self, method: &str, request: impl tonic::IntoRequest<Q>) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = format!("/inference.GRPCInferenceService/{method}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::default();
        grpc.unary(request.into_request(), path, codec).await.map(tonic::Response::into_inner)
    }

    async fn infer(&self, message: ModelInferRequest) -> Result<ModelInferResponse, tonic::Status> {
        self.call("ModelInfer", message).await
    }

    async fn stop(self) {
        drop(self.channel);
        self.stop.send(()).unwrap();
        self.served.await.unwrap();
    }
}

fn row_message(contents: Option<InferTensorContents>, raw: &[f32]) -> ModelInferRequest {
    let raw: Vec<u8> = raw.iter().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferRequest {
        model_name: "m".to_owned(),
        id: "7".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 4],
            contents,
            ..InferInputTensor::default()
        }],
        raw_input_contents: if raw.is_empty() { Vec::new() } else { vec![Bytes::from(raw)] },
        ..ModelInferRequest::default()
    }
}

#[tokio::test]
async fn grpc_answers_what_http_does() {
    let rig = doubling().await;
    let client = Client::of(&rig).await;
    let live: ServerLiveResponse = client.call("ServerLive", ServerLiveRequest {}).await.unwrap();
    assert!(live.live);
    let ready = |name: &str| ModelReadyRequest { name: name.to_owned(), version: String::new() };
    assert!(client.call::<_, ModelReadyResponse>("ModelReady", ready("m")).await.unwrap().ready);
    assert!(!client.call::<_, ModelReadyResponse>("ModelReady", ready("other")).await.unwrap().ready);
    let named = ModelMetadataRequest { name: "m".to_owned(), version: String::new() };
    let metadata: ModelMetadataResponse = client.call("ModelMetadata", named).await.unwrap();
    assert_eq!((metadata.inputs[0].name.as_str(), metadata.inputs[0].shape.as_slice()), ("x", &[-1, 4][..]));
    let named = ModelConfigRequest { name: "m".to_owned(), version: String::new() };
    let config = client.call::<_, ModelConfigResponse>("ModelConfig", named).await.unwrap().config.unwrap();
    assert_eq!((config.max_batch_size, config.input[0].data_type()), (0, DataType::TypeFp32));
    let typed = InferTensorContents { fp32_contents: vec![1.0, 2.0, 3.0, 4.0], ..InferTensorContents::default() };
    for message in [row_message(None, &[1.0, 2.0, 3.0, 4.0]), row_message(Some(typed), &[])] {
        let reply = client.infer(message).await.unwrap();
        assert_eq!((reply.id.as_str(), reply.outputs[0].shape.as_slice()), ("7", &[1, 4][..]));
        let values: Vec<f32> =
            reply.raw_output_contents[0].chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(values, [2.0, 4.0, 6.0, 8.0]);
    }
    client.stop().await;
}

#[tokio::test]
async fn grpc_refuses_with_a_code_and_what_to_change() {
    let rig = doubling().await;
    let client = Client::of(&rig).await;
    let good = || row_message(None, &[1.0, 2.0, 3.0, 4.0]);
    let flag = |name: &str| {
        let value = InferParameter { parameter_choice: Some(infer_parameter::ParameterChoice::Int64Param(3)) };
        [(name.to_owned(), value)].into()
    };
    let output = |name: &str, parameters| InferRequestedOutputTensor { name: name.to_owned(), parameters };
    let cases = [
        (row_message(None, &[]), Code::InvalidArgument, "no elements"),
        (row_message(None, &[1.0; 3]), Code::InvalidArgument, "takes 16 bytes, 12 were given"),
        (row_message(None, &[1.0; 500_000]), Code::InvalidArgument, "were given"),
        (ModelInferRequest { model_name: "other".to_owned(), ..good() }, Code::NotFound, "no model"),
        (ModelInferRequest { model_version: "1".to_owned(), ..good() }, Code::NotFound, "version"),
        (ModelInferRequest { parameters: flag("sequence_id"), ..good() }, Code::Unimplemented, "sequence"),
        (ModelInferRequest { outputs: vec![output("q", flag("a"))], ..good() }, Code::InvalidArgument, "no output"),
        (
            ModelInferRequest { outputs: vec![output("y", flag("classification"))], ..good() },
            Code::Unimplemented,
            "classification",
        ),
        (
            ModelInferRequest { inputs: vec![InferInputTensor::default(); 9_000], ..good() },
            Code::InvalidArgument,
            "8192",
        ),
        (row_message(None, &vec![1.0; 3 << 20]), Code::OutOfRange, "too large"),
    ];
    for (message, code, part) in cases {
        let status = client.infer(message).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
    let index = RepositoryIndexRequest { repository_name: String::new(), ready: false };
    let status = client.call::<_, RepositoryIndexResponse>("RepositoryIndex", index).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("admin port"), "{status}");
    let status = client.call::<_, ServerLiveResponse>("ModelStatistics", ServerLiveRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let mut odd = tonic::Request::new(good());
    odd.metadata_mut().insert("x-halny-deadline-ms", "soon".parse().unwrap());
    let status = client.call::<ModelInferRequest, ModelInferResponse>("ModelInfer", odd).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut impatient = tonic::Request::new(good());
    impatient.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
    let status = client.call::<ModelInferRequest, ModelInferResponse>("ModelInfer", impatient).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable | Code::Cancelled), "{status}");
    client.stop().await;
}

#[tokio::test]
async fn a_grpc_message_that_never_arrives_is_given_up() {
    let rig = doubling().await;
    let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let request = Request::post("/inference.GRPCInferenceService/ModelInfer")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let (_, headers, _) = send(&rig.clients, request).await;
    assert_eq!(headers["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
}
