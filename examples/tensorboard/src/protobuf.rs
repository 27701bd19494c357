//! Events as protocol buffers: `tensorflow/core/util/event.proto` and `tensorflow/core/framework/summary.proto`.

/// What an event says.
pub enum Content<'a> {
    /// The version of the format, which begins a file.
    FileVersion,
    /// A run begins: events of the same or later steps that were written before count no more.
    SessionStart,
    /// Numbers by their tags.
    Numbers(&'a [(String, f32)]),
    /// A text in Markdown by its tag.
    Text(&'a str, &'a str),
}

/// The message `Event`.
pub fn event(time: f64, step: u64, content: &Content<'_>) -> Vec<u8> {
    let mut event = Message::default().fixed64(1, time.to_bits()).varint(2, step);
    event = match content {
        Content::FileVersion => event.bytes(3, b"brain.Event:2"),
        Content::SessionStart => event.message(7, Message::default().varint(1, 1)),
        Content::Numbers(numbers) => event.message(
            5,
            numbers.iter().fold(Message::default(), |summary, (tag, value)| {
                summary.message(1, Message::default().bytes(1, tag.as_bytes()).fixed32(2, value.to_bits()))
            }),
        ),
        Content::Text(tag, text) => event.message(5, Message::default().message(1, text_value(tag, text))),
    };
    event.0
}

/// The message `Summary.Value` of a text: a tensor of one string (type 7), for the plugin `text`.
fn text_value(tag: &str, text: &str) -> Message {
    let metadata = Message::default().message(1, Message::default().bytes(1, b"text"));
    let shape = Message::default().message(2, Message::default().varint(1, 1));
    let tensor = Message::default().varint(1, 7).message(2, shape).bytes(8, text.as_bytes());
    Message::default().bytes(1, tag.as_bytes()).message(9, metadata).message(8, tensor)
}

/// A message whose fields are added one by one: each a key, that is its number and how it is written, and a value
/// (<https://protobuf.dev/programming-guides/encoding/>).
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(mut self, mut number: u64) -> Self {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    fn varint(self, field: u64, value: u64) -> Self {
        self.number(field << 3).number(value)
    }

    fn fixed64(self, field: u64, bits: u64) -> Self {
        let mut message = self.number(field << 3 | 1);
        message.0.extend(bits.to_le_bytes());
        message
    }

    fn fixed32(self, field: u64, bits: u32) -> Self {
        let mut message = self.number(field << 3 | 5);
        message.0.extend(bits.to_le_bytes());
        message
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut message = self.number(field << 3 | 2).number(bytes.len() as u64);
        message.0.extend(bytes);
        message
    }

    fn message(self, field: u64, inner: Self) -> Self {
        self.bytes(field, &inner.0)
    }
}
