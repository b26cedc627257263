//! How does a value become msgpack?
use std::borrow::Cow;

use rmp::encode as write;
use serde::ser::{self, Serialize};

use super::super::frame::Encoding;
use super::aside::{ASIDE, SPILL_BYTES, Spill};
use super::de::printed;
use super::refusal::{Error, Step};
use super::{MAX_DEPTH, SOME_OF_NIL};

/// Appends to a `Vec`, which cannot fail: only values and lengths can.
pub(super) struct Serializer<'o> {
    out: &'o mut Vec<u8>,
    /// Where large byte strings go.
    spill: Option<&'o mut (dyn Spill + 'o)>,
    named: bool,
    skipped: bool,
    depth: u16,
}

impl<'o> Serializer<'o> {
    #[inline]
    pub(super) fn new(out: &'o mut Vec<u8>, encoding: Encoding, spill: Option<&'o mut (dyn Spill + '_)>) -> Self {
        let spill = spill.map(|spill| spill as &mut (dyn Spill + 'o)); // which lives longer, as far as anybody knows
        Serializer { out, spill, named: encoding == Encoding::Named, skipped: false, depth: MAX_DEPTH }
    }

    /// Whether a field was skipped where only positions would have told it from the others.
    #[inline]
    pub(super) fn has_skipped(&self) -> bool {
        self.skipped
    }

    pub(super) fn into_parts(self) -> (&'o mut Vec<u8>, Option<&'o mut (dyn Spill + 'o)>) {
        (self.out, self.spill)
    }

    #[inline]
    fn deeper(&mut self) -> Result<(), Error> {
        match self.depth.checked_sub(1) {
            Some(depth) => {
                self.depth = depth;
                Ok(())
            }
            None => Err(too_deep()),
        }
    }

    #[inline]
    fn array(&mut self, len: usize) -> Result<(), Error> {
        self.deeper()?;
        match len {
            0..=15 => self.out.push(0x90 | len as u8),
            _ => _ = write::write_array_len(self.out, length(len)?).expect(VEC),
        }
        Ok(())
    }

    #[inline]
    fn map(&mut self, len: usize) -> Result<(), Error> {
        self.deeper()?;
        match len {
            0..=15 => self.out.push(0x80 | len as u8),
            _ => _ = write::write_map_len(self.out, length(len)?).expect(VEC),
        }
        Ok(())
    }

    /// Begins `{variant: …}`.
    fn variant(&mut self, variant: &'static str) -> Result<(), Error> {
        self.map(1)?;
        ser::Serializer::serialize_str(self, variant)
    }

    #[inline]
    fn fields(&mut self, len: usize) -> Result<(), Error> {
        if self.named { self.map(len) } else { self.array(len) }
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        if self.named {
            ser::Serializer::serialize_str(&mut *self, key)?;
        }
        value.serialize(self)
    }

    /// Ends the first reading of a positional value: it is written again, with names.
    #[cold]
    fn skip(&mut self) -> Result<(), Error> {
        if self.named {
            return Ok(());
        }
        self.skipped = true;
        Err(Error::new("a field was skipped"))
    }

    /// Leaves a mark for bytes that went elsewhere, if they did.
    #[cold]
    fn spill(&mut self, bytes: &[u8]) -> bool {
        let Some(number) = self.spill.as_mut().and_then(|spill| spill.take(bytes)) else { return false };
        let [a, b, c, d] = number.to_be_bytes();
        self.out.extend_from_slice(&[0xd6, ASIDE as u8, a, b, c, d]);
        true
    }

    /// A sequence or map whose length is known at its end only.
    fn uncounted(&mut self, marker: u8) -> Result<usize, Error> {
        self.deeper()?;
        let at = self.out.len();
        self.out.extend_from_slice(&[marker, 0, 0, 0, 0]);
        Ok(at)
    }
}

const VEC: &str = "writing to a Vec does not fail";

#[cold]
fn too_deep() -> Error {
    Error::new(format!("it nests deeper than {MAX_DEPTH} levels"))
}

fn length(len: usize) -> Result<u32, Error> {
    u32::try_from(len).map_err(|_| Error::new(format!("msgpack has no room for a length of {len}")))
}

/// A sequence, map, tuple or struct that is being written.
pub(super) struct Compound<'s, 'o> {
    serializer: &'s mut Serializer<'o>,
    /// The variant whose content it is.
    variant: Option<&'static str>,
    /// Where its length goes that nobody knew beforehand.
    length_at: Option<usize>,
    /// Where the last key stands.
    key_at: usize,
    /// Elements or pairs so far.
    count: usize,
}

impl<'s, 'o> Compound<'s, 'o> {
    #[inline]
    fn new(serializer: &'s mut Serializer<'o>) -> Self {
        Compound { serializer, variant: None, length_at: None, key_at: 0, count: 0 }
    }

    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.count += 1;
        match value.serialize(&mut *self.serializer) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.inside(error, Step::Element(self.count - 1))),
        }
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        match self.serializer.field(key, value) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.inside(error, Step::Field(Cow::Borrowed(key)))),
        }
    }

    #[cold]
    fn inside(&self, error: Error, step: Step) -> Error {
        let error = error.inside(step);
        match self.variant {
            Some(name) => error.inside(Step::Field(Cow::Borrowed(name))),
            None => error,
        }
    }

    #[inline]
    fn close(self) -> Result<(), Error> {
        self.serializer.depth += 1 + u16::from(self.variant.is_some());
        if let Some(at) = self.length_at {
            let count = length(self.count)?;
            self.serializer.out[at + 1..at + 5].copy_from_slice(&count.to_be_bytes());
        }
        Ok(())
    }
}

impl<'s, 'o> ser::Serializer for &'s mut Serializer<'o> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Compound<'s, 'o>;
    type SerializeTuple = Compound<'s, 'o>;
    type SerializeTupleStruct = Compound<'s, 'o>;
    type SerializeTupleVariant = Compound<'s, 'o>;
    type SerializeMap = Compound<'s, 'o>;
    type SerializeStruct = Compound<'s, 'o>;
    type SerializeStructVariant = Compound<'s, 'o>;

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.out.push(if value { 0xc3 } else { 0xc2 });
        Ok(())
    }

    #[inline]
    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        match value {
            -32..=127 => self.out.push(value as u8),
            _ => _ = write::write_sint(self.out, value).expect(VEC),
        }
        Ok(())
    }

    #[inline]
    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    #[inline]
    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    #[inline]
    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<(), Error> {
        match value {
            0..=127 => self.out.push(value as u8),
            0x1_0000_0000.. => {
                let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
                self.out.extend_from_slice(&[0xcf, a, b, c, d, e, f, g, h]);
            }
            _ => _ = write::write_uint(self.out, value).expect(VEC),
        }
        Ok(())
    }

    fn serialize_i128(self, value: i128) -> Result<(), Error> {
        self.serialize_bytes(&value.to_be_bytes())
    }

    fn serialize_u128(self, value: u128) -> Result<(), Error> {
        self.serialize_bytes(&value.to_be_bytes())
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        write::write_f32(self.out, value).expect(VEC);
        Ok(())
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        write::write_f64(self.out, value).expect(VEC);
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Error> {
        match value.len() {
            len @ 0..=31 => self.out.push(0xa0 | len as u8),
            len => _ = write::write_str_len(self.out, length(len)?).expect(VEC),
        }
        self.out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        if value.len() >= SPILL_BYTES && self.spill(value) {
            return Ok(());
        }
        write::write_bin_len(self.out, length(value.len())?).expect(VEC);
        self.out.extend_from_slice(value);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        let start = self.out.len();
        value.serialize(&mut *self)?;
        match self.out[start..] {
            [0xc0] => {
                self.out.pop();
                self.out.extend_from_slice(&[0xd4, SOME_OF_NIL as u8, 1]);
            }
            [0xd4, kind, count] if kind == SOME_OF_NIL as u8 => {
                self.out[start + 2] = count.checked_add(1).ok_or_else(too_deep)?;
            }
            _ => {}
        }
        Ok(())
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Error> {
        self.out.push(0xc0);
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        self.out.push(0x90);
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(variant)?;
        if let Err(error) = value.serialize(&mut *self) {
            return Err(error.inside(Step::Field(Cow::Borrowed(variant))));
        }
        self.depth += 1;
        Ok(())
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Compound<'s, 'o>, Error> {
        let length_at = match len {
            Some(len) => self.array(len).map(|()| None)?,
            None => Some(self.uncounted(0xdd)?),
        };
        Ok(Compound { length_at, ..Compound::new(self) })
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Compound<'s, 'o>, Error> {
        self.array(len)?;
        Ok(Compound::new(self))
    }

    #[inline]
    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<Compound<'s, 'o>, Error> {
        self.array(len)?;
        Ok(Compound::new(self))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Compound<'s, 'o>, Error> {
        self.variant(variant)?;
        self.array(len)?;
        Ok(Compound { variant: Some(variant), ..Compound::new(self) })
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Compound<'s, 'o>, Error> {
        let length_at = match len {
            Some(len) => self.map(len).map(|()| None)?,
            None => Some(self.uncounted(0xdf)?),
        };
        Ok(Compound { length_at, ..Compound::new(self) })
    }

    #[inline]
    fn serialize_struct(self, _name: &'static str, len: usize) -> Result<Compound<'s, 'o>, Error> {
        self.fields(len)?;
        Ok(Compound::new(self))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Compound<'s, 'o>, Error> {
        self.variant(variant)?;
        self.fields(len)?;
        Ok(Compound { variant: Some(variant), ..Compound::new(self) })
    }
}

/// What is told apart by its order.
macro_rules! elements {
    ($($of:ident $method:ident;)*) => {$(
        impl ser::$of for Compound<'_, '_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.element(value)
            }

            #[inline]
            fn end(self) -> Result<(), Error> {
                self.close()
            }
        }
    )*};
}

elements! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

/// What has fields.
macro_rules! fields {
    ($($of:ident)*) => {$(
        impl ser::$of for Compound<'_, '_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
                self.field(key, value)
            }

            fn skip_field(&mut self, _key: &'static str) -> Result<(), Error> {
                self.serializer.skip()
            }

            #[inline]
            fn end(self) -> Result<(), Error> {
                self.close()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Compound<'_, '_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.count += 1;
        self.key_at = self.serializer.out.len();
        key.serialize(&mut *self.serializer)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        match value.serialize(&mut *self.serializer) {
            Ok(()) => Ok(()),
            Err(error) => {
                let key = printed(&self.serializer.out[self.key_at..], &[]);
                Err(self.inside(error, Step::Field(key)))
            }
        }
    }

    #[inline]
    fn end(self) -> Result<(), Error> {
        self.close()
    }
}
