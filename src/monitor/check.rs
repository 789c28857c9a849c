//! Whether a sandbox can be started, as far as that is known before anything is made.

#[cfg(not(feature = "consoles"))]
use super::console::{Console, ConsoleError};
#[cfg(feature = "consoles")]
use super::console_channels;
use super::log_claim::LogClaim;
use super::parts::Parts;
use super::sandbox::Sandbox;
use super::transition::StartError;
use crate::logfile::LogFile;

/// Checks the logs and consoles of a sandbox, and claims its log.
///
/// # Errors
///
/// Another monitor has the log, or it is unusable; a console is described wrongly, or there are no consoles in this build.
pub(super) fn check(parts: &mut Parts) -> Result<(), StartError> {
    if parts.own_log {
        claim_log(parts)?;
    }
    let sandbox = &parts.sandbox;
    if sandbox.journal && !cfg!(all(feature = "journald", target_os = "linux")) {
        return Err(StartError::NoJournal);
    }
    #[cfg(feature = "consoles")]
    console_channels::check(sandbox, &parts.given_consoles)?;
    #[cfg(not(feature = "consoles"))]
    refuse_consoles(sandbox)?;
    Ok(())
}

fn claim_log(parts: &mut Parts) -> Result<(), StartError> {
    parts.log_claim = LogClaim::take(&parts.sandbox.log_path());
    let Sandbox { log_dir, config_file, name, .. } = &parts.sandbox;
    if parts.log_claim.is_none() {
        return Err(StartError::Taken {
            config_file: config_file.to_string(),
            name: name.to_string(),
            supervisor: parts.supervisor.pid,
        });
    }
    LogFile::check(log_dir, config_file.as_str(), name.as_str())?;
    Ok(())
}

/// A record may describe consoles: such a sandbox is refused, and not started without them.
#[cfg(not(feature = "consoles"))]
fn refuse_consoles(sandbox: &Sandbox) -> Result<(), ConsoleError> {
    let described = sandbox.consoles.first().map(Console::name);
    match described.or(sandbox.interactive.as_ref()) {
        Some(name) => Err(ConsoleError::NotBuilt(name.to_string())),
        None => Ok(()),
    }
}

#[cfg(all(test, not(feature = "consoles")))]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_with_consoles_on_record_is_refused_without_the_feature() {
        let sandbox = Sandbox::new("a", "/log").unwrap();
        assert!(refuse_consoles(&sandbox).is_ok());
        let described = Sandbox { consoles: vec!["x=pty".parse().unwrap()], ..sandbox.clone() };
        let interactive = Sandbox { interactive: Some("x".parse().unwrap()), ..sandbox };
        for sandbox in [described, interactive] {
            let error = refuse_consoles(&sandbox).unwrap_err().to_string();
            assert_eq!(
                error,
                "the console x can't be opened: this program was built without consoles"
            );
        }
    }
}
