//! The options shared by most subcommands.

use std::path::PathBuf;

use tracing::level_filters::LevelFilter;

use super::Failure;
use super::args::one_of;
use super::messages::LEVELS;
use super::places::{Places, default_state_dir};

// No doc comment: it would replace the description of the subcommand.
#[derive(Debug, clap::Args)]
pub struct SharedArgs {
    /// State directory, with log/, run/ and sandbox.db [default: $VMON_STATE_DIR, else
    /// $XDG_STATE_HOME/vmon, else ~/.local/state/vmon]
    #[arg(long, value_name = "DIR", help_heading = "Paths")]
    state_dir: Option<PathBuf>,

    /// Database of the record; run/ is beside it [default: STATE/sandbox.db]
    #[arg(long, value_name = "FILE", alias = "sandbox-db-path", help_heading = "Paths")]
    db: Option<PathBuf>,

    /// Log level of messages on stderr
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "warn",
        value_parser = one_of::<LevelFilter>(LEVELS)
    )]
    pub log_level: LevelFilter,
}

impl SharedArgs {
    /// The paths selected by options and environment.
    pub fn places(&self) -> Result<Places, Failure> {
        let state_dir = match &self.state_dir {
            Some(given) => given.clone(),
            None => default_state_dir(|name| std::env::var_os(name))?,
        };
        Places::new(&state_dir, self.db.as_deref())
    }
}

/// The database selected by these options and the environment, for completion.
pub fn default_db(state_dir: Option<PathBuf>, db: Option<PathBuf>) -> Option<PathBuf> {
    let shared = SharedArgs { state_dir, db, log_level: LevelFilter::OFF };
    shared.places().ok().map(|places| places.db.path)
}
