//! Reads the columns of a row, whatever file it is in: formats, column mapping, and the errors for rows that have no known
//! format. The data plugins share it.
//!
//! A row is one of these, told apart by the keys that it has:
//!
//! | format | row | trained |
//! |---|---|---|
//! | `messages` | `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}` | assistant turns |
//! | `prompt_completion` | `{"prompt": "…", "completion": "…"}`, or both as messages | the completion |
//! | `sharegpt` | `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}` | `gpt`'s turns |
//! | `alpaca` | `{"instruction": "…", "input": "…", "output": "…"}`, `input` optional | the output |
//! | `preference` | `{"chosen": …, "rejected": …}`, each a text or messages; `prompt` optional | what the trainer takes |
//! | `text` | `{"text": "…"}` | everything |
//!
//! A row's other columns stay as they are, for trainers that read them; `data.format = "columns"` takes rows of any
//! columns.
//!
//! `sharegpt` and `alpaca` are read as conversations, so that the model's own chat template renders them: Alpaca's
//! instruction and input, joined by a blank line, are the user's turn, without the preamble of the paper. Both may have a
//! `system` column beside theirs. `data.fields` maps columns that have other names, `data.format` forces one format, and
//! `data.text` makes text of several columns; see [`Columns`].

mod advice;
mod calls;
mod messages;
mod path;
mod preference;
mod sharegpt;
mod template;
#[cfg(test)]
mod tests;
mod variables;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json::{Map, Value, from_str};
use template::Template;

mdt_plugin_api::config! {
    /// The format of a row.
    pub enum Format {
        /// For each row, the first of the other formats whose columns it has. If columns are mapped, only the formats of
        /// those columns are tried.
        Auto = "auto",
        /// A conversation.
        Messages = "messages",
        /// A prompt and its answer.
        PromptCompletion = "prompt_completion",
        /// A conversation of `{ from, value }`, as ShareGPT names them.
        ShareGpt = "sharegpt",
        /// An instruction, its input if it has one, and the output, as in Stanford Alpaca: a conversation of two turns.
        Alpaca = "alpaca",
        /// Two answers, of which the first is preferred: each a text or a conversation. They may have a common prompt.
        Preference = "preference",
        /// Plain text.
        Text = "text",
        /// Whatever columns the row has, for trainers that read others.
        Columns = "columns",
    }
}

mdt_plugin_api::config! {
    /// The names of columns in the file, where they differ from ours: `{ prompt = "question", completion = "answer" }`.
    /// A name with dots may lead into a column: `{ prompt = "turn.question", completion = "answers.0.text" }`.
    #[derive(PartialEq, Eq)]
    pub struct Fields {
        /// The conversation: an array of `{ role, content }`.
        #[serde(skip_serializing_if = "Option::is_none")]
        messages: Option<String> = None,
        /// The prompt.
        #[serde(skip_serializing_if = "Option::is_none")]
        prompt: Option<String> = None,
        /// The completion, which is trained.
        #[serde(skip_serializing_if = "Option::is_none")]
        completion: Option<String> = None,
        /// The conversation in ShareGPT's form: an array of `{ from, value }`, where turns of `{ role, content }` do too.
        #[serde(skip_serializing_if = "Option::is_none")]
        conversations: Option<String> = None,
        /// Alpaca: the instruction.
        #[serde(skip_serializing_if = "Option::is_none")]
        instruction: Option<String> = None,
        /// Alpaca: the input of the instruction; optional.
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<String> = None,
        /// Alpaca: the answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<String> = None,
        /// Alpaca and ShareGPT: the system message; rows may lack it.
        #[serde(skip_serializing_if = "Option::is_none")]
        system: Option<String> = None,
        /// Conversations: the tools that the model may call, an array or the text of one; rows may lack it.
        #[serde(skip_serializing_if = "Option::is_none")]
        tools: Option<String> = None,
        /// Conversations: further variables for the chat template, such as `{ "enable_thinking": false }`; rows may
        /// lack it.
        #[serde(skip_serializing_if = "Option::is_none")]
        chat_template_kwargs: Option<String> = None,
        /// Preferences: the better answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        chosen: Option<String> = None,
        /// Preferences: the worse answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        rejected: Option<String> = None,
        /// Plain text.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String> = None,
    }
}

mdt_plugin_api::config! {
    /// Keys of the data sources that read files of rows.
    pub struct Config {
        /// The format of the rows: `auto`, `messages`, `prompt_completion`, `sharegpt`, `alpaca`, `preference`,
        /// `text`, or `columns` for rows of any columns.
        format: Format = Format::Auto,
        /// The names of columns in the file, where they differ: `{ prompt = "question", completion = "answer" }`.
        fields: Fields = Fields::default(),
        /// Text that is made of columns: `{title}\n{body}`. Two braces stand for one.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String> = None,
    }
}

impl Config {
    /// What reads rows by these keys.
    ///
    /// # Errors
    /// As for [`Columns::new`].
    pub fn columns(self) -> Result<Columns> {
        Columns::new(self.format, self.fields, self.text)
    }
}

/// Reads rows: knows the formats to try and the names of their columns.
///
/// The columns of the format get our names; all others stay as they are. A null column counts as missing, as in rows
/// exported from a table.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The formats to try, in this order; never [`Format::Auto`].
    candidates: Vec<Format>,
    fields: Fields,
    /// What the text is made of, where that is more than one column.
    text: Option<Template>,
}

/// Optional columns, and the formats that have them.
const OPTIONAL: [(&str, &[Format]); 4] = [
    ("input", &[Format::Alpaca]),
    ("system", &[Format::ShareGpt, Format::Alpaca]),
    ("tools", &[Format::Messages, Format::ShareGpt, Format::PromptCompletion]),
    ("chat_template_kwargs", &[Format::Messages, Format::ShareGpt, Format::PromptCompletion]),
];

/// A column by our name, and by its name in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Column<'a> {
    ours: &'static str,
    theirs: &'a str,
}

impl Columns {
    /// Columns of this format; for `auto`, of the formats that the mapped columns belong to.
    ///
    /// # Errors
    /// A column is mapped that the format does not have, prompt and completion are the same column, or `text` is no template.
    pub fn new(format: Format, fields: Fields, text: Option<String>) -> Result<Self> {
        if let Some(text) = text {
            let text = Template::parse(&text)?;
            if !matches!(format, Format::Auto | Format::Text) || fields != Fields::default() {
                return Err(Error::config("data.text is set, and so is data.format or data.fields")
                    .with("key", "data.text")
                    .help("remove one of them: data.text makes the text of a row of its columns, by their own names"));
            }
            return Ok(Self { candidates: vec![Format::Text], fields, text: Some(text) });
        }
        // Text last: sets of the other forms often have their rows rendered in a column `text` as well.
        let all = [
            Format::Messages,
            Format::PromptCompletion,
            Format::ShareGpt,
            Format::Alpaca,
            Format::Preference,
            Format::Text,
        ];
        let mapped: Vec<Format> = all.into_iter().filter(|format| format.is_mapped(&fields)).collect();
        refuse_unused(format, &mapped, &fields)?;
        let columns = match format {
            Format::Auto if mapped.is_empty() => Self { candidates: all.to_vec(), fields, text: None },
            Format::Auto => Self { candidates: mapped, fields, text: None },
            Format::Columns => Self { candidates: vec![format], fields, text: None },
            format => {
                let is_shared = |other| {
                    (format, other, &fields.completion) == (Format::Preference, Format::PromptCompletion, &None)
                };
                if let Some(other) = mapped.into_iter().find(|&other| other != format && !is_shared(other)) {
                    return Err(Error::config(format!(
                        "data.fields maps columns of the format `{}`, but data.format is `{}`",
                        other.name(),
                        format.name()
                    ))
                    .with("key", "data.fields")
                    .help(format!("remove them, or set data.format = \"{}\" or \"auto\"", other.name())));
                }
                Self { candidates: vec![format], fields, text: None }
            }
        };
        let [prompt, completion] = [columns.column("prompt"), columns.column("completion")];
        if prompt.theirs == completion.theirs {
            return Err(Error::config(format!(
                "the prompt and the completion are both the column `{}`",
                prompt.theirs
            ))
            .with("key", "data.fields"));
        }
        Ok(columns)
    }

    /// The row of this number as an example.
    ///
    /// # Errors
    /// Columns that are missing or of another type; the caller adds where the row is.
    pub fn example(&self, number: u64, mut row: Map<String, Value>) -> Result<Example> {
        row.retain(|_, value| !value.is_null());
        if let Some(text) = &self.text {
            let text = text.render(&row)?;
            return Ok(self.with_others(Example::new(number).with("text", text), row, Format::Text));
        }
        let has_all = |format: &&Format| self.columns(**format).all(|column| path::get(&row, column.theirs).is_some());
        let Some(format) = self.candidates.iter().find(has_all) else {
            return Err(advice::missing_columns(self, &row));
        };
        let mut take = |column: &'static str| {
            let column = self.column(column);
            (column, path::take(&mut row, column.theirs).unwrap_or_default())
        };
        let example = Example::new(number);
        let example = match format {
            Format::PromptCompletion => {
                let [prompt, completion] = ["prompt", "completion"].map(|name| {
                    let (column, value) = take(name);
                    (column, in_rows(value))
                });
                if prompt.1.is_array() && completion.1.is_array() {
                    let turns = continued(messages::read(prompt.0.theirs, prompt.1)?);
                    let turns = [turns, messages::read(completion.0.theirs, completion.1)?].concat();
                    variables::attach(example.with("messages", turns), &take("tools"), &take("chat_template_kwargs"))?
                } else {
                    example.with("prompt", string(prompt)?).with("completion", string(completion)?)
                }
            }
            Format::Text => example.with("text", string(take("text"))?),
            Format::ShareGpt => {
                let (column, value) = take("conversations");
                let turns = sharegpt::read(column.theirs, unpacked(value))?;
                let turns = with_system(optional(take("system"))?, turns)?;
                variables::attach(example.with("messages", turns), &take("tools"), &take("chat_template_kwargs"))?
            }
            Format::Alpaca => {
                let instruction = string(take("instruction"))?;
                let prompt = match optional(take("input"))? {
                    Some(input) => format!("{instruction}\n\n{input}"),
                    None => instruction,
                };
                let turns = vec![Message::new("user", prompt), Message::new("assistant", string(take("output"))?)];
                example.with("messages", with_system(optional(take("system"))?, turns)?)
            }
            Format::Preference => {
                let [prompt, chosen, rejected] = ["prompt", "chosen", "rejected"].map(|name| in_rows(take(name).1));
                let (prompt, chosen, rejected) = match prompt {
                    Value::Null => preference::without_prompt(chosen, rejected),
                    prompt => (prompt, chosen, rejected),
                };
                let example = if prompt.is_null() { example } else { example.with("prompt", prompt) };
                example.with("chosen", chosen).with("rejected", rejected)
            }
            Format::Columns => {
                let mapped = Fields::NAMES.into_iter().filter(|ours| self.fields.get(ours).is_some());
                mapped.fold(example, |example, ours| example.with(ours, take(ours).1))
            }
            Format::Messages | Format::Auto => {
                let (column, value) = take("messages");
                let turns = messages::read(column.theirs, unpacked(value))?;
                variables::attach(example.with("messages", turns), &take("tools"), &take("chat_template_kwargs"))?
            }
        };
        Ok(self.with_others(example, row, *format))
    }

    /// The example with the columns that its format does not have.
    ///
    /// A trainer looks for messages first, then for prompt and completion, then for text. Columns that would make the row
    /// another format than the configured one are left out, and so are those that only share a name with a column that is mapped to
    /// another one.
    fn with_others(&self, mut example: Example, mut row: Map<String, Value>, format: Format) -> Example {
        if matches!(format, Format::PromptCompletion | Format::Text) {
            row.shift_remove("messages");
        }
        if format == Format::Text && row.contains_key("prompt") {
            row.shift_remove("completion");
        }
        let is_anothers = |name: &str| self.fields.get(name).is_some_and(|theirs| theirs != name);
        for (name, value) in row {
            if !example.has(&name) && !is_anothers(&name) {
                example.set(name, value);
            }
        }
        example
    }

    fn columns(&self, format: Format) -> impl Iterator<Item = Column<'_>> {
        format.columns().iter().map(|column| self.column(column))
    }

    fn column(&self, ours: &'static str) -> Column<'_> {
        Column { ours, theirs: self.fields.get(ours).unwrap_or(ours) }
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Messages => "messages",
            Self::PromptCompletion => "prompt_completion",
            Self::ShareGpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::Preference => "preference",
            Self::Text => "text",
            Self::Columns => "columns",
        }
    }

    /// The columns that a row of this format has.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Auto | Self::Columns => &[],
            Self::Messages => &["messages"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::ShareGpt => &["conversations"],
            Self::Alpaca => &["instruction", "output"],
            Self::Preference => &["chosen", "rejected"],
            Self::Text => &["text"],
        }
    }

    /// Whether a column is mapped that belongs to this format only.
    fn is_mapped(self, fields: &Fields) -> bool {
        let own = OPTIONAL.iter().filter(|(_, formats)| *formats == [self]).map(|(column, _)| column);
        self.columns().iter().chain(own).any(|column| fields.get(column).is_some())
    }
}

impl Fields {
    /// All of our names.
    const NAMES: [&str; 13] = [
        "messages",
        "prompt",
        "completion",
        "conversations",
        "instruction",
        "input",
        "output",
        "system",
        "tools",
        "chat_template_kwargs",
        "chosen",
        "rejected",
        "text",
    ];

    /// What this column is called in the file, where that is configured.
    fn get(&self, column: &str) -> Option<&str> {
        match column {
            "messages" => self.messages.as_deref(),
            "prompt" => self.prompt.as_deref(),
            "completion" => self.completion.as_deref(),
            "conversations" => self.conversations.as_deref(),
            "instruction" => self.instruction.as_deref(),
            "input" => self.input.as_deref(),
            "output" => self.output.as_deref(),
            "system" => self.system.as_deref(),
            "tools" => self.tools.as_deref(),
            "chat_template_kwargs" => self.chat_template_kwargs.as_deref(),
            "chosen" => self.chosen.as_deref(),
            "rejected" => self.rejected.as_deref(),
            "text" => self.text.as_deref(),
            _ => None,
        }
    }
}

/// Refuses a mapped column that none of the formats to try has.
fn refuse_unused(format: Format, mapped: &[Format], fields: &Fields) -> Result<()> {
    let looked_for = match &format {
        Format::Columns => return Ok(()),
        Format::Auto => mapped,
        format => std::slice::from_ref(format),
    };
    let Some(first) = looked_for.first() else { return Ok(()) };
    let unused = |(column, formats): &&(&str, &[Format])| {
        fields.get(column).is_some() && !looked_for.iter().any(|format| formats.contains(format))
    };
    let Some((column, formats)) = OPTIONAL.iter().find(unused) else { return Ok(()) };
    let readers: Vec<_> = formats.iter().map(|format| format!("`{}`", format.name())).collect();
    let other = if *column == "system" { "; in `messages` it is a turn of the conversation" } else { "" };
    Err(Error::config(format!("data.fields maps `{column}`, which rows of the format `{}` do not have", first.name()))
        .with("key", format!("data.fields.{column}"))
        .help(format!("it is read in the format {}{other}", readers.join(" and "))))
}

/// The turns of a prompt that a completion follows: none of them is trained.
fn continued(mut turns: Vec<Message>) -> Vec<Message> {
    for turn in turns.iter_mut().filter(|turn| turn.role == "assistant") {
        turn.extra.insert("weight".to_owned(), 0.into());
    }
    turns
}

/// A list, where a cell has it as text, because a table has no other way, or as a list for each key.
fn unpacked(value: Value) -> Value {
    match &value {
        Value::String(text) if text.trim_start().starts_with('[') => from_str(text).unwrap_or(value),
        _ => in_rows(value),
    }
}

/// The turns of a conversation that is stored by columns, `{ "role": ["user", …], "content": ["Hi", …] }`, as `datasets` writes a
/// `Sequence` of objects. Keys that are null there are those that a turn lacks.
fn in_rows(value: Value) -> Value {
    let lengths = |object: &Map<String, Value>| -> Option<Vec<usize>> {
        object.values().map(|column| column.as_array().map(Vec::len)).collect()
    };
    match value {
        Value::Object(mut object)
            if lengths(&object).is_some_and(|all| !all.is_empty() && all.iter().all(|length| *length == all[0])) =>
        {
            let mut rows = Vec::new();
            for (name, column) in &mut object {
                let cells = column.as_array_mut().map(std::mem::take).unwrap_or_default();
                rows.resize_with(cells.len(), Map::new);
                let present = rows.iter_mut().zip(cells).filter(|(_, cell)| !cell.is_null());
                present.for_each(|(row, cell)| drop(row.insert(name.clone(), cell)));
            }
            rows.into_iter().map(Value::Object).collect()
        }
        other => other,
    }
}

/// The conversation with the system message of the row's own column put first.
fn with_system(system: Option<String>, mut turns: Vec<Message>) -> Result<Vec<Message>> {
    if let Some(system) = system {
        if turns.first().is_some_and(|first| first.role == "system") {
            return Err(Error::input(
                "the row has a system message in a column, and its conversation begins with another",
            )
            .help("to pass over the column, map it to one that is not there: data.fields = { system = \"none\" }"));
        }
        turns.insert(0, Message::new("system", system));
    }
    Ok(turns)
}

/// A string that may be missing; an empty one counts as missing.
fn optional((column, value): (Column<'_>, Value)) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        value => Ok(Some(string((column, value))?).filter(|text| !text.is_empty())),
    }
}

fn string((column, value): (Column<'_>, Value)) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        other => {
            let error = advice::wrong_type(column.theirs, "a string", &other);
            Err(match other {
                Value::Array(_) if ["prompt", "completion"].contains(&column.ours) => {
                    error.help("a prompt or completion of several turns is a conversation: use the format `messages`")
                }
                _ => error,
            })
        }
    }
}
