//! Chat templates: renders conversations to the text that the model reads.
//!
//! Templates are written for transformers, which renders them with Jinja in Python, so this environment is set up as
//! that one is: trimmed blocks, loop controls, Python's string methods, `raise_exception`, `strftime_now`, `tojson`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use jiff::civil::{Date, DateTime};
use mdt_plugin_api::{Error, Message, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, ErrorKind, Value, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::json;

use crate::conversation::{Conversation, Forms};
use crate::render_limits::{self, LONGEST_RENDERING, check_depth};
use crate::time_and_memory::{Part, limited, panic_text};
use crate::{generation_marks, python_json};

/// The text of a template and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSource {
    /// Its file or key, for messages.
    pub origin: String,
    /// The template.
    pub text: String,
}

/// A compiled chat template. Several threads may use it at once.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    origin: String,
    marks_answers: bool,
    shows_tools: bool,
    shows_tool_calls: bool,
    forms: Forms,
    text: String,
    exceeded: OnceLock<Error>,
}

/// A conversation as text.
#[derive(Debug, PartialEq, Eq)]
pub struct RenderedText {
    /// The text.
    pub text: String,
    /// The byte ranges of the text that the template marks as the assistant's.
    pub marked: Vec<Range<usize>>,
}

impl ChatTemplate {
    const NAME: &'static str = "chat template";

    /// Compiles a template. Its variables are `special_tokens` (`bos_token`, `eos_token` and so on), then `variables`,
    /// then those of a row; the later ones take precedence.
    ///
    /// `date` is what `strftime_now` tells the template: a fixed day, because the tokens of a row may depend on the
    /// data and the configuration only, and not on when the job happens to run or to resume.
    ///
    /// # Errors
    /// The template is not valid Jinja.
    pub fn compile(
        source: &TemplateSource,
        special_tokens: &[(String, String)],
        variables: BTreeMap<String, serde_json::Value>,
        date: Date,
    ) -> Result<Self> {
        // As Jinja does. A template from a Windows editor would otherwise put carriage returns into the prompts.
        let text = source.text.replace("\r\n", "\n").replace('\r', "\n");
        let text = render_limits::rewrite(&text).map_err(|why| {
            Error::input("the chat template is not valid").with("template", &source.origin).caused_by(why)
        })?;
        let (text, marks_answers) = generation_marks::rewrite(&text);
        let mut environment = Environment::new();
        render_limits::install(&mut environment);
        environment.set_syntax(syntax());
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_formatter(|out, state, value| match python_text(value) {
            Some(text) => Ok(out.write_str(&text)?),
            None => check_depth(state, value).and_then(|()| escape_formatter(out, state, value)),
        });
        environment.add_filter("tojson", python_json::tojson);
        // Templates ask it of `tools`; the engine's own answer for none is yes, Python's is no.
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let midnight = date.to_datetime(jiff::civil::Time::midnight());
        environment.add_function("strftime_now", move |format: String| strftime(midnight, &format));
        generation_marks::install(&mut environment);
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.clone());
        }
        // transformers passes both, as None where a conversation has none.
        environment.add_global("tools", Value::from(()));
        environment.add_global("documents", Value::from(()));
        for (name, value) in variables {
            environment.add_global(name, Value::from(Serde(value)));
        }
        let shows_tool_calls = text.contains("tool_calls");
        environment.add_template_owned(Self::NAME, text.clone()).map_err(|error| {
            Error::input("the chat template is not valid").with("template", &source.origin).caused_by(describe(&error))
        })?;
        let shows_tools = environment
            .get_template(Self::NAME)
            .is_ok_and(|template| template.undeclared_variables(false).contains("tools"));
        let mut template = Self {
            environment: Arc::new(environment),
            origin: source.origin.clone(),
            marks_answers,
            shows_tools,
            shows_tool_calls,
            forms: Forms::default(),
            text,
            exceeded: OnceLock::new(),
        };
        template.forms = template.tried();
        Ok(template)
    }

    /// The forms that it takes, by rendering short conversations in each.
    fn tried(&self) -> Forms {
        let object = json!({ PROBE: 1 });
        let calls = |id: &str, arguments: &serde_json::Value| {
            [json!(null), json!("")].iter().any(|content| self.shows_probe(calling(id, arguments, content)))
        };
        let (nine, other) = ("000000000", "call_0000000000");
        let objects = self.shows_tool_calls && calls(nine, &object);
        let arguments = if objects { object } else { object.to_string().into() };
        let short_ids = self.shows_tool_calls && calls(nine, &arguments) && !calls(other, &arguments);
        let parts = Forms::ROLES.map(|role| self.shows_probe(in_parts(role)));
        Forms { objects, short_ids, parts }
    }

    /// Whether it renders these messages, and [`PROBE`] in them, without showing the engine's own form of a value.
    fn shows_probe(&self, messages: serde_json::Value) -> bool {
        let turns: Vec<_> = messages.as_array().into_iter().flatten().map(|turn| Value::from(Serde(turn))).collect();
        let variables = Value::from(Serde(json!({})));
        let conversation = Conversation { weighted: vec![true; turns.len()], turns, variables };
        let rendered = self.render(&conversation, conversation.turns.len(), false);
        rendered.is_ok_and(|rendered| {
            rendered.text.contains(PROBE)
                && !rendered.text.contains("'type'")
                && !rendered.text.contains(&format!("{{'{PROBE}'"))
        })
    }

    /// Whether it marks the assistant's text with `{% generation %}`.
    pub fn marks_answers(&self) -> bool {
        self.marks_answers
    }

    /// The error of a rendering that took too long or too much memory, if there was one.
    pub fn exceeded(&self) -> Option<&Error> {
        self.exceeded.get()
    }

    /// The messages of a row in the form that this template takes.
    ///
    /// # Errors
    /// The errors of [`Conversation::new`]; tools or calls that the template would leave out.
    pub fn conversation(&self, messages: &[Message]) -> Result<Conversation> {
        let conversation =
            Conversation::new(messages, &self.forms, |text| self.marks_answers && generation_marks::occur_in(text))?;
        let has_tools = conversation.variables.get_attr("tools").is_ok_and(|tools| tools.is_true());
        if has_tools && !self.shows_tools {
            return Err(self.error("the row has tools, and the chat template never shows them to the model").help(
                "choose a template that does (tokenizer.chat_template), or pass over the column by mapping it to one \
                 that is not there: data.fields = { tools = \"none\" }",
            ));
        }
        let calls = |message: &Message| message.extra.get("tool_calls").is_some_and(|calls| calls.get(0).is_some());
        if !self.shows_tool_calls
            && let Some(turn) = messages.iter().position(calls)
        {
            return Err(self
                .error("a message calls tools, and the chat template would leave the calls out")
                .with("message", turn + 1)
                .help("choose a template that renders `tool_calls` (tokenizer.chat_template)"));
        }
        Ok(conversation)
    }

    /// Checks that a rendering has the turns of roles that not every template knows.
    ///
    /// # Errors
    /// The template names no such role, or leaves such a turn out.
    pub fn require_roles(&self, messages: &[Message], rendered: &str) -> Result<()> {
        for (turn, Message { role, content, .. }) in messages.iter().enumerate() {
            if COMMON_ROLES.contains(&role.as_str()) {
                continue;
            }
            let is_named = ["'", "\""].iter().any(|quote| self.text.contains(&format!("{quote}{role}{quote}")));
            let error = if !is_named && role != DEVELOPER {
                self.error(format!("a message has the role {role:?}, which the chat template does not name"))
            } else if !rendered.contains(content.trim()) {
                self.error(format!("the chat template leaves out a message of the role {role:?}"))
            } else {
                continue;
            };
            return Err(error
                .with("message", turn + 1)
                .help("the roles are system, user, assistant, tool, and others that the template knows"));
        }
        Ok(())
    }

    /// Renders the first turns of a conversation; with `generation_prompt`, up to where the assistant would begin to
    /// answer.
    ///
    /// # Errors
    /// The template refuses the conversation or fails on it.
    pub fn render(&self, conversation: &Conversation, turns: usize, generation_prompt: bool) -> Result<RenderedText> {
        let context = minijinja::context! {
            messages => &conversation.turns[..turns], add_generation_prompt => generation_prompt,
            ..conversation.variables.clone(),
        };
        let environment = Arc::clone(&self.environment);
        let render = move || environment.get_template(Self::NAME)?.render(context);
        let cannot_render = |reason: String| self.error(CANNOT_RENDER).caused_by(reason);
        let rendered = match limited(Part::Template, 0, render) {
            Ok(Ok(rendered)) => rendered.map_err(|error| cannot_render(describe(&error)))?,
            Ok(Err(panic)) => return Err(cannot_render(panic_text(&*panic).to_owned())),
            Err(given_up) => return Err(self.exceed(given_up.reason)),
        };
        if rendered.len() > LONGEST_RENDERING {
            return Err(cannot_render("it makes more than 32 MiB of text".to_owned()));
        }
        if !self.marks_answers {
            return Ok(RenderedText { text: rendered, marked: Vec::new() });
        }
        let (text, marked) = generation_marks::take_out(&rendered).ok_or_else(|| {
            self.error("the chat template nests its {% generation %} blocks or renders only half of one")
        })?;
        Ok(RenderedText { text, marked })
    }

    /// The error of a rendering that takes too long or too much memory. It is kept: another one would do so too.
    pub fn exceed(&self, reason: String) -> Error {
        self.exceeded.get_or_init(|| self.error(CANNOT_RENDER).caused_by(reason)).clone()
    }

    /// An error that names this template.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::input(message).with("template", &self.origin)
    }
}

const CANNOT_RENDER: &str = "the chat template cannot render a conversation";

/// Maximum length of a reason in a message: a template may raise any text.
const SHOWN: usize = 500;

/// A word that no template has of its own.
const PROBE: &str = "probe_of_arguments";

/// The roles of which every template is asked to show the turns; what it does not know it refuses.
const COMMON_ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// A role that templates show without naming it, or pass over.
const DEVELOPER: &str = "developer";

/// A conversation with a call of this id and these arguments, in a turn with this content.
fn calling(id: &str, arguments: &serde_json::Value, content: &serde_json::Value) -> serde_json::Value {
    let call = json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let mut calls = json!({"role": "assistant", "tool_calls": [call]});
    if !content.is_null() {
        calls["content"] = content.clone();
    }
    json!([
        {"role": "user", "content": "a"},
        calls,
        {"role": "tool", "content": "1", "name": "f", "tool_call_id": id},
        {"role": "assistant", "content": "b"},
    ])
}

/// A conversation in which the content of this role comes in parts.
fn in_parts(role: &str) -> serde_json::Value {
    let content = |other: &str| match other == role {
        true => json!([{"type": "text", "text": PROBE}]),
        false => json!("a"),
    };
    let turn = |role: &str| json!({"role": role, "content": content(role)});
    let mut turns = vec![turn("user"), turn("assistant")];
    match role {
        "system" => turns.insert(0, turn("system")),
        "tool" => {
            let mut calls = calling("000000000", &json!({}), &json!(""));
            calls[2]["content"] = content("tool");
            return calls;
        }
        _ => {}
    }
    turns.into()
}

/// The same syntax as in transformers.
pub(crate) fn syntax() -> SyntaxConfig {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    syntax.build().expect("only delimiters can be invalid, and these are the default ones")
}

/// The text of values that Python prints in another way than Rust.
fn python_text(value: &Value) -> Option<Cow<'static, str>> {
    match value.kind() {
        ValueKind::None => Some("None".into()),
        ValueKind::Bool => Some(if value.is_true() { "True" } else { "False" }.into()),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).ok().map(|n| python_json::float(n).into())
        }
        _ => None,
    }
}

fn strftime(time: DateTime, format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, time)
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// The innermost reason with its line: the text of `raise_exception`, or the engine's error.
fn describe(error: &minijinja::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source().and_then(|source| source.downcast_ref::<minijinja::Error>()) {
        innermost = cause;
    }
    let reason = match (innermost.kind(), innermost.detail()) {
        (ErrorKind::OutOfFuel, _) => "it does not end, or makes far more text than a conversation has".to_owned(),
        (_, Some(detail)) => detail.chars().take(SHOWN).collect(),
        (kind, None) => kind.to_string(),
    };
    match innermost.line().or(error.line()) {
        Some(line) => format!("{reason} (line {line} of the template)"),
        None => reason,
    }
}
