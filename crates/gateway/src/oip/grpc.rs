//! The protocol over gRPC.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use halny_engine::{ElementType, Tensor};
use halny_residency::LoadedModel;
use halny_types::Tick;
use http::HeaderMap;
use http_body_util::BodyExt;
use tonic::{Request, Response, Status};
use tower::ServiceExt;

use super::codec::Undecoded;
use super::infer::{Ask, Output, Reply, Wanted};
use super::parameters::{self, check_tensor};
use super::ports::{Datatype, PortView, Ports, backend, check_version, platform};
use super::proto::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use super::proto::model_infer_request::InferInputTensor;
use super::proto::model_infer_response::InferOutputTensor;
use super::proto::model_metadata_response::TensorMetadata;
use super::proto::{
    DataType, ModelConfig, ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelInput,
    ModelMetadataRequest, ModelMetadataResponse, ModelOutput, ModelReadyRequest, ModelReadyResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use super::tensors::{Content, Given};
use super::{EXTENSIONS, SERVER_NAME, SERVER_VERSION};
use crate::admission::Arrived;
use crate::incoming::BodyRefused;
use crate::{ApiError, Shared};

/// The methods that metrics know by name.
const METHODS: [&str; 7] =
    ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig"];

/// The header by which gRPC clients say how long they wait.
const TIMEOUT_HEADER: &str = "grpc-timeout";

/// A message this large is decoded in the CPU pool. Raw contents are not copied; numbers in typed
/// ones are read at 200 MB/s at least, so that 64 KiB take some 300 microseconds.
const DECODE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// What clients reach over gRPC. Compressed messages are refused, as compressed bodies are.
pub fn grpc_routes(shared: &Shared) -> Router {
    let (service, limits) = (Arc::new(Service { shared: shared.clone() }), shared.limits.clone());
    let call = post(move |request: http::Request<Body>| {
        // The door bounds the whole body, frames counted: whatever passes it fits.
        let largest = limits.now().max_body_bytes;
        let server = GrpcInferenceServiceServer::from_arc(Arc::clone(&service)).max_decoding_message_size(largest);
        server.oneshot(request.map(|body| body.map_err(refused)))
    });
    let path = |method: &str| format!("/inference.GRPCInferenceService/{method}");
    // A route for each method, so that each has its own figures.
    METHODS
        .iter()
        .fold(Router::new(), |router, method| router.route(&path(method), call.clone()))
        .route(&path("{*rest}"), call)
}

/// What the door says of a body, as a status; anything else as it is.
fn refused(error: axum::Error) -> tonic::codegen::StdError {
    match BodyRefused::within(error) {
        Ok(refused @ BodyRefused::TooSlow { .. }) => Status::deadline_exceeded(refused.to_string()).into(),
        Ok(refused) => refused.to_error().to_status().into(),
        Err(error) => error,
    }
}

struct Service {
    shared: Shared,
}

impl Service {
    fn of_model<T>(
        &self,
        name: &str,
        version: &str,
        tell: impl FnOnce(&LoadedModel) -> T,
    ) -> Result<Response<T>, Status> {
        let told = self
            .shared
            .model(name)
            .and_then(|model| check_version(&model.name, &model.version, version).map(|()| tell(&model)));
        told.map(Response::new).map_err(|error| error.to_status())
    }

    async fn infer(
        &self,
        headers: &HeaderMap,
        arrived: Tick,
        message: Undecoded,
    ) -> Result<ModelInferResponse, Status> {
        let limit = headers.get(TIMEOUT_HEADER).and_then(|value| value.to_str().ok()).map(timeout).transpose()?;
        let small = message.len() <= DECODE_INLINE_BYTES_MAX;
        let decode = move || ask(message.decode()?).map_err(|error| error.to_status());
        let ask = self.shared.pool.run_unless(small, decode).await.map_err(ApiError::from)??;
        Ok(response(super::infer::infer(&self.shared, headers, arrived, limit, ask).await?))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.shared.residency.is_ready() }))
    }

    /// As Triton, says no rather than failing for a model that is not there.
    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready =
            self.shared.model(&name).is_ok_and(|model| check_version(&model.name, &model.version, &version).is_ok());
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER_NAME.to_owned(),
            version: SERVER_VERSION.to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        self.of_model(&name, &version, metadata)
    }

    async fn model_infer(&self, request: Request<Undecoded>) -> Result<Response<ModelInferResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let arrived = extensions.get::<Arrived>().map_or_else(Tick::now, |arrived| arrived.0);
        let answered = self.infer(&metadata.into_headers(), arrived, message).await;
        answered.map(Response::new)
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        self.of_model(&name, &version, |model| ModelConfigResponse { config: Some(config(model)) })
    }

    async fn repository_index(
        &self,
        _: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Err(operators_only("POST /v2/repository/index"))
    }

    async fn repository_model_load(
        &self,
        _: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        Err(operators_only("POST /v2/repository/models/{model}/load"))
    }

    async fn repository_model_unload(
        &self,
        _: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        Err(operators_only("POST /v2/repository/models/{model}/unload"))
    }
}

fn operators_only(place: &str) -> Status {
    Status::permission_denied(format!("the model repository is the operator's: {place} on the admin port, over HTTP"))
}

/// A `grpc-timeout`: up to 8 digits and a unit, as gRPC over HTTP/2 has it.
fn timeout(text: &str) -> Result<Duration, ApiError> {
    let refused =
        || ApiError::invalid(format!("the header {TIMEOUT_HEADER} is up to 8 digits and one of H, M, S, m, u, n"));
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let number = Some(digits).filter(|digits| digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(refused)?;
    Ok(match text.get(digits.len()..) {
        Some("H") => Duration::from_secs(number * 3_600),
        Some("M") => Duration::from_secs(number * 60),
        Some("S") => Duration::from_secs(number),
        Some("m") => Duration::from_millis(number),
        Some("u") => Duration::from_micros(number),
        Some("n") => Duration::from_nanos(number),
        _ => return Err(refused()),
    })
}

fn ask(message: ModelInferRequest) -> Result<Ask, ApiError> {
    let raw = message.raw_input_contents;
    if !raw.is_empty() && raw.len() != message.inputs.len() {
        let text = format!(
            "`raw_input_contents` has {} elements for {} inputs; send one for each",
            raw.len(),
            message.inputs.len()
        );
        return Err(ApiError::invalid(text));
    }
    let mut raw = raw.into_iter();
    let given = |input: InferInputTensor| {
        check_tensor(&parameters::from_messages(input.parameters))?;
        let given = |content| Given { name: input.name, datatype: input.datatype, shape: input.shape, content };
        match (input.contents, raw.next()) {
            (Some(_), Some(_)) => {
                Err(given(Content::Nothing).refused("it has both `contents` and `raw_input_contents`"))
            }
            (None, Some(bytes)) => Ok(given(Content::Raw(bytes))),
            (Some(contents), None) => Ok(given(Content::Typed(contents))),
            (None, None) => Ok(given(Content::Nothing)),
        }
    };
    let inputs = message.inputs.into_iter().map(given).collect::<Result<_, ApiError>>()?;
    let wanted = |output: super::proto::model_infer_request::InferRequestedOutputTensor| Wanted {
        name: output.name,
        binary: true,
        parameters: parameters::from_messages(output.parameters),
    };
    Ok(Ask {
        model: message.model_name,
        version: message.model_version,
        id: message.id,
        parameters: parameters::from_messages(message.parameters),
        inputs,
        outputs: message.outputs.into_iter().map(wanted).collect(),
        binary: true,
    })
}

/// A tensor whose bytes are copied once, into the message.
struct Owner(Tensor);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn response(reply: Reply) -> ModelInferResponse {
    let head = |output: &Output| InferOutputTensor {
        name: output.name.clone(),
        datatype: output.tensor.element().oip_name().to_owned(),
        shape: output.tensor.shape().iter().map(|length| i64::try_from(*length).unwrap_or(i64::MAX)).collect(),
        ..InferOutputTensor::default()
    };
    ModelInferResponse {
        model_name: reply.model,
        model_version: reply.version,
        id: reply.id,
        outputs: reply.outputs.iter().map(head).collect(),
        raw_output_contents: reply.outputs.into_iter().map(|output| Bytes::from_owner(Owner(output.tensor))).collect(),
        ..ModelInferResponse::default()
    }
}

fn metadata(model: &LoadedModel) -> ModelMetadataResponse {
    let ports = Ports::of_model(model);
    let one = |port: PortView| TensorMetadata {
        name: port.name,
        datatype: port.datatype.name().to_owned(),
        shape: port.shape,
    };
    ModelMetadataResponse {
        name: model.name.to_string(),
        versions: vec![model.version.to_string()],
        platform: platform(model),
        inputs: ports.inputs.into_iter().map(one).collect(),
        outputs: ports.outputs.into_iter().map(one).collect(),
    }
}

fn config(model: &LoadedModel) -> ModelConfig {
    let ports = Ports::of_model(model);
    let input =
        |port: PortView| ModelInput { name: port.name, data_type: code(port.datatype).into(), dims: port.shape };
    let output =
        |port: PortView| ModelOutput { name: port.name, data_type: code(port.datatype).into(), dims: port.shape };
    ModelConfig {
        name: model.name.to_string(),
        platform: platform(model),
        backend: backend(model).to_owned(),
        max_batch_size: 0,
        input: ports.inputs.into_iter().map(input).collect(),
        output: ports.outputs.into_iter().map(output).collect(),
    }
}

fn code(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Bytes => DataType::TypeString,
        Datatype::Number(element) => match element {
            ElementType::Bool => DataType::TypeBool,
            ElementType::U8 => DataType::TypeUint8,
            ElementType::U16 => DataType::TypeUint16,
            ElementType::U32 => DataType::TypeUint32,
            ElementType::U64 => DataType::TypeUint64,
            ElementType::I8 => DataType::TypeInt8,
            ElementType::I16 => DataType::TypeInt16,
            ElementType::I32 => DataType::TypeInt32,
            ElementType::I64 => DataType::TypeInt64,
            ElementType::F16 => DataType::TypeFp16,
            ElementType::Bf16 => DataType::TypeBf16,
            ElementType::F32 => DataType::TypeFp32,
            ElementType::F64 => DataType::TypeFp64,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_grpc_timeout_is_read_in_every_unit_and_nothing_else_is() {
        let read = |text: &str| timeout(text).unwrap();
        assert_eq!(read("2H"), Duration::from_secs(7_200));
        assert_eq!(read("3M"), Duration::from_secs(180));
        assert_eq!(read("4S"), Duration::from_secs(4));
        assert_eq!(read("99999999m"), Duration::from_millis(99_999_999));
        assert_eq!(read("6u"), Duration::from_micros(6));
        assert_eq!(read("7n"), Duration::from_nanos(7));
        for bad in ["", "5", "S", "100000000S", "-1S", "1s", "1mm", "1.5S", "é"] {
            assert!(timeout(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn contents_are_given_raw_for_each_input_or_for_none() {
        let input = |name: &str| InferInputTensor { name: name.to_owned(), ..InferInputTensor::default() };
        let message = ModelInferRequest {
            inputs: vec![input("a"), input("b")],
            raw_input_contents: vec![Bytes::from_static(&[1])],
            ..ModelInferRequest::default()
        };
        assert!(ask(message).unwrap_err().message().contains("1 elements for 2 inputs"));
        let both = InferInputTensor { contents: Some(Default::default()), ..input("a") };
        let message = ModelInferRequest {
            inputs: vec![both],
            raw_input_contents: vec![Bytes::new()],
            ..ModelInferRequest::default()
        };
        assert!(ask(message).unwrap_err().message().contains("both"));
    }
}
