//! Protobuf messages with a bound on their parts.
//!
//! An empty element of a repeated field takes two bytes on the wire and some three hundred in
//! memory, so that a message within the limit in bytes could still fill the machine. The parts
//! are counted on the wire before any is made.

use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

/// Fields at the top of a message: some times as many as a graph of a thousand inputs needs.
const PARTS_MAX: usize = 8_192;

/// Protobuf, refused where a message has too many parts.
#[derive(Debug)]
pub(crate) struct BoundedCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> BoundedCodec<T, U> {
        BoundedCodec(ProstCodec::default())
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = BoundedDecoder<<ProstCodec<T, U> as Codec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(self.0.decoder())
    }
}

/// Counts the parts of a message, then decodes it.
#[derive(Debug)]
pub(crate) struct BoundedDecoder<D>(D);

impl<D: Decoder<Error = Status>> Decoder for BoundedDecoder<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<D::Item>, Status> {
        // The whole message lies in one piece: it is collected before it is decoded.
        check(bytes::Buf::chunk(message))?;
        self.0.decode(message)
    }

    fn buffer_settings(&self) -> tonic::codec::BufferSettings {
        self.0.buffer_settings()
    }
}

fn check(mut wire: &[u8]) -> Result<(), Status> {
    let malformed = |_| Status::invalid_argument("the message is not the protobuf that is expected here");
    let mut parts = 0;
    while !wire.is_empty() {
        parts += 1;
        if parts > PARTS_MAX {
            let text = format!("the message has more than {PARTS_MAX} parts; send fewer tensors at once");
            return Err(Status::invalid_argument(text));
        }
        let (number, kind) = decode_key(&mut wire).map_err(malformed)?;
        skip_field(kind, number, &mut wire, DecodeContext::default()).map_err(malformed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::oip::proto::{ModelInferRequest, model_infer_request::InferInputTensor};
    use proptest::prelude::*;

    #[test]
    fn a_message_of_many_empty_parts_is_refused_before_it_is_built() {
        let of = |count| ModelInferRequest { inputs: vec![InferInputTensor::default(); count], ..Default::default() };
        assert!(check(&of(PARTS_MAX).encode_to_vec()).is_ok());
        let refusal = check(&of(PARTS_MAX + 1).encode_to_vec()).unwrap_err();
        assert!(refusal.message().contains("8192"), "{refusal}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted_or_refused(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&wire);
        }
    }
}
