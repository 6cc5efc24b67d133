//! The event as a Cap'n Proto struct: what its compiler would generate, for the fields that are needed. The compiler is
//! not needed then.
//!
//! Data: id at word 0, time at 1, kind in the first half of 2, score at 3. Pointers: source, subject, tags, body.

use capnp::Word;
use capnp::private::layout::{PointerBuilder, PointerReader, StructBuilder, StructReader, StructSize};
use capnp::traits::{FromPointerBuilder, FromPointerReader};
use capnp::{Result, data, text, text_list};

const SIZE: StructSize = StructSize { data: 4, pointers: 4 };

pub(crate) struct EventBuilder<'a>(StructBuilder<'a>);

impl<'a> FromPointerBuilder<'a> for EventBuilder<'a> {
    fn init_pointer(builder: PointerBuilder<'a>, _length: u32) -> Self {
        Self(builder.init_struct(SIZE))
    }

    fn get_from_pointer(builder: PointerBuilder<'a>, default: Option<&'a [Word]>) -> Result<Self> {
        Ok(Self(builder.get_struct(SIZE, default)?))
    }
}

impl EventBuilder<'_> {
    pub(crate) fn set_numbers(&mut self, id: u64, at_ns: u64, kind: u32, score: f64) {
        self.0.set_data_field(0, id);
        self.0.set_data_field(1, at_ns);
        self.0.set_data_field(4, kind);
        self.0.set_data_field(3, score);
    }

    pub(crate) fn set_source(&mut self, text: &str) {
        self.0.reborrow().get_pointer_field(0).set_text(text.into());
    }

    pub(crate) fn set_subject(&mut self, text: &str) {
        self.0.reborrow().get_pointer_field(1).set_text(text.into());
    }

    pub(crate) fn set_tags(&mut self, tags: &[String]) {
        let pointer = self.0.reborrow().get_pointer_field(2);
        let mut list = text_list::Builder::init_pointer(pointer, tags.len() as u32);
        for (index, tag) in tags.iter().enumerate() {
            list.set(index as u32, tag.as_str());
        }
    }

    pub(crate) fn set_body(&mut self, body: &[u8]) {
        self.0.reborrow().get_pointer_field(3).set_data(body);
    }
}

pub(crate) struct EventReader<'a>(StructReader<'a>);

impl<'a> FromPointerReader<'a> for EventReader<'a> {
    fn get_from_pointer(reader: &PointerReader<'a>, default: Option<&'a [Word]>) -> Result<Self> {
        Ok(Self(reader.get_struct(default)?))
    }
}

impl<'a> EventReader<'a> {
    /// Identity, time, kind, score.
    pub(crate) fn numbers(&self) -> (u64, u64, u32, f64) {
        let field = &self.0;
        (field.get_data_field(0), field.get_data_field(1), field.get_data_field(4), field.get_data_field(3))
    }

    pub(crate) fn source(&self) -> Result<text::Reader<'a>> {
        self.0.get_pointer_field(0).get_text(None)
    }

    pub(crate) fn subject(&self) -> Result<text::Reader<'a>> {
        self.0.get_pointer_field(1).get_text(None)
    }

    pub(crate) fn tags(&self) -> Result<text_list::Reader<'a>> {
        text_list::Reader::get_from_pointer(&self.0.get_pointer_field(2), None)
    }

    pub(crate) fn body(&self) -> Result<data::Reader<'a>> {
        self.0.get_pointer_field(3).get_data(None)
    }
}
