//! Bounds the memory that a message unpacks to, whatever it claims.
//!
//! An element of a sequence may be one byte on the wire and a hundred in memory: a frame of a few kilobytes, made of
//! nothing but the shortest variant of an enum and compressed well, would unpack to gigabytes. So every element is
//! charged, at its size in memory, before it is made.

use std::{cell::Cell, fmt, mem::size_of};

use serde::{
    Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor},
};

/// What is left of a message's memory, in bytes.
#[derive(Debug)]
pub(super) struct Budget {
    left: Cell<usize>,
    exceeded: Cell<bool>,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: Cell::new(bytes), exceeded: Cell::new(false) }
    }

    /// Whether reading stopped because nothing was left.
    pub(super) fn is_exceeded(&self) -> bool {
        self.exceeded.get()
    }

    fn charge<E: Error>(&self, count: usize, size: usize) -> Result<(), E> {
        let cost = count.checked_mul(size);
        if let Some(left) = cost.and_then(|cost| self.left.get().checked_sub(cost)) {
            self.left.set(left);
            return Ok(());
        }
        self.exceeded.set(true);
        Err(E::custom("the message unpacks to too much"))
    }
}

/// A deserializer, visitor, seed or access that charges a budget and else does what the inner one does.
pub(super) struct Charged<'b, T> {
    inner: T,
    budget: &'b Budget,
    /// Elements of the sequence at hand are charged; the fields of a struct or tuple are part of what holds them.
    per_element: bool,
}

impl<'b, T> Charged<'b, T> {
    pub(super) fn new(inner: T, budget: &'b Budget) -> Self {
        Self { inner, budget, per_element: false }
    }

    fn elements(inner: T, budget: &'b Budget) -> Self {
        Self { inner, budget, per_element: true }
    }
}

macro_rules! forward_deserialize {
    ($($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$name(Charged::new(visitor, self.budget))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Charged<'_, D> {
    type Error = D::Error;

    forward_deserialize! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_option deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(Charged::elements(visitor, self.budget))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(Charged::elements(visitor, self.budget))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, Charged::new(visitor, self.budget))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_newtype_struct(name, Charged::new(visitor, self.budget))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(len, Charged::new(visitor, self.budget))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple_struct(name, len, Charged::new(visitor, self.budget))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(name, fields, Charged::new(visitor, self.budget))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, Charged::new(visitor, self.budget))
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! forward_visit {
    ($($name:ident($value:ty))*) => {
        $(fn $name<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.inner.$name(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Charged<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    forward_visit! {
        visit_bool(bool) visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_i128(i128)
        visit_u8(u8) visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_u128(u128) visit_f32(f32) visit_f64(f64)
        visit_char(char) visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Charged::new(deserializer, self.budget))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Charged::new(deserializer, self.budget))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Charged { inner: access, budget: self.budget, per_element: self.per_element })
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Charged { inner: access, budget: self.budget, per_element: self.per_element })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Charged::new(access, self.budget))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Charged<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        if self.per_element {
            // All at once when the count is known: a byte string must not cost a check for each byte.
            let known = self.inner.size_hint();
            self.budget.charge(known.unwrap_or(1), size_of::<T::Value>())?;
            self.per_element = known.is_none();
        }
        self.inner.next_element_seed(Charged::new(seed, self.budget))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Charged<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if self.per_element {
            self.budget.charge(1, size_of::<K::Value>())?;
        }
        self.inner.next_key_seed(Charged::new(seed, self.budget))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        if self.per_element {
            self.budget.charge(1, size_of::<T::Value>())?;
        }
        self.inner.next_value_seed(Charged::new(seed, self.budget))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Charged<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Charged::new(deserializer, self.budget))
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for Charged<'b, A> {
    type Error = A::Error;
    type Variant = Charged<'b, A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(seed)?;
        Ok((value, Charged::new(variant, self.budget)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Charged<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.newtype_variant_seed(Charged::new(seed, self.budget))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, Charged::new(visitor, self.budget))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Charged::new(visitor, self.budget))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize, de::DeserializeOwned};

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Dot,
        Line(Vec<u64>),
        Box { sides: Option<(u8, u16)>, name: String },
        Pair(i32, char),
    }

    fn read<T: DeserializeOwned>(bytes: &[u8], budget: &Budget) -> Result<T, postcard::Error> {
        T::deserialize(Charged::new(&mut postcard::Deserializer::from_bytes(bytes), budget))
    }

    #[test]
    fn everything_passes_through() {
        let value = vec![
            (Shape::Dot, BTreeMap::from([(1u8, "one".to_owned())])),
            (Shape::Line(vec![1, 2, 3]), BTreeMap::new()),
            (Shape::Box { sides: Some((1, 2)), name: "x".to_owned() }, BTreeMap::new()),
            (Shape::Pair(-1, 'ä'), BTreeMap::new()),
        ];
        let bytes = postcard::to_stdvec(&value).unwrap();
        let budget = Budget::new(4096);
        assert_eq!(read::<Vec<(Shape, BTreeMap<u8, String>)>>(&bytes, &budget).unwrap(), value);
        assert!(!budget.is_exceeded());
    }

    #[test]
    fn elements_are_charged_at_their_size_in_memory() {
        let bytes = postcard::to_stdvec(&vec![String::new(); 1000]).unwrap();
        let need = 1000 * size_of::<String>();
        assert!(read::<Vec<String>>(&bytes, &Budget::new(need)).is_ok());
        let budget = Budget::new(need - 1);
        assert!(read::<Vec<String>>(&bytes, &budget).is_err());
        assert!(budget.is_exceeded());
    }

    #[test]
    fn elements_inside_elements_are_charged_too() {
        let bytes = postcard::to_stdvec(&vec![Shape::Line(vec![0; 100]); 100]).unwrap();
        let budget = Budget::new(100 * size_of::<Shape>() + 99 * 100 * size_of::<u64>());
        assert!(read::<Vec<Shape>>(&bytes, &budget).is_err());
        assert!(budget.is_exceeded());
    }

    #[test]
    fn a_count_that_overflows_is_refused() {
        let mut bytes = postcard::to_stdvec(&u64::MAX).unwrap();
        bytes.extend([0; 64]);
        assert!(read::<Vec<String>>(&bytes, &Budget::new(usize::MAX)).is_err());
    }
}
