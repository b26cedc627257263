//! What value do msgpack's bytes say?
use std::fmt::Display;

use serde::de::value::SeqDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::{MAX_DEPTH, SOME_OF_NIL};

/// Why bytes were refused.
#[derive(Debug)]
pub(super) struct Error(Box<str>);

impl Error {
    pub(super) fn into_message(self) -> String {
        self.0.into()
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    #[cold]
    fn custom<T: Display>(message: T) -> Self {
        Error(message.to_string().into())
    }
}

/// Reads from a slice, forwards only.
///
/// With `NAMES`, a struct that came by position is shown to its visitor as if its fields' names had come
/// too: for whoever wants to know where a reading fails.
pub(super) struct Deserializer<'de, const NAMES: bool> {
    bytes: &'de [u8],
    depth: u16,
}

impl<'de, const NAMES: bool> Deserializer<'de, NAMES> {
    #[inline]
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Deserializer { bytes, depth: MAX_DEPTH }
    }

    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that were not read.
    pub(super) fn left(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn peek(&self) -> Result<u8, Error> {
        self.bytes.first().copied().ok_or_else(cut)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Error> {
        let (&first, rest) = self.bytes.split_first().ok_or_else(cut)?;
        self.bytes = rest;
        Ok(first)
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (chunk, rest) = self.bytes.split_first_chunk().ok_or_else(cut)?;
        self.bytes = rest;
        Ok(*chunk)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'de [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or_else(cut)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A length behind its marker: of one, two or four bytes.
    #[inline]
    fn len8(&mut self) -> Result<usize, Error> {
        self.byte().map(usize::from)
    }

    #[inline]
    fn len16(&mut self) -> Result<usize, Error> {
        self.chunk().map(|chunk| u16::from_be_bytes(chunk).into())
    }

    #[inline]
    fn len32(&mut self) -> Result<usize, Error> {
        self.chunk().map(|chunk| u32::from_be_bytes(chunk) as usize)
    }

    #[inline]
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        // An error ends the whole reading, so nothing needs the depth after one.
        let value = read(self)?;
        self.depth += 1;
        Ok(value)
    }

    #[inline]
    fn str<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => visitor.visit_borrowed_str(text),
            Err(error) => Err(de::Error::custom(error)),
        }
    }

    #[inline]
    fn bin<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.take(len)?)
    }

    #[inline]
    fn seq<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.enough(len)?;
        self.deeper(|this| {
            let mut elements = Elements { deserializer: this, left: len };
            let value = visitor.visit_seq(&mut elements)?;
            match elements.left {
                0 => Ok(value),
                left => Err(surplus(len, left)),
            }
        })
    }

    #[inline]
    fn map<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.enough(len.saturating_mul(2))?;
        self.deeper(|this| {
            let mut elements = Elements { deserializer: this, left: len };
            let value = visitor.visit_map(&mut elements)?;
            match elements.left {
                0 => Ok(value),
                left => Err(surplus(len, left)),
            }
        })
    }

    /// Every value takes a byte at least: a length that announces more is a lie.
    #[inline]
    fn enough(&self, values: usize) -> Result<(), Error> {
        if values > self.bytes.len() { Err(cut()) } else { Ok(()) }
    }

    /// What both `deserialize_any` and every typed reading come down to.
    fn any<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.byte()? {
            small @ 0..=0x7f => visitor.visit_u8(small),
            negative @ 0xe0..=0xff => visitor.visit_i8(negative as i8),
            marker @ 0x80..=0x8f => self.map(usize::from(marker & 0x0f), visitor),
            marker @ 0x90..=0x9f => self.seq(usize::from(marker & 0x0f), visitor),
            marker @ 0xa0..=0xbf => self.str(usize::from(marker & 0x1f), visitor),
            0xc0 => visitor.visit_unit(),
            0xc2 => visitor.visit_bool(false),
            0xc3 => visitor.visit_bool(true),
            0xc4 => self.len8().and_then(|len| self.bin(len, visitor)),
            0xc5 => self.len16().and_then(|len| self.bin(len, visitor)),
            0xc6 => self.len32().and_then(|len| self.bin(len, visitor)),
            0xca => visitor.visit_f32(f32::from_be_bytes(self.chunk()?)),
            0xcb => visitor.visit_f64(f64::from_be_bytes(self.chunk()?)),
            0xcc => visitor.visit_u8(self.byte()?),
            0xcd => visitor.visit_u16(u16::from_be_bytes(self.chunk()?)),
            0xce => visitor.visit_u32(u32::from_be_bytes(self.chunk()?)),
            0xcf => visitor.visit_u64(u64::from_be_bytes(self.chunk()?)),
            0xd0 => visitor.visit_i8(i8::from_be_bytes(self.chunk()?)),
            0xd1 => visitor.visit_i16(i16::from_be_bytes(self.chunk()?)),
            0xd2 => visitor.visit_i32(i32::from_be_bytes(self.chunk()?)),
            0xd3 => visitor.visit_i64(i64::from_be_bytes(self.chunk()?)),
            0xd4 => self.some_of_nil(visitor),
            0xd9 => self.len8().and_then(|len| self.str(len, visitor)),
            0xda => self.len16().and_then(|len| self.str(len, visitor)),
            0xdb => self.len32().and_then(|len| self.str(len, visitor)),
            0xdc => self.len16().and_then(|len| self.seq(len, visitor)),
            0xdd => self.len32().and_then(|len| self.seq(len, visitor)),
            0xde => self.len16().and_then(|len| self.map(len, visitor)),
            0xdf => self.len32().and_then(|len| self.map(len, visitor)),
            marker @ (0xc1 | 0xc7..=0xc9 | 0xd5..=0xd8) => Err(unknown_marker(marker)),
        }
    }

    /// Behind a fixext1 marker.
    #[cold]
    fn some_of_nil<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let [kind, somes] = self.chunk()?;
        if kind != SOME_OF_NIL as u8 {
            return Err(unknown_marker(0xd4));
        }
        // What is inside is read from bytes that say so.
        let inside: &'static [u8] = match somes {
            0 => return Err(Error("an optional value with nothing around its nil".into())),
            1 => &[0xc0],
            more => &SOMES[usize::from(more - 1)],
        };
        let depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        visitor.visit_some(&mut Deserializer::<NAMES> { bytes: inside, depth })
    }

    /// A sequence, for a visitor that wants one: bytes are a sequence of numbers to it.
    #[inline]
    fn elements<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            0xc4..=0xc6 => self.any(Bytewise(visitor)),
            _ => self.any(visitor),
        }
    }

    #[inline]
    fn fields<V: Visitor<'de>>(&mut self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            marker @ 0x90..=0x9f if usize::from(marker & 0x0f) == fields.len() => {
                self.byte()?;
                if NAMES { self.named(fields, visitor) } else { self.seq(fields.len(), visitor) }
            }
            0x90..=0x9f | 0xdc | 0xdd => self.positions(fields, visitor),
            _ => self.elements(visitor),
        }
    }

    /// A struct by position whose length is unusual, or wrong.
    #[cold]
    fn positions<V: Visitor<'de>>(&mut self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        let len = match self.byte()? {
            0xdc => self.len16()?,
            0xdd => self.len32()?,
            marker => usize::from(marker & 0x0f),
        };
        let expected: &dyn de::Expected = &visitor;
        let expected = expected.to_string();
        if len == 1 && fields.len() == 2 && expected.starts_with("adjacently tagged enum ") {
            // A variant without content is written as the tag alone, which serde reads from a map only.
            return self.deeper(|this| visitor.visit_map(Fields { deserializer: this, names: fields[..1].iter() }));
        }
        if len != fields.len() && expected.starts_with("struct ") {
            // Read by position, a field that only one side skips would shift the others in silence.
            return Err(Error(
                format!(
                    "{len} fields came by position for the {} of {expected}: if one has `skip_serializing` or \
                     `skip_deserializing` alone, it needs both, which is `skip`, or `skip_serializing_if`",
                    fields.len()
                )
                .into(),
            ));
        }
        if NAMES && len == fields.len() {
            return self.named(fields, visitor);
        }
        // Any other visitor knows what it does.
        self.seq(len, visitor)
    }

    /// The values of these fields, as a map.
    fn named<V: Visitor<'de>>(&mut self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.enough(fields.len())?;
        self.deeper(|this| visitor.visit_map(Fields { deserializer: this, names: fields.iter() }))
    }
}

/// `Some`s around a nil, by their number.
static SOMES: [[u8; 3]; 256] = {
    let mut somes = [[0xd4, SOME_OF_NIL as u8, 0]; 256];
    let mut count = 0;
    while count < somes.len() {
        somes[count][2] = count as u8;
        count += 1;
    }
    somes
};

#[cold]
fn cut() -> Error {
    Error("it ends too early".into())
}

#[cold]
fn too_deep() -> Error {
    Error(format!("it nests deeper than {MAX_DEPTH} levels").into())
}

#[cold]
fn surplus(len: usize, left: usize) -> Error {
    Error(format!("{len} elements came where {} were expected", len - left).into())
}

#[cold]
fn unknown_marker(marker: u8) -> Error {
    Error(format!("no value begins with the msgpack marker {marker:#04x}").into())
}

/// Hands bytes on as a sequence.
struct Bytewise<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Bytewise<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<V::Value, E> {
        let mut elements = SeqDeserializer::new(bytes.iter().copied());
        let value = self.0.visit_seq(&mut elements)?;
        elements.end()?;
        Ok(value)
    }
}

/// Numbers are mostly one byte: that case is short enough to stand where the value is read.
macro_rules! numbers {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.bytes.split_first() {
                Some((&small @ 0..=0x7f, rest)) => {
                    self.bytes = rest;
                    visitor.visit_u8(small)
                }
                _ => self.any(visitor),
            }
        }
    )*};
}

impl<'de, const NAMES: bool> de::Deserializer<'de> for &mut Deserializer<'de, NAMES> {
    type Error = Error;

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.any(visitor)
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit map identifier ignored_any
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.bytes {
            [0xc4, 16, ..] => {
                self.take(2)?;
                visitor.visit_i128(i128::from_be_bytes(self.chunk()?))
            }
            _ => self.any(visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.bytes {
            [0xc4, 16, ..] => {
                self.take(2)?;
                visitor.visit_u128(u128::from_be_bytes(self.chunk()?))
            }
            _ => self.any(visitor),
        }
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            0xc0 => {
                self.byte()?;
                visitor.visit_none()
            }
            0xd4 => self.any(visitor),
            // Counted, though it takes no byte: `struct L(Option<Box<L>>)` would go on for ever.
            _ => self.deeper(|this| visitor.visit_some(this)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            0x90 => {
                self.byte()?;
                visitor.visit_unit()
            }
            _ => self.any(visitor),
        }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.elements(visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        self.elements(visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.elements(visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.fields(fields, visitor)
    }

    /// A variant is `name`, or `{name: content}`; a number stands for a name, too.
    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.peek()? {
            0x81 => {
                self.byte()?;
                self.deeper(|this| visitor.visit_enum(Variant { deserializer: this, content: true }))
            }
            0xa0..=0xbf | 0xd9..=0xdb | 0..=0x7f | 0xcc..=0xcf => {
                visitor.visit_enum(Variant { deserializer: self, content: false })
            }
            // The visitor says what it would have liked.
            _ => self.any(visitor),
        }
    }
}

/// The elements of a sequence, or the pairs of a map.
struct Elements<'d, 'de, const NAMES: bool> {
    deserializer: &'d mut Deserializer<'de, NAMES>,
    left: usize,
}

impl<'de, const NAMES: bool> de::SeqAccess<'de> for Elements<'_, 'de, NAMES> {
    type Error = Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.deserializer).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        // `enough` has bounded it by the bytes that are here.
        Some(self.left)
    }
}

impl<'de, const NAMES: bool> de::MapAccess<'de> for Elements<'_, 'de, NAMES> {
    type Error = Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.deserializer).map(Some)
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(&mut *self.deserializer)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// A map whose keys did not travel.
struct Fields<'d, 'de, const NAMES: bool> {
    deserializer: &'d mut Deserializer<'de, NAMES>,
    names: std::slice::Iter<'static, &'static str>,
}

impl<'de, const NAMES: bool> de::MapAccess<'de> for Fields<'_, 'de, NAMES> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.names.next().map(|name| seed.deserialize((*name).into_deserializer())).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(&mut *self.deserializer)
    }
}

/// An enum's variant: its name comes next, and then, if there is any, its content.
struct Variant<'d, 'de, const NAMES: bool> {
    deserializer: &'d mut Deserializer<'de, NAMES>,
    content: bool,
}

impl<'d, 'de, const NAMES: bool> Variant<'d, 'de, NAMES> {
    #[inline]
    fn content(self) -> Result<&'d mut Deserializer<'de, NAMES>, Error> {
        if self.content { Ok(self.deserializer) } else { Err(Error("the variant came without its content".into())) }
    }
}

impl<'de, const NAMES: bool> de::EnumAccess<'de> for Variant<'_, 'de, NAMES> {
    type Error = Error;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let variant = seed.deserialize(&mut *self.deserializer)?;
        Ok((variant, self))
    }
}

impl<'de, const NAMES: bool> de::VariantAccess<'de> for Variant<'_, 'de, NAMES> {
    type Error = Error;

    #[inline]
    fn unit_variant(self) -> Result<(), Error> {
        if !self.content {
            return Ok(());
        }
        match self.deserializer.byte()? {
            0xc0 | 0x90 => Ok(()),
            _ => Err(Error("the variant came with a content, and has none here".into())),
        }
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.content()?)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        self.content()?.elements(visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content()?.fields(fields, visitor)
    }
}
