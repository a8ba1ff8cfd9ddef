//! A person at a terminal (script(1) makes one, and types what it reads): shells, Ctrl-C, Ctrl-Z.

use std::io::{Read, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::bed::daemon::ADIT;
use crate::bed::wait_for;
use crate::world::{Program, Running, World, inhabitants};

/// A terminal in which a shell command runs.
struct Terminal {
    running: Running,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(program: Program<'_>, command: &str) -> Self {
        let mut script = program.command("script", &["-qec", command, "/dev/null"]);
        let mut running = program.start(script.env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::piped()));
        let keys = running.child.stdin.take().unwrap();
        let (mut output, shown) = (running.child.stdout.take().unwrap(), Arc::new(Mutex::new(String::new())));
        let screen = Arc::clone(&shown);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                screen.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self { running, keys, shown }
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until something is shown, and forgets all up to there, which it answers.
    fn shows(&self, what: &str) -> String {
        let seen = || {
            let mut shown = self.shown.lock().unwrap();
            let end = shown.find(what)? + what.len();
            Some(shown.drain(..end).collect())
        };
        let all = || self.shown.lock().unwrap().clone();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(&format!("{what:?}"), seen)));
        found.unwrap_or_else(|_| panic!("it shows {:?}", all()))
    }
}

#[test]
fn a_shell_manages_its_jobs_and_its_exit_code_is_ours() {
    let world = World::new();
    // What is typed is shown too: words are put together so that they differ from that.
    let mut terminal =
        Terminal::open(world.program(), "\"$ADIT\" run --name web -- sh; echo co''de $?; cat; echo again");
    terminal.types("hostname; tty; echo re''ady\n");
    terminal.shows("web\r\n/dev/pts/");
    terminal.shows("ready");
    terminal.types("sleep 1000; echo inter''rupted $?\n");
    // Before it is the program that was asked for, the terminal's foreground is the shell's still, which ignores the key.
    let record = world.program().record("web");
    wait_for("the program", || (!states_of("sleep", &inhabitants(&record)).is_empty()).then_some(()));
    terminal.types("\u{3}");
    // A shell at a terminal gives up the line.
    terminal.types("echo al''ive\n");
    terminal.shows("alive");
    terminal.types("exit 3\n");
    terminal.shows("code 3");
    // Who follows has the terminal again.
    terminal.types("more\n");
    terminal.shows("more\r\nmore");
    terminal.types("\u{4}");
    terminal.shows("again");
    assert!(terminal.running.ends().success());
    world.is_clean();
}

#[test]
fn ctrl_c_arrives_once_and_does_not_end_the_person_who_waits() {
    let world = World::new();
    // In a pipe, all of it is in the foreground.
    for through in ["", " | (trap '' INT; cat)"] {
        let script = "trap \"echo ca''ught\" INT; echo re''ady; while [ \"$x\" != next ]; do read x && echo got $x; done; exit 6";
        let command =
            format!("trap : INT; \"$ADIT\" run -- sh -c '{}'{through}; echo co''de $?", script.replace('\'', "'\\''"));
        let mut terminal = Terminal::open(world.program(), &command);
        terminal.shows("ready");
        terminal.types("\u{3}");
        terminal.shows("caught");
        terminal.types("next\n");
        let since = terminal.shows("got next");
        assert!(!since.contains("caught"), "{since:?}");
        terminal.shows(if through.is_empty() { "code 6" } else { "code 0" });
        terminal.running.ends();
        world.is_clean();
    }
    let mut terminal =
        Terminal::open(world.program(), "\"$ADIT\" run -- sh -c 'echo re\"\"ady; exec sleep 1000'; echo co''de $?");
    terminal.shows("ready");
    terminal.types("\u{3}");
    terminal.shows("code 130");
    terminal.running.ends();
    world.is_clean();
}

#[test]
fn ctrl_z_stops_it_and_fg_continues_it() {
    let world = World::new();
    let program = world.program();
    for (run, through) in [("run --name web --", ""), ("run --name web --", " | cat"), ("exec base --", "")] {
        let base = program.container("base", &[], "echo ready; read x");
        let mut terminal = Terminal::open(program, "bash --norc --noprofile --noediting");
        terminal.types(&format!("\"$ADIT\" {run} sh -c 'echo re\"\"ady; cat; exit 8'{through}; echo co''de $?\n"));
        terminal.shows("ready");
        terminal.types("one\n");
        terminal.shows("one\r\none");
        terminal.types("\u{1a}");
        terminal.shows("Stopped");
        // One that has not noticed yet would take what is typed.
        let record = program.record(if run.starts_with("run") { "web" } else { "base" });
        wait_for("a stop", || {
            let states = states_of("cat", &inhabitants(&record));
            assert!(!states.is_empty(), "cat does not run");
            states.iter().all(|state| state == "T").then_some(())
        });
        terminal.types("echo at the pro''mpt\n");
        terminal.shows("at the prompt");
        terminal.types("fg; echo en''ded $?\n");
        terminal.shows("exit 8'");
        terminal.types("two\n");
        terminal.shows("two\r\ntwo");
        terminal.types("\u{4}");
        terminal.shows(if through.is_empty() { "ended 8" } else { "ended 0" });
        terminal.types("exit\n");
        assert!(terminal.running.ends().success());
        base.stop();
    }
    world.is_clean();
}

/// A session on a terminal of its own, whose leader is the command line; it hangs up when it reads a line.
const SESSION: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
sys.stdin.readline()
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0)
";

#[test]
fn a_terminal_that_is_gone_ends_what_ran_on_it() {
    let world = World::new();
    let program = world.program();
    let base = program.container("base", &[], "echo ready; read x");
    for (command, name) in [(&["run", "--name", "web"][..], "web"), (&["exec", "base"], "base")] {
        let arguments = [&["-c", SESSION, ADIT][..], command, &["--", "sleep", "4711"]].concat();
        let mut session = program.start(program.command("python3", &arguments).stdin(Stdio::piped()));
        let record = program.record(name);
        let sleeps = || !states_of("sleep", &inhabitants(&record)).is_empty();
        wait_for("the program", || sleeps().then_some(()));
        session.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        wait_for("its end", || (!sleeps()).then_some(()));
        assert!(session.ends().success());
    }
    base.stop();
    world.is_clean();
}

/// The states of those processes that run a program of this name.
fn states_of(name: &str, processes: &[u32]) -> Vec<String> {
    let state = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = text.split_once(&format!("({name}) "))?.1.split(' ').next()?;
        Some(state.to_owned())
    };
    processes.iter().filter_map(state).collect()
}
