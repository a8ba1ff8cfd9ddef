//! The CNI plugin: a container runtime (Podman, containerd, CRI-O) runs us with variables in the environment and the configuration on standard
//! input, and reads the answer from standard output (CNI specification 1.1.0).
//!
//! ```text
//!  environment ─► verb, attachment, arguments ┐
//!  stdin ─► version, network, wishes          ┴─► verbs ─► container::{attach, detach, check, collect}
//!                                  result, or error ◄┘
//! ```
//!
//! What takes away needs the names of network, container and interface only: no namespace, no earlier result, no daemon. The program is its own
//! plugin, by whatever name it is called, as soon as the environment has `CNI_COMMAND`; [`install`] puts a link to it where runtimes look.

mod config;
mod environment;
mod error;
pub mod install;
mod result;
mod verbs;
mod version;

pub use config::Dns;
pub use environment::Verb;
pub use error::{Code, Error};
pub use version::Version;

use std::ffi::OsString;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use self::config::Network;
use self::environment::Lookup;
use super::Key;

/// The variable by whose presence we know that a runtime calls us.
const COMMAND: &str = "CNI_COMMAND";

/// Whether a runtime calls us as its plugin.
pub fn is_asked() -> bool {
    std::env::var_os(COMMAND).is_some()
}

/// Does what the runtime asks; answers the exit code.
pub fn run() -> u8 {
    // Standard output is for the answer alone.
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .without_time()
        .with_writer(io::stderr)
        .try_init();
    let lookup = |name: &str| std::env::var_os(name);
    let answer = answer(&lookup, io::stdin().lock());
    if say(&answer.text).is_ok() {
        return answer.exit_code;
    }
    // The runtime does not know of what was made, and may never ask for its end.
    if let Some((network, key)) = answer.undo {
        verbs::take_back(&network, &key);
    }
    1
}

fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// What is said to the runtime.
struct Answer {
    text: String,
    exit_code: u8,
    /// What is to be taken away if nobody hears it.
    undo: Option<(Network, Key)>,
}

/// What was done.
enum Done {
    Silently,
    With(Value),
    Added(Value, Network, Key),
}

fn answer(lookup: Lookup<'_>, input: impl Read) -> Answer {
    let mut version = Version::LATEST;
    match carry_out(lookup, input, &mut version) {
        Ok(Done::Silently) => Answer { text: String::new(), exit_code: 0, undo: None },
        Ok(Done::With(value)) => Answer { text: format!("{value}\n"), exit_code: 0, undo: None },
        Ok(Done::Added(value, network, key)) => {
            Answer { text: format!("{value}\n"), exit_code: 0, undo: Some((network, key)) }
        }
        Err(error) => Answer { text: error.to_json(version), exit_code: 1, undo: None },
    }
}

/// `version` is that in which to answer, as soon as it is known.
fn carry_out(lookup: Lookup<'_>, input: impl Read, version: &mut Version) -> Result<Done, Error> {
    let verb = environment::verb(lookup)?;
    let text = read(input)?;
    if verb == Verb::Version {
        return Ok(Done::With(versions(&text)?));
    }
    config::check(&text)?;
    let asked = version::asked(&text)?;
    *version = version::to_answer(&asked);
    let agreed = version::agree(&asked, verb)?;
    match verb {
        Verb::Add => {
            let attachment = environment::attachment(lookup)?;
            let netns = environment::namespace(lookup)?;
            let arguments = environment::arguments(lookup)?;
            let network = config::network(&text)?;
            let wishes = config::wishes(&text, &network, arguments)?;
            let previous = config::previous(&text)?;
            let key = network.key(attachment.clone());
            let result = verbs::add(agreed, &network, attachment, netns, wishes, previous)?;
            Ok(Done::Added(result, network, key))
        }
        Verb::Del => {
            let attachment = environment::attachment(lookup)?;
            verbs::del(&config::network(&text)?, attachment).map(|()| Done::Silently)
        }
        Verb::Check => {
            let attachment = environment::attachment(lookup)?;
            let netns = environment::namespace(lookup)?;
            let network = config::network(&text)?;
            verbs::check(&network, attachment, &netns, config::previous(&text)?).map(|()| Done::Silently)
        }
        Verb::Status => {
            let network = config::network(&text)?;
            // What ADD would refuse makes this network one that is not available.
            config::wishes(&text, &network, environment::Arguments::default())?;
            verbs::status(&network).map(|()| Done::Silently)
        }
        Verb::Gc => verbs::gc(&config::network(&text)?, &config::valid(&text)?).map(|()| Done::Silently),
        Verb::Version => Ok(Done::Silently),
    }
}

/// Standard input, up to what is reasonable.
fn read(input: impl Read) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    input
        .take(config::MAX as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|e| Error::new(Code::Io, format!("cannot read the network configuration from standard input: {e}")))?;
    if text.len() > config::MAX {
        let details = format!("the network configuration on standard input has more than {} bytes", config::MAX);
        return Err(Error::new(Code::Decode, details));
    }
    Ok(text)
}

/// What VERSION answers: the version that was asked in, and all that we speak.
fn versions(text: &[u8]) -> Result<Value, Error> {
    // Runtimes of old say nothing.
    let asked =
        if text.iter().all(u8::is_ascii_whitespace) { Version::LATEST.to_string() } else { version::asked(text)? };
    let ours: Vec<_> = Version::ALL.iter().map(ToString::to_string).collect();
    Ok(json!({"cniVersion": asked, "supportedVersions": ours}))
}

/// Reads what a runtime says for ADD, for CHECK and for GC, and does nothing: for fuzzing.
///
/// # Errors
/// What ADD would refuse.
#[doc(hidden)]
pub fn read_only(arguments: &[u8], text: &[u8]) -> Result<(), Error> {
    use std::os::unix::ffi::OsStrExt;
    let arguments = OsString::from(std::ffi::OsStr::from_bytes(arguments));
    let lookup = |name: &str| (name == "CNI_ARGS").then(|| arguments.clone());
    let text = read(text)?;
    config::check(&text)?;
    let version = version::agree(&version::asked(&text)?, Verb::Add);
    let _ = (versions(&text)?, config::valid(&text));
    if let Some(previous) = config::previous(&text)? {
        result::check(version.clone().unwrap_or(Version::LATEST), &previous)?;
    }
    let network = config::network(&text)?;
    config::wishes(&text, &network, environment::arguments(&lookup)?)?;
    version.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(variables: &[(&str, &str)], text: &str) -> (u8, Value) {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let answer = answer(&lookup, text.as_bytes());
        (answer.exit_code, serde_json::from_str(&answer.text).unwrap_or_default())
    }

    #[test]
    fn versions_are_told_to_who_asks_in_any() {
        let ours = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        for (text, version) in [
            (r#"{"cniVersion":"1.0.0"}"#, "1.0.0"),
            (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
            ("", "1.1.0"),
            ("{}", "0.1.0"),
        ] {
            let (code, answer) = ask(&[(COMMAND, "VERSION")], text);
            assert_eq!(
                (code, &answer["cniVersion"], &answer["supportedVersions"]),
                (0, &version.into(), &ours),
                "{text}"
            );
        }
        assert_eq!(ask(&[(COMMAND, "VERSION")], "{").1["code"], 6);
    }

    #[test]
    fn an_error_is_in_the_version_that_was_asked_in_if_we_speak_it() {
        for (asked, answered) in [("0.4.0", "0.4.0"), ("1.0.0", "1.0.0"), ("9.9.9", "1.1.0"), ("0.2.0", "1.1.0")] {
            let (code, error) = ask(&[(COMMAND, "ADD")], &json!({"cniVersion": asked, "name": "adit"}).to_string());
            assert_eq!((code, &error["cniVersion"]), (1, &answered.into()));
        }
    }

    #[test]
    fn too_much_is_not_read() {
        let long = format!(r#"{{"cniVersion":"1.0.0","name":"adit","x":"{}"}}"#, "x".repeat(config::MAX));
        let (code, error) = ask(&[(COMMAND, "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")], &long);
        assert_eq!((code, &error["code"]), (1, &6.into()));
    }

    #[test]
    fn a_command_that_is_none_is_refused() {
        for command in ["", "add", "UPDATE", "ADD "] {
            let (code, error) = ask(&[(COMMAND, command)], "{}");
            assert_eq!((code, &error["code"]), (1, &4.into()), "{command}");
            assert!(error["msg"].as_str().unwrap().contains("CNI_COMMAND"));
        }
    }
}
