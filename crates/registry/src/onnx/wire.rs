//! Protobuf's wire format, read field by field from a stream with every length checked.

use std::io::{self, BufReader, Read, Seek};

/// Why a file is refused: a reason in words. What the operating system says becomes one too.
pub(super) type Refusal = String;

/// A field's number and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Varint(u64),
    Fixed64,
    /// The payload is not read yet: it lies between here and `end`.
    Bytes {
        len: u64,
        end: u64,
    },
    Fixed32,
}

/// A cursor over a file that never goes past the end of the message it is in.
pub(super) struct Wire<R> {
    reader: BufReader<R>,
    at: u64,
    fields_left: u64,
}

impl<R: Read + Seek> Wire<R> {
    /// A cursor that refuses to read more than `max_fields` fields.
    pub(super) fn new(reader: R, max_fields: u64) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, reader), at: 0, fields_left: max_fields }
    }

    fn byte(&mut self, end: u64) -> Result<u8, Refusal> {
        if self.at >= end {
            return Err(format!("a field runs past the end of its message at byte {end}"));
        }
        let mut byte = [0];
        self.reader.read_exact(&mut byte).map_err(|error| broken(&error, self.at))?;
        self.at += 1;
        Ok(byte[0])
    }

    pub(super) fn varint(&mut self, end: u64) -> Result<u64, Refusal> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(end)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(format!("a number of more than 64 bits ends at byte {}", self.at))
    }

    /// The next field of the message that ends at `end`; `None` at its end.
    pub(super) fn field(&mut self, end: u64) -> Result<Option<Field>, Refusal> {
        if self.at == end {
            return Ok(None);
        }
        self.fields_left =
            self.fields_left.checked_sub(1).ok_or_else(|| "it has more fields than any model needs".to_owned())?;
        let key = self.varint(end)?;
        let (number, wire_type) = (key >> 3, key & 7);
        if number == 0 || number >= 1 << 29 {
            return Err(format!("field number {number} at byte {} cannot be", self.at));
        }
        let value = match wire_type {
            0 => Value::Varint(self.varint(end)?),
            1 => Value::Fixed64,
            2 => {
                let len = self.varint(end)?;
                let stop = self.at.checked_add(len).filter(|stop| *stop <= end);
                let stop = stop.ok_or_else(|| {
                    format!("{len} bytes are announced at byte {}, but its message ends at {end}", self.at)
                })?;
                Value::Bytes { len, end: stop }
            }
            5 => Value::Fixed32,
            other => return Err(format!("wire type {other} at byte {} cannot be", self.at)),
        };
        match value {
            Value::Fixed64 => self.skip(8, end)?,
            Value::Fixed32 => self.skip(4, end)?,
            Value::Varint(_) | Value::Bytes { .. } => {}
        }
        Ok(Some(Field { number, value }))
    }

    fn skip(&mut self, bytes: u64, end: u64) -> Result<(), Refusal> {
        let stop = self.at.checked_add(bytes).filter(|stop| *stop <= end);
        let stop = stop.ok_or_else(|| format!("a field runs past the end of its message at byte {end}"))?;
        self.skip_to(stop)
    }

    /// Moves forward to `position`, which `field` has found to lie inside the file.
    pub(super) fn skip_to(&mut self, position: u64) -> Result<(), Refusal> {
        let bytes = position
            .checked_sub(self.at)
            .and_then(|bytes| i64::try_from(bytes).ok())
            .ok_or_else(|| format!("byte {position} cannot be reached"))?;
        self.reader.seek_relative(bytes).map_err(|error| broken(&error, self.at))?;
        self.at = position;
        Ok(())
    }

    /// The payload up to `end`, if it is no longer than `limit_bytes`.
    pub(super) fn bytes(&mut self, end: u64, limit_bytes: u64) -> Result<Vec<u8>, Refusal> {
        let len = end.saturating_sub(self.at);
        if len > limit_bytes {
            return Err(format!("a text of {len} bytes is longer than the limit of {limit_bytes}"));
        }
        let mut bytes = Vec::new();
        (&mut self.reader).take(len).read_to_end(&mut bytes).map_err(|e| broken(&e, self.at))?;
        if bytes.len() as u64 != len {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into(), self.at));
        }
        self.at = end;
        Ok(bytes)
    }

    /// How many varints are packed between here and `end`.
    pub(super) fn count_varints(&mut self, end: u64) -> Result<u64, Refusal> {
        let mut count = 0;
        while self.at < end {
            self.varint(end)?;
            count += 1;
        }
        Ok(count)
    }

    /// Whether the cursor stands at `end`.
    pub(super) fn is_at(&self, end: u64) -> bool {
        self.at == end
    }
}

fn broken(error: &io::Error, at: u64) -> Refusal {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("it ends at byte {at}, inside a field"),
        _ => format!("it cannot be read at byte {at}: {error}"),
    }
}
