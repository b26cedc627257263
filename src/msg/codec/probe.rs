//! Can values of a type be read by position? Asked of its `Deserialize`, which is led through
//! every field and variant with made-up values.
//!
//! Serde reads some things from maps only (struct variants of untagged and adjacently tagged enums),
//! and says nothing of it when they are written.
use std::any::type_name;
use std::collections::{HashMap, HashSet};

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::refusal::Error;

/// Whether values of `T` may be written by position. `false` whenever in doubt: names are always right.
///
/// Takes microseconds: ask once for each type.
pub(crate) fn is_positional<T: DeserializeOwned>() -> bool {
    let mut probe = Probe::default();
    // Each pass finishes a variant of some enum at least, or is the last.
    for _ in 0..MAX_PASSES {
        probe.structs.clear();
        probe.unfinished = false;
        if T::deserialize(&mut probe).is_err() {
            return false;
        }
        if !probe.unfinished {
            return true;
        }
    }
    false
}

/// A type with more variants than this in all is named.
const MAX_PASSES: usize = 1_000;

/// Deeper than any type that is not recursive in a way that this file does not see.
const MAX_DEPTH: u16 = 100;

/// A deserializer of made-up values. Keys are names of visitors, which include a type's parameters.
#[derive(Default)]
struct Probe {
    depth: u16,
    /// Inside something that is being visited further out, or was visited in this pass: lists are
    /// empty now, options `None`.
    shallow: bool,
    /// An enum was met, of which a variant is not finished.
    unfinished: bool,
    structs: HashSet<&'static str>,
    enums: HashMap<&'static str, Variants>,
}

#[derive(Default)]
struct Variants {
    /// One of them is being visited further out.
    open: bool,
    /// Whether all that is in the variant has been visited.
    finished: Vec<bool>,
    /// The first that was not yet tried, in search of one that has an end.
    untried: usize,
    /// One that has an end: a value of finite size.
    finite: Option<usize>,
}

impl Probe {
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth == MAX_DEPTH {
            return Err(de::Error::custom("it has no end"));
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// Visits a type that may contain itself: thoroughly once.
    fn type_of<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let outer = self.shallow;
        self.shallow = !self.structs.insert(name);
        let value = self.deeper(read);
        self.shallow = outer;
        value
    }
}

fn by_name_only<T>() -> Result<T, Error> {
    Err(de::Error::custom("it looks at the value before it knows the type"))
}

fn is_derived_from_names<'de, V: Visitor<'de>>(visitor: &V) -> bool {
    let expected: &dyn de::Expected = visitor;
    let expected = expected.to_string();
    expected.starts_with("adjacently tagged enum ") || expected.starts_with("internally tagged enum ")
}

/// One made-up value for each simple type: 1 is no zero, for those who want none.
macro_rules! simple {
    ($($method:ident $visit:ident $value:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($value)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Probe {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    simple! {
        deserialize_bool visit_bool false;
        deserialize_i8 visit_i8 1;
        deserialize_i16 visit_i16 1;
        deserialize_i32 visit_i32 1;
        deserialize_i64 visit_i64 1;
        deserialize_i128 visit_i128 1;
        deserialize_u8 visit_u8 1;
        deserialize_u16 visit_u16 1;
        deserialize_u32 visit_u32 1;
        deserialize_u64 visit_u64 1;
        deserialize_u128 visit_u128 1;
        deserialize_f32 visit_f32 1.0;
        deserialize_f64 visit_f64 1.0;
        deserialize_char visit_char 'a';
        deserialize_str visit_borrowed_str "a";
        deserialize_string visit_borrowed_str "a";
        // Sixteen: a uuid wants so many.
        deserialize_bytes visit_borrowed_bytes &[1; 16];
        deserialize_byte_buf visit_borrowed_bytes &[1; 16];
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        by_name_only()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        by_name_only()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.shallow { visitor.visit_none() } else { self.deeper(|this| visitor.visit_some(this)) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.type_of(type_name::<V>(), |this| visitor.visit_newtype_struct(this))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = usize::from(!self.shallow);
        self.deeper(|this| visitor.visit_seq(Elements { probe: this, left }))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deeper(|this| visitor.visit_seq(Elements { probe: this, left: len }))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.type_of(type_name::<V>(), |this| visitor.visit_seq(Elements { probe: this, left: len }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = usize::from(!self.shallow);
        self.deeper(|this| visitor.visit_map(Elements { probe: this, left }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if is_derived_from_names(&visitor) {
            return by_name_only();
        }
        self.type_of(type_name::<V>(), |this| visitor.visit_seq(Elements { probe: this, left: fields.len() }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let name = type_name::<V>();
        let known = self.enums.entry(name).or_default();
        known.finished.resize(variants.len(), false);
        let was_open = std::mem::replace(&mut known.open, true);
        let unfinished = known.finished.iter().position(|finished| !finished);
        // Within itself it needs an end only: what is in its variants is visited further out.
        let choice = if was_open { None } else { unfinished };
        let index = choice.or(known.finite).unwrap_or(known.untried);
        known.untried = known.untried.max(index + 1);
        if index >= variants.len() {
            return Err(de::Error::custom("it has no end"));
        }
        let outer = (std::mem::replace(&mut self.shallow, was_open), std::mem::take(&mut self.unfinished));
        let value = self.deeper(|this| visitor.visit_enum(Variant { probe: this, index }))?;
        let known = self.enums.entry(name).or_default();
        known.open = was_open;
        known.finite.get_or_insert(index);
        if !was_open {
            known.finished[index] |= !self.unfinished;
            self.unfinished = known.finished.contains(&false);
        }
        self.shallow = outer.0;
        self.unfinished |= outer.1;
        Ok(value)
    }
}

/// So many made-up elements, or pairs.
struct Elements<'p> {
    probe: &'p mut Probe,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.probe).map(Some)
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        de::SeqAccess::next_element_seed(self, seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(&mut *self.probe)
    }
}

/// A variant with made-up content.
struct Variant<'p> {
    probe: &'p mut Probe,
    index: usize,
}

impl<'de> de::EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let index = seed.deserialize((self.index as u64).into_deserializer())?;
        Ok((index, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.probe)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Elements { probe: self.probe, left: len })
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Elements { probe: self.probe, left: fields.len() })
    }
}
