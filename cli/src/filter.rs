//! Selection of runs and sandboxes by `--filter`, in the syntax of podman: label, name and status.
//!
//! Each label must match, and one of the names and one of the states, if any are given. A sandbox is
//! selected by its current run, or its last one.

use std::str::FromStr;

use vmon::monitor::{Labels, Phase};
use vmon::registry::Run;

use super::outcome::Outcome;
use super::record::{Record, Recorded, Selector};
use super::run_object::{STATES, labels, state};

/// The arguments of a command that lists runs.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filters {
    /// Select by label=KEY[=VALUE], label!=KEY[=VALUE], name=[CONFIG/]NAME or status=STATUS. May be
    /// repeated: all labels must match, one of the names and one of the states
    #[arg(long = "filter", id = "filter", value_name = "FILTER")]
    filters: Vec<Filter>,
}

/// The arguments of a command that selects by labels only.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LabelFilters {
    /// Select by label=KEY[=VALUE] or label!=KEY[=VALUE]. May be repeated: all must match
    #[arg(long = "filter", id = "filter", value_name = "FILTER")]
    filters: Vec<LabelFilter>,
}

/// The arguments of a command that requires names or filters.
#[derive(Debug, clap::Args)]
pub struct Targets {
    /// Sandboxes: NAME, or CONFIG/NAME if several configs have that name. Required without --filter
    #[arg(value_name = "NAME", required_unless_present = "filter", conflicts_with = "filter")]
    pub names: Vec<Selector>,

    #[command(flatten)]
    filters: Filters,
}

/// A condition on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Label(LabelFilter),
    Name(Selector),
    State(Phase),
}

/// A label that a run must have, or must not have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelFilter {
    key: String,
    /// Any value if there is none.
    value: Option<String>,
    is_wanted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error(
        "not a filter: give label=KEY[=VALUE], label!=KEY[=VALUE], name=[CONFIG/]NAME or status=STATUS"
    )]
    Unknown,
    #[error("not a filter of this command: give label=KEY[=VALUE] or label!=KEY[=VALUE]")]
    NotALabel,
    #[error("no key of a label: give label=KEY for any value, or label=KEY=VALUE")]
    NoKey,
    #[error(
        "{0:?} is not a status: give one of {list}",
        list = STATES.map(|state| state.as_str().to_ascii_lowercase()).join(", ")
    )]
    State(String),
}

impl FromStr for LabelFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (label, is_wanted) = match text.split_once('=') {
            Some(("label", label)) => (label, true),
            Some(("label!", label)) => (label, false),
            _ => return Err(FilterError::NotALabel),
        };
        let (key, value) = match label.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (label, None),
        };
        match key.is_empty() {
            true => Err(FilterError::NoKey),
            false => Ok(Self { key: key.to_owned(), value, is_wanted }),
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        match text.split_once('=') {
            Some(("name", name)) => match name.parse() {
                Ok(name) => Ok(Self::Name(name)),
                Err(never) => match never {},
            },
            Some(("status", word)) => match word.to_ascii_uppercase().parse() {
                Ok(state) if STATES.contains(&state) => Ok(Self::State(state)),
                _ => Err(FilterError::State(word.to_owned())),
            },
            _ => match text.parse() {
                Err(FilterError::NotALabel) => Err(FilterError::Unknown),
                label => label.map(Self::Label),
            },
        }
    }
}

impl LabelFilter {
    /// Labels that are not known, as of a sandbox of another program, are none.
    fn matches(&self, labels: Option<&Labels>) -> bool {
        let found = labels.and_then(|labels| labels.get(&self.key));
        let has = match (&self.value, found) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(value), Some(found)) => value == found,
        };
        has == self.is_wanted
    }
}

impl LabelFilters {
    /// Whether a run or sandbox with these labels is selected.
    pub fn match_labels(&self, labels: Option<&Labels>) -> bool {
        self.filters.iter().all(|filter| filter.matches(labels))
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }
}

impl Filters {
    /// Whether a run is selected.
    pub fn match_run(&self, run: &Run) -> bool {
        let filters = || self.filters.iter();
        let mut has_labels = filters().filter_map(|filter| match filter {
            Filter::Label(label) => Some(label.matches(labels(run))),
            Filter::Name(_) | Filter::State(_) => None,
        });
        let names = filters().filter_map(|filter| match filter {
            Filter::Name(name) => Some(name.matches(&run.config_file, &run.name)),
            Filter::Label(_) | Filter::State(_) => None,
        });
        let states = filters().filter_map(|filter| match filter {
            Filter::State(wanted) => Some(*wanted == state(run)),
            Filter::Label(_) | Filter::Name(_) => None,
        });
        has_labels.all(|has| has) && none_or_one(names) && none_or_one(states)
    }

    /// Whether a sandbox is selected for a change. Those of other programs never are: they have no
    /// labels, so `label!=KEY` would remove them all.
    fn select(&self, sandbox: &Recorded) -> bool {
        sandbox.latest().is_some_and(|run| run.id.is_some() && self.match_run(run))
    }

    fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether ended runs are asked for.
    pub fn want_ended(&self) -> bool {
        self.filters.contains(&Filter::State(Phase::Stopped))
    }
}

impl Targets {
    /// Whether a sandbox is named or selected by the filters.
    pub fn include(&self, sandbox: &Recorded) -> bool {
        match self.names.as_slice() {
            // Without filters too, which clap refuses, nothing is selected: it may be removed.
            [] => !self.filters.is_empty() && self.filters.select(sandbox),
            names => names.iter().any(|it| it.matches(&sandbox.config_file, &sandbox.name)),
        }
    }

    /// The sandboxes of a record: in the order of the names, which are reported if they select none,
    /// or all that the filters select, of which there may be none.
    pub fn select<'a>(&self, record: &'a Record, outcome: &mut Outcome) -> Vec<&'a Recorded> {
        match self.names.as_slice() {
            [] => record.sandboxes().iter().filter(|it| self.include(it)).collect(),
            names => record.select(names, outcome),
        }
    }
}

/// Whether nothing was asked for, or one of the things matches.
fn none_or_one(mut matches: impl Iterator<Item = bool>) -> bool {
    match matches.next() {
        None | Some(true) => true,
        Some(false) => matches.any(|it| it),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let mut labels = Labels::default();
        for (key, value) in pairs {
            labels.insert(*key, *value).unwrap();
        }
        labels
    }

    #[test]
    fn a_label_is_matched_by_its_key_or_by_key_and_value() {
        let labels = labels(&[("app", "a=b"), ("empty", "")]);
        for (filter, expected) in [
            ("label=app", true),
            ("label=app=a=b", true),
            ("label=app=a", false),
            ("label=app=", false),
            ("label=empty", true),
            ("label=empty=", true),
            ("label=other", false),
            ("label=ap", false),
            ("label!=app", false),
            ("label!=app=a", true),
            ("label!=app=a=b", false),
            ("label!=other", true),
        ] {
            let parsed: LabelFilter = filter.parse().unwrap();
            assert_eq!(parsed.matches(Some(&labels)), expected, "{filter}");
        }
        let of_none = |filter: &str| filter.parse::<LabelFilter>().unwrap().matches(None);
        assert!(!of_none("label=app") && of_none("label!=app"));
    }

    #[test]
    fn an_invalid_filter_is_refused_with_the_valid_ones() {
        let error = |text: &str| text.parse::<Filter>().unwrap_err();
        for text in ["", "label", "app=web", "id=1", "status", "Label=a"] {
            assert_eq!(error(text), FilterError::Unknown, "{text}");
        }
        for text in ["label=", "label==x", "label!="] {
            assert_eq!(error(text), FilterError::NoKey, "{text}");
        }
        for text in ["status=", "status=exited", "status=draining"] {
            assert!(matches!(error(text), FilterError::State(_)), "{text}");
        }
        assert_eq!("status=Stopped".parse(), Ok(Filter::State(Phase::Stopped)));
        assert_eq!("name=web".parse::<LabelFilter>(), Err(FilterError::NotALabel));
        let said = error("status=x").to_string();
        assert!(said.ends_with("starting, running, stopping, restarting, stopped"), "{said}");
    }
}
