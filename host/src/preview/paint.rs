//! Rows for a person: what is trained is green on a terminal, and in brackets elsewhere.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use mdt_plugin_api::Item;

use super::Row;
use crate::terminal::printable;

/// Columns that a line of tokens fills at most.
const WIDTH: usize = 100;
const GREEN: Style = AnsiColor::Green.on_default();

/// How trained text is set apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Green, by the escape sequences that terminals know.
    Colour,
    /// `⟦brackets⟧` around text, `[brackets]` around tokens.
    Marks,
}

impl Paint {
    /// What the signs mean.
    pub fn legend(self) -> String {
        match self {
            Self::Colour => format!("what is trained is {GREEN}green{GREEN:#}"),
            Self::Marks => "what is trained is in brackets: ⟦text⟧, [token]".to_owned(),
        }
    }

    /// A row: where it is from, its text, its tokens.
    pub fn row(self, row: &Row) -> String {
        let tokens = row.tokens.len();
        let source = printable(&row.source);
        let name = if row.sequence == Item::TOKENS { String::new() } else { format!(" {}", printable(&row.sequence)) };
        let packed = row.packed_row.map_or(String::new(), |row| format!(", packed row {row}"));
        let part = row.part.map_or(String::new(), |(number, all)| format!(", part {number} of {all}"));
        let mut text =
            format!("{source}:{}{name}{packed}{part}  {tokens} tokens, {} trained", row.row, row.supervised_tokens);
        if row.supervised_tokens == 0 {
            text += ": nothing to train, dropped";
        }
        if row.truncated > 0 {
            let _ = write!(text, ", {} more cut off at trainer.max_seq_len", row.truncated);
        }
        text.push('\n');
        row.notes.iter().for_each(|note| text += &format!("  note: {}\n", printable(note)));
        self.text(row).lines().for_each(|line| text += &format!("  │ {line}\n"));
        self.tokens(row).iter().for_each(|line| text += &format!("  {line}\n"));
        text
    }

    /// The text, its own line breaks kept. A colour ends with its line, so that pagers show it on every one.
    fn text(self, row: &Row) -> String {
        let paint = |(trained, span): (bool, String)| match (trained, self) {
            (false, _) => printable(&span).into_owned(),
            (true, Self::Marks) => format!("⟦{}⟧", printable(&span)),
            (true, Self::Colour) => {
                let lines: Vec<_> =
                    printable(&span).split('\n').map(|line| format!("{GREEN}{line}{GREEN:#}")).collect();
                lines.join("\n")
            }
        };
        row.spans().into_iter().map(paint).collect()
    }

    /// `id "text"` of each token, in lines.
    fn tokens(self, row: &Row) -> Vec<String> {
        let (mut lines, mut width) = (vec![String::new()], 0);
        for ((token, piece), &trained) in row.tokens.iter().zip(&row.pieces).zip(&row.supervised) {
            let bare = format!("{token} {piece:?}");
            let (shown, columns) = match (trained, self) {
                (false, _) => (bare.clone(), bare.chars().count()),
                (true, Self::Marks) => (format!("[{bare}]"), bare.chars().count() + 2),
                (true, Self::Colour) => (format!("{GREEN}{bare}{GREEN:#}"), bare.chars().count()),
            };
            if width > 0 && width + 2 + columns > WIDTH {
                lines.push(String::new());
                width = 0;
            }
            if let Some(line) = lines.last_mut() {
                let space = if width > 0 { "  " } else { "" };
                line.push_str(space);
                line.push_str(&shown);
                width += space.len() + columns;
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let pieces = ["<s>", "Say", "\x1b[31m", "a\n", "", "€", "</s>"].map(str::to_owned).to_vec();
        Row {
            source: "a.jsonl".into(),
            row: 3,
            packed_row: None,
            part: None,
            sequence: Item::TOKENS.into(),
            text: pieces.concat(),
            tokens: (1..8).collect(),
            supervised: vec![false, false, false, true, true, true, true],
            pieces,
            supervised_tokens: 4,
            truncated: 2,
            notes: Vec::new(),
        }
    }

    #[test]
    fn marks_enclose_exactly_what_is_trained() {
        let shown = Paint::Marks.row(&row());
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "a.jsonl:3  7 tokens, 4 trained, 2 more cut off at trainer.max_seq_len",
                "  │ <s>Say\\u001b[31m⟦a",
                "  │ €</s>⟧",
                r#"  1 "<s>"  2 "Say"  3 "\u{1b}[31m"  [4 "a\n"]  [5 ""]  [6 "€"]  [7 "</s>"]"#,
            ]
        );
    }

    #[test]
    fn colours_end_with_their_line_and_are_the_only_escape_sequences() {
        let shown = Paint::Colour.row(&row());
        assert!(shown.contains("  │ <s>Say\\u001b[31m\x1b[32ma\x1b[0m\n  │ \x1b[32m€</s>\x1b[0m\n"), "{shown:?}");
        assert!(!shown.contains('⟦') && !shown.contains("[4 "), "{shown}");
        assert_eq!(shown.matches('\x1b').count(), shown.matches("\x1b[32m").count() + shown.matches("\x1b[0m").count());
    }

    #[test]
    fn many_tokens_are_broken_into_lines_between_tokens() {
        let (tokens, pieces) = ((0..200).collect(), vec!["word".to_owned(); 200]);
        let row = Row { tokens, pieces, supervised: vec![true; 200], ..row() };
        let lines = Paint::Marks.tokens(&row);
        assert!(lines.len() > 10 && lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(lines.iter().map(|line| line.matches('[').count()).sum::<usize>(), 200);
    }
}
