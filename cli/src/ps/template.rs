//! Formats a run by a template: text with the keys of `--json` in braces.

use std::str::FromStr;

use serde_json::Value;
use vmon::registry::Run;

use super::super::live;
use super::super::messages::printable;
use super::super::output::json_line;
use super::super::run_object::{RUN_KEYS, recorded, run_object};

/// A template. All its fields are known keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(&'static str),
    /// The value of the label with this key.
    Label(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("there is no field '{0}': the fields are {list}, and labels.KEY", list = RUN_KEYS.join(", "))]
    Unknown(String),
    #[error("unbalanced brace: write {{name}} for a field, and {{{{ or }}}} for a brace")]
    Brace,
    #[error(
        "neither table, json, names, openmetrics nor a template: a template has a field, as in '{{name}} {{pid}}'"
    )]
    NoField,
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(template: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut characters = template.chars().peekable();
        while let Some(character) = characters.next() {
            match (character, characters.peek()) {
                ('{', Some('{')) | ('}', Some('}')) | ('\\', Some('\\')) => {
                    text.extend(characters.next());
                }
                ('\\', Some('t')) => {
                    characters.next();
                    text.push('\t');
                }
                ('\\', Some('n')) => {
                    characters.next();
                    text.push('\n');
                }
                ('{', _) => {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(field(&mut characters)?);
                }
                ('}', _) => return Err(TemplateError::Brace),
                _ => text.push(character),
            }
        }
        pieces.push(Piece::Text(text));
        let has_field = pieces.iter().any(|piece| !matches!(piece, Piece::Text(_)));
        if has_field { Ok(Self(pieces)) } else { Err(TemplateError::NoField) }
    }
}

/// Parses a field after its opening brace.
fn field(characters: &mut impl Iterator<Item = char>) -> Result<Piece, TemplateError> {
    let mut name = String::new();
    loop {
        match characters.next() {
            Some('}') => break,
            Some('{') | None => return Err(TemplateError::Brace),
            Some(character) => name.push(character),
        }
    }
    if let Some(key) = name.strip_prefix("labels.").filter(|key| !key.is_empty()) {
        return Ok(Piece::Label(key.to_owned()));
    }
    let known = RUN_KEYS.into_iter().find(|key| *key == name);
    known.map(Piece::Field).ok_or(TemplateError::Unknown(name))
}

impl Template {
    /// Formats each run as a line. Supervisors are asked only for a field that they answer.
    pub fn lines(&self, runs: &[&Run]) -> String {
        let asks = ["consoles", "waits"].iter().any(|key| self.0.contains(&Piece::Field(key)));
        if !asks {
            return runs.iter().map(|run| self.line(&recorded(run))).collect();
        }
        let answers = live::answers(runs);
        runs.iter().zip(answers).map(|(run, answer)| self.line(&run_object(run, &answer))).collect()
    }

    /// Values from the database are escaped; the template's text is not.
    fn line(&self, object: &Value) -> String {
        let mut line = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Field(key) => line.push_str(&cell(object.get(key))),
                Piece::Label(key) => {
                    let labels = object.get("labels");
                    line.push_str(&cell(labels.and_then(|labels| labels.get(key))));
                }
            }
        }
        line.push('\n');
        line
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => printable(text).into_owned(),
        Some(other) => json_line(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Template, TemplateError> {
        text.parse()
    }

    #[test]
    fn a_template_has_text_fields_and_escapes() {
        let text = |text: &str| Piece::Text(text.to_owned());
        let pieces = vec![text("{\t"), Piece::Field("name"), text("}\n\\x")];
        assert_eq!(parse("{{\\t{name}}}\\n\\\\x"), Ok(Template(pieces)));
        let label = vec![text(""), Piece::Label("a.b/c".to_owned()), text("")];
        assert_eq!(parse("{labels.a.b/c}"), Ok(Template(label)));
    }

    #[test]
    fn an_invalid_template_is_refused_with_an_explanation() {
        let unknown = parse("{nmae}").unwrap_err().to_string();
        assert!(unknown.contains("'nmae'") && unknown.contains("config_file"), "{unknown}");
        assert_eq!(parse("{labels.}"), Err(TemplateError::Unknown("labels.".to_owned())));
        for text in ["{name", "name}", "{na{me}"] {
            assert_eq!(parse(text), Err(TemplateError::Brace), "{text}");
        }
        for text in ["", "csv", "{{name}}"] {
            assert_eq!(parse(text), Err(TemplateError::NoField), "{text}");
        }
    }
}
