//! Protobuf messages with a bound on their parts.
//!
//! An empty element of a repeated field takes two bytes on the wire and some three hundred in
//! memory, so that a message within the limit in bytes could still fill the machine. The parts
//! are counted on the wire before any is made.
//!
//! The request that carries tensors may take milliseconds to decode: it leaves the network's
//! thread [undecoded](Undecoded).

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

use super::proto::ModelInferRequest;
use crate::bounded::ELEMENTS_MAX;

/// Fields of a message, nested ones counted: some times as many as a graph of a thousand inputs
/// needs.
const PARTS_MAX: usize = 8_192;

/// Bytes of a message without tensors: a name or two, and as much again as anyone could need.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Bytes of typed elements that are numbers of variable length: a byte of them may become eight.
const VARINT_BYTES_MAX: usize = 4 << 20;

/// Bytes of a tensor's shape: some times as many as any graph has dimensions.
const SHAPE_BYTES_MAX: usize = 1_024;

/// A [`ModelInferRequest`] as it came.
#[derive(Clone, Debug, Default)]
pub struct Undecoded(pub(super) Bytes);

/// What can be made of a message on the wire.
pub(crate) trait FromWire: Sized {
    /// The message.
    ///
    /// # Errors
    /// When it is malformed, or has too many parts.
    fn from_wire(wire: Bytes) -> Result<Self, Status>;
}

impl<T: Message + Default> FromWire for T {
    fn from_wire(wire: Bytes) -> Result<T, Status> {
        if wire.len() > SMALL_BYTES_MAX {
            let text = format!("the message takes {} bytes, one of its kind may take {SMALL_BYTES_MAX}", wire.len());
            return Err(Status::out_of_range(text));
        }
        let mut parts = Parts::default();
        parts.count(&wire, &|_| Part::Plain)?;
        T::decode(wire).map_err(malformed)
    }
}

impl FromWire for Undecoded {
    fn from_wire(wire: Bytes) -> Result<Undecoded, Status> {
        Ok(Undecoded(wire))
    }
}

impl Undecoded {
    /// Bytes on the wire.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The request.
    ///
    /// # Errors
    /// When it is malformed, or has too many parts.
    pub(super) fn decode(self) -> Result<ModelInferRequest, Status> {
        let mut parts = Parts::default();
        parts.count(&self.0, &|number| match number {
            4 => Part::Message(&|_| Part::Plain),
            5 => Part::Message(&|number| match number {
                3 => Part::Shape,
                4 => Part::Message(&|_| Part::Plain),
                5 => Part::Contents,
                _ => Part::Plain,
            }),
            6 => Part::Message(&|number| if number == 2 { Part::Message(&|_| Part::Plain) } else { Part::Plain }),
            _ => Part::Plain,
        })?;
        ModelInferRequest::decode(self.0).map_err(malformed)
    }
}

fn malformed(_: prost::DecodeError) -> Status {
    Status::invalid_argument("the message is not the protobuf that is expected here")
}

/// What a field is to who counts.
enum Part<'a> {
    /// One thing, however long.
    Plain,
    /// A message of these fields.
    Message(&'a dyn Fn(u32) -> Part<'a>),
    /// Dimensions, packed.
    Shape,
    /// Elements, packed or not.
    Contents,
}

#[derive(Default)]
struct Parts {
    parts: usize,
    elements: usize,
    varint_bytes: usize,
}

impl Parts {
    fn count<'a>(&mut self, mut wire: &[u8], of: &dyn Fn(u32) -> Part<'a>) -> Result<(), Status> {
        while !wire.is_empty() {
            self.parts += 1;
            if self.parts > PARTS_MAX {
                let text = format!("the message has more than {PARTS_MAX} parts; send fewer tensors at once");
                return Err(Status::invalid_argument(text));
            }
            let (number, kind) = decode_key(&mut wire).map_err(malformed)?;
            match (kind, of(number)) {
                (WireType::LengthDelimited, Part::Message(of)) => self.count(delimited(&mut wire)?, of)?,
                (WireType::LengthDelimited, Part::Contents) => self.count_elements(delimited(&mut wire)?)?,
                (WireType::LengthDelimited, Part::Shape) => {
                    let bytes = delimited(&mut wire)?.len();
                    if bytes > SHAPE_BYTES_MAX {
                        let text = format!("a shape takes {bytes} bytes, it may take {SHAPE_BYTES_MAX}");
                        return Err(Status::invalid_argument(text));
                    }
                }
                _ => skip_field(kind, number, &mut wire, DecodeContext::default()).map_err(malformed)?,
            }
        }
        Ok(())
    }

    fn count_elements(&mut self, mut wire: &[u8]) -> Result<(), Status> {
        while !wire.is_empty() {
            self.elements += 1;
            if self.elements > ELEMENTS_MAX {
                let text = format!(
                    "`contents` has more than {ELEMENTS_MAX} elements that are not packed; send them in \
                     `raw_input_contents`, or in several requests"
                );
                return Err(Status::invalid_argument(text));
            }
            let (number, kind) = decode_key(&mut wire).map_err(malformed)?;
            if kind != WireType::LengthDelimited || number > LAST_VARINT_FIELD {
                skip_field(kind, number, &mut wire, DecodeContext::default()).map_err(malformed)?;
                continue;
            }
            self.varint_bytes += delimited(&mut wire)?.len();
            if self.varint_bytes > VARINT_BYTES_MAX {
                let text = format!(
                    "the whole numbers in `contents` take more than {VARINT_BYTES_MAX} bytes; send them in \
                     `raw_input_contents`"
                );
                return Err(Status::invalid_argument(text));
            }
        }
        Ok(())
    }
}

/// `bool_contents` to `uint64_contents`; behind them come fields of fixed width, and texts.
const LAST_VARINT_FIELD: u32 = 5;

/// A field's bytes, which `wire` then stands behind.
fn delimited<'a>(wire: &mut &'a [u8]) -> Result<&'a [u8], Status> {
    let length = usize::try_from(decode_varint(wire).map_err(malformed)?).unwrap_or(usize::MAX);
    let (field, rest) =
        wire.split_at_checked(length).ok_or_else(|| Status::invalid_argument("the message breaks off"))?;
    *wire = rest;
    Ok(field)
}

/// Protobuf, refused where a message has too many parts.
#[derive(Debug)]
pub(crate) struct BoundedCodec<T, U>(ProstCodec<T, ()>, PhantomData<U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> BoundedCodec<T, U> {
        BoundedCodec(ProstCodec::default(), PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: FromWire + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, ()> as Codec>::Encoder;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Counts the parts of a message, then decodes it.
#[derive(Debug)]
pub(crate) struct BoundedDecoder<U>(PhantomData<U>);

impl<U: FromWire> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The whole message lies in one piece, and is not copied.
        U::from_wire(message.copy_to_bytes(message.remaining())).map(Some)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::oip::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
    use crate::oip::proto::{InferParameter, InferTensorContents, RepositoryIndexRequest};
    use proptest::prelude::*;

    fn undecoded(message: &ModelInferRequest) -> Undecoded {
        Undecoded(message.encode_to_vec().into())
    }

    fn refusal(input: InferInputTensor) -> String {
        let message = ModelInferRequest { inputs: vec![input], ..Default::default() };
        undecoded(&message).decode().unwrap_err().message().to_owned()
    }

    #[test]
    fn a_message_of_many_empty_parts_is_refused_before_it_is_built() {
        let of = |count| ModelInferRequest { inputs: vec![InferInputTensor::default(); count], ..Default::default() };
        assert!(undecoded(&of(PARTS_MAX)).decode().is_ok());
        let refusal = undecoded(&of(PARTS_MAX + 1)).decode().unwrap_err();
        assert!(refusal.message().contains("8192"), "{refusal}");
        let wire = Bytes::from(of(PARTS_MAX + 1).encode_to_vec());
        assert!(RepositoryIndexRequest::from_wire(wire).is_err(), "whatever message it is sent as");
        let long = RepositoryIndexRequest { repository_name: "x".repeat(SMALL_BYTES_MAX), ready: false };
        let refusal = RepositoryIndexRequest::from_wire(long.encode_to_vec().into()).unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::OutOfRange);
    }

    #[test]
    fn parts_within_an_input_are_counted_too() {
        let parameters = (0..PARTS_MAX).map(|i| (i.to_string(), InferParameter::default())).collect();
        assert!(refusal(InferInputTensor { parameters, ..Default::default() }).contains("8192"));
        assert!(refusal(InferInputTensor { shape: vec![1; 2_000], ..Default::default() }).contains("a shape"));
        let bytes_contents = vec![Bytes::new(); ELEMENTS_MAX + 1];
        let contents = Some(InferTensorContents { bytes_contents, ..Default::default() });
        assert!(refusal(InferInputTensor { contents, ..Default::default() }).contains("100000 elements"));
        let int64_contents = vec![1; VARINT_BYTES_MAX + 1];
        let contents = Some(InferTensorContents { int64_contents, ..Default::default() });
        assert!(refusal(InferInputTensor { contents, ..Default::default() }).contains("raw_input_contents"));
    }

    #[test]
    fn names_are_not_taken_for_messages() {
        let parameters =
            [("ä".to_owned(), InferParameter::default())].into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let output = InferRequestedOutputTensor { name: "y ß".to_owned(), parameters: parameters.clone() };
        let input = InferInputTensor { name: "x ü".to_owned(), parameters: parameters.clone(), ..Default::default() };
        let message =
            ModelInferRequest { inputs: vec![input], outputs: vec![output], parameters, ..Default::default() };
        assert_eq!(undecoded(&message).decode().unwrap(), message);
    }

    #[test]
    fn packed_elements_are_one_part_however_many() {
        let contents = InferTensorContents { fp32_contents: vec![1.5; 300_000], ..Default::default() };
        let input = InferInputTensor { contents: Some(contents), ..Default::default() };
        let message = ModelInferRequest { inputs: vec![input], ..Default::default() };
        assert_eq!(undecoded(&message).decode().unwrap(), message);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let decoded = Undecoded(wire.clone().into()).decode();
            if let Ok(message) = ModelInferRequest::decode(&wire[..]) {
                prop_assert_eq!(decoded.unwrap(), message);
            } else {
                prop_assert!(decoded.is_err());
            }
        }
    }
}
