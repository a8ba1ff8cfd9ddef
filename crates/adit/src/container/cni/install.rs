//! Telling the runtimes of a host about the plugin: a configuration where they look for networks, and a link to this program where they look for
//! plugins. Both are taken away again, and nothing that is another's.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Version;
use super::config::is_identifier;
use crate::{Directories, Failure, Result, files};

/// The type of the plugin, which is the name of its program.
pub const TYPE: &str = "adit";

/// Where runtimes look for networks.
pub const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// Where runtimes look for plugins.
pub const PLUGINS: &str = "/opt/cni/bin";

/// The version that runtimes are told first: those that know of no list of versions know this one.
const VERSION: Version = Version::V1_0_0;

/// Which directories are meant, and which network.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where networks are looked for.
    pub configurations: PathBuf,
    /// Where plugins are looked for.
    pub plugins: PathBuf,
    /// What the network is called.
    pub name: String,
}

/// What the configuration is to say.
#[derive(Debug, Clone)]
pub struct Options {
    /// The device of the node.
    pub device: String,
    /// Where the node keeps what it knows.
    pub directories: Directories,
    /// Whether containers may speak to no other container of their host.
    pub isolated: bool,
}

/// What was done, or found done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The file of the network.
    pub configuration: PathBuf,
    /// The link to the program.
    pub plugin: PathBuf,
}

impl Target {
    fn configuration(&self) -> PathBuf {
        // Runtimes take the first of a directory for their default.
        self.configurations.join(format!("10-{}.conflist", self.name))
    }

    fn plugin(&self) -> PathBuf {
        self.plugins.join(TYPE)
    }

    fn check(&self) -> Result<()> {
        if is_identifier(&self.name) {
            return Ok(());
        }
        let sentence = format!(
            "{:?} is no name for a network: it begins with a letter or digit, and goes on with letters, digits, '_', '.' and '-'",
            self.name
        );
        Err(Failure::usage(sentence))
    }
}

impl Options {
    /// The list of plugins of the network.
    fn list(&self, name: &str) -> Value {
        let mut plugin = json!({
            "type": TYPE,
            "device": self.device,
            "capabilities": {"portMappings": true, "ips": true, "mac": true},
        });
        let defaults = Directories::default();
        if self.directories.runtime != defaults.runtime {
            plugin["runtimeDir"] = json!(self.directories.runtime);
        }
        if self.directories.state != defaults.state {
            plugin["stateDir"] = json!(self.directories.state);
        }
        if self.isolated {
            plugin["portIsolation"] = true.into();
        }
        let all: Vec<_> = Version::ALL.iter().map(ToString::to_string).collect();
        json!({"cniVersion": VERSION.to_string(), "cniVersions": all, "name": name, "plugins": [plugin]})
    }
}

/// Puts both where runtimes look, in the place of our own from before.
///
/// # Errors
/// Something of another's is there, or a file cannot be written; then nothing has changed.
pub fn install(target: &Target, options: &Options, program: &Path) -> Result<Changed> {
    target.check()?;
    let (configuration, plugin) = (target.configuration(), target.plugin());
    if !is_free_or_ours(&configuration)? {
        let sentence =
            format!("{} is another's network; remove it, or choose another name with --name", configuration.display());
        return Err(Failure::failed(sentence));
    }
    if let Some(other) = other_network(target)? {
        let sentence = format!(
            "{} has a network {} already; remove it, or choose another name with --name",
            other.display(),
            target.name
        );
        return Err(Failure::failed(sentence));
    }
    let before = link_of(&plugin, program)?;
    let linked = match before {
        Plugin::Absent | Plugin::Link(_) => put_link(&plugin, program),
        Plugin::Other => {
            let sentence = format!(
                "{} is another's program; remove it, or choose another directory with --bin-dir",
                plugin.display()
            );
            return Err(Failure::failed(sentence));
        }
    };
    linked.map_err(|e| cannot("write", &plugin, &e))?;
    let text = serde_json::to_string_pretty(&options.list(&target.name)).unwrap_or_default();
    if let Err(e) = files::replace(&configuration, format!("{text}\n").as_bytes(), 0o644) {
        match before {
            Plugin::Link(to) => drop(put_link(&plugin, &to)),
            _ => drop(fs::remove_file(&plugin)),
        }
        return Err(cannot("write", &configuration, &e));
    }
    Ok(Changed { configuration, plugin })
}

/// Takes both away if they are ours; the link only if no other network here needs it. Answers what was removed.
///
/// # Errors
/// A file cannot be read or removed, or is another's.
pub fn uninstall(target: &Target, program: &Path) -> Result<Vec<PathBuf>> {
    target.check()?;
    let (configuration, plugin) = (target.configuration(), target.plugin());
    let mut removed = Vec::new();
    if configuration.symlink_metadata().is_ok() {
        if !is_free_or_ours(&configuration)? {
            return Err(Failure::failed(format!(
                "{} is another's network; it is left as it is",
                configuration.display()
            )));
        }
        fs::remove_file(&configuration).map_err(|e| cannot("remove", &configuration, &e))?;
        removed.push(configuration);
    }
    if matches!(link_of(&plugin, program)?, Plugin::Link(_)) && !is_needed(&target.configurations)? {
        fs::remove_file(&plugin).map_err(|e| cannot("remove", &plugin, &e))?;
        removed.push(plugin);
    }
    Ok(removed)
}

/// What stands where our link is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plugin {
    Absent,
    /// A link to this program, or to one of our name, which may be gone by now.
    Link(PathBuf),
    Other,
}

fn link_of(plugin: &Path, program: &Path) -> Result<Plugin> {
    match fs::read_link(plugin) {
        Ok(to) if to == program || to.file_name().is_some_and(|name| name == TYPE) => Ok(Plugin::Link(to)),
        Ok(_) => Ok(Plugin::Other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Plugin::Absent),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(Plugin::Other),
        Err(e) => Err(cannot("read", plugin, &e)),
    }
}

/// Replaces the link in one step: a runtime that looks at this moment finds one of both.
fn put_link(plugin: &Path, program: &Path) -> io::Result<()> {
    let directory = plugin.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let temporary = directory.join(format!(".{TYPE}.{}.new", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    symlink(program, &temporary)?;
    fs::rename(&temporary, plugin).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// The plugins of a list of ours, or of a configuration of any form.
fn is_ours(list: &Value) -> bool {
    let mut plugins = list.get("plugins").and_then(Value::as_array).into_iter().flatten();
    plugins.any(|plugin| plugin.get("type").and_then(Value::as_str) == Some(TYPE))
}

fn is_free_or_ours(configuration: &Path) -> Result<bool> {
    match fs::read(configuration) {
        Ok(text) => Ok(serde_json::from_slice(&text).is_ok_and(|list| is_ours(&list))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(cannot("read", configuration, &e)),
    }
}

/// The lists of a directory, as far as they can be read.
fn lists(configurations: &Path) -> Result<Vec<(PathBuf, Value)>> {
    let entries = match fs::read_dir(configurations) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(cannot("read", configurations, &e)),
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let lists = paths.filter(|path| path.extension().is_some_and(|extension| extension == "conflist"));
    let read = |path: PathBuf| {
        let list = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some((path, list))
    };
    Ok(lists.filter_map(read).collect())
}

/// Another file with a network of this name: which of both a runtime takes would be chance.
fn other_network(target: &Target) -> Result<Option<PathBuf>> {
    let own = target.configuration();
    let has_name = |list: &Value| list.get("name").and_then(Value::as_str) == Some(&target.name);
    Ok(lists(&target.configurations)?
        .into_iter()
        .find(|(path, list)| *path != own && has_name(list))
        .map(|(path, _)| path))
}

fn is_needed(configurations: &Path) -> Result<bool> {
    Ok(lists(configurations)?.iter().any(|(_, list)| is_ours(list)))
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::failed(format!("cannot {verb} {}: {error}", path.display()));
    if error.kind() == io::ErrorKind::PermissionDenied { failure.with_remedy("run this as root") } else { failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        directory: tempfile::TempDir,
        target: Target,
    }

    impl Host {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            let target = Target { configurations: path("net.d"), plugins: path("bin"), name: "adit".into() };
            Self { target, directory }
        }

        fn named(&self, name: &str) -> Target {
            Target { name: name.into(), ..self.target.clone() }
        }

        fn program(&self) -> PathBuf {
            self.directory.path().join("adit")
        }

        fn files(&self) -> Vec<String> {
            let names = ["net.d", "bin"].into_iter().flat_map(|name| {
                let entries = fs::read_dir(self.directory.path().join(name)).into_iter().flatten();
                entries.map(move |entry| format!("{name}/{}", entry.unwrap().file_name().to_str().unwrap()))
            });
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    fn options() -> Options {
        Options { device: "adit0".into(), directories: Directories::default(), isolated: false }
    }

    #[test]
    fn what_is_installed_twice_is_there_once_and_goes_again() {
        let host = Host::new();
        for _ in 0..2 {
            let changed = install(&host.target, &options(), &host.program()).unwrap();
            assert_eq!(fs::read_link(&changed.plugin).unwrap(), host.program());
            assert_eq!(host.files(), ["bin/adit", "net.d/10-adit.conflist"]);
            let list: Value = serde_json::from_slice(&fs::read(&changed.configuration).unwrap()).unwrap();
            assert_eq!((&list["cniVersion"], &list["name"]), (&"1.0.0".into(), &"adit".into()));
            assert_eq!(list["cniVersions"].as_array().unwrap().len(), 4);
            assert_eq!(list["plugins"][0]["type"], "adit");
            assert_eq!(list["plugins"][0].get("stateDir"), None);
        }
        assert_eq!(uninstall(&host.target, &host.program()).unwrap().len(), 2);
        assert!(host.files().is_empty());
        assert!(uninstall(&host.target, &host.program()).unwrap().is_empty());
    }

    #[test]
    fn the_link_stays_as_long_as_a_network_needs_it() {
        let host = Host::new();
        install(&host.target, &options(), &host.program()).unwrap();
        let other = Options { device: "adit1".into(), isolated: true, ..options() };
        install(&host.named("office"), &other, &host.program()).unwrap();
        let text = fs::read_to_string(host.target.configurations.join("10-office.conflist")).unwrap();
        assert!(text.contains(r#""device": "adit1""#) && text.contains(r#""portIsolation": true"#), "{text}");
        uninstall(&host.target, &host.program()).unwrap();
        assert_eq!(host.files(), ["bin/adit", "net.d/10-office.conflist"]);
        uninstall(&host.named("office"), &host.program()).unwrap();
        assert!(host.files().is_empty());
    }

    #[test]
    fn nothing_of_another_is_touched() {
        let host = Host::new();
        let foreign = host.target.configurations.join("10-adit.conflist");
        fs::create_dir_all(&host.target.configurations).unwrap();
        fs::create_dir_all(&host.target.plugins).unwrap();
        for text in [r#"{"name":"adit","plugins":[{"type":"bridge"}]}"#, "not JSON", ""] {
            fs::write(&foreign, text).unwrap();
            assert!(install(&host.target, &options(), &host.program()).unwrap_err().sentence().contains("--name"));
            uninstall(&host.target, &host.program()).unwrap_err();
            assert_eq!(fs::read_to_string(&foreign).unwrap(), text);
        }
        let same_name = host.target.configurations.join("87-podman.conflist");
        fs::rename(&foreign, &same_name).unwrap();
        fs::write(&same_name, r#"{"name":"adit","plugins":[{"type":"bridge"}]}"#).unwrap();
        assert!(
            install(&host.target, &options(), &host.program()).unwrap_err().sentence().contains("87-podman.conflist")
        );
        fs::remove_file(&same_name).unwrap();
        let plugin = host.target.plugins.join("adit");
        fs::write(&plugin, "a program").unwrap();
        assert!(install(&host.target, &options(), &host.program()).unwrap_err().sentence().contains("--bin-dir"));
        assert!(uninstall(&host.target, &host.program()).unwrap().is_empty());
        fs::remove_file(&plugin).unwrap();
        symlink("/bin/true", &plugin).unwrap();
        install(&host.target, &options(), &host.program()).unwrap_err();
        assert_eq!(host.files(), ["bin/adit"]);
    }

    #[test]
    fn a_configuration_that_cannot_be_written_leaves_no_link() {
        let host = Host::new();
        fs::write(&host.target.configurations, "a file in the place of the directory").unwrap();
        install(&host.target, &options(), &host.program()).unwrap_err();
        assert!(host.files().is_empty());
    }

    #[test]
    fn names_that_lead_astray_are_wrong_usage() {
        let host = Host::new();
        for name in ["", "..", "../adit", "a/b", "-a", "a b"] {
            assert_eq!(install(&host.named(name), &options(), &host.program()).unwrap_err().exit_code(), 2, "{name}");
            assert_eq!(uninstall(&host.named(name), &host.program()).unwrap_err().exit_code(), 2, "{name}");
        }
    }
}
