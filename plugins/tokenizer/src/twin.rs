//! A training template: another one than generation's, which shows what that leaves out of earlier turns, or marks answers.
//!
//! What it shows of the last exchange has to be what generation's template shows, or a model would be trained on text that it never
//! meets. Rows are compared one by one.

use mdt_plugin_api::{Content, Message, Result};

use crate::chat::asked_otherwise;
use crate::template::ChatTemplate;

const EARLIER: &str =
    "training sees earlier turns that generation's chat template shows otherwise (tokenizer.training_template)";
const LAST: &str = "tokenizer.training_template shows the last exchange otherwise than generation's chat template: what is trained is \
    not what generation sees";
const NOT_RENDERED: &str = "generation's chat template cannot render what tokenizer.training_template does";

/// What a training template shows otherwise than generation's, in sentences.
///
/// # Errors
/// The training template cannot render a part of the row.
pub fn differences(training: &ChatTemplate, generation: &ChatTemplate, messages: &[Message]) -> Result<Vec<String>> {
    let text = |template: &ChatTemplate, messages: &[Message]| {
        let conversation = template.conversation(messages)?;
        template.render(&conversation, messages.len(), false).map(|rendered| rendered.text)
    };
    let Ok(generated) = text(generation, messages) else { return Ok(vec![NOT_RENDERED.to_owned()]) };
    let mut notes = Vec::new();
    let last = last_exchange(messages);
    let trained = text(training, &last)?;
    if text(generation, &last).is_ok_and(|generated| generated != trained) {
        notes.push(LAST.to_owned());
    } else if generated != text(training, messages)? {
        notes.push(EARLIER.to_owned());
    }
    notes.extend(asked_otherwise(generation, &generation.conversation(&last)?, &last, &trained)?);
    Ok(notes)
}

/// The messages from what the user said last, behind what the system says first, with the row's variables.
fn last_exchange(messages: &[Message]) -> Vec<Message> {
    let begin = messages.iter().rposition(|message| message.role == "user").unwrap_or(0);
    let system = messages[..begin].iter().take_while(|message| matches!(message.role.as_str(), "system" | "developer"));
    let mut last: Vec<Message> = system.chain(&messages[begin..]).cloned().collect();
    let variables = messages.first().and_then(|first| first.extra.get(Content::VARIABLES));
    if let (Some(first), Some(variables)) = (last.first_mut(), variables) {
        first.extra.insert(Content::VARIABLES.to_owned(), variables.clone());
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_exchange_is_what_follows_the_last_question_and_keeps_the_system_and_the_variables() {
        let mut messages: Vec<_> = ["system", "user", "assistant", "user", "assistant", "tool", "assistant"]
            .iter()
            .enumerate()
            .map(|(turn, role)| Message::new(*role, turn.to_string()))
            .collect();
        let contents =
            |messages: &[Message]| last_exchange(messages).iter().map(|m| m.content.clone()).collect::<String>();
        assert_eq!(contents(&messages), "03456");
        messages.remove(0);
        messages[0].extra.insert(Content::VARIABLES.to_owned(), "kept".into());
        assert_eq!(contents(&messages), "3456");
        assert_eq!(last_exchange(&messages)[0].extra[Content::VARIABLES], "kept");
        assert_eq!(last_exchange(&[]), []);
    }
}
