//! A program of the host, run to its end in a bounded time.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long one may take. Programs that change packet filters wait for each other, and are told to do so for less than that.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether it has ended.
const LOOK: Duration = Duration::from_millis(2);

/// Where the programs are beside the search path, which of an ordinary user has no sbin.
const PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// It is not installed.
    Missing,
    /// It ended badly, with what it said.
    Refused(String),
}

/// Runs a program with this text as its input; answers what it prints.
///
/// # Errors
/// See [`Failed`].
pub(super) fn run(name: &str, arguments: &[&str], input: &str) -> Result<String, Failed> {
    let refused = |e: &dyn std::fmt::Display| Failed::Refused(format!("{name}: {e}"));
    let mut path = OsString::from(PLACES);
    if let Some(more) = env::var_os("PATH").filter(|more| !more.is_empty()) {
        path.push(":");
        path.push(more);
    }
    let mut command = Command::new(name);
    command.args(arguments).env("PATH", &path);
    let mut child = match command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Failed::Missing),
        Err(e) => return Err(refused(&e)),
    };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (status, output, said) = thread::scope(|scope| {
        let output = scope.spawn(|| text(stdout));
        let said = scope.spawn(|| text(stderr));
        // One that does not want it has closed its end.
        scope.spawn(|| stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        let status = wait(&mut child);
        (status, output.join().unwrap_or_default(), said.join().unwrap_or_default())
    });
    match status {
        Ok(Some(status)) if status.success() => Ok(output),
        Ok(Some(status)) => Err(refused(&format!("{status}: {}", said.trim()))),
        Ok(None) => Err(refused(&format!("it did not end within {} s", PATIENCE.as_secs()))),
        Err(e) => Err(refused(&e)),
    }
}

fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What came until it failed is what there is.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for its end, and makes it where it takes too long; then the answer is none.
fn wait(child: &mut Child) -> io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() < deadline => thread::sleep(LOOK),
            None => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_run_and_their_faults_told() {
        assert_eq!(run("cat", &[], "text").unwrap(), "text");
        assert!(matches!(run("adit-no-such-program", &[], ""), Err(Failed::Missing)));
        let Err(Failed::Refused(said)) = run("sh", &["-c", "echo no >&2; exit 3"], "") else { panic!("it fails") };
        assert!(said.contains("no") && said.contains('3'), "{said}");
        let much = "x".repeat(1 << 20);
        assert_eq!(run("cat", &[], &much).unwrap().len(), much.len());
    }
}
