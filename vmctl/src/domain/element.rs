//! A tree of XML, and the one place where it becomes text.

use blockstore::{Error, Kind, Result, Subject};
use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

/// An XML element. Names are ours; values may come from anywhere.
pub(super) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    text: String,
    children: Vec<Element>,
}

/// One without anything in it.
pub(super) fn node(name: &'static str) -> Element {
    Element {
        name,
        attributes: Vec::new(),
        text: String::new(),
        children: Vec::new(),
    }
}

impl Element {
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    pub(super) fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    pub(super) fn child(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    /// The text; [`Kind::Invalid`] if a value cannot be said in XML.
    pub(super) fn document(&self) -> Result<String> {
        self.check()?;
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        let failed = |cause: String| {
            Error::new(
                Kind::Internal,
                Subject::Record,
                "the domain XML could not be written",
            )
            .because(cause)
        };
        self.write(&mut writer)
            .map_err(|error| failed(error.to_string()))?;
        let mut text =
            String::from_utf8(writer.into_inner()).map_err(|error| failed(error.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let mut start = BytesStart::new(self.name);
        for (name, value) in &self.attributes {
            start.push_attribute((*name, value.as_str()));
        }
        if self.children.is_empty() && self.text.is_empty() {
            return writer.write_event(Event::Empty(start));
        }
        writer.write_event(Event::Start(start))?;
        if !self.text.is_empty() {
            writer.write_event(Event::Text(BytesText::new(&self.text)))?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name)))
    }

    /// XML 1.0, 2.2 "Characters" lets no control character in, and attributes lose line breaks.
    fn check(&self) -> Result<()> {
        let foreign = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
        let values = self
            .attributes
            .iter()
            .map(|(_, value)| value)
            .chain([&self.text]);
        for value in values {
            if value.contains(foreign) {
                return Err(Error::new(
                    Kind::Invalid,
                    Subject::Record,
                    format!("{value:?} for <{}> holds a control character", self.name),
                ));
            }
        }
        self.children.iter().try_for_each(Element::check)
    }
}
