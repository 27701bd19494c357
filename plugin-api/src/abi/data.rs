//! Data sources across the boundary.

use std::sync::Arc;

use abi_stable::std_types::{RBox, ROption, RResult, RStr, RString, RVec};
use abi_stable::{StableAbi, sabi_trait, sabi_trait::TD_Opaque};

use super::guard::{Guarded, Owner};
use super::types::{RawError, plain};
use crate::{Content, DataSource, Error, Example, Message, Result};

/// [`Example`]. A tag that the receiver does not know is an error there.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawExample {
    row: u64,
    tag: u32,
    messages: RVec<RawMessage>,
    first: RString,
    second: RString,
}

/// [`Message`]; what is beside role and content travels as JSON, empty where there is nothing.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawMessage {
    role: RString,
    content: RString,
    extra: RString,
}

impl From<Example> for RawExample {
    fn from(example: Example) -> Self {
        let mut raw =
            Self { row: example.row, tag: 0, messages: RVec::new(), first: RString::new(), second: RString::new() };
        match example.content {
            Content::Messages(messages) => {
                raw.tag = 1;
                raw.messages = messages.into_iter().map(RawMessage::from).collect();
            }
            Content::PromptCompletion { prompt, completion } => {
                raw.tag = 2;
                raw.first = prompt.into();
                raw.second = completion.into();
            }
            Content::Text(text) => {
                raw.tag = 3;
                raw.first = text.into();
            }
        }
        raw
    }
}

impl RawExample {
    pub(crate) fn plain(self) -> Result<Example> {
        let content = match self.tag {
            1 => Content::Messages(self.messages.into_iter().map(RawMessage::plain).collect::<Result<_>>()?),
            2 => Content::PromptCompletion { prompt: self.first.into(), completion: self.second.into() },
            3 => Content::Text(self.first.into()),
            tag => {
                return Err(Error::plugin(format!("row {} has content of kind {tag}, unknown here", self.row)));
            }
        };
        Ok(Example { row: self.row, content })
    }
}

impl From<Message> for RawMessage {
    fn from(message: Message) -> Self {
        let extra = if message.extra.is_empty() {
            RString::new()
        } else {
            serde_json::Value::Object(message.extra).to_string().into()
        };
        Self { role: message.role.into(), content: message.content.into(), extra }
    }
}

impl RawMessage {
    fn plain(self) -> Result<Message> {
        let extra = if self.extra.is_empty() {
            serde_json::Map::new()
        } else {
            serde_json::from_str(&self.extra)
                .map_err(|error| Error::plugin(format!("a message came with extras that are no JSON: {error}")))?
        };
        Ok(Message { role: self.role.into(), content: self.content.into(), extra })
    }
}

/// [`DataSource`] with a stable layout.
#[sabi_trait]
pub trait RawData: Send {
    /// [`DataSource::len`].
    fn length(&self) -> ROption<u64>;
    /// [`DataSource::next`].
    fn next_example(&mut self) -> RResult<ROption<RawExample>, RawError>;
    /// [`DataSource::state`].
    fn state(&self) -> RResult<RString, RawError>;
    /// [`DataSource::restore`].
    #[sabi(last_prefix_field)]
    fn restore(&mut self, state: RStr<'_>) -> RResult<(), RawError>;
}

pub(crate) type DataObject = RawData_TO<'static, RBox<()>>;

struct Exported(Guarded<Box<dyn DataSource>>);

/// Makes an object of a plain source.
pub(crate) fn export(source: Box<dyn DataSource>, owner: Arc<Owner>) -> DataObject {
    RawData_TO::from_value(Exported(Guarded::new(source, owner)), TD_Opaque)
}

impl RawData for Exported {
    fn length(&self) -> ROption<u64> {
        self.0.call_or(None, |source| source.len()).into()
    }

    fn next_example(&mut self) -> RResult<ROption<RawExample>, RawError> {
        self.0.call_mut(|source| Ok(source.next()?.map(RawExample::from).into()))
    }

    fn state(&self) -> RResult<RString, RawError> {
        self.0.call(|source| Ok(source.state()?.into()))
    }

    fn restore(&mut self, state: RStr<'_>) -> RResult<(), RawError> {
        self.0.call_mut(|source| source.restore(state.as_str()))
    }
}

struct Loaded(DataObject);

/// Makes a plain source of an object.
pub(crate) fn import(object: DataObject) -> Box<dyn DataSource> {
    Box::new(Loaded(object))
}

impl DataSource for Loaded {
    fn len(&self) -> Option<u64> {
        self.0.length().into_option()
    }

    fn next(&mut self) -> Result<Option<Example>> {
        plain(self.0.next_example())?.into_option().map(RawExample::plain).transpose()
    }

    fn state(&self) -> Result<String> {
        plain(self.0.state()).map(String::from)
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        plain(self.0.restore(state.into()))
    }
}
